"""handshake-timeout: a client that does not finish its handshake in time."""

import time
from collections.abc import Iterator

import pytest

import kit
from wire import TEXT, Wire, frame, opened, request, until

GOOD = request()


@pytest.fixture(scope="module")
def hasty() -> Iterator[kit.Engine]:
    with kit.engine(nats="off", loops=1, handshake_timeout=0.5) as engine:
        yield engine


@pytest.mark.parametrize("data", [b"", b"GET", GOOD[:-1]], ids=["nothing", "a word", "all but a byte"])
def test_handshake_timeout(data: bytes, hasty: kit.Engine) -> None:
    """A client that has begun a request gets 408; one that has sent nothing gets nothing."""
    start, before = time.monotonic(), hasty.stats()["total"]
    with Wire(hasty.port) as wire:
        wire.send(data)
        if data:
            answer = wire.read_answer()
            assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert wire.read_end() == b""
        assert 0.3 < time.monotonic() - start < 3
    after = hasty.stats()["total"]
    assert after["handshakes_timed_out"] - before["handshakes_timed_out"] == 1
    until(lambda: hasty.total("input_bytes") == 0)


def test_handshake_timeout_is_for_the_whole_head(hasty: kit.Engine) -> None:
    """A byte now and then does not extend it."""
    start = time.monotonic()
    with Wire(hasty.port) as wire:
        sent = 0
        while time.monotonic() - start < 3 and not wire.buffer:
            try:
                wire.send(GOOD[sent : sent + 1])
                sent += 1
                wire.read(1, limit=0.05)
            except TimeoutError:
                continue
            except (EOFError, OSError):
                break
        assert 0.3 < time.monotonic() - start < 2
        assert sent < len(GOOD)


def test_handshake_timeout_spares_open_websockets(hasty: kit.Engine) -> None:
    wire, _ = opened(hasty.port)
    with wire, Wire(hasty.port) as later:
        later.read_end()
        wire.send(frame(TEXT, b"PING"))
        assert wire.read_message() == (TEXT, b"PONG")
