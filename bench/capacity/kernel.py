"""The kernel's memory for an idle connection: the engine's, in turn with a bare pair of sockets.

Each turn opens the connections to a program that does nothing but accept them and put them into an epoll, and then (or
before) to the engine, from bin/load, idle; and looks at /proc/meminfo (Slab) and /proc/slabinfo (as root) before and
while they are open. `sockets` is the sum of the caches that sockets alone fill; the whole Slab, and dentry, also have
the entries of programs that read /proc/PID/fd meanwhile (proc_inode_cache tells).

Both ends are on this machine and in the same caches, so a pair is measured. The client's end is the same in both: the
difference of the totals is the engine's end against a bare one, and half a bare pair is what one end takes. What else
runs on the machine moves the figures: use an idle one.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from results import Figures, columns, keep, middle
from servers import LOAD, free_port, running, serving, stop

SOCKET = ("TCP", "sock_inode_cache", "filp", "eventpoll_epi", "ep_head")
OTHER = ("dentry", "proc_inode_cache", "tw_sock_TCP")
SETTLE = 0.5
PATIENCE = 120.0
Bytes = dict[str, float]


def serve(port: int) -> None:
    """Accepts, and puts what it accepted into an epoll, until it is ended."""
    kept = []
    with socket.create_server(("127.0.0.1", port), backlog=4096) as listener, selectors.EpollSelector() as poll:
        while True:
            accepted, _ = listener.accept()
            poll.register(accepted, selectors.EVENT_READ)
            kept.append(accepted)


def connect(port: int, count: int) -> None:
    """Opens so many, and keeps them until its standard input ends."""
    with selectors.EpollSelector() as poll:
        kept = [socket.socket() for _ in range(count)]
        for opened in kept:
            opened.connect(("127.0.0.1", port))
            poll.register(opened, selectors.EVENT_READ)
        sys.stdin.read()


def kernel() -> dict[str, int]:
    """Bytes of the kernel's slabs, in all and by cache."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = {"slab": next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Slab:"))}
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except PermissionError:
        return found
    for fields in map(str.split, lines):
        if fields[0] in SOCKET + OTHER:
            found[fields[0]] = int(fields[1]) * int(fields[3])
    found["sockets"] = sum(found[name] for name in SOCKET)
    return found


def sockets() -> int:
    """TCP sockets in use, both ends counted."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return int(line.split()[2])


def wait(what: str, condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; ends the program where it takes too long."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"kernel: {what}: not within {PATIENCE:.0f} s")
        time.sleep(0.05)


def pairs(server: str, client: list[str], port: int, count: int) -> Bytes:
    """Bytes of kernel memory a pair, while `client` holds `count` connections to `server`."""
    with running(server, port):
        time.sleep(SETTLE)
        idle, before = sockets(), kernel()
        with subprocess.Popen(client, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as connecting:
            try:
                wait("the connections are open", lambda: sockets() - idle >= 2 * count)
                time.sleep(SETTLE)
                after = kernel()
            finally:
                stop(connecting)
    wait("the sockets are closed", lambda: sockets() - idle < count // 100)
    return {name: round((after[name] - before.get(name, 0)) / count, 1) for name in after}


def bare(count: int) -> Bytes:
    """Bytes a pair of plain sockets."""
    port, this = free_port(), f"{sys.executable} {sys.argv[0]} kernel"
    client = [*this.split(), "--connect", str(port), "--connections", str(count)]
    return pairs(f"{this} --serve {port}", client, port, count)


def engine(count: int) -> Bytes:
    """Bytes a connection to the engine, both ends."""
    port = free_port()
    client = [str(LOAD), "idle", "--seconds", str(PATIENCE), "--connections", str(count), f"ws://127.0.0.1:{port}/"]
    return pairs(serving(port, "--nats off --loops 8"), client, port, count)


def turn(count: int, number: int) -> dict[str, Bytes]:
    """Both, each first in every second turn: the first finds caches of the kernel that are not yet filled."""
    runs = {"bare": bare, "engine": engine}
    order = list(runs) if number % 2 else list(runs)[::-1]
    return {who: runs[who](count) for who in order}


def key_of(turns: list[dict[str, Bytes]]) -> str:
    """What the two are compared by: `sockets`, or the whole slab where the caches can't be read."""
    return "sockets" if all("sockets" in each[who] for each in turns for who in each) else "slab"


def kept_turns(turns: list[dict[str, Bytes]]) -> list[Figures]:
    """Each turn as it is kept: bytes a pair, and the engine's by the bare one's."""
    key = key_of(turns)
    return [
        {f"{who} {name}": value for who in ("bare", "engine") for name, value in each[who].items()}
        | {"ratio": round(each["engine"][key] / each["bare"][key], 4)}
        for each in turns
    ]


def report(turns: list[dict[str, Bytes]]) -> None:
    """Prints the medians by cache, and the ratio of each turn."""
    found, key = columns(kept_turns(turns)), key_of(turns)
    print(f"{'bytes a pair':20} {'bare':>8} {'engine':>8} {'ratio':>7}")
    for name in turns[0]["bare"]:
        one, other = middle(found, f"bare {name}"), middle(found, f"engine {name}")
        print(f"{name:20} {one:8.0f} {other:8.0f}" + (f" {other / one:7.3f}" if one > 0 else ""))
    print(f"{key}, engine to bare, turn by turn: {', '.join(f'{ratio:.3f}' for ratio in sorted(found['ratio']))}")
    print(f"one end, as half a bare pair: {statistics.median(found[f'bare {key}']) / 2:.0f} bytes")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of this tool."""
    parser.add_argument("--connections", type=int, default=18_000, help="in each turn (default 18000)")
    parser.add_argument("--turns", type=int, default=4, help="of both in turn (default 4)")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--connect", type=int, help=argparse.SUPPRESS)


def measure(options: argparse.Namespace) -> None:
    """Measures, or is one end of the bare pairs."""
    if options.serve:
        serve(options.serve)
    elif options.connect:
        connect(options.connect, options.connections)
    else:
        turns = [turn(options.connections, number) for number in range(options.turns)]
        report(turns)
        keep(options.json, {"kernel": kept_turns(turns)}, connections=options.connections, by=key_of(turns))
