"""Queries to the loops of a node, for operators: list its rooms or a room's members, close a user's connections.

A query to a loop is a bounded step (signal_core/loop/admin_query.pxd). This module combines the steps. All of it runs
on the control thread, which receives the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from signal_py.base.aio import with_timeout
from signal_py.base.errors import EngineError

if TYPE_CHECKING:
    from signal_core.engine import Core

PATIENCE = 2.0  # seconds for a loop's answer
AT_ONCE = 64  # queries to loops at a time; further ones wait
ROOMS, COUNTS, MEMBERS, CLOSE = 1, 2, 3, 4  # signal_core/loop/admin_query.pxd
ALL = (1 << 64) - 1  # a cursor before the last member, where a list begins
TEXT = 32 * 1024  # maximum bytes of a loop's answer
LONGEST = 256  # bytes of the longest line; a loop answers with one line even if it exceeds the limit
MAX_LINES = 65535  # maximum lines of a loop's answer
ENDED = "The engine is not running."
NAMES_AT_ONCE = 200  # rooms counted by one query


@dataclass(frozen=True)
class RoomPage:
    """A page of the rooms of this node. The rooms of users are not listed.

    rooms  the number of members on this node, by room
    next   what `after` of the next page takes; "" on the last page
    """

    rooms: dict[str, int]
    next: str = ""


@dataclass(frozen=True)
class Member:
    """A member of a room.

    peer  its address
    user  its user; None if it has none
    """

    peer: str
    user: str | None = None


@dataclass(frozen=True)
class MemberPage:
    """A page of the members of a room on this node.

    members  the members of this page
    count    the number of all members on this node
    next     what `after` of the next page takes; "" on the last page
    """

    members: tuple[Member, ...]
    count: int
    next: str = ""


class Inspection:
    """Queries the loops of one engine. For the control thread only."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting: dict[int, asyncio.Future[tuple[int, str]]] = {}
        self._open = True
        self._number = 0
        self._turns = asyncio.Semaphore(AT_ONCE)

    def listed(self, number: int, next_: int, text: str) -> None:
        """Takes the answer of a loop.

        number  the number of the query
        next_   the cursor to go on from; 0: the loop has no more
        text    the lines of the answer
        """
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result((next_, text))

    async def close(self) -> None:
        """Fails the queries that wait, and all later ones, with EngineError. Call once the loops have ended."""
        self._open = False
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(EngineError(ENDED))
        while self._waiting or self._turns.locked():
            await asyncio.sleep(0)

    async def _ask(self, loop: int, what: int, cursor: int, value: int, name: str = "") -> tuple[int, list[str]]:
        """Queries a loop. Returns the cursor to go on from, and its lines. Raises EngineError."""
        async with self._turns:
            return await self._answer(loop, what, cursor, value, name)

    async def _answer(self, loop: int, what: int, cursor: int, value: int, name: str) -> tuple[int, list[str]]:
        from signal_core.engine import CoreError

        if not self._open:
            raise EngineError(ENDED)
        self._number += 1
        number = self._number
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            data = name.encode("latin-1")
            self._core.inquire(loop, what, number=number, cursor=cursor, value=value, data=data)
            next_, text = await with_timeout(waiting, PATIENCE)
        except asyncio.TimeoutError:
            raise EngineError(f"loop {loop} did not answer in {PATIENCE:g} s") from None
        except CoreError as error:
            raise EngineError(str(error)) from None
        finally:
            del self._waiting[number]
        return next_, text.removesuffix("\n").split("\n") if text else []

    async def rooms(self, limit: int, after: str = "", most: int = TEXT) -> RoomPage:
        """Returns at most `limit` rooms with at most `most` bytes of names. `after`: `next` of the previous page."""
        loop, cursor = _position(after, 0)
        last = self._core.nloops
        names: list[str] = []
        while loop < last and len(names) < limit and most > LONGEST:
            cursor, found = await self._ask(loop, ROOMS, cursor, _limits(limit - len(names), most))
            names += found
            most -= sum(len(name) + 1 for name in found)
            loop += not cursor
        counts = await self.counts(names)
        if loop < last or len(names) == limit or most <= LONGEST:
            return RoomPage(counts, f"{loop}.{cursor}")
        return await self._alone(counts, cursor, limit, most)

    async def _alone(self, counts: dict[str, int], begin: int, limit: int, most: int) -> RoomPage:
        """Adds, to the last page, rooms that only the embedding program is in, with at most `most` bytes of names."""
        rooms = self._core.local_peer_rooms
        end, last = begin, min(len(rooms), begin + limit - len(counts))
        while end < last and most > LONGEST:
            most -= len(rooms[end]) + 1
            end += 1
        found = await self.counts(rooms[begin:end])
        counts |= {name: count for name, count in found.items() if count == 1}
        return RoomPage(counts, f"{self._core.nloops}.{end}" if end < len(rooms) else "")

    async def counts(self, names: Sequence[str]) -> dict[str, int]:
        """Returns the number of members of each room."""
        counts = dict.fromkeys(names, 0)
        for begin in range(0, len(names), NAMES_AT_ONCE):
            some = names[begin : begin + NAMES_AT_ONCE]
            for loop in range(self._core.nloops):
                _, found = await self._ask(loop, COUNTS, 0, 0, "\n".join(some))
                for name, count in zip(some, found, strict=True):
                    counts[name] += int(count)
        for name in self._core.local_peer_rooms:
            if name in counts:
                counts[name] += 1
        return counts

    async def members(self, room: str, limit: int, after: str = "", most: int = TEXT) -> MemberPage:
        """Returns members of a room. The arguments are those of `rooms`."""
        loop, cursor = _position(after, ALL)
        count = (await self.counts([room]))[room]
        found = [Member(self._core.address)] if not after and room in self._core.local_peer_rooms else []
        while loop < self._core.nloops and len(found) < limit and most > LONGEST:
            cursor, lines = await self._ask(loop, MEMBERS, cursor, _limits(limit - len(found), most), room)
            found += [_member(line) for line in lines]
            most -= sum(len(line) + 1 for line in lines)
            if cursor == 0:
                loop, cursor = loop + 1, ALL
        return MemberPage(tuple(found), count, f"{loop}.{cursor}" if loop < self._core.nloops else "")

    async def disconnect_user(self, user: str, code: int) -> int:
        """Closes all connections of a user on this node. Returns how many there were."""
        closed = 0
        for loop in range(self._core.nloops):
            cursor = ALL
            while cursor:
                cursor, lines = await self._ask(loop, CLOSE, cursor, code, f"@{user}")
                closed += int(lines[0])
        return closed


def _position(after: str, begin: int) -> tuple[int, int]:
    """Returns the loop and the cursor that `after` holds."""
    if not after:
        return 0, begin
    loop, cursor = after.split(".")
    return int(loop), min(int(cursor), ALL)


def _limits(lines_left: int, most: int) -> int:
    """Returns the limits of an answer, lines and bytes, as the core takes them."""
    return min(lines_left, MAX_LINES) << 16 | min(most, TEXT)


def _member(line: str) -> Member:
    peer, _, rest = line.partition(" user=")
    return Member(peer, rest or None)
