"""Settings bound what the kernel keeps for a client: what it does not read, and what is not read from it."""

import socket

import kit
from peers import BarePeer
from wire import TEXT, frame, until

SEND = 65536
RECEIVE = 131072
SLACK = 65536  # the kernel adds a message that it has begun completely


def queues(engine: kit.Engine, peer: BarePeer) -> tuple[int, int]:
    """Bytes in the engine's socket for a client: not acknowledged by it, and not read by the engine (proc(5))."""
    here, there = f":{engine.port:04X}", f":{peer.wire.socket.getsockname()[1]:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table:
            fields = line.split()
            if fields[1].endswith(here) and fields[2].endswith(there):
                sent, unread = fields[4].split(":")
                return int(sent, 16), int(unread, 16)
    return 0, 0


def test_send_buffer_bounds_a_client_that_does_not_read() -> None:
    """However much is sent to it."""
    with (
        kit.engine(loops=1, send_buffer=SEND, stall_timeout=600, ttl=600) as engine,
        BarePeer(engine.port) as sender,
        BarePeer(engine.port, receive_buffer=4096) as sleeper,
    ):
        held = 0
        for _ in range(100):
            for _ in range(4):
                sender.say(f"TO {sleeper.address}", b"x" * 16000)
            sender.settle()
            held = max(held, queues(engine, sleeper)[0])
        assert engine.total("dropped_slow_peer") > 0
        assert SEND // 4 < held < SEND + SLACK


def test_receive_buffer_bounds_a_client_that_is_not_read() -> None:
    """Also if it was read fast before, which would raise the kernel's bound."""
    with kit.engine(loops=1, receive_buffer=RECEIVE, stall_timeout=600) as engine, BarePeer(engine.port) as peer:
        ping = frame(TEXT, b"PING 1") * 1000
        for _ in range(100):
            peer.wire.send(ping)
            peer.wire.read(1000 * len(b"\x81\x06PONG 1"))
        peer.wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        peer.wire.socket.settimeout(1)
        try:
            while True:
                peer.wire.socket.sendall(ping)
        except TimeoutError:
            pass
        held = until(lambda: queues(engine, peer)[1], "something waits to be read")
        assert held <= RECEIVE


def test_zero_leaves_buffers_to_the_kernel() -> None:
    """Then a receiver that does not read fills more than the default setting."""
    with (
        kit.engine(loops=1, send_buffer=0, receive_buffer=0, stall_timeout=600, ttl=600) as engine,
        BarePeer(engine.port) as sender,
        BarePeer(engine.port, receive_buffer=4096) as sleeper,
    ):

        def more() -> bool:
            for _ in range(4):
                sender.say(f"TO {sleeper.address}", b"x" * 16000)
            sender.settle()
            return queues(engine, sleeper)[0] > 2 * SEND

        until(more, "the kernel's buffer grows", every=0)
