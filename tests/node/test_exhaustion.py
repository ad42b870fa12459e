"""Out of descriptors: the engine refuses new clients, keeps the old ones, and later accepts new ones again."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator

import pytest

import kit
from peers import BarePeer, exchange_messages, ledgers_hold
from wire import PING, PONG, Answer, Wire, frame, opened, request, until

FEW = 48  # descriptors
CALM = 1500  # iterations: more than any test here needs; a loop that spins makes more in a fraction of a second


@contextlib.contextmanager
def limited(engine: kit.Engine, descriptors: int) -> Iterator[None]:
    """The running engine may open no descriptor from this number on."""
    before = resource.prlimit(engine.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(engine.pid, resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        if engine.alive():
            resource.prlimit(engine.pid, resource.RLIMIT_NOFILE, before)


def ask(port: int) -> tuple[Wire, Answer]:
    wire = Wire(port)
    try:
        wire.send(request())
        return wire, wire.read_answer()
    except BaseException:
        wire.socket.close()
        raise


def shed(port: int) -> None:
    """Asserts that one more client gets 503, and then the end without a reset."""
    wire, answer = ask(port)
    with wire:
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert wire.buffer + wire.socket.recv(1) == b""


def taken(port: int) -> bool:
    """Whether one more client gets a WebSocket; it leaves at once."""
    wire, answer = ask(port)
    wire.socket.close()
    return answer.status == 101


@pytest.mark.parametrize("loops", [1, 2])
def test_out_of_descriptors(loops: int) -> None:
    """Old clients exchange messages, new ones get 503 until an old one leaves, and no loop spins."""
    with kit.engine(loops=loops) as engine, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(BarePeer(engine.port)) for _ in range(3)]
        before = engine.stats()["total"]
        crowd: list[Wire] = []
        with limited(engine, FEW):
            refused = 0
            while refused < 20:
                wire, answer = ask(engine.port)
                stack.enter_context(wire)
                if answer.status == 101:
                    crowd.append(wire)
                else:
                    assert answer.status == 503
                    refused += 1
                assert len(crowd) < loops * FEW
            exchange_messages(*peers)
            for wire in crowd:
                wire.socket.close()
            until(lambda: taken(engine.port), "a new client is accepted again")
            exchange_messages(*peers)
        after = engine.stats()["total"]
        assert after["shed"] - before["shed"] >= 20
        assert after["opened"] - before["opened"] > FEW / 4
        assert after["wakes"] - before["wakes"] < CALM
        ledgers_hold(after)


def test_refused_without_a_reset() -> None:
    """A complete 503, and no reset though the client had sent something."""
    with kit.engine(loops=1) as engine, contextlib.ExitStack() as stack:
        with limited(engine, FEW):
            for _ in range(FEW):
                wire, answer = ask(engine.port)
                stack.enter_context(wire)
                if answer.status == 503:
                    break
            for _ in range(50):
                shed(engine.port)
        assert taken(engine.port)


def test_refused_while_new_connections_are_paced() -> None:
    """Clients that wait for accept-rate get 503, too, when their turn comes."""
    with kit.engine(loops=1, accept_rate=50) as engine, contextlib.ExitStack() as stack:
        with limited(engine, FEW):
            waiting = [stack.enter_context(Wire(engine.port)) for _ in range(FEW + 8)]
            for wire in waiting:
                wire.send(request())
            answers = [wire.read_answer().status for wire in waiting]
        assert set(answers) == {101, 503}
        until(lambda: taken(engine.port), "it accepts clients again")


def pings(wire: Wire, n: int) -> None:
    """Answers n pings."""
    for _ in range(n):
        got = wire.read_frame()
        assert got.opcode == PING, got
        wire.send(frame(PONG, got.payload))


def test_no_descriptor_left_to_refuse_with() -> None:
    """New clients wait, old ones go on, no loop spins, and all are served when there are descriptors."""
    with kit.engine(loops=1, ping_interval=0.3, pong_timeout=0.3) as engine, contextlib.ExitStack() as stack:
        idle, _ = opened(engine.port)
        stack.enter_context(idle)
        before = engine.stats()["total"]
        with limited(engine, 3):
            waiting = [stack.enter_context(Wire(engine.port)) for _ in range(8)]
            for wire in waiting:
                wire.send(request())
            pings(idle, 5)
        for wire in waiting:
            assert wire.read_answer().status in (101, 503)
        after = engine.stats()["total"]
        assert after["listeners_paused"] - before["listeners_paused"] >= 5
        assert after["wakes"] - before["wakes"] < CALM
        until(lambda: taken(engine.port), "it accepts clients again")


def test_a_stop_without_descriptors() -> None:
    """It ends all the same; a client that waits gets no answer."""
    with kit.engine(loops=2) as engine, Wire(engine.port), limited(engine, 3):
        os.kill(engine.pid, signal.SIGTERM)
        assert engine.wait() == 0
