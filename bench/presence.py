"""How long until all watchers of a room, on two nodes, have received a storm of joins, and what that costs.

    python bench/presence.py                                    # 1,000 watchers, 1,000 joins
    python bench/presence.py --listeners 20 --slow 4 --joins 10000 --at-once
    python bench/presence.py --json bench/results/presence.json

Half of the watchers and half of those that join are on each node. During the measurement the watchers only count, in
this process; then everything that each of them received is checked: every join, by its address, comes once, or is
counted in a GAP. The time is from the first SUB sent to the last JOIN received; the processor time is that of both
engines and of nats-server. With `--slow` some watchers do not read meanwhile. With `--at-once` the engines are stopped
while the SUBs are sent, and so find all of them at one moment. The exit status is 1 if a watcher that reads got a GAP.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import BINARY, PING, Peer, frame, opened, request, text
from results import Figures
from servers import processor
from turns import Turn, run

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import kit

ROOM = "storm"
JOIN = f"JOIN {ROOM} ".encode()
FILL = 80  # messages of FILL_SIZE bytes: more than a socket that is not read, and its backlog, hold
FILL_SIZE = 64000
STILL = 0.5  # seconds without input, after which all is received
QUIET = 5.0  # seconds without input, after which the rest must have been dropped


def messages(data: bytearray) -> Iterator[bytearray]:
    """The complete messages in what an engine sent; a client that is here briefly need not answer pings."""
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
    """Sends so much to a client that does not read that its socket takes no more."""
    message = frame(BINARY, b"TO " + address + b"\n" + bytes(FILL_SIZE))
    peer.send(message * FILL + text("PING full"))
    peer.await_message(b"PONG full")


class Watchers:
    """Receives for all watchers, and counts the joins of each."""

    def __init__(self, peers: list[Peer]) -> None:
        self.peers = peers
        self.selector = selectors.DefaultSelector()
        self.last = 0.0  # when something was received
        for i, peer in enumerate(peers):
            peer.socket.setblocking(False)
            self.selector.register(peer.socket, selectors.EVENT_READ, i)
        self.forget()

    def forget(self) -> None:
        """Forgets what was received so far."""
        self.joins = [0] * len(self.peers)
        self.received = [bytearray() for _ in self.peers]

    def take(self, seconds: float) -> bool:
        """Reads what comes within this time; returns whether something came."""
        events = self.selector.select(seconds)
        for key, _ in events:
            data = os.read(key.fd, 1 << 18)
            assert data, "the engine closed a connection"
            cut = self.received[key.data][-(len(JOIN) - 1) :]
            self.joins[key.data] += (cut + data).count(JOIN)
            self.received[key.data] += data
            self.last = time.monotonic()
        return bool(events)

    def until_still(self) -> None:
        while self.take(STILL):
            pass

    def checked(self, watcher: int, comers: set[str], filled: int) -> int:
        """Holds what a watcher received to what happened; returns how many messages it missed."""
        joined, missed, others = [], 0, 0
        for message in messages(self.received[watcher]):
            if message.startswith(JOIN):
                joined.append(message[len(JOIN) :].decode())
            elif message.startswith(b"GAP "):
                missed += int(message[4:])
            else:
                assert message.startswith(b"FROM "), f"a watcher received {message[:100]!r}"
                others += 1
        who = f"watcher {watcher} received"
        assert len(joined) == len(set(joined)), f"{who} a join twice"
        assert set(joined) <= comers, f"{who} the join of somebody else"
        assert len(joined) + missed + others == len(comers) + filled, f"{who} {len(joined)}, {others}, GAP {missed}"
        return missed


@dataclass
class Storm:
    """What was measured."""

    seconds: float  # until all is received
    engines: float  # processor seconds of both
    nats: float  # processor seconds
    client: float  # processor seconds of this process
    publishes: int  # of presence, to NATS, by both engines
    changes: int  # joins that the engines had to report
    missed: list[int]  # messages, by each watcher, as its GAPs count them
    backlog: int  # bytes that waited for watchers, after the storm

    def figures(self, slow: int) -> Figures:
        """As they are kept."""
        return {
            "seconds until all is heard": self.seconds,
            "processor s of both engines": self.engines,
            "cores that the engines took": self.engines / self.seconds,
            "processor s of nats-server": self.nats,
            "of this client": self.client,
            "publishes": self.publishes,
            "messages missed by a listener": max(self.missed),
            "missed by those that read": sum(self.missed[slow:]),
        }


def join_all(comers: list[Peer], nodes: list[kit.Engine], watchers: Watchers, at_once: bool) -> None:
    """Sends every SUB; with `at_once` while the engines are stopped."""
    for node in nodes if at_once else []:
        os.kill(node.pid, signal.SIGSTOP)
    for i, one in enumerate(comers):
        one.send(text(f"SUB {ROOM}"))
        if i % 100 == 99:
            watchers.take(0)
    for node in nodes if at_once else []:
        os.kill(node.pid, signal.SIGCONT)


def storm(listeners: int, slow: int, joins: int, at_once: bool = False, **settings: Any) -> Storm:
    """One storm, on a new cluster; AssertionError if a watcher did not receive what it should."""
    with ExitStack() as stack:
        server = stack.enter_context(kit.nats())
        nodes = [stack.enter_context(kit.engine(nats=server.url, loops=1, **settings)) for _ in range(2)]
        ports, hello = [node.port for node in nodes], request()
        clients = [stack.enter_context(opened(ports[i % 2], hello, 4096 * (i < slow))) for i in range(listeners)]
        for one in clients:
            one.send(text(f"SUB {ROOM} presence ref=a"))
            one.await_message(b"OK a")
        comers = [stack.enter_context(opened(ports[i % 2])) for i in range(joins)]
        addresses = {comer.address.decode() for comer in comers}
        assert len({address.partition(".")[0] for address in addresses}) == 2, "they are not on two nodes"
        watchers = Watchers(clients)
        watchers.until_still()
        watchers.forget()
        for i in range(slow):
            watchers.selector.unregister(clients[i].socket)
            fill(comers[i % 2], clients[i].address)
        before = [node.stats()["total"] for node in nodes]
        pids = [*(node.pid for node in nodes), server.pid]
        used, own, begun = [processor(pid) for pid in pids], time.process_time(), time.monotonic()
        join_all(comers, nodes, watchers, at_once)
        while min(watchers.joins[slow:]) < joins and time.monotonic() - max(begun, watchers.last) < QUIET:
            watchers.take(QUIET)
        *engines, nats = (processor(pid) - start for pid, start in zip(pids, used, strict=True))
        took, own = watchers.last - begun, time.process_time() - own
        after = [node.stats()["total"] for node in nodes]
        for i in range(slow):
            watchers.selector.register(clients[i].socket, selectors.EVENT_READ, i)
        watchers.until_still()
        missed = [watchers.checked(i, addresses, FILL if i < slow else 0) for i in range(listeners)]
        publishes, changes = (
            sum(new[name] - old[name] for new, old in zip(after, before, strict=True))
            for name in ("presence_out", "presence_changes")
        )
        return Storm(took, sum(engines), nats, own, publishes, changes, missed, sum(x["backlog_bytes"] for x in after))


def forms(options: argparse.Namespace, _stack: ExitStack) -> dict[str, Turn]:
    words = (options.listeners, options.slow, options.joins, options.at_once)
    return {"presence": lambda _turn: storm(*words).figures(options.slow)}


def fault(found: Figures) -> str:
    """Whether a watcher that reads missed a message."""
    return "a watcher that reads missed messages" if any(found["missed by those that read"]) else ""


OPTIONS = {
    "listeners": (1000, "watchers"),
    "slow": (0, "how many of them do not read meanwhile"),
    "joins": (1000, "clients that join"),
    "at_once": (False, "all SUBs are there before the engines read one"),
}

if __name__ == "__main__":
    sys.exit(run(
        __doc__, OPTIONS, forms, fault=fault, about=lambda o: {"listeners": o.listeners, "joins": o.joins}
    ))
