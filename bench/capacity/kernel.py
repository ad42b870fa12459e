"""The kernel's memory for an idle connection: the engine's, in turn with a bare pair of sockets.

Each turn opens the connections to a program that only accepts them and adds them to an epoll, and then (or before) to
the engine, and reads /proc/meminfo (Slab) and /proc/slabinfo (as root) before and while they are open. `sockets` is the
sum of the caches that only sockets fill; the whole Slab, and dentry, also have the entries of programs that read
/proc/PID/fd meanwhile (see proc_inode_cache).

Both ends are on this machine and in the same caches, so a pair is measured. The client's end is the same in both: the
difference of the totals is the engine's end against a bare one, and half a bare pair is one end. Use an idle machine:
other programs change the figures.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from load import LOAD
from results import Figures
from servers import Server, free_port, running, stop
from servers import engine as engine_of
from turns import Turn, run

SOCKET = ("TCP", "sock_inode_cache", "filp", "eventpoll_epi", "ep_head")
OTHER = ("dentry", "proc_inode_cache", "tw_sock_TCP")
SETTLE = 0.5
PATIENCE = 120.0
Bytes = dict[str, float]


def serve(port: int) -> None:
    """Accepts, and adds what it accepted to an epoll, until it is ended."""
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
    return found | {"sockets": sum(found[name] for name in SOCKET)}


def sockets() -> int:
    """TCP sockets in use, both ends counted."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return int(line.split()[2])


def wait(what: str, condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; ends the program if it takes too long."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"kernel: {what}: not within {PATIENCE:.0f} s")
        time.sleep(0.05)


def pairs(starting: AbstractContextManager[Server], client: str, count: int) -> Bytes:
    """Bytes of kernel memory a pair, while `client` holds `count` connections to a server."""
    with starting as server:
        time.sleep(SETTLE)
        idle, before = sockets(), kernel()
        words = client.format(port=server.port, count=count, url=server.url).split()
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as connecting:
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
    serving = running(f"{this} serve {port}", port)
    return pairs(serving, f"{this} connect {{port}} {{count}}", count)


def engine(count: int) -> Bytes:
    """Bytes a connection to the engine, both ends."""
    client = f"{LOAD} idle --seconds {PATIENCE} --connections {{count}} {{url}}"
    return pairs(engine_of("--loops 8"), client, count)


def key() -> str:
    """What the two are compared by: `sockets`, or the whole slab if the caches can't be read."""
    return "sockets" if "sockets" in kernel() else "slab"


def compared(found: dict[str, Bytes], by: str) -> Figures:
    """A turn as it is kept: bytes a pair, and the engine's divided by the bare one's."""
    figures: Figures = {f"{who} {name}": value for who in ("bare", "engine") for name, value in found[who].items()}
    return figures | {"ratio": round(found["engine"][by] / found["bare"][by], 4)}


def turn(count: int, number: int) -> Figures:
    """Both, each first in every second turn: the first finds caches of the kernel that are not yet filled."""
    order = (bare, engine) if number % 2 else (engine, bare)
    return compared({measure.__name__: measure(count) for measure in order}, key())


def forms(options: argparse.Namespace, _stack: ExitStack) -> dict[str, Turn]:
    return {"kernel": lambda number: turn(options.connections, number)}


def main(arguments: list[str]) -> int:
    """Measures, or is one end of the bare pairs."""
    if arguments[:1] == ["serve"]:
        serve(int(arguments[1]))
    if arguments[:1] == ["connect"]:
        connect(int(arguments[1]), int(arguments[2]))
        return 0

    def about(options: argparse.Namespace) -> Figures:
        return {"connections": options.connections, "by": key()}

    return run(__doc__, {"connections": (18_000, "in each turn")}, forms, turns=4, about=about, arguments=arguments)
