"""The engine's own structures with up to ten million connections, filled without a socket.

signal_core.probe.Crowd fills real loops: slabs, timers, rooms, the room table. Every part, with every number of
connections, has a fresh process, in turn, `--turns` times; the table shows medians. Memory is what the process alone
has written to (Private_Dirty of smaps_rollup). Times are the thread's processor time. `longest` is the longest of
single steps: for so long a loop would stand still. System calls are not here, and with them the writing of messages.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import signal_core.probe as probe
from results import Figures, columns, keep, middle
from servers import private

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
    """The timers when all were last heard in the same tick, and then all in one room."""
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
    """In a process of its own, so that no part finds memory that another has left."""
    command = [sys.executable, sys.argv[0], "structures", "--part", name, "--conns", str(conns), "--loops", str(loops)]
    figures: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {figure: float(f"{value:.6g}") for figure, value in figures.items()}


def report(turns: dict[int, list[Figures]]) -> None:
    """Prints the medians, a column for each number of connections."""
    by = [columns(runs) for runs in turns.values()]
    print(f"{'':46}" + "".join(f" {conns:>12,}" for conns in turns))
    for name in by[0]:
        medians = [middle(found, name) for found in by]
        print(f"{name:46}" + "".join(f" {median:12,.{3 if median < 10 else 1}f}" for median in medians))


def form_of(conns: int, loops: int) -> str:
    """The name of a crowd in the file of results."""
    return f"--conns {conns} --loops {loops}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of this tool."""
    parser.add_argument("--conns", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--loops", type=int, default=1, help="they are spread over (default 1)")
    parser.add_argument("--turns", type=int, default=3, help="through all numbers of connections (default 3)")
    parser.add_argument("--part", choices=PARTS, help="only this, once, as JSON")


def measure(options: argparse.Namespace) -> None:
    """All parts, or one of them in this process."""
    if options.part:
        print(json.dumps(PARTS[options.part](options.conns[0], options.loops)))
        return
    turns: dict[int, list[Figures]] = {conns: [] for conns in options.conns}
    for _ in range(options.turns):
        for conns, runs in turns.items():
            runs.append({name: value for each in PARTS for name, value in part(each, conns, options.loops).items()})
    report(turns)
    keep(options.json, {form_of(conns, options.loops): runs for conns, runs in turns.items()})
