"""Where an engine belongs: the process, the thread and the asyncio loop that it is used on first."""

from __future__ import annotations

import asyncio
import os
import threading

from signal_py.errors import EngineError

FORKED = "An engine can't be used in a child made by fork(): make a new one there."
HAND_OVER = (
    "hand the call over with asyncio.run_coroutine_threadsafe(…, loop), "
    "or with loop.call_soon_threadsafe for what is no coroutine"
)


class Place:
    """Of one engine. Any thread may ask."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._pid = os.getpid()

    def moves(self) -> bool:
        """Whether this is a child made by fork(), which has it from here on. Raises EngineError where it was used
        before that."""
        if os.getpid() == self._pid:
            return False
        if self.loop is not None:
            raise EngineError(FORKED)
        self._pid = os.getpid()
        return True

    def enter(self, last: bool) -> None:
        """On an asyncio loop, which is its loop if there was none, or, for the `last` call, none any more. Raises
        EngineError on another."""
        if self.loop is None or (last and self.loop.is_closed()):
            self.loop = asyncio.get_running_loop()
            self._thread = threading.get_ident()
        self.check()

    def check(self) -> None:
        """Raises EngineError but on its loop. No effect before it has one."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self.loop is None or running is self.loop:
            return
        if self.loop.is_closed():
            raise EngineError("The asyncio loop that started this engine is closed: make a new Engine on this one.")
        where = "another asyncio loop" if running is not None else "no asyncio loop"
        if threading.get_ident() != self._thread:
            where = f"another thread ({threading.current_thread().name})"
        raise EngineError(f"An engine is used on the asyncio loop that started it, and this is {where}: {HAND_OVER}.")
