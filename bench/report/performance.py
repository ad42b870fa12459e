"""The tables of docs/performance.md, and the lines of its plots, from bench/results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import Path

import scale
from contenders import LOCAL
from report.bars import bars
from report.tables import cells, machines, table
from results import RESULTS, Figures, by_of, form, label, ratio, ratios, read, read_scales, spread

CPU_TABLES = ("relay", "random", "fanout", "fanout-10k", "rooms", "churn", "cross")
LATENCY_TABLES = ("pair", "cross-pair")
CPU = {"user_us": "user, µs", "cpu_us": "user + system, µs", "per_second": "deliveries a second"}
CPU_RATIOS = {"user_us": "ratio of user", "cpu_us": "ratio of user + system"}
LATENCY = {"p50_us": "p50, µs", "p99_us": "p99, µs", "p999_us": "p99.9, µs"}
LATENCY_RATIOS = {"p50_us": "ratio of p50", "p99_us": "ratio of p99"}
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

Lines = dict[str, list[tuple[float, float]]]


def compared(by: dict[str, Figures], heads: dict[str, str], ratio_heads: dict[str, str]) -> str:
    """A row for each contender: its figures, and the engine's ratio to it."""
    rows = []
    for name, found in by.items():
        against = [None if name == "engine" else ratio(by.get("engine", {}), found, figure) for figure in ratio_heads]
        rows.append([label(name), *cells(found, heads), *(str(each or "") for each in against)])
    return table(["server", *heads.values(), *ratio_heads.values()], rows)


def by_size(kept: Figures, kind: str) -> dict[str, dict[int, Figures]]:
    """Of scenarios named `kind-SIZE`: the columns of each contender by size."""
    found: dict[str, dict[int, Figures]] = {}
    for scenario in kept.get("scenarios", {}):
        before, _, size = scenario.rpartition("-")
        for contender, figures in by_of(kept, scenario).items() if before == kind else ():
            found.setdefault(contender, {})[int(size)] = figures
    return found


def sized(kept: Figures, kind: str, figure: str) -> list[str]:
    """Two tables with a column for each size and a row for each contender: its figures; the engine's ratios to them."""
    found = by_size(kept, kind)
    sizes = sorted({size for by in found.values() for size in by})
    mine = found.get("engine", {})
    rows, against = [], []
    for name, by in found.items():
        rows.append([label(name), *(cells(by.get(size, {}), [figure])[0] for size in sizes)])
        each = [spread(ratios(mine.get(size, {}), by.get(size, {}), figure)) for size in sizes]
        against += [[label(name), *(str(one or "") for one in each)]] if name != "engine" else []
    heads = [f"{size:,}" for size in sizes]
    return [table(["server", *heads], rows), table(["the engine's ratio to", *heads], against)]


def formed(kept: Figures, first: str, heads: dict[str, str]) -> str:
    """A row for each form: its name, its call, its figures, and the messages lost."""
    rows = []
    for name, found in kept.get("forms", {}).items():
        shown = name if name == "all at one moment" else f"`{name}`"
        shown = f"{found['connections']:,}, {shown}" if "connections" in found else shown
        call = f"`{found['command']}`, `{found['commit']}`"
        rows.append([shown, call, *cells(found, heads), f"{sum(found['lost']):,}"])
    return table([first, "command, commit", *heads.values(), "lost"], rows, 2)


def files_tables(files: list[Figures], macro: Figures) -> dict[str, str]:
    """What was measured by which commands, and what went wrong in runs whose figures are shown."""
    steps = [(name, step) for kept in files for name, step in kept.get("scenarios", {}).items()]
    loads = [[f"`{n}`", f"`{s['load']}`", str(s["nodes"]), str(s.get("loops", ""))] for n, s in steps]
    commands = macro.get("contenders", {}).items()
    servers = [[label(name), text if text.startswith(LOCAL) else f"`{text}`"] for name, text in commands]
    faults = [
        [label(name), f"`{scenario}`", f"{turn}", wrong]
        for scenario, step in steps
        for name, found in step["by"].items()
        for turn, wrong in enumerate(found.get("wrong", []), 1)
        if wrong
    ]
    return {
        "loads": table(["scenario", "load generator", "nodes", "loops of the engine"], loads, 2),
        "servers": table(["server", "command"], servers, 2),
        "faults": table(["server", "scenario", "turn", "what went wrong"], faults or [[""] * 4], 4),
    }


def samples(kept: Figures) -> str:
    """How uncertain the engine's user CPU is: the kernel samples it, and the fewer samples, the more is chance."""
    rows, rate = [], kept.get("machine", {}).get("ticks")
    for scenario in CPU_TABLES if rate else ():
        seen = [rate * user for user in by_of(kept, scenario).get("engine", {}).get("user_s", []) if user]
        if seen:
            uncertain = [f"{100 / math.sqrt(n):.0f} %" for n in (min(seen), sum(seen))]
            rows.append([f"`{scenario}`", f"{min(seen):.0f}", *uncertain])
    heads = ["scenario", "samples in user mode, the fewest of a run", "uncertainty of that run", "of all runs together"]
    return table(heads, rows)


def scales_table(scales: list[Figures]) -> str:
    """A column for each run with very many connections, with its figures among few connections below."""

    def row(title: str, values: Iterable[float | None]) -> list[str]:
        return [title, *("" if v is None else f"{v:,.1f}" if v < 1000 else f"{v:,.0f}" for v in values)]

    runs = [kept["scale"] for kept in scales]
    few = [scale.few(run) for run in runs]
    rows = [row(title, (run["many"][name] for run in runs)) for name, title in scale.ALONE.items()]
    for name, title in scale.BESIDE.items():
        rows.append(row(title, (run["many"][name] for run in runs)))
        rows.append(row(f"... among {scale.FEW:,}", (each[name] for each in few)))
        ratio = (f"{run['many'][name] / each[name]:.2f}" for run, each in zip(runs, few, strict=True))
        rows.append(["... ratio", *ratio])
    rows.append(["messages delivered", *(f"{run['many']['delivered']:,}" for run in runs)])
    rows.append(["lost", *(f"{run['many']['lost'] + run['many']['gap']:,}" for run in runs)])
    heads = (f"{run['connections']:,} on {run['loops']} loops, {scale.pings_said(run)}" for run in runs)
    return table(["", *heads], rows)


def tables(folder: Path = RESULTS) -> dict[str, str]:
    """Every table of the page, by name."""
    macro, memory, rooms, hop, kernel, storm, floods = (
        read(name, folder) for name in ("macro", "memory", "rooms", "hop", "kernel", "storm", "fairness")
    )
    scales = read_scales(folder)
    files = {"CPU, latency": macro, "memory": memory, "rooms": rooms, "kernel memory": kernel, "loop to loop": hop}
    files |= {f"{k['scale']['connections']:,} connections, {scale.pings_said(k['scale'])}": k for k in scales}
    hops, slabs = form(hop, "hop"), form(kernel, "kernel")
    by = slabs.get("by", "slab")
    caches = [[f"`{by}`", *cells(slabs, (f"bare {by}", f"engine {by}", "ratio"))]] if slabs else []
    judged = [[bar.what, bar.targeted(), bar.measured(), bar.verdict()] for bar in bars(folder)]
    found = {
        "bars": table(["what", "target", "measured", "bar"], judged),
        "machines": machines({**files, "storm": storm}),
        **files_tables([macro, memory, rooms], macro),
        **{name: compared(by_of(macro, name), CPU, CPU_RATIOS) for name in CPU_TABLES},
        **{name: compared(by_of(macro, name), LATENCY, LATENCY_RATIOS) for name in LATENCY_TABLES},
        "samples": samples(macro),
        "kernel": table(["bytes of", "a bare pair", "with the engine", "ratio"], caches),
        "scale": scales_table(scales),
        "hop": table(HOP.values(), [cells(hops, HOP)] if hops else [], 0),
        "storm": formed(storm, "reconnects", STORM),
        "floods": formed(floods, "flood", FLOODS),
    }
    found["memory"], found["memory-ratio"] = sized(memory, "idle", "bytes")
    found["room"], found["room-ratio"] = sized(rooms, "room", "room_ms")
    return found


# -- lines of the plots --


def size_lines(kept: Figures, kind: str, figure: str) -> Lines:
    """For each contender, sizes and the medians of a figure."""
    lines: Lines = {}
    for contender, sizes in by_size(kept, kind).items():
        for size, figures in sorted(sizes.items()):
            if found := spread(figures.get(figure, [])):
                lines.setdefault(contender, []).append((size, found.middle))
    return lines


def memory_lines(memory: Figures, scales: list[Figures]) -> Lines:
    """For each contender, connections and the bytes of one of them; the engine's with those of scale.py."""
    lines = size_lines(memory, "idle", "bytes")
    for kept in scales:
        size, each = kept["scale"]["connections"], kept["scale"]["many"]["user_bytes"]
        if each is not None and size not in (known for known, _ in lines.get("engine", [])):
            lines.setdefault("engine", []).append((size, each))
    return {name: sorted(points) for name, points in lines.items()}


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
    """The places moved so that any two are at least so far from each other, in their order, as little as possible."""

    def ends(group: list[int]) -> tuple[float, float]:
        middle, half = statistics.mean(places[i] for i in group), (len(group) - 1) * least / 2
        return middle - half, middle + half

    groups: list[list[int]] = []
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        groups.append([i])
        while len(groups) > 1 and ends(groups[-2])[1] + least > ends(groups[-1])[0]:
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = {i: ends(group)[0] + step * least for group in groups for step, i in enumerate(group)}
    return [moved[i] for i in range(len(places))]
