"""Engine.drain, as the embedding program sees it."""

import asyncio
import select
import socket
import time

import pytest
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

from minted import Guest, bearer
from signal_py import Engine, Grant, Request
from wire import LIMIT, Wire, request


def test_drain_sends_the_clients_away_and_ends() -> None:
    """The program can send and receive meanwhile."""

    async def main() -> None:
        async with Engine(drain_time=2.0, close_timeout=1.0, drain_url="ws://b.example/") as engine:
            async with websockets.asyncio.client.connect(engine.url) as client:
                hello = await client.recv()
                peer = str(hello).split("\n", 1)[0].removeprefix("HELLO ")
                begun = time.monotonic()
                draining = asyncio.ensure_future(engine.drain())
                goaway = str(await client.recv())
                assert goaway.startswith("GOAWAY ") and goaway.endswith(" url=ws://b.example/")
                await engine.send(peer, "still here", receipt=True)
                assert await client.recv() == f"FROM {engine.address} ref=s1\nstill here"
                await client.send(f"TO {engine.address}\nso am I")
                assert (await anext(engine.messages())).data == "so am I"
                try:
                    await client.recv()
                except ConnectionClosed as closed:
                    assert closed.rcvd is not None and closed.rcvd.code == 1001
                else:
                    raise AssertionError("the connection stays open")
                await draining
                assert 1.0 < time.monotonic() - begun < 5.0
            await engine.ended()
            assert engine.stats()["state"] == "stopped"

    asyncio.run(main())


def test_stop_ends_a_drain() -> None:
    async def main() -> None:
        engine = Engine(drain_time=60.0)
        await engine.start()
        async with websockets.asyncio.client.connect(engine.url) as client:
            await client.recv()
            draining = asyncio.ensure_future(engine.drain())
            assert str(await client.recv()).startswith("GOAWAY ")
            begun = time.monotonic()
            await engine.stop()
            await draining
            assert time.monotonic() - begun < 10.0

    asyncio.run(main())


def test_drain_of_nothing() -> None:
    """Without clients, without drain-time, and a second time: it ends at once."""

    async def main() -> None:
        for settings in ({"drain_time": 60.0}, {"drain_time": 0.0}):
            engine = Engine(**settings)  # type: ignore[arg-type]
            await engine.start()
            begun = time.monotonic()
            await asyncio.gather(engine.drain(), engine.drain())
            assert time.monotonic() - begun < 5.0
            await engine.drain()

    asyncio.run(main())


@pytest.mark.parametrize("loops", [1, 3])
def test_a_drain_answers_clients_that_wait_for_a_verdict(loops: int) -> None:
    """With 503: at once if the verdict comes, and in time if none does. A renewal is answered as usual."""
    gate, never = asyncio.Event(), asyncio.Event()
    asked: list[str] = []

    async def authorize(request: Request) -> Grant:
        asked.append(request.token)
        await {"good": asyncio.sleep, "waits": lambda _: gate.wait(), "never": lambda _: never.wait()}[request.token](0)
        return Grant("ann")

    def knocking(port: int, token: str) -> Wire:
        wire = Wire(port)
        wire.send(request("/", bearer(token)))
        return wire

    def refused(wires: list[Wire]) -> None:
        for wire in wires:
            assert wire.read_answer().status == 503
            assert wire.read_end() == b""

    async def main() -> None:
        async with Engine(
            authorize=authorize, drain_time=5.0, close_timeout=6.0, auth_timeout=60, loops=loops
        ) as engine:
            port = engine.listening[0][1]
            guest = await asyncio.to_thread(Guest, port, token="good")
            waits = [await asyncio.to_thread(knocking, port, "waits") for _ in range(20)]
            nevers = [await asyncio.to_thread(knocking, port, "never") for _ in range(20)]
            guest.say("AUTH waits ref=1")
            while len(asked) < 42:
                await asyncio.sleep(0.01)
            draining = asyncio.ensure_future(engine.drain())
            assert (await asyncio.to_thread(guest.read)).verb == "GOAWAY"
            gate.set()
            await asyncio.to_thread(refused, waits)
            assert not select.select([wire.socket for wire in nevers], [], [], 0)[0], "refused without a verdict"
            await asyncio.to_thread(refused, nevers)
            assert not draining.done()
            assert await asyncio.to_thread(guest.answer_to, "1") == "ok"
            assert await asyncio.to_thread(guest.ended) == 1001
            await draining

    asyncio.run(main())


def test_a_drain_ordered_during_the_start_begins_after_it() -> None:
    """The start succeeds, and then the engine drains."""

    async def main(nats: str) -> None:
        engine = Engine(nats=nats, loops=1, drain_time=0.2, close_timeout=0.2)
        starting = asyncio.ensure_future(engine.start())
        while engine.stats()["nats_state"] != "connecting" or engine._runtime.control_thread is None:
            assert not starting.done()
            await asyncio.sleep(0.01)
        answer = await asyncio.to_thread(engine._runtime._ask_drain)
        assert answer["connections"] == 0 and not starting.done()
        await starting
        await asyncio.wait_for(engine.ended(), LIMIT)
        assert engine.stats()["state"] == "stopped"

    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(main(f"nats://127.0.0.1:{silent.getsockname()[1]}"))
