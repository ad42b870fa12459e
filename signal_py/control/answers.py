"""Reads the answers of nodes into the public classes of control/gathered.py. No I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from signal_py.control.gathered import Member, MembersPage, Node, RoomsPage
from signal_py.control.wire import NODE, NUMBER_TEXT, Fields, WireError, parse_ping


def count_of(fields: Fields, name: str) -> int:
    value = fields.get(name, 0)
    return value if isinstance(value, int) else 0


def rooms_page_of(node: str, fields: Fields) -> RoomsPage:
    rooms = {str(name): int(count) for name, count in fields["rooms"].items()}
    return RoomsPage(node, rooms, str(fields.get("next", "")))


def members_page_of(node: str, fields: Fields) -> MembersPage:
    members = tuple(Member(node, str(one["peer"]), one.get("user")) for one in fields["members"])
    return MembersPage(node, members, count_of(fields, "count"), str(fields.get("next", "")))


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
    heard = int(nodes) if NUMBER_TEXT.fullmatch(nodes) else 0
    return Node(about["node"], about.get("version", ""), version, listen, about.get("advertise", ""), heard)
