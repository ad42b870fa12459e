"""Ties an Engine or a Control to the process, the thread and the asyncio loop that first use it."""

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
    """The affinity of one object. May be used from any thread."""

    def __init__(self, what: str = "An engine") -> None:
        """`what` names the object at the beginning of an error."""
        self._what = what
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._pid = os.getpid()

    def moves(self) -> bool:
        """Returns whether this is a child made by fork(); the object belongs to it from now on.

        Raises EngineError if the object was used before the fork.
        """
        if os.getpid() == self._pid:
            return False
        if self.loop is not None:
            raise EngineError(f"{self._what} can't be used in a child made by fork(): make a new one there.")
        self._pid = os.getpid()
        return True

    def enter(self, last: bool = False) -> None:
        """Binds the object to the running asyncio loop, if it has none yet.

        The `last` call also binds it if its loop is closed. Raises EngineError on another loop.
        """
        if self.loop is None or (last and self.loop.is_closed()):
            self.loop = asyncio.get_running_loop()
            self._thread = threading.get_ident()
        self.check()

    def check(self) -> None:
        """Raises EngineError on any loop but its own. No effect before it is bound."""
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
