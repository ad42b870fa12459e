"""What nodes answer an operator, as Python objects (signal_py.control)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Node:
    """A node that answers: `control` is the version of the control plane that it speaks, `listen` has the URLs that it
    is bound to, `advertise` the one by which clients reach it, "" where it names none; `nodes` is how many nodes it
    hears of in the cluster, itself among them, 0 where it doesn't tell."""

    node: str
    version: str
    control: int
    listen: tuple[str, ...]
    advertise: str = ""
    nodes: int = 0


@dataclass(frozen=True)
class Stats:
    """Of one node: `total` has every counter, `general` the rest (state, uptime, …)."""

    node: str
    total: Mapping[str, int]
    general: Mapping[str, Any]


@dataclass(frozen=True)
class Drained:
    """A node that drains now: its connections then, and the seconds that they have."""

    node: str
    connections: int
    drain_time: float


@dataclass(frozen=True)
class Disconnected:
    """How many connections a node closed, with 4009."""

    node: str
    disconnected: int


@dataclass(frozen=True)
class Room:
    """A room with members, in all and by node."""

    room: str
    members: int
    nodes: Mapping[str, int]


@dataclass(frozen=True)
class RoomsPage:
    """Some of a node's rooms, with their members there; `next` goes on, "" at the end."""

    node: str
    rooms: Mapping[str, int]
    next: str


@dataclass(frozen=True)
class Member:
    node: str
    peer: str
    user: str | None = None


@dataclass(frozen=True)
class MembersPage:
    """Some of a room's members on a node, and how many all are; `next` goes on, "" at the end."""

    node: str
    members: tuple[Member, ...]
    count: int
    next: str


@dataclass(frozen=True)
class Refused:
    """A node that answered with an error: bad-request, unknown-command, unsupported-version, unavailable."""

    node: str
    code: str
    text: str


@dataclass(frozen=True)
class Gathered(Generic[T]):
    """What so many `nodes` answered.

    silent   nodes that are known to be there, and did not answer in time
    more     of a list: there are more than were asked for
    unheard  how many nodes more are heard of by those that are there: late, lost a moment ago, or with `control` off
    """

    answers: tuple[T, ...]
    silent: tuple[str, ...]
    refused: tuple[Refused, ...]
    nodes: int
    more: bool = False
    unheard: int = 0

    @property
    def complete(self) -> bool:
        """Whether every node of the cluster has answered."""
        return not self.silent and not self.refused and not self.unheard

    def first(self, limit: int, answers: Iterable[U], more: bool) -> Gathered[U]:
        """The first of other answers of the same nodes; `more`: the nodes have not told all."""
        found = tuple(answers)
        return Gathered(found[:limit], self.silent, self.refused, self.nodes, more or len(found) > limit, self.unheard)
