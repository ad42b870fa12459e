"""How a tool keeps its figures in a file of results (results.py): with date, machine, versions and its own command.

Some tools are run in several forms, each by a call of its own: all forms are in one file, each with the date, the
commit and the command of the call that measured it last.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from machine import description
from results import Figures, write


def add_json(parser: argparse.ArgumentParser) -> None:
    """Give the parser `--json FILE`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures there (default: nowhere)")


def command(arguments: list[str]) -> str:
    """What was typed, without this machine's places and without where it was kept."""
    words, skip = [], False
    for word in arguments:
        if not skip and not word.startswith("--json"):
            words.append(f"…/{Path(word).name}" if word.startswith("/") else word)
        skip = word == "--json"
    return shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *words])


def keep(file: Path, tool: str, figures: Figures) -> None:
    """Write a file of the tool's figures."""
    write(file, {**description(), "command": command(sys.argv[1:]), tool: figures})


def merged(before: Figures, forms: Figures, call: Figures, common: Figures) -> Figures:
    """The figures of a file in which these forms take the place of those of the same names.

    Others stay, unless what all forms of the file have in common was something else then.
    """
    same = all(before.get(name) == value for name, value in common.items())
    old = before if same else {}
    return {
        **common,
        "forms": {**old.get("forms", {}), **forms},
        "calls": {**old.get("calls", {}), **dict.fromkeys(forms, call)},
    }


def keep_forms(file: Path, tool: str, forms: dict[str, list[Figures]], **common: Any) -> None:
    """Write these forms' turns, beside those of others that the file has."""
    before = json.loads(file.read_text(encoding="utf-8")).get(tool, {}) if file.exists() else {}
    head = {**description(), "command": command(sys.argv[1:])}
    call = {"date": head["date"], "commit": head["versions"].get("commit", ""), "command": head["command"]}
    write(file, {**head, tool: merged(before, dict(forms), call, common)})
