"""Out of descriptors: the engine turns new clients away, keeps the old ones, and takes new ones again."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator

import pytest

import kit
from peers import BarePeer, ledgers_hold
from wire import PING, PONG, Answer, Wire, frame, opened, request, until

FEW = 48  # descriptors
CALM = 1500  # iterations that no test here needs; a loop that spins makes more in a fraction of a second


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
    """One more client, which is turned away in good order: 503, then the end and no reset."""
    wire, answer = ask(port)
    with wire:
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert wire.buffer + wire.socket.recv(1) == b""


def taken(port: int) -> bool:
    """Whether one more client gets a WebSocket; it leaves at once."""
    wire, answer = ask(port)
    wire.socket.close()
    return answer.status == 101


def talk(peers: list[BarePeer]) -> None:
    """Each sends its neighbour a message, which arrives and is told to have."""
    for sender, receiver in zip(peers, peers[1:] + peers[:1], strict=True):
        assert sender.ask(f"TO {receiver.address}", "still here", ref="r") == "ok"
        assert receiver.expect("FROM", sender.address, ref="r").payload == b"still here"


@pytest.mark.parametrize("loops", [1, 2])
def test_out_of_descriptors(loops: int) -> None:
    """Old clients talk, new ones hear 503 until an old one leaves, and nothing spins."""
    with kit.engine(loops=loops) as engine, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(BarePeer(engine.port)) for _ in range(3)]
        before = engine.stats()["total"]
        crowd: list[Wire] = []
        with limited(engine, FEW):
            turned_away = 0
            while turned_away < 20:
                wire, answer = ask(engine.port)
                stack.enter_context(wire)
                if answer.status == 101:
                    crowd.append(wire)
                else:
                    assert answer.status == 503
                    turned_away += 1
                assert len(crowd) < loops * FEW
            talk(peers)
            for wire in crowd:
                wire.socket.close()
            until(lambda: taken(engine.port), "a place that is free is given again")
            talk(peers)
        after = engine.stats()["total"]
        assert after["shed"] - before["shed"] >= 20
        assert after["opened"] - before["opened"] > FEW / 4
        assert after["wakes"] - before["wakes"] < CALM
        ledgers_hold(after)


def test_turned_away_in_good_order() -> None:
    """The whole 503, and no reset though the client had spoken."""
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


def test_turned_away_while_new_connections_are_paced() -> None:
    """Who waits for accept-rate hears 503 in turn, too."""
    with kit.engine(loops=1, accept_rate=50) as engine, contextlib.ExitStack() as stack:
        with limited(engine, FEW):
            waiting = [stack.enter_context(Wire(engine.port)) for _ in range(FEW + 8)]
            for wire in waiting:
                wire.send(request())
            answers = [wire.read_answer().status for wire in waiting]
        assert set(answers) == {101, 503}
        until(lambda: taken(engine.port), "it takes clients again")


def pings(wire: Wire, n: int) -> None:
    """Returns after so many keepalives."""
    for _ in range(n):
        got = wire.read_frame()
        assert got.opcode == PING, got
        wire.send(frame(PONG, got.payload))


def test_not_even_a_descriptor_to_turn_away_with() -> None:
    """Who comes then waits, the old ones go on, nothing spins, and all are served when there are descriptors."""
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
        until(lambda: taken(engine.port), "it takes clients again")


def test_a_stop_without_descriptors() -> None:
    """Ends all the same; who waits can't be told."""
    with kit.engine(loops=2) as engine, Wire(engine.port), limited(engine, 3):
        os.kill(engine.pid, signal.SIGTERM)
        assert engine.wait() == 0
