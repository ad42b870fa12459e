"""Files of results: how they are written, and what is read out of those kept in results/. Without matplotlib.

A file has what it was measured on and with (machine.py), the command, and `scenarios`: for each scenario and each
contender the load generator's JSON of every run. `scale-N.json` has `scale` instead (scale.py), and those of other
tools what each is called: `hop.json` has `hop`, `storm.json` `storm`, `kernel.json` `kernel`.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contenders import HERE

RESULTS = HERE / "results"
BUILD = HERE.parent / "build" / "bench"
DEEPEST = 3  # depth to which an object is written with a line for each of its values; a deeper one has one line
CURVE_LEAST = 5  # messages above a point of a curve: one of fewer is chance
CURVES = ("pair", "cross-pair")  # scenarios whose latency curves are kept: elsewhere it is that of a queue

Run = dict[str, Any]
Runs = list[Run]
Figures = dict[str, Any]

LABELS = {
    "engine": "signal-engine",
    "engine-2": "signal-engine, 2 loops",
    "nats-ws": "nats-ws (nats-server)",
    "goproxy": "goproxy (Go)",
    "socketify": "socketify (Python)",
    "picows": "picows (Python)",
    "uws": "uWebSockets (C++)",
}


def label(contender: str) -> str:
    """What a contender is called where people read."""
    return LABELS.get(contender, contender)


@dataclass(frozen=True)
class Spread:
    """A figure of several runs, and how many places of it count."""

    low: float
    middle: float
    high: float
    places: int = 3

    def __str__(self) -> str:
        digits = digits_of(self.high, self.places)
        middle, low, high = (f"{value:,.{digits}f}" for value in (self.middle, self.low, self.high))
        return middle if low == high else f"{middle} ({low} to {high})"


def digits_of(largest: float, places: int = 3) -> int:
    """Decimals that leave a figure of this size so many places that count, and at most six."""
    if largest <= 0:
        return 0
    return min(6, max(0, places - 1 - math.floor(math.log10(largest))))


def spread(values: list[float]) -> Spread | None:
    """The smallest, the median and the largest; None of nothing."""
    return Spread(min(values), statistics.median(values), max(values)) if values else None


def figure(run: Run, *path: str) -> float | None:
    """What the keys lead to in a run, or None where the run has none."""
    value: Any = run
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if value is not None else None


def figures(runs: Runs, *path: str) -> list[float]:
    """The figure in each run that has it."""
    return [value for run in runs if (value := figure(run, *path)) is not None]


def turns(mine: Runs, theirs: Runs, value: Callable[[Run], float | None]) -> list[float]:
    """The ratio of a figure in each turn in which both have it."""
    both = ((value(a), value(b)) for a, b in zip(mine, theirs, strict=False))
    return [a / b for a, b in both if a is not None and b]


def pooled(mine: Runs, theirs: Runs, *path: str) -> Spread | None:
    """The ratio of a figure a delivery, of all turns that both have as if they were one run; the least and the largest.

    For figures that are sampled: the more deliveries, the less is chance. Two places of it count.
    """

    def value(run: Run) -> float | None:
        return figure(run, *path)

    both = [(a, b) for a, b in zip(mine, theirs, strict=False) if value(a) is not None and value(b)]
    each = turns(mine, theirs, value)
    if not each:
        return None
    middle = _per_delivery([a for a, _ in both], path) / _per_delivery([b for _, b in both], path)
    return Spread(min(each), middle, max(each), places=2)


def _per_delivery(runs: Runs, path: tuple[str, ...]) -> float:
    """A figure a delivery of several runs together."""
    delivered = [float(run["delivered"]) for run in runs]
    return sum(a * n for a, n in zip(figures(runs, *path), delivered, strict=True)) / sum(delivered)


def to_last_member(run: Run) -> float | None:
    """Milliseconds from a publish until the last member of its room heard it, as the mean of a run's publishes.

    The next publish goes when all members have heard, and all but the publisher hear it: so it is the measured time by
    the publishes.
    """
    heard = run["delivered"] / (run["members"] - 1)
    return run["seconds"] * 1e3 / heard if heard >= 1 else None


def trouble(run: Run) -> str:
    """What went wrong in a run, or nothing."""
    faults = {**run.get("errors", {}), **run.get("err", {}), **{name: run.get(name, 0) for name in ("lost", "gap")}}
    return ", ".join(f"{name} {count}" for name, count in faults.items() if count)


def kept_run(scenario: str, run: Run) -> Run:
    """A run without the curves that nobody plots."""
    kept = dict(run)
    for name in ("latency_us", "room_latency_us"):
        if name in kept and scenario not in CURVES:
            kept[name] = {key: value for key, value in kept[name].items() if key != "curve"}
    return kept


def written(value: Any, depth: int = 0) -> str:
    """JSON that a diff shows well: a line for each run, and not one for each number."""
    if isinstance(value, dict) and value and depth < DEEPEST:
        begin, end, items = "{", "}", [f"{json.dumps(k)}: {written(v, depth + 1)}" for k, v in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        begin, end, items = "[", "]", [json.dumps(item, ensure_ascii=False) for item in value]
    else:
        return json.dumps(value, ensure_ascii=False)
    indent = " " * (depth + 1)
    return begin + ",".join(f"\n{indent}{item}" for item in items) + f"\n{indent[1:]}{end}"


def write(file: Path, value: Figures) -> None:
    """Write a file of results, and its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(written(value) + "\n", encoding="utf-8")


def read(name: str, folder: Path = RESULTS) -> Figures:
    """A kept file of results; empty where there is none."""
    file = folder / f"{name}.json"
    found: Figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def read_scales(folder: Path = RESULTS) -> list[Figures]:
    """The kept results of scale.py, by connections; of as many, first that with the engine's own pings."""
    files = sorted(folder.glob("scale-*.json"), key=lambda file: file.stem)
    found = [read(file.stem, folder) for file in files]
    return sorted(found, key=lambda result: int(result["scale"]["connections"]))


def scenarios(result: Figures) -> dict[str, dict[str, Runs]]:
    """The scenarios of a file, each with those contenders that have runs."""
    found = result.get("scenarios", {})
    return {name: {c: runs for c, runs in by.items() if runs} for name, by in found.items()}


def by_size(result: Figures, kind: str) -> dict[str, dict[int, Runs]]:
    """Scenarios named `kind-SIZE`: for each contender its runs by size."""
    found: dict[str, dict[int, Runs]] = {}
    for name, contenders in scenarios(result).items():
        before, _, size = name.rpartition("-")
        for contender, runs in contenders.items() if before == kind else ():
            found.setdefault(contender, {})[int(size)] = runs
    return found


def curve(runs: Runs) -> list[tuple[float, float]]:
    """The latency curve of the median run by p99, as (share above, µs)."""
    have = sorted((r for r in runs if r["latency_us"].get("curve")), key=lambda r: float(r["latency_us"]["p99"]))
    if not have:
        return []
    found = have[len(have) // 2]["latency_us"]
    least = CURVE_LEAST / found["count"]
    return [(above, us) for percent, us in found["curve"] if (above := 1 - percent / 100) >= least]


def memory_lines(memory: Figures, scales: list[Figures]) -> dict[str, list[tuple[int, float]]]:
    """For each contender, connections and the bytes that one of them takes; the engine's with those of scale.py."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for contender, sizes in by_size(memory, "idle").items():
        for size, runs in sorted(sizes.items()):
            if found := spread(figures(runs, "all_servers", "bytes_per_connection")):
                lines.setdefault(contender, []).append((size, found.middle))
    for result in scales:
        size = result["scale"]["connections"]
        each = figure(result["scale"]["many"], "all_servers", "bytes_per_connection")
        if each is not None and size not in (known for known, _ in lines.get("engine", [])):
            lines.setdefault("engine", []).append((size, each))
    return {name: sorted(points) for name, points in lines.items()}


def room_lines(rooms: Figures) -> dict[str, list[tuple[int, float]]]:
    """For each contender, members of a room and milliseconds until the last of them heard a message."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for contender, sizes in by_size(rooms, "room").items():
        for size, runs in sorted(sizes.items()):
            if found := spread([t for run in runs if (t := to_last_member(run)) is not None]):
                lines.setdefault(contender, []).append((size, found.middle))
    return lines


def cpu_bars(macro: Figures, scenario: str) -> list[tuple[str, float, float]]:
    """Each contender's user and system µs a delivery, as medians; the least sum first."""
    bars = []
    for contender, runs in scenarios(macro).get(scenario, {}).items():
        user = spread(figures(runs, "all_servers", "user_us_per_delivery"))
        both = spread(figures(runs, "all_servers", "cpu_us_per_delivery"))
        if user and both:
            bars.append((contender, user.middle, both.middle - user.middle))
    return sorted(bars, key=lambda bar: bar[1] + bar[2])


def curves(macro: Figures, scenario: str) -> dict[str, list[tuple[float, float]]]:
    """Each contender's latency curve."""
    found = {name: curve(runs) for name, runs in scenarios(macro).get(scenario, {}).items()}
    return {name: points for name, points in found.items() if points}


def apart(places: list[float], least: float) -> list[float]:
    """The places moved so that any two are at least so far from each other, in their order, as little as it takes."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _ends(groups[-2], places, least)[1] + least > _ends(groups[-1], places, least)[0]:
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = list(places)
    for group in groups:
        first, _ = _ends(group, places, least)
        for step, i in enumerate(group):
            moved[i] = first + step * least
    return moved


def _ends(group: list[int], places: list[float], least: float) -> tuple[float, float]:
    """Where the first and the last of a group are, that keeps its middle."""
    middle, half = statistics.mean(places[i] for i in group), (len(group) - 1) * least / 2
    return middle - half, middle + half
