"""keepalive: when clients are pinged, which are given up, and which only seem to be gone."""

import contextlib
import ctypes
import os
import signal
import socket
import struct
import time

import pytest

import kit
from framing import alive
from peers import BarePeer
from wire import PING, PONG, TEXT, Wire, frame, opened, until

SO_ATTACH_FILTER = 26  # asm-generic/socket.h
BPF_RETURN = 0x06  # linux/bpf_common.h
MESSAGES = 20  # of SIZE: the kernel takes all of them for a receiver that reads none
SIZE = 16000


def test_an_idle_client_is_pinged_and_stays_while_it_answers() -> None:
    with kit.engine(nats="off", loops=2, ping_interval=0.3, pong_timeout=0.4) as engine:
        wire, _ = opened(engine.port)
        with wire:
            for _ in range(4):
                got = wire.read_frame()
                assert (got.fin, got.opcode) == (True, PING)
                wire.send(frame(PONG, got.payload))
            alive(wire)


def test_any_byte_answers_a_ping() -> None:
    """For example, a message."""
    with kit.engine(nats="off", loops=1, ping_interval=0.3, pong_timeout=0.4) as engine:
        wire, _ = opened(engine.port)
        with wire:
            for i in range(3):
                assert wire.read_frame().opcode == PING
                wire.send(frame(TEXT, b"PING %d" % i))
                assert wire.read_frame().payload == b"PONG %d" % i


def test_a_client_that_does_not_answer_is_given_up() -> None:
    with kit.engine(nats="off", loops=2, ping_interval=0.4, pong_timeout=0.4) as engine:
        wire, address = opened(engine.port)
        with wire:
            assert wire.read_frame().opcode == PING
            asked = time.monotonic()
            wire.read_end()
            assert 0.3 < time.monotonic() - asked < 3
            until(lambda: engine.total("connections") == 0)
        other, _ = opened(engine.port)
        with other:
            other.send(frame(TEXT, f"TO {address} ref=1\nhello".encode()))
            assert other.read_message()[1].startswith(b"ERR no-such-peer ref=1\n")


def test_clients_that_came_together_are_not_pinged_together() -> None:
    """The first ping comes at a random time in the second half of the interval."""
    with kit.engine(loops=2, ping_interval=10) as engine, contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(opened(engine.port)[0])
        until(lambda: engine.total("pings_sent") > 2, "some are pinged", limit=9)
        assert engine.total("pings_sent") < 200
        until(lambda: engine.total("pings_sent") == 300, "all are pinged", limit=20)


def test_the_next_ping_comes_a_whole_interval_later() -> None:
    """After the last byte from the client."""
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
    """A client with a small receive buffer that has read nothing of MESSAGES messages. They wait in the kernel, whose
    send buffer `send_buffer=0` leaves to grow."""
    slow = BarePeer(engine.port, receive_buffer=4096)
    with BarePeer(engine.port) as sender:
        for i in range(MESSAGES):
            sender.say(f"TO {slow.address}", b"%02d" % i + bytes(SIZE))
        assert sender.settle() == []
    assert engine.total("blocked") == 0
    return slow


def lost(engine: kit.Engine) -> int:
    return int(engine.total("peers_lost"))


def test_a_slow_reader_answers_late_and_stays() -> None:
    """Reading the messages before its ping takes it several times pong-timeout."""
    with kit.engine(loops=1, ping_interval=0.5, pong_timeout=1, send_buffer=0) as engine:
        slow = sent_much(engine)
        with slow:
            begun = time.monotonic()
            for i in range(MESSAGES):
                until(lambda i=i: time.monotonic() > begun + i / 4, "it is time for the next message")  # type: ignore[misc]
                assert (slow.read().payload or b"")[:2] == b"%02d" % i
            assert slow.wire.read_frame().opcode == PING
            assert time.monotonic() - begun > 3
            slow.wire.send(frame(PONG))
            assert slow.settle() == []
            assert lost(engine) == 0


def test_a_client_that_reads_nothing_is_given_up() -> None:
    """Though its kernel still acknowledges."""
    with kit.engine(loops=1, ping_interval=0.5, pong_timeout=0.5, send_buffer=0) as engine:
        slow = sent_much(engine)
        until(lambda: lost(engine) == 1, "it is given up", limit=5)
        slow.vanish()


def cut_off(client: socket.socket) -> None:
    """Drops all that comes to the socket from now on, as if its network were gone."""
    code = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
    client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(code)))


def test_a_client_whose_network_is_gone_has_one_pong_timeout() -> None:
    """Messages that wait for it extend nothing: none was acknowledged since the ping."""
    with kit.engine(loops=1, ping_interval=1.5, pong_timeout=2, send_buffer=0) as engine:
        slow = sent_much(engine)
        begun = time.monotonic()
        cut_off(slow.wire.socket)
        until(lambda: lost(engine) == 1, "it is given up", limit=1.5 + 2 + 1.2)
        assert time.monotonic() - begun > 2
        slow.vanish()


@pytest.mark.timeout(90)
def test_clients_whose_pongs_were_not_read_stay() -> None:
    """The process is stopped for longer than pong-timeout, and then has more pongs to read than one iteration takes."""
    with kit.engine(loops=1, ping_interval=1, pong_timeout=4) as engine, contextlib.ExitStack() as stack:
        wires: list[Wire] = [stack.enter_context(opened(engine.port)[0]) for _ in range(700)]
        for wire in wires:
            assert wire.read_frame().opcode == PING
        kit.freeze(engine)
        asked = time.monotonic()
        for wire in reversed(wires):  # so that the timers that fire first belong to the pongs that are read last
            wire.send(frame(PONG))
        until(lambda: time.monotonic() > asked + 4.5, "pong-timeout is over")
        os.kill(engine.pid, signal.SIGCONT)
        total = engine.stats()["total"]
        assert (total["connections"], total["peers_lost"]) == (len(wires), 0)
