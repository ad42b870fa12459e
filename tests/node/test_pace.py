"""New connections yield to messages (accept-yield); clients that leave before their turn cost nobody a turn."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
from peers import BarePeer
from wire import Wire, opened, request, until

SPIN = "import time\nend = time.monotonic() + 120\nwhile time.monotonic() < end: pass"
AT_ONCE = 200  # clients in one round
schedstat = Path("/proc/thread-self/schedstat")
counts_waits = schedstat.exists() and schedstat.read_text(encoding="ascii").split()[2:] != ["0"]


@contextlib.contextmanager
def one_busy_processor(processes: int) -> Iterator[None]:
    """Runs what is started in the block on one processor, beside processes that never rest."""
    allowed = os.sched_getaffinity(0)
    busy: list[subprocess.Popen[bytes]] = []
    try:
        os.sched_setaffinity(0, {max(allowed)})
        busy += [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        for each in busy:
            each.kill()
            each.wait()


def come_and_go(port: int) -> None:
    """AT_ONCE clients connect, get 101, and leave."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Wire(port)) for _ in range(AT_ONCE)]
        for client in clients:
            client.send(request())
        for client in clients:
            assert client.read_answer().status == 101


@pytest.mark.skipif(not counts_waits, reason="this kernel does not count how long a thread waits for a processor")
def test_new_connections_yield_to_messages() -> None:
    with one_busy_processor(4), kit.engine(loops=1) as engine, BarePeer(engine.port) as a:

        def slowed() -> bool:
            assert a.ask(f"TO {a.address}", "x") == "ok"
            come_and_go(engine.port)
            total = engine.stats()["total"]
            return bool(total["accept_yielded"] and total["accept_paced"])

        until(slowed, "new connections wait", limit=60, every=0)


@pytest.mark.parametrize(("setting", "messages"), [("off", True), ("on", False)])
def test_new_connections_do_not_yield(setting: str, messages: bool) -> None:
    """If there are no messages, or accept-yield is off."""
    with one_busy_processor(4), kit.engine(loops=1, accept_yield=setting) as engine, BarePeer(engine.port) as a:
        for _ in range(10):
            if messages:
                assert a.ask(f"TO {a.address}", "x") == "ok"
            come_and_go(engine.port)
        total = engine.stats()["total"]
        assert total["opened"] == 10 * AT_ONCE + 1
        assert (total["accept_yielded"], total["accept_paced"]) == (0, 0)


def leave_at_once(port: int, data: bytes, resets: bool) -> None:
    """Connects, sends, and closes without reading; with RST if `resets`."""
    client = Wire(port)
    client.send(data)
    if resets:
        client.reset()
    client.socket.close()


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("data", [b"", request()], ids=["silent", "asked"])
def test_clients_that_leave_before_their_turn(data: bytes, resets: bool) -> None:
    """At one connection a second, thirty of them do not delay the next client by half a minute."""
    with kit.engine(loops=1, accept_rate=1) as engine:
        opened(engine.port)[0].socket.close()
        for _ in range(30):
            leave_at_once(engine.port, data, resets)
        begun = time.monotonic()
        with Wire(engine.port) as client:
            client.send(request())
            assert client.read_answer().status == 101
        assert time.monotonic() - begun < 20
        assert engine.total("accept_left") >= 29


def test_a_probe_that_half_closes() -> None:
    """As `nc -N` does. It is answered, and costs no turn."""
    with kit.engine(loops=1, accept_rate=1) as engine:
        opened(engine.port)[0].socket.close()
        for _ in range(3):
            with Wire(engine.port) as probe:
                probe.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                probe.socket.shutdown(socket.SHUT_WR)
                assert probe.read_answer().status == 200
        assert engine.total("accept_left") == 0


def test_each_listener_has_its_turn() -> None:
    """A client of one listener does not wait until all clients of the other were accepted."""
    with kit.engine(loops=1, accept_rate=20, listen=["127.0.0.1:0", "127.0.0.1:0"]) as engine:
        ports = [int(url.rstrip("/").rpartition(":")[2]) for url in engine.ready["listening"]]
        for crowded, other in (ports, ports[::-1]):
            before = engine.total("opened")
            with contextlib.ExitStack() as stack:
                for _ in range(60):
                    stack.enter_context(Wire(crowded)).send(request())
                late = stack.enter_context(Wire(other))
                late.send(request())
                assert late.read_answer().status == 101
                assert engine.total("opened") - before <= 40
