"""Engine.drain: what the embedding program sees of it."""

import asyncio
import time

import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

from signal_py import Engine


def test_drain_sends_the_clients_away_and_ends() -> None:
    """The program goes on sending and hearing meanwhile."""

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
                    raise AssertionError("it stays open")
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
    """Without clients, without time, and again: it ends at once."""

    async def main() -> None:
        for settings in ({"drain_time": 60.0}, {"drain_time": 0.0}):
            engine = Engine(**settings)  # type: ignore[arg-type]
            await engine.start()
            begun = time.monotonic()
            await asyncio.gather(engine.drain(), engine.drain())
            assert time.monotonic() - begun < 5.0
            await engine.drain()

    asyncio.run(main())
