"""max-message bounds exactly the payload, without the head, in one frame or in fragments."""

from collections.abc import Callable, Iterator

import pytest

import kit
from peers import BarePeer, ledgers_hold
from wire import BINARY, CONT, TEXT, frame, fresh

REF = "r" * 16
Send = Callable[[int, bytes], bytes]


@pytest.fixture(scope="module", params=[1, 300, 65536])
def bounded(request: pytest.FixtureRequest) -> Iterator[tuple[kit.Engine, int]]:
    """An engine, and its max-message."""
    with kit.engine(nats="off", loops=2, max_message=request.param) as engine:
        yield engine, request.param
        ledgers_hold(engine.stats()["total"])


def whole(opcode: int, data: bytes) -> bytes:
    return frame(opcode, data)


def in_two(opcode: int, data: bytes) -> bytes:
    return frame(opcode, data[:10], fin=False) + frame(CONT, data[10:])


def in_many(opcode: int, data: bytes) -> bytes:
    """In fragments of 4000 bytes; the last one is empty."""
    pieces = [data[i : i + 4000] for i in range(0, len(data), 4000)]
    return frame(opcode, b"", fin=False) + b"".join(frame(CONT, piece, fin=False) for piece in pieces) + frame(CONT)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("send", [whole, in_two, in_many])
def test_the_payload_counts(bounded: tuple[kit.Engine, int], opcode: int, send: Send) -> None:
    """max-message bytes are delivered, after a short head and the longest. One more byte closes with 1009."""
    engine, most = bounded
    room = "x" * 128
    with BarePeer(engine.port) as a, BarePeer(engine.port, room) as b:
        assert a.hello["max_message"] == most
        for head, verb in (
            (f"TO {b.address}", "FROM"),
            (f"TO {b.address} ref={REF} re={REF} ttl=86400000", "FROM"),
            (f"PUB {room} ref={REF} ttl=86400000", "MSG"),
        ):
            a.wire.send(send(opcode, head.encode() + b"\n" + b"y" * most))
            got = b.read()
            assert (got.verb, got.payload) == (verb, b"y" * most)
            if "ref=" in head:
                assert a.answer_to(REF) == "ok"
        a.wire.send(send(opcode, f"PUB {room}\n".encode() + b"y" * (most + 1)))
        assert a.wire.read_closed() == 1009
        assert b.settle() == []


@pytest.mark.parametrize("send", [whole, in_two, in_many])
def test_the_payload_of_a_malformed_message_counts(bounded: tuple[kit.Engine, int], send: Send) -> None:
    """It gets an ERR if the payload is within the bound; else the connection is closed."""
    engine, most = bounded
    with BarePeer(engine.port) as peer:
        for data in (b"NONSENSE\n" + b"y" * most, b"y" * most):
            peer.wire.send(send(TEXT, data))
            peer.refused("bad-request")
        peer.wire.send(send(TEXT, b"NONSENSE\n" + b"y" * (most + 1)))
        assert peer.wire.read_closed() == 1009
    with BarePeer(engine.port) as peer:
        peer.wire.send(send(TEXT, b"y" * (max(most, 512) + 1)))  # it can't be a head alone
        assert peer.wire.read_closed() == 1009


def test_a_frame_that_is_too_long_is_refused_at_its_head(bounded: tuple[kit.Engine, int]) -> None:
    """Before its payload comes. It may have the longest head, and max-message bytes."""
    engine, most = bounded
    for opcode in (TEXT, BINARY):
        with BarePeer(engine.port) as peer:
            peer.wire.send(frame(opcode, b"", length=most + 512 + 2))
            assert peer.wire.read_closed() == 1009
    with BarePeer(engine.port) as peer:
        peer.wire.send(frame(TEXT, b"PUB x\n", fin=False))
        peer.wire.send(frame(CONT, b"", length=most + 512 + 2 - 6))
        assert peer.wire.read_closed() == 1009


@pytest.mark.parametrize("most", [1000, 65536, 1 << 20, (1 << 20) + 1])
def test_the_longest_message_crosses_nodes(most: int) -> None:
    """NATS counts headers, too."""
    with kit.nats(f"max_payload: {most + 1000}") as server:
        settings = {"nats": server.url, "max_message": most, "loops": 1, "backlog_bytes": 1 << 23, "control": "off"}
        with kit.engine(**settings) as one, kit.engine(**settings) as other:
            room = fresh("room")
            with BarePeer(one.port) as a, BarePeer(other.port, room) as b:
                for head in (f"TO {b.address} ref={REF} ttl=60000", f"PUB {room} ref={REF} ttl=60000"):
                    a.say(head, b"y" * most)
                    assert b.read().payload == b"y" * most
                    assert a.answer_to(REF) == "ok"


def test_the_embedded_server_takes_the_longest_message() -> None:
    """With NATS's default max_payload of 1 MiB, which counts headers, it would be too large."""
    most = 1 << 20
    with (
        kit.engine(nats="embedded", max_message=most, loops=1, backlog_bytes=1 << 23) as engine,
        BarePeer(engine.port) as a,
    ):
        assert a.ask(f"PUB {fresh('room')}", b"y" * most) == "ok"
