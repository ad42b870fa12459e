"""RFC 6455, frames: their lengths, what a client must not send, fragments, control frames. Sections in brackets."""

import os

import pytest
import wsproto
import wsproto.events

import kit
from framing import alive, echoed, fails_with
from wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Wire,
    frame,
    opened,
)

MAX = 64 * 1024  # max_message, the default
HEAD = 513  # bytes of the longest head of a message, with its line feed


# -- lengths [5.2] --


@pytest.mark.parametrize("size", [40, 125, 126, 127, 128, 65535, MAX])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_every_length_form(node: kit.Engine, size: int, opcode: int) -> None:
    """Incoming messages of exactly `size` bytes, on both sides of the bounds of each form."""
    wire, address = opened(node.port)
    with wire:
        payload = os.urandom(size).hex().encode()[: size - len(f"TO {address}\n")]
        echoed(wire, address, payload, opcode)
        echoed(wire, address, payload[:1], opcode)
        echoed(wire, address, b"", opcode)


@pytest.mark.parametrize("length", [MAX + HEAD + 1, 1 << 20, 1 << 32, (1 << 63) - 1])
def test_too_long_is_refused_before_the_payload_is_sent(node: kit.Engine, length: int) -> None:
    """1009 as soon as the length is known [7.4.1]."""
    fails_with(node, frame(BINARY, b"", length=length), 1009)


def test_too_long_in_fragments(node: kit.Engine) -> None:
    """The bound holds for the whole message."""
    part = b"x" * (MAX // 2)
    data = frame(TEXT, part, fin=False) + frame(CONT, part, fin=False) + frame(CONT, b"", length=HEAD + 1)
    fails_with(node, data, 1009)


def test_a_64_bit_length_has_its_top_bit_clear(node: kit.Engine) -> None:
    fails_with(node, frame(BINARY, b"", length=1 << 63), 1002, 1009)


def test_max_message_is_a_setting() -> None:
    with kit.engine(nats="off", loops=1, max_message=1000) as small:
        wire, address = opened(small.port)
        with wire:
            echoed(wire, address, b"x" * 1000)
            wire.send(frame(BINARY, b"", length=1000 + HEAD + 1))
            assert wire.read_closed() == 1009


# -- what a client must not send [5.1, 5.2, 5.4, 5.5] --


BROKEN = {
    "unmasked": frame(TEXT, b"PING", mask=None),
    "unmasked ping": frame(PING, b"", mask=None),
    **{f"reserved bits {rsv}": frame(TEXT, b"PING", rsv=rsv) for rsv in (1, 2, 3, 4, 5, 6, 7)},
    **{f"opcode {op}": frame(op, b"") for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"control {op} in fragments": frame(op, b"", fin=False) for op in (CLOSE, PING, PONG)},
    **{f"control {op} of 126 bytes": frame(op, b"x" * 126) for op in (CLOSE, PING, PONG)},
    "continuation of nothing": frame(CONT, b"PING"),
    "continuation after the end": frame(TEXT, b"PI", fin=False) + frame(CONT, b"NG") + frame(CONT, b"x"),
    "text within a message": frame(TEXT, b"PI", fin=False) + frame(TEXT, b"PING"),
    "binary within a message": frame(TEXT, b"PI", fin=False) + frame(BINARY, b"PING"),
    "reserved bit in a continuation": frame(TEXT, b"PI", fin=False) + frame(CONT, b"NG", rsv=4),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_protocol_errors_are_1002(node: kit.Engine, data: bytes) -> None:
    wire, _ = opened(node.port)
    with wire:
        wire.send(data + frame(TEXT, b"PING ignored"))
        got = wire.read_frame()
        if got.opcode in (TEXT, BINARY):  # the part before the error was good
            assert got.payload == b"PONG"
            got = wire.read_frame()
        assert (got.opcode, got.code) == (CLOSE, 1002)
        assert wire.read_end() == b""


# -- fragments and control frames between them [5.4, 5.5] --


def test_many_fragments_with_pings_between(node: kit.Engine) -> None:
    wire, address = opened(node.port)
    message = f"TO {address}\n".encode() + bytes(range(256))
    with wire:
        wire.send(frame(BINARY, b"", fin=False))
        for i, byte in enumerate(message):
            wire.send(frame(CONT, bytes([byte]), fin=False))
            if i % 16 == 0:
                wire.send(frame(PING, b"%d" % i))
                got = wire.read_frame()
                assert (got.opcode, got.payload) == (PONG, b"%d" % i)
        wire.send(frame(CONT, b""))
        assert wire.read_message() == (BINARY, f"FROM {address}\n".encode() + bytes(range(256)))


def test_ping_is_answered_with_its_payload(node: kit.Engine) -> None:
    wire, _ = opened(node.port)
    with wire:
        for size in (0, 1, 124, 125):
            payload = os.urandom(size)
            wire.send(frame(PING, payload))
            got = wire.read_frame()
            assert (got.fin, got.opcode, got.payload) == (True, PONG, payload)


def test_unsolicited_pong_is_ignored(node: kit.Engine) -> None:
    wire, _ = opened(node.port)
    with wire:
        wire.send(frame(PONG, b"unsolicited") + frame(PONG, b""))
        alive(wire)


# -- an independent codec --


class Codec:
    """A client that uses wsproto."""

    def __init__(self, port: int) -> None:
        self.wire = Wire(port)
        self.ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.events: list[wsproto.events.Event] = []
        self.send(wsproto.events.Request(host="localhost", target="/", subprotocols=["signal.v1"]))

    def send(self, event: wsproto.events.Event) -> None:
        self.wire.send(self.ws.send(event))

    def next(self) -> wsproto.events.Event:
        while not self.events:
            data = self.wire.socket.recv(4096)
            self.ws.receive_data(data or None)
            self.events += self.ws.events()
        return self.events.pop(0)


def test_wsproto_agrees(node: kit.Engine) -> None:
    codec = Codec(node.port)
    with codec.wire:
        accepted = codec.next()
        assert isinstance(accepted, wsproto.events.AcceptConnection)
        assert accepted.subprotocol == "signal.v1" and not accepted.extensions
        hello = codec.next()
        assert isinstance(hello, wsproto.events.TextMessage) and hello.data.startswith("HELLO ")
        codec.send(wsproto.events.Ping(payload=b"p"))
        pong = codec.next()
        assert isinstance(pong, wsproto.events.Pong) and bytes(pong.payload) == b"p"
        codec.send(wsproto.events.TextMessage(data="PI", message_finished=False))
        codec.send(wsproto.events.TextMessage(data="NG x"))
        answer = codec.next()
        assert isinstance(answer, wsproto.events.TextMessage) and answer.data == "PONG x"
        codec.send(wsproto.events.CloseConnection(code=4123, reason="bye"))
        closed = codec.next()
        assert isinstance(closed, wsproto.events.CloseConnection) and closed.code == 4123
