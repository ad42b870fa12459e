"""What a person typed, taken apart; a mistyped command, flag, variable or key is told with the nearest right one."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from signal_py.base.errors import ConfigError
from signal_py.base.log import say

MISUSE = 2  # exit status where the person who called must mend something
ALIKE = 0.6  # of two words, from 0 to 1, where one is taken for a misspelling of the other
PREFIX = "SIGNAL_ENGINE_"
# Kubernetes sets these for a service that is called signal-engine.
FOREIGN = re.compile(PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


class Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong."""

    def error(self, message: str) -> NoReturn:
        say(f"signal-engine: {message}: see '{self.prog} --help'.")
        sys.exit(MISUSE)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Unlike argparse's it lets a failure be known."""
        if message:
            (file or sys.stderr).write(message)


def nearest(word: str, names: Iterable[str]) -> str:
    """The name that was meant; "" where none is like it. Those of the same letters come first: atuh is auth."""
    near = difflib.get_close_matches(word, list(names), 5, ALIKE)
    return max(near, key=lambda name: sorted(name) == sorted(word), default="")


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Ends the process with MISUSE and a sentence where they can't be understood."""
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
    """The command that the first words name. Ends the process as `parse` where there is none such."""
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
    """Its commands, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found: Mapping[str, Parser] = action.choices
            return found
    return {}


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def check_variables(environ: Mapping[str, str], known: Iterable[str], read: Iterable[str]) -> None:
    """Raises ConfigError for a variable that is none of those known, and most like one of those that are `read` here.
    Others are left alone: they may be somebody else's."""
    short = {name.removeprefix(PREFIX): name for name in known}
    wanted = set(read)
    for name in environ:
        if name.startswith(PREFIX) and name not in short.values() and not FOREIGN.fullmatch(name):
            near = short.get(nearest(name.removeprefix(PREFIX), short), "")
            if near in wanted:
                raise ConfigError(f"{name} is not a variable of signal-engine: write {near}, or unset it.")
