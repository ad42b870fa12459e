"""A stand-in for the engine's Core, with which tests script what the NATS link reports to the control thread."""

import json
import os
import queue
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import nkeys

from signal_core.engine import Core
from signal_py.config.nats_url import parse_url
from signal_py.control_thread import ControlThread
from signal_py.nats.credentials import Credentials
from signal_py.nats.tls import Tls

PATIENCE = 10.0  # seconds
INFO = {"server_id": "x", "headers": True, "max_payload": 1048576}
WHERE = "nats://127.0.0.1:4222"


class ScriptedCore:
    """Reports the events that a test scripts, and records the calls of the control thread."""

    def __init__(self) -> None:
        self.control_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.nloops = 1
        self.local_peer_rooms: list[str] = []
        self.events: deque[tuple[object, ...]] = deque()
        self.calls: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.taken = 0  # INFOs that the control thread has read

    def report(self, *event: object) -> None:
        self.events.append(event)
        os.eventfd_write(self.control_fd, 1)

    def control_drain(self) -> list[tuple[object, ...]]:
        with suppress(BlockingIOError):
            os.eventfd_read(self.control_fd)
        return [self.events.popleft() for _ in range(len(self.events))]

    def link_dial(self, *where: object) -> None:
        self.calls.put(("dial", *where))

    def link_fail(self) -> None:
        self.calls.put(("fail",))

    def link_leave(self) -> None:
        self.calls.put(("leave",))

    def link_info_taken(self) -> None:
        self.taken += 1

    def link_connect(self, *answer: object) -> None:
        self.calls.put(("connect", *answer))

    def inquire(self, *question: object, **more: object) -> None:
        self.calls.put(("inquire", *question, more))

    def next_call(self) -> tuple[Any, ...]:
        """The next call of the control thread: its name and arguments."""
        return self.calls.get(timeout=PATIENCE)


@contextmanager
def control_thread(*urls: str, discovered: bool = True, **access: str) -> Iterator[tuple[ScriptedCore, ControlThread]]:
    """A control thread for these NATS servers, and the core that it serves."""
    core = ScriptedCore()
    servers = [parse_url(url) for url in urls]
    made = ControlThread(cast(Core, core), servers, Credentials(**access), Tls(), "n1", "1.2.3", discovered=discovered)
    made.start()
    try:
        yield core, made
    finally:
        made.stop()
        os.close(core.control_fd)


def info(**more: object) -> bytes:
    """An INFO of a NATS server, with these members besides."""
    return json.dumps({**INFO, **more}).encode()


def connected(core: ScriptedCore) -> dict[str, Any]:
    """Dials, and returns what the CONNECT says."""
    core.report("link-want", "")
    assert core.next_call() == ("dial", 2, "127.0.0.1", 4222)
    core.report("link-info", info())
    verb, line, max_payload, tls = core.next_call()
    assert (verb, max_payload, tls) == ("connect", 1048576, None)
    assert line.startswith(b"CONNECT ") and line.endswith(b"\r\n")
    fields: dict[str, Any] = json.loads(line[8:])
    return fields


def next_dial(core: ScriptedCore) -> tuple[Any, ...]:
    """Reports that NATS refused the link, and returns the next dial."""
    core.report("link-want", "refused")
    return core.next_call()


def make_seed() -> tuple[str, nkeys.KeyPair]:
    """The seed of a new NATS user, and its keys."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed.decode(), nkeys.from_seed(bytearray(seed))
