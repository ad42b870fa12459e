"""Parses the command line. An error about a mistyped command, flag, variable or key suggests the nearest one."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from signal_py.base.errors import ConfigError
from signal_py.base.log import say

MISUSE = 2  # exit status for a mistake of the user
ALIKE = 0.6  # similarity of two words, from 0 to 1, above which one may be a misspelling of the other
PREFIX = "SIGNAL_ENGINE_"
# Kubernetes sets these for a service that is called signal-engine.
FOREIGN = re.compile(PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


class Parser(argparse.ArgumentParser):
    """Reports an error in one sentence."""

    def error(self, message: str) -> NoReturn:
        say(f"signal-engine: {message}: see '{self.prog} --help'.")
        sys.exit(MISUSE)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Unlike argparse's, it raises errors of writing."""
        if message:
            (file or sys.stderr).write(message)


def nearest(word: str, names: Iterable[str]) -> str:
    """Returns the most similar name; "" if none is similar. One with the same letters is preferred: atuh is auth."""
    near = difflib.get_close_matches(word, list(names), 5, ALIKE)
    return max(near, key=lambda name: sorted(name) == sorted(word), default="")


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parses a command line. For a mistake, ends the process with MISUSE and one sentence."""
    command = command_of(parser, words)
    options, left = parser.parse_known_args(words)
    if left:
        word = next((word for word in left if word.startswith("-") and word != "-"), left[0])
        if word.startswith("--"):
            flag = word.partition("=")[0]
            near = nearest(flag, (name for name in flags_of(command) if name.startswith("--")))
            command.error(f"{flag} is not an option of '{command.prog}'" + (f": write {near}" if near else ""))
        if word.startswith("-"):
            command.error(f"{word} is not an option of '{command.prog}': write -- before it if it is an argument")
        command.error(f"'{word}' is an extra argument for '{command.prog}'")
    return options


def command_of(parser: Parser, words: Sequence[str]) -> Parser:
    """Returns the command that the first words name. Ends the process as `parse` if there is none."""
    for word in words:
        commands = commands_of(parser)
        if not commands or word.startswith("-"):
            break
        if word not in commands:
            near = nearest(word, commands)
            wanted = f"write {near}" if near else f"use one of {', '.join(commands)}"
            parser.error(f"'{word}' is not a command: {wanted}")
        parser = commands[word]
    return parser


def commands_of(parser: argparse.ArgumentParser) -> Mapping[str, Parser]:
    """Returns the commands of a parser by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found: Mapping[str, Parser] = action.choices
            return found
    return {}


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def check_variables(environ: Mapping[str, str], known: Iterable[str], read: Iterable[str]) -> None:
    """Raises ConfigError for an unknown variable that is most similar to one that is `read` here.

    Other unknown variables are ignored, since they may belong to other programs.
    """
    short = {name.removeprefix(PREFIX): name for name in known}
    wanted = set(read)
    for name in environ:
        if name.startswith(PREFIX) and name not in short.values() and not FOREIGN.fullmatch(name):
            near = short.get(nearest(name.removeprefix(PREFIX), short), "")
            if near in wanted:
                raise ConfigError(f"{name} is not a variable of signal-engine: write {near}, or unset it.")
