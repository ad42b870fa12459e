"""Presence queries when NATS or a loop is slow: they are sent in the end, what a loop had no room for is counted as
missed, and many queries do not delay messages."""

import contextlib
import os
import signal

import pytest

import kit
from peers import BarePeer, loop_of, several
from wire import TEXT, frame, until

from .bus import Bus
from .conftest import await_cluster
from .crowd import Crowd
from .test_presence import LOST

pytestmark = pytest.mark.timeout(180)  # some waits may take a minute


def apart(stack: contextlib.ExitStack, engine: kit.Engine, n: int) -> tuple[BarePeer, list[BarePeer]]:
    """A peer on the first of two loops, and n on the other."""
    peers = [stack.enter_context(BarePeer(engine.port)) for _ in range(8 * (n + 1))]
    first = [peer for peer in peers if loop_of(peer) == "00"]
    other = [peer for peer in peers if loop_of(peer) != "00"]
    return first[0], other[:n]


def members(stack: contextlib.ExitStack, engine: kit.Engine, rooms: list[str]) -> list[BarePeer]:
    """Six peers on the other loop, each in all of the rooms."""
    _, peers = apart(stack, engine, 6)
    for peer in peers:
        for room in rooms:
            peer.say(f"SUB {room}")
        peer.settle()
    return peers


def test_queries_that_nats_does_not_take_are_sent_again() -> None:
    """In rooms that this node watches already, so that nothing else would make it query."""
    names = [f"{number:0>100}" for number in range(100)]
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=1, nats_pending=65536) as one,
        kit.engine(nats=server.url, loops=1) as two,
        several(one.port, 3) as (early, late, busy),
        several(two.port, 2) as (far, abroad),
    ):
        await_cluster([one, two])
        far.join(*names)
        crowds = [Crowd(early, *names), Crowd(abroad, "busy")]
        for name in names:
            crowds[0].expect(early.address, far.address, room=name)
        busy.join("busy")
        crowds[1].expect(busy.address, abroad.address, room="busy")  # so that its node knows of the watcher
        kit.freeze(server)
        try:
            until(lambda: busy.ask("PUB nowhere", b"x" * 32768) != "ok", "NATS takes no more")
            churn = b"".join(frame(TEXT, f"{verb} busy".encode()) for verb in ("SUB", "UNSUB")) * 100
            while one.total("presence_lost") == 0:
                busy.wire.send(churn)
                busy.settle()
            crowds.append(Crowd(late, *names))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        for name in names:
            crowds[2].expect(early.address, late.address, far.address, room=name, limit=LOST)
        assert one.total("nodes_lost") == 0, "that would have made it query, too"


def test_rooms_are_queried_again_as_fast_as_nats_reads() -> None:
    """After a reconnect there are many queries: no more at a time than may wait."""
    names = [f"{number:0>100}" for number in range(800)]
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=1, nats_pending=65536, max_rooms=1000) as one,
        kit.engine(nats=server.url, loops=1, max_rooms=1000) as two,
        several(one.port, 1) as (watcher,),
        several(two.port, 1) as (far,),
    ):
        await_cluster([one, two])
        far.join(*names)
        crowd = Crowd(watcher, *names)
        for name in names:
            crowd.expect(watcher.address, far.address, room=name)
        before = one.total("presence_lost")
        server.stop()
        until(lambda: one.stats()["link"] == two.stats()["link"] == "away", "NATS is away")
        server.start()
        crowd.received.clear()
        while {got.words[0] for got in crowd.received if got.verb == "LEAVE"} != set(names):
            crowd.take(watcher.read(30.0))
        for name in names:
            crowd.expect(watcher.address, far.address, room=name)
        assert one.total("presence_lost") - before <= 2, "a heartbeat, at most"


def test_a_full_mailbox_is_reported_to_its_watchers() -> None:
    """They get GAP, and with a new SUB the members. Other members have missed nothing."""
    rooms = [f"room-{i}" for i in range(100)]
    with kit.engine(loops=2, inbox_messages=64, max_rooms=100) as engine, contextlib.ExitStack() as stack:
        a, (watcher, beside) = apart(stack, engine, 2)
        beside.join(*rooms)
        crowd = Crowd(watcher, *rooms)
        for room in rooms:
            crowd.expect(watcher.address, beside.address, room=room)
        before = engine.total("presence_lost")
        a.wire.send(b"".join(frame(TEXT, f"SUB {room}".encode()) for room in rooms))
        joined = missed = 0
        while joined + missed < len(rooms):
            got = watcher.read()
            assert got.verb == "GAP" or (got.verb, got.words[1]) == ("JOIN", a.address)
            missed += int(got.words[0]) if got.verb == "GAP" else 0
            joined += got.verb == "JOIN"
        assert missed == engine.total("presence_lost") - before > 0 == engine.total("gaps_untold")
        assert beside.settle() == []
        for room in rooms:
            crowd.ask(room).expect(a.address, watcher.address, beside.address, room=room)


def test_queries_do_not_delay_messages() -> None:
    """A message after very many queries to a loop does not wait for all of their answers."""
    count = 1500
    rooms = [f"room-{i}" for i in range(count)]
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=2, max_rooms=count) as engine,
        Bus(server.url) as bus,
        contextlib.ExitStack() as stack,
    ):
        peers = members(stack, engine, rooms)
        answers = bus.subscribe("signal.presence-members.watcher")

        async def ask() -> None:
            for number, room in enumerate(rooms, 1):
                await bus.client.publish("signal.presence-ask", f"watcher {number} {room}".encode())
            peer = f"signal.peer.{peers[0].address}"
            await bus.client.publish(peer, b"x", reply="signal.presence-members.watcher")

        def listed_before() -> int:
            """The number of members listed before the receipt of the message, which takes the same way."""
            bus.run(ask())
            listed, before = 0, None
            while before is None or listed < count * len(peers):
                got = answers.get(timeout=10)
                if got.headers:
                    before = listed
                else:
                    listed += got.data.count(b"\n") - 1
            assert peers[0].read().payload == b"x"
            return before

        until(lambda: listed_before() < (count - 512) * len(peers), "the message overtakes", limit=30.0)
        assert engine.total("questions_held") > 0


def test_queries_of_many_nodes_do_not_delay_messages() -> None:
    """Very many at once. Each is answered, and the message after them arrives before that."""
    nodes, rooms = 16, [f"room-{i}" for i in range(1000)]
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=2, max_rooms=len(rooms)) as engine,
        Bus(server.url) as bus,
        contextlib.ExitStack() as stack,
    ):
        peers = members(stack, engine, rooms)
        answers = bus.subscribe("signal.presence-members.*")

        async def ask() -> None:
            for number, room in enumerate(rooms, 1):
                for node in range(nodes):
                    await bus.client.publish("signal.presence-ask", f"watcher{node} {number} {room}".encode())
            peer = f"signal.peer.{peers[0].address}"
            await bus.client.publish(peer, b"after", reply="signal.presence-members.watcher0")

        def listed_before() -> int:
            """The number of members listed before the receipt of the message, which takes the same way."""
            bus.run(ask())
            listed, before = 0, None
            while before is None or listed < nodes * len(rooms) * len(peers):
                got = answers.get(timeout=10)
                if got.headers:
                    before = listed
                else:
                    listed += got.data.count(b"\n") - 1
            assert peers[0].read().payload == b"after"
            return before

        until(lambda: listed_before() < (nodes * len(rooms) - 8192) * len(peers), "the message overtakes", limit=60.0)
        assert engine.total("questions_full") == 0


def test_very_many_changes_in_one_message_are_counted_one_by_one() -> None:
    """More than 16 bits hold: a watcher that has no room for them gets their number in GAP."""
    lines = 70_000
    text = b"JOIN other.0000000000000\n" * lines
    with (
        kit.nats(config="max_payload: 8388608") as server,
        kit.engine(nats=server.url, loops=1, max_message=4 << 20, send_buffer=4608, backlog_bytes=1024) as engine,
        BarePeer(engine.port, receive_buffer=4096) as watcher,
        BarePeer(engine.port) as sender,
        Bus(server.url) as bus,
    ):
        watcher.join("room")
        watcher.say("SUB room presence")
        assert watcher.read().verb == "MEMBERS"
        while engine.total("dropped_slow_peer") < 100:  # its socket stays full
            sender.say(f"TO {watcher.address}", "x" * 1000)
            sender.settle()
        dropped = engine.total("dropped_slow_peer")
        bus.publish("signal.presence.room", text)
        until(lambda: engine.total("dropped_slow_peer") > dropped, "they are dropped")
        missed = received = 0  # some may come once it reads
        while missed + received < lines + dropped:
            got = watcher.read()
            missed += int(got.words[0]) if got.verb == "GAP" else 0
            received += got.verb == "JOIN"
        assert missed + received == lines + dropped and missed > 65536 // 2
