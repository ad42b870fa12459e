"""Frames in any pieces get the same answers: byte by byte, cut in two, all in one write."""

import os

from hypothesis import given, settings
from hypothesis import strategies as st

import kit
from framing import GOOD
from wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Wire,
    closing,
    frame,
    opened,
    request,
)


def session(address: str) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Frames of every kind, and the answers of the engine."""
    to = f"TO {address}\n".encode()
    fr = f"FROM {address}\n".encode()
    long = bytes(range(256)) * 2
    sent = (
        frame(TEXT, b"PING 1")
        + frame(TEXT, to + GOOD)
        + frame(PING, b"ping")
        + frame(BINARY, to[:3], fin=False)
        + frame(PING, b"amid")
        + frame(CONT, to[3:] + long)
        + frame(TEXT, b"SUB split ref=a")
        + frame(TEXT, b"NONSENSE")
        + closing(1000, b"done")
    )
    received = [
        (TEXT, b"PONG 1"),
        (TEXT, fr + GOOD),
        (PONG, b"ping"),
        (PONG, b"amid"),
        (BINARY, fr + long),
        (TEXT, b"OK a"),
        (TEXT, b"ERR bad-request"),
        (CLOSE, b"\x03\xe8"),
    ]
    return sent, received


def holds(wire: Wire, received: list[tuple[int, bytes]]) -> None:
    """Asserts that the engine sends exactly this. Pongs may overtake; a Close may have a reason, an ERR a text."""
    got: list[tuple[int, bytes]] = []
    while not got or got[-1][0] != CLOSE:
        one = wire.read_frame()
        payload = one.payload[:2] if one.opcode == CLOSE else one.payload
        got.append((one.opcode, payload.split(b"\n")[0] if payload.startswith(b"ERR") else payload))
    for kind in ({PONG}, {TEXT, BINARY, CLOSE}):
        assert [one for one in got if one[0] in kind] == [one for one in received if one[0] in kind]
    assert wire.read_end() == b""


def test_byte_by_byte(node: kit.Engine) -> None:
    wire, address = opened(node.port)
    sent, received = session(address)
    with wire:
        wire.send_cut(sent, list(range(len(sent))))
        holds(wire, received)


def test_cut_in_two_at_every_byte(node: kit.Engine) -> None:
    """Each cut on another connection. The second part is sent when the first was read."""
    for cut in range(1, 260):
        wire, address = opened(node.port)
        sent, received = session(address)
        with wire:
            wire.send_cut(sent, [cut])
            holds(wire, received)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1100), max_size=12))
def test_any_split_gives_the_same_answers(node: kit.Engine, cuts: list[int]) -> None:
    wire, address = opened(node.port)
    sent, received = session(address)
    with wire:
        wire.send_cut(sent, [min(cut, len(sent)) for cut in cuts])
        holds(wire, received)


def test_all_in_one_write(node: kit.Engine) -> None:
    """More than the engine reads at once."""
    wire, address = opened(node.port)
    payload = os.urandom(1000)
    with wire:
        wire.send(b"".join(frame(BINARY, f"TO {address}\n".encode() + b"%03d" % i + payload) for i in range(400)))
        for i in range(400):
            assert wire.read_message() == (BINARY, f"FROM {address}\n".encode() + b"%03d" % i + payload)


def test_frames_right_after_the_handshake(node: kit.Engine) -> None:
    """A client that doesn't wait for the answer: in one piece, and cut within and right after the head."""
    data = request() + frame(TEXT, b"PING early") + frame(PING, b"too")
    n = len(request())
    for cuts in ([], [n - 1], [n], [n + 1], [10, n + 8]):
        with Wire(node.port) as wire:
            wire.send_cut(data, cuts)
            assert wire.read_answer().status == 101
            assert wire.read_message()[1].startswith(b"HELLO ")
            got = {(one.opcode, one.payload) for one in (wire.read_frame(), wire.read_frame())}
            assert got == {(TEXT, b"PONG early"), (PONG, b"too")}
