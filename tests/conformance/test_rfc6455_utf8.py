"""RFC 6455 §8.1: text is UTF-8."""

import pytest

import kit
from framing import BAD_UTF8, GOOD, echoed
from wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    frame,
    opened,
)


@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
def test_bad_text_is_1007(node: kit.Engine, bad: bytes) -> None:
    wire, address = opened(node.port)
    head = f"TO {address}\n".encode()
    with wire:
        echoed(wire, address, bad, BINARY)
        wire.send(frame(TEXT, head + GOOD + bad))
        assert wire.read_closed() == 1007


@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
def test_bad_text_across_fragments_is_1007(node: kit.Engine, bad: bytes) -> None:
    """Cut within the bad sequence, with a ping between the pieces."""
    data = (
        frame(TEXT, b"PUB a\n" + GOOD + bad[:1], fin=False)
        + frame(PING, b"between")
        + frame(CONT, bad[1:], fin=False)
        + frame(CONT, b"")
    )
    wire, _ = opened(node.port)
    with wire:
        wire.send(data)
        got = wire.read_frame()
        if got.opcode == PONG:  # the first byte alone may have been bad already
            assert got.payload == b"between"
            got = wire.read_frame()
        assert (got.opcode, got.code) == (CLOSE, 1007)
        assert wire.read_end() == b""


def test_good_text_cut_at_every_byte(node: kit.Engine) -> None:
    wire, address = opened(node.port)
    text = f"TO {address}\n".encode() + GOOD
    with wire:
        for cut in range(len(text) + 1):
            wire.send(frame(TEXT, text[:cut], fin=False) + frame(CONT, text[cut:]))
            assert wire.read_message() == (TEXT, f"FROM {address}\n".encode() + GOOD)
