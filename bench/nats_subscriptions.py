"""What a subscription takes in a real nats-server: bytes of its memory, and its time to take one.

    python bench/nats_subscriptions.py                    # 100,000 subscriptions, 3 turns
    python bench/nats_subscriptions.py --subscriptions 1000000 --json bench/results/nats.json    # beside others there

The engine holds one subscription for each room that has members on the node, and one for the node. Subjects are as
long as those of bench/structures.py: signal.room.s100000000.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import time

from contenders import nats_server
from kept import add_json, keep_forms
from servers import free_port, private, processor, stop, wait_listening

BATCH = 1000
NAMES = {"bytes": "bytes", "us": "processor µs"}


def until(connection: socket.socket, word: bytes) -> None:
    """Reads until the word came."""
    heard = b""
    while word not in heard:
        part = connection.recv(4096)
        if not part:
            raise SystemExit(f"nats_subscriptions: nats-server hung up: {heard!r}")
        heard = heard[-16:] + part


def turn(server: str, count: int) -> dict[str, float]:
    """Bytes and processor microseconds a subscription, of a nats-server of its own."""
    port = free_port()
    command = [server, "-a", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_listening(process, port)
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
                until(connection, b"PONG")
                bytes_before, time_before = private(process.pid), processor(process.pid)
                for first in range(0, count, BATCH):
                    batch = range(first, min(first + BATCH, count))
                    subs = b"".join(b"SUB signal.room.s%d %d\r\n" % (100_000_000 + i, 16 + i) for i in batch)
                    connection.sendall(subs + b"PING\r\n")
                    until(connection, b"PONG")
                time.sleep(1)
                return {
                    "bytes": round((private(process.pid) - bytes_before) / count, 2),
                    "us": round((processor(process.pid) - time_before) * 1e6 / count, 3),
                }
        finally:
            stop(process)


def main() -> int:
    """Prints medians of all turns, with the least and the most."""
    parser = argparse.ArgumentParser(description="Memory of a nats-server for each subscription.")
    parser.add_argument("--subscriptions", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--server", default=nats_server(), help="(default: beside this Python, else in the path)")
    add_json(parser)
    options = parser.parse_args()
    if not options.server:
        parser.error("there is no nats-server: name one with --server")
    turns = [turn(options.server, options.subscriptions) for _ in range(options.turns)]
    for name, text in NAMES.items():
        figures = [turn[name] for turn in turns]
        print(f"{text} a subscription: {statistics.median(figures):.1f} ({min(figures):.1f} to {max(figures):.1f})")
    if options.json:
        keep_forms(options.json, "nats", {f"--subscriptions {options.subscriptions}": turns})
    return 0


if __name__ == "__main__":
    sys.exit(main())
