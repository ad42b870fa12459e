"""docs/sizing.md, from the results kept in results/: `python bench/sizing_doc.py > docs/sizing.md`, or `make sizing`.

The text is here, and no figure of a measurement is typed in it; a test holds that the page is what the results make.
"""

from __future__ import annotations

import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import sizing
import structures
from performance_doc import done_on
from results import RESULTS, Figures, Run, digits_of, figures, read, read_scales, scenarios, spread
from scale import LOOPS_MAX
from sizing import Costs, Missing, crowds, markdown

HEAD = """\
# How much of a machine it takes

Which memory, processors, load on NATS and number of nodes a given number of connections needs. **Measured** figures
say with which command, when and of which commit; **computed** ones follow from them by the formulas below, and are
held to runs from end to end in [a table of their own](#held-to-what-was-measured). `make sizing` writes this page from
the files in `bench/results`: no measured figure on it is typed. No ten million sockets were open: their structures
were filled. Measure on your machine before you buy.

The machine of the largest run, whose cores are virtual and shared with other programs:
"""
MEASURED_SAYS = """
Presence takes nothing where nobody listens, and a listener no more than another member. A room with listeners takes 80
bytes on its node, 8 more for each loop, and a second subscription at NATS (computed).

A connection's {kernel:,.0f} bytes in the kernel, among a million, are {times:.0f} times what the engine adds. They are
the growth of slab, page tables and stacks until all were open, halved, since both ends are on that machine. They are
those of an idle one: a slow reader's socket buffer comes to it, which `--send-buffer` bounds, and the engine's backlog,
which `--backlog-total` bounds; what the engine has not read of a client is within `--receive-buffer`. Computed: where
`--max-connections-per-address` is set, a connection takes 8 bytes more, and an address 32 to
64; with `--max-rate` one that has ever sent takes 64.

How `kernel_memory.py` tells the two ends of a connection apart, which are on one machine: both pairs, the bare one and
the engine's, have the same client's end, so the difference of the totals is the difference of the servers' ends. Half
of a bare pair is what one end takes of the caches that sockets alone fill; tables of descriptors, of ports and what the
caches keep in reserve are not in it, and are in the figure of the million.
"""
STEPS_SAYS = """
## Does a step cost more with ten million?

Measured on one loop, {commands} ({made}): nanoseconds of processor time, without system calls. What grows is the price
of memory that is in no cache; no step looks at more than its own connection and room.

"""
STEPS = {
    "open: ns": "open",
    "look up an address: ns": "look up an address, in random order",
    "leave and rejoin a room of 10: ns": "leave and rejoin a room of 10, in random order",
    "leave and rejoin a room of 10,000: ns": "leave and rejoin a room of 10,000, in random order",
    "publish to a room of 10,000: ns a member": "publish to a room of 10,000, a member",
    "timers: ns a ping, without its write": "timers, a ping, without its write",
    "close: ns": "close, with two rooms, in random order",
}
TICK_SAYS = """
A tick of the timers (100 ms) takes {tick_few:,.1f} µs with {few:,} and {tick:,.1f} ms with {conns:,} connections on
one loop, whose pings are then {pings:,.0f}. Where all were last heard in the same tick, they are pinged in the same
tick: {bunched:,.0f} ms of work (without the writes), in turns of at most 256 timers, between which the loop does
everything else.

The longest single steps, milliseconds, from the same calls; for so long the loop stands still:

"""
LONGEST = {
    "longest, open: ms": "open",
    "longest, join a room of 10: ms": "join a room of 10",
    "longest, join one room of all: ms": "join one room of all",
    "longest, close: ms": "close",
    "longest, free rooms, a turn: ms": "free rooms that went, a turn",
    "longest, a large malloc after that: ms": "malloc of a large block after the rooms went",
    "longest, lose NATS: ms": "NATS goes away (rooms: a tenth of the connections)",
    "longest, publish to one room of all: ms": "publish to one room of all",
}
LONGEST_SAYS = """
The last two grow, and are not divided into turns: when NATS goes away, loop 0 visits each room that the node has; a
message is queued for all members of a loop at once. More loops divide the second: with {conns:,} on {loops} loops it is
{publish:,.1f} ms, and losing NATS {lose:,.1f} ms.
"""
FORMULAS = """
## Computed

For `N` connections on `k` nodes of `L` loops each, each connection in one of `N / m` rooms of `m` members, which are
anywhere; `P` messages published a second in all; `i` seconds between pings (25 by default):

    share(x)          = 1 − (1 − 1/x)^m                   of rooms with a member in one of x places
    subscriptions     = N/m × share(k)                    of a node: one for each room with members there
    engine's memory   = N/k × ({own}) + subscriptions × {room:.0f} + N/m × L × share(k L) × {on_loop:.0f}
    kernel's memory   = N/k × {kernel:,.0f}
    cores for pings   = N/k / i × {ping} µs
    deliveries        = P × (m − 1) / k                   a second, of a node
    NATS messages     = P/k + P × (1 − 1/k) × share(k)    a second, over a node's link, out and in; of one node: P
    wakes             = P × L × (1 − (1 − 1/(k L))^(m−1)) a second, of a node: of its loops with members
    cores, messages   = deliveries × {delivery:.1f} µs + 0 to 1 × wakes × {wake:.1f} µs + NATS messages × {crossing} µs
    NATS's memory     = k × subscriptions × {subscription:.0f}, with one nats-server

Memory is what comes to that of an engine without connections, some {base:.0f} MB. A room of ten was measured to take
{one_loop:.0f} bytes with all members on one loop, and {apart:.0f} with each on another; {room:.0f} bytes a room and
{on_loop:.0f} for each loop of it follow from these two, which are the largest of all crowds of at least 100,000.
`N/k / i` counts all as idle: who speaks is not pinged.

Where the formulas have two costs, the table has a range. Those of a ping are with {ping_few:,} connections on two
loops, which are pinged each second, and with a million on {ping_loops} loops. A delivery costs least on a loop that
always has more to do. Where a loop sleeps until the message comes, it is woken for it: once, however many of the
room's members it has. What a wake-up takes is by how much a delivery costs more among {few:,} connections over as
many loops as the runs below have, where each loop has a few hundred a second: the most of these runs. The more
messages a loop has, the more of them find it awake, and the nearer the figure is to the first. What a message that
crosses NATS takes more is `cross` less `relay`, and `cross-pair` less `pair`, all of `macro.py`: nats-server is in
it. A loop is a thread, so all deliveries together take no more cores than there are loops, and what crosses a link no
more than the three threads that it goes through. Neither end of a range is a bound: other machines, other programs
and memory that is in no cache move both.

A user's room `@user` counts as a room: one subscription on each node where it has members, and in the engine a block of
malloc for its entry (64 bytes up to names of 14 bytes, then in steps of 16; 8 more for each 64 loops), 11 to 21 for its
place in the table, 24 and 8 to 16 on the loop, 8 at the link, and 32 for the token (computed: the tables' share goes
with how full they are, and is the larger one just after they doubled). Equal rights are shared.

`python bench/sizing.py`; all figures but the last are those of one node, which has {loops} loops, or as many as its
descriptors demand:

"""
CHECK_SAYS = """
## Held to what was measured

The runs of `make bench-scale` from end to end, with the pings and the deliveries a second that were counted in them.
`by from` and `by to` are the measured figure by both ends of the model's: above 1 it took more than the model says.
The kernel's figure of the million is the model's own, and so is its ping, which was measured before the messages. The
wake is of runs among {few:,} connections, with the same messages, and all else of other tools. Loops that have so few
messages each sleep before most of them, so it is the dearer end that is to be met here; what goes beyond it is the
price of memory that is in no cache, and of looking at the timers of all who are idle.

"""
NODES = """
## How many nodes

The largest of these (computed):

* memory: `N × ({kernel:,.0f} + {own:.0f}) / (memory of a node − a reserve for backlogs)`. Ten million idle ones are
  {ten_gb:.0f} GB. In a control group its limit is the node's memory, and the engine takes its bounds from it.
* processors: pings of ten million take {ten_pings} cores at 25 s; `--ping-interval 100` takes {ten_rare}. Wheel turns
  of later timers cost a look each, 51 s apart.
* descriptors: one for each connection, `RLIMIT_NOFILE` for each loop. `fs.nr_open`, {table:,} by default, is the most
  that `RLIMIT_NOFILE` can be, and a process has at most {most_loops} loops; where the hard limit is lower, as 20,000,
  that many loops hold {held:.1f} million, an eighth being left since loops' shares differ. `fs.file-max` bounds all
  processes of a machine together, but for root's: by default about one for each 10 KB of its memory.
* NATS: a room spread over `k` nodes is `k` subscriptions. Where the members of a room can be brought to one node, it is
  one, and its messages cross no link twice.
"""
WIDTH = 120
LARGE = 100_000  # connections of a crowd in which what malloc keeps is small
NO_FILE = "python bench/{0}.py --json bench/results/{1}.json"

Call = dict[str, str]  # date, commit, command
Row = tuple[str, str, list[Call]]  # a figure, its value, and what measured it


def middle(turns: list[Run], name: str) -> float:
    """The median of a figure of all turns."""
    return statistics.median(figures(turns, name))


def call_of(kept: Figures) -> list[Call]:
    """What measured a whole file."""
    return [{"date": kept["date"], "commit": kept["versions"].get("commit", ""), "command": kept["command"]}]


def calls_of(calls: dict[str, Call], end: str = "", least: int = LARGE) -> list[Call]:
    """What measured those forms of a file that are large enough, and end so."""
    return [call for form, call in calls.items() if int(form.split()[1]) >= least and form.endswith(end)]


def sizes(
    by: dict[int, dict[str, float]], name: str, digits: int = 0, factor: float = 1.0, unit: str = "bytes"
) -> str:
    """A figure of each of the larger crowds, as `97 bytes of 100,000; 96 of 1,000,000`."""
    last = [(n, found[name] * factor) for n, found in by.items() if n >= LARGE and name in found]
    text = "; ".join(f"{value:,.{digits}f} of {n:,}" for n, value in last)
    return text.replace(" of ", f" {unit} of ", 1)


def structure_rows(kept: Figures) -> Iterator[Row]:
    """What the engine's own structures take."""
    calls = kept["structures"]["calls"]
    one, many = crowds(kept, True), crowds(kept, False)
    on_one = calls_of(calls, "--loops 1")
    on_many = [call for form, call in calls.items() if not form.endswith("--loops 1")]
    room, big = structures.ROOM, f"{structures.BIG:,}"
    yield "engine, an open idle connection", sizes(one, "open: bytes", 1), on_one
    only = sizes(one, "join one room of all, as the only one: bytes", 1)
    yield "... its membership in a large room, if it is its only one", only, on_one
    further = sizes(one, f"join a second, of {big}: bytes")
    yield f"... a further membership in a room of {big}", further, on_one
    name = f"join a room of {room}: bytes"
    yield f"engine, a room of {room} with all members on one loop", sizes(one, name, 0, room), on_one
    apart = sizes(many, name, 0, room)
    yield f"engine, a room of {room} with each member on another loop", apart, on_many
    for length in (12, 36):
        user = sizes(one, f"a user of its own, {length} bytes: bytes")
        what = "filled without sockets, as where NATS is configured: names of"
        yield f"engine, `--auth jwt`, each of another user, {what} {length} bytes", user, on_one


def auth_rows(kept: Figures) -> Iterator[Row]:
    """What tokens take."""
    forms, calls = kept["auth"]["forms"], kept["auth"]["calls"]
    if "memory" in forms:
        off = middle(forms["memory"], "auth off")
        more = {name: f"{middle(forms['memory'], name) - off:,.0f}" for name in forms["memory"][0]}
        what = "engine, `--auth jwt`, a connection with an end and with rights that others have, too"
        yield what, f"{more['one user']} bytes more", [calls["memory"]]
        what = "... each of another user, with a room of its own"
        both = f"{more['distinct users']} bytes more; {more['distinct users, with NATS']} with NATS"
        yield what, both, [calls["memory"]]
    if "connecting" in forms:
        us = middle(forms["connecting"], "HS256") - middle(forms["connecting"], "off")
        what = "Python, judging an HS256 token and handing the verdict on"
        yield what, f"{us:.0f} µs of processor time a connection", [calls["connecting"]]


def kernel_rows(kept: Figures) -> Iterator[Row]:
    """What sockets take."""
    found, call = kept["kernel"], call_of(kept)
    bare = [turn["bare"] for turn in found["turns"]]
    # Who reads /proc meanwhile fills the bare turns' dentries, too: kernel_memory.py tells.
    mine = [turn["engine"] for turn in found["turns"]]
    entry = f", and {middle(mine, 'dentry') / 2:,.0f} of a dentry" if "dentry" in mine[0] else ""
    value = f"{middle(bare, found['by']) / 2:,.0f} bytes{entry}"
    yield "kernel, one end of an idle connection, in an epoll, in the caches of sockets alone", value, call
    ratio = sorted(figures(found["turns"], "ratio"))
    value = f"{statistics.median(ratio):.3f} ({ratio[0]:.3f} to {ratio[-1]:.3f} in {len(ratio)} turns)"
    yield "kernel, the engine's connections to bare sockets", value, call


def nats_rows(kept: Figures) -> Iterator[Row]:
    """What subscriptions take."""
    found, calls = sizing.subscriptions(kept), calls_of(kept["nats"]["calls"])
    yield "nats-server, a subscription", sizes(found, "bytes"), calls
    yield "nats-server, taking one", sizes(found, "us", 1, unit="µs"), calls


def processor_rows(kept: Figures, macro: Figures) -> Iterator[Row]:
    """What pings and messages take."""
    found = kept["keepalive"]
    us = spread(figures(found["turns"], "us"))
    yield f"engine, a ping and its pong, of {found['connections']:,} on two loops", f"{us} µs", call_of(kept)
    names = {
        "fanout": "engine, a delivery in a room of 1,000",
        "relay": "engine, a delivery between two connections of a node",
        "cross": "... of two nodes, with both and the nats-server",
        "pair": "engine, a delivery between two who have no more than one message under way",
        "cross-pair": "... of two nodes, with both and the nats-server",
    }
    for name, text in names.items():
        runs = scenarios(macro).get(name, {}).get("engine", [])
        each = spread(figures(runs, "all_servers", "cpu_us_per_delivery"))
        yield f"{text} (`{name}`)", f"{each} µs", call_of(macro)


def presence_rows(kept: Figures) -> Iterator[Row]:
    """What a storm of joins takes."""
    found = kept["presence"]
    turns = found["turns"]
    took = spread(figures(turns, "seconds until all is heard"))
    used, sent = (middle(turns, name) for name in ("processor s of both engines", "publishes"))
    value = f"{took} s, with {used:.2f} s of both engines' processor time, and {sent:.0f} publishes"
    what = f"{found['joins']:,} joins heard by {found['listeners']:,} listeners of a room, on two nodes"
    yield what, value, call_of(kept)


def few_of(kept: Figures) -> int:
    """Connections of the load that a run of scale.py is compared with."""
    return int(kept["scale"]["few"][0]["connections"])


def scale_rows(kept: Figures) -> Iterator[Row]:
    """What very many take, on one machine with their clients."""
    found, f, call = kept["scale"], kept["scale"]["figures"], call_of(kept)
    many, few = f["many"], f["few"]
    user = "" if f["user_bytes"] is None else f"{f['user_bytes']:,.0f} bytes, and "
    who = f"{found['connections']:,} on {found['loops']} loops"
    yield f"engine, an idle connection of {who}", f"{user}{f['kernel_bytes']['counted']:,.0f} in the kernel", call
    yield "... opened a second", f"{f['opened_per_s']:,.0f}", call
    if many["pings_per_s"]:
        yield "... a ping and its pong, before the messages", f"{sizing.ping_among(found['many']):.1f} µs", call
    woken = f"{few['cpu_us_per_delivery_less_pings']:.1f} µs"
    yield f"... a delivery among {few_of(kept):,} connections on as many loops", woken, call
    both = f"{many['cpu_us_per_delivery']:.1f} µs; {many['cpu_us_per_delivery_less_pings']:.1f} without the pings"
    yield "... a delivery among all", both, call
    lost = found["many"]["lost"] + found["many"]["gap"]
    heard = f"{many['relay_p50_us'] / 1e3:,.2f} ms at the median, {many['relay_p99_us'] / 1e3:,.1f} ms at p99"
    yield "... a relay among all", f"{heard}; {lost or 'none'} lost", call


def measured(folder: Path) -> str:
    """The table of what was measured; a tool whose results are not kept has a row that says how to make them."""
    parts: dict[str, Callable[[Figures], Iterator[Row]]] = {
        "structures": structure_rows,
        "auth": auth_rows,
        "kernel": kernel_rows,
        "nats": nats_rows,
        "keepalive": lambda kept: processor_rows(kept, read("macro", folder)),
        "presence": presence_rows,
    }
    tools = {"kernel": "kernel_memory", "nats": "nats_subscriptions"}
    rows: list[Row] = []
    for name, part in parts.items():
        if kept := read(name, folder):
            rows += list(part(kept))
        else:
            rows.append((name, "no results are kept", [{"command": NO_FILE.format(tools.get(name, name), name)}]))
    for kept in read_scales(folder):
        rows += list(scale_rows(kept))
    return markdown(["figure", "value", "command", "measured"], [cells(row) for row in rows], 4)


def cells(row: Row) -> list[str]:
    """A row of the table of what was measured."""
    what, value, calls = row
    return [what, value, *said(calls)]


def said(calls: list[Call]) -> tuple[str, str]:
    """The commands of these calls, and when and of which commits they were."""
    commands = dict.fromkeys(f"`{call['command']}`" for call in calls)
    made = dict.fromkeys(f"{call['date'][:10]}, `{call['commit']}`" for call in calls if "date" in call)
    return ", ".join(commands), "; ".join(made)


def by_crowd(by: dict[int, dict[str, float]], rows: dict[str, str], three: bool) -> str:
    """A column for each crowd; with three digits that count, or without any after the point."""
    lines = []
    for name, text in rows.items():
        values = [found[name] for found in by.values()]
        lines.append([text, *(f"{value:,.{digits_of(value) if three else 0}f}" for value in values)])
    return markdown(["step", *(f"{n:,}" for n in by)], lines, 1)


def steps(kept: Figures) -> str:
    """What a step costs with ever more connections, and the longest of single ones."""
    one, many = crowds(kept, True), crowds(kept, False)
    (few, first), *_, (conns, last) = one.items()
    commands, made = said(calls_of(kept["structures"]["calls"], "--loops 1", 0))
    text = STEPS_SAYS.format(commands=commands, made=made) + by_crowd(one, STEPS, False)
    text += TICK_SAYS.format(
        few=few,
        conns=conns,
        tick_few=first["timers: µs a tick of one loop, median"],
        tick=last["timers: µs a tick of one loop, median"] / 1e3,
        pings=conns / structures.INTERVAL,
        bunched=last["bunched timers: ms of their one tick"],
    )
    text += by_crowd(one, LONGEST, True)
    spread_over, divided = list(many.items())[-1]
    forms = kept["structures"]["forms"]
    loops = next(form.split()[-1] for form in forms if f" {spread_over} " in form and not form.endswith("--loops 1"))
    return text + LONGEST_SAYS.format(
        conns=spread_over,
        loops=loops,
        publish=divided["longest, publish to one room of all: ms"],
        lose=divided["longest, lose NATS: ms"],
    )


def formulas(cost: Costs, kept: Figures, folder: Path) -> str:
    """The model, with its constants."""
    million = read(sizing.MILLION, folder)["scale"]
    us = {name: getattr(cost, name).times(1e6).shown(1) for name in ("ping", "crossing")}
    bases = [server["pss_before_kb"] for server in million["many"]["servers"]]
    return FORMULAS.format(
        **us,
        delivery=cost.delivery * 1e6,
        wake=cost.wake * 1e6,
        few=few_of(read(sizing.MILLION, folder)),
        own=f"{cost.connection:.1f} + {cost.member:.1f}",
        room=cost.room,
        on_loop=cost.room_on_loop,
        kernel=cost.kernel,
        subscription=cost.subscription,
        base=sum(bases) * 1024 / 1e6,
        one_loop=sizing.room_bytes(kept, True),
        apart=sizing.room_bytes(kept, False),
        ping_few=read("keepalive", folder)["keepalive"]["connections"],
        ping_loops=million["loops"],
        loops=sizing.LOOPS,
    )


def nodes(cost: Costs) -> str:
    """What the number of nodes follows from."""
    ten, own = 10_000_000, cost.connection + cost.member
    return NODES.format(
        kernel=cost.kernel,
        own=own,
        ten_gb=ten * (cost.kernel + own) / 1e9,
        ten_pings=cost.ping.times(ten / sizing.INTERVAL).shown(1),
        ten_rare=cost.ping.times(ten / 100).shown(1),
        table=sizing.TABLE,
        most_loops=LOOPS_MAX,
        held=LOOPS_MAX * 20_000 * sizing.FILLED / 1e6,
    )


def wrapped(block: str) -> str:
    """A paragraph or a list in lines of WIDTH; a table, a formula or a title as it is."""
    if block[:1] in ("|", "#", " "):
        return block
    points = re.split(r"\n(?=\* )", block)
    filler = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    filler.subsequent_indent = "  " if block.startswith("* ") else ""
    return "\n".join(filler.fill(" ".join(point.split())) for point in points)


def document(folder: Path = RESULTS) -> str:
    """The whole page; Missing where a result that the model needs is not kept."""
    cost, filled, scales = sizing.costs(folder), read("structures", folder), read_scales(folder)
    text = HEAD + done_on(scales[-1])
    text += "\n## Measured\n\n" + measured(folder)
    text += MEASURED_SAYS.format(kernel=cost.kernel, times=cost.kernel / cost.connection)
    text += steps(filled)
    text += formulas(cost, filled, folder) + sizing.computed(cost)
    text += CHECK_SAYS.format(few=few_of(scales[-1])) + sizing.checked(cost, scales) + nodes(cost)
    return "\n\n".join(wrapped(block) for block in text.rstrip("\n").split("\n\n")) + "\n"


def main() -> int:
    """Prints the page; 1 where a result is missing."""
    try:
        print(document(), end="")
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
