"""A drain as clients and operators see it: all get GOAWAY, those that stay are closed evenly, and messages go on."""

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import time
import urllib.error
from collections.abc import Iterator

import pytest

import kit
from peers import BarePeer, Closed, several
from wire import LIMIT, fresh, until

from .test_draining import attempt

CROWD, SECONDS = 60, 3.0


class Departures:
    """Reads GOAWAY and the close code of each of a crowd, and the time at which it is closed."""

    def __init__(self, crowd: list[BarePeer]) -> None:
        self.here = {peer.wire.socket.fileno(): peer for peer in crowd}
        self.announced: list[int] = []  # milliseconds in GOAWAY
        self.urls: set[str] = set()
        self.closed: list[float] = []
        self.codes: set[int | None] = set()
        self.begun = time.monotonic()

    def watch(self) -> None:
        """Reads until all are closed."""
        while self.here:
            readable, _, _ = select.select(list(self.here), [], [], LIMIT)
            assert readable, f"{len(self.here)} are still here"
            for one in readable:
                self.read(one, self.here[one])

    def read(self, descriptor: int, peer: BarePeer) -> None:
        try:
            got = peer.read()
            assert got.verb == "GOAWAY", got
            self.announced.append(int(got.words[0]))
            self.urls |= set(got.options.values())
        except Closed as closed:
            self.codes.add(closed.code)
            self.closed.append(time.monotonic() - self.begun)
            del self.here[descriptor]
            peer.close()


def goaway(peer: BarePeer) -> int:
    got = peer.read()
    assert got.verb == "GOAWAY", got
    return int(got.words[0])


@pytest.mark.parametrize("loops", [1, 3])
def test_all_get_goaway_and_are_closed_evenly(loops: int) -> None:
    goal = "wss://b.example/?x=y"
    with kit.engine(loops=loops, drain_time=SECONDS, drain_url=goal, close_timeout=1) as engine:
        with several(engine.port, CROWD) as crowd:
            departures = Departures(crowd)
            os.kill(engine.pid, signal.SIGTERM)
            departures.watch()
        assert engine.wait() == 0
    assert len(departures.announced) == CROWD and departures.urls == {goal}
    assert all(SECONDS * 1000 - 1000 < ms <= SECONDS * 1000 for ms in departures.announced), departures.announced
    assert departures.codes == {1001}
    assert SECONDS - 0.7 < departures.closed[-1] < SECONDS + 1
    pace = CROWD / SECONDS
    for count, moment in enumerate(departures.closed, 1):  # each loop may be one ahead, and a tick is 0.1 s
        assert count <= pace * (moment + 0.2) + loops, (count, moment, departures.closed)


def test_clients_that_leave_early_count() -> None:
    """While more have left than had to by then, nobody is closed."""
    with kit.engine(loops=1, drain_time=4) as engine, contextlib.ExitStack() as stack:
        stay = [stack.enter_context(BarePeer(engine.port)) for _ in range(2)]
        leave = [BarePeer(engine.port) for _ in range(18)]
        os.kill(engine.pid, signal.SIGTERM)
        for peer in (*stay, *leave):
            goaway(peer)
        for peer in leave:
            peer.close()
        until(lambda: engine.total("connections") <= 2)
        before = engine.stats()["total"]
        begun = time.monotonic()
        assert stay[0].ask(f"TO {stay[1].address}", "x") == "ok"
        with pytest.raises(Closed):
            stay[0].read()
        assert time.monotonic() - begun > 2, "it stays until near the end"
        total = engine.stats()["total"]
        assert total["drained"] - before["drained"] == 1 and total["goaways"] == 20


def test_messages_go_on_and_ports_are_closed() -> None:
    """1:1 and in rooms, until the connection is closed. The ports are closed at once, and readiness fails."""
    with kit.engine(loops=2, drain_time=30) as engine, several(engine.port, 4, "room") as crowd:
        assert engine.get("readyz") == b"ready\n"
        os.kill(engine.pid, signal.SIGTERM)
        for peer in crowd:
            assert 25000 < goaway(peer) <= 30000
        with pytest.raises(urllib.error.HTTPError) as unready:
            engine.get("readyz")
        assert (unready.value.code, unready.value.read()) == (503, b"draining\n")
        until(lambda: attempt("127.0.0.1", engine.port) == "refused", "the port is closed")
        assert engine.stats()["state"] == "draining"
        a, b, *_ = crowd
        for i in range(50):
            assert a.ask(f"TO {b.address}", str(i)) == "ok"
            assert b.read().payload == str(i).encode()
            assert b.ask("PUB room", str(i), ref="r") == "ok"
            for peer in (a, *crowd[2:]):
                assert peer.expect("MSG", "room", b.address, ref="r").payload == str(i).encode()
        assert a.ask(f"SUB {fresh('late')}") == "ok"
        begun = time.monotonic()
        os.kill(engine.pid, signal.SIGTERM)
        assert [peer.ended() for peer in crowd] == [1001] * 4
        assert engine.wait() == 0
        assert time.monotonic() - begun < 5, "a second signal ends the drain at once"


def test_clients_that_are_connecting_are_answered() -> None:
    """Those that wait in the listener's queue are not reset."""
    with kit.engine(loops=2, drain_time=10, close_timeout=4) as engine, BarePeer(engine.port) as stays:
        os.kill(engine.pid, signal.SIGSTOP)
        queued = [socket.create_connection(("127.0.0.1", engine.port), timeout=LIMIT) for _ in range(200)]
        os.kill(engine.pid, signal.SIGTERM)
        os.kill(engine.pid, signal.SIGCONT)
        for one in queued:
            with one:
                assert one.recv(4096).startswith(b"HTTP/1.1 503 ")
        goaway(stays)
        until(lambda: engine.total("shed") == 200)
        stays.vanish()
        assert engine.wait() == 0


def test_rooms_of_the_url_are_still_confirmed() -> None:
    """HELLO comes before GOAWAY, though NATS was slow."""
    with kit.nats() as server, kit.engine(nats=server.url, loops=1, drain_time=20) as engine:
        kit.freeze(server)
        waits = socket.create_connection(("127.0.0.1", engine.port), timeout=LIMIT)
        with waits:
            waits.sendall(b"GET /?room=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            waits.sendall(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            assert waits.recv(4096).startswith(b"HTTP/1.1 101 ")
            os.kill(engine.pid, signal.SIGTERM)
            until(lambda: engine.stats()["state"] == "draining")
            os.kill(server.pid, signal.SIGCONT)
            received = b""
            while b"GOAWAY" not in received:
                received += waits.recv(4096)
        assert received.index(b"HELLO") < received.index(b"GOAWAY")


# -- how a drain ends --


def test_a_drain_without_clients_ends_at_once() -> None:
    with kit.engine(drain_time=60) as engine:
        begun = time.monotonic()
        assert engine.end() == 0
        assert time.monotonic() - begun < 5
        assert [line["event"] for line in engine.events()][-3:] == ["draining", "stopping", "stopped"]


def test_a_drain_ends_when_the_last_client_leaves() -> None:
    with kit.engine(drain_time=60) as engine:
        with BarePeer(engine.port) as peer:
            os.kill(engine.pid, signal.SIGTERM)
            goaway(peer)
        begun = time.monotonic()
        assert engine.wait() == 0
        assert time.monotonic() - begun < 5


def test_an_interrupt_does_not_drain() -> None:
    with kit.engine(drain_time=60) as engine, BarePeer(engine.port) as peer:
        begun = time.monotonic()
        os.kill(engine.pid, signal.SIGINT)
        assert peer.ended() == 1001
        assert engine.wait() == 0 and time.monotonic() - begun < 5
        assert "draining" not in [line["event"] for line in engine.events()]


# -- operators --


@pytest.fixture
def node() -> Iterator[kit.Engine]:
    with kit.engine(node="n1", drain_time=60) as engine:
        yield engine


def test_the_command(node: kit.Engine) -> None:
    """A SIGTERM after it, as an orchestrator sends it, does not end the drain."""
    with BarePeer(node.port) as peer:
        done = kit.run("drain", "--admin", node.admin_url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "n1 is draining: 1 connections end within 60 s\n"
        assert goaway(peer) > 50000
        assert kit.run("drain", SIGNAL_ENGINE_ADMIN=node.admin_url.split("/")[2]).returncode == 0
        os.kill(node.pid, signal.SIGTERM)
        assert peer.settle() == []
    assert node.wait() == 0


def test_the_command_without_an_engine() -> None:
    where = f"127.0.0.1:{kit.free_port()}"
    for given in (where, "nonsense", "https://x:1/", ""):
        done = kit.run("drain", "--admin", given)
        assert done.returncode == 2 and done.stderr.startswith("signal-engine: --admin "), done.stderr
        assert done.stderr.count("\n") == 1


def test_the_admin_call(node: kit.Engine) -> None:
    """A POST without Origin, so not from a web page."""
    host = node.admin_url.split("/")[2]

    def ask(method: str, path: str, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(host, timeout=LIMIT)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    with BarePeer(node.port) as peer:
        assert ask("GET", "/drain")[0] == 404
        assert ask("PUT", "/drain")[0] == 405
        assert ask("POST", "/stats")[0] == 404
        assert ask("POST", "/drain", Origin="http://evil.example")[0] == 403
        assert peer.settle() == [] and node.get("readyz") == b"ready\n"
        status, body = ask("POST", "/drain")
        assert (status, json.loads(body)) == (202, {"node": "n1", "connections": 1, "drain_time": 60.0})
        assert goaway(peer) > 50000
