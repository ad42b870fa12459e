"""Finds the lines of a TOML file that its keys are on, which tomllib does not tell."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_PARSED = 16 << 20  # bytes parsed for one file; the keys behind them have no line
STATEMENT = re.compile(r"[ \t]*\[|.*=")  # on the first line of every statement
BLANK = re.compile(r"[ \t]*(#.*)?\r?\n?")


def lines_of(text: str) -> dict[str, int]:
    """Returns the line, from 1, of each top-level key of a valid TOML document.

    tomllib itself decides where a statement ends: at the first line with which it is valid TOML. So a line inside a
    string or a list is never taken for a key.
    """
    found: dict[str, int] = {}
    in_table = False
    for first, statement in _statements(text):
        is_header = statement.lstrip(" \t").startswith("[")
        if is_header or not in_table:
            for key in tomllib.loads(statement):
                found.setdefault(key, first)
        in_table = in_table or is_header
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yields the statements of a valid document, each with the number of its first line."""
    lines = [line + "\n" for line in text.split("\n")]
    begin, left = 0, MAX_PARSED
    for end in range(1, len(lines) + 1):
        if begin == end - 1 and BLANK.fullmatch(lines[begin]):
            begin = end
        elif _may_end(lines, end):
            statement = "".join(lines[begin:end])
            left -= len(statement)
            if left < 0:
                return
            if _is_valid(statement):
                yield begin + 1, statement
                begin = end


def _may_end(lines: list[str], end: int) -> bool:
    """Returns whether a statement can end before this line, as a statement, a blank line or a comment follows."""
    return end == len(lines) or bool(BLANK.fullmatch(lines[end]) or STATEMENT.match(lines[end]))


def _is_valid(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except (ValueError, RecursionError):
        return False
    return True
