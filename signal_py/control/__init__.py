"""Operators and nodes on NATS: what is asked, by whom, and what a node answers.

Imports base/, config/ and nats/. `from signal_py.control import Control` is the public way to ask. The client is
imported when it is first used, since a node needs none: nats-py takes 40 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from signal_py.control.gathered import (
    Disconnected,
    Drained,
    Gathered,
    Member,
    MembersPage,
    Node,
    Refused,
    Room,
    RoomsPage,
    Stats,
)

if TYPE_CHECKING:
    from signal_py.control.client import Control, ControlError

__all__ = [
    "Control",
    "ControlError",
    "Disconnected",
    "Drained",
    "Gathered",
    "Member",
    "MembersPage",
    "Node",
    "Refused",
    "Room",
    "RoomsPage",
    "Stats",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from signal_py.control import client

    return getattr(client, name)
