"""Random joins, leaves and sends on two nodes while clients stall and vanish, nodes and the nats-server hang and die.

At the end everything is repaired. Then each ref must have one answer; what was answered `ok` must have arrived, and
what was refused must not; each receiver must have got from each sender only what was for it, in order and once; and GAP
must have counted what was dropped. The ledgers hold at every moment.
"""

import contextlib
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

import kit
from kit import freeze
from peers import BarePeer, Closed, Received, ledgers_hold
from wire import until

from .test_faults import BACK

ROOMS = ("a", "b")
SETTINGS: dict[str, Any] = {
    "ttl": 1, "max_refs": 4096, "backlog_bytes": 65536, "stall_timeout": 300, "ping_interval": 300,
}  # fmt: skip
IN_TIME = 3.5  # seconds: a ttl of 1, a second, and delays of the machine
FLOOD, LARGE = 100, 8000  # messages, and bytes of each: more than a socket and a backlog hold
STACK = contextlib.ExitStack()


class Cluster:
    """A nats-server and two nodes, on one loop and on three; `mend` repairs what was broken."""

    def __init__(self) -> None:
        self.nats = STACK.enter_context(kit.nats())
        self.nodes = [self.started(loops) for loops in (1, 3)]
        self.frozen: list[kit.Process] = []
        self.settle()

    def started(self, loops: int) -> kit.Engine:
        return STACK.enter_context(kit.engine(nats=self.nats.url, loops=loops, **SETTINGS))

    def healthy(self, process: kit.Process) -> bool:
        return process.alive() and process not in self.frozen

    def freeze(self, process: kit.Process) -> None:
        freeze(process)
        self.frozen.append(process)

    def mend(self) -> None:
        for process in self.frozen:
            os.kill(process.pid, signal.SIGCONT)
        self.frozen.clear()
        if not self.nats.alive():
            self.nats.start()
        for i, loops in enumerate((1, 3)):
            if not self.nodes[i].alive():
                self.nodes[i] = self.started(loops)
        self.settle()

    def settle(self) -> None:
        """Returns when each node reaches itself and the other."""
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(BarePeer(node.port)) for node in self.nodes]
            for a in peers:
                for b in peers:
                    until(lambda a=a, b=b: a.ask(f"TO {b.address}", "?") == "ok", "the nodes meet", BACK)  # type: ignore[misc]


CLUSTERS: list[Cluster] = []


def cluster() -> Cluster:
    """One for all runs; STACK ends it."""
    if not CLUSTERS:
        CLUSTERS.append(Cluster())
    return CLUSTERS[0]


def teardown_module() -> None:
    STACK.close()
    CLUSTERS.clear()


@dataclass
class Sent:
    payload: bytes
    to: str  # an address, or a room
    ref: str = ""


@dataclass
class Client:
    peer: BarePeer
    node: kit.Engine
    stalls: bool = False
    lost: bool = False  # its node has died
    ever: set[str] = field(default_factory=set)  # rooms of which it was, or may have been, a member
    sent: list[Sent] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    answers: dict[str, list[str]] = field(default_factory=dict)  # by ref
    missed: int = 0  # as counted by GAPs

    @property
    def address(self) -> str:
        return self.peer.address

    def note(self, got: Received) -> None:
        if got.verb == "OK":
            self.answers[got.words[0]].append("ok")
        elif got.verb == "ERR":
            self.answers[got.options["ref"]].append(got.words[0])
        elif got.verb == "GAP":
            self.missed += int(got.words[0])
        else:
            assert got.verb in ("FROM", "MSG"), got
            self.received.append(got)

    def take(self) -> None:
        """Takes all messages that have come; its node may have died."""
        try:
            while not self.lost:
                self.note(self.peer.read(0.0005))
        except TimeoutError:
            return
        except (Closed, OSError):
            self.lost = True

    def take_all(self) -> None:
        for got in self.peer.settle():
            self.note(got)

    def say(self, head: str, payload: bytes | None, ref: str) -> None:
        """Sends with a ref, which must get one answer."""
        self.answers[ref] = []
        try:
            self.peer.say(f"{head} ref={ref}", payload)
        except OSError:
            self.lost = True


class Machine(RuleBasedStateMachine):
    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[Client] = []
        self.gone: list[Client] = []
        self.count = 0

    @initialize(target=clients)
    def begin(self) -> Any:
        """Two clients on each node, one of them with a small receive buffer."""
        self.cluster = cluster()
        return multiple(*(self.connected(i % 2, i < 2) for i in range(4)))

    # -- what clients do --

    @rule(target=clients, node=st.integers(0, 1), small=st.booleans())
    def connect(self, node: int, small: bool) -> Client | None:
        return self.connected(node, small) if self.cluster.healthy(self.cluster.nodes[node]) else None

    def connected(self, node: int, small: bool) -> Client:
        where = self.cluster.nodes[node]
        client = Client(BarePeer(where.port, receive_buffer=4096 if small else 0), where)
        self.alive.append(client)
        return client

    def usable(self, client: Client | None) -> bool:
        return client is not None and not client.lost and self.cluster.healthy(client.node)

    @rule(client=clients, room=st.sampled_from(ROOMS), verb=st.sampled_from(["SUB", "SUB", "UNSUB"]))
    def join_or_leave(self, client: Client, room: str, verb: str) -> None:
        if self.usable(client):
            client.ever.add(room)
            client.say(f"{verb} {room}", None, self.fresh())

    @rule(client=clients, to=clients | st.sampled_from(ROOMS), n=st.integers(1, 5), ttl=st.sampled_from([200, 900]))
    def send(self, client: Client, to: "Client | str", n: int, ttl: int) -> None:
        if self.usable(client) and to is not None:
            for _ in range(n):
                self.send_one(client, to, b"", ttl)

    @rule(client=clients, to=clients)
    def flood(self, client: Client, to: Client) -> None:
        if self.usable(client) and to is not None and not client.stalls:
            for _ in range(FLOOD):
                self.send_one(client, to, b"x" * LARGE, 1000)
                client.take()

    @rule(client=clients)
    def stall_or_go_on(self, client: Client) -> None:
        """It reads nothing until it goes on, or the run ends."""
        if client is not None:
            client.stalls = not client.stalls

    @rule(client=consumes(clients))
    def vanish(self, client: Client) -> None:
        """Closes without a Close frame, perhaps while messages wait for it."""
        if client in self.alive:
            self.alive.remove(client)
            self.gone.append(client)
            client.peer.vanish()

    # -- what fails --

    @rule(which=st.integers(0, 2), dies=st.booleans())
    def fail(self, which: int, dies: bool) -> None:
        broken: kit.Process = [*self.cluster.nodes, self.cluster.nats][which]
        if not self.cluster.healthy(broken):
            return
        if not dies:
            self.cluster.freeze(broken)
        elif isinstance(broken, kit.Engine):
            broken.kill()
            for client in self.alive:
                client.lost = client.lost or client.node is broken
        else:
            broken.end(signal.SIGKILL)

    @precondition(lambda self: hasattr(self, "cluster") and self.cluster.frozen)
    @rule()
    def thaw(self) -> None:
        os.kill(self.cluster.frozen.pop().pid, signal.SIGCONT)

    # -- the model --

    def fresh(self) -> str:
        self.count += 1
        return f"r{self.count}"

    def send_one(self, client: Client, to: "Client | str", payload: bytes, ttl: int) -> None:
        where = to if isinstance(to, str) else to.address
        sent = Sent(b"%d %s" % (self.count, payload), where, self.fresh())
        client.sent.append(sent)
        client.say(f"PUB {where}" if isinstance(to, str) else f"TO {where} ttl={ttl}", sent.payload, sent.ref)

    @invariant()
    def read(self) -> None:
        for client in self.alive:
            if not client.stalls:
                client.take()

    @invariant()
    def ledgers(self) -> None:
        for node in self.cluster.nodes if hasattr(self, "cluster") else ():
            if self.cluster.healthy(node):
                ledgers_hold(node.stats()["total"])

    def teardown(self) -> None:
        try:
            if hasattr(self, "cluster"):
                if not sys.exc_info()[0]:  # no step has failed
                    self.last_fault()
                    self.answered()
                self.cluster.mend()
                if not sys.exc_info()[0]:
                    self.finish()
        finally:
            for client in self.alive:
                client.peer.vanish()

    def last_fault(self) -> None:
        """Freezes a node, and has all clients of the other send to its clients."""
        here, there = self.cluster.nodes
        if self.cluster.healthy(there):
            self.cluster.freeze(there)
            for client in self.alive:
                for other in self.alive:
                    if self.usable(client) and client.node is here and other.node is there:
                        self.send_one(client, other, b"", 200)

    def answered(self) -> None:
        """Before the repair: each ref is answered within its ttl and a second."""
        for client in self.alive:
            if self.usable(client) and not client.stalls:
                until(lambda client=client: client.take() or all(client.answers.values()), "each is answered", IN_TIME)  # type: ignore[misc, func-returns-value]

    def finish(self) -> None:
        """After the repair: every answer comes, and every message that is on its way."""
        for client in self.alive:
            client.take()
            assert client.lost == (client.node not in self.cluster.nodes), "clients are lost only with their node"
        here = [client for client in self.alive if not client.lost]
        for client in here:
            client.take_all()
        for client in here:
            until(lambda client=client: client.take() or all(client.answers.values()), "each ref is answered", 5)  # type: ignore[misc, func-returns-value]
        for sender in here:  # last messages
            for receiver in here:
                self.send_one(sender, receiver, b"", 5000)
        for client in here:
            until(lambda client=client: client.take() or all(client.answers.values()), "all meet again", 5)  # type: ignore[misc, func-returns-value]
        for client in here:
            client.take_all()
            assert not client.lost and {len(codes) for codes in client.answers.values()} <= {1}, client.answers
        for receiver in here:
            for sender in (*self.alive, *self.gone):
                self.check(sender, receiver, sender in here)
            self.check_gaps(here, receiver)
        for client in here:
            client.peer.close()
        for node in self.cluster.nodes:
            for gauge in ("connections", "memberships", "in_flight", "backlog_bytes"):
                until(lambda node=node, gauge=gauge: node.total(gauge) == 0, f"no {gauge} is left")  # type: ignore[misc]
            ledgers_hold(node.stats()["total"])

    def check(self, sender: Client, receiver: Client, answered: bool) -> None:
        """Compares what the receiver got with what the sender sent."""
        got = [one.payload for one in receiver.received if one.words[-1] == sender.address]
        meant = {
            sent.payload: sent
            for sent in sender.sent
            if sent.to == receiver.address or (sent.to in receiver.ever and sender is not receiver)
        }
        assert [payload for payload in meant if payload in set(got)] == got, "in order, once, and meant for it"
        for payload, sent in meant.items() if answered else ():
            code = sender.answers[sent.ref][0]
            if sent.to == receiver.address and code != "timeout":
                assert (payload in got) == (code == "ok"), (code, sent.ref, payload[:20])

    def check_gaps(self, here: list[Client], receiver: Client) -> None:
        """Asserts that GAP counted what was dropped on its node."""
        codes = Counter(
            sender.answers[sent.ref][0]
            for sender in here
            for sent in sender.sent
            if sender.node is receiver.node and sent.to == receiver.address
        )
        assert receiver.missed >= codes["slow-peer"] + codes["expired"], codes


TestFaults = pytest.mark.timeout(300)(Machine.TestCase)
TestFaults.settings = settings(
    max_examples=8,
    stateful_step_count=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes too long
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
