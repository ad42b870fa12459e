"""The kernel's memory for an idle connection: the engine's against a bare pair of sockets of the same number.

    python bench/kernel_memory.py                         # 18,000 connections, 4 turns
    python bench/kernel_memory.py --connections 9000 --json bench/results/kernel.json

Each turn opens the connections to a program that does nothing but accept them and put them into an epoll, and then (or
before) to the engine, from bin/load, idle; and each time looks at /proc/meminfo (Slab) and /proc/slabinfo (as root)
before and while they are open. `sockets` is the sum of the caches that sockets alone fill; in the whole Slab, and in
dentry, are the entries of whoever reads /proc/PID/fd meanwhile, too (proc_inode_cache tells).

Both ends are on this machine and in the same caches, so what is measured is a pair. In both turns the client's end is
the same, a TCP socket in an epoll: the difference of the totals is the engine's end against a bare one, and half a bare
pair is what one end takes. What else runs on the machine moves the figures: use an idle one.
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
from typing import Any

from contenders import HERE, VENV_BIN
from kept import add_json, keep
from servers import free_port, stop, wait_listening

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
    """Opens so many, says so, and keeps them until its standard input ends."""
    with selectors.EpollSelector() as poll:
        kept = [socket.socket() for _ in range(count)]
        for opened in kept:
            opened.connect(("127.0.0.1", port))
            poll.register(opened, selectors.EVENT_READ)
        print("open", flush=True)
        sys.stdin.read()


def kernel() -> dict[str, int]:
    """Bytes of the kernel's slabs, in all and by cache."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value = line.split()[:2]
        if name == "Slab:":
            found["slab"] = int(value) * 1024
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except PermissionError:
        return found
    for line in lines:
        fields = line.split()
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
            raise SystemExit(f"kernel_memory: {what}: not within {PATIENCE:.0f} s")
        time.sleep(0.05)


def measure(server: list[str], client: list[str], port: int, count: int) -> Bytes:
    """Bytes of kernel memory a pair, while `client` holds `count` connections to `server`."""
    with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serving:
        try:
            wait_listening(serving, port)
            time.sleep(SETTLE)
            idle, before = sockets(), kernel()
            with subprocess.Popen(client, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as connecting:
                try:
                    wait("the connections are open", lambda: sockets() - idle >= 2 * count)
                    time.sleep(SETTLE)
                    after = kernel()
                finally:
                    stop(connecting)
        finally:
            stop(serving)
    wait("the sockets are closed", lambda: sockets() - idle < count // 100)
    return {name: (after[name] - before.get(name, 0)) / count for name in after}


def bare(count: int) -> Bytes:
    """Bytes a pair of plain sockets."""
    port = free_port()
    server = [sys.executable, __file__, "--serve", str(port)]
    client = [sys.executable, __file__, "--connect", str(port), "--connections", str(count)]
    return measure(server, client, port, count)


def engine(count: int) -> Bytes:
    """Bytes a connection to the engine, both ends."""
    port = free_port()
    server = [str(VENV_BIN / "signal-engine"), "serve", "--nats", "off", "--loops", "8"]
    client = [str(HERE / "bin" / "load"), "idle", "--seconds", str(PATIENCE), "--connections", str(count)]
    return measure(
        [*server, "--listen", f"127.0.0.1:{port}"], [*client, f"ws://127.0.0.1:{port}/"], port, count
    )


def turn(count: int, number: int) -> dict[str, Bytes]:
    """Both, each first in every second turn: the first finds caches of the kernel that are not yet filled."""
    runs = {"bare": bare, "engine": engine}
    order = list(runs) if number % 2 else list(runs)[::-1]
    return {who: runs[who](count) for who in order}


def key_of(turns: list[dict[str, Bytes]]) -> str:
    """What the two are compared by: `sockets`, or the whole slab where the caches can't be read."""
    return "sockets" if all("sockets" in each[who] for each in turns for who in each) else "slab"


def kept_turns(turns: list[dict[str, Bytes]]) -> list[dict[str, Any]]:
    """Each turn as it is kept: bytes a pair, and the engine's by the bare one's."""
    key = key_of(turns)
    return [
        {
            **{who: {name: round(value, 1) for name, value in each[who].items()} for who in ("bare", "engine")},
            "ratio": round(each["engine"][key] / each["bare"][key], 4),
        }
        for each in turns
    ]


def report(turns: list[dict[str, Bytes]]) -> None:
    """Prints the medians by cache, and the ratio of each turn."""
    names = [name for name in turns[0]["engine"] if name in turns[0]["bare"]]
    print(f"{'bytes a pair':20} {'bare':>8} {'engine':>8} {'ratio':>7}")
    for name in names:
        bare, engine = (statistics.median(each[who][name] for each in turns) for who in ("bare", "engine"))
        ratio = f"{engine / bare:7.3f}" if bare > 1 else ""
        print(f"{name:20} {bare:8.0f} {engine:8.0f} {ratio}")
    key = key_of(turns)
    ratios = sorted(each["ratio"] for each in kept_turns(turns))
    print(f"{key}, engine to bare, turn by turn: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
    print(f"one end, as half a bare pair: {statistics.median(each['bare'][key] for each in turns) / 2:.0f} bytes")


def main() -> int:
    """Measures, or is one end of the bare pairs."""
    parser = argparse.ArgumentParser(description="The kernel's memory for an idle connection.")
    parser.add_argument("--connections", type=int, default=18_000, help="in each turn (default 18000)")
    parser.add_argument("--turns", type=int, default=4, help="of both in turn (default 4)")
    add_json(parser)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--connect", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.connect:
        connect(options.connect, options.connections)
    else:
        turns = [turn(options.connections, number) for number in range(options.turns)]
        report(turns)
        if options.json:
            figures = {"connections": options.connections, "by": key_of(turns), "turns": kept_turns(turns)}
            keep(options.json, "kernel", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
