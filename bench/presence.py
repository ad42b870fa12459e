"""How long it takes until all of a room's listeners, on two nodes, have heard of a storm of joins, and what that costs.

    python bench/presence.py                                    # 1,000 listeners, 1,000 joins
    python bench/presence.py --listeners 20 --slow 4 --joins 10000 --at-once
    python bench/presence.py --json bench/results/presence.json

Half of the listeners and half of those who join are on each node. While it is measured the clients only count, in this
process; then all that each of them heard is looked at: every join, by its address, is told once, or counted in a GAP.
It ends with 1 where a listener heard GAP, but for those that do not read meanwhile (`--slow`). The time is from the
first SUB sent to the last JOIN that a listener took, the processor time that of both engines and of nats-server. With
`--at-once` the engines are stopped while the SUBs are sent, and so find all of them at one moment.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import BINARY, PING, Peer, frame, opened, request, text
from results import Figures, add_json, columns, keep, spread
from servers import many_descriptors, processor

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import kit

ROOM = "storm"
JOIN = f"JOIN {ROOM} ".encode()
FILL = 80  # messages of FILL_SIZE bytes: more than a socket that is not read, and its backlog, hold
FILL_SIZE = 64000
STILL = 0.5  # seconds without a word, after which all is heard
QUIET = 5.0  # seconds without a word, after which the rest must have been missed


def messages(data: bytearray) -> Iterator[bytearray]:
    """The whole messages of what an engine sent; a client that listens briefly need not answer its pings."""
    at = 0
    while at + 2 <= len(data):
        size, head = data[at + 1], 2
        if size > 125:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[at + 2 : at + head], "big")
        if at + head + size > len(data):
            return
        if data[at] != PING:
            yield data[at + head : at + head + size]
        at += head + size


def fill(peer: Peer, address: bytes) -> None:
    """Sends so much to one that does not read that its socket takes no more."""
    message = frame(BINARY, b"TO " + address + b"\n" + bytes(FILL_SIZE))
    peer.send(message * FILL + text("PING full"))
    peer.await_message(b"PONG full")


class Ears:
    """Hears what listeners are told, and counts the joins in it."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.sockets: list[socket.socket] = []
        self.joins: list[int] = []
        self.heard: list[bytearray] = []
        self.last = 0.0  # when something was heard

    def add(self, one: socket.socket) -> None:
        one.setblocking(False)
        self.selector.register(one, selectors.EVENT_READ, len(self.sockets))
        self.sockets.append(one)
        self.joins.append(0)
        self.heard.append(bytearray())

    def take(self, seconds: float) -> bool:
        """Reads what comes within the time; whether there was something."""
        events = self.selector.select(seconds)
        for key, _ in events:
            data = os.read(key.fd, 1 << 18)
            assert data, "the engine hung up"
            cut = self.heard[key.data][-(len(JOIN) - 1) :]
            self.joins[key.data] += (cut + data).count(JOIN)
            self.heard[key.data] += data
            self.last = time.monotonic()
        return bool(events)

    def until_still(self) -> None:
        while self.take(STILL):
            pass

    def forget(self) -> None:
        """What was heard so far."""
        self.joins = [0] * len(self.sockets)
        self.heard = [bytearray() for _ in self.sockets]

    def told(self, listener: int) -> tuple[list[str], int, int]:
        """The addresses of the joins that it was told of, how many messages it is told to have missed, and how many
        others it heard."""
        addresses, missed, others = [], 0, 0
        for message in messages(self.heard[listener]):
            if message.startswith(JOIN):
                addresses.append(message[len(JOIN) :].decode())
            elif message.startswith(b"GAP "):
                missed += int(message[4:])
            else:
                assert message.startswith(b"FROM "), f"a listener heard {message[:100]!r}"
                others += 1
        return addresses, missed, others


@dataclass
class Storm:
    """What was measured."""

    seconds: float  # until all is heard
    engines: float  # processor seconds of both
    nats: float  # processor seconds
    client: float  # processor seconds of this process
    publishes: int  # of presence, to NATS, by both engines
    changes: int  # joins that the engines had to tell of
    missed: list[int]  # messages, by each listener, as its GAPs count them
    backlog: int  # bytes that waited for listeners, after the storm

    def figures(self) -> Figures:
        """What is told of it."""
        return {
            "seconds until all is heard": self.seconds,
            "processor s of both engines": self.engines,
            "cores that the engines took": self.engines / self.seconds,
            "processor s of nats-server": self.nats,
            "of this client": self.client,
            "publishes": self.publishes,
            "messages missed by a listener": max(self.missed),
        }


def storm(listeners: int, slow: int, joins: int, at_once: bool = False, **settings: Any) -> Storm:
    """One of them, on a cluster of its own; AssertionError where a listener was not told what it should."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(kit.nats())
        nodes = [stack.enter_context(kit.engine(nats=server.url, loops=1, **settings)) for _ in range(2)]
        ports, hello = [node.port for node in nodes], request()
        clients = [
            stack.enter_context(opened(ports[i % 2], hello, 4096 if i < slow else 0)) for i in range(listeners)
        ]
        for one in clients:
            one.send(text(f"SUB {ROOM} presence ref=a"))
            one.await_message(b"OK a")
        comers = [stack.enter_context(opened(ports[i % 2])) for i in range(joins)]
        ears = Ears()
        for one in clients:
            ears.add(one.socket)
        ears.until_still()
        ears.forget()
        for i in range(slow):
            ears.selector.unregister(clients[i].socket)
            fill(comers[i % 2], clients[i].address)
        before = [node.stats()["total"] for node in nodes]
        engines, served = sum(processor(node.pid) for node in nodes), processor(server.pid)
        own, begun = time.process_time(), time.monotonic()
        for node in nodes if at_once else []:
            os.kill(node.pid, signal.SIGSTOP)
        for i, one in enumerate(comers):
            one.send(text(f"SUB {ROOM}"))
            if i % 100 == 99:
                ears.take(0)
        for node in nodes if at_once else []:
            os.kill(node.pid, signal.SIGCONT)
        while min(ears.joins[slow:]) < joins and time.monotonic() - max(begun, ears.last) < QUIET:
            ears.take(QUIET)
        took = ears.last - begun
        engines = sum(processor(node.pid) for node in nodes) - engines
        served, own = processor(server.pid) - served, time.process_time() - own
        after = [node.stats()["total"] for node in nodes]
        for i in range(slow):
            ears.selector.register(clients[i].socket, selectors.EVENT_READ, i)
        ears.until_still()
        missed = check(ears, [comer.address.decode() for comer in comers], slow)
        publishes, changes = (
            sum(new[name] - old[name] for new, old in zip(after, before, strict=True))
            for name in ("presence_out", "presence_changes")
        )
        waits = sum(total["backlog_bytes"] for total in after)
        return Storm(took, engines, served, own, publishes, changes, missed, waits)


def check(ears: Ears, comers: list[str], slow: int) -> list[int]:
    """Holds what was heard to what happened; how many messages each listener missed."""
    assert len({address.partition(".")[0] for address in comers}) == 2, "they are not on two nodes"
    missed = []
    for i in range(len(ears.sockets)):
        addresses, gone, others = ears.told(i)
        said = len(comers) + (FILL if i < slow else 0)
        assert len(addresses) == len(set(addresses)), f"listener {i} heard a join twice"
        assert set(addresses) <= set(comers), f"listener {i} heard of somebody else"
        assert len(addresses) + gone + others == said, f"listener {i} heard {len(addresses)}, {others}, and GAP {gone}"
        missed.append(gone)
    return missed


def main() -> int:
    """0; 1 where a listener that reads missed a message."""
    parser = argparse.ArgumentParser(description="A storm of joins in a room whose members all listen.")
    parser.add_argument("--listeners", type=int, default=1000)
    parser.add_argument("--slow", type=int, default=0, help="how many of them do not read meanwhile")
    parser.add_argument("--joins", type=int, default=1000)
    parser.add_argument("--at-once", action="store_true", help="all SUBs are there before the engines read one")
    parser.add_argument("--turns", type=int, default=3)
    add_json(parser)
    options = parser.parse_args()
    many_descriptors()
    storms = [storm(options.listeners, options.slow, options.joins, options.at_once) for _ in range(options.turns)]
    turns = [one.figures() for one in storms]
    print(f"{options.listeners} listeners hear {options.joins} joins")
    for name, figures in columns(turns).items():
        print(f"{name}: {spread(figures)}")
    keep(options.json, {"presence": turns}, listeners=options.listeners, joins=options.joins)
    return 1 if any(sum(one.missed[options.slow :]) for one in storms) else 0


if __name__ == "__main__":
    sys.exit(main())
