"""Parses the command line. An error about a mistyped command, flag, variable or key suggests the nearest one."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from signal_py.base.errors import ConfigError, Fault
from signal_py.base.log import say
from signal_py.config.origin import Origin

FAILED = 1  # exit status if something was refused or lost, or could not be printed
MISUSE = 2  # exit status for a mistake of the user
ALIKE = 0.6  # similarity of two names, from 0 to 1, above which one may be a misspelling of the other
PREFIX = "SIGNAL_ENGINE_"
# Kubernetes sets these for a service that is called signal-engine.
FOREIGN = re.compile(PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
NOT_A_NUMBER = re.compile(r"argument (\S+): invalid (int|float) value: (.*)", re.DOTALL)  # argparse's error
NUMBERS = {"int": "a whole number", "float": "a number"}


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Prints the sentence, and exits with MISUSE."""
        message = NOT_A_NUMBER.sub(lambda found: f"{found[1]} must be {NUMBERS[found[2]]}, not {found[3]}", message)
        say(f"{message}: see '{self.prog} --help'.")
        sys.exit(MISUSE)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Unlike argparse's, raises an OSError if the message can't be written."""
        if message:
            (file or sys.stderr).write(message)


def nearest(word: str, names: Iterable[str]) -> str:
    """Returns the most similar name; "" if none is similar. Prefers one with the same letters: for atuh, auth."""
    near = difflib.get_close_matches(word, list(names), 5, ALIKE)
    return max(near, key=lambda name: sorted(name) == sorted(word), default="")


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses a command line. For mistakes, prints one sentence each and exits with MISUSE."""
    command = command_of(parser, arguments)
    options, left = parser.parse_known_args(arguments)
    if left:
        *others, last = _extra(command, left)
        for other in others:
            say(f"{other}.")
        command.error(last)
    return options


def _extra(command: Parser, left: Sequence[str]) -> list[str]:
    """Returns what is wrong with the arguments that a command does not take. If one is a flag, others may be values."""
    wrong = []
    for flag in dict.fromkeys(each.partition("=")[0] for each in left if each.startswith("-") and each != "-"):
        text = f"{flag} is not an option of '{command.prog}'"
        if not flag.startswith("--"):
            wrong.append(f"{text}: write -- before it if it is an argument")
        else:
            near = nearest(flag, (name for name in flags_of(command) if name.startswith("--")))
            wrong.append(text + (f": write {near}" if near else ""))
    return wrong or [f"'{left[0]}' is an extra argument for '{command.prog}'"]


def command_of(parser: Parser, arguments: Sequence[str]) -> Parser:
    """Returns the parser of the command that the first arguments name. Exits as `parse` for an unknown one."""
    for argument in arguments:
        commands = commands_of(parser)
        if not commands or argument.startswith("-"):
            break
        if argument not in commands:
            near = nearest(argument, commands)
            fix = f"write {near}" if near else f"use one of {', '.join(commands)}"
            parser.error(f"'{argument}' is not a command: {fix}")
        parser = commands[argument]
    return parser


def commands_of(parser: argparse.ArgumentParser) -> Mapping[str, Parser]:
    """Returns the parsers of the commands by name; none for a command without commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found: Mapping[str, Parser] = action.choices
            return found
    return {}


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """Returns the flags of a command, short and long."""
    return [flag for action in parser._actions for flag in action.option_strings]


def check_variables(environ: Mapping[str, str], known: Iterable[str], read: Iterable[str]) -> None:
    """Raises ConfigError for unknown variables that are probably misspellings of some that the command reads.

    Other unknown variables are ignored, since they may belong to other programs.

    environ  the environment
    known    the variables of all commands
    read     the variables of this command
    """
    short = {name.removeprefix(PREFIX): name for name in known}
    wanted, faults = set(read), []
    for name in environ:
        if name.startswith(PREFIX) and name not in short.values() and not FOREIGN.fullmatch(name):
            near = short.get(nearest(name.removeprefix(PREFIX), short), "")
            if near in wanted:
                text = f"{name} is not a variable of signal-engine: write {near}, or unset it."
                faults.append(Fault(text, "", Origin.of_variable(name)))
    if faults:
        raise ConfigError(*faults)
