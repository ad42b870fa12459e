"""What a NATS server says of itself after it greeted, and what one says that lies: INFO, PING, -ERR, huge messages."""

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
from .conftest import account, await_cluster
from .liar import Liar, Link, info

SMALL = 8192  # bytes that the account takes

ACCOUNT = f"""accounts {{
    SMALL {{ users: [ {{ user: node, password: node }} ], limits {{ max_payload: {SMALL} }} }}
}}"""
NODE = {"nats_user": "node", "nats_password": "node"}


@contextlib.contextmanager
def lied_to(liar: Liar, **settings: object) -> Iterator[kit.Engine]:
    with kit.engine(nats=liar.url, control="off", **{"loops": 1, **settings}) as engine:
        liar.link()
        until(lambda: engine.stats()["nats_state"] == "up", "the liar is believed")
        yield engine


# -- max_payload --


def test_the_max_payload_of_an_account() -> None:
    """NATS tells of it after the login. What is over it is refused, and costs nobody the connection."""
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
    """What is published from then on is judged by it, and so is what waited for NATS."""
    with Liar() as liar, lied_to(liar) as engine, BarePeer(engine.port) as a, BarePeer(engine.port) as b:
        link = liar.link()
        assert a.ask("PUB room", b"x" * 30000) == "ok"
        link.say(info(max_payload=2000))
        until(lambda: a.ask("PUB room", b"x" * 30000) == "too-large", "it is lowered")
        assert a.ask("PUB room", b"x" * 1000) == "ok"
        link.say(info(max_payload=20000))
        until(lambda: a.ask("PUB room", b"x" * 10000) == "ok", "it is raised")
        assert a.ask("PUB room", b"x" * 30000) == "too-large"
        assert b.settle() == []
        assert engine.total("nats_lost") == 0


def test_what_waits_for_nats_when_its_bound_is_lowered() -> None:
    """Is dropped where it is over it, and whoever asked is told; the rest goes out."""
    holds, goes = threading.Event(), threading.Event()

    def answer(_: object, line: bytes) -> bool:
        if b"signal.room.hold" in line:
            holds.set()
            goes.wait(30)
        return False

    with (
        Liar(answer=answer) as liar,
        lied_to(liar, nats_pending=1 << 26, max_message=1 << 20) as engine,
        BarePeer(engine.port) as a,
    ):
        link = liar.link()
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
        until(lambda: any(line == b"x" * 500 + b"\r\n" for line in link.lines), "the small one too")
        assert engine.total("nats_lost") == 0
        account()


# -- what grows with what a server says --


def test_what_is_on_its_way_when_nats_ends() -> None:
    """Hears that NATS is away, and not that it was too large for what is no more."""
    with Liar() as liar, lied_to(liar, ttl=0.2, loops=2) as engine, several(engine.port, 60) as peers:
        for turn in range(4):
            until(lambda: engine.stats()["nats_state"] == "up", "it is up, again")
            refs = [f"{turn}x{number}" for number in range(16)]
            said = b"".join(frame(TEXT, f"TO other.0000000000000 ref={ref}\n".encode() + b"x" * 1000) for ref in refs)
            for number, peer in enumerate(peers):
                peer.wire.send(said)
                if number == 20:
                    liar.links[-1].sock.shutdown(socket.SHUT_RDWR)
            told = {peer.answer_to(ref) for peer in peers for ref in refs}
            assert told <= {"unavailable", "timeout"}


def test_infos_without_end() -> None:
    """Neither fill the memory nor keep Python busy: of many only the newest matters."""
    with Liar() as liar, lied_to(liar) as engine, BarePeer(engine.port) as a:
        link = liar.link()
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


def test_pings_without_end() -> None:
    """Of a server that reads no answer: what is owed to it is bounded."""
    stuck = threading.Event()

    def answer(_: object, line: bytes) -> bool:
        if b"signal.room.stick" in line:
            stuck.wait(30)
        return False

    with Liar(answer=answer) as liar, lied_to(liar) as engine, BarePeer(engine.port) as a:
        link = liar.link()
        a.say("PUB stick", "")
        before = resident(engine.pid)
        for _ in range(200):
            link.say(b"PING\r\n" * 20000)
        assert a.ask(f"TO {a.address}", "still there") == "ok"
        assert resident(engine.pid) - before < 32 << 20
        stuck.set()


@pytest.mark.parametrize("text", [b"strange %d", b'Permissions Violation for Publish to "signal.room.%d"'])
def test_errors_without_end(text: bytes) -> None:
    """Are counted; the log has few lines of them, and the connection stays."""
    with Liar() as liar, lied_to(liar) as engine, BarePeer(engine.port) as a:
        link = liar.link()
        before = resident(engine.pid)
        for start in range(0, 300000, 1000):
            link.say(b"".join(b"-ERR '" + text % number + b"'\r\n" for number in range(start, start + 1000)))
        until(lambda: engine.total("nats_errors") == 300000, "all are received")
        until(lambda: any("further errors" in line["event"] for line in engine.events()), "the rest is counted")
        assert a.ask("PUB room", "x") == "ok"
        assert resident(engine.pid) - before < 32 << 20
        told = [line for line in engine.events() if "NATS reported" in line["event"]]
        assert len(told) < 60
        assert engine.stats()["nats_state"] == "up"


def test_an_error_is_what_all_of_its_text_says() -> None:
    """One that is only like an error that ends a connection does not end it."""
    texts = [b"Auth: decision was put off", b"Parse: error in a subject"]
    with Liar() as liar, lied_to(liar) as engine, BarePeer(engine.port) as a:
        liar.link().say(b"".join(b"-ERR '" + text + b"'\r\n" for text in texts))
        until(lambda: engine.total("nats_errors") == len(texts), "all are received")
        assert a.ask("PUB room", "x") == "ok"
        stats = engine.stats()
        assert (stats["nats_state"], stats["total"]["nats_lost"]) == ("up", 0)


def test_a_question_for_the_name_with_too_many_headers() -> None:
    """Such a message has no payload that could be looked at, whatever its size: it is no question."""

    def answer(link: Link, line: bytes) -> bool:
        if not line.startswith(b"PUB ") or b".node." not in line:
            return False
        headers = b"NATS/1.0\r\nA: " + b"b" * 70000 + b"\r\n\r\n"
        subject = line.split()[1]
        size = len(headers)
        link.say(b"HMSG %s 1 back %d %d\r\n" % (subject, size, size + 16) + headers + b"x" * 16 + b"\r\n")
        return False

    with Liar(answer=answer) as liar, lied_to(liar) as engine, BarePeer(engine.port) as a:
        assert a.ask("PUB room", "x") == "ok"
        assert engine.total("nats_lost") == 0


@pytest.mark.parametrize("headers", [b"", b"NATS/1.0\r\nA: b\r\n\r\n", b"NATS/1.0\r\nA: " + b"b" * 70000 + b"\r\n\r\n"])
def test_huge_messages(headers: bytes) -> None:
    """Are not kept: a room's members hear that they missed one, and a sender that it was too large."""
    with Liar() as liar, lied_to(liar) as engine, BarePeer(engine.port, "room") as a:
        link = liar.link()
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
            until(lambda: any(b"too-large" in line for line in link.lines), "the sender hears")
        assert a.expect("MSG", "room", "-").payload == b"after"
        assert most - before < 16 << 20
        assert engine.total("nats_lost") == 0


def sid_of(lines: list[bytes], subject: bytes) -> bytes:
    for line in list(lines):
        if line.startswith(b"SUB " + subject + b" "):
            return line.split()[2]
    return b""


def test_the_read_buffer_is_small_again() -> None:
    size = 24 << 20
    with (
        Liar(info(max_payload=1 << 26)) as liar,
        lied_to(liar, max_message=32 << 20) as engine,
        BarePeer(engine.port) as a,
    ):
        link = liar.link()
        before = resident(engine.pid)
        link.say(b"MSG signal.peer.%s 3 %d\r\n" % (a.address.encode(), size) + b"x" * size + b"\r\n")
        assert len(a.expect("FROM", "-").payload) == size
        until(lambda: resident(engine.pid) - before < 8 << 20, "the buffer is small again")
        assert a.ask("PUB room", "x") == "ok"


@pytest.mark.parametrize("pong", [1, 100])
def test_pongs_to_nothing(pong: int) -> None:
    """Confirm nothing: a SUB waits for its own."""
    waits = threading.Event()

    def answer(link: object, line: bytes) -> bool:
        return waits.is_set() and line.startswith(b"PING")

    with Liar(answer=answer) as liar, lied_to(liar) as engine, BarePeer(engine.port) as a:
        link = liar.link()
        link.say(b"PONG\r\n" * pong)
        waits.set()
        a.say("SUB room ref=s")
        until(lambda: sid_of(link.lines, b"signal.room.room"), "it is asked for")
        assert a.settle() == []
        link.say(b"PONG\r\n")
        assert a.answer_to("s") == "ok"


# -- a server that is about to end --


def test_lame_duck() -> None:
    """A node goes to another server before it is cut, and its rooms with it."""
    routes = [kit.free_port(), kit.free_port()]
    config = "cluster {{ name: pair, listen: 127.0.0.1:{0}, routes: [nats://127.0.0.1:{1}] }}"
    with (
        kit.nats(config=config.format(*routes)) as named,
        kit.nats(config=config.format(*reversed(routes))) as other,
    ):
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


def test_a_lame_server_without_another_is_kept() -> None:
    with Liar() as liar, lied_to(liar) as engine, BarePeer(engine.port) as a:
        link = liar.link()
        link.say(info(ldm=True))
        until(lambda: any("about to stop" in line["event"] for line in engine.events()), "it is received")
        assert a.ask("PUB room", "x") == "ok"
        assert len(liar.links) == 1 and not link.ended.is_set()


def test_a_server_that_greets_with_nonsense_is_told_once() -> None:
    greeting = b'INFO {"headers":true,"max_payload":null,"x":' + b"[" * 20000 + b"]" * 20000 + b"}\r\n"
    with Liar(greeting) as liar, kit.engine(nats=liar.url, loops=1) as engine:
        until(lambda: len(liar.links) > 3, "it is tried again")
        told = [line for line in engine.events() if line["level"] in ("warning", "error")]
        assert len(told) == 1 and "INFO" in told[0]["reason"]


def test_a_frozen_server_is_no_reason_to_forget_its_bound() -> None:
    """As above, with a real server: what it has not taken yet was within its bound."""
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
