"""Random SUB, UNSUB, PUB, TO, connect and close over several connections, against a model.

The model knows for each message which clients must get it and which may. If no fence separates a join, a leave or a
close from a message, the message may arrive before or after it. After a fence, nothing is open.
"""

import contextlib
import sys
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

import kit
from peers import BarePeer, Received, ledgers_hold
from wire import until

ROOMS = ("a", "b", "c")
STACK = contextlib.ExitStack()
ENGINES: dict[int, Any] = {}


def engine_on(loops: int) -> Any:
    """One engine for all runs; STACK ends it."""
    if loops not in ENGINES:
        ENGINES[loops] = STACK.enter_context(kit.engine(nats="off", loops=loops))
    return ENGINES[loops]


def teardown_module() -> None:
    STACK.close()
    ENGINES.clear()


@dataclass
class Sent:
    """A message on its way."""

    payload: bytes
    room: str | None
    must: set[str]
    may: set[str] = field(default_factory=set)


@dataclass
class Client:
    peer: BarePeer
    rooms: set[str] = field(default_factory=set)
    sent: list[Sent] = field(default_factory=list)  # since the last fence
    received: list[Received] = field(default_factory=list)  # since the last fence
    late: dict[str, list[Received]] = field(default_factory=dict)  # from senders that are gone, since the beginning

    @property
    def address(self) -> str:
        return self.peer.address


class Machine(RuleBasedStateMachine):
    loops = 1
    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[str, Client] = {}

    @initialize()
    def begin(self) -> None:
        self.engine = engine_on(self.loops)
        until(lambda: self.total("connections") == 0, "no connection is left")
        self.accepted = self.total("accepted")
        self.gone: dict[str, Client] = {}
        self.count = 0  # number of the last payload: each is different
        self.refs = 0
        self.messages = 0  # TO and PUB that the engine must have accepted
        self.doubtful = 0  # further ones that it may count

    # -- what clients do --

    @rule(target=clients, rooms=st.sets(st.sampled_from(ROOMS)), n=st.integers(1, 3))
    def connect(self, rooms: set[str], n: int) -> Any:
        made = [Client(BarePeer(self.engine.port, *sorted(rooms)), set(rooms)) for _ in range(n)]
        for client in made:
            self.alive[client.address] = client
            for room in rooms:
                self.unsure(room, client.address, joined=True)
        return multiple(*made)

    @rule(client=consumes(clients), politely=st.booleans())
    def close(self, client: Client, politely: bool) -> None:
        """Its messages may arrive after any fence of the others, or be lost if it vanishes."""
        if politely:
            client.peer.close()
        else:
            self.messages -= len(client.sent)
            self.doubtful += len(client.sent)
            client.peer.vanish()
        self.gone[client.address] = self.alive.pop(client.address)
        for sender in self.alive.values():
            for sent in sender.sent:
                sent.must.discard(client.address)

    @rule(client=clients, room=st.sampled_from(ROOMS))
    def sub(self, client: Client, room: str) -> None:
        self.ask(client, f"SUB {room}", "ok")
        if room not in client.rooms:
            client.rooms.add(room)
            self.unsure(room, client.address, joined=True)

    @rule(client=clients, room=st.sampled_from(ROOMS))
    def unsub(self, client: Client, room: str) -> None:
        self.ask(client, f"UNSUB {room}", "ok")
        client.received += client.peer.early  # up to the OK; from now on nothing of this room may come
        client.peer.early.clear()
        if room in client.rooms:
            client.rooms.discard(room)
            self.unsure(room, client.address, joined=False)

    @rule(client=clients, room=st.sampled_from(ROOMS), answered=st.booleans(), n=st.integers(1, 5))
    def pub(self, client: Client, room: str, answered: bool, n: int) -> None:
        for _ in range(n):
            must = {one.address for one in self.alive.values() if room in one.rooms} - {client.address}
            sent = Sent(self.payload(), room, must)
            client.sent.append(sent)
            self.say(client, f"PUB {room}", sent.payload, answered)

    @rule(client=clients, other=clients, answered=st.booleans())
    def to(self, client: Client, other: Client, answered: bool) -> None:
        sent = Sent(self.payload(), None, {other.address})
        client.sent.append(sent)
        self.say(client, f"TO {other.address}", sent.payload, answered)

    @rule(client=clients, head=st.sampled_from(["NONSENSE", "SUB a*", "PUB $x", "TO @*", "SUB a b"]))
    def nonsense(self, client: Client, head: str) -> None:
        self.ask(client, head, "bad-request")
        self.doubtful += 1

    @rule(client=clients)
    def to_unknown_peer(self, client: Client) -> None:
        self.messages += 1
        self.ask(client, f"TO {self.engine.node}.{'0' * len(client.address.split('.')[1])}", "no-such-peer")

    @rule()
    def fence(self) -> None:
        """Each sends each a last message, which arrives after all that was sent before: then nothing is open."""
        clients = list(self.alive.values())
        for sender in clients:
            for receiver in clients:
                self.messages += 1
                sender.peer.say(f"TO {receiver.address}", "fence")
        for receiver in clients:
            missing = len(clients)
            while missing:
                got = receiver.peer.read()
                missing -= got.payload == b"fence"
                assert got.verb == "FROM" or got.words[0] in receiver.rooms, got
                receiver.received.append(got)
        for receiver in clients:
            self.check(receiver)
        for client in clients:
            client.sent.clear()
            client.received.clear()

    # -- the model --

    def unsure(self, room: str, address: str, joined: bool) -> None:
        """Messages since the last fence may or may not reach a client that has just joined or left."""
        for sender in self.alive.values():
            for sent in sender.sent:
                if sent.room == room and sender.address != address and (joined or address in sent.must):
                    sent.must.discard(address)
                    sent.may.add(address)

    def check(self, receiver: Client) -> None:
        """Asserts that all received messages are from a known sender, as it sent them."""
        received = [one for one in receiver.received if one.payload != b"fence"]
        assert {one.words[-1] for one in received} <= self.alive.keys() | self.gone.keys()
        for address, sender in self.alive.items():
            got = [one for one in received if one.words[-1] == address]
            self.follows(got, sender, receiver)
            must = {sent.payload for sent in sender.sent if receiver.address in sent.must}
            assert must <= {one.payload for one in got}
        for address, sender in self.gone.items():
            late = receiver.late.setdefault(address, [])
            late += [one for one in received if one.words[-1] == address]
            self.follows(late, sender, receiver)

    def follows(self, got: list[Received], sender: Client, receiver: Client) -> None:
        """Asserts that they were for the receiver, in the order of sending, once, with the right verb."""
        meant = {one.payload: one for one in sender.sent if receiver.address in one.must | one.may}
        payloads = [one.payload for one in got]
        assert [payload for payload in meant if payload in payloads] == payloads
        for one in got:
            room = meant[one.payload or b""].room
            assert (one.verb, one.words[:-1]) == (("FROM", ()) if room is None else ("MSG", (room,)))

    def payload(self) -> bytes:
        self.count += 1
        return b"%d" % self.count

    def say(self, client: Client, head: str, payload: bytes, answered: bool) -> None:
        self.messages += 1
        if answered:
            self.ask(client, head, "ok", payload)
        else:
            client.peer.say(head, payload)

    def ask(self, client: Client, head: str, code: str, payload: bytes | None = None) -> None:
        """Sends with a ref. Exactly one answer comes: `check` would find a second among the received messages."""
        self.refs += 1
        assert client.peer.ask(head, payload, ref=f"r{self.refs}") == code

    @invariant()
    def ledgers(self) -> None:
        """They hold at every moment, also while messages are on their way."""
        if hasattr(self, "engine"):
            ledgers_hold(self.engine.stats()["total"])

    def teardown(self) -> None:
        try:
            if not sys.exc_info()[0]:  # no step has failed
                self.finish()
        finally:
            for client in self.alive.values():
                client.peer.vanish()

    def finish(self) -> None:
        """All messages arrive, all clients close, and no gauge stays above 0."""
        self.fence()
        rooms = sum(len(client.rooms) for client in self.alive.values())
        until(lambda: self.total("connections") == len(self.alive), "the clients that left are gone")
        until(lambda: self.total("memberships") == rooms, "so are their memberships")
        assert 0 <= self.total("accepted") - self.accepted - self.messages <= self.doubtful
        for client in self.alive.values():
            client.peer.close()
        for gauge in ("connections", "memberships", "in_flight"):
            until(lambda gauge=gauge: self.total(gauge) == 0, f"no {gauge} left")  # type: ignore[misc]
        ledgers_hold(self.engine.stats()["total"])

    def total(self, name: str) -> int:
        return int(self.engine.total(name))


class ManyLoops(Machine):
    loops = 3


RUNS = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestOneLoop = Machine.TestCase
TestOneLoop.settings = RUNS
TestManyLoops = ManyLoops.TestCase
TestManyLoops.settings = RUNS
