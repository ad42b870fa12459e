"""docs/performance.md, from the results kept in results/: `python bench/performance_doc.py > docs/performance.md`.

Without matplotlib, so that a test can hold that the document is what the kept results make.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import scale
from results import (
    RESULTS,
    Figures,
    Run,
    Runs,
    Spread,
    by_size,
    cpu_bars,
    curves,
    figure,
    figures,
    label,
    memory_lines,
    read,
    read_scales,
    room_lines,
    scenarios,
    spread,
    to_last_member,
    turns,
)

NONE = "–"
HEAD = """\
# Performance

How much CPU, time and memory the engine takes, beside others that do the same job on the same machine. `make plots`
writes this page from the files in `bench/results`: no figure on it is typed. [bench/README.md](../bench/README.md)
tells who the others are, what their code does and leaves out, and how each figure is measured.

How to read it: a figure is the median of all runs, with the smallest and the largest in parentheses. A ratio is the
engine's figure by the other's in the same turn, so that what slows the machine falls on both: below 1 the engine takes
less. Servers and load generator share one machine, and a loopback connection's two ends; CPU is that of all processes
of a server, nats-server included. Bare numbers are this machine's; ratios carry over better.
"""
AGAIN = """
## Again

    make bench-performance                # CPU, latency, memory, rooms: everyone who can run here, in turn
    make bench-scale N=1000000            # very many connections on one engine
    make plots                            # the plots, and this page

`make bench-performance ARGS="--peer 'uws=/path/to/server {port}'"` adds a server of one's own.
"""
CPU_SAYS = """
Deliveries a second are what both ends reach together on this machine, the load generator's end included. User and
system are told apart by sampling: a fraction of a microsecond is uncertain in a short run.
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
Milliseconds from a publish until the last member of the room has heard it; the next publish follows then. The load
generator's receiving of it all, on the same machine, is part of it.
"""
SCALE_SAYS = f"""
One engine process holds all connections; their clients' ends are on the same machine. Kernel memory is the growth of
slab, page tables and stacks until all were open, halved, since both ends are here; beside it the same of all memory
that is neither free, a file's nor a process's. Idle is a time of pings only. Then messages are sent at a fixed rate,
1:1 between random connections and into rooms spread over them all. The same is done with {scale.FEW:,} connections
over as many loops, before and after: the mean of the two is beside it. Pings cost CPU, too, so a delivery's is given
with and without that of the pings answered meanwhile, each taken for as much as one in the idle time.
"""
CPU_TABLES = {
    "relay": "1:1, pairs of clients",
    "random": "1:1, anyone to anyone",
    "fanout": "One room of 1,000",
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
        f"* Linux {result['kernel']}",
        "* " + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return "\n" + "\n".join(lines) + "\n"


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
        [label(name), command if command == "built locally" else f"`{command}`"]
        for name, command in result.get("contenders", {}).items()
    ]
    return "\nThe servers:\n" + table(["server", "command"], rows).replace("---:", "---")


def at(path: tuple[str, ...]) -> Callable[[Run], float | None]:
    """What the keys lead to, as a function of a run."""
    return lambda run: figure(run, *path)


def compared(by: dict[str, Runs], columns: dict[str, tuple[str, ...]], ratio: dict[str, tuple[str, ...]]) -> str:
    """A row for each contender: its figures, and the engine's ratio to it."""
    rows = []
    mine = by.get("engine", [])
    for name, runs in by.items():
        cells = [shown(spread(figures(runs, *path))) for path in columns.values()]
        for path in ratio.values():
            cells.append("" if name == "engine" else shown(spread(turns(mine, runs, at(path)))))
        rows.append([label(name), *cells])
    return table(["server", *columns, *ratio], rows)


def cpu_section(kept: Figures) -> str:
    """CPU a delivery."""
    found = {name: by for name, by in scenarios(kept).items() if name in CPU_TABLES and by}
    text = "\n## CPU a delivery\n"
    if not found:
        return text + absent("make bench-performance")
    text += done_on(kept) + commands(kept, list(found)) + servers(kept)
    if any(cpu_bars(kept, name) for name in ("relay", "fanout", "cross")):
        text += plot("cpu", "Microseconds of CPU a delivery, user and system, by server")
    user, both = ("all_servers", "user_us_per_delivery"), ("all_servers", "cpu_us_per_delivery")
    columns = {"user, µs": user, "user + system, µs": both, "deliveries a second": ("per_second",)}
    for name, by in found.items():
        text += f"\n### {CPU_TABLES[name]}\n"
        text += compared(by, columns, {"ratio of user": user, "ratio of user + system": both})
    return text + CPU_SAYS


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
    ratio = {"ratio of p50": ("latency_us", "p50"), "ratio of p99": ("latency_us", "p99")}
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
    text += sized(found, at(("all_servers", "bytes_per_connection")), "bytes each of connections")
    return text + MEMORY_MISSING


def rooms_section(kept: Figures) -> str:
    """Large rooms."""
    text = "\n## Large rooms\n"
    found = by_size(kept, "room")
    if not found:
        return text + absent("make bench-performance")
    text += ROOMS_SAYS
    text += done_on(kept) + commands(kept, list(scenarios(kept)))
    if room_lines(kept):
        text += plot("rooms", "Milliseconds to a room's last member against its members, by server")
    return text + sized(found, to_last_member, "milliseconds by members")


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
    found = scale.figures(about)
    text = f"\n### {about['connections']:,} connections on {about['loops']} loops\n" + done_on(result)
    text += f"\nThe engine and the load:\n\n    {about['engine']}\n    load {about['load']}\n"
    text += table(
        [f"{about['connections']:,} connections", "figure"], [[n, row(found)] for n, row in SCALE_ROWS.items()]
    )
    rows = []
    for name, title in BESIDE_ROWS.items():
        by = f"{found['ratio'][name]:.2f}" if name in found["ratio"] else ""
        rows.append([title, f"{found['many'][name]:,.1f}", f"{found['few'][name]:,.1f}", by])
    text += table(["messages", f"among {about['connections']:,}", f"among {scale.FEW:,}", "ratio"], rows)
    many: Run = about["many"]
    kept = "all were delivered" if many["kept"] else f"{many['lost']} were lost"
    return text + f"\n{many['delivered']:,} messages were delivered in {many['seconds']:.0f} s; {kept}.\n"


def document(folder: Path = RESULTS) -> str:
    """The text of docs/performance.md."""
    macro, memory, rooms, scales = (
        read("macro", folder),
        read("memory", folder),
        read("rooms", folder),
        read_scales(folder),
    )
    parts = [cpu_section(macro), latency_section(macro), memory_section(memory, scales)]
    return HEAD + "".join([*parts, rooms_section(rooms), scale_section(scales)]) + AGAIN


if __name__ == "__main__":
    print(document(), end="")
