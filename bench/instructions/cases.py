"""What is counted, and the counting: the steps of each case run between two dumps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from client import CLOSE, PING, PONG, TEXT, Peer, Unexpected, frame, opened, request
from instructions.callgrind import Profile, Watched, watched
from servers import nats

RUNS = 3  # of each case, of which the least counts: interruptions only add
LIVES = 32  # connections that come and go at once
SILENT = 256  # connections that are pinged at once
PAYLOAD = b"x" * 128
REQUEST = request()

Steps = Iterator[None]  # does a step each time


@dataclass(frozen=True)
class Case:
    """A step does `each` times what `rows` name, one for each node."""

    rows: tuple[str, ...]
    run: Callable[[ExitStack, list[Watched]], Steps]
    steps: int
    each: int = 1
    group: str = "alone"


# -- the cases --


def peers(stack: ExitStack, node: Watched, n: int) -> list[Peer]:
    return [stack.enter_context(opened(node.port)) for _ in range(n)]


def to(peer: Peer, options: bytes = b"") -> bytes:
    return b"TO " + peer.address + options + b"\n" + PAYLOAD


def echo(stack: ExitStack, nodes: list[Watched]) -> Steps:
    (one,) = peers(stack, nodes[0], 1)
    said = frame(TEXT, to(one))
    while True:
        one.send(said)
        one.read(b"FROM ")
        yield


def relay(count: int, stack: ExitStack, nodes: list[Watched]) -> Steps:
    """`count` messages in one packet, to a receiver on the last node."""
    (sender,), (receiver,) = peers(stack, nodes[0], 1), peers(stack, nodes[-1], 1)
    said = frame(TEXT, to(receiver)) * count
    sender.say(to(receiver, b" ref=1"))
    while sender.read(b"")[:2] != b"OK":  # ERR unavailable, while NATS is not connected
        sender.say(to(receiver, b" ref=1"))
    receiver.read(b"FROM ")
    while True:
        sender.send(said)
        for _ in range(count):
            receiver.read(b"FROM ")
        yield


def relay_ref(stack: ExitStack, nodes: list[Watched]) -> Steps:
    (sender,), (receiver,) = peers(stack, nodes[0], 1), peers(stack, nodes[-1], 1)
    said = frame(TEXT, to(receiver, b" ref=abc"))
    while True:
        sender.send(said)
        receiver.read(b"FROM ")
        sender.read(b"OK abc")
        yield


def fan_out(members: int, stack: ExitStack, nodes: list[Watched]) -> Steps:
    (sender,), hearers = peers(stack, nodes[0], 1), peers(stack, nodes[0], members)
    room = b"room%d" % members
    said = frame(TEXT, b"PUB " + room + b"\n" + PAYLOAD)
    for hearer in hearers:
        hearer.say(b"SUB " + room + b" ref=1")
        hearer.read(b"OK 1")
    while True:
        sender.send(said)
        for hearer in hearers:
            hearer.read(b"MSG ")
        yield


def join_leave(stack: ExitStack, nodes: list[Watched]) -> Steps:
    """A room that another connection is in, too."""
    one, other = peers(stack, nodes[0], 2)
    join, leave = frame(TEXT, b"SUB hall ref=1"), frame(TEXT, b"UNSUB hall ref=2")
    other.send(join)
    other.read(b"OK 1")
    while True:
        one.send(join)
        one.read(b"OK 1")
        one.send(leave)
        one.read(b"OK 2")
        yield


def lives(_stack: ExitStack, nodes: list[Watched]) -> Steps:
    """The engine is held meanwhile, so that it always finds all connections with their requests."""
    node, bye = nodes[0], frame(CLOSE, b"\x03\xe8")
    while True:
        node.hold()
        came = [Peer(node.port) for _ in range(LIVES)]
        for peer in came:
            peer.send(REQUEST)
        node.resume()
        for peer in came:
            peer.read_hello()
        node.hold()
        for peer in came:
            peer.send(bye)
        node.resume()
        for peer in came:
            peer.read_end()
            peer.close()
        yield


def keepalive(stack: ExitStack, nodes: list[Watched]) -> Steps:
    """All answer together, so that their timers stay together; the PONG of another connection ends the step. The first
    pings, which come one after another, are in the first of at least two steps that warm up. Pings that are samples
    have a payload, which a PONG repeats (RFC 6455 §5.5.3)."""
    node = nodes[0]
    (witness,) = peers(stack, node, 1)
    node.hold()
    silent = [stack.enter_context(Peer(node.port)) for _ in range(SILENT)]
    for peer in silent:
        peer.send(REQUEST)
    node.resume()
    for peer in silent:
        peer.read_hello()
    while True:
        pongs = []
        for peer in silent:
            opcode, payload = peer.read_frame()
            if opcode != PING:
                raise Unexpected("no ping")
            pongs.append(frame(PONG, payload))
        node.hold()
        for peer, pong in zip(silent, pongs, strict=True):
            peer.send(pong)
        node.resume()
        witness.say(b"PING")
        witness.await_message(b"PONG")
        yield


ACROSS = ("cross-node relay, sender's node", "cross-node relay, receiver's node")
CASES = (
    Case(("relay",), partial(relay, 1), 1000),
    Case(("relay with a ref, and its OK",), relay_ref, 1000),
    Case(("relay, 32 in one packet",), partial(relay, 32), 60, 32),
    Case(("echo",), echo, 1000),
    Case(("fan-out to 10, a member",), partial(fan_out, 10), 200, 10),
    Case(("fan-out to 1000, a member",), partial(fan_out, 1000), 10, 1000),
    Case(("join and leave, with their OKs",), join_leave, 500),
    Case(("upgrade, HELLO and close",), lives, 8, LIVES),
    Case(ACROSS, partial(relay, 1), 1000, group="pair"),
    Case(("ping, pong and timer of an idle connection",), keepalive, 1, SILENT, group="pinging"),
)


# -- counting --


@dataclass
class Row:
    """Instructions for one, in each run; and the sum of the profiles."""

    runs: list[float] = field(default_factory=list)
    profile: Profile = field(default_factory=Profile)
    times: int = 0

    @property
    def count(self) -> float:
        return min(self.runs)

    @property
    def spread(self) -> float:
        return max(self.runs) / min(self.runs) - 1


def count(case: Case, nodes: list[Watched]) -> dict[str, Row]:
    rows = {name: Row() for name in case.rows}
    with ExitStack() as stack:
        steps = case.run(stack, nodes)
        for _ in range(max(2, case.steps // 10)):
            next(steps)
        for node in nodes:
            node.dump()
        for _ in range(RUNS):
            for _ in range(case.steps):
                next(steps)
            for row, node in zip(rows.values(), nodes, strict=True):
                profile = node.dump()
                row.runs.append(profile.total / (case.steps * case.each))
                row.profile.add(profile)
                row.times += case.steps * case.each
    return rows


def start(group: str, stack: ExitStack) -> list[Watched]:
    """Starts the engines of a group of cases."""
    settings: dict[str, str | float] = {"nats": "off", "ping_interval": 86400}
    if group == "pinging":
        settings |= {"ping_interval": 4, "pong_timeout": 3}  # each ping has one more look at its timer
    if group == "pair":
        settings["nats"] = f"nats://127.0.0.1:{stack.enter_context(nats()).port}"
    return [stack.enter_context(watched(**settings)) for _ in range(2 if group == "pair" else 1)]


def count_all(cases: Iterable[Case]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for group, some in groupby(cases, lambda case: case.group):
        with ExitStack() as stack:
            nodes = start(group, stack)
            for case in some:
                rows |= count(case, nodes)
    return rows
