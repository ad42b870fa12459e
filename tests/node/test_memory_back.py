"""Memory that clients no longer use is returned to the system: within a minute of quiet, and not too often."""

import contextlib
from collections.abc import Iterator

import pytest

import kit
from flood import resident
from peers import BarePeer
from wire import CONT, TEXT, Wire, frame, opened, until

MINUTE = 60.0
ABOVE = 1.1  # times the memory before
FLOOD = 64 << 20  # bytes
APART = 30  # seconds between two trims of a loop
PIECE = 32 * 1024

pytestmark = [
    pytest.mark.skipif(kit.SANITIZED, reason="a sanitizer keeps freed memory"),
    pytest.mark.timeout(240),
]


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    with kit.many_descriptors():
        yield


def await_return(engine: kit.Engine, quiet: int) -> None:
    """Waits until the engine takes no more memory than before, and a tenth."""
    until(lambda: engine.total("connections") == 0, "all have left")
    until(lambda: resident(engine.pid) <= quiet * ABOVE, f"{quiet} bytes and a tenth", limit=MINUTE, every=0.1)


def fill(engine: kit.Engine, clients: int, size: int) -> None:
    """`clients` connections send a message of `size` bytes in fragments, without the last one, and leave."""
    with contextlib.ExitStack() as stack:
        wires: list[Wire] = [stack.enter_context(opened(engine.port)[0]) for _ in range(clients)]
        first, more = frame(TEXT, b"PUB r\n" + b"x" * PIECE, fin=False), frame(CONT, b"x" * PIECE, fin=False)
        for wire in wires:
            wire.send(first + more * (size // PIECE - 1))
        until(lambda: engine.total("input_bytes") >= clients * size, "all of it is kept")


@pytest.mark.parametrize("size", [1 << 16, 1 << 20, 1 << 22], ids=["small", "medium", "large"])
def test_memory_of_unfinished_fragments(size: int) -> None:
    """For buffers of any size: malloc keeps small ones, and later also large ones, as its threshold grows."""
    clients = max(20, FLOOD // size)
    with kit.engine(loops=2, max_message=32 << 20) as engine:
        fill(engine, 20, PIECE)
        until(lambda: engine.total("connections") == 0)
        quiet = resident(engine.pid)
        for _ in range(4):
            fill(engine, clients, size)
            until(lambda: engine.total("connections") == 0)
        await_return(engine, quiet)
        until(lambda: engine.total("memory_trims") >= 1, "memory was trimmed")


def test_memory_of_receivers_that_did_not_read() -> None:
    """Each has a queue node for every message; the messages are shared."""
    members = 1000
    settings = {"stall_timeout": 600, "ping_interval": 600, "ttl": 600, "backlog_total": 1 << 30}
    with kit.engine(loops=2, **settings) as engine, contextlib.ExitStack() as stack:
        with BarePeer(engine.port, "room") as one:
            assert one.ask("PUB room", b"x" * 100) == "ok"
        quiet = resident(engine.pid)
        crowd = [BarePeer(engine.port, "room", receive_buffer=4096) for _ in range(members)]
        for peer in crowd:
            stack.callback(peer.vanish)
        sender = stack.enter_context(BarePeer(engine.port))
        for _ in range(2000):
            sender.say("PUB room", b"x" * 200)
        sender.settle()
        until(lambda: resident(engine.pid) > quiet * 1.3, "their queues take memory")
        stack.close()
        await_return(engine, quiet)


def test_a_busy_engine_is_not_trimmed_again_and_again() -> None:
    """Clients come, fill their buffers and leave, while others exchange messages."""
    with kit.engine(loops=1, max_message=32 << 20) as engine, BarePeer(engine.port) as a, BarePeer(engine.port) as b:

        def given_back() -> bool:
            a.say(f"TO {b.address}", b"hello")
            return b.read().payload == b"hello" and engine.total("memory_trims") > 0

        fill(engine, 20, 1 << 20)
        until(given_back, "the first flood's memory", limit=MINUTE)
        for _ in range(10):
            fill(engine, 20, 1 << 20)
        assert engine.total("memory_trims") <= 1 + engine.stats()["uptime"] // APART


def test_it_can_be_turned_off() -> None:
    """During a pause in which memory would else be returned."""
    with kit.engine(loops=1, max_message=32 << 20, memory_trim="off") as engine:
        for _ in range(3):
            fill(engine, 20, 1 << 20)
        until(lambda: engine.stats()["uptime"] > 5, "longer than one that is quiet would wait")
        assert engine.total("memory_trims") == 0
