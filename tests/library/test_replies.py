"""Message.reply, and the errors of send, publish and join: receivers that are gone or no connections, bad arguments."""

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


async def received(engine: Engine, peer: BarePeer, data: str | bytes, ref: str | None = None) -> Message:
    assert await asyncio.to_thread(peer.ask, f"TO {engine.address}", data, ref) == "ok"
    return await asyncio.wait_for(anext(engine.messages()), LIMIT)


def test_a_reply_reaches_the_sender() -> None:
    async def test(engine: Engine) -> None:
        peer = await peer_of(engine)
        message = await received(engine, peer, "hi", "q1")
        assert await message.reply(b"yes", ref="mine", receipt=True) is None
        got = await asyncio.to_thread(peer.expect, "FROM", engine.address, re="q1", ref="mine")
        assert (got.payload, got.binary) == (b"yes", True)
        await asyncio.to_thread(peer.close)

    serve(test)


@pytest.mark.parametrize("receipt", [False, True])
def test_errors_of_the_receiver_are_returned_and_not_raised(receipt: bool) -> None:
    async def test(engine: Engine) -> None:
        peer = await peer_of(engine)
        message = await received(engine, peer, b"\xff" * (MAX // 2))
        long = await message.reply("you said " + str(message.data), receipt=receipt)
        assert long is not None and long.code == "too-large"
        await asyncio.to_thread(peer.close)
        await asyncio.to_thread(kit.until, lambda: engine.stats()["total"]["connections"] == 0, "it is gone")
        gone = await message.reply("there?", receipt=True)
        assert isinstance(gone, DeliveryError) and gone.code == "no-such-peer"
        assert str(gone) == "no-such-peer: No connection has this address, or its node is gone."

    serve(test)


def test_a_sender_that_is_not_a_connection() -> None:
    """A NATS client: its address is `-`."""

    async def main() -> None:
        with kit.nats() as server:
            async with Engine(nats=server.url, loops=1, close_timeout=0.2) as engine:
                await asyncio.to_thread(kit.until, lambda: engine.stats()["nats_state"] == "up", "NATS is up")
                import nats

                stranger = await nats.connect(server.url)
                await stranger.publish(f"signal.peer.{engine.address}", b"hi")
                message = await asyncio.wait_for(anext(engine.messages()), LIMIT)
                assert message.sender == "-"
                error = await message.reply("who are you?")
                assert error is not None and (error.code, "can't be answered" in error.reason) == ("no-such-peer", True)
                with pytest.raises(DeliveryError, match=r"bad-request: '-' .* can't be answered"):
                    await engine.send(message.sender, "who are you?")
                await stranger.close()

    asyncio.run(main())


def test_errors_of_the_program_are_raised() -> None:
    async def main() -> None:
        async with Engine(loops=1, close_timeout=0.2) as engine:
            peer = await peer_of(engine)
            message = await received(engine, peer, "hi")
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
    ("call", "message"),
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
def test_errors_name_the_bad_argument(call: Callable[[Engine], Awaitable[None]], message: str) -> None:
    async def test(engine: Engine) -> None:
        with pytest.raises(DeliveryError) as error:
            await call(engine)
        assert str(error.value).startswith(message) and error.value.code == message.partition(":")[0]

    serve(test)
