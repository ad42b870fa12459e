"""What a subscription takes in a real nats-server: bytes of its memory, and its time to take one.

    python bench/nats_subscriptions.py                    # 100,000 subscriptions, 3 turns

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

from contenders import VENV_BIN
from servers import free_port, private, processor, stop, wait_listening

BATCH = 1000


def until(connection: socket.socket, word: bytes) -> None:
    heard = b""
    while word not in heard:
        part = connection.recv(4096)
        if not part:
            raise SystemExit(f"nats_subscriptions: nats-server hung up: {heard!r}")
        heard = heard[-16:] + part


def turn(server: str, count: int) -> tuple[float, float]:
    """Bytes and processor microseconds a subscription."""
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
                return (
                    (private(process.pid) - bytes_before) / count,
                    (processor(process.pid) - time_before) * 1e6 / count,
                )
        finally:
            stop(process)


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory of a nats-server for each subscription.")
    parser.add_argument("--subscriptions", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--server", default=str(VENV_BIN / "nats-server"))
    options = parser.parse_args()
    turns = [turn(options.server, options.subscriptions) for _ in range(options.turns)]
    for name, figures in zip(("bytes", "processor µs"), zip(*turns, strict=True), strict=True):
        print(f"{name} a subscription: {statistics.median(figures):.1f} ({min(figures):.1f} to {max(figures):.1f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
