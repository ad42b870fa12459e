"""What a hop from one loop to another costs a message, beside a bare wake by an eventfd (load/hop.c), in turn.

    make -C bench hop && python bench/hop.py
    python bench/hop.py --json bench/results/hop.json     # keeps every turn

A lone pair of clients on one loop, then one on two loops, of the same engine: the medians' difference is the hop,
since all else is alike. Loops are told by the addresses: their first eight bits.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from client import Peer, Unexpected, opened
from contenders import HERE
from results import Figures, add_json, columns, keep, spread
from servers import free_port, running, serving

BASE32 = b"0123456789abcdefghjkmnpqrstvwxyz"
CLIENTS = 12  # on two loops; that all are on one is a case in two thousand
PAYLOAD = b"x" * 128


def loop_of(peer: Peer) -> int:
    """The loop that a peer's address names."""
    local = peer.address.partition(b".")[2]
    return BASE32.index(local[0]) << 4 | BASE32.index(local[1]) >> 1


def one_way_us(sender: Peer, receiver: Peer, messages: int) -> float:
    """Median microseconds from before a send to after its receipt."""
    took = []
    for _ in range(messages):
        begin = time.perf_counter_ns()
        sender.say(b"TO " + receiver.address + b"\n" + PAYLOAD)
        receiver.hear(b"FROM ")
        took.append(time.perf_counter_ns() - begin)
    return statistics.median(took) / 1000


def compared(same_us: float, across_us: float, bare_us: float) -> Figures:
    """A turn as it is kept: medians in microseconds, and what the hop takes by a bare wake."""
    ratio = (across_us - same_us) / bare_us
    return {"same_us": same_us, "across_us": across_us, "bare_us": bare_us, "ratio": round(ratio, 4)}


def measure(messages: int) -> Figures:
    """A message on one loop, one to another loop, and a bare wake."""
    port = free_port()
    with running(serving(port, "--loops 2 --nats off"), port):
        clients = [opened(port) for _ in range(CLIENTS)]
        here = [client for client in clients if loop_of(client) == loop_of(clients[0])]
        there = [client for client in clients if client not in here]
        if len(here) < 2 or not there:
            return measure(messages)
        near, far = (one_way_us(here[0], other, messages) for other in (here[1], there[0]))
        for client in clients:
            client.close()
    bare = subprocess.run([HERE / "bin" / "hop"], check=True, capture_output=True, text=True)
    return compared(near, far, int(bare.stdout) / 1000)


def main() -> int:
    """Prints each turn, and the spreads of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--messages", type=int, default=5000)
    add_json(parser)
    options = parser.parse_args()
    turns = []
    for _ in range(options.turns):
        turns.append(measure(options.messages))
        print(turns[-1], flush=True)
    print(*(f"{name}: {spread(values)}" for name, values in columns(turns).items()), sep="\n")
    keep(options.json, {"hop": turns})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, Unexpected) as error:
        sys.exit(f"hop.py: {error}: build it with 'make -C bench hop'")
