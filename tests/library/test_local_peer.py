"""The program as a peer of its own clients: messages, rooms, presence, receipts, another node's program."""

import asyncio
from typing import Any

import pytest

from peers import BarePeer, ledgers_hold, several
from signal_py import DeliveryError, Engine, Message, Presence

from .program import ANY_REF, come, in_thread, next_of, port_of

# -- messages --


def test_a_client_reaches_the_program() -> None:
    """Text as str and binary as bytes, with ref and re; the client gets its receipt."""

    async def main() -> None:
        async with Engine(nats="off", loops=2) as engine:
            messages = engine.messages()
            peer = await in_thread(BarePeer, port_of(engine))
            for payload in ("κόσμε\n", b"\x00\xff", "", b""):
                assert await in_thread(peer.ask, f"TO {engine.address}", payload, "q1") == "ok"
                assert await next_of(messages) == Message(peer.address, payload, None, "q1", None, None)
            await engine.send(peer.address, "yes", re="q1", ref="mine")
            got = await in_thread(lambda: peer.expect("FROM", engine.address, re="q1", ref="mine"))
            assert (got.payload, got.binary) == (b"yes", False)
            peer.say(f"TO {engine.address} re=mine", b"good")
            assert await next_of(messages) == Message(peer.address, b"good", None, None, "mine", None)
            await in_thread(peer.close)

    asyncio.run(main())


def test_the_program_reaches_clients() -> None:
    async def main() -> None:
        async with Engine(nats="off", loops=3) as engine:
            with several(port_of(engine), 8, "room") as peers:
                for i, peer in enumerate(peers):
                    await engine.send(peer.address, str(i), receipt=True)
                    await engine.send(peer.address, b"%d" % i)
                await engine.publish("room", b"\xff", receipt=True)
                await engine.publish("room", "to all")
                for i, peer in enumerate(peers):
                    received = await in_thread(peer.read_all, 4)
                    assert [one.verb for one in received] == ["FROM", "FROM", "MSG", "MSG"]
                    assert {one.words[-1] for one in received} == {engine.address}
                    assert [one.payload for one in received] == [b"%d" % i, b"%d" % i, b"\xff", b"to all"]
                    assert [one.binary for one in received] == [False, True, True, False]

    asyncio.run(main())


def test_order_to_and_from_the_program() -> None:
    async def main() -> None:
        async with Engine(nats="off", loops=3) as engine:
            messages = engine.messages()
            with several(port_of(engine), 4) as peers:
                for i in range(200):
                    for peer in peers:
                        peer.say(f"TO {engine.address}", str(i))
                        await engine.send(peer.address, str(i))
                received: dict[str, list[Any]] = {peer.address: [] for peer in peers}
                for _ in range(800):
                    got = await next_of(messages)
                    received[got.sender].append(got.data)
                for peer in peers:
                    assert received[peer.address] == [str(i) for i in range(200)]
                    assert [one.payload for one in peer.read_all(200)] == [b"%d" % i for i in range(200)]

    asyncio.run(main())


def test_the_program_sends_to_itself() -> None:
    async def main() -> None:
        async with Engine(nats="off", loops=2) as engine:
            messages = engine.messages()
            await engine.send(engine.address, "note", receipt=True)
            assert await next_of(messages) == Message(engine.address, "note", None, ANY_REF, None, None)

    asyncio.run(main())


def test_the_program_across_nodes() -> None:
    """Its address works from another node, in both directions."""
    import kit

    async def main(url: str) -> None:
        async with Engine(nats=url, loops=1) as one, Engine(nats=url, loops=2) as two:
            messages = two.messages()
            await come(lambda: one.stats()["nats_state"] == two.stats()["nats_state"] == "up")
            await one.send(two.address, b"\x01", receipt=True)
            assert await next_of(messages) == Message(one.address, b"\x01", None, ANY_REF, None, None)
            await two.join("room")
            await one.publish("room", "x", ref="r")
            assert await next_of(messages) == Message(one.address, "x", "room", "r", None, None)
            with pytest.raises(DeliveryError) as refused:
                await one.send(f"{two.node}.0", b"x", receipt=True)
            assert refused.value.code == "no-such-peer"

    with kit.nats() as server:
        asyncio.run(main(server.url))


def test_on_message() -> None:
    """A handler instead of `messages()`: a function, and a coroutine function."""

    async def main(handler: Any, received: list[Message]) -> None:
        async with Engine(nats="off", loops=1, on_message=handler) as engine:
            peer = await in_thread(BarePeer, port_of(engine))
            for i in range(10):
                assert await in_thread(peer.ask, f"TO {engine.address}", str(i)) == "ok"
            await come(lambda: len(received) == 10)
            assert [one.data for one in received] == [str(i) for i in range(10)]
            await in_thread(peer.close)

    plain: list[Message] = []
    asyncio.run(main(plain.append, plain))
    later: list[Message] = []

    async def handler(message: Message) -> None:
        later.append(message)

    asyncio.run(main(handler, later))


# -- rooms and presence --


def test_the_program_in_a_room() -> None:
    """From join to leave, it receives what others publish, and not its own messages."""

    async def main() -> None:
        async with Engine(nats="off", loops=2) as engine:
            messages = engine.messages()
            with BarePeer(port_of(engine), "room") as peer:
                await engine.join("room")
                await engine.join("room")
                await engine.publish("room", "own")
                peer.expect("MSG", "room", engine.address)
                assert await in_thread(peer.ask, "PUB room", "1", "r") == "ok"
                assert await next_of(messages) == Message(peer.address, "1", "room", "r", None, None)
                await engine.leave("room")
                assert await in_thread(peer.ask, "PUB room", "2") == "ok"
                assert await in_thread(peer.ask, f"TO {engine.address}", "3") == "ok"
                assert (await next_of(messages)).data == "3"

    asyncio.run(main())


def test_presence_of_clients_and_of_the_program() -> None:
    async def main() -> None:
        events: list[Presence] = []
        async with Engine(listen="127.0.0.1:0", nats="off", loops=2, on_presence=events.append) as engine:
            peer = await in_thread(BarePeer, port_of(engine), "hall")
            await engine.join("hall", presence=True)
            both = {Presence("hall", "member", peer.address), Presence("hall", "member", engine.address)}
            await come(lambda: both <= set(events))
            await in_thread(peer.ask, "SUB hall presence")
            received = await in_thread(peer.read)
            while received.verb != "MEMBERS" or engine.address.encode() not in (received.payload or b""):
                received = await in_thread(peer.read)
            await engine.leave("hall")
            received = await in_thread(peer.read)
            while received.verb != "LEAVE":
                received = await in_thread(peer.read)
            assert received.words == ("hall", engine.address)
            await engine.join("hall", presence=True)
            received = await in_thread(peer.read)
            assert (received.verb, received.words) == ("JOIN", ("hall", engine.address))
            events.clear()
            await engine.join("hall", presence=True)  # again: the list of members
            await come(lambda: both <= set(events))
            await in_thread(peer.close)
            await come(lambda: Presence("hall", "leave", peer.address) in events)
            await come(lambda: engine.stats()["total"]["in_flight"] == 0)
            ledgers_hold(engine.stats()["total"])

    asyncio.run(main())


# -- errors and receipts --


def test_messages_that_can_not_be_delivered_raise() -> None:
    async def main() -> None:
        async with Engine(nats="off", loops=2, max_message=1000) as engine:
            gone = await in_thread(BarePeer, port_of(engine))
            await in_thread(gone.close)
            for target, code in (
                (gone.address, "no-such-peer"),
                ("nosuchnode.0", "no-such-peer"),
                ("nonsense", "bad-request"),
                ("@*", "bad-request"),
            ):
                with pytest.raises(DeliveryError) as refused:
                    await engine.send(target, b"x", receipt=True)
                assert refused.value.code == code, target
            for call in (
                engine.publish("a*", b"x"),
                engine.publish("$x", b"x"),
                engine.join("@user"),
                engine.join(""),
            ):
                with pytest.raises(DeliveryError) as refused:
                    await call
                assert refused.value.code == "bad-request"
            with pytest.raises(DeliveryError) as refused:
                await engine.publish("room", b"x" * 1001)
            assert refused.value.code == "too-large"

    asyncio.run(main())


def test_receipts_from_a_slow_peer() -> None:
    """The receipt says what became of the message, not that it was queued."""

    async def main() -> None:
        async with Engine(nats="off", loops=2, backlog_messages=4) as engine:
            peer = await in_thread(lambda: BarePeer(port_of(engine), receive_buffer=4096))
            codes = set()
            while "expired" not in codes:
                try:
                    await engine.send(peer.address, b"x" * 16000, receipt=True, ttl=0.2)
                except DeliveryError as refused:
                    codes.add(refused.code)
            assert codes <= {"expired", "timeout"}
            for _ in range(8):
                await engine.send(peer.address, b"x")
            with pytest.raises(DeliveryError) as slow:
                await engine.send(peer.address, b"x", receipt=True)
            assert slow.value.code == "slow-peer"
            peer.vanish()

    asyncio.run(main())
