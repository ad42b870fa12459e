"""Limits of signal.v1, each reached: refs, rooms, backlog, ttl, stalls."""

import contextlib
import time
from collections.abc import Iterator

import pytest

import kit
from peers import BarePeer, Peer, Received, several
from wire import TEXT, frame, fresh, until

REFS, ROOMS, BACKLOG = 40, 3, 8


@pytest.fixture(scope="module", params=[1, 3], ids=["1loop", "3loops"])
def tight(request: pytest.FixtureRequest) -> Iterator[kit.Engine]:
    """An engine with low limits."""
    with kit.engine(
        nats="off", loops=request.param, max_refs=REFS, max_rooms=ROOMS, backlog_messages=BACKLOG, ttl=20
    ) as engine:
        yield engine


def block(sender: Peer, receiver: BarePeer, size: int = 16000) -> int:
    """Sends to a receiver that doesn't read, until its socket is full; the last message has the ref `full`.

    Returns the number of messages that were answered with OK before.
    """
    for i in range(4000):
        sender.say(f"TO {receiver.address} ref=full", b"x" * size)
        try:
            assert sender.answer_to("full", limit=0.4) == "ok"
        except TimeoutError:
            return i
    raise AssertionError("the socket never fills")


def pair(engine: kit.Engine) -> tuple[BarePeer, BarePeer]:
    """A sender, and a receiver with a small socket."""
    return BarePeer(engine.port), BarePeer(engine.port, receive_buffer=4096)


def read_until(peer: Peer, payload: bytes) -> list[Received]:
    """Reads up to the message with this payload."""
    got = [peer.read()]
    while got[-1].payload != payload:
        got.append(peer.read())
    return got


def read_rest(sender: Peer, receiver: BarePeer, n: int) -> list[bytes]:
    """Reads n messages, and then the rest of the backlog, of which it returns the payloads."""
    while n:
        n -= receiver.read().verb != "GAP"
    until(lambda: sender.ask(f"TO {receiver.address}", "end") == "ok", "the backlog has room")
    received = read_until(receiver, b"end")[:-1]
    return [one.payload or b"" for one in received if one.verb != "GAP"]


# -- backlog --


def test_slow_peer(tight: kit.Engine) -> None:
    """A message that doesn't fit is answered with slow-peer; the others arrive in order."""
    a, b = pair(tight)
    refs = [str(i) for i in range(30)]
    with a, b:
        n = block(a, b) + 1
        for ref in refs:
            a.say(f"TO {b.address} ref={ref}", ref)
        codes = {"29": a.answer_to("29")}
        received = read_rest(a, b, n)
        assert a.answer_to("full") == "ok"
        codes |= {ref: a.answer_to(ref) for ref in refs[:-1]}
        kept = [ref.encode() for ref in refs if codes[ref] == "ok"]
        assert kept == [b"%d" % i for i in range(len(kept))] == received
        assert len(kept) in (BACKLOG - 1, BACKLOG)
        assert set(codes.values()) == {"ok", "slow-peer"}
        assert a.settle() == []


def test_backlog_in_bytes() -> None:
    """40,000 bytes hold the rest of a message of 16,000, and six to nine of 4,000."""
    with kit.engine(nats="off", loops=1, backlog_bytes=40000) as engine:
        a, b = pair(engine)
        with a, b:
            n = block(a, b) + 1
            for i in range(20):
                a.say(f"TO {b.address} ref={i}", b"%02d" % i + b"y" * 4000)
            codes = {19: a.answer_to("19")}
            received = read_rest(a, b, n)
            codes |= {i: a.answer_to(str(i)) for i in range(19)}
            kept = [i for i in range(20) if codes[i] == "ok"]
            assert [int(one[:2]) for one in received] == kept == list(range(len(kept)))
            assert 5 <= len(kept) <= 9


def test_a_slow_member_does_not_affect_others(tight: kit.Engine) -> None:
    """All others get every message; the slow one gets the first ones, in order."""
    room = fresh("room")
    slow = BarePeer(tight.port, room, receive_buffer=4096)
    with slow, BarePeer(tight.port) as sender, several(tight.port, 5, room) as members:
        n = block(sender, slow) + 1
        before = tight.total("dropped_slow_peer")
        for i in range(100):
            sender.say(f"PUB {room} ref={i}", str(i))
            sender.expect("OK", str(i))
        for member in members:
            assert [one.payload for one in member.read_all(100)] == [b"%d" % i for i in range(100)]
        until(lambda: tight.total("dropped_slow_peer") >= before + 100 - BACKLOG)
        received = read_rest(sender, slow, n)
        assert received == [b"%d" % i for i in range(len(received))]
        assert len(received) in (BACKLOG - 1, BACKLOG)
        assert sender.answer_to("full") == "ok"


def mailboxes_are_empty(engine: kit.Engine) -> bool:
    """Whether loops have taken all that was posted to them."""
    total = engine.stats()["total"]
    return bool(total["posted"] == total["taken"])


def test_gap_counts_the_messages_that_a_receiver_missed(tight: kit.Engine) -> None:
    """Since the last notice: those that reached its node, and did not fit or were too old."""
    a, b = pair(tight)
    with a, b:
        for more in range(3):
            n = block(a, b) + 1
            assert a.ask(f"TO {b.address} ttl=200", "old") == "expired"
            refs = [str(i) for i in range(20 + more)]
            for ref in refs:
                a.say(f"TO {b.address} ref={ref}", ref)
            assert a.ask("UNSUB nothing") == "ok"  # so that all of it has been read
            until(lambda: mailboxes_are_empty(tight), "all have reached the receiver's loop")
            received, missed = 0, 0
            while received + missed < n + 1 + len(refs):
                got = b.read()
                received += got.verb != "GAP"
                missed += int(got.words[0]) if got.verb == "GAP" else 0
            codes = [a.answer_to(ref) for ref in (*refs, "full")]
            assert (received, missed) == (n - 1 + codes.count("ok"), 1 + codes.count("slow-peer"))
            assert missed > 10 and b.settle() == a.settle() == []


# -- ttl --


@pytest.mark.alone
def test_expired(tight: kit.Engine) -> None:
    """The answer comes within the ttl and a second; the message is never written."""
    a, b = pair(tight)
    with a, b:
        n = block(a, b) + 1
        start = time.monotonic()
        a.say(f"TO {b.address} ref=soon ttl=300", "soon")
        a.say(f"TO {b.address} ref=late ttl=19000", "late")
        assert a.answer_to("soon") == "expired"
        assert 0.25 < time.monotonic() - start < 1.8
        assert read_rest(a, b, n) == [b"late"]
        assert a.answer_to("late") == a.answer_to("full") == "ok"
        until(lambda: tight.total("backlog_bytes") == 0, "backlog_bytes is 0 again")


def test_a_message_that_is_partly_written_does_not_expire(tight: kit.Engine) -> None:
    """It is written to its end, also after its ttl."""
    a, b = pair(tight)
    with a, b:
        n, code = 0, "ok"
        while code == "ok":
            a.say(f"TO {b.address} ref=r ttl=500", b"x" * 60000)
            code, n = a.answer_to("r"), n + 1
        whole = n if code == "timeout" else n - 1
        assert read_rest(a, b, whole) == []


def test_ttl_is_a_setting() -> None:
    with kit.engine(nats="off", loops=2, ttl=0.5) as engine:
        a, b = pair(engine)
        with a, b:
            while a.ask(f"TO {b.address}", b"x" * 16000) == "ok":
                pass
            start = time.monotonic()
            assert a.ask(f"TO {b.address}", "x") == "expired"
            assert 0.3 < time.monotonic() - start < 2


# -- refs --


def test_a_ref_that_is_outstanding(tight: kit.Engine) -> None:
    """Another request with it gets bad-request. The first is delivered and answered."""
    a, b = pair(tight)
    with a, b:
        n = block(a, b) + 1
        a.say(f"TO {b.address} ref=dup", "first")
        for head in (f"TO {b.address} ref=dup", "PUB room ref=dup", "SUB room ref=dup", "UNSUB room ref=dup"):
            a.say(head)
            got = a.read()
            assert (got.verb, got.words) == ("ERR", ("bad-request",))
            assert got.options in ({}, {"ref": "dup"})
        assert read_rest(a, b, n) == [b"first"]
        assert sorted(one.words for one in a.read_all(2)) == [("dup",), ("full",)]
        assert a.ask(f"TO {b.address}", "end", ref="dup") == "ok"
        assert b.expect("FROM", a.address, ref="dup").payload == b"end"


def test_max_refs() -> None:
    """One request more gets `rate`, at once. The others are answered."""
    with kit.engine(nats="off", loops=2, max_refs=4) as engine:
        a, b = pair(engine)
        with a, b:
            block(a, b)
            for i in range(6):
                a.say(f"TO {b.address} ref={i}", str(i))
            assert [a.answer_to(str(i)) for i in (3, 4, 5)] == ["rate"] * 3
            a.say(f"TO {b.address}", "end")
            received = read_until(b, b"end")
            assert [a.answer_to(ref) for ref in ("full", "0", "1", "2")] == ["ok"] * 4
            assert [one.payload for one in received[-4:]] == [b"0", b"1", b"2", b"end"]
            assert a.ask(f"TO {b.address}", "x") == "ok"


# -- rooms --


def test_max_rooms(tight: kit.Engine, client: type[Peer]) -> None:
    """One room too many is refused, joining a room again is not. After leaving one, another can be joined."""
    with client(tight.port) as peer:
        assert peer.hello["max_rooms"] == ROOMS
        rooms = [fresh("room") for _ in range(ROOMS + 1)]
        assert [peer.ask(f"SUB {room}") for room in rooms] == ["ok"] * ROOMS + ["too-many-rooms"]
        assert peer.ask(f"SUB {rooms[0]}") == "ok"
        assert peer.ask(f"UNSUB {rooms[1]}") == "ok"
        assert peer.ask(f"SUB {rooms[3]}") == "ok"
        with client(tight.port) as sender:
            for room in rooms:
                sender.say(f"PUB {room}", room)
            for room in (rooms[0], rooms[2], rooms[3]):
                assert peer.expect("MSG", room, sender.address).payload == room.encode()


def test_rooms_of_the_url_count(tight: kit.Engine) -> None:
    with BarePeer(tight.port, "a", "b", "c") as peer:
        assert peer.ask("SUB d") == "too-many-rooms"
        assert peer.ask("SUB c") == "ok"


# -- stalling --


@pytest.mark.parametrize("loops", [1, 3])
def test_a_stalled_receiver_is_closed(loops: int) -> None:
    """After stall_timeout without progress. Every ref is answered exactly once."""
    with kit.engine(nats="off", loops=loops, stall_timeout=1, ping_interval=60, ttl=5) as engine:
        a, b = pair(engine)
        with a, b:
            start = time.monotonic()
            block(a, b)
            for i in range(10):
                a.say(f"TO {b.address} ref={i}", str(i))
            codes = [a.answer_to(ref) for ref in ("full", *map(str, range(10)))]
            assert "ok" not in codes, codes
            assert 0.9 < time.monotonic() - start < 8
            until(lambda: engine.total("connections") == 1)
            assert a.ask(f"TO {b.address}", "x") == "no-such-peer"
            assert a.settle() == []
            b.wire.read_end()


def test_a_slow_reader_is_not_stalled() -> None:
    """A receiver that reads a little now and then makes progress."""
    with kit.engine(nats="off", loops=1, stall_timeout=1.5, backlog_messages=4096, backlog_bytes=1 << 26) as engine:
        a, b = BarePeer(engine.port), BarePeer(engine.port, receive_buffer=65536)
        with a, contextlib.closing(b.wire.socket):
            n = block(a, b) + 1
            for _ in range(3 * n):
                a.say(f"TO {b.address}", b"x" * 16000)
            for turn in range(8):
                due = time.monotonic() + 0.5
                b.wire.read(64000)
                until(lambda due=due: time.monotonic() > due, f"turn {turn}")  # type: ignore[misc]
            assert engine.total("connections") == 2


def test_all_loops_make_rooms_at_once() -> None:
    """Threads meet in the room table while it grows. A room that all members have left is removed."""
    names = [str(number) for number in range(3000)]
    with kit.engine(nats="off", loops=4, max_rooms=len(names)) as engine, several(engine.port, 8) as peers:
        for verb, members in (("SUB", len(names)), ("UNSUB", 0)):
            words = b"".join(frame(TEXT, f"{verb} {name}".encode()) for name in names)
            for peer in peers:
                peer.wire.send(words)
            for peer in peers:
                assert peer.settle() == []
            total = engine.stats()["total"]
            assert total["memberships"] == len(peers) * members
            assert members <= total["rooms"] <= 4 * members
