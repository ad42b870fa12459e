"""A service that answers strangers: they may be gone, read nothing, or be no connection at all."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import kit
from peers import BarePeer
from signal_py import DeliveryError, Engine, EngineError, Message
from wire import LIMIT

MAX = 1000


def serve(test: Callable[[Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Engine(loops=2, max_message=MAX, close_timeout=0.2) as engine:
            await asyncio.wait_for(test(engine), 3 * LIMIT)

    asyncio.run(main())


async def peer_of(engine: Engine) -> BarePeer:
    return await asyncio.to_thread(BarePeer, engine.listening[0][1])


async def heard(engine: Engine, peer: BarePeer, data: str | bytes, ref: str | None = None) -> Message:
    assert await asyncio.to_thread(peer.ask, f"TO {engine.address}", data, ref) == "ok"
    return await asyncio.wait_for(anext(engine.messages()), LIMIT)


def test_a_reply_reaches_the_sender() -> None:
    async def test(engine: Engine) -> None:
        peer = await peer_of(engine)
        message = await heard(engine, peer, "hi", "q1")
        assert await message.reply(b"yes", ref="mine", receipt=True) is None
        got = await asyncio.to_thread(peer.expect, "FROM", engine.address, re="q1", ref="mine")
        assert (got.payload, got.binary) == (b"yes", True)
        await asyncio.to_thread(peer.close)

    serve(test)


@pytest.mark.parametrize("receipt", [False, True])
def test_what_is_the_receivers_fault_is_told_and_not_raised(receipt: bool) -> None:
    async def test(engine: Engine) -> None:
        peer = await peer_of(engine)
        message = await heard(engine, peer, b"\xff" * (MAX // 2))
        long = await message.reply("you said " + str(message.data), receipt=receipt)
        assert long is not None and long.code == "too-large"
        await asyncio.to_thread(peer.close)
        await asyncio.to_thread(kit.until, lambda: engine.stats()["total"]["connections"] == 0, "it is gone")
        gone = await message.reply("there?", receipt=True)
        assert isinstance(gone, DeliveryError) and gone.code == "no-such-peer"
        assert str(gone) == "no-such-peer: No connection has this address, or its node is gone."

    serve(test)


def test_a_sender_that_is_no_connection() -> None:
    """As NATS clients are: `-`."""

    async def main() -> None:
        with kit.nats() as server:
            async with Engine(nats=server.url, loops=1, close_timeout=0.2) as engine:
                await asyncio.to_thread(kit.until, lambda: engine.stats()["nats_state"] == "up", "NATS is up")
                import nats

                stranger = await nats.connect(server.url)
                await stranger.publish(f"signal.peer.{engine.address}", b"hi")
                message = await asyncio.wait_for(anext(engine.messages()), LIMIT)
                assert message.sender == "-"
                told = await message.reply("who are you?")
                assert told is not None and (told.code, "can't be answered" in told.reason) == ("no-such-peer", True)
                with pytest.raises(DeliveryError, match=r"bad-request: '-' .* can't be answered"):
                    await engine.send(message.sender, "who are you?")
                await stranger.close()

    asyncio.run(main())


def test_what_the_program_does_wrong_is_raised() -> None:
    async def main() -> None:
        async with Engine(loops=1, close_timeout=0.2) as engine:
            peer = await peer_of(engine)
            message = await heard(engine, peer, "hi")
            with pytest.raises(TypeError):
                await message.reply(5)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="ttl"):
                await message.reply("x", ttl=-1)
            with pytest.raises(EngineError, match="did not come from an engine"):
                await Message("a.b", "x").reply("y")
            await asyncio.to_thread(peer.close)
        with pytest.raises(EngineError, match="stopped"):
            await message.reply("late")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda engine: engine.send("nonsense", "x"), "bad-request: 'nonsense' is not a peer"),
        (lambda engine: engine.send("@*", "x"), "bad-request: '@*' is not a user"),
        (lambda engine: engine.send(engine.address, "x", ref="a b"), "bad-request: 'a b' is not a ref"),
        (lambda engine: engine.publish("a*", "x"), "bad-request: 'a*' is not a room"),
        (lambda engine: engine.join("$x"), "bad-request: '$x' is not a room"),
        (lambda engine: engine.publish("a", "x" * (MAX + 1)), "too-large: The message is larger"),
        (lambda engine: engine.send("a.b", "x"), "no-such-peer: No connection has this address"),
    ],
)
def test_an_error_says_what_is_wrong(call: Callable[[Engine], Awaitable[None]], told: str) -> None:
    async def test(engine: Engine) -> None:
        with pytest.raises(DeliveryError) as error:
            await call(engine)
        assert str(error.value).startswith(told) and error.value.code == told.partition(":")[0]

    serve(test)
