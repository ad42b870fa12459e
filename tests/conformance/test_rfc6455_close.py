"""RFC 6455, closing. Sections in brackets."""

import os
import signal

import pytest

import kit
from framing import BAD_UTF8, fails_with
from wire import (
    CLOSE,
    PING,
    TEXT,
    closing,
    frame,
    opened,
    until,
)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_close_is_echoed(node: kit.Engine, code: int) -> None:
    """With its code. What follows a Close is not read [5.5.1]."""
    fails_with(node, closing(code, "adiós".encode()) + frame(TEXT, b"PING late"), code)


def test_close_without_code(node: kit.Engine) -> None:
    fails_with(node, closing(None), None, 1000)


def test_close_with_the_longest_reason(node: kit.Engine) -> None:
    fails_with(node, closing(1000, b"r" * 123), 1000)


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_with_a_code_that_must_not_be_sent(node: kit.Engine, code: int) -> None:
    """[7.4]"""
    fails_with(node, closing(code), 1002)


def test_close_of_one_byte(node: kit.Engine) -> None:
    fails_with(node, frame(CLOSE, b"\x03"), 1002)


@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
def test_close_with_a_bad_reason(node: kit.Engine, bad: bytes) -> None:
    fails_with(node, closing(1000, bad), 1007)


def test_close_within_a_message(node: kit.Engine) -> None:
    fails_with(node, frame(TEXT, b"PIN", fin=False) + closing(1000), 1000)


def test_answers_come_before_the_close(node: kit.Engine) -> None:
    wire, _ = opened(node.port)
    with wire:
        wire.send(frame(TEXT, b"PING a") + frame(TEXT, b"SUB room ref=1") + closing(1000))
        assert wire.read_message() == (TEXT, b"PONG a")
        assert wire.read_message() == (TEXT, b"OK 1")
        assert wire.read_closed() == 1000


def test_the_end_of_the_stream_ends_the_connection(node: kit.Engine) -> None:
    """Without a Close frame, and within a frame."""

    def connections() -> int:
        return int(node.total("connections"))

    until(lambda: connections() == 0, "the connections of other tests are gone")
    for data in (b"", frame(TEXT, b"PING")[:3], frame(TEXT, b"PI", fin=False)):
        wire, _ = opened(node.port)
        until(lambda: connections() == 1)
        wire.send(data)
        wire.socket.close()
        until(lambda: connections() == 0, "the connection is gone")


@pytest.mark.parametrize("answers", [True, False])
def test_stopping_closes_with_1001(answers: bool) -> None:
    """The engine begins the closing handshake, and ends it also if the peer doesn't answer."""
    with kit.engine(nats="off", loops=2, close_timeout=0.5) as engine:
        wire, _ = opened(engine.port)
        with wire:
            os.kill(engine.pid, signal.SIGTERM)
            got = wire.read_frame()
            assert (got.opcode, got.code) == (CLOSE, 1001)
            if answers:
                wire.send(closing(1001))
            assert wire.read_end() == b""


@pytest.mark.parametrize(
    "bad",
    [
        frame(TEXT, b"PING", rsv=4),
        frame(TEXT, b"PING", mask=None),
        frame(PING, b"p" * 126),
        frame(TEXT, length=1 << 40),
    ],
    ids=["reserved bit", "no mask", "long ping", "too long"],
)
def test_our_close_is_the_last_frame(bad: bytes) -> None:
    """A client that breaks the protocol after it gets no second one: the engine ends its side at once [5.5.1]."""
    with kit.engine(nats="off", loops=1, close_timeout=10) as engine, opened(engine.port)[0] as wire:
        os.kill(engine.pid, signal.SIGTERM)
        got = wire.read_frame()
        assert (got.opcode, got.code) == (CLOSE, 1001)
        wire.send(bad)
        assert wire.read_end(limit=5) == b""
