"""What a node does for operators: each command of the control plane, from a request's fields to its answer's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from signal_py.controlwire import Fields

GENERAL = ("version", "state", "uptime", "listening", "descriptors", "nats_state", "service_dropped", "total")


class Orders:
    """Called on the deciding thread; what blocks is done on another."""

    def __init__(self, stats: Callable[[], Mapping[str, Any]], drain: Callable[[], Mapping[str, Any]]) -> None:
        """`drain` begins to send the clients away, and tells what that leads to."""
        self._stats = stats
        self._drain = drain

    def commands(self) -> dict[str, Callable[[Fields], Any]]:
        return {"stats": self.stats, "drain": self.drain}

    async def stats(self, fields: Fields) -> dict[str, object]:
        """What is counted, in all loops together."""
        found = await asyncio.to_thread(self._stats)
        return {name: found[name] for name in GENERAL if name in found}

    async def drain(self, fields: Fields) -> dict[str, object]:
        found = await asyncio.to_thread(self._drain)
        return {name: found[name] for name in ("connections", "drain_time")}
