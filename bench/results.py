"""Files of results: what was measured, on what and with what, and the statistics that are read out of them.

A file in results/ has `date`, `machine`, `versions`, `command` and its figures. The figures of several turns are
columns: for each figure a list with one value a turn, null where a turn has none. macro.json, memory.json and
rooms.json have `scenarios`, with a column table for each contender (macro.py); `scale-N.json` has `scale`
(scale.py); the other tools have `forms`: a table for each form of the measurement, with the call that made it.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contenders import HERE
from machine import description

RESULTS = HERE / "results"
BUILD = HERE.parent / "build" / "bench"

Figures = dict[str, Any]
Column = list[float | None]

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
    """The smallest, the middle and the largest of several turns, and how many significant places to show."""

    low: float
    middle: float
    high: float
    places: int = 3

    def __str__(self) -> str:
        digits = digits_of(self.high, self.places)
        middle, low, high = (f"{value:,.{digits}f}" for value in (self.middle, self.low, self.high))
        return middle if low == high else f"{middle} ({low} to {high})"


def digits_of(largest: float, places: int = 3) -> int:
    """Decimals that show so many significant places of a figure of this size, at most six."""
    if largest <= 0:
        return 0
    return min(6, max(0, places - 1 - math.floor(math.log10(largest))))


def spread(values: Iterable[float | None]) -> Spread | None:
    """The smallest, the median and the largest of the turns that have the figure; None where none has."""
    known = [value for value in values if value is not None]
    return Spread(min(known), statistics.median(known), max(known)) if known else None


def middle(figures: Figures, name: str) -> float:
    """The median of a column; ValueError where no turn has the figure."""
    if (found := spread(figures.get(name, []))) is None:
        raise ValueError(f"no turn has {name}")
    return found.middle


def ratios(mine: Figures, theirs: Figures, name: str) -> list[float]:
    """The ratio of a figure in each turn in which both have it."""
    both = zip(mine.get(name, []), theirs.get(name, []), strict=False)
    return [a / b for a, b in both if a is not None and b]


def pooled(mine: Figures, theirs: Figures, name: str) -> Spread | None:
    """The ratio of a sampled figure a delivery, all turns taken as one run; the smallest and the largest turn's.

    Each turn is weighted by its deliveries, since few samples say little. Two places are significant.
    """
    if not (each := ratios(mine, theirs, name)):
        return None
    pairs = zip(mine[name], mine["delivered"], theirs[name], theirs["delivered"], strict=False)
    turns = [pair for pair in pairs if pair[0] is not None and pair[2]]
    one, other = (sum(t[i] * t[i + 1] for t in turns) / sum(t[i + 1] for t in turns) for i in (0, 2))
    return Spread(min(each), one / other, max(each), places=2)


def columns(turns: list[Figures]) -> Figures:
    """A list for each figure of any turn, with None where a turn has none."""
    names = dict.fromkeys(name for turn in turns for name in turn)
    return {name: [turn.get(name) for turn in turns] for name in names}


# -- files --


def written(value: Any, depth: int = 1) -> str:
    """JSON with a line for each innermost object, so that a diff shows what changed."""
    if not (isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values())):
        return json.dumps(value, ensure_ascii=False)
    items = [f"{' ' * depth}{json.dumps(key)}: {written(inner, depth + 1)}" for key, inner in value.items()]
    return "{\n" + ",\n".join(items) + f"\n{' ' * (depth - 1)}}}"


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
    """The kept results of scale.py by connections; with the engine's own ping interval first."""
    files = sorted(folder.glob("scale-*.json"), key=lambda file: file.stem)
    return sorted((read(file.stem, folder) for file in files), key=lambda kept: int(kept["scale"]["connections"]))


def add_json(parser: argparse.ArgumentParser) -> None:
    """Give the parser `--json FILE`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures there (default: nowhere)")


def command(arguments: list[str]) -> str:
    """The command line as it is kept: without this machine's paths, and without --json."""
    words, skip = [], False
    for word in arguments:
        if not skip and not word.startswith("--json"):
            words.append(f"…/{Path(word).name}" if word.startswith("/") else word)
        skip = word == "--json"
    return shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *words])


def keep(file: Path | None, forms: dict[str, list[Figures]], **about: Any) -> None:
    """Write the turns of these forms of a measurement, beside the other forms that the file has; None writes nothing.

    A tool with one form calls it by its own name. `about` holds for all turns.
    """
    if file is None:
        return
    head = {**description(), "command": command(sys.argv[1:])}
    call = {"date": head["date"], "commit": head["versions"].get("commit", ""), "command": head["command"]}
    before = json.loads(file.read_text(encoding="utf-8")).get("forms", {}) if file.exists() else {}
    measured = {form: {**call, **about, **columns(turns)} for form, turns in forms.items()}
    write(file, {**head, "forms": before | measured})
