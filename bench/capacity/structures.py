"""The engine's structures with up to ten million connections, filled without a socket.

signal_core.probe.Crowd fills real loops: slabs, timers, rooms, the room table. Every part, with every number of
connections, has a new process. Memory is Private_Dirty of smaps_rollup. Times are the thread's processor time.
`longest` is the longest of single steps: for so long a loop would do nothing else. System calls, and so the writing of
messages, are not included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import signal_core.probe as probe
from results import Figures
from servers import private
from turns import Turn, run

ROOM = 10
BIG = 10_000
SAMPLE = 1_000_000
BATCH = 1000
INTERVAL = 250  # ticks between pings: 25 s


def memory(conns: int, loops: int, figures: Figures) -> Any:
    """Opens all, then all join one room each, then one more: bytes and nanoseconds of each."""
    start = private()
    crowd = probe.Crowd(conns, loops)
    cost = crowd.open()
    opened = private()
    figures["open: ns"] = cost["ns"]
    figures["open: bytes"] = (opened - start) / conns
    figures[f"join a room of {ROOM}: ns"] = crowd.join(b"s", ROOM)["ns"]
    crowd.settle()
    crowd.allocate(1 << 16)
    joined = private()
    figures[f"join a room of {ROOM}: bytes"] = (joined - opened) / conns
    figures[f"join a second, of {BIG:,}: ns"] = crowd.join(b"b", BIG)["ns"]
    crowd.settle()
    figures[f"join a second, of {BIG:,}: bytes"] = (private() - joined) / conns
    return crowd


def users(length: int, conns: int, loops: int) -> Figures:
    """Each gets a user of its own and a token's expiry; loop 0 keeps up with the rooms, as it does over seconds."""
    crowd = probe.Crowd(conns, loops, True)
    crowd.open()
    start, ns = private(), 0.0
    for first in range(0, conns, BATCH):
        count = min(BATCH, conns - first)
        ns += crowd.identify(length, first, count)["ns"] * count
        crowd.settle()
        crowd.reclaim()
    name = f"a user of its own, {length} bytes"
    return {f"{name}: bytes": (private() - start) / conns, f"{name}: ns": ns / conns}


def timers(crowd: Any, figures: Figures) -> None:
    """Two intervals: each connection is pinged twice. The second is the steady state."""
    for _ in range(INTERVAL):
        crowd.tick()
    costs = [crowd.tick() for _ in range(INTERVAL)]
    pings = sum(cost["count"] for cost in costs)
    figures["timers: ns a ping, without its write"] = sum(cost["total_ns"] for cost in costs) / max(pings, 1)
    figures["timers: µs a tick of one loop, median"] = statistics.median(cost["total_ns"] for cost in costs) / 1e3
    figures["timers: longest turn, ms"] = max(cost["worst_ns"] for cost in costs) / 1e6


def work(conns: int, loops: int) -> Figures:
    """What each step costs, in the order of a crowd's life."""
    figures: Figures = {}
    crowd = memory(conns, loops, figures)
    times = min(conns, SAMPLE)
    crowd.lookup(times)
    figures["look up an address: ns"] = crowd.lookup(times)["ns"]
    figures[f"leave and rejoin a room of {ROOM}: ns"] = crowd.rejoin(b"s", ROOM, times)["ns"]
    figures[f"leave and rejoin a room of {BIG:,}: ns"] = crowd.rejoin(b"b", BIG, times)["ns"]
    rooms = max(conns // BIG, 1)
    walks = [crowd.publish(b"b", 7919 * number % rooms) for number in range(min(rooms, 20))]
    figures[f"publish to a room of {BIG:,}: ns a member"] = statistics.median(walk["ns"] for walk in walks)
    timers(crowd, figures)
    figures["close: ns"] = crowd.close(conns)["ns"]
    return figures


def bunched(conns: int, loops: int) -> Figures:
    """The timers if all connections last sent in the same tick, and then all in one room."""
    crowd = probe.Crowd(conns, loops)
    crowd.open(spread=False)
    costs = [crowd.tick() for _ in range(INTERVAL)]
    start = private()
    crowd.join(b"a", conns)
    return {
        "join one room of all, as the only one: bytes": (private() - start) / conns,
        "bunched timers: ms of their one tick": max(cost["total_ns"] for cost in costs) / 1e6,
        "bunched timers: longest turn, ms": max(cost["worst_ns"] for cost in costs) / 1e6,
    }


def stalls(conns: int, loops: int) -> Figures:
    """The longest single step of each kind, where a structure grows, shrinks or is put in order."""
    crowd = probe.Crowd(conns, loops, True)
    costs = {"open": crowd.open(each=True)}
    costs[f"join a room of {ROOM}"] = crowd.join(b"s", ROOM, each=True)
    costs["subscribe a room"] = crowd.settle()
    costs["join one room of all"] = crowd.join(b"a", conns, each=True)
    costs["leave and rejoin"] = crowd.rejoin(b"s", ROOM, min(conns, SAMPLE), each=True)
    crowd.settle()
    costs["lose NATS"] = crowd.lose_nats()
    costs["publish to one room of all"] = crowd.publish(b"a", 0)
    costs["close"] = crowd.close(conns, each=True)
    costs["unsubscribe a room"] = crowd.settle()
    costs["free rooms, a turn"] = crowd.reclaim()
    costs["a large malloc after that"] = crowd.allocate(1 << 13)
    return {f"longest, {name}: ms": cost["worst_ns"] / 1e6 for name, cost in costs.items()}


PARTS: dict[str, Callable[[int, int], Figures]] = {
    "work": work,
    "users": partial(users, 12),
    "uuids": partial(users, 36),
    "bunched": bunched,
    "stalls": stalls,
}


def part(name: str, conns: int, loops: int) -> Figures:
    """Runs a part in a new process, so that it finds no memory that another part has left."""
    command = [sys.executable, sys.argv[0], "structures", "part", name, str(conns), str(loops)]
    figures: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {figure: float(f"{value:.6g}") for figure, value in figures.items()}


def turn(conns: int, loops: int, _turn: int) -> Figures:
    """All parts."""
    return {name: value for each in PARTS for name, value in part(each, conns, loops).items()}


def form_of(conns: int, loops: int) -> str:
    """The name of a crowd in the file of results."""
    return f"--conns {conns} --loops {loops}"


def forms(options: argparse.Namespace, _stack: ExitStack) -> dict[str, Turn]:
    return {form_of(conns, options.loops): partial(turn, conns, options.loops) for conns in options.conns}


OPTIONS = {
    "conns": ([10_000, 100_000, 1_000_000, 10_000_000], "(default: ten thousand to ten million)"),
    "loops": (1, "that they are spread over"),
}


def main(arguments: list[str]) -> int:
    """Measures all parts, or one of them in this process."""
    if arguments[:1] == ["part"]:
        name, conns, loops = arguments[1:]
        print(json.dumps(PARTS[name](int(conns), int(loops))))
        return 0
    return run(__doc__, OPTIONS, forms, arguments=arguments)
