"""Who owes a pong for too long and is not gone: who still takes what was sent before the ping, and who was not read."""

import contextlib
import ctypes
import os
import signal
import socket
import struct
import time

import pytest

import kit
from peers import BarePeer
from wire import PING, PONG, TEXT, Wire, frame, opened, until

SO_ATTACH_FILTER = 26  # asm-generic/socket.h
BPF_RETURN = 0x06  # linux/bpf_common.h
MESSAGES = 20  # of SIZE: the kernel takes all of them for a receiver that reads none
SIZE = 16000


def test_who_came_together_is_not_pinged_together() -> None:
    """First pings come anywhere in the second half of the interval."""
    with kit.engine(loops=2, ping_interval=10) as engine, contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(opened(engine.port)[0])
        until(lambda: engine.stats()["total"]["pings_sent"] > 2, "some are pinged", limit=9)
        assert engine.stats()["total"]["pings_sent"] < 200
        until(lambda: engine.stats()["total"]["pings_sent"] == 300, "all are pinged", limit=20)


def test_the_next_ping_comes_a_whole_interval_later() -> None:
    """After the last byte, whatever was said before the first one."""
    with kit.engine(loops=1, ping_interval=2) as engine, contextlib.ExitStack() as stack:
        wires = [stack.enter_context(opened(engine.port)[0]) for _ in range(8)]
        for wire in wires:
            wire.send(frame(TEXT, b"PING"))
            assert wire.read_frame().payload == b"PONG"
        for wire in wires:
            assert wire.read_frame().opcode == PING
        answered = time.monotonic()
        for wire in wires:
            wire.send(frame(PONG))
        for wire in wires:
            assert wire.read_frame().opcode == PING
            assert time.monotonic() - answered > 1.8


def sent_much(engine: kit.Engine) -> BarePeer:
    """A client with a small socket that has read nothing so far of what waits for it in the kernel, whose buffers
    `send_buffer=0` leaves as large as they get."""
    slow = BarePeer(engine.port, receive_buffer=4096)
    with BarePeer(engine.port) as sender:
        for i in range(MESSAGES):
            sender.say(f"TO {slow.address}", b"%02d" % i + bytes(SIZE))
        assert sender.settle() == []
    assert engine.stats()["total"]["blocked"] == 0
    return slow


def lost(engine: kit.Engine) -> int:
    return int(engine.stats()["total"]["peers_lost"])


def test_who_reads_slowly_answers_late_and_stays() -> None:
    """Its ping waits behind what takes it several times the patience to read."""
    with kit.engine(loops=1, ping_interval=0.5, pong_timeout=1, send_buffer=0) as engine:
        slow = sent_much(engine)
        with slow:
            begun = time.monotonic()
            for i in range(MESSAGES):
                until(lambda i=i: time.monotonic() > begun + i / 4, "the next is to be read")  # type: ignore[misc]
                assert (slow.hear().payload or b"")[:2] == b"%02d" % i
            assert slow.wire.read_frame().opcode == PING
            assert time.monotonic() - begun > 3
            slow.wire.send(frame(PONG))
            assert slow.settle() == []
            assert lost(engine) == 0


def test_who_reads_nothing_is_gone() -> None:
    """Though its kernel goes on to say that it lives."""
    with kit.engine(loops=1, ping_interval=0.5, pong_timeout=0.5, send_buffer=0) as engine:
        slow = sent_much(engine)
        until(lambda: lost(engine) == 1, "it is given up", limit=5)
        slow.vanish()


def cut_off(client: socket.socket) -> None:
    """Drops all that comes to it from now on, as a network does that is gone."""
    code = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
    client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(code)))


def test_whose_network_is_gone_has_one_patience() -> None:
    """Not a second one for what waits for it, of which nothing was acknowledged since the ping."""
    with kit.engine(loops=1, ping_interval=1.5, pong_timeout=2, send_buffer=0) as engine:
        slow = sent_much(engine)
        begun = time.monotonic()
        cut_off(slow.wire.socket)
        until(lambda: lost(engine) == 1, "it is given up", limit=1.5 + 2 + 1.2)
        assert time.monotonic() - begun > 2
        slow.vanish()


@pytest.mark.timeout(90)
def test_who_was_not_read_is_not_gone() -> None:
    """The process stands still for longer than the patience, and has more answers to read than one iteration takes."""
    with kit.engine(loops=1, ping_interval=1, pong_timeout=4) as engine, contextlib.ExitStack() as stack:
        wires: list[Wire] = [stack.enter_context(opened(engine.port)[0]) for _ in range(700)]
        for wire in wires:
            assert wire.read_frame().opcode == PING
        kit.freeze(engine)
        asked = time.monotonic()
        for wire in reversed(wires):  # those that are looked at first are the last to be read
            wire.send(frame(PONG))
        until(lambda: time.monotonic() > asked + 4.5, "their time is over")
        os.kill(engine.pid, signal.SIGCONT)
        total = engine.stats()["total"]
        assert (total["connections"], total["peers_lost"]) == (len(wires), 0)
