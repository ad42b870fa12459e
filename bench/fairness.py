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
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event
from typing import Any

from contenders import HERE, VENV_BIN
from kept import add_json, keep
from presence import frame
from servers import free_port, many_descriptors, processor, running

LOAD = str(HERE / "bin" / "load")
PERCENTILES = ("p50", "p99", "max")
BAR_US = 3000.0
BAR_RATIO = 1.5
PATIENCE = 60.0
SECRET = "a secret for benchmarks, long enough for HS256"
SMALL_BUFFER = 4096  # bytes that the kernel takes for a member that does not read
MEMBERS = 1000
LISTENERS = 100
CHUNK = 1 << 16  # bytes that a flood sends in one call, about

Figures = dict[str, Any]


def opened(port: int, path: str, receive_buffer: int = 0) -> socket.socket:
    """A connection past HELLO."""
    one = socket.socket()
    if receive_buffer:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    one.settimeout(PATIENCE)
    one.connect(("127.0.0.1", port))
    one.sendall(
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    hear(one, b"HELLO ")
    return one


def hear(one: socket.socket, text: bytes) -> None:
    """Reads until there is this."""
    heard = b""
    while text not in heard:
        part = one.recv(1 << 16)
        assert part, f"the engine hung up: {heard!r}"
        heard += part


def repeated(*texts: str) -> bytes:
    """CHUNK bytes of these messages, over and over."""
    once = b"".join(map(frame, texts))
    return once * (CHUNK // len(once) + 1)


def large(head: str, size: int) -> bytes:
    """A binary message with a payload of so many zeros, masked with zeros."""
    body = f"{head}\n".encode() + bytes(size)
    return b"\x82\xfe" + len(body).to_bytes(2, "big") + bytes(4) + body


def pump(senders: dict[socket.socket, bytes], readers: list[socket.socket], begun: Event) -> None:
    """Sends without a pause, and throws away whatever is heard, until the process is ended."""
    chosen = selectors.DefaultSelector()
    left = {one: memoryview(data) for one, data in senders.items()}
    for peer in [*senders, *readers]:
        chosen.register(peer, selectors.EVENT_READ | (selectors.EVENT_WRITE if peer in senders else 0))
        peer.setblocking(False)
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
                left[one] = left[one][sent:] or memoryview(senders[one])


def flood_room(port: int, path: str, begun: Event) -> None:
    members = [opened(port, f"{path}&room=flood", SMALL_BUFFER) for _ in range(MEMBERS)]
    one = opened(port, path)
    for _ in range(20):  # more than their sockets and backlogs take
        one.sendall(large("PUB flood", 60_000) + frame("PING full"))
        hear(one, b"PONG full")
    pump({one: repeated("PUB flood\n" + "x" * 100)}, [], begun)
    del members


def flood_joins(port: int, path: str, begun: Event) -> None:
    listeners = [opened(port, path) for _ in range(LISTENERS)]
    for one in listeners:
        one.sendall(frame("SUB flood presence"))
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
    runs = [
        subprocess.Popen(
            [LOAD, "relay", "--connections", "16", "--rate", "1000", "--warmup", "0.5", "--seconds", str(seconds), url],
            stdout=subprocess.PIPE,
        )
        for url in urls
    ]
    return [json.loads(run.communicate()[0]) for run in runs]


def token() -> str:
    """One that lasts for ever."""
    made = subprocess.run(
        [VENV_BIN / "signal-engine", "token", "--ttl", "0", "--key", SECRET], stdout=subprocess.PIPE, check=True
    )
    return made.stdout.decode().strip()


def picked(run: Figures) -> Figures:
    """What is kept of a run of relays, in microseconds."""
    return {**{name: run["latency_us"][name] for name in PERCENTILES}, "lost": run["lost"]}


def measured(name: str, seconds: float, loops: int, more: str) -> Figures:
    """One turn of a flood: relays beside it and at another engine, in quiet and in the flood."""
    path, auth = "/?", ""
    if name == "auth":
        path, auth = f"/?token={token()}", f"--auth jwt --auth-key '{SECRET}'"
    with ExitStack() as servers:
        ports, pids = [], []
        for options in (f"{auth} {more}", auth):
            ports.append(free_port())
            listen = f"127.0.0.1:{ports[-1]}"
            command = f"{VENV_BIN / 'signal-engine'} serve --nats off --loops {loops} --listen {listen} {options}"
            pids.append(servers.enter_context(running(command, ports[-1])))
        urls = [f"ws://127.0.0.1:{port}{path}" for port in ports]
        quiet = relays(urls, seconds)
        with flooding(name, ports[0], path):
            before = processor(pids[0])
            flood = relays(urls, seconds)
            used = processor(pids[0]) - before
    near, far = map(picked, flood)
    return {
        "quiet": {"near": picked(quiet[0]), "apart": picked(quiet[1])},
        "flood": {"near": near, "apart": far},
        "ratio": round(near["p99"] / far["p99"], 2),
        "processor": round(used / (seconds + 0.5), 2),
        "lost": sum(run["lost"] for run in (*quiet, *flood)),
    }


def shown(name: str, turn: Figures) -> str:
    parts = []
    for when in ("quiet", "flood"):
        near, apart = turn[when]["near"], turn[when]["apart"]
        parts.append(
            f"{when}: p50 {near['p50']:,.0f} µs, p99 {near['p99']:,.0f}, max {near['max']:,.0f}"
            f" (apart {apart['p50']:,.0f}, {apart['p99']:,.0f}, {apart['max']:,.0f})"
        )
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
    names = options.floods.split(",")
    turns: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(options.turns):
        for name in names:
            turns[name].append(measured(name, options.seconds, options.loops, options.server))
            print(shown(name, turns[name][-1]), flush=True)
    good = True
    for name in names:
        p99 = statistics.median(turn["flood"]["near"]["p99"] for turn in turns[name])
        ratio = statistics.median(turn["ratio"] for turn in turns[name])
        lost = sum(turn["lost"] for turn in turns[name])
        met = lost == 0 and (p99 <= BAR_US or ratio <= BAR_RATIO)
        print(f"{name}: median p99 {p99:,.0f} µs, {ratio:.2f} times the other engine's: {'met' if met else 'missed'}")
        good = good and met
    if options.json:
        keep(options.json, "fairness", turns)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
