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
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt

from contenders import parse_names
from kept import add_json, keep_forms
from servers import many_descriptors, private

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import kit  # noqa: E402
from wire import Wire, request  # noqa: E402

SECRET = "a secret of at least thirty-two bytes"
LOAD = Path(__file__).parent / "bin" / "load"
AUTH = {"auth": "jwt", "auth_key": SECRET}
AUTHS: dict[str, dict[str, str]] = {"off": {}, "HS256": AUTH}
Figures = dict[str, float]


def token(i: int, **claims: object) -> str:
    """One for the i-th user, that holds for an hour."""
    return jwt.encode({"sub": f"user{i:08}", "exp": int(time.time()) + 3600, **claims}, SECRET, algorithm="HS256")


def head(i: int, **claims: object) -> bytes:
    """The i-th user's handshake."""
    return request("/", f"Authorization: Bearer {token(i, **claims)}")


def opened(port: int, handshake: bytes) -> Wire:
    """A connection that was let in."""
    wire = Wire(port)
    wire.send(handshake)
    assert wire.read_answer().status == 101
    return wire


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
        opened(engine.port, head(0)).socket.close()
        start = python_ns(engine.pid)
        for i in range(0, connects, 50):
            wires = [Wire(engine.port) for _ in heads[i : i + 50]]
            for wire, handshake in zip(wires, heads[i : i + 50], strict=True):
                wire.send(handshake)
            for wire in wires:
                assert wire.read_answer().status == 101
                wire.socket.close()
        return (python_ns(engine.pid) - start) / connects / 1000


@contextlib.contextmanager
def connectors(port: int, rate: int) -> Iterator[list[int]]:
    """Connections at a rate, one after the other, from a thread; how many there were."""
    count, end = [0], threading.Event()
    heads = [head(i) for i in range(rate)]

    def work() -> None:
        start = time.monotonic()
        while not end.is_set():
            ahead = start + count[0] / rate - time.monotonic()
            if ahead > 0:
                end.wait(ahead)
            opened(port, heads[count[0] % rate]).socket.close()
            count[0] += 1

    thread = threading.Thread(target=work)
    if rate:
        thread.start()
    try:
        yield count
    finally:
        end.set()
        if rate:
            thread.join()


def relay(seconds: int, rate: int, connects: int, **settings: object) -> Figures:
    """Latencies in microseconds of so many messages a second, while so many connect a second."""
    with kit.engine(loops=1, **settings) as engine:
        url = f"{engine.url}?token={token(0)}"
        command = [str(LOAD), "relay", "--connections", "100", "--rate", str(rate), "--seconds", str(seconds), url]
        with connectors(engine.port, connects) as count:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
        found: dict[str, float] = json.loads(done.stdout)["latency_us"]
        return {"p50": found["p50"], "p99": found["p99"], "connected": count[0]}


def connects(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds of Python a connection, without tokens and with them."""
    found: dict[str, Any] = {}
    for name, settings in AUTHS.items():
        found[name] = round(connecting(options.connects, **settings), 2)
        print(f"connecting, auth {name}: {found[name]:.1f} µs of Python a connection", flush=True)
    return [found]


def relays(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The three in turn, since the machine is not the same from minute to minute."""
    turns: list[dict[str, Any]] = []
    for _ in range(options.turns):
        found = {"nobody connects": relay(options.seconds, options.rate, 0)}
        for name, settings in AUTHS.items():
            run = relay(options.seconds, options.rate, options.connect_rate, **settings)
            found[f"clients connect, auth {name}"] = run
        turns.append(found)
    for name in turns[0]:
        runs = [turn[name] for turn in turns]
        p50, p99 = ([run[which] for run in runs] for which in ("p50", "p99"))
        print(
            f"relay, {name}: p50 {statistics.median(p50):.0f} µs, p99 {statistics.median(p99):.0f} µs "
            f"({min(p99):.0f} to {max(p99):.0f}), {sum(run['connected'] for run in runs):.0f} connected",
            flush=True,
        )
    return turns


def memory(conns: int, distinct: bool, nats: str, **settings: object) -> float:
    """Bytes a connection, the later two thirds of them."""
    with kit.engine(loops=1, nats=nats, ping_interval=600, **settings) as engine:
        wires, before = [], 0
        for i in range(conns):
            if i == conns // 3:
                before = private(engine.pid)
            wires.append(opened(engine.port, head(i if distinct else 0, rooms=["lobby.*", "news.>"])))
        after = private(engine.pid)
        for wire in wires:
            wire.socket.close()
        return (after - before) / (conns - conns // 3)


def memories(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Bytes a connection: without tokens, all with the same, each with its own."""
    found: dict[str, Any] = {}
    with kit.nats() as server:
        for name, distinct, nats, settings in (
            ("auth off", False, "off", {}),
            ("one user", False, "off", AUTH),
            ("distinct users", True, "off", AUTH),
            ("distinct users, with NATS", True, server.url, AUTH),
        ):
            found[name] = round(memory(options.conns, distinct, nats, **settings), 1)
            print(f"memory, {name}: {found[name]:.1f} bytes a connection", flush=True)
    return [found]


PARTS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "connecting": connects,
    "relay": relays,
    "memory": memories,
}


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
    if options.json:
        keep_forms(options.json, "auth", forms)
    sys.stdout.flush()
    os._exit(0)  # thousands of sockets are closed by the kernel


if __name__ == "__main__":
    main()
