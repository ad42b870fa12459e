"""The command line of a tool that measures in turns: its options, the turns, their spreads, the kept file."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from machine import description
from results import Figures, columns, digits_of, spread, write
from servers import BenchError, many_descriptors

Turn = Callable[[int], Figures]  # measures turn n, counted from 0


def command() -> str:
    """The command line as it is kept: without paths of this machine, and without --json."""
    words, skip = [], False
    for word in sys.argv[1:]:
        if not skip and not word.startswith("--json"):
            words.append(f"…/{Path(word).name}" if word.startswith("/") else word)
        skip = word == "--json"
    return shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *words])


def keep(file: Path | None, forms: dict[str, list[Figures]], **about: Any) -> None:
    """Writes the turns of these forms of a measurement, beside the other forms that the file has; None writes nothing.

    `about` holds for all turns.
    """
    if file is None:
        return
    head = {**description(), "command": command()}
    call = {"date": head["date"], "commit": head["versions"].get("commit", ""), "command": head["command"]}
    before = json.loads(file.read_text(encoding="utf-8")).get("forms", {}) if file.exists() else {}
    measured = {form: {**call, **about, **columns(turns)} for form, turns in forms.items()}
    write(file, {**head, "forms": before | measured})


def add_options(parser: argparse.ArgumentParser, options: dict[str, tuple[Any, str]]) -> None:
    """Adds `--name` for each: its default, whose type is the option's, and its help."""
    for name, (default, text) in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", help=text)
        elif isinstance(default, list):
            parser.add_argument(flag, type=int, nargs="+", default=default, help=text)
        else:
            shown = f"{text} (default {default})" if default else text
            parser.add_argument(flag, type=type(default), default=default, help=shown)


def shown(figures: Figures) -> str:
    """A turn for people."""
    return ", ".join(
        f"{name} {value:,.{digits_of(abs(value))}f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )


def run(
    doc: str | None,
    options: dict[str, tuple[Any, str]],
    forms: Callable[[argparse.Namespace, ExitStack], dict[str, Turn]],
    turns: int = 3,
    choice: str = "only",
    about: Callable[[argparse.Namespace], Figures] = lambda _: {},
    fault: Callable[[Figures], str] = lambda _: "",
    arguments: list[str] | None = None,
) -> int:
    """Measures all forms in turn, prints and keeps them; returns 1 if one has a `fault` in its columns.

    `forms` starts what all turns share in the stack. `choice` names the option that chooses forms. `about` is kept
    beside the figures.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, {**options, choice: ("", "only those with one of these words in their name, comma-separated")})
    parser.add_argument("--turns", type=int, default=turns, help=f"(default {turns})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures in this file")
    chosen = parser.parse_args(arguments)
    many_descriptors()
    found: dict[str, list[Figures]] = {}
    try:
        with ExitStack() as stack:
            measures = forms(chosen, stack)
            words = [word for word in getattr(chosen, choice).split(",") if word]
            if unknown := [word for word in words if not any(word in name for name in measures)]:
                parser.error(f"--{choice}: no {', '.join(unknown)} (there are {'; '.join(measures)})")
            found = {name: [] for name in measures if not words or any(word in name for word in words)}
            for number in range(chosen.turns):
                for name, runs in found.items():
                    runs.append(measures[name](number))
                    print(f"{name} {number + 1}/{chosen.turns}: {shown(runs[-1])}", file=sys.stderr, flush=True)
    except (BenchError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error} (to build it: make -C bench load hop)")
    faults = []
    for name, runs in found.items():
        table = columns(runs)
        for figure, values in table.items():
            known = [value for value in values if not isinstance(value, str)]
            print(f"{name}: {figure} {spread(known) or values}")
        faults += [f"{name}: {told}"] if (told := fault(table)) else []
    keep(chosen.json, found, **about(chosen))
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0
