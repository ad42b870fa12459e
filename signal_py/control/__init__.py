"""The control plane: operators inspect and control the nodes of a cluster through NATS (docs/control.md).

Imports base/, config/ and nats/. Programs use `from signal_py.control import Control`. The client is imported when it
is first used, since a node needs none, and nats-py takes 40 ms to import.
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
