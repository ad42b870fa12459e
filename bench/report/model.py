"""The model of docs/sizing.md: what a node of so many connections takes, computed from the kept results.

No figure is typed here but the system's defaults: each comes from a file in bench/results. The formulas are those of
the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capacity import structures
from report.tables import Missing
from results import RESULTS, Figures, by_of, middle, read, read_scales

INTERVAL = 25.0  # seconds between pings: the engine's default
TABLE = 1_048_576  # descriptors that a table may have: fs.nr_open's default
FILLED = 7 / 8  # of a table, because loops' shares differ
LOOPS = 8  # of a node, if the descriptors need no more
LINK_THREADS = 3  # that carry a node's link: its loop, nats-server's reader and writer
MILLION = "scale-1000000"
LARGE = 100_000  # connections of a crowd in which malloc's reserve is small
MAKES = {
    "structures": "python bench/capacity structures --json bench/results/structures.json",
    MILLION: "make bench-scale N=1000000",
    "macro": "make bench-performance",
    "keepalive": "python bench/capacity keepalive --json bench/results/keepalive.json",
    "nats": "python bench/capacity nats --json bench/results/nats.json",
}


@dataclass(frozen=True)
class Span:
    """From a figure to another."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def times(self, by: float) -> Span:
        return Span(self.low * by, self.high * by)

    def at_most(self, bound: float) -> Span:
        """The upper end no higher than that, unless the lower end is."""
        return Span(self.low, max(self.low, min(self.high, bound)))

    def shown(self, digits: int) -> str:
        """Both ends, or one if they look alike."""
        low, high = (f"{value:,.{digits}f}" for value in (self.low, self.high))
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class Costs:
    """What was measured: memory in bytes, processor time in seconds."""

    connection: float  # of the engine, for an open one
    member: float  # for a membership
    room: float  # for a room
    room_on_loop: float  # for each loop that has members of it
    kernel: float  # of the kernel, for a connection's end
    subscription: float  # of nats-server
    ping: Span  # a ping and its pong: among some thousands, and among a million
    delivery: float  # on a loop that never waits
    wake: float  # what a message takes more for each loop that sleeps until it comes
    crossing: Span  # what a message takes more that crosses NATS, nats-server included: among many, and alone


def needed(name: str, folder: Path) -> Figures:
    """A kept file; Missing if there is none."""
    if not (found := read(name, folder)):
        raise Missing(f"bench/results/{name}.json is not there: `{MAKES[name]}` makes it")
    return found


def crowds(kept: Figures, one_loop: bool) -> dict[int, Figures]:
    """Of structures.json: the columns of each crowd by its connections, of those on one loop or of the others."""
    sizes = {form: [int(word) for word in form.split()[1::2]] for form in kept["forms"]}
    found = {conns: kept["forms"][form] for form, (conns, loops) in sizes.items() if (loops == 1) == one_loop}
    return dict(sorted(found.items()))


def room_bytes(kept: Figures, one_loop: bool) -> float:
    """The most that a room of ten was measured to take in a large crowd."""
    name = f"join a room of {structures.ROOM}: bytes"
    found = [middle(crowd, name) for conns, crowd in crowds(kept, one_loop).items() if conns >= LARGE]
    if not found:
        raise Missing("bench/results/structures.json has too few crowds: `python bench/capacity structures --loops 56`")
    return max(found) * structures.ROOM


def touched(parts: int, members: int) -> float:
    """How many of so many nodes or loops have one of the members, each of which is on any."""
    return float(parts * (1 - (1 - 1 / parts) ** members))


def wakes(scale: Figures, run: Figures) -> float:
    """Loops that a run of scale.py wakes a second: one for each relay, and those with members for each publish."""
    relays = run["delivered"] / run["seconds"] - scale["room_rate"] * (scale["members"] - 1)
    return float(relays + scale["room_rate"] * touched(scale["loops"], scale["members"] - 1))


def wake_us(scales: list[Figures], busy_us: float) -> float:
    """Microseconds of a wake-up, among few connections over many loops, which sleep before each: the most of the runs.

    It is what a delivery takes there more than on a busy loop, divided by how many loops a delivery wakes.
    """
    found: list[float] = []
    for scale in (kept["scale"] for kept in scales):
        few = scale["few"]
        us = sum(run["cpu_us_less_pings"] for run in few) / len(few)
        found.append((us - busy_us) * few[0]["delivered"] / few[0]["seconds"] / wakes(scale, few[0]))
    return max(found)


def costs(folder: Path = RESULTS) -> Costs:
    """What the kept results say; Missing if one of them is not there."""
    filled, macro = needed("structures", folder), needed("macro", folder)
    million = needed(MILLION, folder)["scale"]["many"]
    pinged, nats = (needed(name, folder)["forms"] for name in ("keepalive", "nats"))
    if million["ping_us"] is None:
        raise Missing(f"bench/results/{MILLION}.json has no pings: `{MAKES[MILLION]}` makes it")

    def us(scenario: str) -> float:
        if not (found := by_of(macro, scenario).get("engine")):
            raise Missing(f"bench/results/macro.json has no `{scenario}`: `{MAKES['macro']}` makes it")
        return middle(found, "cpu_us")

    largest, most = list(crowds(filled, True).values())[-1], max(nats, key=lambda form: int(form.split()[1]))
    member = middle(largest, "join one room of all, as the only one: bytes")
    one_loop, apart = room_bytes(filled, True), room_bytes(filled, False)
    room_on_loop = (apart - one_loop) / (structures.ROOM - 1)
    pings = sorted((middle(pinged["keepalive"], "us"), million["ping_us"]))
    crossing = sorted((us("cross") - us("relay"), us("cross-pair") - us("pair")))
    return Costs(
        connection=middle(largest, "open: bytes"),
        member=member,
        room=one_loop - room_on_loop - structures.ROOM * member,
        room_on_loop=room_on_loop,
        kernel=million["kernel_bytes"],
        subscription=middle(nats[most], "bytes"),
        ping=Span(*pings).times(1e-6),
        delivery=us("fanout") * 1e-6,
        wake=wake_us(read_scales(folder), us("fanout")) * 1e-6,
        crossing=Span(*crossing).times(1e-6),
    )


@dataclass(frozen=True)
class Case:
    """Connections on nodes, in rooms of `members` that are anywhere; `rate` messages a second are published in all.

    Each connection is in one room, unless `some_rooms` says that there are only so many.
    """

    connections: int
    nodes: int
    members: int
    rate: float
    some_rooms: int = 0
    some_loops: int = 0


def delivering(cost: Costs, deliveries: float, woken: float, loops: int) -> Span:
    """Cores for so many deliveries a second, of which none or so many wake a loop; at most the loops, as threads."""
    busy = deliveries * cost.delivery
    return Span(busy, busy + woken * cost.wake).at_most(loops)


def node(case: Case, cost: Costs) -> dict[str, Any]:
    """What one node takes, with rates a second, memory in bytes and cores; the formulas are those of docs/sizing.md."""
    each, rooms = case.connections / case.nodes, case.some_rooms or case.connections / case.members
    loops = case.some_loops or max(LOOPS, -(-int(each) // int(TABLE * FILLED)))  # as many as their tables need
    share, other = touched(case.nodes, case.members) / case.nodes, case.rate * (1 - 1 / case.nodes)
    subscriptions = rooms * share  # one for each room that has members on the node
    on_loops = rooms / case.nodes * touched(case.nodes * loops, case.members)
    memory = each * cost.connection + rooms * case.members / case.nodes * cost.member
    deliveries = case.rate * (case.members - 1) / case.nodes
    wakes = case.rate / case.nodes * touched(case.nodes * loops, case.members - 1)  # if loops sleep between messages
    link = case.rate if case.nodes == 1 else case.rate / case.nodes + other * share  # over NATS, out and in
    return {
        "each": each,
        "rooms": rooms,
        "loops": loops,
        "engine": memory + subscriptions * cost.room + on_loops * cost.room_on_loop,
        "kernel": each * cost.kernel,
        "pings": cost.ping.times(each / INTERVAL),  # if all are idle
        "wakes": wakes,
        "messages": delivering(cost, deliveries, wakes, loops) + cost.crossing.times(link).at_most(LINK_THREADS),
        "subscriptions": subscriptions,
        "link": link,
        "bus": subscriptions * case.nodes * cost.subscription,  # of NATS, for all nodes
    }
