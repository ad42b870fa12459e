"""Gives memory that clients have left back to the system, on a thread of its own: malloc_trim, without the GIL.

It is the process's one malloc, so the pace is the process's, too, however many engines run in it.
"""

from __future__ import annotations

import asyncio
import threading
import time

from signal_py.base.aio import DAEMON_THREADS

SETTLE = 2.0  # seconds after a loop's word, for those of the other loops that the same clients have left
PAUSE = 30.0  # seconds between two times


class Pace:
    """Of the process."""

    lock = threading.Lock()
    last = -PAUSE  # when it was begun last


def _trim() -> None:
    from signal_core.engine import malloc_trim

    malloc_trim()


class MemoryReturn:
    """Of one engine: its loops say that memory has become free. On the control thread."""

    def __init__(self) -> None:
        self._told = 0.0  # when a loop said so last
        self._waits = False

    def freed(self) -> None:
        """Gives it back in SETTLE seconds, or PAUSE after the last time; what is said until then is done with it."""
        self._told = time.monotonic()
        if not self._waits:
            self._wait(SETTLE)

    def _wait(self, seconds: float) -> None:
        self._waits = True
        pause = Pace.last + PAUSE - time.monotonic()
        asyncio.get_running_loop().call_later(max(seconds, pause), self._begin)

    def _begin(self) -> None:
        self._waits = False
        with Pace.lock:
            if self._told <= Pace.last:  # another engine's turn was this one's, too
                return
            if Pace.last + PAUSE <= time.monotonic():
                Pace.last = time.monotonic()
                DAEMON_THREADS.submit(_trim)
                return
        self._wait(0)
