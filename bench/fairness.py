"""What floods cost the neighbours of a client: relays on the same loop, beside relays at another engine.

    python bench/fairness.py                                # every flood, 3 turns
    python bench/fairness.py --floods room,ping --turns 5
    python bench/fairness.py --json bench/results/fairness.json

An engine serves 16 connections that relay 1,000 messages a second, and a flood. A second engine of as many loops, which
the flood does not touch, serves as many relays on the same processors at the same time: what these suffer is the
machine's. Each turn measures both, first in quiet and then in the flood. The floods:

    room    one client publishes without a pause into a room of 1,000 members, none of which reads
    joins   40 clients join and leave a room without a pause, 100 listeners hear each of them
    auth    8 clients send AUTH without a pause to an engine that checks tokens, and read the answers
    ping    8 clients send PING without a pause, and read the answers

A flood meets the bar where its p99 is at most 3 ms, or at most 1.5 times that of the relays at the other engine. It
ends with 1 where a relay was lost or a flood misses the bar. From bin/load relay.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event

from client import BINARY, PATIENCE, Peer, frame, request, text
from client import opened as peer_opened
from contenders import VENV_BIN, parse_names
from results import Figures, add_json, columns, keep, middle
from servers import LOAD, free_port, many_descriptors, processor, running, serving

PERCENTILES = ("p50", "p99", "max")
BAR_US = 3000.0
BAR_RATIO = 1.5
SECRET = "a secret for benchmarks, long enough for HS256"
SMALL_BUFFER = 4096  # bytes that the kernel takes for a member that does not read
MEMBERS = 1000
LISTENERS = 100
CHUNK = 1 << 16  # bytes that a flood sends in one call, about


def opened(port: int, path: str, receive_buffer: int = 0) -> Peer:
    """A connection past HELLO."""
    return peer_opened(port, request(path), receive_buffer)


def repeated(*texts: str) -> bytes:
    """CHUNK bytes of these messages, over and over."""
    once = b"".join(map(text, texts))
    return once * (CHUNK // len(once) + 1)


def pump(senders: dict[Peer, bytes], readers: list[Peer], begun: Event) -> None:
    """Sends without a pause, and throws away whatever is heard, until the process is ended."""
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
                raise SystemExit("the engine hung up")
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


def relays(urls: list[str], seconds: float) -> list[Figures]:
    """What the load generator tells of relays at each URL, at one time."""
    words = f"{LOAD} relay --connections 16 --rate 1000 --warmup 0.5 --seconds {seconds}"
    runs = [subprocess.Popen([*words.split(), url], stdout=subprocess.PIPE) for url in urls]
    return [json.loads(run.communicate()[0]) for run in runs]


def token() -> str:
    """One that lasts for ever."""
    command = [f"{VENV_BIN}/signal-engine", "token", "--ttl", "0", "--key", SECRET]
    return str(subprocess.run(command, capture_output=True, text=True, check=True).stdout).strip()


def measured(name: str, seconds: float, loops: int, more: str) -> Figures:
    """One turn of a flood: relays beside it and at another engine, in quiet and in the flood; microseconds."""
    path, auth = "/?", ""
    if name == "auth":
        path, auth = f"/?token={token()}", f"--auth jwt --auth-key '{SECRET}'"
    with ExitStack() as servers:
        ports = [free_port(), free_port()]
        pids = [
            servers.enter_context(running(serving(port, f"--nats off --loops {loops} {auth} {options}"), port))
            for port, options in zip(ports, (more, ""), strict=True)
        ]
        urls = [f"ws://127.0.0.1:{port}{path}" for port in ports]
        runs = {"quiet": relays(urls, seconds)}
        with flooding(name, ports[0], path):
            before = processor(pids[0])
            runs["flood"] = relays(urls, seconds)
            used = processor(pids[0]) - before
    found = {
        f"{when} {where} {point}": run["latency_us"][point]
        for when, both in runs.items()
        for where, run in zip(("near", "apart"), both, strict=True)
        for point in PERCENTILES
    }
    return found | {
        "ratio": round(found["flood near p99"] / found["flood apart p99"], 2),
        "processor": round(used / (seconds + 0.5), 2),
        "lost": sum(run["lost"] for both in runs.values() for run in both),
    }


def shown(name: str, turn: Figures) -> str:
    parts = []
    for when in ("quiet", "flood"):
        p50, p99, most = (turn[f"{when} near {point}"] for point in PERCENTILES)
        apart = ", ".join(f"{turn[f'{when} apart {point}']:,.0f}" for point in PERCENTILES)
        parts.append(f"{when}: p50 {p50:,.0f} µs, p99 {p99:,.0f}, max {most:,.0f} (apart {apart})")
    return f"{name:6} {'; '.join(parts)}; ratio {turn['ratio']}, processor {turn['processor']}, lost {turn['lost']}"


def main() -> int:
    """0; 1 where a relay was lost, or a flood misses the bar."""
    parser = argparse.ArgumentParser(description="What floods cost the neighbours of a client.")
    parser.add_argument("--floods", default=",".join(FLOODS), help="which, by comma")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of quiet, and of each flood")
    parser.add_argument("--loops", type=int, default=2, help="of each engine")
    parser.add_argument("--server", default="", help="more options of the engine that is flooded")
    add_json(parser)
    options = parser.parse_args()
    many_descriptors()
    try:
        names = parse_names(options.floods, FLOODS, "flood")
    except ValueError as error:
        parser.error(str(error))
    turns: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(options.turns):
        for name in names:
            turns[name].append(measured(name, options.seconds, options.loops, options.server))
            print(shown(name, turns[name][-1]), flush=True)
    good = True
    for name in names:
        found = columns(turns[name])
        p99, ratio = middle(found, "flood near p99"), middle(found, "ratio")
        met = not sum(found["lost"]) and (p99 <= BAR_US or ratio <= BAR_RATIO)
        print(f"{name}: median p99 {p99:,.0f} µs, {ratio:.2f} times the other engine's: {'met' if met else 'missed'}")
        good = good and met
    keep(options.json, turns)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
