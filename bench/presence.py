"""How long it takes until all of a room's listeners, on two nodes, have heard of a storm of joins, and what that costs.

    python bench/presence.py                              # 1,000 listeners, 1,000 joins

Half of the listeners and half of those who join are on each node. The clients only count frames, in this process. The
time is from the first SUB sent to the last JOIN counted, the processor time that of both engines and of nats-server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from contenders import VENV_BIN
from macro import free_port, stop, wait_listening
from nats_subscriptions import processor

ROOM = "storm"
JOIN = f"JOIN {ROOM} ".encode()
MASK = b"\x37\xfa\x21\x3d"
PATIENCE = 60.0


def frame(text: str) -> bytes:
    data = text.encode()
    return bytes([0x81, 0x80 | len(data)]) + MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(data))


def client(port: int) -> socket.socket:
    """A connection past HELLO."""
    opened = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.sendall(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await_text(opened, b"HELLO ")
    return opened


def await_text(opened: socket.socket, text: bytes) -> None:
    heard = b""
    while text not in heard:
        part = opened.recv(1 << 16)
        if not part:
            raise SystemExit(f"presence: the engine hung up: {heard[-200:]!r}")
        heard += part


class Ears:
    """Counts the joins that each listener hears."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.selector = selectors.DefaultSelector()
        self.heard = [0] * len(sockets)
        self.rest = [b""] * len(sockets)
        for i, one in enumerate(sockets):
            one.setblocking(False)
            self.selector.register(one, selectors.EVENT_READ, i)

    def take(self, seconds: float) -> bool:
        """Reads what comes within the time; whether there was something."""
        events = self.selector.select(seconds)
        for key, _ in events:
            data = self.rest[key.data] + os.read(key.fd, 1 << 18)
            self.heard[key.data] += data.count(JOIN)
            self.rest[key.data] = data[-(len(JOIN) - 1) :]
        return bool(events)

    def quiet(self) -> None:
        """Until nothing comes for half a second; what was heard before does not count."""
        while self.take(0.5):
            pass
        self.heard = [0] * len(self.heard)


@contextlib.contextmanager
def cluster() -> Iterator[tuple[list[int], list[int], int]]:
    """The ports and pids of two nodes with one loop each, and the pid of their nats-server."""
    with contextlib.ExitStack() as stack:
        nats_port = free_port()
        command = [str(VENV_BIN / "nats-server"), "-a", "127.0.0.1", "-p", str(nats_port)]
        nats = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        stack.callback(stop, nats)
        wait_listening(nats, nats_port)
        ports: list[int] = []
        pids: list[int] = []
        for _ in range(2):
            port, admin = free_port(), free_port()
            url, listen = f"nats://127.0.0.1:{nats_port}", f"127.0.0.1:{port}"
            serve = [str(VENV_BIN / "signal-engine"), "serve", "--nats", url, "--loops", "1", "--listen", listen,
                     "--admin", f"127.0.0.1:{admin}"]
            node = stack.enter_context(
                subprocess.Popen(serve, stderr=subprocess.DEVNULL, cwd=tempfile.gettempdir())
            )
            stack.callback(stop, node)
            wait_listening(node, port)
            await_nats(admin)
            ports.append(port)
            pids.append(node.pid)
        yield ports, pids, nats.pid


def await_nats(admin: int) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats", timeout=10) as answer:
            if json.loads(answer.read())["link"] == "up":
                return
        time.sleep(0.05)
    raise SystemExit("presence: the engine does not reach its nats-server")


def turn(listeners: int, joins: int) -> tuple[float, float, float, float]:
    """Seconds until all is heard, and processor seconds of the engines, nats-server and this process."""
    with contextlib.ExitStack() as stack:
        ports, pids, nats = stack.enter_context(cluster())
        ears_of = [stack.enter_context(client(ports[i % 2])) for i in range(listeners)]
        for one in ears_of:
            one.sendall(frame(f"SUB {ROOM} presence ref=a"))
            await_text(one, b"OK a")
        comers = [stack.enter_context(client(ports[i % 2])) for i in range(joins)]
        ears = Ears(ears_of)
        ears.quiet()
        engines = sum(processor(pid) for pid in pids)
        served, own, begun = processor(nats), time.process_time(), time.monotonic()
        for i, one in enumerate(comers):
            one.sendall(frame(f"SUB {ROOM}"))
            if i % 100 == 99:
                ears.take(0)
        while min(ears.heard) < joins and time.monotonic() - begun < PATIENCE:
            ears.take(1.0)
        took = time.monotonic() - begun
        if set(ears.heard) != {joins}:
            raise SystemExit(f"presence: {min(ears.heard)} to {max(ears.heard)} of {joins} joins were heard")
        return (
            took,
            sum(processor(pid) for pid in pids) - engines,
            processor(nats) - served,
            time.process_time() - own,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="A storm of joins in a room whose members all listen.")
    parser.add_argument("--listeners", type=int, default=1000)
    parser.add_argument("--joins", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    turns = [turn(options.listeners, options.joins) for _ in range(options.turns)]
    names = ("seconds until all is heard", "processor s of both engines", "of nats-server", "of this client")
    print(f"{options.listeners} listeners hear {options.joins} joins, {Path(sys.argv[0]).name}:")
    for name, figures in zip(names, zip(*turns, strict=True), strict=True):
        print(f"{name}: {statistics.median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
