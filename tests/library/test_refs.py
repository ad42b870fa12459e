"""What Engine's methods answer at once or after a while: refs that are taken, close codes, joins that NATS delays."""

import asyncio
import os
import signal
from typing import Any

import pytest

import kit
from peers import BarePeer
from signal_py import DeliveryError, Engine
from wire import LIMIT

LATE = ("expired", "timeout")  # what becomes of a message to a peer that does not read


async def peer_of(engine: Engine, **more: Any) -> BarePeer:
    return await asyncio.to_thread(lambda: BarePeer(engine.listening[0][1], **more))


async def code_of(call: Any) -> str:
    """ "" or the code that it was refused with."""
    try:
        await asyncio.wait_for(call, LIMIT)
    except DeliveryError as refused:
        return refused.code
    return ""


# -- refs --


class Deaf:
    """A client that does not read; and sends to it, which nobody answers before they expire."""

    def __init__(self, engine: Engine, peer: BarePeer) -> None:
        self.engine = engine
        self.peer = peer
        self.sent = 0  # without a ref of the program's

    async def send(self, ref: str | None = None, receipt: bool = True) -> str:
        self.sent += ref is None
        data = b"x" * 16000
        return await code_of(self.engine.send(self.peer.address, data, ref=ref, receipt=receipt, ttl=0.3))


async def deaf_of(engine: Engine) -> Deaf:
    deaf = Deaf(engine, await peer_of(engine, receive_buffer=4096))
    while await deaf.send() == "":
        pass
    return deaf


def test_a_ref_that_is_outstanding_is_refused() -> None:
    """Nothing of it is sent, and the first has its own answer. Afterwards it is a ref as any other."""

    async def main() -> None:
        async with Engine(nats="off", loops=2) as engine:
            deaf = await deaf_of(engine)
            before = engine.stats()["total"]["accepted"]
            first = asyncio.ensure_future(deaf.send("a"))
            while (accepted := engine.stats()["total"]["accepted"]) == before:
                await asyncio.sleep(0)
            assert await deaf.send("a") == "bad-request"
            assert await deaf.send("a", receipt=False) == "bad-request"
            assert await code_of(engine.publish("room", b"x", ref="a")) == "bad-request"
            assert engine.stats()["total"]["accepted"] == accepted
            assert not first.done()
            assert await first in LATE
            assert await deaf.send("a") in LATE
            deaf.peer.vanish()

    asyncio.run(main())


def test_the_library_chooses_refs_that_are_free() -> None:
    async def main() -> None:
        async with Engine(nats="off", loops=2) as engine:
            deaf = await deaf_of(engine)
            taken = [f"s{number:x}" for number in range(deaf.sent + 1, deaf.sent + 4)]
            sends = [deaf.send(ref) for ref in taken] + [deaf.send(), deaf.send()]
            codes = await asyncio.gather(*sends)
            assert all(code in LATE for code in codes), codes
            deaf.peer.vanish()

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


def test_who_joins_again_waits_for_nats_as_well() -> None:
    """Also where the first, who waits, gives up."""

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
                await engine.members("room")  # what the loops had to say to it has come
                assert not second.done() and not third.done()
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await asyncio.wait_for(asyncio.gather(second, third), LIMIT)
            await asyncio.wait_for(engine.join("room"), LIMIT)

    with kit.nats() as server:
        asyncio.run(main(server))
