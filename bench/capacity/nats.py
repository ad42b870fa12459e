"""What a subscription takes in a real nats-server: bytes of its memory, and its time to take one.

The engine holds one subscription for each room that has members on the node, and one for the node. Subjects are as
long as those of structures.py: signal.room.s100000000.
"""

from __future__ import annotations

import argparse
import socket
import time

from contenders import nats_server
from results import Figures, columns, keep, spread
from servers import free_port, private, processor, running

BATCH = 1000
NAMES = {"bytes": "bytes", "us": "processor µs"}


def until(connection: socket.socket, word: bytes) -> None:
    """Reads until the word came."""
    heard = b""
    while word not in heard:
        part = connection.recv(4096)
        if not part:
            raise SystemExit(f"nats: nats-server hung up: {heard!r}")
        heard = heard[-16:] + part


def turn(server: str, count: int) -> Figures:
    """Bytes and processor microseconds a subscription, of a nats-server of its own."""
    port = free_port()
    command = f"{server} -a 127.0.0.1 -p {port}"
    with running(command, port) as pid, socket.create_connection(("127.0.0.1", port)) as nats:
        nats.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        until(nats, b"PONG")
        bytes_before, time_before = private(pid), processor(pid)
        for first in range(0, count, BATCH):
            batch = range(first, min(first + BATCH, count))
            subs = b"".join(b"SUB signal.room.s%d %d\r\n" % (100_000_000 + i, 16 + i) for i in batch)
            nats.sendall(subs + b"PING\r\n")
            until(nats, b"PONG")
        time.sleep(1)
        return {
            "bytes": round((private(pid) - bytes_before) / count, 2),
            "us": round((processor(pid) - time_before) * 1e6 / count, 3),
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of this tool."""
    parser.add_argument("--subscriptions", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--server", default=nats_server(), help="(default: beside this Python, else in the path)")


def measure(options: argparse.Namespace) -> None:
    """Prints medians of all turns, with the least and the most."""
    if not options.server:
        raise SystemExit("nats: there is no nats-server: name one with --server")
    turns = [turn(options.server, options.subscriptions) for _ in range(options.turns)]
    for name, text in NAMES.items():
        print(f"{text} a subscription: {spread(columns(turns)[name])}")
    keep(options.json, {f"--subscriptions {options.subscriptions}": turns})
