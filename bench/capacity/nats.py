"""What a subscription takes in a real nats-server: bytes of its memory, and its time to take one.

The engine holds one subscription for each room that has members on the node, and one for the node. Subjects are as
long as those of structures.py: signal.room.s100000000.
"""

from __future__ import annotations

import argparse
import socket
import time
from contextlib import ExitStack

from results import Figures
from servers import nats, private, processor
from turns import Turn, run

BATCH = 1000


def until(connection: socket.socket, word: bytes) -> None:
    """Reads until the word came."""
    seen = b""
    while word not in seen:
        part = connection.recv(4096)
        if not part:
            raise SystemExit(f"nats: nats-server closed the connection: {seen!r}")
        seen = seen[-16:] + part


def measure(count: int) -> Figures:
    """Bytes and processor microseconds a subscription, of a new nats-server."""
    with nats() as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        until(connection, b"PONG")
        bytes_before, time_before = private(server.pid), processor(server.pid)
        for first in range(0, count, BATCH):
            batch = range(first, min(first + BATCH, count))
            subs = b"".join(b"SUB signal.room.s%d %d\r\n" % (100_000_000 + i, 16 + i) for i in batch)
            connection.sendall(subs + b"PING\r\n")
            until(connection, b"PONG")
        time.sleep(1)
        return {
            "bytes": round((private(server.pid) - bytes_before) / count, 2),
            "us": round((processor(server.pid) - time_before) * 1e6 / count, 3),
        }


def forms(options: argparse.Namespace, _stack: ExitStack) -> dict[str, Turn]:
    count = options.subscriptions
    return {f"--subscriptions {count}": lambda _turn: measure(count)}


def main(arguments: list[str]) -> int:
    return run(__doc__, {"subscriptions": (100_000, "of one client")}, forms, arguments=arguments)
