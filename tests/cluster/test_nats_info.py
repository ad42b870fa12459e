"""INFO, PING, -ERR and huge messages from NATS servers, real and fake."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

import kit
from flood import resident
from kit import freeze
from peers import BarePeer, several
from wire import TEXT, frame, until

from .bus import Bus
from .conftest import account, await_cluster, nats_pair
from .fake_nats import FakeNats, Link, info

SMALL = 8192  # bytes: max_payload of the account

ACCOUNT = f"""accounts {{
    SMALL {{ users: [ {{ user: node, password: node }} ], limits {{ max_payload: {SMALL} }} }}
}}"""
NODE = {"nats_user": "node", "nats_password": "node"}


@contextlib.contextmanager
def engine_on(fake: FakeNats, **settings: object) -> Iterator[kit.Engine]:
    with kit.engine(nats=fake.url, control="off", **{"loops": 1, **settings}) as engine:
        fake.link()
        until(lambda: engine.stats()["nats_state"] == "up", "NATS is up")
        yield engine


# -- max_payload --


def test_the_max_payload_of_an_account() -> None:
    """NATS announces it after the login. Larger messages are refused, and the link stays."""
    with (
        kit.nats(config=ACCOUNT) as server,
        kit.engine(nats=server.url, loops=1, **NODE) as one,
        kit.engine(nats=server.url, loops=2, **NODE) as two,
    ):
        await_cluster([one, two])
        with BarePeer(one.port) as a, BarePeer(two.port, "room") as b:
            for size in (40000, SMALL + 1, SMALL):
                assert a.ask("PUB room", b"x" * size) == "too-large"
                assert a.ask(f"TO {b.address}", b"x" * size) == "too-large"
            a.say("PUB room", b"x" * (SMALL - 300))
            assert len(b.expect("MSG", "room", a.address).payload) == SMALL - 300
        for node in (one, two):
            assert node.total("nats_lost") == 0
        account()


def test_a_max_payload_that_is_lowered_and_raised() -> None:
    """It holds for messages published from then on."""
    with FakeNats() as fake, engine_on(fake) as engine, BarePeer(engine.port) as a, BarePeer(engine.port) as b:
        link = fake.link()
        assert a.ask("PUB room", b"x" * 30000) == "ok"
        link.say(info(max_payload=2000))
        until(lambda: a.ask("PUB room", b"x" * 30000) == "too-large", "it is lowered")
        assert a.ask("PUB room", b"x" * 1000) == "ok"
        link.say(info(max_payload=20000))
        until(lambda: a.ask("PUB room", b"x" * 10000) == "ok", "it is raised")
        assert a.ask("PUB room", b"x" * 30000) == "too-large"
        assert b.settle() == []
        assert engine.total("nats_lost") == 0


def test_messages_that_wait_when_max_payload_is_lowered() -> None:
    """Those over it are dropped, and answered too-large; the rest is sent."""
    holds, goes = threading.Event(), threading.Event()

    def answer(_: object, line: bytes) -> bool:
        if b"signal.room.hold" in line:
            holds.set()
            goes.wait(30)
        return False

    with (
        FakeNats(answer=answer) as fake,
        engine_on(fake, nats_pending=1 << 26, max_message=1 << 20) as engine,
        BarePeer(engine.port) as a,
    ):
        link = fake.link()
        a.say("PUB hold", "")
        assert holds.wait(10)
        for _ in range(40):  # more than the sockets take
            a.say("PUB room", b"x" * 900000)
        a.say("TO other.0000000000000 ref=big ttl=20000", b"x" * 5000)
        a.say("PUB room ref=small", b"x" * 500)
        assert a.answer_to("small") == "ok"
        until(lambda: engine.total("in_flight") > 10, "they wait")
        link.say(info(max_payload=2000))
        assert a.answer_to("big") == "too-large"
        assert engine.total("dropped_nats") > 10
        goes.set()
        until(lambda: engine.total("in_flight") == 0, "the rest goes out")
        until(lambda: any(line == b"x" * 500 + b"\r\n" for line in link.lines), "also the small one")
        assert engine.total("nats_lost") == 0
        account()


# -- memory that a server could fill --


def test_messages_on_their_way_when_nats_ends() -> None:
    """They get unavailable, and not too-large for the lost connection."""
    with FakeNats() as fake, engine_on(fake, ttl=0.2, loops=2) as engine, several(engine.port, 60) as peers:
        for turn in range(4):
            until(lambda: engine.stats()["nats_state"] == "up", "it is up, again")
            refs = [f"{turn}x{number}" for number in range(16)]
            data = b"".join(frame(TEXT, f"TO other.0000000000000 ref={ref}\n".encode() + b"x" * 1000) for ref in refs)
            for number, peer in enumerate(peers):
                peer.wire.send(data)
                if number == 20:
                    fake.links[-1].sock.shutdown(socket.SHUT_RDWR)
            codes = {peer.answer_to(ref) for peer in peers for ref in refs}
            assert codes <= {"unavailable", "timeout"}


def test_endless_infos() -> None:
    """They neither fill memory nor keep Python busy: only the newest matters."""
    with FakeNats() as fake, engine_on(fake) as engine, BarePeer(engine.port) as a:
        link = fake.link()
        before = resident(engine.pid)
        long = info(connect_urls=[f"127.0.0.1:{port}" for port in range(1, 3000)])
        assert len(long) > 50000
        end = time.monotonic() + 3
        most = 0
        while time.monotonic() < end:
            link.say(long * 20)
            most = max(most, resident(engine.pid))
        link.say(info(max_payload=2000))
        until(lambda: a.ask("PUB room", b"x" * 3000) == "too-large", "the last one counts")
        assert most - before < 64 << 20
        assert engine.stats()["nats_state"] == "up"


def test_endless_pings() -> None:
    """From a server that reads no answers: the answers that wait are bounded."""
    stuck = threading.Event()

    def answer(_: object, line: bytes) -> bool:
        if b"signal.room.stick" in line:
            stuck.wait(30)
        return False

    with FakeNats(answer=answer) as fake, engine_on(fake) as engine, BarePeer(engine.port) as a:
        link = fake.link()
        a.say("PUB stick", "")
        before = resident(engine.pid)
        for _ in range(200):
            link.say(b"PING\r\n" * 20000)
        assert a.ask(f"TO {a.address}", "still there") == "ok"
        assert resident(engine.pid) - before < 32 << 20
        stuck.set()


@pytest.mark.parametrize("text", [b"strange %d", b'Permissions Violation for Publish to "signal.room.%d"'])
def test_endless_errors(text: bytes) -> None:
    """They are counted; few are logged, and the link stays."""
    with FakeNats() as fake, engine_on(fake) as engine, BarePeer(engine.port) as a:
        link = fake.link()
        before = resident(engine.pid)
        for start in range(0, 300000, 1000):
            link.say(b"".join(b"-ERR '" + text % number + b"'\r\n" for number in range(start, start + 1000)))
        until(lambda: engine.total("nats_errors") == 300000, "all are received")
        until(lambda: engine.events("further errors"), "the rest is counted")
        assert a.ask("PUB room", "x") == "ok"
        assert resident(engine.pid) - before < 32 << 20
        assert len(engine.events("NATS reported")) < 60
        assert engine.stats()["nats_state"] == "up"


def test_similar_errors_do_not_end_the_link() -> None:
    """Only the exact text of an error that ends a connection ends it."""
    texts = [b"Auth: decision was put off", b"Parse: error in a subject"]
    with FakeNats() as fake, engine_on(fake) as engine, BarePeer(engine.port) as a:
        fake.link().say(b"".join(b"-ERR '" + text + b"'\r\n" for text in texts))
        until(lambda: engine.total("nats_errors") == len(texts), "all are received")
        assert a.ask("PUB room", "x") == "ok"
        stats = engine.stats()
        assert (stats["nats_state"], stats["total"]["nats_lost"]) == ("up", 0)


def test_a_query_for_the_nodes_name_with_too_long_headers() -> None:
    """Its payload is not read, so it is no query."""

    def answer(link: Link, line: bytes) -> bool:
        if not line.startswith(b"PUB ") or b".node." not in line:
            return False
        headers = b"NATS/1.0\r\nA: " + b"b" * 70000 + b"\r\n\r\n"
        subject = line.split()[1]
        size = len(headers)
        link.say(b"HMSG %s 1 back %d %d\r\n" % (subject, size, size + 16) + headers + b"x" * 16 + b"\r\n")
        return False

    with FakeNats(answer=answer) as fake, engine_on(fake) as engine, BarePeer(engine.port) as a:
        assert a.ask("PUB room", "x") == "ok"
        assert engine.total("nats_lost") == 0


@pytest.mark.parametrize("headers", [b"", b"NATS/1.0\r\nA: b\r\n\r\n", b"NATS/1.0\r\nA: " + b"b" * 70000 + b"\r\n\r\n"])
def test_huge_messages(headers: bytes) -> None:
    """They are not kept: a room's members get GAP, and a sender gets too-large."""
    with FakeNats() as fake, engine_on(fake) as engine, BarePeer(engine.port, "room") as a:
        link = fake.link()
        size = 300 << 20
        sid = until(lambda: sid_of(link.lines, b"signal.room.room"), "the room is subscribed to")
        before = most = resident(engine.pid)
        for subject, number in ((b"signal.room.room", sid), (b"signal.peer.%s" % a.address.encode(), b"3")):
            if headers:
                total = len(headers) + size
                link.say(b"HMSG %s %s back %d %d\r\n" % (subject, number, len(headers), total) + headers)
            else:
                link.say(b"MSG %s %s back %d\r\n" % (subject, number, size))
            for _ in range(300):
                link.say(b"x" * (1 << 20))
                most = max(most, resident(engine.pid))
            link.say(b"\r\n")
        link.say(b"MSG signal.room.room %s 5\r\nafter\r\n" % sid)
        if len(headers) < 60000:
            a.expect("GAP", "1")
            until(lambda: any(b"too-large" in line for line in link.lines), "the sender gets an answer")
        assert a.expect("MSG", "room", "-").payload == b"after"
        assert most - before < 16 << 20
        assert engine.total("nats_lost") == 0


def sid_of(lines: list[bytes], subject: bytes) -> bytes:
    for line in list(lines):
        if line.startswith(b"SUB " + subject + b" "):
            return line.split()[2]
    return b""


def test_the_read_buffer_shrinks_again() -> None:
    size = 24 << 20
    with (
        FakeNats(info(max_payload=1 << 26)) as fake,
        engine_on(fake, max_message=32 << 20) as engine,
        BarePeer(engine.port) as a,
    ):
        link = fake.link()
        before = resident(engine.pid)
        link.say(b"MSG signal.peer.%s 3 %d\r\n" % (a.address.encode(), size) + b"x" * size + b"\r\n")
        assert len(a.expect("FROM", "-").payload) == size
        until(lambda: resident(engine.pid) - before < 8 << 20, "the buffer is small again")
        assert a.ask("PUB room", "x") == "ok"


@pytest.mark.parametrize("pong", [1, 100])
def test_unsolicited_pongs(pong: int) -> None:
    """They confirm nothing: a SUB waits for its PONG."""
    waits = threading.Event()

    def answer(link: object, line: bytes) -> bool:
        return waits.is_set() and line.startswith(b"PING")

    with FakeNats(answer=answer) as fake, engine_on(fake) as engine, BarePeer(engine.port) as a:
        link = fake.link()
        link.say(b"PONG\r\n" * pong)
        waits.set()
        a.say("SUB room ref=s")
        until(lambda: sid_of(link.lines, b"signal.room.room"), "the SUB is sent")
        assert a.settle() == []
        link.say(b"PONG\r\n")
        assert a.answer_to("s") == "ok"


# -- lame duck mode --


def test_lame_duck() -> None:
    """A node moves to another server, with its rooms, before this one ends."""
    with nats_pair() as (named, other):
        with Bus(named.url) as bus:
            until(lambda: bus.client.discovered_servers, "the servers know each other")
        settings = {"nats": named.url, "control": "off"}
        with kit.engine(loops=1, **settings) as one, kit.engine(loops=2, **settings) as two:
            await_cluster([one, two])
            with BarePeer(one.port) as a, BarePeer(two.port, "room") as b:
                os.kill(named.pid, signal.SIGUSR2)
                where = other.url.removeprefix("nats://")
                for node in (one, two):
                    until(lambda node=node: node.stats()["nats_server"] == where, "it moves")  # type: ignore[misc]
                assert named.alive()
                until(lambda: a.ask(f"TO {b.address} ttl=500", "x") == "ok", "they meet again")
                b.settle()
                a.say("PUB room", "over the other")
                assert b.expect("MSG", "room", a.address).payload == b"over the other"
            for node in (one, two):
                assert not [line for line in node.events() if line["level"] in ("warning", "error")]


def test_a_lame_duck_without_another_server_is_kept() -> None:
    with FakeNats() as fake, engine_on(fake) as engine, BarePeer(engine.port) as a:
        link = fake.link()
        link.say(info(ldm=True))
        until(lambda: engine.events("about to stop"), "it is received")
        assert a.ask("PUB room", "x") == "ok"
        assert len(fake.links) == 1 and not link.ended.is_set()


def test_a_malformed_greeting_is_logged_once() -> None:
    greeting = b'INFO {"headers":true,"max_payload":null,"x":' + b"[" * 20000 + b"]" * 20000 + b"}\r\n"
    with FakeNats(greeting) as fake, kit.engine(nats=fake.url, loops=1) as engine:
        until(lambda: len(fake.links) > 3, "it is tried again")
        lines = [line for line in engine.events() if line["level"] in ("warning", "error")]
        assert len(lines) == 1 and "INFO" in lines[0]["reason"]


def test_the_bound_of_a_frozen_server_stays() -> None:
    """With a real server: messages within the bound wait for it."""
    with (
        kit.nats(config=ACCOUNT) as server,
        kit.engine(nats=server.url, loops=1, **NODE) as engine,
        BarePeer(engine.port) as a,
    ):
        until(lambda: a.ask("PUB room", b"x" * 30000) == "too-large", "the bound is known")
        freeze(server)
        try:
            for _ in range(200):
                a.say("PUB room", b"x" * 7000)
            assert a.settle() == []
        finally:
            os.kill(server.pid, signal.SIGCONT)
        until(lambda: engine.total("in_flight") == 0, "all is written")
        assert engine.total("nats_lost") == 0
