"""The answers of nodes to an operator: classes of the public API of signal_py.control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    node       its name
    version    the version of signal-engine
    control    the version of the control plane that it speaks
    listen     the URLs of the addresses that it is bound to
    advertise  the URL by which clients reach it; "" if it has none
    nodes      how many nodes of the cluster it knows of, including itself; 0 if it does not say
    """

    node: str
    version: str
    control: int
    listen: tuple[str, ...]
    advertise: str = ""
    nodes: int = 0


@dataclass(frozen=True)
class Stats:
    """The counters of one node.

    node     its name
    total    every counter by name, summed over its loops
    general  everything else: state, uptime, versions and so on
    """

    node: str
    total: Mapping[str, int]
    general: Mapping[str, Any]


@dataclass(frozen=True)
class Drained:
    """A node that has begun to drain.

    node         its name
    connections  the number of its connections when the drain began
    drain_time   the seconds until the last one is closed
    """

    node: str
    connections: int
    drain_time: float


@dataclass(frozen=True)
class Disconnected:
    """How many connections a node has closed with 4009.

    node          the name of the node
    disconnected  the number of connections
    """

    node: str
    disconnected: int


@dataclass(frozen=True)
class Room:
    """A room of the cluster.

    room     its name
    members  the number of its members
    nodes    the number of members on each node
    """

    room: str
    members: int
    nodes: Mapping[str, int]


@dataclass(frozen=True)
class RoomsPage:
    """A page of the rooms of one node.

    node   the name of the node
    rooms  the number of members on this node, by room
    next   what `after` of the next page takes; "" on the last page
    """

    node: str
    rooms: Mapping[str, int]
    next: str


@dataclass(frozen=True)
class Member:
    """A member of a room.

    node  the name of its node
    peer  its address
    user  its user; None if it has none
    """

    node: str
    peer: str
    user: str | None = None


@dataclass(frozen=True)
class MembersPage:
    """A page of the members of a room on one node.

    node     the name of the node
    members  the members of this page
    count    the number of all members on this node
    next     what `after` of the next page takes; "" on the last page
    """

    node: str
    members: tuple[Member, ...]
    count: int
    next: str


@dataclass(frozen=True)
class Refused:
    """A node that answered with an error.

    node  its name
    code  bad-request, unknown-command, unsupported-version or unavailable
    text  what is wrong
    """

    node: str
    code: str
    text: str


@dataclass(frozen=True)
class Gathered(Generic[T]):
    """The answers of the nodes to one request.

    answers  one for each node that answered; of `rooms` and `members`, one for each room or member
    silent   the names of nodes that did not answer in time
    refused  the nodes that answered with an error
    nodes    how many nodes answered
    more     whether a list is longer than the limit of the request
    unheard  how many further nodes the others know of: they are slow, were lost a moment ago, or have `control` off
    """

    answers: tuple[T, ...]
    silent: tuple[str, ...]
    refused: tuple[Refused, ...]
    nodes: int
    more: bool = False
    unheard: int = 0

    @property
    def complete(self) -> bool:
        """Whether every node of the cluster has answered, without an error."""
        return not self.silent and not self.refused and not self.unheard

    def first(self, limit: int, answers: Iterable[U], more: bool) -> Gathered[U]:
        """Returns a copy with other answers.

        limit    the maximum number of answers that are kept
        answers  the other answers
        more     whether the nodes have more than these
        """
        found = tuple(answers)
        return Gathered(found[:limit], self.silent, self.refused, self.nodes, more or len(found) > limit, self.unheard)
