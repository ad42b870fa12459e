"""Very many receivers that do not read: memory stays within backlog-total, and GAP tells each what it missed."""

import contextlib
import time
from collections.abc import Iterator

import pytest

import kit
from flood import resident
from halt import halted
from peers import BarePeer, Closed, ledgers_hold, loop_of
from wire import LIMIT, TEXT, frame, until

TOTAL = 4 << 20
MEMBERS = 1000


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    with kit.many_descriptors():
        yield


@contextlib.contextmanager
def sleepers(port: int, n: int, *rooms: str) -> Iterator[list[BarePeer]]:
    """Receivers with small receive buffers, which do not read."""
    made: list[BarePeer] = []
    try:
        for _ in range(n):
            made.append(BarePeer(port, *rooms, receive_buffer=4096))
        yield made
    finally:
        for peer in made:
            peer.vanish()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("loops", [1, 2])
def test_a_thousand_blocked_receivers(loops: int) -> None:
    """They are sent ten times what may wait. Neither the gauge nor the memory exceeds backlog-total."""
    settings = {"backlog_total": TOTAL, "stall_timeout": 600, "ping_interval": 600, "ttl": 600}
    with (
        kit.engine(loops=loops, **settings) as engine,
        sleepers(engine.port, MEMBERS, "room") as crowd,
        BarePeer(engine.port) as sender,
    ):
        before = resident(engine.pid)

        def push(head: str, size: int) -> dict[str, int]:
            sender.say(head, b"x" * size)
            total: dict[str, int] = engine.stats()["total"]
            assert total["backlog_bytes"] <= TOTAL
            return total

        def all_are_full() -> bool:
            total = push("PUB room", 2000)
            return total["blocked"] + total["backlog_limited"] >= MEMBERS

        until(all_are_full, every=0, limit=60)
        for _ in range(20):
            for peer in crowd:
                sender.say(f"TO {peer.address}", b"y" * 1500)
            assert sender.settle() == []
            assert push("PUB room", 10)["backlog_bytes"] > TOTAL // 2
        assert kit.SANITIZED or resident(engine.pid) - before < TOTAL + (8 << 20)
        total = engine.stats()["total"]
        ended = total["backlog_limited"]
        assert total["connections"] == MEMBERS + 1 - ended
        assert total["dropped_slow_peer"] > 10 * (MEMBERS - ended)
        ledgers_hold(total)
        told = 0
        for peer in crowd:
            with contextlib.suppress(Closed):  # there was no room for the rest of its half-written message
                got = peer.read()
                while got.verb != "GAP":
                    got = peer.read()
                assert int(got.words[0]) > 10
                told += 1
            if told == 50:
                break
        assert told == min(50, MEMBERS - ended) > 0


def test_gap_after_the_total_was_full() -> None:
    """A receiver that blocks while the total is used up gets GAP with what it missed, as soon as it reads."""
    with (
        kit.engine(loops=1, backlog_total=300000, stall_timeout=600, ttl=600) as engine,
        BarePeer(engine.port) as sender,
        sleepers(engine.port, 3) as crowd,
    ):
        sent = 400
        for _ in range(sent):
            for peer in crowd:
                sender.say(f"TO {peer.address}", b"x" * 16000)
        sender.settle()
        total = engine.stats()["total"]
        assert total["dropped_slow_peer"] > 0 and total["backlog_limited"] == 0
        for peer in crowd:
            received = missed = 0
            while received + missed < sent:
                got = peer.read()
                if got.verb == "GAP":
                    missed += int(got.words[0])
                else:
                    received += 1
            assert (received + missed, missed > 0) == (sent, True)
        until(lambda: engine.total("backlog_bytes") == 0)


def test_a_receiver_that_blocks_later_has_a_share() -> None:
    """However much others leave unread, it is neither closed nor left without a backlog."""
    with (
        kit.engine(loops=1, backlog_total=1 << 20, stall_timeout=600, ttl=600) as engine,
        BarePeer(engine.port) as sender,
        sleepers(engine.port, 7) as hogs,
        sleepers(engine.port, 1) as (late,),
    ):

        def fill(receiver: BarePeer) -> int:
            """Sends more than may wait; returns the number of messages."""
            before = total = engine.stats()["total"]
            sent = 0
            while total["dropped_slow_peer"] < before["dropped_slow_peer"] + 5 and not total["backlog_limited"]:
                for _ in range(5):
                    sender.say(f"TO {receiver.address}", b"x" * 16000)
                sent += 5
                sender.settle()
                total = engine.stats()["total"]
            return sent

        for hog in hogs:
            fill(hog)
        until(lambda: engine.total("backlog_bytes") <= (7 << 20) // 8)
        sent = fill(late)
        total = engine.stats()["total"]
        assert (total["backlog_limited"], total["connections"]) == (0, 9)
        for hog in hogs:
            hog.vanish()
        until(lambda: engine.total("connections") == 2, "the hogs are gone")
        assert engine.total("backlog_bytes") > 50000, "the share of the late one"
        received = 0
        while (got := late.read()).verb != "GAP":
            received += 1
        assert received + int(got.words[0]) == sent


def test_a_message_that_is_partly_written_and_exceeds_the_total_closes() -> None:
    """No message is cut short, and none is kept beyond the total: the receiver is closed, and counted."""
    with (
        kit.engine(loops=1, backlog_total=20000, stall_timeout=600, ttl=600) as engine,
        BarePeer(engine.port) as sender,
        sleepers(engine.port, 1) as (slow,),
    ):
        code = "ok"
        for _ in range(400):
            code = sender.ask(f"TO {slow.address}", b"x" * 60000)
            if code != "ok":
                break
        assert code in ("no-such-peer", "slow-peer")
        until(lambda: sender.ask(f"TO {slow.address}", b"x" * 60000) == "no-such-peer")
        assert engine.total("backlog_limited") == 1
        with pytest.raises(Closed):
            while True:
                assert slow.read().payload == b"x" * 60000, "messages that arrive are complete"
        ledgers_hold(engine.stats()["total"])


def test_answers_do_not_exceed_the_total() -> None:
    """A client that sends requests and does not read is not read either, once the total is used up."""
    with (
        kit.engine(loops=1, backlog_total=100000, stall_timeout=600, ping_interval=600, max_refs=4096) as engine,
        contextlib.ExitStack() as stack,
    ):
        asking = [BarePeer(engine.port, receive_buffer=4096) for _ in range(12)]
        for peer in asking:
            stack.callback(peer.vanish)
            peer.wire.socket.settimeout(0.2)
        data = b"\x81\xfe\x00\x7f" + bytes(4) + b"PING " + b"p" * 122
        ended = time.monotonic() + LIMIT
        stuck: set[int] = set()
        while len(stuck) < len(asking) and time.monotonic() < ended:
            for i, peer in enumerate(asking):
                if i not in stuck:
                    try:
                        peer.wire.send(data * 400)
                    except TimeoutError:
                        stuck.add(i)
        assert len(stuck) == len(asking)
        assert engine.total("backlog_bytes") < 100000 + 12 * 40000


# -- a full mailbox --


def pair(engine: kit.Engine) -> tuple[BarePeer, BarePeer]:
    """Two peers on different loops."""
    peers = [BarePeer(engine.port) for _ in range(12)]
    loops = [loop_of(peer) for peer in peers]
    other = next(i for i, loop in enumerate(loops) if loop != loops[0])
    for i, peer in enumerate(peers):
        if i not in (0, other):
            peer.close()
    return peers[0], peers[other]


@pytest.mark.parametrize("verb", ["PUB", "TO"])
def test_gap_after_a_mailbox_was_full(verb: str) -> None:
    """The sender gets slow-peer, and the receiver, on the other loop, GAP with exactly what it missed."""
    with kit.engine(loops=2, inbox_messages=64, max_refs=4096) as engine:
        a, b = pair(engine)
        with a, b:
            b.join("room")
            target = "room" if verb == "PUB" else b.address
            refs = 3000
            a.wire.send(b"".join(frame(TEXT, f"{verb} {target} ref={i}\n{i}".encode()) for i in range(refs)))
            codes = [a.answer_to(str(i)) for i in range(refs)]
            refused = codes.count("slow-peer")
            assert refused > 0 and set(codes) == {"ok", "slow-peer"}
            received = missed = 0
            while received + missed < refs:
                got = b.read()
                missed += int(got.words[0]) if got.verb == "GAP" else 0
                received += got.verb != "GAP"
            assert (received, missed) == (refs - refused, refused)
            assert a.ask(f"{verb} {target}", "x") == "ok"
            assert b.read().payload == b"x" and b.settle() == []
            assert engine.total("gaps_untold") == 0


def test_gap_for_a_large_room_is_sent_in_steps() -> None:
    """To each member on a loop whose mailbox was full, over several iterations, and to each once."""
    with (
        kit.engine(loops=2, inbox_messages=64, max_refs=4096, ping_interval=600) as engine,
        contextlib.ExitStack() as stack,
    ):
        peers = [stack.enter_context(BarePeer(engine.port, "room")) for _ in range(3000)]
        publisher = next(peer for peer in peers if loop_of(peer) == "00")
        far = [peer for peer in peers if loop_of(peer) != "00"]
        assert len(far) > 1024  # GAPS_PER_TURN
        refs = 100
        with halted(engine.pid, "signal-1"):
            publisher.wire.send(b"".join(frame(TEXT, f"PUB room ref={i}\n{i}".encode()) for i in range(refs)))
            refused = [publisher.answer_to(str(i)) for i in range(refs)].count("slow-peer")
        assert refused == refs - 64
        for peer in far:
            received = missed = 0
            while received + missed < refs:
                got = peer.read()
                missed += int(got.words[0]) if got.verb == "GAP" else 0
                received += got.verb != "GAP"
            assert (received, missed) == (refs - refused, refused)
        assert far[0].settle() == far[-1].settle() == []
        assert engine.total("gaps_untold") == 0
