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

from contenders import parse_names
from machine import description
from results import Figures, columns, digits_of, spread, write
from servers import BenchError, many_descriptors

Turn = Callable[[int], Figures]  # measures turn n, counted from 0


def nothing(*_: object) -> str:
    """For a tool that judges nothing."""
    return ""


def about_nothing(_options: argparse.Namespace) -> Figures:
    """For a tool that keeps nothing beside its figures."""
    return {}


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
    choice: tuple[str, tuple[str, ...]] = ("", ()),
    about: Callable[[argparse.Namespace], Figures] = about_nothing,
    judge: Callable[[str, Figures], str] = nothing,
    arguments: list[str] | None = None,
) -> int:
    """Measures all forms in turn, prints and keeps them. Returns 1 if `judge` finds a fault in a form's columns.

    `forms` starts what all turns share in the stack. `choice` is an option that restricts the forms, and their names.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    option, names = choice
    add_options(parser, options | ({option: (",".join(names), "which")} if option else {}))
    parser.add_argument("--turns", type=int, default=turns, help=f"(default {turns})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures in this file")
    chosen = parser.parse_args(arguments)
    many_descriptors()
    try:
        only = parse_names(getattr(chosen, option), names, option.rstrip("s")) if option else []
    except ValueError as error:
        parser.error(str(error))
    found: dict[str, list[Figures]] = {}
    try:
        with ExitStack() as stack:
            measured = {name: turn for name, turn in forms(chosen, stack).items() if not option or name in only}
            for number in range(chosen.turns):
                for name, turn in measured.items():
                    found.setdefault(name, []).append(turn(number))
                    print(f"{name} {number + 1}/{chosen.turns}: {shown(found[name][-1])}", file=sys.stderr, flush=True)
    except (BenchError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error} (to build it: make -C bench load hop)")
    faults = []
    for name, runs in found.items():
        table = columns(runs)
        for figure, values in table.items():
            known = [value for value in values if not isinstance(value, str)]
            print(f"{name}: {figure} {spread(known) or values}")
        faults += [f"{name}: {fault}"] if (fault := judge(name, table)) else []
    keep(chosen.json, found, **about(chosen))
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0
