"""Results of Engine's methods: refs in use, close codes, joins that NATS delays."""

import asyncio
import os
import signal
from typing import Any

import pytest

import kit
from peers import BarePeer
from signal_py import DeliveryError, Engine
from wire import LIMIT

LATE = ("expired", "timeout")  # answers to a message for a peer that does not read


async def peer_of(engine: Engine, **more: Any) -> BarePeer:
    return await asyncio.to_thread(lambda: BarePeer(engine.listening[0][1], **more))


async def code_of(call: Any) -> str:
    """ "" or the code of the DeliveryError."""
    try:
        await asyncio.wait_for(call, LIMIT)
    except DeliveryError as refused:
        return refused.code
    return ""


# -- refs --


class SlowPeer:
    """A client that does not read, and sends to it, which are answered when they expire."""

    def __init__(self, engine: Engine, peer: BarePeer) -> None:
        self.engine = engine
        self.peer = peer
        self.sent = 0  # without a ref of the program's

    async def send(self, ref: str | None = None, receipt: bool = True) -> str:
        self.sent += ref is None
        data = b"x" * 16000
        return await code_of(self.engine.send(self.peer.address, data, ref=ref, receipt=receipt, ttl=0.3))


async def slow_peer_of(engine: Engine) -> SlowPeer:
    slow = SlowPeer(engine, await peer_of(engine, receive_buffer=4096))
    while await slow.send() == "":
        pass
    return slow


def test_an_outstanding_ref_is_refused() -> None:
    """Nothing is sent, and the first send gets its answer. Afterwards the ref is free again."""

    async def main() -> None:
        async with Engine(nats="off", loops=2) as engine:
            slow = await slow_peer_of(engine)
            before = engine.stats()["total"]["accepted"]
            first = asyncio.ensure_future(slow.send("a"))
            while (accepted := engine.stats()["total"]["accepted"]) == before:
                await asyncio.sleep(0)
            assert await slow.send("a") == "bad-request"
            assert await slow.send("a", receipt=False) == "bad-request"
            assert await code_of(engine.publish("room", b"x", ref="a")) == "bad-request"
            assert engine.stats()["total"]["accepted"] == accepted
            assert not first.done()
            assert await first in LATE
            assert await slow.send("a") in LATE
            slow.peer.vanish()

    asyncio.run(main())


def test_the_library_chooses_refs_that_are_free() -> None:
    async def main() -> None:
        async with Engine(nats="off", loops=2) as engine:
            slow = await slow_peer_of(engine)
            taken = [f"s{number:x}" for number in range(slow.sent + 1, slow.sent + 4)]
            sends = [slow.send(ref) for ref in taken] + [slow.send(), slow.send()]
            codes = await asyncio.gather(*sends)
            assert all(code in LATE for code in codes), codes
            slow.peer.vanish()

    asyncio.run(main())


# -- close codes --


def test_close_codes() -> None:
    """RFC 6455 §7.4: those that a Close frame may carry arrive, others are not sent."""

    async def main() -> None:
        async with Engine(nats="off", loops=2) as engine:
            peer = await peer_of(engine)
            for code in (-1, 0, 1, 999, 1004, 1005, 1006, 1015, 2000, 2999, 5000, 65535, 66536, 70000, 1 << 70):
                wrong = f"^{code} can't be sent as a close code: use 1000 to 1003, 1007 to 1014 or 3000 to 4999$"
                with pytest.raises(ValueError, match=wrong):
                    engine.disconnect(peer.address, code)
                with pytest.raises(ValueError, match=wrong):
                    await engine.disconnect_user("ann", code)
            assert await asyncio.to_thread(peer.settle) == []
            for code in (1000, 1003, 1007, 1014, 3000, 4999):
                assert engine.disconnect(peer.address, code)
                assert await asyncio.to_thread(peer.ended) == code
                peer.vanish()
                peer = await peer_of(engine)
            await asyncio.to_thread(peer.close)

    asyncio.run(main())


# -- joins --


def test_a_second_join_waits_for_nats_as_well() -> None:
    """Also if the first one is cancelled while it waits."""

    async def main(server: kit.Nats) -> None:
        async with Engine(nats=server.url, loops=2) as engine:
            while engine.stats()["nats_state"] != "up":
                await asyncio.sleep(0.01)
            kit.freeze(server)
            try:
                first, second = (asyncio.ensure_future(engine.join("room")) for _ in range(2))
                while (await engine.members("room")).count != 1:
                    pass
                first.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await first
                third = asyncio.ensure_future(engine.join("room"))
                await engine.members("room")  # so that the answers of the loops would have come
                assert not second.done() and not third.done()
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await asyncio.wait_for(asyncio.gather(second, third), LIMIT)
            await asyncio.wait_for(engine.join("room"), LIMIT)

    with kit.nats() as server:
        asyncio.run(main(server))
