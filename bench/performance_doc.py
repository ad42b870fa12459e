"""docs/performance.md, from the results kept in results/: `python bench/performance_doc.py > docs/performance.md`.

Without matplotlib, so that a test can hold that the document is what the kept results make.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bars import at, bars
from contenders import LOCAL
from results import (
    RESULTS,
    Figures,
    Run,
    Runs,
    Spread,
    by_size,
    cpu_bars,
    curves,
    figures,
    label,
    memory_lines,
    pooled,
    read,
    read_scales,
    room_lines,
    scenarios,
    spread,
    to_last_member,
    trouble,
    turns,
)
from scale_figures import FEW, pings_said, without_pings
from scale_figures import figures as scale_figures

NONE = "–"
HEAD = """\
# Performance

How much CPU, time and memory the engine takes, beside others that do the same job on the same machine. `make plots`
writes this page from the files in `bench/results`: no result on it is typed. [bench/README.md](../bench/README.md)
tells who the others are, what their code does and leaves out, and how each figure is measured.

How to read it: a figure is the median of all runs, with the smallest and the largest in parentheses. A ratio is the
engine's figure by the other's in the same turn, so that what slows the machine falls on both: below 1 the engine takes
less. Servers and load generator share one machine, and a loopback connection's two ends; CPU is that of all processes
of a server, nats-server included. Bare numbers are this machine's; ratios carry over better.
"""
BARS_SAYS = """
What the engine is held to, and what the results below say of it. A bar is met where the median of what was measured is
within the target, and missed where it is not, however little; the spread tells how near it is. All else on this page is
measured in the same way, and no bar is set for it.
"""
AGAIN = """
## Again

    make bench-performance                # CPU, latency, memory, rooms: everyone who can run here, in turn
    make bench-scale N=1000000            # very many connections on one engine, with the engine's pings
    make bench-scale N=1000000 ARGS="--ping-interval 3600"    # the same without pings
    python bench/storm.py --json bench/results/storm.json     # once for each form: see its --help
    make -C bench hop && python bench/hop.py --json bench/results/hop.json
    python bench/kernel_memory.py --json bench/results/kernel.json
    make plots                            # the plots, and this page

`make bench-performance ARGS="--peer 'uws=/path/to/server {port}' --peer-version 'uws=how it was built'"` adds a server
of one's own.
"""
CPU_SAYS = """
Deliveries a second are what both ends reach together on this machine, the load generator's end included. The engine
has one loop, so it uses one core, but where two loops are told; socketify and picows use one core, too; nats-ws, and
goproxy with its nats-server, use as many as there are. That tells in deliveries a second, not in CPU a delivery.

User and system together are exact; how much of that is user is sampled. So a ratio of user has two places, and its
middle is not a median but that of all turns pooled, as if they were one run.
"""
LATENCY_SAYS = """
One message at a time, one way: from before its `send` to after the receiver's `recv`.
"""
MEMORY_SAYS = """
User memory of an idle connection, bytes: by how much all processes of a server grew (Pss), by connections. The
kernel's part of a TCP connection is the same for all, and not in it.
"""
MEMORY_MISSING = """
Where a figure is missing, the limit of descriptors of a process keeps a server from so many connections, or it
failed. The limit bounds one loop of the engine, so there the engine has more of them. A run has no figure where a
server's part of memory shrank meanwhile, because other processes began to share its files.
"""
ROOMS_SAYS = """
Mean time from a publish until the last member of the room has heard it, in milliseconds. One message at a time: the
next publish follows when the last has heard, so a run's mean is the measured time by its publishes, and the figure is
the median of those means. The load generator's receiving of it all, on the same machine, is part of it.

Where a figure is missing, the limit of descriptors of a process keeps a server from so many members, or it failed.
"""
SCALE_SAYS = f"""
One engine process holds all connections; their clients' ends are on the same machine. Kernel memory is the growth of
slab, page tables and stacks until all were open, halved, since both ends are here; beside it the same of all memory
that is neither free, a file's nor a process's. Idle is a time without messages. Then messages are sent at a fixed rate,
1:1 between random connections and into rooms spread over them all. The same is done with {FEW:,} connections over as
many loops, before and after: the mean of the two is beside it.

Pings are work of their own, and who sends is not pinged, so among few there are next to none. What the number of
connections does to a delivery is therefore told by the runs without pings, where half an interval is longer than the
run. With pings, a delivery's CPU is given as it is and with the pings' taken off, each for as much as one in the idle
time. That takes too much off: in the idle time a loop sleeps between pings, under load it is often awake. What a
delivery costs there is between the two.

Where more than a million are measured without pings only, that is because both ends share the machine: keepalives at
the engine's own interval then take all the processor time of two cores before all are open ([design.md](design.md),
*Pings of very many*), and hardly any more connections open.
"""
HOP_SAYS = """
One message at a time between two clients on one loop, then to a client on another loop of the same engine: medians.
What the latter takes longer, by what a bare wake by an eventfd from thread to thread takes, is the ratio.
"""
STORM_SAYS = """
Connections that are cut and opened again, while 500 others relay 1,000 messages a second: latency of those relays in
quiet just before, and until the last of the storm is greeted again. All clients and the engine share the machine's
cores, but for `--own-processor`, where the storm's clients have one of their own. `--away N` cuts one after another, N
at a time; `--rate N` so many a second; `--apart` puts the relays on another engine, so it tells what the machine makes
of them and not the engine, where who comes back is taken no faster (`--accept-rate`).
"""
KERNEL_SAYS = """
The kernel's memory of a pair of sockets, both ends on this machine, bytes: with a server that does nothing but accept
and put into an epoll, and with the engine. The client's end is the same in both.
"""
CPU_TABLES = {
    "relay": "1:1, pairs of clients",
    "random": "1:1, anyone to anyone",
    "fanout": "One room of 1,000",
    "fanout-10k": "One room of 10,000",
    "rooms": "100 rooms of 10",
    "churn": "Connect, greet, close",
    "cross": "1:1 from node to node, over NATS",
}
LATENCY_TABLES = {"pair": "Two clients of one node", "cross-pair": "Two clients of two nodes, over NATS"}


def absent(command: str) -> str:
    """A section without results."""
    return f"\nNo results are kept: `{command}` makes them.\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n" + "".join("| " + " | ".join(cell or NONE for cell in cells) + " |\n" for cells in lines)


def shown(found: Spread | None) -> str:
    """A figure, or that there is none."""
    return str(found) if found else NONE


def plot(name: str, says: str) -> str:
    """A plot's place."""
    return f"\n![{says}](plots/{name}.svg)\n"


def done_on(result: Figures) -> str:
    """What a file's results were measured on and with."""
    machine, versions = result["machine"], dict(result["versions"])
    commit = versions.pop("commit", "")
    lines = [
        f"* {result['date'][:10]}, {f'commit `{commit}`, ' if commit else ''}`{result['command']}`",
        f"* {machine['cpu'] or machine['architecture']}, {machine['cores']} cores, {memory_shown(machine['memory'])}",
        *kernel_line(result),
        "* " + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return "\n" + "\n".join(lines) + "\n"


def kernel_line(result: Figures) -> list[str]:
    """The kernel's release: of the machine, or in older files beside it; none where a tool's figures took its place."""
    release = result["machine"].get("kernel") or result.get("kernel")
    return [f"* Linux {release}"] if isinstance(release, str) else []


def memory_shown(kb: str) -> str:
    """`24684544 kB` in GiB."""
    return f"{int(kb.split()[0]) / 2**20:.1f} GiB"


def commands(result: Figures, names: list[str]) -> str:
    """The exact loads, and the servers' commands."""
    steps = result.get("steps", {})
    lines = [f"    load {steps[name]['load']}{_where(steps[name])}" for name in names if name in steps]
    return "\nThe load, of `bench/bin/load`:\n\n" + "\n".join(lines) + "\n"


def _where(step: dict[str, Any]) -> str:
    """Nodes and loops, where they are not one."""
    more = [f"{step['nodes']} nodes"] if step["nodes"] > 1 else []
    more += [f"{step['engine_loops']} loops of the engine"] if step.get("engine_loops", 1) > 1 else []
    return f"    # {', '.join(more)}" if more else ""


def servers(result: Figures) -> str:
    """Who was measured, by which command."""
    rows = [
        [label(name), command if command.startswith(LOCAL) else f"`{command}`"]
        for name, command in result.get("contenders", {}).items()
    ]
    return "\nThe servers:\n" + table(["server", "command"], rows).replace("---:", "---")


Ratio = Callable[[Runs, Runs], Spread | None]


def median_of(*path: str) -> Ratio:
    """The ratio of a figure, turn by turn."""
    return lambda mine, theirs: spread(turns(mine, theirs, at(*path)))


def pooled_of(*path: str) -> Ratio:
    """The ratio of a figure that is sampled."""
    return lambda mine, theirs: pooled(mine, theirs, *path)


def compared(by: dict[str, Runs], columns: Mapping[str, tuple[str, ...]], ratio: dict[str, Ratio]) -> str:
    """A row for each contender: its figures, and the engine's ratio to it."""
    rows = []
    mine = by.get("engine", [])
    for name, runs in by.items():
        cells = [shown(spread(figures(runs, *path))) for path in columns.values()]
        for found in ratio.values():
            cells.append("" if name == "engine" else shown(found(mine, runs)))
        rows.append([label(name), *cells])
    return table(["server", *columns, *ratio], rows) + went_wrong(by)


def went_wrong(by: dict[str, Runs], scenario: str = "") -> str:
    """What the load generator objected to in runs whose figures are shown; nothing where all went well."""
    where = f" in `{scenario}`" if scenario else ""
    found = [
        f"{label(name)}, turn {number + 1} of {len(runs)}: {told}"
        for name, runs in by.items()
        for number, run in enumerate(runs)
        if (told := trouble(run))
    ]
    return f"\nNot everything went well{where}: {'; '.join(found)}.\n" if found else ""


def sampled(kept: Figures, scenario: str) -> str:
    """How uncertain the engine's user CPU is, in words; nothing where the kernel does not tell how often it looks."""
    runs = scenarios(kept).get(scenario, {}).get("engine", [])
    rate = kept.get("machine", {}).get("ticks")
    seen = [rate * user for user in figures(runs, "all_servers", "user_s")] if rate else []
    if not seen or not min(seen):
        return ""
    one, all_of_them = (100 / math.sqrt(count) for count in (min(seen), sum(seen)))
    return (
        f"\nThe kernel looks {rate} times a second: of the engine's runs of `{CPU_TABLES[scenario]}` the one with the "
        f"fewest has {min(seen):.0f} looks that found it in user mode, so its user CPU is uncertain by about "
        f"{one:.0f} %, that of all {len(seen)} together by {all_of_them:.0f} %.\n"
    )


def cpu_section(kept: Figures) -> str:
    """CPU a delivery."""
    found = {name: by for name, by in scenarios(kept).items() if name in CPU_TABLES and by}
    text = "\n## CPU a delivery\n"
    if not found:
        return text + absent("make bench-performance")
    text += done_on(kept) + commands(kept, list(found)) + servers(kept)
    if any(cpu_bars(kept, name) for name in ("relay", "fanout", "fanout-10k", "cross")):
        text += plot("cpu", "Microseconds of CPU a delivery, user and system, by server")
    user, both = ("all_servers", "user_us_per_delivery"), ("all_servers", "cpu_us_per_delivery")
    columns = {"user, µs": user, "user + system, µs": both, "deliveries a second": ("per_second",)}
    for name, by in found.items():
        text += f"\n### {CPU_TABLES[name]}\n"
        text += compared(by, columns, {"ratio of user": pooled_of(*user), "ratio of user + system": median_of(*both)})
    return text + CPU_SAYS + sampled(kept, "relay")


def latency_section(kept: Figures) -> str:
    """Latency."""
    found = {name: by for name, by in scenarios(kept).items() if name in LATENCY_TABLES and by}
    text = "\n## Latency\n"
    if not found:
        return text + absent("make bench-performance")
    text += LATENCY_SAYS
    text += done_on(kept) + commands(kept, list(found))
    if any(curves(kept, name) for name in found):
        text += plot("latency", "Latency percentiles by server; each nine has the same width")
        text += "\nThe curve is that of the run whose 99th percentile is the median of all runs.\n"
    points = {"p50": "p50, µs", "p99": "p99, µs", "p999": "p99.9, µs"}
    columns = {text: ("latency_us", name) for name, text in points.items()}
    ratio = {f"ratio of {name}": median_of("latency_us", name) for name in ("p50", "p99")}
    for name, by in found.items():
        text += f"\n### {LATENCY_TABLES[name]}\n" + compared(by, columns, ratio)
    return text


def sized(found: dict[str, dict[int, Runs]], value: Callable[[Run], float | None], what: str) -> str:
    """A column for each size, a row for each contender: its figures; then the engine's ratios to the others."""
    sizes = sorted({size for by in found.values() for size in by})
    heads = [f"{size:,}" for size in sizes]
    values, ratios = [], []
    for name, by in found.items():
        of_each = ([v for run in by.get(size, []) if (v := value(run)) is not None] for size in sizes)
        values.append([label(name), *(shown(spread(each)) for each in of_each)])
        by_turn = (turns(found.get("engine", {}).get(size, []), by.get(size, []), value) for size in sizes)
        if name != "engine":
            ratios.append([label(name), *(shown(spread(each)) for each in by_turn)])
    return table([what, *heads], values) + (table(["the engine's ratio to", *heads], ratios) if ratios else "")


def memory_section(kept: Figures, scales: list[Figures]) -> str:
    """Memory of idle connections."""
    text = "\n## Memory\n"
    found = by_size(kept, "idle")
    if not found:
        return text + absent("make bench-performance")
    text += MEMORY_SAYS
    text += done_on(kept) + commands(kept, list(scenarios(kept)))
    if memory_lines(kept, scales):
        text += plot("memory", "User memory against connections, by server")
    text += sized(found, at("all_servers", "bytes_per_connection"), "bytes each of connections")
    return text + "".join(went_wrong(by, name) for name, by in scenarios(kept).items()) + MEMORY_MISSING


def rooms_section(kept: Figures) -> str:
    """Large rooms."""
    text = "\n## Large rooms\n"
    found = by_size(kept, "room")
    if not found:
        return text + absent("make bench-performance")
    text += ROOMS_SAYS
    text += done_on(kept) + commands(kept, list(scenarios(kept)))
    if room_lines(kept):
        text += plot("rooms", "Mean milliseconds to a room's last member against its members, by server")
    text += sized(found, to_last_member, "mean milliseconds by members")
    return text + "".join(went_wrong(by, name) for name, by in scenarios(kept).items())


SCALE_ROWS: dict[str, Callable[[Figures], str]] = {
    "opened, connections a second": lambda f: f"{f['opened_per_s']:,.0f}",
    "user memory of a connection, bytes": lambda f: f"{f['user_bytes']:,.0f}" if f["user_bytes"] is not None else "",
    "kernel memory of a connection, bytes": lambda f: f"{f['kernel_bytes']['counted']:,.0f}",
    "the same, of all that is not user's": lambda f: f"{f['kernel_bytes']['all_but_user']:,.0f}",
    "idle: user CPU, ms a second": lambda f: f"{f['many']['idle_user_per_s'] * 1e3:.1f}",
    "idle: system CPU, ms a second": lambda f: f"{f['many']['idle_system_per_s'] * 1e3:.1f}",
    "idle: pings answered a second": lambda f: f"{f['many']['pings_per_s']:,.0f}",
    "under load: pings answered a second": lambda f: f"{f['many']['pings_per_s_under_load']:,.0f}",
}
BESIDE_ROWS = {
    "cpu_us_per_delivery": "CPU a delivery, µs",
    "cpu_us_per_delivery_less_pings": "CPU a delivery less pings, µs",
    "relay_p50_us": "latency 1:1, p50, µs",
    "relay_p99_us": "latency 1:1, p99, µs",
    "room_p50_us": "latency in rooms, p50, µs",
    "room_p99_us": "latency in rooms, p99, µs",
}


def scale_section(scales: list[Figures]) -> str:
    """Very many connections."""
    text = "\n## Very many connections\n"
    if not scales:
        return text + absent("make bench-scale N=1000000")
    text += SCALE_SAYS
    for result in scales:
        text += scale_part(result)
    return text


def scale_part(result: Figures) -> str:
    """One number of connections."""
    about = result["scale"]
    found = scale_figures(about)
    text = f"\n### {about['connections']:,} connections on {about['loops']} loops, {pings_said(about)}\n"
    text += done_on(result)
    text += f"\nThe engine and the load:\n\n    {about['engine']}\n    load {about['load']}\n"
    text += table(
        [f"{about['connections']:,} connections", "figure"], [[n, row(found)] for n, row in SCALE_ROWS.items()]
    )
    rows = []
    for name, title in BESIDE_ROWS.items():
        if name == "cpu_us_per_delivery_less_pings" and without_pings(about):
            continue
        by = f"{found['ratio'][name]:.2f}" if name in found["ratio"] else ""
        rows.append([title, f"{found['many'][name]:,.1f}", f"{found['few'][name]:,.1f}", by])
    text += table(["messages", f"among {about['connections']:,}", f"among {FEW:,}", "ratio"], rows)
    many: Run = about["many"]
    kept = "all were delivered" if many["kept"] else f"{many['lost']} were lost"
    return text + f"\n{many['delivered']:,} messages were delivered in {many['seconds']:.0f} s; {kept}.\n"


def bars_section(folder: Path) -> str:
    """What the engine is held to."""
    rows = [[bar.what, bar.targeted(), bar.measured(), bar.verdict()] for bar in bars(folder)]
    return "\n## Bars\n" + BARS_SAYS + table(["what", "target", "measured", "bar"], rows)


def microseconds(turns_kept: Runs, *path: str) -> str:
    """A latency of several turns."""
    return shown(spread(figures(turns_kept, *path)))


def turns_said(runs: Runs) -> str:
    """How many."""
    return f"{len(runs)} turn{'s'[: len(runs) > 1]}"


def hop_section(kept: Figures) -> str:
    """From loop to loop."""
    text = "\n## From loop to loop\n"
    found: Runs = kept.get("hop", {}).get("turns", [])
    if not found:
        return text + absent("python bench/hop.py --json bench/results/hop.json")
    heads = {"same_us": "one loop, µs", "across_us": "two loops, µs", "bare_us": "bare wake, µs", "ratio": "ratio"}
    row = [turns_said(found), *(microseconds(found, name) for name in heads)]
    return text + HOP_SAYS + done_on(kept) + table(["", *heads.values()], [row])


def storm_section(kept: Figures) -> str:
    """A storm of reconnects."""
    text = "\n## A storm of reconnects\n"
    about = kept.get("storm", {})
    if not about.get("forms"):
        return text + absent("python bench/storm.py --json bench/results/storm.json")
    rows = []
    for form, runs in about["forms"].items():
        latencies = [microseconds(runs, when, point) for when in ("quiet_us", "storm_us") for point in ("p50", "p99")]
        lost = f"{sum(int(run['lost']) for run in runs):,}"
        rows.append([f"`{form}`" if form.startswith("-") else form, *latencies, microseconds(runs, "ratio"), lost])
    heads = ["quiet p50, µs", "quiet p99, µs", "storm p50, µs", "storm p99, µs", "ratio of p99", "lost"]
    calls = [f"    {call['command']}    # {call['commit']}" for call in about.get("calls", {}).values()]
    by = "\nEach form by its own call:\n\n" + "\n".join(calls) + "\n" if calls else ""
    return text + STORM_SAYS + done_on(kept) + by + table([f"{about['connections']:,} reconnects", *heads], rows)


def kernel_section(kept: Figures) -> str:
    """The kernel's memory, against a bare socket's."""
    text = "\n## Kernel memory of a connection\n"
    about = kept.get("kernel", {})
    found: Runs = about.get("turns", [])
    if not found:
        return text + absent("python bench/kernel_memory.py --json bench/results/kernel.json")
    by = about.get("by", "slab")
    heads = {"a bare pair": ("bare", by), "with the engine": ("engine", by), "ratio": ("ratio",)}
    row = [f"`{by}`, {turns_said(found)}", *(microseconds(found, *path) for path in heads.values())]
    return text + KERNEL_SAYS + done_on(kept) + table(["", *heads], [row])


def document(folder: Path = RESULTS) -> str:
    """The text of docs/performance.md."""
    macro, scales = read("macro", folder), read_scales(folder)
    parts = [
        bars_section(folder),
        cpu_section(macro),
        latency_section(macro),
        memory_section(read("memory", folder), scales),
        kernel_section(read("kernel", folder)),
        rooms_section(read("rooms", folder)),
        scale_section(scales),
        hop_section(read("hop", folder)),
        storm_section(read("storm", folder)),
    ]
    return HEAD + "".join(parts) + AGAIN


if __name__ == "__main__":
    print(document(), end="")
