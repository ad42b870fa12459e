"""The command `completion`: prints a script by which a shell completes commands, flags and their values."""

from __future__ import annotations

import argparse

import shtab

from signal_py.config.parsing import Parser, commands_of

SHELLS = ("bash", "zsh", "fish")
FILES = {
    "bash": "~/.local/share/bash-completion/completions/signal-engine",
    "zsh": "_signal-engine in a folder of $fpath",
    "fish": "~/.config/fish/completions/signal-engine.fish",
}
DESCRIPTION = (
    "Prints a completion script. Save it as " + ", ".join(f"{path} ({shell})" for shell, path in FILES.items()) + "."
)


def script(parser: Parser, shell: str) -> str:
    """Returns the script for one of SHELLS. Changes the parser, which can't be used to parse afterwards."""
    _prepare(parser)
    return str(shtab.complete(parser, shell))


def _prepare(parser: argparse.ArgumentParser) -> None:
    """Tells shtab which values are files, and which have choices.

    The parser itself has no choices, since settings check their values: an error then names how a value was given.
    """
    for action in parser._actions:
        form = action.metavar if isinstance(action.metavar, str) else ""
        if form in ("FILE", "FILE|URL"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif "|" in form and form.replace("|", "").islower():
            action.choices = form.split("|")
    for command in commands_of(parser).values():
        _prepare(command)
