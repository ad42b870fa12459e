"""What a hop from one loop to another costs a message, beside a bare wake by an eventfd (load/hop.c), in turn.

    make -C bench hop && python bench/hop.py
    python bench/hop.py --json bench/results/hop.json

A lone pair of clients on one loop, then one on two loops of the same engine. The hop is the difference of the medians,
because all else is alike. The first eight bits of an address are its loop.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

from client import Peer, opened
from contenders import HERE
from results import Figures
from servers import engine
from turns import Turn, run

BASE32 = b"0123456789abcdefghjkmnpqrstvwxyz"
CLIENTS = 12  # on two loops; that all are on one is a case in two thousand
PAYLOAD = b"x" * 128


def loop_of(peer: Peer) -> int:
    """The loop in a peer's address."""
    local = peer.address.partition(b".")[2]
    return BASE32.index(local[0]) << 4 | BASE32.index(local[1]) >> 1


def one_way_us(sender: Peer, receiver: Peer, messages: int) -> float:
    """Median microseconds from before a send to after its receipt."""
    took = []
    for _ in range(messages):
        begin = time.perf_counter_ns()
        sender.say(b"TO " + receiver.address + b"\n" + PAYLOAD)
        receiver.read(b"FROM ")
        took.append(time.perf_counter_ns() - begin)
    return statistics.median(took) / 1000


def compared(same_us: float, across_us: float, bare_us: float) -> Figures:
    """A turn as it is kept: medians in microseconds, and the hop divided by a bare wake."""
    ratio = (across_us - same_us) / bare_us
    return {"same_us": same_us, "across_us": across_us, "bare_us": bare_us, "ratio": round(ratio, 4)}


def measure(messages: int) -> Figures:
    """A message on one loop, one to another loop, and a bare wake."""
    with engine("--loops 2") as server:
        clients = [opened(server.port) for _ in range(CLIENTS)]
        here = [client for client in clients if loop_of(client) == loop_of(clients[0])]
        there = [client for client in clients if client not in here]
        if len(here) < 2 or not there:
            return measure(messages)
        near, far = (one_way_us(here[0], other, messages) for other in (here[1], there[0]))
        for client in clients:
            client.close()
    bare = subprocess.run([HERE / "bin" / "hop"], check=True, capture_output=True, text=True)
    return compared(near, far, statistics.median(map(float, bare.stdout.split())) / 1000)


def forms(options: argparse.Namespace, _stack: ExitStack) -> dict[str, Turn]:
    return {"hop": lambda _turn: measure(options.messages)}


if __name__ == "__main__":
    sys.exit(run(__doc__, {"messages": (5000, "of each pair")}, forms, turns=5))
