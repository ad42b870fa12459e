"""What `signal-engine completion` prints: a script by which a shell completes commands, flags and their values."""

from __future__ import annotations

import argparse

import shtab

from signal_py.config.parsing import Parser, commands_of

SHELLS = ("bash", "zsh", "fish")
PLACES = {
    "bash": "~/.local/share/bash-completion/completions/signal-engine",
    "zsh": "_signal-engine in a folder of $fpath",
    "fish": "~/.config/fish/completions/signal-engine.fish",
}
DESCRIPTION = "Prints a completion script. Save it as " + ", ".join(
    f"{place} ({shell})" for shell, place in PLACES.items()
)


def script(parser: Parser, shell: str) -> str:
    """The script; changes the parser, which is no good for parsing any more."""
    _prepare(parser)
    return str(shtab.complete(parser, shell))


def _prepare(parser: argparse.ArgumentParser) -> None:
    """Says which values are files, and which are some of a few words: the settings themselves check those, to name what
    was wrong as it was given."""
    for action in parser._actions:
        form = action.metavar if isinstance(action.metavar, str) else ""
        if form in ("FILE", "FILE|URL"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif "|" in form and form.replace("|", "").islower():
            action.choices = form.split("|")
    for command in commands_of(parser).values():
        _prepare(command)
