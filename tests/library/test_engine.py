"""Engines in an asyncio program: their clients, their ports and threads, two in one process."""

import asyncio
import os
import socket

import pytest

from peers import BarePeer, several
from signal_py import Engine, EngineError
from wire import until

from .program import in_thread, port_of


def test_clients_exchange_messages_while_the_program_runs() -> None:
    async def main() -> None:
        async with Engine(listen="127.0.0.1:0", nats="off", loops=2) as engine:

            def meet() -> None:
                with several(port_of(engine), 6, "room") as peers:
                    assert {peer.address.split(".")[0] for peer in peers} == {engine.node}
                    assert peers[0].ask(f"TO {peers[5].address}", "x") == "ok"
                    peers[1].say("PUB room", "y")
                    assert peers[2].read().payload == b"y"

            await in_thread(meet)

    asyncio.run(main())


def test_clients_exchange_messages_while_the_program_blocks() -> None:
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
