"""Helpers of the tests of RFC 6455."""

import kit
from wire import BINARY, TEXT, Wire, frame, opened

BAD_UTF8 = {
    "lone continuation": b"\x80",
    "overlong slash": b"\xc0\xaf",
    "overlong three": b"\xe0\x80\xaf",
    "overlong four": b"\xf0\x80\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "above 10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "FF": b"\xff",
    "cut short": b"\xe2\x82",
    "cut by ASCII": b"\xe2\x82a",
}
GOOD = "κόσμε \u0000 \u07ff \uffff \U0001f600 \U0010ffff".encode()


def echoed(wire: Wire, address: str, payload: bytes, opcode: int = BINARY) -> None:
    """Sends `payload` to the connection itself, and asserts that it comes back unchanged, of the same type."""
    wire.send(frame(opcode, f"TO {address}\n".encode() + payload))
    got_opcode, got = wire.read_message()
    assert got_opcode == opcode
    assert got == f"FROM {address}\n".encode() + payload


def alive(wire: Wire) -> None:
    """Asserts that the connection still works, and that nothing else came."""
    wire.send(frame(TEXT, b"PING still"))
    assert wire.read_message() == (TEXT, b"PONG still")


def fails_with(node: kit.Engine, data: bytes, *codes: int | None) -> None:
    """Asserts that the engine fails the connection (RFC 6455 §7.1.7): a Close with one of the codes, then the end."""
    wire, _ = opened(node.port)
    with wire:
        wire.send(data)
        assert wire.read_closed() in codes
