"""The tables of docs/performance.md, and the lines of its plots, from what is kept in bench/results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import scale
from contenders import LOCAL
from report.bars import bars, by_of, form
from report.tables import machines, shown, table
from results import RESULTS, Figures, Spread, label, pooled, ratios, read, read_scales, spread

CPU_TABLES = ("relay", "random", "fanout", "fanout-10k", "rooms", "churn", "cross")
LATENCY_TABLES = ("pair", "cross-pair")
CPU_COLUMNS = {"user_us": "user, µs", "cpu_us": "user + system, µs", "per_second": "deliveries a second"}
LATENCY_COLUMNS = {"p50_us": "p50, µs", "p99_us": "p99, µs", "p999_us": "p99.9, µs"}
HOP = {"same_us": "one loop, µs", "across_us": "two loops, µs", "bare_us": "bare wake, µs", "ratio": "ratio"}
STORM = {
    "quiet_p50_us": "quiet p50, µs",
    "quiet_p99_us": "quiet p99, µs",
    "storm_p50_us": "storm p50, µs",
    "storm_p99_us": "storm p99, µs",
    "ratio": "ratio of p99",
}

FLOODS = {
    "quiet near p99": "quiet p99, µs",
    "flood near p50": "flood p50, µs",
    "flood near p99": "flood p99, µs",
    "flood apart p99": "other engine's p99, µs",
    "ratio": "ratio of p99",
}

Ratio = Callable[[Figures, Figures], Spread | None]
Lines = dict[str, list[tuple[float, float]]]


def median_of(name: str) -> Ratio:
    """The ratio of a figure, turn by turn; a sampled one pooled."""
    if name == "user_us":
        return lambda mine, theirs: pooled(mine, theirs, name)
    return lambda mine, theirs: spread(ratios(mine, theirs, name))


def compared(by: dict[str, Figures], heads: dict[str, str], ratio: dict[str, str]) -> str:
    """A row for each contender: its figures, and the engine's ratio to it."""
    rows = []
    for name, found in by.items():
        cells = [shown(spread(found.get(figure, []))) for figure in heads]
        for figure in ratio:
            cells.append("" if name == "engine" else shown(median_of(figure)(by.get("engine", {}), found)))
        rows.append([label(name), *cells])
    return table(["server", *heads.values(), *ratio.values()], rows)


def by_size(kept: Figures, kind: str) -> dict[str, dict[int, Figures]]:
    """Of scenarios named `kind-SIZE`: the columns of each contender by size."""
    found: dict[str, dict[int, Figures]] = {}
    for scenario in kept.get("scenarios", {}):
        before, _, size = scenario.rpartition("-")
        for contender, figures in by_of(kept, scenario).items() if before == kind else ():
            found.setdefault(contender, {})[int(size)] = figures
    return found


def sized(found: dict[str, dict[int, Figures]], figure: str, ratio: bool) -> str:
    """A column for each size, a row for each contender: its figures, or the engine's ratios to them."""
    sizes = sorted({size for by in found.values() for size in by})
    rows = []
    for name, by in found.items():
        mine = found.get("engine", {})
        if not ratio:
            rows.append([label(name), *(shown(spread(by.get(size, {}).get(figure, []))) for size in sizes)])
        elif name != "engine":
            each = (ratios(mine.get(size, {}), by.get(size, {}), figure) for size in sizes)
            rows.append([label(name), *(shown(spread(turns)) for turns in each)])
    first = "the engine's ratio to" if ratio else "server"
    return table([first, *(f"{size:,}" for size in sizes)], rows)


def loads(files: list[Figures]) -> str:
    """The exact loads."""
    rows = []
    for kept in files:
        for name, step in kept.get("scenarios", {}).items():
            rows.append([f"`{name}`", f"`{step['load']}`", str(step["nodes"]), str(step.get("loops", ""))])
    return table(["scenario", "load generator", "nodes", "loops of the engine"], rows, 2)


def servers(kept: Figures) -> str:
    """Who was measured, by which command."""
    commands = kept.get("contenders", {}).items()
    rows = [[label(name), command if command.startswith(LOCAL) else f"`{command}`"] for name, command in commands]
    return table(["server", "command"], rows, 2)


def faults(files: list[Figures]) -> str:
    """What the load generator objected to in runs whose figures are shown."""
    rows = []
    for kept in files:
        for scenario in kept.get("scenarios", {}):
            for name, found in by_of(kept, scenario).items():
                for turn, wrong in enumerate(found.get("wrong", []), 1):
                    rows += [[label(name), f"`{scenario}`", f"{turn}", wrong]] if wrong else []
    return table(["server", "scenario", "turn", "what went wrong"], rows or [[""] * 4], 4)


def samples(kept: Figures) -> str:
    """How uncertain the engine's user CPU is: the kernel samples it, and the fewer samples, the more is chance."""
    rows, rate = [], kept.get("machine", {}).get("ticks")
    for scenario in CPU_TABLES if rate else ():
        seen = [rate * user for user in by_of(kept, scenario).get("engine", {}).get("user_s", []) if user]
        if seen:
            fewest, total = min(seen), sum(seen)
            rows.append([f"`{scenario}`", f"{fewest:.0f}", *(f"{100 / math.sqrt(n):.0f} %" for n in (fewest, total))])
    heads = ["scenario", "samples in user mode, the fewest of a run", "uncertainty of that run", "of all runs together"]
    return table(heads, rows)


def scales_table(scales: list[Figures]) -> str:
    """A column for each run with very many connections; among few beside it where they have the figure."""
    runs = [kept["scale"] for kept in scales]
    heads = [f"{run['connections']:,} on {run['loops']} loops, {scale.pings_said(run)}" for run in runs]
    rows = [[title, *(number(run["many"][name]) for run in runs)] for name, title in scale.ALONE.items()]
    for name, title in scale.BESIDE.items():
        rows.append([title, *(number(run["many"][name]) for run in runs)])
        rows.append([f"... among {scale.FEW:,}", *(number(scale.few(run)[name]) for run in runs)])
        rows.append(["... ratio", *(f"{run['many'][name] / scale.few(run)[name]:.2f}" for run in runs)])
    rows.append(["messages delivered", *(f"{run['many']['delivered']:,}" for run in runs)])
    rows.append(["lost", *(f"{run['many']['lost'] + run['many']['gap']:,}" for run in runs)])
    return table(["", *heads], rows)


def number(value: float | None) -> str:
    """A figure of one run."""
    return "" if value is None else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def kernel_table(kept: Figures) -> str:
    """The kernel's memory of a connection, beside a bare socket's."""
    found = form(kept, "kernel")
    by = found.get("by", "slab")
    names = (f"bare {by}", f"engine {by}", "ratio")
    rows = [[f"`{by}`", *(shown(spread(found[name])) for name in names)]] if found else []
    return table(["bytes of", "a bare pair", "with the engine", "ratio"], rows)


def storm_table(kept: Figures) -> str:
    """A row for each form of the storm."""
    rows = []
    for name, found in kept.get("forms", {}).items():
        form_name = f"`{name}`" if name.startswith("-") else name
        figures = [shown(spread(found[figure])) for figure in STORM]
        command = f"`{found['command']}`, `{found['commit']}`"
        rows.append([f"{found['connections']:,}, {form_name}", command, *figures, f"{sum(found['lost']):,}"])
    return table(["reconnects", "command, commit", *STORM.values(), "lost"], rows, 2)


def floods_table(kept: Figures) -> str:
    """A row for each flood."""
    rows = []
    for name, found in kept.get("forms", {}).items():
        figures = [shown(spread(found[figure])) for figure in FLOODS]
        rows.append([f"`{name}`", f"`{found['command']}`, `{found['commit']}`", *figures, f"{sum(found['lost']):,}"])
    return table(["flood", "command, commit", *FLOODS.values(), "lost"], rows, 2)


def tables(folder: Path = RESULTS) -> dict[str, str]:
    """Every table of the page, by name."""
    macro, memory, rooms = (read(name, folder) for name in ("macro", "memory", "rooms"))
    hop, kernel, storm, scales = read("hop", folder), read("kernel", folder), read("storm", folder), read_scales(folder)
    few = form(hop, "hop")
    cpu_ratio = {"user_us": "ratio of user", "cpu_us": "ratio of user + system"}
    latency_ratio = {"p50_us": "ratio of p50", "p99_us": "ratio of p99"}
    judged = [[bar.what, bar.targeted(), bar.measured(), bar.verdict()] for bar in bars(folder)]
    files = {"CPU, latency": macro, "memory": memory, "rooms": rooms, "kernel memory": kernel, "loop to loop": hop}
    many = {f"{k['scale']['connections']:,} connections, {scale.pings_said(k['scale'])}": k for k in scales}
    return {
        "bars": table(["what", "target", "measured", "bar"], judged),
        "machines": machines({**files, **many, "storm": storm}),
        "loads": loads([macro, memory, rooms]),
        "servers": servers(macro),
        **{name: compared(by_of(macro, name), CPU_COLUMNS, cpu_ratio) for name in CPU_TABLES},
        **{name: compared(by_of(macro, name), LATENCY_COLUMNS, latency_ratio) for name in LATENCY_TABLES},
        "samples": samples(macro),
        "memory": sized(by_size(memory, "idle"), "bytes", False),
        "memory-ratio": sized(by_size(memory, "idle"), "bytes", True),
        "kernel": kernel_table(kernel),
        "room": sized(by_size(rooms, "room"), "room_ms", False),
        "room-ratio": sized(by_size(rooms, "room"), "room_ms", True),
        "scale": scales_table(scales),
        "hop": table(list(HOP.values()), [[shown(spread(few[name])) for name in HOP]] if few else [], 0),
        "storm": storm_table(storm),
        "floods": floods_table(read("fairness", folder)),
        "faults": faults([macro, memory, rooms]),
    }


# -- lines of the plots --


def memory_lines(memory: Figures, scales: list[Figures]) -> Lines:
    """For each contender, connections and the bytes of one of them; the engine's with those of scale.py."""
    lines = size_lines(memory, "idle", "bytes")
    for kept in scales:
        size, each = kept["scale"]["connections"], kept["scale"]["many"]["user_bytes"]
        if each is not None and size not in (known for known, _ in lines.get("engine", [])):
            lines.setdefault("engine", []).append((size, each))
    return {name: sorted(points) for name, points in lines.items()}


def size_lines(kept: Figures, kind: str, figure: str) -> Lines:
    """For each contender, sizes and the medians of a figure."""
    lines: Lines = {}
    for contender, sizes in by_size(kept, kind).items():
        for size, figures in sorted(sizes.items()):
            if found := spread(figures.get(figure, [])):
                lines.setdefault(contender, []).append((size, found.middle))
    return lines


def cpu_lines(macro: Figures, scenario: str) -> list[tuple[str, float, float]]:
    """Each contender's user and system µs a delivery, as medians; the least sum first."""
    found = []
    for contender, figures in by_of(macro, scenario).items():
        user, both = spread(figures.get("user_us", [])), spread(figures.get("cpu_us", []))
        if user and both:
            found.append((contender, user.middle, both.middle - user.middle))
    return sorted(found, key=lambda bar: bar[1] + bar[2])


def curves(macro: Figures, scenario: str) -> Lines:
    """Each contender's latency curve as (share above, µs)."""
    found = {name: figures.get("curve", []) for name, figures in by_of(macro, scenario).items()}
    return {name: [(above, us) for above, us in points] for name, points in found.items() if points}


def apart(places: list[float], least: float) -> list[float]:
    """The places moved so that any two are at least so far from each other, in their order, as little as it takes."""

    def ends(group: list[int]) -> tuple[float, float]:
        middle, half = statistics.mean(places[i] for i in group), (len(group) - 1) * least / 2
        return middle - half, middle + half

    groups: list[list[int]] = []
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        groups.append([i])
        while len(groups) > 1 and ends(groups[-2])[1] + least > ends(groups[-1])[0]:
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = list(places)
    for group in groups:
        for step, i in enumerate(group):
            moved[i] = ends(group)[0] + step * least
    return moved
