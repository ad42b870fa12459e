"""Files of results: what was measured, on which machine and with which versions; and the statistics read from them.

A file in results/ has `date`, `machine`, `versions`, `command` and its figures. Figures of several turns are columns: a
list for each figure with a value for each turn, null if a turn has none. macro.json, memory.json and rooms.json have
`scenarios`, with columns for each contender (macro.py); scale-N.json has `scale` (scale.py); the others have `forms`:
columns for each form of the measurement, with the call that made them (turns.py).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contenders import HERE

RESULTS = HERE / "results"
BUILD = HERE.parent / "build" / "bench"

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
    """The name of a contender in tables and plots."""
    return LABELS.get(contender, contender)


# -- statistics --


@dataclass(frozen=True)
class Spread:
    """The smallest, the middle and the largest of several turns, and how many significant digits are shown."""

    low: float
    middle: float
    high: float
    places: int = 3

    def __str__(self) -> str:
        digits = digits_of(self.high, self.places)
        middle, low, high = (f"{value:,.{digits}f}" for value in (self.middle, self.low, self.high))
        return middle if low == high else f"{middle} ({low} to {high})"


def digits_of(largest: float, places: int = 3) -> int:
    """Decimals that show so many significant digits of a figure of this size, at most six."""
    return min(6, max(0, places - 1 - math.floor(math.log10(largest)))) if largest > 0 else 0


def spread(values: Iterable[float | None]) -> Spread | None:
    """The smallest, the median and the largest of the turns that have the figure; None if none has."""
    known = [value for value in values if value is not None]
    return Spread(min(known), statistics.median(known), max(known)) if known else None


def middle(figures: Figures, name: str) -> float:
    """The median of a column; ValueError if no turn has the figure."""
    if (found := spread(figures.get(name, []))) is None:
        raise ValueError(f"no turn has {name}")
    return found.middle


def ratios(mine: Figures, theirs: Figures, name: str) -> list[float]:
    """The ratio of a figure in each turn in which both have it."""
    both = zip(mine.get(name, []), theirs.get(name, []), strict=False)
    return [a / b for a, b in both if a is not None and b]


def pooled(mine: Figures, theirs: Figures, name: str) -> Spread | None:
    """The ratio of a sampled figure a delivery, all turns taken as one run; the smallest and the largest turn's.

    Each turn is weighted by its deliveries, because few samples say little. Two digits are significant.
    """
    if not (found := ratios(mine, theirs, name)):
        return None
    pairs = zip(mine[name], mine["delivered"], theirs[name], theirs["delivered"], strict=False)
    turns = [pair for pair in pairs if pair[0] is not None and pair[2]]
    one, other = (sum(t[i] * t[i + 1] for t in turns) / sum(t[i + 1] for t in turns) for i in (0, 2))
    return Spread(min(found), one / other, max(found), places=2)


def ratio(mine: Figures, theirs: Figures, name: str) -> Spread | None:
    """The ratio of a figure, turn by turn; pooled if the kernel samples it."""
    return pooled(mine, theirs, name) if name == "user_us" else spread(ratios(mine, theirs, name))


def columns(turns: list[Figures]) -> Figures:
    """A list for each figure of any turn, with None if a turn has none."""
    names = dict.fromkeys(name for turn in turns for name in turn)
    return {name: [turn.get(name) for turn in turns] for name in names}


# -- files --


def written(value: Any, depth: int = 1) -> str:
    """JSON with a line for each of several objects in an object, so that a diff shows what changed."""
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    several = sum(isinstance(inner, dict) for inner in value.values()) > 1 or depth == 1
    items = [f"{json.dumps(key)}: {written(inner, depth + several)}" for key, inner in value.items()]
    if not several:
        return "{" + ", ".join(items) + "}"
    return "{\n" + ",\n".join(" " * depth + item for item in items) + f"\n{' ' * (depth - 1)}}}"


def write(file: Path, value: Figures) -> None:
    """Writes a file of results, and its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(written(value) + "\n", encoding="utf-8")


def read(name: str, folder: Path = RESULTS) -> Figures:
    """A kept file of results; empty if there is none."""
    file = folder / f"{name}.json"
    found: Figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def read_scales(folder: Path = RESULTS) -> list[Figures]:
    """The kept results of scale.py by connections; with the engine's default ping interval first."""
    files = sorted(folder.glob("scale-*.json"), key=lambda file: file.stem)
    return sorted((read(file.stem, folder) for file in files), key=lambda kept: int(kept["scale"]["connections"]))


def form(kept: Figures, name: str) -> Figures:
    """The columns of a form of a measurement; empty if there are none."""
    found: Figures = kept.get("forms", {}).get(name, {})
    return found


def by_of(kept: Figures, scenario: str) -> dict[str, Figures]:
    """The columns of each contender in a scenario."""
    found: dict[str, Figures] = kept.get("scenarios", {}).get(scenario, {}).get("by", {})
    return found
