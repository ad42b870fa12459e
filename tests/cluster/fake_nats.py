"""A fake NATS server, which sends whatever a test wants, also what no real server sends."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from queue import Queue

from typing_extensions import Self

import kit

INFO = {"server_id": "fake", "version": "2.10.0", "headers": True, "max_payload": 1 << 20, "proto": 1}


def info(**more: object) -> bytes:
    return b"INFO " + json.dumps({**INFO, **more}).encode() + b"\r\n"


class Link:
    """A connection of a node."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.received: Queue[bytes] = Queue()  # every line
        self.lines: list[bytes] = []
        self.up = threading.Event()  # the node has subscribed to its own subjects
        self.ended = threading.Event()

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def run(self, greeting: bytes, answer: Callable[[Link, bytes], bool]) -> None:
        """Answers lines until the node closes. `answer` is called first, and says whether it has handled a line."""
        try:
            self.say(greeting)
            with self.sock.makefile("rb") as lines:
                for line in lines:
                    self.lines.append(line)
                    self.received.put(line)
                    if not answer(self, line):
                        self.usual(line)
        except OSError:
            pass
        finally:
            self.ended.set()
            self.sock.close()

    def usual(self, line: bytes) -> None:
        """Answers as a real server does."""
        if line.startswith(b"PING"):
            self.say(b"PONG\r\n")
        elif found := re.match(rb"PUB \S+\.node\.\S+ (\S+) 16\r", line):
            self.say(b"HMSG %s 2 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % found[1])
        elif b".peer." in line and line.startswith(b"SUB"):
            self.up.set()


class FakeNats:
    """Listens on a port of loopback, and keeps its connections in `links`."""

    def __init__(self, greeting: bytes = info(), answer: Callable[[Link, bytes], bool] = lambda *_: False) -> None:
        self.greeting = greeting
        self.answer = answer
        self.links: list[Link] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            link = Link(sock)
            self.links.append(link)
            threading.Thread(target=link.run, args=(self.greeting, self.answer), daemon=True).start()

    def link(self) -> Link:
        """A connection that a node uses."""
        return kit.until(lambda: next((link for link in self.links if link.up.is_set()), None), "a node is up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # ends its accept
        self.listener.close()
        for link in self.links:
            link.sock.close()


class SilentNats(FakeNats):
    """Can withhold its PONGs without being given up as silent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owed: list[Link] | None = None  # a link for each PONG that is withheld
        super().__init__(answer=self._withhold)

    def _withhold(self, link: Link, line: bytes) -> bool:
        with self._lock:
            if self._owed is None or not line.startswith(b"PING"):
                return False
            self._owed.append(link)
            return True

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Meanwhile it only sends PINGs, so that the node hears something; then the PONGs that it owes."""
        link, over = self.link(), threading.Event()

        def ping() -> None:
            while not over.wait(1.0):
                link.say(b"PING\r\n")

        self._owed = []
        pinging = threading.Thread(target=ping)
        pinging.start()
        try:
            yield
        finally:
            over.set()
            pinging.join()
            with self._lock:
                owed, self._owed = self._owed, None
                for link in owed:
                    link.say(b"PONG\r\n")
