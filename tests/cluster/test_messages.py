"""1:1 and 1:N across the nodes of a cluster, over a real nats-server."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kit
from peers import CLIENTS, BarePeer, Peer, Received, several
from wire import fresh

from .bus import Bus
from .conftest import await_cluster

PAYLOADS: list[str | bytes] = [
    "",
    "\n",
    "x\ny\r\n",
    "\0\t\x7f",
    "κόσμε \U0001f600",
    "PING\r\nPUB x 1\r\n",
    bytes(range(256)),
    b"",
    b"\r\n",
]


def assert_payload(received: Received, payload: str | bytes) -> None:
    """Asserts the payload and its type."""
    assert received.binary == isinstance(payload, bytes)
    assert received.payload == (payload if isinstance(payload, bytes) else payload.encode())


# -- 1:1 --


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS.keys())
def test_to(nodes: list[kit.Engine], client: type[Peer]) -> None:
    for one, two in itertools.permutations(nodes, 2):
        with client(one.port) as a, client(two.port) as b:
            assert a.address.split(".")[0] != b.address.split(".")[0]
            for payload in PAYLOADS:
                a.say(f"TO {b.address}", payload)
                assert_payload(b.expect("FROM", a.address), payload)
                a.say(f"TO {b.address} ref=r1", payload)
                assert_payload(b.expect("FROM", a.address, ref="r1"), payload)
                a.expect("OK", "r1")


def test_request_and_reply(nodes: list[kit.Engine]) -> None:
    with BarePeer(nodes[0].port) as a, BarePeer(nodes[2].port) as b:
        a.say(f"TO {b.address} ref=q1 ttl=9000", "what?")
        b.expect("FROM", a.address, ref="q1")
        a.expect("OK", "q1")
        b.say(f"TO {a.address} re=q1 ref=w", b"\x2a")
        assert_payload(a.expect("FROM", b.address, re="q1", ref="w"), b"\x2a")
        b.expect("OK", "w")
        b.say(f"TO {a.address} re=q1", "more")
        assert_payload(a.expect("FROM", b.address, re="q1"), "more")


def test_the_largest_message(nodes: list[kit.Engine]) -> None:
    with BarePeer(nodes[0].port) as a, BarePeer(nodes[1].port) as b:
        payload = b"\xff" * (65536 - len(f"TO {b.address}\n"))
        a.say(f"TO {b.address}", payload)
        assert_payload(b.expect("FROM", a.address), payload)


def test_order(nodes: list[kit.Engine]) -> None:
    """TO and PUB from one sender, to members on several nodes and loops."""
    room = fresh("order")
    with (
        several(nodes[1].port, 4, room) as near,
        several(nodes[2].port, 6, room) as far,
        BarePeer(nodes[1].port) as a,
    ):
        for i in range(100):
            a.say(f"PUB {room}", f"{i} pub")
            for member in near + far:
                a.say(f"TO {member.address}", f"{i} to")
        due = [f"{i} {kind}".encode() for i in range(100) for kind in ("pub", "to")]
        for member in near + far:
            assert [one.payload for one in member.read_all(200)] == due


def test_many_refs(nodes: list[kit.Engine]) -> None:
    """64 outstanding refs, each answered exactly once."""
    with BarePeer(nodes[1].port) as a, several(nodes[2].port, 4) as others:
        for turn in range(4):
            for i in range(64):
                a.say(f"TO {others[i % 4].address} ref=r{i}", str(turn))
            assert {one.words[0] for one in a.read_all(64)} == {f"r{i}" for i in range(64)}
        assert a.settle() == []
        for other in others:
            assert len(other.read_all(64)) == 64


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=5000), st.text(max_size=2000)), max_size=5))
def test_any_payload_arrives_unchanged(nodes: list[kit.Engine], payloads: list[str | bytes]) -> None:
    with BarePeer(nodes[0].port) as a, BarePeer(nodes[1].port, "any") as b:
        for payload in payloads:
            a.say(f"TO {b.address}", payload)
            a.say("PUB any", payload)
        for payload in payloads:
            assert_payload(b.expect("FROM", a.address), payload)
            assert_payload(b.expect("MSG", "any", a.address), payload)


# -- a receiver that doesn't read --


def test_a_slow_peer_on_another_node(server: kit.Nats, nodes: list[kit.Engine]) -> None:
    """Its node sends receipts for messages that did not fit or were too old; the rest arrives in order."""
    with (
        kit.engine(nats=server.url, loops=2, backlog_messages=8, ttl=20) as tight,
        BarePeer(nodes[0].port) as a,
        BarePeer(tight.port, receive_buffer=4096) as b,
    ):
        n = 0
        while True:
            a.say(f"TO {b.address} ref=full ttl=20000", b"x" * 16000)
            try:
                assert a.answer_to("full", limit=0.5) == "ok"
            except TimeoutError:
                break
            n += 1
        assert a.ask(f"TO {b.address} ttl=300", "old") == "expired"
        for i in range(20):
            a.say(f"TO {b.address} ref={i} ttl=20000", str(i))
        codes = {"19": a.answer_to("19")}
        received: list[bytes | None] = []
        missed = 0
        while len(received) + missed < n + 22:
            got = b.read()
            if got.verb == "GAP":
                missed += int(got.words[0])
            else:
                received.append(got.payload)
        codes |= {str(i): a.answer_to(str(i)) for i in range(19)}
        kept = [i for i in range(20) if codes[str(i)] == "ok"]
        assert received[n + 1 :] == [b"%d" % i for i in kept] and kept == list(range(len(kept)))
        assert missed == 21 - len(kept) and len(kept) in (7, 8)
        assert a.answer_to("full") == "ok" and a.settle() == []


# -- no such peer --


def test_a_dead_node_is_no_such_peer_at_once(nodes: list[kit.Engine]) -> None:
    """NATS knows that nobody listens, so the sender does not wait for the ttl."""
    for node in nodes:
        with BarePeer(node.port) as a:
            assert a.ask("TO nosuchnode.0123456789abc ttl=60000", "x") == "no-such-peer"
            assert a.settle() == []


def test_a_dead_connection(nodes: list[kit.Engine]) -> None:
    with BarePeer(nodes[0].port) as a:
        with BarePeer(nodes[2].port) as b:
            gone = b.address
        with several(nodes[2].port, 6) as others:
            assert a.ask(f"TO {gone}", "x") == "no-such-peer"
            assert all(other.settle() == [] for other in others)


def test_an_altered_address(nodes: list[kit.Engine]) -> None:
    with BarePeer(nodes[0].port) as a, BarePeer(nodes[1].port) as b:
        node, local = b.address.split(".")
        for i, c in itertools.product(range(len(local)), "0z"):
            altered = local[:i] + c + local[i + 1 :]
            if altered != local:
                assert a.ask(f"TO {node}.{altered}", "x") == "no-such-peer"
        assert b.settle() == []


def test_a_wildcard_subscriber_hides_a_dead_node(nodes: list[kit.Engine], bus: Bus) -> None:
    """Then the answer is `timeout`, after the ttl and a second at most."""
    bus.subscribe("signal.>")
    with BarePeer(nodes[1].port) as a:
        start = time.monotonic()
        assert a.ask("TO nosuchnode.0123456789abc ttl=300", "x") == "timeout"
        assert 1.0 < time.monotonic() - start < 2.5


# -- 1:N --


@pytest.mark.parametrize("payload", PAYLOADS)
def test_pub(nodes: list[kit.Engine], payload: str | bytes) -> None:
    """Every member on every node gets it once, except the sender."""
    room = fresh("room.")
    groups = [several(node.port, 3) for node in nodes]
    with groups[0] as one, groups[1] as two, groups[2] as three, BarePeer(nodes[0].port) as outsider:
        members = one + two + three
        for member in members:
            member.join(room)
        for sender in (one[0], two[0], three[0], outsider):
            sender.say(f"PUB {room} ref=r", payload)
            sender.expect("OK", "r")
            for member in members:
                if member is not sender:
                    assert_payload(member.expect("MSG", room, sender.address, ref="r"), payload)
        assert all(peer.settle() == [] for peer in [*members, outsider])


def test_unsub(nodes: list[kit.Engine]) -> None:
    """One of several members, and the last one."""
    room, other = fresh("room"), fresh("room")
    with BarePeer(nodes[0].port) as sender, several(nodes[1].port, 3, room, other) as members:
        for gone in range(4):
            sender.say(f"PUB {room}", "x")
            sender.say(f"PUB {other}", "y")
            for i, member in enumerate(members):
                if i >= gone:
                    member.expect("MSG", room, sender.address)
                member.expect("MSG", other, sender.address)
            if gone < 3:
                assert members[gone].ask(f"UNSUB {room}") == "ok"


def test_pub_to_nobody_is_ok(nodes: list[kit.Engine]) -> None:
    """The no-responders status of NATS matters only for TO: the answer is OK."""
    with BarePeer(nodes[1].port) as a, BarePeer(nodes[0].port) as b:
        for _ in range(10):
            assert a.ask(f"PUB {fresh('empty')}", "x") == "ok"
        assert b.ask(f"TO {a.address}", "after that") == "ok"
        assert [one.verb for one in a.settle()] == ["FROM"]


def test_a_sub_is_effective_when_it_is_answered(nodes: list[kit.Engine], bus: Bus) -> None:
    """After OK, messages published through the same nats-server arrive: after a first join and a second."""
    with several(nodes[2].port, 4) as peers:
        for i in range(60):
            room = fresh("sure")
            for member in (peers[i % 4], peers[(i + 1) % 4]):
                assert member.ask(f"SUB {room}") == "ok"
                bus.publish(f"signal.room.{room}", b"x")
                assert member.expect("MSG", room, "-").payload == b"x"
            peers[i % 4].expect("MSG", room, "-")


def test_a_room_of_the_url_is_effective_with_hello(nodes: list[kit.Engine], bus: Bus) -> None:
    for _ in range(20):
        room = fresh("sure")
        with BarePeer(nodes[1].port, room) as member:
            bus.publish(f"signal.room.{room}", b"x")
            member.expect("MSG", room, "-")


def test_join_and_leave_again_and_again(nodes: list[kit.Engine]) -> None:
    """Subscriptions on NATS follow the members."""
    room = fresh("flap")
    with BarePeer(nodes[0].port) as sender, several(nodes[2].port, 3) as peers:
        for turn in range(40):
            for i, peer in enumerate(peers):
                peer.say(f"{'UNSUB' if (turn + i) % 3 else 'SUB'} {room}")
                peer.say(f"SUB {room}")
        for peer in peers:
            peer.join(room)
        sender.say(f"PUB {room}", "x")
        for peer in peers:
            peer.expect("MSG", room, sender.address)
            peer.say(f"UNSUB {room} ref=u")
            peer.expect("OK", "u")
            assert peer.settle() == []


def test_a_message_too_large_for_a_node_is_counted_as_missed() -> None:
    """If one from another node exceeds max_message, all members on each loop get GAP."""
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=1) as one,
        kit.engine(nats=server.url, loops=2, max_message=1000) as two,
        several(two.port, 6, "room") as members,
        BarePeer(one.port) as a,
    ):
        await_cluster([one, two])
        assert a.ask("PUB room", "x" * 1001) == a.ask("PUB room", "y") == "ok"
        for member in members:
            received = {(got.verb, got.words[0] if got.verb == "GAP" else got.payload) for got in member.read_all(2)}
            assert received == {("GAP", "1"), ("MSG", b"y")}
            assert member.settle() == []
        assert two.total("refused_too_large") == 1
