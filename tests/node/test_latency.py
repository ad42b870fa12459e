"""Each measured time counts what it should."""

import os
import signal
import socket
import time
from contextlib import ExitStack
from typing import Any

import kit
from wire import PING, PONG, TEXT, Wire, frame, opened, until

HOLD = 0.3  # seconds by which something is made slow
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: signal.v1\r\n\r\n"
)


def latency(engine: kit.Engine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.stats()["latency"][name]
    return found


def hold() -> None:
    end = time.monotonic() + HOLD
    until(lambda: time.monotonic() >= end, "the time is over")


def test_deliveries_and_iterations_are_counted() -> None:
    """About as many as there are, since a measured one counts for all of its kind."""
    with kit.engine(loops=1) as engine:
        sender, _ = opened(engine.port)
        receiver, address = opened(engine.port)
        with sender, receiver:
            for _ in range(1000):
                sender.send(frame(TEXT, f"TO {address}\nhello".encode()))
                assert receiver.read_message()[1].endswith(b"\nhello")
            stats = engine.stats()
            relay = stats["latency"]["relay"]
            assert 800 < relay["count"] < 1200
            assert 0.8 < stats["latency"]["loop_lag"]["count"] / stats["total"]["wakes"] < 1.2
            assert 0 < relay["p50"] <= relay["p90"] <= relay["p99"] <= relay["max"]
            assert sum(count for _, count in relay["buckets"]) == relay["count"]
            assert relay["sum"] > 0
            assert stats["loop_lag"] == [stats["latency"]["loop_lag"]]
            assert stats["cpu"][0] > 0
            assert stats["memory"] > 1 << 20


def test_messages_between_loops_are_relayed_as_well() -> None:
    with kit.engine(loops=2) as engine, ExitStack() as stack:
        wires = [opened(engine.port) for _ in range(8)]
        for wire, _ in wires:
            stack.enter_context(wire)
        sender = wires[0][0]
        for _ in range(200):
            for wire, address in wires[1:]:
                sender.send(frame(TEXT, f"TO {address}\nhello".encode()))
                wire.read_message()
        assert engine.total("taken") >= 200  # the kernel spreads 8 connections over both loops
        assert latency(engine, "relay")["count"] > 200
        assert latency(engine, "relay")["max"] < 10


def test_a_receipt_counts_from_when_its_message_was_read() -> None:
    """NATS is stopped for a while. A receipt within the node is no round trip over NATS."""
    with kit.nats() as nats, kit.engine(nats=nats.url) as one, kit.engine(nats=nats.url) as other:
        sender, own = opened(one.port)
        receiver, address = opened(other.port)
        with sender, receiver:
            sender.send(frame(TEXT, f"TO {own} ref=1\nhello".encode()))
            assert {sender.read_message()[1].split()[0] for _ in range(2)} == {b"FROM", b"OK"}
            assert latency(one, "nats_round_trip")["count"] == 0
            kit.freeze(nats)
            sender.send(frame(TEXT, f"TO {address} ref=2\nhello".encode()) + frame(TEXT, b"PING read"))
            assert sender.read_message()[1] == b"PONG read"
            hold()
            os.kill(nats.pid, signal.SIGCONT)
            assert sender.read_message()[1] == b"OK 2"
            found = latency(one, "nats_round_trip")
            assert found["count"] == 1
            assert HOLD < found["sum"] < kit.PATIENCE and found["max"] > HOLD
            assert latency(other, "nats_round_trip")["count"] == 0


def test_a_message_that_nobody_gets_is_no_round_trip() -> None:
    with kit.nats() as nats, kit.engine(nats=nats.url) as one:
        until(lambda: one.stats()["nats_state"] == "up", "NATS is up")
        sender, address = opened(one.port)
        with sender:
            gone = "nonode00." + address.split(".")[1]
            sender.send(frame(TEXT, f"TO {gone} ref=1\nhello".encode()))
            assert sender.read_message()[1].startswith(b"ERR no-such-peer ref=1")
            assert latency(one, "nats_round_trip")["count"] == 0


def request(engine: kit.Engine, first: bytes, rest: bytes) -> bytes:
    """Sends a request in two parts, and returns the first line of the answer."""
    before = engine.total("accepted_sockets")
    with socket.create_connection(("127.0.0.1", engine.port), timeout=kit.PATIENCE) as client:
        client.sendall(first)
        until(lambda: engine.total("accepted_sockets") > before, "the client is accepted")
        hold()
        client.sendall(rest)
        return client.recv(100).partition(b"\r\n")[0]


def test_a_handshake_counts_until_its_answer() -> None:
    with kit.engine(loops=1) as engine:
        assert request(engine, REQUEST[:40], REQUEST[40:]).startswith(b"HTTP/1.1 101")
        found = latency(engine, "handshake")
        assert found["count"] == 1
        assert HOLD < found["sum"] < kit.PATIENCE
        assert request(engine, b"GET / HTTP/1.0\r\n", b"\r\n").startswith(b"HTTP/1.1 4")
        assert latency(engine, "handshake")["count"] == 2
        assert latency(engine, "handshake")["sum"] > 2 * HOLD


def test_a_health_check_and_a_late_handshake_are_no_handshakes() -> None:
    with kit.engine(loops=1, handshake_timeout=0.2) as engine:
        with socket.create_connection(("127.0.0.1", engine.port), timeout=kit.PATIENCE) as client:
            client.sendall(REQUEST[:40])
            assert client.recv(100).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", engine.port), timeout=kit.PATIENCE) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert latency(engine, "handshake")["count"] == 0


def sampled_ping(wire: Wire) -> bytes:
    """Answers pings until one is a sample, and returns its payload."""
    while True:
        got = wire.read_frame()
        assert got.opcode == PING
        if got.payload:
            return got.payload
        wire.send(frame(PONG, b""))


def test_a_ping_counts_until_its_pong() -> None:
    with kit.engine(loops=1, ping_interval=0.3, pong_timeout=5) as engine:
        wire, _ = opened(engine.port)
        with wire:
            payload = sampled_ping(wire)
            assert len(payload) == 4
            hold()
            wire.send(frame(PONG, payload) * 2 + frame(TEXT, b"PING 1"))
            assert wire.read_frame().payload == b"PONG 1"
            found = latency(engine, "client_round_trip")
            assert found["count"] == 1  # one ping, one pong
            assert HOLD * 0.9 < found["sum"] < kit.PATIENCE


def test_a_forged_pong_does_not_count() -> None:
    """Nor one without a ping. The time within the tick is all that a client can change."""
    with kit.engine(loops=1, ping_interval=0.3, pong_timeout=5) as engine:
        wire, _ = opened(engine.port)
        with wire:
            wire.send(frame(PONG, bytes(4)))
            stamp = int.from_bytes(sampled_ping(wire), "little")
            for forged in (stamp ^ 1 << 17, stamp ^ 1 << 31, stamp | 0x1FFFF):
                wire.send(frame(PONG, forged.to_bytes(4, "little")))
            wire.send(frame(PONG, b"") + frame(PONG, b"12345") + frame(TEXT, b"PING 1"))
            assert wire.read_frame().payload == b"PONG 1"
            assert latency(engine, "client_round_trip")["count"] == 0


def test_one_ping_in_64_is_a_sample() -> None:
    with kit.engine(loops=1, ping_interval=0.2, pong_timeout=5) as engine, ExitStack() as stack:
        wires = [stack.enter_context(opened(engine.port)[0]) for _ in range(64)]
        sampled = total = 0
        while total < 64 * 20:
            for wire in wires:
                got = wire.read_frame()
                assert got.opcode == PING
                total += 1
                sampled += len(got.payload) == 4
                wire.send(frame(PONG, got.payload))
        assert total / 64 / 2 < sampled < total / 64 * 2
        until(lambda: latency(engine, "client_round_trip")["count"] > sampled // 2)


def test_a_fragmented_message_does_not_hide_a_pong() -> None:
    with kit.engine(loops=1, ping_interval=0.3, pong_timeout=5) as engine:
        wire, _ = opened(engine.port)
        with wire:
            payload = sampled_ping(wire)
            wire.send(frame(TEXT, b"PING ", fin=False) + frame(PONG, payload) + frame(0, b"1"))
            assert wire.read_frame().payload == b"PONG 1"
            assert latency(engine, "client_round_trip")["count"] == 1
