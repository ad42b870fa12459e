"""Tells a service manager such as systemd how the engine is (sd_notify(3)): ready, reloading, stopping, alive."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SHARE = 2  # a sign of life each half of the manager's patience
STATUS_INTERVAL = 10.0  # seconds between updates of the status
NO_WATCHDOG = 0.0


class ServiceManager:
    """The manager of this process, if NOTIFY_SOCKET names one. Otherwise nothing is sent."""

    def __init__(self) -> None:
        """Takes the variables over, so that no child speaks in the engine's place."""
        given = {name: os.environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")}
        self._where = given["NOTIFY_SOCKET"]
        self._running = False  # ready, and not stopping
        ours = given["WATCHDOG_PID"] in ("", str(os.getpid())) and given["WATCHDOG_USEC"].isdecimal()
        self.patience = int(given["WATCHDOG_USEC"]) / 1e6 if ours else NO_WATCHDOG
        self._ended = threading.Event()
        self._watch: threading.Thread | None = None

    @property
    def waits(self) -> bool:
        """Whether the manager can be asked to wait for the end. systemd can: it sets INVOCATION_ID, which containers do
        not inherit. Podman sets NOTIFY_SOCKET as well, but kills after 10 s."""
        return bool(self._where and os.environ.get("INVOCATION_ID"))

    def tell(self, **fields: object) -> None:
        """Sends fields such as `READY=1`. A manager that does not read is ignored."""
        if not self._where:
            return
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        where = "\0" + self._where[1:] if self._where.startswith("@") else self._where
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(), where)

    def ready(self, status: str) -> None:
        """The engine listens, or its reload is over."""
        self._running = True
        self.tell(READY=1, STATUS=status)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """A reload runs in this context. It is over even if it has failed: the engine goes on with its old settings."""
        if self._running:
            self.tell(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        status = "not reloaded: the log says why"
        try:
            yield
            status = "reloaded"
        finally:
            if self._running:
                self.ready(status)

    def stopping(self, seconds: float) -> None:
        """A drain or stop has begun, which may take this long: the manager is asked to wait."""
        self._running = False
        self._ended.set()
        self.tell(STOPPING=1, STATUS="draining", EXTEND_TIMEOUT_USEC=round(seconds * 1e6))

    def watch(self, stats: Callable[[], dict[str, Any]]) -> None:
        """From now on gives a sign of life, at half of the manager's patience, while every loop answers. Updates the
        status now and then. On a thread, until `stopping`."""
        if self._where:
            self._watch = threading.Thread(target=self._look, args=(stats,), name="service-manager", daemon=True)
            self._watch.start()

    def _look(self, stats: Callable[[], dict[str, Any]]) -> None:
        interval = self.patience / SHARE if self.patience else STATUS_INTERVAL
        seen: list[int] = []
        while not self._ended.wait(interval):
            found = stats()
            # A loop wakes to copy its counters, so one that has answered has woken since.
            wakes = [loop["wakes"] for loop in found.get("loops", ())]
            alive = not seen or all(new > old for new, old in zip(wakes, seen, strict=True))
            seen = wakes
            if alive and not self._ended.is_set():
                more = {"WATCHDOG": 1} if self.patience else {}
                self.tell(STATUS=f"{found['total']['connections']} connections", **more)

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()
        if self._watch is not None:
            self._watch.join()
