"""Every bound of signal.v1, made to bite: refs, rooms, backlog, ttl, stalling."""

import contextlib
import time
from collections.abc import Iterator

import pytest

import kit
from peers import BarePeer, Heard, Peer, several
from wire import fresh, until

REFS, ROOMS, BACKLOG = 40, 3, 8


@pytest.fixture(scope="module", params=[1, 3], ids=["1loop", "3loops"])
def tight(request: pytest.FixtureRequest) -> Iterator[kit.Engine]:
    """An engine with small bounds."""
    with kit.engine(
        nats="off", loops=request.param, max_refs=REFS, max_rooms=ROOMS, backlog_messages=BACKLOG, ttl=20
    ) as engine:
        yield engine


def block(sender: Peer, receiver: BarePeer, size: int = 16000) -> int:
    """Sends to a receiver that doesn't read, until its socket is full; the last message has the ref `full`.

    Returns how many were answered with OK before.
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


def hear_until(peer: Peer, payload: bytes) -> list[Heard]:
    """Reads up to the message with this payload."""
    got = [peer.hear()]
    while got[-1].payload != payload:
        got.append(peer.hear())
    return got


def hear_fates(peer: Peer, n: int) -> tuple[list[bytes], int]:
    """Reads until n messages are heard or missed (GAP): the payloads, and how many are missed."""
    heard: list[bytes] = []
    missed = 0
    while len(heard) + missed < n:
        got = peer.hear()
        if got.verb == "GAP":
            missed += int(got.words[0])
        else:
            assert got.verb in ("FROM", "MSG")
            heard.append(got.payload or b"")
    assert len(heard) + missed == n
    return heard, missed


# -- backlog --


def test_slow_peer(tight: kit.Engine) -> None:
    """What doesn't fit is told to its sender by ref, to its receiver as GAP; the rest arrives in order."""
    a, b = pair(tight)
    refs = [str(i) for i in range(30)]
    with a, b:
        n = block(a, b) + 1
        for ref in refs:
            a.say(f"TO {b.address} ref={ref}", ref)
        codes = {"29": a.answer_to("29")}
        heard, missed = hear_fates(b, n + 30)
        assert a.answer_to("full") == "ok"
        codes |= {ref: a.answer_to(ref) for ref in refs[:-1]}
        kept = [ref.encode() for ref in refs if codes[ref] == "ok"]
        assert kept == [b"%d" % i for i in range(len(kept))] == heard[n:]
        assert len(kept) in (BACKLOG - 1, BACKLOG) and missed == 30 - len(kept)
        assert set(codes.values()) == {"ok", "slow-peer"}
        assert a.ask(f"TO {b.address}", "end") == "ok"
        assert b.hear().payload == b"end"


def test_backlog_in_bytes() -> None:
    """40,000 bytes hold the rest of a message of 16,000, and six to nine of 4,000."""
    with kit.engine(nats="off", loops=1, backlog_bytes=40000) as engine:
        a, b = pair(engine)
        with a, b:
            n = block(a, b) + 1
            for i in range(20):
                a.say(f"TO {b.address} ref={i}", b"%02d" % i + b"y" * 4000)
            codes = {19: a.answer_to("19")}
            heard, missed = hear_fates(b, n + 20)
            codes |= {i: a.answer_to(str(i)) for i in range(19)}
            kept = [i for i in range(20) if codes[i] == "ok"]
            assert [int(one[:2]) for one in heard[n:]] == kept == list(range(len(kept)))
            assert 5 <= len(kept) <= 9 and missed == 20 - len(kept)


def test_a_slow_member_harms_no_other(tight: kit.Engine) -> None:
    """All others hear everything; the slow one hears a part in order, and how much it missed."""
    room = fresh("room")
    slow = BarePeer(tight.port, room, receive_buffer=4096)
    with slow, BarePeer(tight.port) as sender, several(tight.port, 5, room) as members:
        n = block(sender, slow) + 1
        for i in range(100):
            sender.say(f"PUB {room} ref={i}", str(i))
            sender.expect("OK", str(i))
        for member in members:
            assert [one.payload for one in member.hear_all(100)] == [b"%d" % i for i in range(100)]
        until(lambda: tight.stats()["total"]["dropped_slow_peer"] >= 100 - BACKLOG)
        heard, missed = hear_fates(slow, n + 100)
        assert heard[n:] == [b"%d" % i for i in range(100 - missed)]
        assert missed in (100 - BACKLOG, 100 - BACKLOG + 1)
        assert sender.answer_to("full") == "ok"


# -- ttl --


def test_expired(tight: kit.Engine) -> None:
    """Told within the ttl and a second, never written, counted to the receiver."""
    a, b = pair(tight)
    with a, b:
        n = block(a, b) + 1
        start = time.monotonic()
        a.say(f"TO {b.address} ref=soon ttl=300", "soon")
        a.say(f"TO {b.address} ref=late ttl=19000", "late")
        assert a.answer_to("soon") == "expired"
        assert 0.25 < time.monotonic() - start < 1.8
        heard, missed = hear_fates(b, n + 2)
        assert (heard[n:], missed) == ([b"late"], 1)
        assert a.answer_to("late") == a.answer_to("full") == "ok"


def test_a_message_begun_is_written_whole(tight: kit.Engine) -> None:
    """Whose first byte was written before its ttl had passed."""
    a, b = pair(tight)
    with a, b:
        n, code = 0, "ok"
        while code == "ok":
            a.say(f"TO {b.address} ref=r ttl=500", b"x" * 60000)
            code, n = a.answer_to("r"), n + 1
        heard, missed = hear_fates(b, n)
        assert all(one == b"x" * 60000 for one in heard)
        assert missed == {"timeout": 0, "expired": 1}[code]


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
    """Is bad-request for whatever uses it again; the first use keeps its answer, and only it is delivered."""
    a, b = pair(tight)
    with a, b:
        n = block(a, b) + 1
        a.say(f"TO {b.address} ref=dup", "first")
        for head in (f"TO {b.address} ref=dup", "PUB room ref=dup", "SUB room ref=dup", "UNSUB room ref=dup"):
            a.say(head)
            got = a.hear()
            assert (got.verb, got.words) == ("ERR", ("bad-request",))
            assert got.options in ({}, {"ref": "dup"})
        assert hear_fates(b, n + 1)[0][n:] == [b"first"]
        assert sorted(one.words for one in a.hear_all(2)) == [("dup",), ("full",)]
        assert a.ask(f"TO {b.address}", "end", ref="dup") == "ok"
        assert b.expect("FROM", a.address, ref="dup").payload == b"end"


def test_max_refs() -> None:
    """One more than may be outstanding is `rate`, at once, and takes nothing from the others."""
    with kit.engine(nats="off", loops=2, max_refs=4) as engine:
        a, b = pair(engine)
        with a, b:
            block(a, b)
            for i in range(6):
                a.say(f"TO {b.address} ref={i}", str(i))
            assert [a.answer_to(str(i)) for i in (3, 4, 5)] == ["rate"] * 3
            a.say(f"TO {b.address}", "end")
            heard = hear_until(b, b"end")
            assert [a.answer_to(ref) for ref in ("full", "0", "1", "2")] == ["ok"] * 4
            assert [one.payload for one in heard[-4:]] == [b"0", b"1", b"2", b"end"]
            assert a.ask(f"TO {b.address}", "x") == "ok"


# -- rooms --


def test_max_rooms(tight: kit.Engine, client: type[Peer]) -> None:
    """One room too many is refused; to join again what one is in is not; leaving makes place."""
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


def test_the_urls_rooms_count(tight: kit.Engine) -> None:
    with BarePeer(tight.port, "a", "b", "c") as peer:
        assert peer.ask("SUB d") == "too-many-rooms"
        assert peer.ask("SUB c") == "ok"


# -- stalling --


@pytest.mark.parametrize("loops", [1, 3])
def test_a_stalled_receiver_is_closed(loops: int) -> None:
    """After stall_timeout without progress; every ref is answered, exactly once."""
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
            until(lambda: engine.stats()["total"]["connections"] == 1)
            assert a.ask(f"TO {b.address}", "x") == "no-such-peer"
            assert a.settle() == []
            b.wire.read_end()


def test_a_slow_reader_is_not_stalled() -> None:
    """Who reads a little now and then makes progress."""
    with kit.engine(
        nats="off", loops=1, stall_timeout=1.5, backlog_messages=4096, backlog_bytes=1 << 26
    ) as engine:
        a, b = BarePeer(engine.port), BarePeer(engine.port, receive_buffer=65536)
        with a, contextlib.closing(b.wire.socket):
            n = block(a, b) + 1
            for _ in range(3 * n):
                a.say(f"TO {b.address}", b"x" * 16000)
            for turn in range(8):
                due = time.monotonic() + 0.5
                b.wire.read(n * 16000 // 3)
                until(lambda due=due: time.monotonic() > due, f"turn {turn}")  # type: ignore[misc]
            assert engine.stats()["total"]["connections"] == 2
