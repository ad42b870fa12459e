"""Access to NATS: credentials of every kind, permissions, max_payload."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nkeys
import pytest

import kit
from kit import freeze
from peers import BarePeer
from wire import TEXT, frame, until

from .accounts import make_key, make_operator, public
from .bus import Bus
from .conftest import account, await_cluster


@contextlib.contextmanager
def cluster(config: str, **access: Any) -> Iterator[tuple[BarePeer, BarePeer]]:
    """A peer on each of two nodes, which use a nats-server with this configuration."""
    with (
        kit.nats(config=config) as server,
        kit.engine(nats=server.url, loops=1, **access) as one,
        kit.engine(nats=server.url, loops=2, **access) as two,
    ):
        await_cluster([one, two])
        with BarePeer(one.port) as a, BarePeer(two.port) as b:
            yield a, b
        account()


def reach(a: BarePeer, b: BarePeer) -> None:
    """Asserts that messages arrive, 1:1 and 1:N."""
    b.join("room")
    for payload in ("text", b"\xff" * 60000, "x" * 17000):
        a.say(f"TO {b.address} ref=r", payload)
        b.expect("FROM", a.address, ref="r")
        a.expect("OK", "r")
        a.say("PUB room", payload)
        b.expect("MSG", "room", a.address)


# -- credentials --


def test_token() -> None:
    with cluster('authorization { token: "s3cr3t" }', nats_token="s3cr3t") as (a, b):
        reach(a, b)


def test_user_and_password() -> None:
    config = 'authorization { user: "node", password: "p@ss w0rd" }'
    with cluster(config, nats_user="node", nats_password="p@ss w0rd") as (a, b):
        reach(a, b)


def test_user_and_password_in_the_url() -> None:
    with kit.nats(config='authorization { user: "node", password: "p@ss" }') as server:
        url = server.url.replace("nats://", "nats://node:p%40ss@")
        with kit.engine(nats=url, loops=1) as one, kit.engine(nats=url, loops=1) as two:
            await_cluster([one, two])


def test_nkey(tmp_path: Path) -> None:
    pair, seed = make_key(nkeys.PREFIX_BYTE_USER)
    file = tmp_path / "node.nk"
    file.write_text(seed + "\n")
    with cluster(f"authorization {{ users: [ {{ nkey: {public(pair)} }} ] }}", nats_nkey=str(file)) as (a, b):
        reach(a, b)


def test_creds(tmp_path: Path) -> None:
    config, creds = make_operator(tmp_path)
    with cluster(config, nats_creds=str(creds)) as (a, b):
        reach(a, b)


@pytest.mark.parametrize("access", [{}, {"nats_token": "wrong"}, {"nats_user": "node", "nats_password": "wrong"}])
def test_wrong_credentials_fail_the_start(access: dict[str, str]) -> None:
    """With exit status 2, as an error in the settings."""
    with kit.nats(config='authorization { token: "s3cr3t" }') as server:
        assert kit.refused(nats=server.url, loops=1, **access) == 2


# -- permissions --

PERMITTED = """authorization {{ users: [
    {{ user: node, password: node,
       permissions: {{ publish: {{ deny: [{publish}] }}, subscribe: {{ deny: [{subscribe}] }} }} }}
    {{ user: free, password: free }}
] }}"""
DENIED_SUBJECTS = 256  # subjects that a node remembers, as in signal_core
NODE = {"nats_user": "node", "nats_password": "node"}


def test_a_denied_pub_gets_denied() -> None:
    """The error of NATS comes after the OK, so an ERR without a ref follows. The second PUB is denied at once."""
    with cluster(PERMITTED.format(publish='"signal.room.secret"', subscribe=""), **NODE) as peers:
        for peer in peers:
            assert peer.ask("PUB secret", "x") == "ok"
            peer.refused("denied")
            assert peer.ask("PUB secret", "x") == "denied"
            assert peer.settle() == []
        reach(*peers)


def test_a_denied_subject_is_remembered_once() -> None:
    """NATS reports each message. The first subject is kept once, so there is room for others."""
    config = PERMITTED.format(publish='"signal.room.secret.>"', subscribe="")
    with kit.nats(config=config) as server, kit.engine(nats=server.url, loops=1, **NODE) as engine:
        until(lambda: engine.stats()["nats_state"] == "up", "NATS is up")
        with BarePeer(engine.port) as a:
            freeze(server)
            try:
                a.wire.send(frame(TEXT, b"PUB secret.one\nx") * 2 * DENIED_SUBJECTS)
                assert a.settle() == []
            finally:
                os.kill(server.pid, signal.SIGCONT)
            for room in ("secret.one", "secret.two"):
                until(lambda room=room: a.ask(f"PUB {room}", "x") == "denied", f"{room} is remembered")  # type: ignore[misc]


def test_a_denied_to_gets_denied() -> None:
    """It waits for a receipt; the error of NATS comes before its ttl."""
    with cluster(PERMITTED.format(publish='"signal.peer.closed.>"', subscribe=""), **NODE) as (a, b):
        for _ in range(3):
            assert a.ask("TO closed.0123456789abc ttl=60000", "x") == "denied"
        reach(a, b)


def test_a_denied_sub_gets_denied() -> None:
    with cluster(PERMITTED.format(publish="", subscribe='"signal.room.secret"'), **NODE) as (a, b):
        assert a.ask("SUB secret") == "denied"
        assert a.settle() == []
        assert a.ask("SUB open") == "ok"
        reach(a, b)


# -- max_payload --


def test_over_max_payload() -> None:
    """Across nodes it is too-large, within a node it is delivered, and the link stays."""
    with (
        kit.nats(config="max_payload: 4096") as server,
        kit.engine(nats=server.url, loops=1) as one,
        kit.engine(nats=server.url, loops=2) as two,
        Bus(server.url) as bus,
    ):
        await_cluster([one, two])
        inbox = bus.subscribe("signal.room.>")
        with BarePeer(one.port) as a, BarePeer(one.port) as near, BarePeer(two.port) as far:
            for sender, other, here in ((a, far, near), (far, a, far)):
                assert sender.ask(f"TO {other.address}", b"x" * 5000) == "too-large"
                assert sender.ask("PUB room", b"x" * 5000) == "too-large"
                assert sender.ask(f"TO {here.address}", b"x" * 5000) == "ok"
                sender.early.clear()
                assert sender.ask(f"TO {other.address}", b"x" * 3000) == "ok"
                assert sender.ask("PUB room", b"x" * 3000) == "ok"
                assert inbox.get(timeout=10).data == b"x" * 3000
        for node in (one, two):
            assert node.total("nats_connects") == 1


@pytest.mark.parametrize("size", range(3700, 4140, 20))
def test_near_max_payload(size: int, small: tuple[BarePeer, BarePeer]) -> None:
    """NATS counts headers, too: for any size, the answer is ok or too-large, and the link stays."""
    a, b = small
    code = a.ask(f"TO {b.address} ttl=9000", b"x" * size)
    assert code in ("ok", "too-large")
    assert a.ask(f"TO {b.address}", "still there") == "ok"


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[BarePeer, BarePeer]]:
    with cluster("max_payload: 4096") as peers:
        yield peers
