"""signal.v1 between the clients of one node, over two WebSocket libraries, on one loop and on several."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kit
from peers import BarePeer, Peer, several
from wire import fresh

PEER = re.compile(r"[a-z0-9]{1,16}\.[a-z0-9]{1,32}")
NAME = string.ascii_letters + string.digits
ODD_PAYLOADS = [
    "",
    "\n",
    "x\ny\n",
    " TO x ",
    "\0\r\n\t\x7f",
    "κόσμε \U0001f600 \uffff",
    "OK 1",
    bytes(range(256)),
    b"",
]


# -- HELLO --


def test_hello(node: kit.Engine, client: type[Peer]) -> None:
    with client(node.port) as peer:
        assert PEER.fullmatch(peer.address) and peer.address.split(".")[0] == node.node
        assert peer.hello["node"] == node.node
        assert (peer.hello["max_message"], peer.hello["max_rooms"]) == (65536, 256)
        assert {"version", "ping_interval", "ttl"} <= peer.hello.keys() and "user" not in peer.hello


def test_addresses_are_unique(node: kit.Engine) -> None:
    with several(node.port, 20) as peers:
        first = {peer.address for peer in peers}
    with several(node.port, 20) as peers:
        assert len(first | {peer.address for peer in peers}) == 40


@pytest.mark.parametrize(
    "offered, selected",
    [
        ((), None),
        (("signal.v1",), "signal.v1"),
        (("other", "signal.v1"), "signal.v1"),
        (("signal.v1", "token.YWJj"), "signal.v1"),
    ],
)
def test_subprotocol_as_a_browser_offers_it(
    node: kit.Engine, client: type[Peer], offered: tuple[str, ...], selected: str | None
) -> None:
    """A browser fails if the server selects a subprotocol that was not offered, or none of those offered."""
    with client(node.port, protocols=offered) as peer:
        assert peer.protocol == selected
        peer.say("PING")
        peer.expect("PONG")


def test_only_foreign_subprotocols_select_none(node: kit.Engine) -> None:
    with BarePeer(node.port, protocols=("chat", "superchat")) as peer:
        assert peer.protocol is None


# -- 1:1 --


@pytest.mark.parametrize("payload", ODD_PAYLOADS)
def test_to(node: kit.Engine, client: type[Peer], payload: str | bytes) -> None:
    """The payload arrives unchanged and of the same type. Without a ref, the sender gets no answer."""
    with several(node.port, 2, client=client) as (a, b):
        a.say(f"TO {b.address}", payload)
        got = b.expect("FROM", a.address)
        assert got.binary == isinstance(payload, bytes)
        assert got.payload == (payload if isinstance(payload, bytes) else payload.encode())
        assert a.settle() == []


def test_to_every_loop(node: kit.Engine) -> None:
    """Each to each, and to itself: every pair of loops is among them."""
    with several(node.port, 8) as peers:
        for sender in peers:
            for receiver in peers:
                sender.say(f"TO {receiver.address}", f"{sender.address} {receiver.address}")
        for receiver in peers:
            received = receiver.read_all(len(peers))
            assert {one.words[0] for one in received} == {sender.address for sender in peers}
            assert all(one.payload == f"{one.words[0]} {receiver.address}".encode() for one in received)


def test_to_with_ref(node: kit.Engine, client: type[Peer]) -> None:
    """The receiver gets the ref, and the sender OK, once."""
    with several(node.port, 2, client=client) as (a, b):
        a.say(f"TO {b.address} ref=Ab9", "x")
        assert b.expect("FROM", a.address, ref="Ab9").payload == b"x"
        assert a.expect("OK", "Ab9").payload is None
        assert a.settle() == []


def test_refs_of_every_length(node: kit.Engine, client: type[Peer]) -> None:
    with several(node.port, 2, client=client) as (a, b):
        for n in range(1, 17):
            a.say(f"TO {b.address} ref={NAME[-n:]}")
            b.expect("FROM", a.address, ref=NAME[-n:])
            a.expect("OK", NAME[-n:])


def test_a_ref_is_free_again_once_answered(node: kit.Engine, client: type[Peer]) -> None:
    with several(node.port, 2, client=client) as (a, b):
        for i in range(100):
            assert a.ask(f"TO {b.address}", str(i), ref="same") == "ok"
        assert [one.payload for one in b.read_all(100)] == [b"%d" % i for i in range(100)]


def test_request_and_reply(node: kit.Engine, client: type[Peer]) -> None:
    """re= has the ref of the message that is answered. Options come in any order."""
    with several(node.port, 2, client=client) as (a, b):
        a.say(f"TO {b.address} ttl=5000 ref=q1", "what?")
        b.expect("FROM", a.address, ref="q1")
        a.expect("OK", "q1")
        b.say(f"TO {a.address} re=q1 ref=w", b"\x2a")
        got = a.expect("FROM", b.address, re="q1", ref="w")
        assert (got.payload, got.binary) == (b"\x2a", True)
        b.expect("OK", "w")
        b.say(f"TO {a.address} ref=w ttl=5000 re=q1", "again")
        a.expect("FROM", b.address, re="q1", ref="w")
        b.expect("OK", "w")


def test_an_altered_address_is_no_such_peer(node: kit.Engine, client: type[Peer]) -> None:
    """With any character altered, left out or added."""
    with several(node.port, 2, client=client) as (a, b):
        local = b.address.split(".")[1]
        altered = {local[:i] + c + local[i + 1 :] for i in range(len(local)) for c in "09amz"} - {local}
        altered |= {local + "0", "0" + local, local[:-1], local[1:], "0", "z" * 32}
        for one in sorted(altered):
            assert a.ask(f"TO {node.node}.{one}", "x") == "no-such-peer", one
        assert b.settle() == []
        assert a.ask(f"TO {b.address}", "x") == "ok"


def test_a_gone_address_is_no_such_peer(node: kit.Engine, client: type[Peer]) -> None:
    """Also when its slot is used by another connection."""
    with client(node.port) as a:
        with client(node.port) as b:
            gone = b.address
        with several(node.port, 8) as others:
            assert a.ask(f"TO {gone}", "x") == "no-such-peer"
            assert all(other.settle() == [] for other in others)


def test_a_vanished_address_is_no_such_peer(node: kit.Engine) -> None:
    with BarePeer(node.port) as a:
        b = BarePeer(node.port)
        b.vanish()
        codes = set()
        while "no-such-peer" not in codes:
            codes.add(a.ask(f"TO {b.address}", "x"))
        assert codes <= {"ok", "no-such-peer"}


def test_an_unknown_node_is_no_such_peer(node: kit.Engine, client: type[Peer]) -> None:
    with client(node.port) as a:
        other = "a" if node.node != "a" else "b"
        assert a.ask(f"TO {other}.{a.address.split('.')[1]}", "x") == "no-such-peer"


def test_an_unknown_user_is_not_an_error(node: kit.Engine, client: type[Peer]) -> None:
    """`TO @user` is accepted, for any number of connections, also none."""
    with client(node.port) as a:
        assert a.ask("TO @nobody", "x") == "ok"


def test_order_of_one_to_one(node: kit.Engine) -> None:
    """TO and PUB from one sender reach a receiver in the order in which they were sent."""
    room = fresh("order")
    with several(node.port, 6) as peers, BarePeer(node.port) as sender:
        for peer in peers:
            peer.join(room)
        for i in range(120):
            for peer in peers:
                sender.say(f"TO {peer.address}", f"{i} to")
            sender.say(f"PUB {room}", f"{i} pub")
        for peer in peers:
            received = [one.payload for one in peer.read_all(240)]
            assert received == [f"{i} {kind}".encode() for i in range(120) for kind in ("to", "pub")]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=3000), st.text(max_size=1000)), max_size=6))
def test_any_payload_arrives_unchanged(node: kit.Engine, payloads: list[str | bytes]) -> None:
    with several(node.port, 2) as (a, b):
        for payload in payloads:
            a.say(f"TO {b.address}", payload)
        for payload in payloads:
            got = b.expect("FROM", a.address)
            assert got.binary == isinstance(payload, bytes)
            assert got.payload == (payload if isinstance(payload, bytes) else payload.encode())


# -- 1:N --


@pytest.mark.parametrize("payload", ODD_PAYLOADS)
def test_pub(node: kit.Engine, client: type[Peer], payload: str | bytes) -> None:
    """Every member gets it once and unchanged, except the sender."""
    room = fresh("room.")
    with several(node.port, 5, client=client) as peers, client(node.port) as outsider:
        for peer in peers:
            peer.join(room)
        peers[0].say(f"PUB {room}", payload)
        for peer in peers[1:]:
            got = peer.expect("MSG", room, peers[0].address)
            assert got.binary == isinstance(payload, bytes)
            assert got.payload == (payload if isinstance(payload, bytes) else payload.encode())
        assert peers[0].settle() == outsider.settle() == []


def test_members_on_very_many_loops() -> None:
    """A room keeps its loops as bits in several machine words, after a name of any length."""
    with kit.engine(nats="off", loops=40) as engine, several(engine.port, 120) as peers:
        for size in (1, 2, 36, 37):
            room = "r" * size
            for peer in peers:
                peer.join(room)
            peers[0].say(f"PUB {room}", str(size))
            for peer in peers[1:]:
                peer.expect("MSG", room, peers[0].address)
            for peer in peers[2:]:
                assert peer.ask(f"UNSUB {room}") == "ok"
            peers[0].say(f"PUB {room}", "again")
            peers[1].expect("MSG", room, peers[0].address)
        assert all(peer.settle() == [] for peer in peers)
        at = [loop["connections"] for loop in engine.stats()["loops"]]
        assert sum(at) == 120 and any(at[16:32]) and any(at[32:])


def test_the_sender_need_not_be_a_member(node: kit.Engine, client: type[Peer]) -> None:
    room = fresh("room")
    with several(node.port, 4, client=client) as (sender, *members):
        for member in members:
            member.join(room)
        sender.say(f"PUB {room} ref=7", "x")
        sender.expect("OK", "7")
        for member in members:
            member.expect("MSG", room, sender.address, ref="7")


def test_pub_to_an_empty_room(node: kit.Engine, client: type[Peer]) -> None:
    with client(node.port) as peer:
        room = fresh("empty")
        assert peer.ask(f"PUB {room}", "x") == "ok"
        peer.join(room)
        assert peer.ask(f"PUB {room}", "x") == "ok"
        assert peer.settle() == []


def test_a_missing_payload_is_an_empty_one(node: kit.Engine, client: type[Peer]) -> None:
    room = fresh("room")
    with client(node.port) as a, client(node.port, room) as b:
        a.say(f"PUB {room} ref=1")
        a.expect("OK", "1")
        assert not b.expect("MSG", room, a.address, ref="1").payload
        a.say(f"TO {b.address}")
        assert not b.expect("FROM", a.address).payload


def test_sub_twice_receives_once(node: kit.Engine, client: type[Peer]) -> None:
    room = fresh("room")
    with several(node.port, 2, client=client) as (a, b):
        b.join(room, room)
        a.say(f"PUB {room}", "1")
        a.say(f"PUB {room}", "2")
        assert [b.expect("MSG", room, a.address).payload for _ in "12"] == [b"1", b"2"]
        assert b.ask(f"UNSUB {room}") == "ok"
        a.say(f"PUB {room}", "3")
        a.say(f"TO {b.address}", "end")
        b.expect("FROM", a.address)


def test_unsub(node: kit.Engine, client: type[Peer]) -> None:
    """After OK no more messages come. UNSUB of a room that one isn't in is OK, too."""
    room, other = fresh("room"), fresh("room")
    with several(node.port, 7, client=client) as (sender, *members):
        for member in members:
            member.join(room, other)
            assert member.ask(f"UNSUB {room}") == "ok"
            assert member.ask(f"UNSUB {room}") == "ok"
        sender.say(f"PUB {room}", "no")
        sender.say(f"PUB {other}", "yes")
        for member in members:
            assert member.expect("MSG", other, sender.address).payload == b"yes"


def test_rooms_in_the_url(node: kit.Engine, client: type[Peer]) -> None:
    """They are joined before HELLO: messages published right after it arrive."""
    rooms = (fresh("a"), fresh("b.c"))
    with client(node.port) as sender, several(node.port, 6, *rooms, client=client) as members:
        for room in rooms:
            sender.say(f"PUB {room}", room)
        for member in members:
            for room in rooms:
                assert member.expect("MSG", room, sender.address).payload == room.encode()


def test_rooms_in_the_url_are_decoded(node: kit.Engine) -> None:
    room = fresh("~é"[:1]) + "!#'=&+%/"
    quoted = "".join(f"%{ord(c):02X}" for c in room)
    with BarePeer(node.port) as a, BarePeer(node.port, quoted) as b:
        a.say(f"PUB {room}", "x")
        b.expect("MSG", room, a.address)


def test_hello_comes_before_the_room(node: kit.Engine) -> None:
    """Also if messages are being published in the room."""
    room = fresh("busy")
    with BarePeer(node.port) as sender:
        for _ in range(30):
            for _ in range(20):
                sender.say(f"PUB {room}", "x" * 50)
            with BarePeer(node.port, room) as member:  # fails if HELLO isn't first
                sender.say(f"PUB {room}", "last")
                while member.read().payload != b"last":
                    pass


@pytest.mark.parametrize(
    "room",
    ["a", "x" * 128, "a.b.c", "!\"#%&'()+,-/:;<=?@[\\]^_`{|}~", "a$", "a=b", "presence", "ref=1", "A.B"],
)
def test_room_names(node: kit.Engine, client: type[Peer], room: str) -> None:
    with several(node.port, 2, client=client) as (a, b):
        b.join(room)
        a.say(f"PUB {room}", "x")
        b.expect("MSG", room, a.address)


def test_similar_room_names_are_different_rooms(node: kit.Engine) -> None:
    base = fresh("room")
    names = [base, base.upper(), base + ".", base + ".a", base[:-1], base + "0"]
    names.remove(base + ".")
    with several(node.port, len(names)) as members, BarePeer(node.port) as sender:
        for member, name in zip(members, names, strict=True):
            member.join(name)
        for name in names:
            sender.say(f"PUB {name}", name)
        for member, name in zip(members, names, strict=True):
            assert member.expect("MSG", name, sender.address).payload == name.encode()
            assert member.settle() == []


def test_membership_ends_with_the_connection(node: kit.Engine, client: type[Peer]) -> None:
    room = fresh("room")
    with client(node.port) as sender:
        for i in range(3):
            with several(node.port, 4, room, client=client) as members:
                sender.say(f"PUB {room}", str(i))
                for member in members:
                    assert member.expect("MSG", room, sender.address).payload == b"%d" % i
        assert sender.ask(f"PUB {room}", "x") == "ok"


# -- PING --


def test_ping(node: kit.Engine, client: type[Peer]) -> None:
    with client(node.port) as peer:
        peer.say("PING")
        assert peer.expect("PONG").payload is None
        peer.say("PING token=1!")
        peer.expect("PONG", "token=1!")
        peer.send(b"PING binary")
        peer.expect("PONG", "binary")
