"""`/healthz` on the data port is answered also when nobody else is admitted, within bounds."""

import contextlib
import os
import re
import resource
import signal
import time
from pathlib import Path

import pytest

import kit
from wire import Answer, Wire, opened, request, until

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
MANY = 200  # clients that wait: at one a second, the last has its turn after minutes


def ask(port: int, data: bytes = HEALTH) -> Answer:
    with Wire(port) as wire:
        wire.send(data)
        return wire.read_answer()


def crowd(port: int, stack: contextlib.ExitStack, count: int, data: bytes) -> list[Wire]:
    """`count` clients that have sent this."""
    wires = [stack.enter_context(Wire(port)) for _ in range(count)]
    for wire in wires:
        wire.send(data)
    return wires


# -- over a limit --


@pytest.mark.parametrize("loops", [1, 3])
@pytest.mark.parametrize(("limit", "status"), [("max_connections", 503), ("max_connections_per_address", 429)])
def test_over_a_limit(limit: str, status: int, loops: int) -> None:
    """Any other request is refused, and the limit holds."""
    with kit.engine(loops=loops, **{limit: 3}) as engine, contextlib.ExitStack() as stack:
        held = [stack.enter_context(opened(engine.port)[0]) for _ in range(3)]
        for _ in range(30):
            answer = ask(engine.port)
            assert (answer.status, answer.body) == (200, b"ok\n")
        assert ask(engine.port, request()).status == status
        assert ask(engine.port, request("/nope")).status == status
        assert ask(engine.port, b"nonsense\r\n\r\n").status == status
        with Wire(engine.port) as wire:
            wire.send(HEALTH.replace(b"GET", b"HEAD"))
            assert wire.read_end().endswith(b"\r\n\r\n")
        assert engine.total("connections") == 3
        held.pop().socket.close()
        until(lambda: ask(engine.port, request()).status == 101, "a new client is accepted again")


@pytest.mark.parametrize(("limit", "status"), [("max_connections", 503), ("max_connections_per_address", 429)])
def test_over_a_limit_a_head_may_come_late(limit: str, status: int) -> None:
    """In pieces, and some time after the accept. A client that sends nothing, or too little, gets the refusal."""
    with kit.engine(loops=1, **{limit: 1}) as engine, opened(engine.port)[0]:
        for cuts in ([1], [0, 5, 20], list(range(0, len(HEALTH), 5))):
            with Wire(engine.port) as wire:
                wire.send_cut(HEALTH, cuts)
                assert wire.read_answer().status == 200
        for data in (b"", HEALTH[:-1]):
            with Wire(engine.port) as wire:
                wire.send(data)
                assert wire.read_answer().status == status
        total = engine.stats()["total"]
        assert total["handshakes_timed_out"] == 0
        until(lambda: engine.total("input_bytes") == 0)


def test_over_a_limit_the_clients_that_wait_are_bounded() -> None:
    """Of a silent crowd all but a few are refused at once, and later clients are not affected."""
    with kit.engine(loops=1, max_connections=1) as engine, contextlib.ExitStack() as stack:
        held = opened(engine.port)[0]
        with held:
            wires = crowd(engine.port, stack, MANY, b"")
            assert {wire.read_answer().status for wire in wires} == {503}
            assert engine.total("health_limited") > 0
            assert ask(engine.port).status == 200
        until(lambda: ask(engine.port, request()).status == 101)


# -- while connections are paced --


@pytest.mark.parametrize("loops", [1, 2])
def test_while_connections_wait_for_the_pace(loops: int) -> None:
    """Before all clients that wait, and without costing them a turn."""
    with kit.engine(loops=loops, accept_rate=1) as engine, contextlib.ExitStack() as stack:
        wires = crowd(engine.port, stack, MANY, request())
        for _ in range(30):
            assert ask(engine.port).status == 200
        with Wire(engine.port) as late:
            for piece in (HEALTH[:1], HEALTH[1:20], HEALTH[20:]):
                until(lambda: engine.total("accept_paced"), "it waits")
                late.send(piece)
            assert late.read_answer().status == 200
        assert engine.total("opened") < MANY / 2
        assert wires[0].read_answer().status == 101


def test_every_client_that_waits_gets_its_turn() -> None:
    """From each queue, also clients that send nothing for a while."""
    with kit.engine(loops=2, accept_rate=300) as engine, contextlib.ExitStack() as stack:
        wires = crowd(engine.port, stack, MANY, b"")
        for wire in wires:
            wire.send(request())
        assert {wire.read_answer().status for wire in wires} == {101}
        assert engine.total("accept_paced") > 0


def test_a_crowd_of_health_checks_is_bounded() -> None:
    """All are answered, 64 in a tick."""
    with kit.engine(loops=1, accept_rate=1) as engine, contextlib.ExitStack() as stack:
        opened(engine.port)[0].socket.close()
        begun = time.monotonic()
        wires = crowd(engine.port, stack, MANY, HEALTH)
        assert {wire.read_answer().status for wire in wires} == {200}
        ticks = (time.monotonic() - begun) * 10 + 2
        assert 64 * ticks >= MANY
        assert engine.total("health_limited") > 0


def test_a_stop_while_clients_wait_for_the_pace() -> None:
    """They get 503, as do those that wait in the kernel's queue."""
    with kit.engine(loops=2, accept_rate=1, close_timeout=5) as engine, contextlib.ExitStack() as stack:
        wires = crowd(engine.port, stack, MANY, request())
        until(lambda: engine.total("accept_paced") > 0)
        os.kill(engine.pid, signal.SIGTERM)
        statuses = [wire.read_answer().status for wire in wires]
        assert set(statuses) <= {101, 503} and statuses.count(503) > MANY / 2
        assert engine.wait() == 0


def descriptors(engine: kit.Engine) -> int:
    """The largest number of descriptors that a thread of the engine has."""
    return max(len(list((task / "fd").iterdir())) for task in Path(f"/proc/{engine.pid}/task").iterdir())


def test_clients_that_wait_leave_descriptors_to_others() -> None:
    limit = 200
    with kit.engine(loops=1, accept_rate=1) as engine, contextlib.ExitStack() as stack:
        hard = resource.prlimit(engine.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(engine.pid, resource.RLIMIT_NOFILE, (limit, hard))
        crowd(engine.port, stack, 2 * limit, request())
        until(lambda: descriptors(engine) > limit - 80, "new clients are parked")
        for _ in range(20):
            assert gets_no_answer(engine.port)
            assert descriptors(engine) <= limit - 50
        assert engine.total("shed") == 0


def gets_no_answer(port: int) -> bool:
    """Whether one more client gets no answer, as it waits in the kernel's queue."""
    with Wire(port) as wire:
        wire.send(request())
        try:
            wire.read(1, limit=0.02)
        except TimeoutError:
            return True
    return False


# -- out of descriptors --


def test_out_of_descriptors() -> None:
    """The last descriptor serves for answers: health checks get 200, others 503."""
    few = 48
    with kit.engine(loops=1) as engine, contextlib.ExitStack() as stack:
        hard = resource.prlimit(engine.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(engine.pid, resource.RLIMIT_NOFILE, (few, hard[1]))
        for _ in range(few):
            stack.enter_context(Wire(engine.port)).send(request())
        until(lambda: engine.total("shed") > 0, "no descriptor is left")
        shed = engine.total("shed")
        until(lambda: [ask(engine.port).status for _ in range(5)] == [200] * 5, "health checks are answered")
        assert ask(engine.port, request()).status == 503
        assert engine.total("shed") > shed
        resource.prlimit(engine.pid, resource.RLIMIT_NOFILE, hard)


# -- oversized requests in the log --

OVERSIZED = re.compile(r"requests are refused with (\d+): .* over (\S+), (\d+) bytes; (\d+) since .* at least (\d+)")


def test_oversized_requests_are_logged_and_sampled() -> None:
    """Each is counted. At most one line a second names the setting to change."""
    many = 60
    with kit.engine(loops=2, max_request_line=300, max_head=2000) as engine:
        begun = time.monotonic()
        for _ in range(many):
            assert ask(engine.port, request("/?" + "y" * 400)).status == 414
            assert ask(engine.port, request("/", "X: " + "y" * 2500)).status == 431

        def logged() -> dict[str, int]:
            found: dict[str, int] = {}
            for line in engine.events():
                match = OVERSIZED.match(str(line["event"]))
                if match:
                    assert line["level"] == "warning"
                    key, limit, size = match[2], int(match[3]), int(match[5])
                    assert (match[1], key, limit) in (("414", "max-request-line", 300), ("431", "max-head", 2000))
                    assert size > limit
                    found[key] = found.get(key, 0) + int(match[4])
            return found

        def all_logged() -> bool:
            assert ask(engine.port).status == 200  # wakes a loop
            return logged() == {"max-request-line": many, "max-head": many}

        until(all_logged, "all are logged", every=0.1)
        lines = sum(1 for line in engine.events() if OVERSIZED.match(str(line["event"])))
        assert lines <= 2 * (time.monotonic() - begun + 2)
        assert engine.total("oversized") == 2 * many
