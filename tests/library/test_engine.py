"""Engine inside an asyncio program: started, stopped, asked, and as a peer of its own clients."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from minted import Guest
from peers import BarePeer, ledgers_hold, several
from signal_py import DeliveryError, Engine, EngineError, Grant, Message, Peer, Presence, Request, Rights
from wire import LIMIT, until

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *arguments: Any) -> T:
    """A blocking client's call, while the program's loop runs on."""
    return await asyncio.wait_for(asyncio.to_thread(call, *arguments), 2 * LIMIT)


async def come(condition: Callable[[], T]) -> T:
    """As `until`, on the loop."""
    return await in_thread(until, condition)


def port_of(engine: Engine) -> int:
    (host, port), *_ = engine.listening
    assert host == "127.0.0.1" and engine.url == f"ws://127.0.0.1:{port}/"
    return port


async def next_of(messages: Any) -> Message:
    return await asyncio.wait_for(anext(messages), LIMIT)


# -- clients of one engine --


def test_clients_meet_while_the_program_runs() -> None:
    async def main() -> None:
        async with Engine(listen="127.0.0.1:0", nats="off", loops=2) as engine:

            def meet() -> None:
                with several(port_of(engine), 6, "room") as peers:
                    assert {peer.address.split(".")[0] for peer in peers} == {engine.node}
                    assert peers[0].ask(f"TO {peers[5].address}", "x") == "ok"
                    peers[1].say("PUB room", "y")
                    assert peers[2].hear().payload == b"y"

            await in_thread(meet)

    asyncio.run(main())


def test_the_program_hears_presence_and_is_heard() -> None:
    async def main() -> None:
        told: list[Presence] = []
        async with Engine(listen="127.0.0.1:0", nats="off", loops=2, on_presence=told.append) as engine:
            peer = await in_thread(BarePeer, port_of(engine), "hall")
            await engine.join("hall", presence=True)
            both = {Presence("hall", "member", peer.address), Presence("hall", "member", engine.address)}
            await come(lambda: both <= set(told))
            await in_thread(peer.ask, "SUB hall presence")
            heard = await in_thread(peer.hear)
            while heard.verb != "MEMBERS" or engine.address.encode() not in (heard.payload or b""):
                heard = await in_thread(peer.hear)
            await engine.leave("hall")
            heard = await in_thread(peer.hear)
            while heard.verb != "LEAVE":
                heard = await in_thread(peer.hear)
            assert heard.words == ("hall", engine.address)
            await engine.join("hall", presence=True)
            heard = await in_thread(peer.hear)
            assert (heard.verb, heard.words) == ("JOIN", ("hall", engine.address))
            told.clear()
            await engine.join("hall", presence=True)  # again: who is there
            await come(lambda: both <= set(told))
            await in_thread(peer.close)
            await come(lambda: Presence("hall", "leave", peer.address) in told)
            await come(lambda: engine.stats()["total"]["in_flight"] == 0)
            ledgers_hold(engine.stats()["total"])

    asyncio.run(main())


def test_clients_meet_while_the_program_blocks() -> None:
    """Messages between clients need neither the program's loop nor its thread."""

    async def main() -> None:
        async with Engine(nats="off", loops=1) as engine:
            with several(port_of(engine), 2) as (a, b):
                for i in range(50):
                    assert a.ask(f"TO {b.address}", str(i)) == "ok"

    asyncio.run(main())


def test_stop_closes_clients_and_ports() -> None:
    async def main() -> None:
        engine = Engine(nats="off", loops=2, close_timeout=0.5)
        await engine.start()
        port = port_of(engine)
        peer = await in_thread(BarePeer, port)
        await engine.stop()
        assert await in_thread(peer.ended) == 1001
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(EngineError):
            await engine.publish("room", b"x")
        await engine.stop()

    asyncio.run(main())


def test_one_engine_after_another() -> None:
    async def main() -> None:
        for _ in range(5):
            async with Engine(nats="off", loops=2, close_timeout=0.2) as engine:
                peer = await in_thread(BarePeer, port_of(engine))
                assert engine.stats()["total"]["connections"] == 1
                peer.vanish()

    threads = len(os.listdir("/proc/self/task"))
    descriptors = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    until(lambda: len(os.listdir("/proc/self/task")) <= threads, "no thread is left")
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_two_engines_in_one_process() -> None:
    """Each has its own node, clients, rooms and counters."""

    async def main() -> None:
        async with Engine(nats="off", loops=1) as one, Engine(nats="off", loops=2) as two:
            assert one.node != two.node and one.address != two.address

            def apart() -> None:
                with BarePeer(port_of(one), "room") as a, BarePeer(port_of(two), "room") as b:
                    assert a.ask(f"TO {b.address}", "x") == "no-such-peer"
                    assert a.ask("PUB room", "x") == "ok"
                    assert b.settle() == []
                    assert one.stats()["total"]["connections"] == 1
                    assert two.stats()["total"]["accepted"] == 0

            await in_thread(apart)

    asyncio.run(main())


# -- the program as a peer --


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
                    heard = await in_thread(peer.hear_all, 4)
                    assert [one.verb for one in heard] == ["FROM", "FROM", "MSG", "MSG"]
                    assert {one.words[-1] for one in heard} == {engine.address}
                    assert [one.payload for one in heard] == [b"%d" % i, b"%d" % i, b"\xff", b"to all"]
                    assert [one.binary for one in heard] == [False, True, True, False]

    asyncio.run(main())


def test_the_program_in_a_room() -> None:
    """It hears what others publish, not itself, from join to leave."""

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


def test_order_to_and_from_the_program() -> None:
    async def main() -> None:
        async with Engine(nats="off", loops=3) as engine:
            messages = engine.messages()
            with several(port_of(engine), 4) as peers:
                for i in range(200):
                    for peer in peers:
                        peer.say(f"TO {engine.address}", str(i))
                        await engine.send(peer.address, str(i))
                heard: dict[str, list[Any]] = {peer.address: [] for peer in peers}
                for _ in range(800):
                    got = await next_of(messages)
                    heard[got.sender].append(got.data)
                for peer in peers:
                    assert heard[peer.address] == [str(i) for i in range(200)]
                    assert [one.payload for one in peer.hear_all(200)] == [b"%d" % i for i in range(200)]

    asyncio.run(main())


def test_what_can_not_be_delivered_raises() -> None:
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


def test_a_receipt_of_a_slow_peer() -> None:
    """The receipt is of what became of it, not of the handing over."""

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


def test_on_message() -> None:
    """A handler instead of `messages()`; plain and as a coroutine function."""

    async def main(handler: Any, heard: list[Message]) -> None:
        async with Engine(nats="off", loops=1, on_message=handler) as engine:
            peer = await in_thread(BarePeer, port_of(engine))
            for i in range(10):
                assert await in_thread(peer.ask, f"TO {engine.address}", str(i)) == "ok"
            await come(lambda: len(heard) == 10)
            assert [one.data for one in heard] == [str(i) for i in range(10)]
            await in_thread(peer.close)

    plain: list[Message] = []
    asyncio.run(main(plain.append, plain))
    later: list[Message] = []

    async def handler(message: Message) -> None:
        later.append(message)

    asyncio.run(main(handler, later))


# -- hooks --


def test_hooks_tell_user_and_rights() -> None:
    """Also at the end, where a renewal has changed them; a Peer is an address like any other."""
    grants = {
        "ann": Grant("ann", sub=["a.*", "b"], pub=[], to=False, max_rooms=3),
        "bob": Grant("bob"),
        "": Grant(None, pub=["x.>"]),
        "new": Grant("ann", sub=["c"]),
    }
    rights = {
        "ann": Rights(("a.*", "b"), (), False, 3),
        "bob": Rights(),
        "": Rights(pub=("x.>",)),
        "new": Rights(sub=("c",)),
    }

    async def authorize(request: Request) -> Grant:
        return grants[request.token]

    async def main() -> None:
        came: list[Peer] = []
        went: list[tuple[Peer, int]] = []
        async with Engine(
            loops=2,
            authorize=authorize,
            on_connect=came.append,
            on_disconnect=lambda peer, code: went.append((peer, code)),
        ) as engine:
            for token in ("ann", "bob", ""):
                guest = await in_thread(lambda token=token: Guest(port_of(engine), token=token))
                await come(lambda: len(came) == 1)
                peer = came.pop()
                assert (peer, peer.user, peer.rights) == (guest.address, grants[token].user, rights[token])
                assert isinstance(peer, str) and {peer: 1}[guest.address] == 1
                if token == "ann":
                    assert await in_thread(guest.ask, "AUTH new") == "ok"
                await in_thread(guest.close)
                await come(lambda: len(went) == 1)
                (peer, code) = went.pop()
                assert (peer, peer.user, code) == (guest.address, grants[token].user, 1000)
                assert peer.rights == rights["new" if token == "ann" else token]
            assert engine.stats()["total"]["events_lost"] == 0

    asyncio.run(main())


def test_hooks_without_tokens() -> None:
    async def main() -> None:
        came: list[Peer] = []
        async with Engine(loops=1, on_connect=came.append) as engine:
            peer = await in_thread(BarePeer, port_of(engine))
            await come(lambda: len(came) == 1)
            assert (came[0], came[0].user, came[0].rights) == (peer.address, None, Rights())
            await in_thread(peer.close)

    asyncio.run(main())


def test_hooks_tell_who_comes_and_goes() -> None:
    async def main() -> None:
        came: list[str] = []
        went: list[tuple[str, int]] = []
        async with Engine(
            nats="off",
            loops=3,
            on_connect=came.append,
            on_disconnect=lambda peer, code: went.append((peer, code)),
        ) as engine:
            peers = [await in_thread(BarePeer, port_of(engine)) for _ in range(6)]
            await come(lambda: len(came) == 6)
            assert set(came) == {peer.address for peer in peers}
            assert went == []
            for peer in peers[1:]:
                await in_thread(peer.close)
            await come(lambda: len(went) == 5)
            assert set(went) == {(peer.address, 1000) for peer in peers[1:]}
            assert engine.disconnect(peers[0].address)
            assert await in_thread(peers[0].ended) == 4009
            await come(lambda: len(went) == 6)
            assert went[5] == (peers[0].address, 4009)
            assert not engine.disconnect(peers[1].address)

    asyncio.run(main())


# -- over NATS, fork --


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


class AnyRef:
    """Equal to every ref."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and 1 <= len(other) <= 16 and other.isalnum()

    __hash__ = None  # type: ignore[assignment]


ANY_REF: Any = AnyRef()


def test_a_forked_child_may_not_use_it() -> None:
    """Every method raises there; the parent goes on."""

    async def main() -> None:
        async with Engine(nats="off", loops=1) as engine:
            peer = await in_thread(BarePeer, port_of(engine))
            child = os.fork()
            if not child:
                os._exit(in_child(engine, peer.address))
            _, status = await in_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            await engine.send(peer.address, "still here", receipt=True)
            assert (await in_thread(peer.hear)).payload == b"still here"
            await in_thread(peer.close)

    asyncio.run(main())


def test_a_forked_child_that_goes_on_with_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """Is told once, however often the loop says that there is something to read."""

    async def main() -> None:
        async with Engine(nats="off", loops=1) as engine:
            child = os.fork()
            if not child:
                assert engine._local_peer is not None
                caplog.clear()
                said = -1
                with contextlib.suppress(BaseException):
                    for _ in range(100):
                        engine._local_peer._drain()
                    said = len([one for one in caplog.records if "fork()" in one.message])
                os._exit(said if said >= 0 else 99)
            _, status = await in_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 1
            await engine.send(engine.address, "still here", receipt=True)

    asyncio.run(main())


def in_child(engine: Engine, peer: str) -> int:
    """How many of the calls did not raise EngineError."""
    calls: list[Callable[[], Any]] = [
        engine.stats,
        lambda: engine.address,
        lambda: engine.disconnect(peer),
        lambda: raised(engine.send(peer, b"x")),
        lambda: raised(engine.publish("room", b"x")),
        lambda: raised(engine.join("room")),
        lambda: raised(engine.leave("room")),
        lambda: raised(engine.stop()),
    ]
    wrong = 0
    for call in calls:
        try:
            call()
            wrong += 1
        except EngineError:
            pass
    return wrong


def raised(work: Any) -> None:
    """Runs a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration:
        return


def test_the_program_sends_to_itself() -> None:
    async def main() -> None:
        async with Engine(nats="off", loops=2) as engine:
            messages = engine.messages()
            await engine.send(engine.address, "note", receipt=True)
            assert await next_of(messages) == Message(engine.address, "note", None, ANY_REF, None, None)

    asyncio.run(main())
