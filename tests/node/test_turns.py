"""A client that floods is delayed: what it causes is bounded in every queue that others wait in, too."""

import itertools
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median

import pytest

import kit
from halt import halted, threads
from peers import BarePeer, ledgers_hold, several
from wire import TEXT, Wire, frame, until

MEMBERS = 300
FLOOD = 20_000
WAITING = 2_000  # messages between loops: a few turns post so many; a mailbox holds far more


@contextmanager
def pouring(peer: BarePeer, data: bytes) -> Iterator[threading.Thread]:
    """Sends data on another thread, as fast as the engine reads."""
    thread = threading.Thread(target=peer.wire.send, args=(data,), daemon=True)
    peer.wire.socket.settimeout(60)
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.timeout(180)
def test_a_flood_into_a_room_waits_for_the_other_loop() -> None:
    """A publisher is not read while another loop has much of what it published: its mailbox stays short."""
    with (
        kit.engine(loops=2, stall_timeout=600, send_buffer=16384, backlog_bytes=4096) as engine,
        ExitStack() as stack,
    ):
        members = [stack.enter_context(BarePeer(engine.port, "room", receive_buffer=4096)) for _ in range(MEMBERS)]
        publisher, neighbour, friend = stack.enter_context(several(engine.port, 3))
        for _ in range(20):
            publisher.say("PUB room", b"x" * 8000)
        until(lambda: engine.total("blocked") >= MEMBERS, "all members are blocked", limit=60)
        longest = 0
        with pouring(publisher, frame(TEXT, b"PUB room\n1") * FLOOD) as flood:
            for number in itertools.count():
                total = engine.stats()["total"]
                longest = max(longest, total["posted"] - total["taken"])
                neighbour.say(f"TO {friend.address}", f"{number}")
                assert friend.read().payload == f"{number}".encode()
                if not flood.is_alive():
                    break
        publisher.settle()
        total = until(lambda: quiet(engine), "mailboxes are empty", limit=60)
        assert longest < WAITING
        assert total["turns_delayed"] > 0
        assert total["dropped_slow_peer"] >= FLOOD * MEMBERS // 2
        ledgers_hold(total)
        del members


def quiet(engine: kit.Engine) -> dict[str, int]:
    """The counters, if no packet is between loops; else {}."""
    total: dict[str, int] = engine.stats()["total"]
    return total if total["posted"] == total["taken"] else {}


@pytest.mark.parametrize("loops", [1, 2])
def test_a_delayed_client_loses_nothing(loops: int) -> None:
    """Members that read get all of a flood, in order, also if it waited for them."""
    with kit.engine(loops=loops, max_refs=4096) as engine, several(engine.port, 8, "room") as members:
        with BarePeer(engine.port) as publisher:
            with pouring(publisher, b"".join(frame(TEXT, f"PUB room\n{i}".encode()) for i in range(4000))):
                for peer in members:
                    assert [int(peer.read().payload or b"") for _ in range(4000)] == list(range(4000))
            publisher.settle()
        total = engine.stats()["total"]
        assert total["turns_delayed"] > 0
        ledgers_hold(total)


def test_joins_wait_for_their_watchers() -> None:
    """A client that joins and leaves without pause waits until the watchers have its joins and leaves."""
    with kit.engine(loops=1) as engine, several(engine.port, 20) as watchers, BarePeer(engine.port) as restless:
        for peer in watchers:
            peer.say("SUB room presence")
        turns = 2000
        with pouring(restless, (frame(TEXT, b"SUB room") + frame(TEXT, b"UNSUB room")) * turns):
            for peer in watchers:
                received: list[str] = []
                while len(received) < 2 * turns:
                    got = peer.read()
                    if got.verb in ("JOIN", "LEAVE") and got.words[1] == restless.address:
                        received.append(got.verb)
                assert received == ["JOIN", "LEAVE"] * turns
        assert engine.total("turns_delayed") > 0


def test_long_steps_are_cut() -> None:
    """A step that has much to do goes on in the next iteration."""
    with kit.engine(loops=1) as engine, several(engine.port, 32) as flood:
        data = frame(TEXT, b"PING 1") * 10_000
        for peer in flood:
            peer.wire.socket.settimeout(60)
        while not engine.total("steps_cut"):  # the test's timeout ends this if it never happens
            with ExitStack() as stack:
                for peer in flood:
                    stack.enter_context(pouring(peer, data))
                for peer in flood:
                    drain(peer.wire.socket, 10_000 * len(b"\x81\x06PONG 1"))


@contextmanager
def burning(processor: str) -> Iterator[None]:
    """A process that takes all that it can get of a processor."""
    with subprocess.Popen(["taskset", "-c", processor, *kit.python(), "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel counts no waits for processors")
def test_floods_are_delayed_while_processors_are_scarce() -> None:
    """A client that floods is delayed between turns while its loop has to wait for a processor. Nothing is lost."""
    processor = str(min(os.sched_getaffinity(0)))
    data = frame(TEXT, b"PING 1") * 10_000
    with kit.engine("taskset", "-c", processor, loops=1) as engine, BarePeer(engine.port) as flood, burning(processor):
        flood.wire.socket.settimeout(60)
        while not engine.total("turns_delayed"):  # the test's timeout ends this if it never happens
            with pouring(flood, data):
                drain(flood.wire.socket, 10_000 * len(b"\x81\x06PONG 1"))


def drain(one: socket.socket, n: int) -> None:
    """Reads n bytes."""
    while n:
        part = one.recv(min(n, 1 << 16))
        assert part, "the engine closed the connection"
        n -= len(part)


def test_a_delayed_connection_that_is_writable_again_is_not_read() -> None:
    """epoll does not watch connections that wait for a crowded loop, also when their sockets fill and drain meanwhile:
    otherwise it would report input to the loop again and again."""
    data = (frame(TEXT, b"PUB room\nx") + frame(TEXT, b"PING " + b"p" * 200) * 3) * 2000
    with (
        kit.engine(loops=2, send_buffer=4608, stall_timeout=600, ping_interval=600) as engine,
        several(engine.port, 12, "room"),
        ExitStack() as stack,
    ):
        wires = [stack.enter_context(Wire(engine.port, receive_buffer=4096)) for _ in range(64)]
        near = [wire for wire in wires if upgraded_on(wire) == "00"]
        assert len(near) > 8
        quiet = readable(engine.pid) - len(near)
        with halted(engine.pid, "signal-1"):
            for wire in near:
                with suppress(BlockingIOError):
                    wire.socket.send(data)
            until(lambda: all(readable(engine.pid) == quiet for _ in range(50)), "each is blocked, and waits", limit=30)
            watched = []
            for _ in range(1000):
                for wire in near:
                    with suppress(BlockingIOError):
                        wire.socket.recv(1 << 16)
                watched.append(readable(engine.pid) - quiet)
        total = engine.stats()["total"]
        assert total["turns_delayed"] >= len(near) and total["blocked"] > 0
        # Several are read at once where the machine stops the loop between two of its steps.
        assert median(watched) <= 2, "at most the one that has its turn is read"


def upgraded_on(wire: Wire) -> str:
    """Upgrades a connection, makes its socket non-blocking, and returns its loop."""
    wire.upgrade()
    loop = wire.read_message()[1].split(b".")[1][:2].decode()
    wire.socket.setblocking(False)
    return loop


def readable(pid: int) -> int:
    """The number of descriptors that epoll watches for input on loop 0 (proc(5), fdinfo)."""
    task = Path(f"/proc/{pid}/task/{threads(pid)['signal-0']}")
    names = [entry.name for entry in (task / "fd").iterdir() if str(os.readlink(entry)) == "anon_inode:[eventpoll]"]
    lines = (task / "fdinfo" / names[0]).read_text().splitlines()
    return sum(int(line.split()[3], 16) & select.EPOLLIN for line in lines if line.startswith("tfd:"))
