"""What tokens cost: Python's time a connection, delay of messages meanwhile, memory of a user.

    make -C bench load && python bench/auth.py            # about two minutes, loopback only
    python bench/auth.py --parts memory --json bench/results/auth.json    # keeps that part, beside others there

* connecting: CPU of the daemon's Python threads for `--connects` handshakes with HS256 tokens, each of another user,
  by the kernel's count of the threads' time (schedstat); the loops' threads are not in it. With auth off it is what
  Python does besides.
* relay: latency of messages at a fixed rate while clients connect at another: without, with auth off, with tokens.
* memory: Private_Dirty of the daemon between a third of `--conns` idle connections and all, a connection.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt

from client import Peer, opened, request
from contenders import parse_names
from results import Figures, add_json, columns, keep, spread
from servers import LOAD, many_descriptors, private

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import kit

SECRET = "a secret of at least thirty-two bytes"
AUTH = {"auth": "jwt", "auth_key": SECRET}
AUTHS: dict[str, dict[str, str]] = {"off": {}, "HS256": AUTH}
MEMORIES = {  # whether each has a user of its own, and whether NATS is there
    "auth off": (False, False, {}),
    "one user": (False, False, AUTH),
    "distinct users": (True, False, AUTH),
    "distinct users, with NATS": (True, True, AUTH),
}


def token(i: int, **claims: object) -> str:
    """One for the i-th user, that holds for an hour."""
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
                peer.hear_hello()
                peer.close()
        return (python_ns(engine.pid) - start) / connects / 1000


@contextlib.contextmanager
def connectors(port: int, rate: int) -> Iterator[list[int]]:
    """Connections at a rate, one after the other, from a thread; how many there were."""
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


def relay(seconds: int, rate: int, connects: int, **settings: object) -> Figures:
    """Latencies in microseconds of so many messages a second, while so many connect a second."""
    with kit.engine(loops=1, **settings) as engine:
        command = [str(LOAD), "relay", "--connections", "100", "--rate", str(rate), "--seconds", str(seconds)]
        with connectors(engine.port, connects) as count:
            done = subprocess.run([*command, f"{engine.url}?token={token(0)}"], stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout)["latency_us"]
        return {"p50": found["p50"], "p99": found["p99"], "connected": count[0]}


def connects(options: argparse.Namespace) -> list[Figures]:
    """Microseconds of Python a connection, without tokens and with them."""
    return [{name: round(connecting(options.connects, **auth), 2) for name, auth in AUTHS.items()}]


def relays(options: argparse.Namespace) -> list[Figures]:
    """The three in turn, since the machine is not the same from minute to minute."""
    turns = []
    for _ in range(options.turns):
        runs = {"nobody connects": relay(options.seconds, options.rate, 0)}
        for name, auth in AUTHS.items():
            runs[f"auth {name}"] = relay(options.seconds, options.rate, options.connect_rate, **auth)
        turns.append({f"{name} {figure}": value for name, run in runs.items() for figure, value in run.items()})
    return turns


def memory(conns: int, distinct: bool, nats: str, **settings: object) -> float:
    """Bytes a connection, the later two thirds of them."""
    with kit.engine(loops=1, nats=nats, ping_interval=600, **settings) as engine:
        peers, before = [], 0
        for i in range(conns):
            if i == conns // 3:
                before = private(engine.pid)
            peers.append(opened(engine.port, head(i if distinct else 0, rooms=["lobby.*", "news.>"])))
        after = private(engine.pid)
        for peer in peers:
            peer.close()
        return round((after - before) / (conns - conns // 3), 1)


def memories(options: argparse.Namespace) -> list[Figures]:
    """Bytes a connection: without tokens, all with the same, each with its own."""
    with kit.nats() as server:
        urls = {False: "off", True: server.url}
        return [{name: memory(options.conns, own, urls[on], **auth) for name, (own, on, auth) in MEMORIES.items()}]


PARTS: dict[str, Callable[[argparse.Namespace], list[Figures]]] = {
    "connecting": connects,
    "relay": relays,
    "memory": memories,
}
UNITS = {"connecting": " µs of Python a connection", "relay": " µs", "memory": " bytes a connection"}


def main() -> None:
    """Prints what the parts that were asked for found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connects", type=int, default=3000)
    parser.add_argument("--conns", type=int, default=9000)
    parser.add_argument("--seconds", type=int, default=6, help="of one run of the relay")
    parser.add_argument("--turns", type=int, default=5, help="runs of the relay in turn, of which the median counts")
    parser.add_argument("--rate", type=int, default=2000, help="messages a second")
    parser.add_argument("--connect-rate", type=int, default=200, help="connections a second beside them")
    parser.add_argument("--parts", default=",".join(PARTS))
    add_json(parser)
    options = parser.parse_args()
    try:
        parts = parse_names(options.parts, PARTS, "part")
    except ValueError as error:
        parser.error(str(error))
    many_descriptors()
    forms = {name: PARTS[name](options) for name in parts}
    for name, turns in forms.items():
        for figure, values in columns(turns).items():
            print(f"{name}, {figure}: {spread(values)}{'' if figure.endswith('connected') else UNITS[name]}")
    keep(options.json, forms)
    sys.stdout.flush()
    os._exit(0)  # thousands of sockets are closed by the kernel


if __name__ == "__main__":
    main()
