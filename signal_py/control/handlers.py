"""The commands of the control plane, on a node: each makes the fields of an answer from those of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from signal_py.base.errors import ConfigError, EngineError
from signal_py.control.inspection import Inspection, RoomPage
from signal_py.control.wire import CURSOR, NAME, OPERATOR_CLOSE, Fields, WireError, limit_of, names_of, text_of, whom_of

if TYPE_CHECKING:
    from signal_core.engine import Core

GENERAL = (
    "version",
    "state",
    "uptime",
    "listening",
    "advertise",
    "descriptors",
    "nats_state",
    "service_dropped",
    "log_dropped",
    "total",
    "latency",
    "cpu",
    "memory",
)

FAULTS_TEXT = 4096  # characters of the faults of settings in an answer

Command = Callable[[Fields, int], Awaitable[Mapping[str, object]]]


class CommandHandlers:
    """The handlers of commands, for the control thread. Blocking work runs on other threads.

    Each takes the fields of a request and the maximum bytes of names in the answer. Each raises WireError.
    """

    def __init__(
        self,
        core: Core,
        inspection: Inspection,
        stats: Callable[[], Mapping[str, Any]],
        drain: Callable[[], Mapping[str, Any]],
        reload: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`drain` begins a drain, and returns what it will do. `reload` reloads, and returns what it did."""
        self._core = core
        self._inspection = inspection
        self._stats = stats
        self._drain = drain
        self._reload = reload

    def commands(self) -> dict[str, Command]:
        """Returns the handlers by command."""
        handlers: tuple[Command, ...]
        handlers = (self.disconnect, self.drain, self.members, self.reload, self.rooms, self.stats)
        return {handler.__name__: _with_wire_errors(handler) for handler in handlers}

    async def stats(self, fields: Fields, most: int) -> dict[str, object]:
        """Returns the counters, summed over all loops."""
        found = await asyncio.to_thread(self._stats)
        return {name: found[name] for name in GENERAL if name in found}

    async def drain(self, fields: Fields, most: int) -> dict[str, object]:
        """Begins a drain. Returns how many connections it will end, and within how many seconds."""
        found = await asyncio.to_thread(self._drain)
        return {name: found[name] for name in ("connections", "drain_time")}

    async def reload(self, fields: Fields, most: int) -> dict[str, object]:
        """Reloads the settings, all or none. Returns what has changed, and what needs a restart."""
        try:
            found = await asyncio.to_thread(self._reload)
            return {name: found[name] for name in ("changed", "restart", "unchanged")}
        except ConfigError as error:
            text = "; ".join(fault.text for fault in error.faults)
            raise WireError("bad-settings", text[:FAULTS_TEXT]) from None

    async def rooms(self, fields: Fields, most: int) -> dict[str, object]:
        """Returns a page of rooms, or the counts of the rooms in the request."""
        names = names_of(fields)
        if names:
            page = RoomPage(await self._inspection.counts(names))
        else:
            page = await self._inspection.rooms(limit_of(fields), text_of(fields, "after", CURSOR), most)
        return {"rooms": page.rooms, "next": page.next}

    async def members(self, fields: Fields, most: int) -> dict[str, object]:
        """Returns a page of the members of a room."""
        room = text_of(fields, "room", NAME)
        if not room:
            raise WireError("bad-request", "give a 'room'")
        page = await self._inspection.members(room, limit_of(fields), text_of(fields, "after", CURSOR), most)
        members = [{"peer": member.peer, **({"user": member.user} if member.user else {})} for member in page.members]
        return {"members": members, "count": page.count, "next": page.next}

    async def disconnect(self, fields: Fields, most: int) -> dict[str, object]:
        """Closes the connection of a peer, or all connections of a user, with 4009. Returns how many there were."""
        peer, user = whom_of(fields)
        if user:
            return {"disconnected": await self._inspection.disconnect_user(user, OPERATOR_CLOSE)}
        return {"disconnected": int(await asyncio.to_thread(self._core.disconnect, peer, OPERATOR_CLOSE))}


def _with_wire_errors(handler: Command) -> Command:
    """Wraps a handler: an error of the engine becomes the WireError `unavailable`."""

    async def call(fields: Fields, most: int) -> Mapping[str, object]:
        from signal_core.engine import CoreError

        try:
            return await handler(fields, most)
        except (CoreError, EngineError) as error:
            raise WireError("unavailable", str(error)) from None

    return call
