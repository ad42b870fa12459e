"""Returns the memory of closed connections to the system: malloc_trim, on a separate thread, without the GIL.

All engines of a process share its malloc, so they also share the minimum time between two calls.
"""

from __future__ import annotations

import asyncio
import threading
import time

from signal_py.base.aio import DAEMON_THREADS

SETTLE = 2.0  # seconds from a loop's report, since other loops lost connections at the same time
PAUSE = 30.0  # seconds between two calls


class _LastTrim:
    """When malloc_trim was last called in this process."""

    lock = threading.Lock()
    last = -PAUSE  # time.monotonic() of its start


def _trim() -> None:
    from signal_core.engine import malloc_trim

    malloc_trim()


class MemoryReturn:
    """Schedules malloc_trim for one engine. For its control thread."""

    def __init__(self) -> None:
        self._reported = 0.0  # time of the last report
        self._waits = False

    def freed(self) -> None:
        """Takes a loop's report of free memory. Calls malloc_trim in SETTLE seconds, or PAUSE after the last call."""
        self._reported = time.monotonic()
        if not self._waits:
            self._wait(SETTLE)

    def _wait(self, seconds: float) -> None:
        self._waits = True
        pause = _LastTrim.last + PAUSE - time.monotonic()
        asyncio.get_running_loop().call_later(max(seconds, pause), self._begin)

    def _begin(self) -> None:
        self._waits = False
        with _LastTrim.lock:
            if self._reported <= _LastTrim.last:  # another engine's call has done it
                return
            if _LastTrim.last + PAUSE <= time.monotonic():
                _LastTrim.last = time.monotonic()
                DAEMON_THREADS.submit(_trim)
                return
        self._wait(0)
