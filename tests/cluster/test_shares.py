"""One loop with a large room that is costly to deliver to: other clients get their share of the loop."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

import kit
from peers import BarePeer
from wire import TEXT, frame, opened, until

from .conftest import account


@pytest.fixture
def server() -> Iterator[kit.Nats]:
    with kit.nats() as running:
        yield running


@pytest.fixture
def crowd(server: kit.Nats) -> Iterator[tuple[kit.Engine, BarePeer, BarePeer]]:
    """A loop with a room whose 500 members read nothing, and two other peers."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(kit.engine(nats=server.url, loops=1))
        for _ in range(500):
            stack.enter_context(opened(engine.port, "/?room=crowd", receive_buffer=4096)[0])
        yield engine, stack.enter_context(BarePeer(engine.port)), stack.enter_context(BarePeer(engine.port))


def test_a_flood_from_nats_leaves_the_clients_their_share(
    server: kit.Nats, crowd: tuple[kit.Engine, BarePeer, BarePeer]
) -> None:
    """More messages for a large room than a loop can deliver: other clients of the loop go on."""
    engine, a, b = crowd
    total = 400_000
    with socket.create_connection(("127.0.0.1", server.port)) as flood:
        flood.sendall(b'CONNECT {"verbose":false}\r\n' + b"PUB signal.room.crowd 1\r\nx\r\n" * total)
        until(lambda: engine.total("nats_in") > 0, "the flood has reached the engine")
        for _ in range(20):
            assert a.ask(f"TO {b.address}", "x") == "ok"
        assert 0 < engine.total("nats_in") < total
        account()


def test_a_publisher_to_a_crowd_leaves_others_their_turn(crowd: tuple[kit.Engine, BarePeer, BarePeer]) -> None:
    """Two clients send more than fits a turn: one with costly messages, one with cheap ones."""
    engine, a, b = crowd
    costly = frame(TEXT, b"PUB crowd\nx") * 5000 + frame(TEXT, b"PING end")
    cheap = frame(TEXT, b"PING") * 400
    a.wire.send(costly)
    b.wire.send(cheap)
    assert b.wire.read(400 * 6) == b"\x81\x04PONG" * 400
    assert engine.total("accepted") < 2000, "most of the costly ones still wait"
    a.expect("PONG", "end")
