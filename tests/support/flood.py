"""Clients that send without pause, as fast as the engine reads, and the memory of its process meanwhile."""

from __future__ import annotations

import itertools
import re
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from typing_extensions import Self

from wire import TEXT, Wire, frame, opened, until

PIECE = 64 * 1024  # bytes given to a socket at once


def resident(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def texts(*lines: str) -> bytes:
    """A piece full of these messages, one in each frame."""
    once = b"".join(frame(TEXT, line.encode()) for line in lines)
    return once * max(1, PIECE // len(once))


def many_rooms(*templates: str, name: str, count: int = 4096) -> Iterator[bytes]:
    """Endless pieces in which `{}` is one of `count` rooms, in turn: each is long gone when it comes again."""
    rooms = [f"{name}-{number}" for number in range(count)]
    frames = [frame(TEXT, template.format(room).encode()) for room in rooms for template in templates]
    return itertools.cycle(b"".join(frames[i : i + 1024]) for i in range(0, len(frames), 1024))


class Flood:
    """`count` connections that send pieces without end; what they receive is thrown away."""

    def __init__(self, port: int, count: int, pieces: Callable[[int, str], Iterator[bytes]], path: str = "/") -> None:
        """`pieces` is called with the number of a connection and its address."""
        self.sent = 0  # bytes
        self.wires: list[Wire] = []
        self._pieces: dict[socket.socket, Iterator[bytes]] = {}
        self._left: dict[socket.socket, memoryview] = {}
        for number in range(count):
            wire, address = opened(port, path)
            wire.socket.setblocking(False)
            self.wires.append(wire)
            self._pieces[wire.socket] = pieces(number, address)
            self._left[wire.socket] = memoryview(b"")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for wire in self.wires:
            wire.socket.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for wire in self.wires:
                selector.register(wire.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while not self._over.is_set() and selector.get_map():
                for key, ready in selector.select(0.1):
                    try:
                        self._turn(key.fileobj, ready)
                    except BlockingIOError:
                        pass
                    except (ConnectionError, EOFError):
                        selector.unregister(key.fileobj)

    def _turn(self, wire: object, ready: int) -> None:
        assert isinstance(wire, socket.socket)
        if ready & selectors.EVENT_READ and not wire.recv(1 << 20):
            raise EOFError
        if ready & selectors.EVENT_WRITE:
            left = self._left[wire] or memoryview(next(self._pieces[wire]))
            sent = wire.send(left)
            self._left[wire] = left[sent:]
            self.sent += sent


def grown(pid: int, flood: Flood, mib: int) -> int:
    """By how many MiB the process grows at most while it reads `mib` MiB of a flood."""
    begin, before = flood.sent, resident(pid)
    most = before

    def read() -> bool:
        nonlocal most
        most = max(most, resident(pid))
        return flood.sent - begin >= mib << 20

    until(read, f"{mib} MiB of the flood are read", limit=120.0)
    return (most - before) >> 20
