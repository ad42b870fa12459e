"""Partial messages: how long each may take, and the memory that it takes meanwhile."""

import itertools
import select
import time
from collections.abc import Callable, Iterator

import pytest

import kit
from flood import Flood, many_rooms
from halt import halted
from peers import BarePeer, loop_of
from wire import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame, Wire, frame, opened, request, until

pytestmark = pytest.mark.timeout(180)  # some waits may take a minute

LATE = b"a message did not arrive within message-timeout"
LIMIT = 1.0  # seconds: message_timeout in these tests


def trickled(wire: Wire, more: Callable[[], bytes], patience: float = 60.0) -> tuple[Frame, float]:
    """Sends a piece now and then until a Close frame comes; returns that, and the seconds that it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < patience:
        wire.send(more())
        if not wire.buffer and not select.select([wire.socket], [], [], 0.05)[0]:
            continue
        got = wire.read_frame()
        if got.opcode == CLOSE:
            return got, time.monotonic() - begun
        assert got.opcode == PING
    raise AssertionError(f"no Close frame within {patience} s")


@pytest.mark.parametrize("ping_interval", [0.2, 600])
def test_a_frame_that_trickles_in(ping_interval: float) -> None:
    """Its bytes count as pongs, so keepalive alone would never end it. Its memory is freed at once."""
    with kit.engine(loops=1, message_timeout=LIMIT, ping_interval=ping_interval, close_timeout=30) as engine:
        wire, _ = opened(engine.port)
        with wire:
            wire.send(frame(TEXT, b"PUB room\n", length=60000) + b"x" * 20000)
            until(lambda: engine.total("input_bytes") > 20000, "it is kept")
            got, took = trickled(wire, lambda: b"x")
            assert (got.code, got.payload[2:]) == (1008, LATE)
            assert took > LIMIT / 2
            counted = engine.stats()["total"]
            assert (counted["messages_late"], counted["input_bytes"]) == (1, 0)
            assert counted["accepted"] == counted["peers_lost"] == 0


@pytest.mark.parametrize("pause", [False, True], ids=["trickling", "silent"])
def test_fragments_that_trickle_in(pause: bool) -> None:
    """Frames of a message that does not end. Pings between them are answered; other frames change nothing."""
    with kit.engine(loops=1, message_timeout=LIMIT, ping_interval=0.2) as engine:
        wire, _ = opened(engine.port)
        with wire:
            wire.send(frame(BINARY, b"PUB room\n" + b"x" * 20000, fin=False))
            until(lambda: engine.total("input_bytes") > 20000, "it is kept")
            got, took = trickled(wire, lambda: frame(PONG) + (b"" if pause else frame(CONT, b"y", fin=False)))
            assert (got.code, got.payload[2:]) == (1008, LATE)
            assert took > LIMIT / 2
            counted = engine.stats()["total"]
            assert (counted["messages_late"], counted["input_bytes"], counted["peers_lost"]) == (1, 0, 0)


def test_each_message_has_its_own_message_timeout() -> None:
    """Also one whose beginning came with the end of another."""
    with kit.engine(loops=1, message_timeout=3 * LIMIT) as engine, BarePeer(engine.port) as receiver:
        wire, _ = opened(engine.port)
        with wire:
            whole = frame(TEXT, f"TO {receiver.address}\n".encode() + b"x" * 10000)
            begun = time.monotonic()
            wire.send(whole[:5000])
            while time.monotonic() - begun < 8 * LIMIT:
                wire.wait_read()
                wire.send(whole[5000:] + whole[:5000])
                assert receiver.read().payload == b"x" * 10000
            assert engine.total("messages_late") == 0


def test_without_message_timeout_it_waits() -> None:
    with kit.engine(loops=1, message_timeout=0, ping_interval=0.2) as engine, BarePeer(engine.port) as receiver:
        wire, _ = opened(engine.port)
        with wire:
            wire.send(frame(TEXT, f"TO {receiver.address}\nhel".encode(), fin=False))
            for _ in range(10):
                assert wire.read_frame().opcode == PING
                wire.send(frame(PONG))
            wire.send(frame(CONT, b"lo"))
            assert receiver.read().payload == b"hello"


def test_a_late_message_closes_with_1008() -> None:
    """Its connection is counted as closed."""
    with kit.engine(loops=1, message_timeout=LIMIT, ping_interval=600, log_level="debug") as engine:
        wire, _ = opened(engine.port)
        with wire:
            wire.send(frame(TEXT, b"x", fin=False))
            assert wire.read_closed() == 1008
        until(lambda: engine.total("closed") == 1, "it is closed")


def spread(port: int, count: int) -> dict[str, list[tuple[Wire, str]]]:
    """`count` connections, by their loop."""
    found: dict[str, list[tuple[Wire, str]]] = {}
    for _ in range(count):
        wire, address = opened(port)
        found.setdefault(loop_of(address), []).append((wire, address))
    assert len(found) == 2, "both loops have connections"
    return found


def many_joins(number: int, _: str) -> Iterator[bytes]:
    return many_rooms("SUB {} presence", "UNSUB {}", name=f"f{number}")


def stands_still(flood: Flood) -> Callable[[], bool]:
    """A condition: whether the flood has sent nothing since the last call."""
    sent = [-1]

    def is_still() -> bool:
        sent.append(flood.sent)
        return sent[-1] == sent[-2]

    return is_still


def test_a_connection_that_the_node_does_not_read_is_not_late() -> None:
    """Its last fragment waits for the link's loop, which is halted for longer than message-timeout."""
    with kit.engine(loops=2, message_timeout=LIMIT, ping_interval=600) as engine:
        loops = spread(engine.port, 24)
        (patient, _), (late, _) = loops[max(loops)][:2]
        flood = Flood(engine.port, 40, many_joins)
        with halted(engine.pid, "signal-0"), flood:  # halted while it sleeps, without a lock of the room table
            until(stands_still(flood), "joins are held by the halted loop", limit=60.0, every=1.0)
            patient.send(frame(TEXT, b"SUB room ref=", fin=False) + frame(CONT, b"r1"))
            late.send(frame(TEXT, b"SUB room", fin=False))
            assert late.read_closed() == 1008
            assert not select.select([patient.socket], [], [], 0)[0]
        assert patient.read_message()[1] == b"OK r1"
        assert engine.total("messages_late") == 1
        for wire, _ in itertools.chain(*loops.values()):
            wire.socket.close()


def test_messages_that_wait_for_their_turn_are_not_late() -> None:
    """Complete messages of very many clients. One of them has a turn each 2 ms while the other loop is halted."""
    with kit.engine(loops=2, message_timeout=0.1, ping_interval=600) as engine:
        loops = spread(engine.port, 500)
        loops[max(loops)][0][0].send(frame(TEXT, b"SUB room"))
        data = (frame(TEXT, b"PUB room\nx") + frame(TEXT, b"PING")) * 150 + frame(TEXT, b"PING end")
        until(lambda: engine.total("memberships") == 1, "it is a member")
        with halted(engine.pid, "signal-1"):
            for wire, _ in loops["00"]:
                wire.send(data)
            for wire, _ in loops["00"]:
                while wire.read_message()[1] != b"PONG end":
                    pass
        counted = engine.stats()["total"]
        assert counted["turns_delayed"] > len(loops["00"]) and counted["messages_late"] == 0
        for wire, _ in itertools.chain(*loops.values()):
            wire.socket.close()


def test_a_handshake_that_the_node_does_not_handle_gets_503() -> None:
    """It came in time: 408 would blame the client. One that comes late gets 408."""
    with kit.engine(loops=2, handshake_timeout=LIMIT, close_timeout=30) as engine:
        flood = Flood(engine.port, 40, many_joins)
        with halted(engine.pid, "signal-0"), flood:  # halted while it sleeps, without a lock of the room table
            until(stands_still(flood), "joins are held by the halted loop", limit=60.0, every=1.0)
            begun = [Wire(engine.port) for _ in range(48)]  # on either loop; the other one answers nothing
            for wire in begun[::2]:
                wire.send(request("/?room=a"))
            for wire in begun[1::2]:
                wire.send(b"GET / HTTP/1.1\r\n")
            answers = {}
            for number, wire in enumerate(begun):
                if select.select([wire.socket], [], [], 0 if answers.get(number % 2) else 3 * LIMIT)[0]:
                    answers[number % 2] = wire.read_answer()
            assert (answers[0].status, answers[1].status) == (503, 408)
            assert b"too busy" in answers[0].body and answers[0].headers["retry-after"] == "1"
        for wire in begun:
            wire.socket.close()
