"""What floods cost the neighbours of a client: relays on the same loop, beside relays at another engine.

    python bench/fairness.py                                # every flood, 3 turns
    python bench/fairness.py --floods room,ping --turns 5
    python bench/fairness.py --json bench/results/fairness.json

An engine serves 16 connections that relay 1,000 messages a second, and a flood. A second engine of as many loops, which
is not flooded, serves as many relays at the same time on the same processors: their latency is the machine's. Each turn
measures both, first in quiet and then in the flood. The floods, none of which pauses:

    room    one client publishes into a room of 1,000 members that read nothing
    joins   40 clients join and leave a room, and 100 watchers receive each JOIN and LEAVE
    auth    8 clients send AUTH to an engine that validates tokens, and read the answers
    ping    8 clients send PING, and read the answers

The bar of a flood is a p99 of at most 3 ms, or at most 1.5 times that of the other engine's relays. The exit status is
1 if a relay was lost or a flood misses the bar.
"""

from __future__ import annotations

import argparse
import multiprocessing
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.synchronize import Event

from client import BINARY, PATIENCE, Peer, frame, request, text
from client import opened as peer_opened
from contenders import VENV_BIN
from load import Run, load
from results import Figures, middle
from servers import engine, processor
from turns import Turn, run

PERCENTILES = ("p50", "p99", "max")
BAR_US = 3000.0
BAR_RATIO = 1.5
SECRET = "a secret for benchmarks, long enough for HS256"
SMALL_BUFFER = 4096  # bytes that the kernel takes for a member that does not read
MEMBERS = 1000
LISTENERS = 100
CHUNK = 1 << 16  # bytes that a flood sends in one call, about


def opened(port: int, path: str, receive_buffer: int = 0) -> Peer:
    """A connection that has received HELLO."""
    return peer_opened(port, request(path), receive_buffer)


def repeated(*texts: str) -> bytes:
    """About CHUNK bytes of these messages, repeated."""
    once = b"".join(map(text, texts))
    return once * (CHUNK // len(once) + 1)


def pump(senders: dict[Peer, bytes], readers: list[Peer], begun: Event) -> None:
    """Sends without a pause, and discards what is received, until the process is ended."""
    chosen = selectors.DefaultSelector()
    whole = {peer.socket: memoryview(data) for peer, data in senders.items()}
    left = dict(whole)
    for peer in [*senders, *readers]:
        chosen.register(peer.socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if peer in senders else 0))
        peer.socket.setblocking(False)
    scratch = bytearray(1 << 20)
    begun.set()
    while True:
        for key, events in chosen.select():
            assert isinstance(key.fileobj, socket.socket)
            one = key.fileobj
            if events & selectors.EVENT_READ and not one.recv_into(scratch):
                raise SystemExit("the engine closed a connection")
            if events & selectors.EVENT_WRITE:
                sent = one.send(left[one])
                left[one] = left[one][sent:] or whole[one]


def flood_room(port: int, path: str, begun: Event) -> None:
    members = [opened(port, f"{path}&room=flood", SMALL_BUFFER) for _ in range(MEMBERS)]
    one = opened(port, path)
    for _ in range(20):  # more than their sockets and backlogs take
        one.send(frame(BINARY, b"PUB flood\n" + bytes(60_000)) + text("PING full"))
        one.await_message(b"PONG full")
    pump({one: repeated("PUB flood\n" + "x" * 100)}, [], begun)
    del members


def flood_joins(port: int, path: str, begun: Event) -> None:
    listeners = [opened(port, path) for _ in range(LISTENERS)]
    for one in listeners:
        one.send(text("SUB flood presence"))
    pump({opened(port, path): repeated("SUB flood", "UNSUB flood") for _ in range(40)}, listeners, begun)


def flood_auth(port: int, path: str, begun: Event) -> None:
    auth = f"AUTH {path.partition('token=')[2]}"
    pump({opened(port, path): repeated(auth) for _ in range(8)}, [], begun)


def flood_ping(port: int, path: str, begun: Event) -> None:
    pump({opened(port, path): repeated("PING token") for _ in range(8)}, [], begun)


FLOODS: dict[str, Callable[[int, str, Event], None]] = {
    "room": flood_room,
    "joins": flood_joins,
    "auth": flood_auth,
    "ping": flood_ping,
}


@contextmanager
def flooding(name: str, port: int, path: str) -> Iterator[None]:
    """The flood, from when it has begun until the block ends."""
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    flood = context.Process(target=FLOODS[name], args=(port, path, begun), daemon=True)
    flood.start()
    try:
        assert begun.wait(PATIENCE), f"the flood {name} has not begun"
        yield
        assert flood.is_alive(), f"the flood {name} has ended"
    finally:
        flood.kill()
        flood.join()


def relays(urls: list[str], seconds: float) -> list[Run]:
    """Relays at each URL at the same time."""
    words = f"relay --connections 16 --rate 1000 --warmup 0.5 --seconds {seconds}"
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda url: load(words, [url]), urls))


def token() -> str:
    """One that never expires."""
    command = [f"{VENV_BIN}/signal-engine", "token", "--ttl", "0", "--key", SECRET]
    return str(subprocess.run(command, capture_output=True, text=True, check=True).stdout).strip()


def measured(name: str, options: argparse.Namespace, _turn: int) -> Figures:
    """A turn of a flood: relays beside it and at another engine, in quiet and in the flood; microseconds."""
    path, auth = "?", f"--loops {options.loops}"
    if name == "auth":
        path, auth = f"?token={token()}", f"{auth} --auth jwt --auth-key '{SECRET}'"
    with engine(f"{auth} {options.server}") as near, engine(auth) as apart:
        urls = [f"{server.url}{path}" for server in (near, apart)]
        runs = {"quiet": relays(urls, options.seconds)}
        with flooding(name, near.port, f"/{path}"):
            before = processor(near.pid)
            runs["flood"] = relays(urls, options.seconds)
            used = processor(near.pid) - before
    found = {
        f"{when} {where} {point}": each["latency_us"][point]
        for when, both in runs.items()
        for where, each in zip(("near", "apart"), both, strict=True)
        for point in PERCENTILES
    }
    return found | {
        "ratio": round(found["flood near p99"] / found["flood apart p99"], 2),
        "processor": round(used / (options.seconds + 0.5), 2),
        "lost": sum(each["lost"] for both in runs.values() for each in both),
    }


def fault(found: Figures) -> str:
    """Why a flood misses the bar, or nothing."""
    p99, ratio, lost = middle(found, "flood near p99"), middle(found, "ratio"), sum(found["lost"])
    if not lost and (p99 <= BAR_US or ratio <= BAR_RATIO):
        return ""
    return f"missed: median p99 {p99:,.0f} µs, {ratio:.2f} times the other engine's, {lost} lost"


def forms(options: argparse.Namespace, _stack: ExitStack) -> dict[str, Turn]:
    return {name: partial(measured, name, options) for name in FLOODS}


OPTIONS = {
    "seconds": (4.0, "of quiet, and of each flood"),
    "loops": (2, "of each engine"),
    "server": ("", "more options of the flooded engine"),
}

if __name__ == "__main__":
    sys.exit(run(__doc__, OPTIONS, forms, choice="floods", fault=fault))
