"""Where an engine, or a Control, belongs: the process, the thread and the asyncio loop that it is used on first."""

from __future__ import annotations

import asyncio
import os
import threading

from signal_py.base.errors import EngineError

BELONGS = "must be used on the asyncio loop that started it"
HAND_OVER = (
    "hand the call over with asyncio.run_coroutine_threadsafe(…, loop), "
    "or with loop.call_soon_threadsafe for a plain function"
)


class Affinity:
    """Of one of them. Any thread may ask."""

    def __init__(self, what: str = "An engine") -> None:
        """`what` begins sentences about it."""
        self._what = what
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._pid = os.getpid()

    def moves(self) -> bool:
        """Whether this is a child made by fork(), which has it from here on. Raises EngineError where it was used
        before that."""
        if os.getpid() == self._pid:
            return False
        if self.loop is not None:
            raise EngineError(f"{self._what} can't be used in a child made by fork(): make a new one there.")
        self._pid = os.getpid()
        return True

    def enter(self, last: bool = False) -> None:
        """On an asyncio loop, which is its loop if there was none, or, for the `last` call, none any more. Raises
        EngineError on another."""
        if self.loop is None or (last and self.loop.is_closed()):
            self.loop = asyncio.get_running_loop()
            self._thread = threading.get_ident()
        self.check()

    def check(self) -> None:
        """Raises EngineError but on its loop. No effect before it has one."""
        self.moves()
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self.loop is None or running is self.loop:
            return
        if self.loop.is_closed():
            raise EngineError(f"{self._what} {BELONGS}, which is closed: make a new one.")
        where = "another asyncio loop" if running is not None else "no asyncio loop"
        if threading.get_ident() != self._thread:
            where = f"another thread ({threading.current_thread().name})"
        raise EngineError(f"{self._what} {BELONGS}, and this is {where}: {HAND_OVER}.")
