"""What tokens cost: Python's time a connection, latency of messages meanwhile, memory of a user.

    python bench/auth.py                                  # all parts, about ten minutes
    python bench/auth.py --parts memory --json bench/results/auth.json    # keeps that part, beside the others

* connecting: CPU of the daemon's Python threads for `--connects` handshakes with HS256 tokens, each of another user, as
  the kernel counts it (schedstat), without the loops' threads. With auth off it is what Python does anyway.
* relay: latency of messages at a fixed rate while clients connect at another rate: none, with auth off, with tokens.
* memory: Private_Dirty of the daemon between a third of `--conns` idle connections and all, a connection.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jwt

from client import Peer, opened, request
from load import load
from results import Figures
from servers import private
from turns import Turn, run

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import kit

SECRET = "a secret of at least thirty-two bytes"
AUTH = {"auth": "jwt", "auth_key": SECRET}
AUTHS: dict[str, dict[str, str]] = {"off": {}, "HS256": AUTH}
MEMORIES = {  # whether each connection has a user of its own, and whether NATS is there
    "auth off": (False, False, {}),
    "one user": (False, False, AUTH),
    "distinct users": (True, False, AUTH),
    "distinct users, with NATS": (True, True, AUTH),
}


def token(i: int, **claims: object) -> str:
    """A token of the i-th user, valid for an hour."""
    return jwt.encode({"sub": f"user{i:08}", "exp": int(time.time()) + 3600, **claims}, SECRET, algorithm="HS256")


def head(i: int, **claims: object) -> bytes:
    """The i-th user's handshake."""
    return request(headers=f"Authorization: Bearer {token(i, **claims)}\r\n")


def python_ns(pid: int) -> int:
    """Processor time of the threads that are no loops, as the kernel counts it."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            if not (task / "comm").read_text().startswith("signal-"):
                total += int((task / "schedstat").read_text().split()[0])
    return total


def connecting(connects: int, **settings: object) -> float:
    """Microseconds of Python a connection; each is closed again."""
    heads = [head(i) for i in range(connects)]
    with kit.engine(loops=1, **settings) as engine:
        opened(engine.port, head(0)).close()
        start = python_ns(engine.pid)
        for i in range(0, connects, 50):
            peers = [Peer(engine.port) for _ in heads[i : i + 50]]
            for peer, handshake in zip(peers, heads[i : i + 50], strict=True):
                peer.send(handshake)
            for peer in peers:
                peer.read_hello()
                peer.close()
        return round((python_ns(engine.pid) - start) / connects / 1000, 2)


@contextlib.contextmanager
def connectors(port: int, rate: int) -> Iterator[list[int]]:
    """Connects at a rate, one after the other, from a thread; yields how many there were."""
    count, end = [0], threading.Event()
    heads = [head(i) for i in range(rate)]

    def work() -> None:
        start = time.monotonic()
        while rate and not end.is_set():
            ahead = start + count[0] / rate - time.monotonic()
            if ahead > 0:
                end.wait(ahead)
            opened(port, heads[count[0] % rate]).close()
            count[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield count
    finally:
        end.set()
        thread.join()


def relay(name: str, options: argparse.Namespace, connects: int, **settings: object) -> Figures:
    """Latencies in microseconds of so many messages a second, while so many clients connect a second."""
    with kit.engine(loops=1, **settings) as engine, connectors(engine.port, connects) as count:
        words = f"relay --connections 100 --rate {options.rate} --seconds {options.seconds}"
        found = load(words, [f"{engine.url}?token={token(0)}"])["latency_us"]
    return {f"{name} p50": found["p50"], f"{name} p99": found["p99"], f"{name} connected": count[0]}


def relays(options: argparse.Namespace) -> Figures:
    """Three relays: nobody connects, clients without tokens, clients with tokens."""
    found = relay("nobody connects", options, 0)
    for name, auth in AUTHS.items():
        found |= relay(f"auth {name}", options, options.connect_rate, **auth)
    return found


def memory(conns: int, distinct: bool, nats: str, **settings: object) -> float:
    """Bytes a connection, of the later two thirds of them."""
    with kit.engine(loops=1, nats=nats, ping_interval=600, **settings) as engine, contextlib.ExitStack() as stack:
        before = 0
        for i in range(conns):
            if i == conns // 3:
                before = private(engine.pid)
            handshake = head(i if distinct else 0, rooms=["lobby.*", "news.>"])
            stack.enter_context(opened(engine.port, handshake))
        return round((private(engine.pid) - before) / (conns - conns // 3), 1)


def forms(options: argparse.Namespace, stack: contextlib.ExitStack) -> dict[str, Turn]:
    urls = {False: "off", True: stack.enter_context(kit.nats()).url}
    return {
        "connecting": lambda _: {name: connecting(options.connects, **auth) for name, auth in AUTHS.items()},
        "relay": lambda _: relays(options),
        "memory": lambda _: {
            name: memory(options.conns, own, urls[on], **auth) for name, (own, on, auth) in MEMORIES.items()
        },
    }


OPTIONS = {
    "connects": (3000, "connecting: handshakes"),
    "conns": (9000, "memory: connections"),
    "seconds": (6.0, "relay: of each run"),
    "rate": (2000, "relay: messages a second"),
    "connect_rate": (200, "relay: connections a second beside them"),
}

if __name__ == "__main__":
    sys.exit(run(__doc__, OPTIONS, forms, choice="parts"))
