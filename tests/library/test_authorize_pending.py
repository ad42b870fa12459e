"""Clients that wait for an authorizer: one that hangs or blocks, clients that go, and bounds on how many wait."""

import asyncio
import time

import pytest

from minted import Guest, knock
from signal_py import Engine, Grant, Request
from wire import TEXT, Wire, frame, request

from .authorizers import LIMIT, counted, run, until


def test_auth_pending_bounds_the_heads_that_are_kept() -> None:
    """Also of clients that are gone: a head is kept until the authorizer has decided."""
    gate: list[asyncio.Event] = []
    heads: list[Request] = []

    async def authorize(asked: Request) -> Grant:
        heads.append(asked)
        await gate[0].wait()
        return Grant()

    async def scenario() -> None:
        gate.append(asyncio.Event())
        async with Engine(authorize=authorize, auth_pending=8, loops=1, close_timeout=0.5) as engine:
            port = engine.listening[0][1]
            for number in range(50):
                wire = await asyncio.to_thread(Wire, port)
                wire.send(request("/", "X-Long: " + "x" * 7000))
                if number < 8:
                    await until(lambda number=number: len(heads) > number)
                else:
                    assert (await asyncio.to_thread(wire.read_answer)).status == 503
                wire.reset()
            assert counted(engine)["auth_failed"] == 42
            gate[0].set()
            while (await asyncio.to_thread(knock, port)).status != 101:
                pass

    asyncio.run(asyncio.wait_for(scenario(), LIMIT))


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_authorizer_that_hangs(stubborn: bool) -> None:
    """It is cancelled. One that ignores that is left alone, and further requests are authorized all the same."""
    release = asyncio.Event()

    async def authorize(asked: Request) -> Grant:
        if asked.token == "good":
            return Grant(user="ann")
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                if not stubborn:
                    raise
        return Grant(user="late")

    async def test(engine: Engine, port: int) -> None:
        start = time.monotonic()
        knocks = [asyncio.to_thread(knock, port) for _ in range(5)]
        answers = await asyncio.gather(*knocks)
        assert [answer.status for answer in answers] == [503] * 5
        assert all(b"could not decide" in answer.body for answer in answers)
        assert 0.2 < time.monotonic() - start < 5
        assert counted(engine)["auth_failed"] == 5
        assert (await asyncio.to_thread(knock, port, "/?token=good")).status == 101
        guest = await asyncio.to_thread(Guest, port, token="good")
        assert await asyncio.to_thread(guest.ask, "AUTH bad") in ("unavailable", "timeout")
        assert await asyncio.to_thread(guest.ask, "AUTH good") == "ok"
        await asyncio.to_thread(guest.close)

    async def scenario() -> None:
        async with Engine(authorize=authorize, auth_timeout=0.4, close_timeout=0.5) as engine:
            await asyncio.wait_for(test(engine, engine.listening[0][1]), LIMIT)
            release.set()
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_program_whose_loop_is_blocked() -> None:
    """The engine's loops go on, and refuse what is not decided in time."""

    async def authorize(asked: Request) -> Grant:
        return Grant(user="ann")

    async def scenario() -> None:
        async with Engine(authorize=authorize, auth_timeout=0.3, close_timeout=0.5) as engine:
            port = engine.listening[0][1]
            guest = await asyncio.to_thread(Guest, port, token="t")
            knocking = asyncio.ensure_future(asyncio.to_thread(knock, port))
            await until(lambda: counted(engine)["accepted_sockets"] == 2)
            end = time.monotonic() + 1.0
            answered = 0
            while time.monotonic() < end:  # the program's loop does nothing else
                assert guest.ask(f"TO {guest.address}", "x") == "ok"
                answered += 1
            assert answered > 10
            answer = await knocking
            assert answer.status in (101, 503)
            late = await asyncio.to_thread(knock, port)
            assert late.status == 101
            guest.close()

    asyncio.run(scenario())


def test_a_verdict_that_comes_too_late() -> None:
    """Its client is gone: it has no effect, also on clients that connected since."""
    gates: list[asyncio.Event] = []

    async def authorize(asked: Request) -> Grant:
        gate = asyncio.Event()
        gates.append(gate)
        await gate.wait()
        return Grant(user="late")

    async def test(engine: Engine, port: int) -> None:
        gates.clear()
        before = counted(engine)["auth_granted"]
        wires = [await asyncio.to_thread(Wire, port) for _ in range(10)]
        for wire in wires:
            wire.send(request("/", "Authorization: Bearer x") + frame(TEXT, b"PING"))
        await until(lambda: len(gates) == 10)
        for wire in wires:
            wire.socket.close()
        for gate in gates:
            gate.set()
        await until(lambda: counted(engine)["auth_granted"] - before == 10)
        await until(lambda: counted(engine)["connections"] == 0)
        assert counted(engine)["rooms"] == 0

    run(authorize, test, auth_timeout=30)


def test_auth_pending_bounds_the_clients_that_wait() -> None:
    gate: list[asyncio.Event] = []

    async def authorize(asked: Request) -> Grant:
        await gate[0].wait()
        return Grant()

    async def scenario() -> None:
        gate.append(asyncio.Event())
        async with Engine(authorize=authorize, auth_pending=4, loops=1, close_timeout=0.5) as engine:
            port = engine.listening[0][1]
            knocks = [asyncio.ensure_future(asyncio.to_thread(knock, port)) for _ in range(4)]
            await until(lambda: counted(engine)["accepted_sockets"] == 4)
            await until(lambda: counted(engine)["bytes_in"] > 0)
            statuses = [(await asyncio.to_thread(knock, port)).status for _ in range(3)]
            assert statuses == [503] * 3 and counted(engine)["auth_failed"] == 3
            gate[0].set()
            assert [answer.status for answer in await asyncio.gather(*knocks)] == [101] * 4
            assert (await asyncio.to_thread(knock, port)).status == 101

    asyncio.run(scenario())


def test_a_client_that_is_gone_counts_until_its_verdict() -> None:
    """Then another may wait."""
    asked: list[str] = []
    gate: list[asyncio.Event] = []

    async def authorize(one: Request) -> Grant:
        asked.append(one.token)
        await gate[0].wait()
        return Grant()

    async def scenario() -> None:
        gate.append(asyncio.Event())
        async with Engine(authorize=authorize, auth_pending=4, loops=1, close_timeout=0.5) as engine:
            port = engine.listening[0][1]
            wires = [await asyncio.to_thread(Wire, port) for _ in range(4)]
            for wire in wires:
                wire.send(request("/", "Authorization: Bearer x"))
            await until(lambda: len(asked) == 4)
            for wire in wires:
                wire.reset()
            assert (await asyncio.to_thread(knock, port)).status == 503
            gate[0].set()
            end = time.monotonic() + LIMIT
            while (await asyncio.to_thread(knock, port)).status != 101:
                assert time.monotonic() < end, "clients that are gone still count"

    asyncio.run(scenario())


@pytest.mark.parametrize("bound", ["max_connections_per_address", "max_connections_per_user"])
def test_a_client_that_is_gone_before_its_verdict_frees_its_quotas(bound: str) -> None:
    """That of its address at once, that of its user with the verdict; its slot may be another's by then."""
    gates: list[asyncio.Event] = []

    async def authorize(_: Request) -> Grant:
        gates.append(asyncio.Event())
        await gates[-1].wait()
        return Grant(user="ann")

    async def scenario() -> None:
        async with Engine(authorize=authorize, loops=1, close_timeout=0.5, **{bound: 1}) as engine:
            wires = []
            for number in range(2):
                wires.append(await asyncio.to_thread(Wire, engine.listening[0][1]))
                wires[-1].send(request("/", "Authorization: Bearer x"))
                await until(lambda number=number: len(gates) > number)
                if number == 0:
                    wires[0].reset()
                    await until(lambda: counted(engine)["input_bytes"] == 0)
            for gate in gates:
                gate.set()
            assert (await asyncio.to_thread(wires[1].read_answer)).status == 101
            assert (await engine.members("@ann")).count == 1
            wires[1].socket.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT))


def test_many_verdicts_reach_the_right_clients() -> None:
    """More clients than authorizers run at once; verdicts come in any order."""
    running = most = 0

    async def authorize(asked: Request) -> Grant:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (hash(asked.token) % 7))
        running -= 1
        return Grant(user=asked.token)

    async def test(engine: Engine, port: int) -> None:
        from signal_py.auth.authenticators import AT_ONCE

        wires = [Wire(port) for _ in range(AT_ONCE + 100)]
        for i, wire in enumerate(wires):
            wire.send(request("/", f"Authorization: Bearer u{i}"))

        def hello(i: int, wire: Wire) -> bool:
            assert wire.read_answer().status == 101
            return f'"user":"u{i}"'.encode() in wire.read_message()[1]

        found = await asyncio.to_thread(lambda: [hello(i, wire) for i, wire in enumerate(wires)])
        assert all(found) and most <= AT_ONCE
        for wire in wires:
            wire.socket.close()

    run(authorize, test, auth_timeout=30)


def test_a_stop_while_a_client_waits_for_its_verdict() -> None:
    async def authorize(asked: Request) -> Grant:
        await asyncio.Event().wait()
        return Grant()

    async def scenario() -> None:
        async with Engine(authorize=authorize, auth_timeout=60, close_timeout=1) as engine:
            port = engine.listening[0][1]
            knocking = asyncio.ensure_future(asyncio.to_thread(knock, port))
            await until(lambda: counted(engine)["bytes_in"] > 0)
        assert (await knocking).status == 503

    asyncio.run(scenario())
