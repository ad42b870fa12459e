"""Reads the answers of nodes into the public classes of control/gathered.py. No I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from signal_py.config.changes import Change, Reloaded
from signal_py.config.types import NODE
from signal_py.control.gathered import Gathered, Member, MembersPage, Node, Refused, RoomsPage
from signal_py.control.wire import NUMBER_TEXT, Fields, WireError, parse_answer, parse_ping

T = TypeVar("T")


class Answers(Generic[T]):
    """Collects the answers of nodes to one command."""

    def __init__(self, known: set[str], expected: int, read: Callable[[str, Fields], T]) -> None:
        """Has no answers yet.

        known     the names of the nodes that should answer
        expected  how many nodes there are, with those whose names are not known
        read      makes a result from the name of a node and the fields of its answer
        """
        self._known = known
        self._expected = expected
        self._read = read
        self._results: dict[str, T] = {}
        self._refused: dict[str, Refused] = {}

    def take(self, data: bytes) -> bool:
        """Takes an answer. Returns whether all known nodes have answered. Ignores anything else."""
        try:
            fields = parse_answer(data)
            name = fields["node"]
            if "error" in fields:
                self._refused[name] = Refused(name, str(fields["error"]), str(fields.get("text", "")))
            else:
                self._results[name] = self._read(name, fields)
        except (WireError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return False
        return self._known <= {*self._results, *self._refused}

    def gathered(self) -> Gathered[T]:
        """Returns the results, and which nodes gave none."""
        answered = {*self._results, *self._refused}
        return Gathered(
            tuple(self._results[name] for name in sorted(self._results)),
            tuple(sorted(self._known - answered)),
            tuple(self._refused[name] for name in sorted(self._refused)),
            len(self._results),
            unheard=max(0, self._expected - len(self._known | answered)),
        )


def count_of(fields: Fields, name: str) -> int:
    """Returns a field that is a whole number; 0 if it is absent or something else."""
    value = fields.get(name, 0)
    return value if isinstance(value, int) else 0


def rooms_page_of(node: str, fields: Fields) -> RoomsPage:
    """Returns the page in an answer to `rooms`. Raises an exception of Python for a malformed one."""
    rooms = {str(name): int(count) for name, count in fields["rooms"].items()}
    return RoomsPage(node, rooms, str(fields.get("next", "")))


def members_page_of(node: str, fields: Fields) -> MembersPage:
    """Returns the page in an answer to `members`. Raises an exception of Python for a malformed one."""
    members = tuple(Member(node, str(one["peer"]), one.get("user")) for one in fields["members"])
    return MembersPage(node, members, count_of(fields, "count"), str(fields.get("next", "")))


def reloaded_of(node: str, fields: Fields) -> Reloaded:
    """Returns what a reload did, from the answer to `reload`. Raises an exception of Python for a malformed one."""
    changed, restart = (
        tuple(Change(str(one["setting"]), one["old"], one["new"]) for one in fields[name])
        for name in ("changed", "restart")
    )
    return Reloaded(changed, restart, count_of(fields, "unchanged"), node)


def node_of(data: bytes, prefix: str) -> Node | None:
    """Returns the node that answered a PING; None if it is not a node of this cluster."""
    about: Mapping[str, str] = {}
    with contextlib.suppress(WireError):
        about = parse_ping(data)
    if about.get("prefix") != prefix or not NODE.fullmatch(about.get("node", "")):
        return None
    control = about.get("control", "")
    version = int(control) if NUMBER_TEXT.fullmatch(control) else 0
    listen = tuple(url for url in about.get("listen", "").split(",") if url)
    nodes = about.get("nodes", "")
    known = int(nodes) if NUMBER_TEXT.fullmatch(nodes) else 0
    return Node(about["node"], about.get("version", ""), version, listen, about.get("advertise", ""), known)
