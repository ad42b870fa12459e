"""Faults under traffic: the nats-server or a node dies or hangs. Each test has its own servers."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from typing_extensions import Self

import kit
from kit import freeze
from peers import BarePeer, Closed, several
from wire import TEXT, frame, fresh, until

from .bus import Bus
from .conftest import account, await_cluster, nats_pair

T = TypeVar("T")
BACK = 25.0  # seconds until a node has found NATS again: it dials at random intervals of up to 5 s


@pytest.fixture
def server() -> Iterator[kit.Nats]:
    with kit.nats() as running:
        yield running


@pytest.fixture
def pair(server: kit.Nats) -> Iterator[tuple[kit.Engine, kit.Engine]]:
    with kit.engine(nats=server.url, loops=2) as one, kit.engine(nats=server.url, loops=2) as two:
        await_cluster([one, two])
        yield one, two
        account()


class Traffic:
    """A sender that sends `TO` with refs without pause, on a thread, and counts the answers by code."""

    def __init__(self, port: int, target: str, ttl: int = 500) -> None:
        self.peer = BarePeer(port)
        self.head = f"TO {target} ttl={ttl}"
        self.codes: Counter[str] = Counter()
        self.stopping = threading.Event()
        self.pool = ThreadPoolExecutor(1)
        self.running = self.pool.submit(self.run)

    def run(self) -> None:
        while not self.stopping.is_set():
            for i in range(20):
                self.peer.say(f"{self.head} ref={i}", str(i))
            self.codes.update([self.peer.answer_to(str(i)) for i in range(20)])
        assert self.peer.settle() == [], "one answer to each ref"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        try:
            self.running.result()
        finally:
            self.pool.shutdown()
            self.peer.close()

    def await_code(self, code: str, limit: float = 10) -> None:
        """Waits for one more answer with this code."""
        before = self.codes[code]
        until(lambda: self.codes[code] > before or self.running.done(), f"an answer {code}", limit)


# -- the nats-server --


def test_nats_dies_and_comes_back_under_traffic(server: kit.Nats, pair: tuple[kit.Engine, kit.Engine]) -> None:
    """Local delivery goes on; what needs NATS is `unavailable`; afterwards all works as before."""
    one, two = pair
    room = fresh("room")
    with several(one.port, 3, room) as near, several(two.port, 3, room) as far, BarePeer(two.port) as target:
        drain = threading.Thread(target=read_to_end, args=(target,), daemon=True)
        drain.start()
        with Traffic(one.port, target.address) as traffic:
            traffic.await_code("ok")
            server.stop()
            traffic.await_code("unavailable")
            for members in (near, far):
                assert members[0].ask(f"TO {members[1].address}", "local", ref="r") == "ok"
                assert members[1].expect("FROM", members[0].address, ref="r").payload == b"local"
                members[0].say(f"PUB {room}", "here")
                for member in members[1:]:
                    assert member.expect("MSG", room, members[0].address).payload == b"here"
                assert members[2].ask("SUB while.away") == "ok"
            server.start()
            traffic.await_code("ok", BACK)
        await_cluster([two, one])
        near[0].say(f"PUB {room}", "again")
        near[0].say("PUB while.away", "joined")
        for member in near[1:] + far:
            assert member.expect("MSG", room, near[0].address).payload == b"again"
        for member in (near[2], far[2]):
            assert member.expect("MSG", "while.away", near[0].address).payload == b"joined"
        assert set(traffic.codes) <= {"ok", "unavailable", "timeout", "no-such-peer"}


def read_to_end(peer: BarePeer) -> None:
    """Reads until the connection ends."""
    with contextlib.suppress(Closed, TimeoutError, OSError, ValueError):
        while True:
            peer.read(60)


def test_pub_while_nats_is_away(server: kit.Nats, pair: tuple[kit.Engine, kit.Engine]) -> None:
    """It gets one answer, and reaches the members on its node."""
    one, _ = pair
    with several(one.port, 4, "room") as members:
        server.stop()
        until(lambda: members[0].ask("TO nosuchnode.0 ttl=100") == "unavailable")
        assert members[0].ask("PUB room", "x") in ("ok", "unavailable")
        for member in members[1:]:
            assert member.read().payload == b"x"
        assert members[0].settle() == []


def test_nats_hangs(server: kit.Nats) -> None:
    """What waits for it waits no longer than a ttl and a second; what does not need it goes on."""
    with (
        kit.engine(nats=server.url, loops=2, ttl=1, handshake_timeout=1) as one,
        kit.engine(nats=server.url, loops=1) as two,
    ):
        await_cluster([one, two])
        with several(one.port, 4, "room") as members, BarePeer(two.port) as far:
            a, b, *_ = members
            freeze(server)
            try:
                start = time.monotonic()
                a.say(f"TO {far.address} ref=to", "x")
                a.say("SUB another ref=sub")
                b.say(f"TO {a.address} ref=near", "local")
                assert b.answer_to("near") == "ok"
                (got,) = a.settle()  # before the others time out
                assert (got.verb, got.payload) == ("FROM", b"local")
                assert a.answer_to("to") == "timeout"
                assert a.answer_to("sub") in ("ok", "timeout")
                assert time.monotonic() - start < 4
                a.say("PUB room", "x")
                for member in members[1:]:
                    member.expect("MSG", "room", a.address)
                with BarePeer(one.port, "url") as late:
                    assert late.ask(f"TO {a.address}", "I am here") == "ok"
            finally:
                os.kill(server.pid, signal.SIGCONT)
            until(lambda: a.ask(f"TO {far.address} ttl=500", "x") == "ok", "it works again", BACK)
            with Bus(server.url) as bus:
                a.early.clear()
                bus.publish("signal.room.another", b"received")
                assert a.expect("MSG", "another", "-").payload == b"received"
        account()


def test_nats_pending_bounds_messages_for_a_slow_server(server: kit.Nats) -> None:
    """What was accepted reaches it, with the rest of its ttl; the rest is refused at once."""
    with (
        kit.engine(nats=server.url, loops=1, nats_pending=1 << 20) as engine,
        BarePeer(engine.port) as a,
        Bus(server.url) as bus,
    ):
        received = bus.subscribe("signal.room.slow")
        freeze(server)
        try:
            taken = 0
            while (code := a.ask("PUB slow ttl=30000", "x" * 60000)) == "ok":
                taken += 1
            assert code == "unavailable"
            assert a.ask(f"TO {a.address}", "near") == "ok"
            waited = time.monotonic()
            until(lambda: a.ask("PUB slow", "") == "unavailable" and time.monotonic() > waited + 1.2, "a wait")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        until(lambda: engine.total("in_flight") == 0, "all is written")
        ttls = [str((received.get(timeout=10).headers or {})["Signal-Ttl"]) for _ in range(taken)]
        assert ttls[0] == "30000"
        assert {len(ttl) for ttl in ttls} == {5}
        assert 20000 < int(ttls[-1]) < 29000
        assert a.ask("PUB slow", "") == "ok"
        assert received.get(timeout=10).data == b""
        account()


def test_joins_wait_for_a_hung_nats_server(server: kit.Nats) -> None:
    """Joins and leaves without pause do not fill memory. The rooms that remain are subscribed to."""
    names = [f"{number:0>100}" for number in range(250)]
    joins, leaves = (b"".join(frame(TEXT, f"{verb} {name}".encode()) for name in names) for verb in ("SUB", "UNSUB"))
    with (
        kit.engine(nats=server.url, loops=1) as engine,
        BarePeer(engine.port) as a,
        Bus(server.url) as bus,
    ):
        before = engine.total("nats_bytes_out")
        freeze(server)
        try:
            for _ in range(2000):
                a.wire.send(joins)
                assert a.settle() == []
                a.wire.send(leaves)
                assert a.settle() == []
            a.say("SUB kept")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert a.ask("SUB another") == "ok"
        bus.publish("signal.room.kept", b"received")
        assert a.expect("MSG", "kept", "-").payload == b"received"
        until(lambda: engine.total("nats_subs") == 2, "only these two are left")
        assert engine.total("nats_bytes_out") - before < 16 << 20


def test_nats_dies_while_requests_wait_for_it(server: kit.Nats, pair: tuple[kit.Engine, kit.Engine]) -> None:
    """A SUB and a TO each get one answer, and the room is subscribed to afterwards."""
    one, two = pair
    with BarePeer(one.port) as a, BarePeer(two.port) as b:
        freeze(server)
        a.say("SUB room ref=sub")
        a.say(f"TO {b.address} ref=to ttl=2000", "x")
        server.stop()
        assert a.answer_to("sub") == "ok"
        assert a.answer_to("to") in ("unavailable", "timeout")
        server.start()
        until(lambda: a.ask(f"TO {b.address} ttl=500", "x") == "ok", "NATS is back", BACK)
        with Bus(server.url) as bus:
            bus.publish("signal.room.room", b"received")
            assert a.expect("MSG", "room", "-").payload == b"received"
        assert a.settle() == []


def test_nats_is_absent_at_the_start(server: kit.Nats) -> None:
    """The nodes serve their clients at once, and reach each other when NATS comes."""
    server.stop()
    with (
        kit.engine(nats=server.url, loops=1) as one,
        kit.engine(nats=server.url, loops=2) as two,
        BarePeer(one.port, "room") as a,
        BarePeer(one.port) as b,
        BarePeer(two.port, "room") as c,
    ):
        assert a.ask(f"TO {b.address}", "x") == "ok"
        assert a.ask(f"TO {c.address}", "x") == "unavailable"
        server.start()
        until(lambda: a.ask(f"TO {c.address}", "hello") == "ok", "NATS is up", BACK)
        until(lambda: c.ask(f"TO {a.address}", "hello") == "ok", "NATS is up", BACK)
        c.settle()
        b.say("PUB room", "x")
        assert c.expect("MSG", "room", b.address).payload == b"x"


def test_nats_dies_again_and_again(server: kit.Nats, pair: tuple[kit.Engine, kit.Engine]) -> None:
    """Rooms that were joined meanwhile are subscribed to in the end, and those that were left are not."""
    one, two = pair
    rooms = [fresh("flap") for _ in range(6)]
    with BarePeer(one.port) as a, BarePeer(two.port, rooms[0]) as b:
        for turn in range(3):
            server.stop()
            assert b.ask(f"UNSUB {rooms[turn]}") == "ok"
            assert b.ask(f"SUB {rooms[turn + 1]}") == "ok"
            server.start()
            until(lambda: a.ask(f"TO {b.address}", "back?") == "ok", "NATS is back", BACK)
        until(lambda: b.ask(f"TO {a.address}", "back?") == "ok", "NATS is back", BACK)
        with Bus(server.url) as bus:
            for room in rooms:
                bus.publish(f"signal.room.{room}", room.encode())
            bus.publish(f"signal.peer.{b.address}", b"end")
            received = [b.read()]
            while received[-1].payload != b"end":
                received.append(b.read())
            assert [one.payload for one in received if one.verb == "MSG"] == [rooms[3].encode()]


# -- a node --


def test_a_node_dies_under_traffic(pair: tuple[kit.Engine, kit.Engine]) -> None:
    """Every ref gets one answer, soon no-such-peer at once. Its rooms go on on the other node."""
    one, two = pair
    target = BarePeer(two.port, "room")
    threading.Thread(target=read_to_end, args=(target,), daemon=True).start()
    with Traffic(one.port, target.address) as traffic, several(one.port, 3, "room") as members:
        traffic.await_code("ok")
        two.kill()
        traffic.await_code("no-such-peer")
        members[0].say("PUB room", "still here")
        for member in members[1:]:
            assert member.expect("MSG", "room", members[0].address).payload == b"still here"
        assert members[0].ask(f"TO {target.address} ttl=60000", "x") == "no-such-peer", "long before its ttl"
    assert set(traffic.codes) <= {"ok", "no-such-peer", "timeout"}
    target.vanish()


def test_a_node_that_hangs(pair: tuple[kit.Engine, kit.Engine]) -> None:
    """`timeout` comes after the ttl and a second at most; a later receipt is no second answer."""
    one, two = pair
    with BarePeer(one.port) as a, BarePeer(two.port) as b:
        assert a.ask(f"TO {b.address}", "awake") == "ok"
        freeze(two)
        try:
            start = time.monotonic()
            a.say(f"TO {b.address} ref=hung ttl=300", "hung")
            a.refused("timeout", "hung")
            assert 1.0 < time.monotonic() - start < 2.5
        finally:
            os.kill(two.pid, signal.SIGCONT)
        until(lambda: a.ask(f"TO {b.address}", "awake") == "ok", "it works again")
        assert a.settle() == []


def test_a_stopped_node_is_no_such_peer(pair: tuple[kit.Engine, kit.Engine]) -> None:
    """It stopped in order, so its subscriptions are gone."""
    one, two = pair
    with BarePeer(one.port) as a, BarePeer(two.port) as b:
        os.kill(two.pid, signal.SIGTERM)
        assert b.ended() == 1001
        until(lambda: a.ask(f"TO {b.address} ttl=500", "x") == "no-such-peer")
        until(lambda: not two.alive(), "it ends")


def test_two_nodes_with_one_name(server: kit.Nats) -> None:
    """The second is refused, with exit status 2, and the first goes on. Its name is free when it ends."""
    with kit.engine(nats=server.url, loops=1, node="twin") as first, BarePeer(first.port) as a:
        assert a.address.startswith("twin.")
        assert kit.refused(nats=server.url, loops=1, node="twin") == 2
        with BarePeer(first.port) as b:
            assert a.ask(f"TO {b.address}", "x") == "ok"
    with kit.engine(nats=server.url, loops=1, node="twin") as again, BarePeer(again.port) as c:
        assert c.address.startswith("twin.")


# -- a cluster of nats-servers --


def test_failover_to_an_announced_server() -> None:
    """The nodes know one server of a cluster; when it dies, they use the other."""
    with nats_pair() as (named, other):
        with Bus(named.url) as bus:
            until(lambda: bus.client.discovered_servers, "the servers know each other")
        with kit.engine(nats=named.url, loops=1) as one, kit.engine(nats=named.url, loops=2) as two:
            await_cluster([one, two])
            with BarePeer(one.port) as a, BarePeer(two.port, "room") as b:
                named.stop()
                until(lambda: a.ask(f"TO {b.address} ttl=500", "x") == "ok", "failover", BACK)
                until(lambda: b.ask(f"TO {a.address} ttl=500", "x") == "ok", "failover", BACK)
                b.settle()
                with Bus(other.url) as bus:
                    bus.publish("signal.room.room", b"over the other")
                    assert b.expect("MSG", "room", "-").payload == b"over the other"


def test_nodes_on_two_servers_of_a_cluster() -> None:
    with (
        nats_pair() as (left, right),
        kit.engine(nats=left.url, loops=1) as one,
        kit.engine(nats=right.url, loops=2) as two,
        BarePeer(one.port) as a,
        BarePeer(two.port, "room") as b,
    ):
        until(lambda: a.ask(f"TO {b.address} ttl=500", "x") == "ok", "subscriptions spread")
        until(lambda: b.ask(f"TO {a.address} ttl=500", "x") == "ok", "subscriptions spread")
        b.settle()
        a.say("PUB room", "x")
        b.expect("MSG", "room", a.address)
