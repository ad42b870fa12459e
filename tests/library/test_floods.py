"""Packets that the embedding program causes, or gets while it is slow, are bounded for each kind
(docs/architecture/threads-and-ownership.md)."""

import asyncio
import ctypes
import os
from collections.abc import Iterator
from typing import Any

import pytest

import kit
from flood import Flood, many_rooms, resident
from signal_core.engine import Core, CoreError
from signal_py import Engine
from wire import opened, until

from .program import come, in_thread, port_of

COUNTS = 2  # INQUIRE_COUNTS
TASKS_WAITING = 4096


def core_of(engine: Engine) -> Core:
    assert engine._runtime.core is not None
    return engine._runtime.core


def total(engine: Engine, counter: str) -> int:
    counted: Any = core_of(engine).stats()
    return int(counted["total"][counter])


def halt_python(seconds: float) -> None:
    """Holds the GIL: no Python thread runs, but loops do."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def inquire_until_refused(core: Core, names: bytes) -> int:
    """Posts inquiries until the loop has as many tasks as it may; returns their number."""
    asked = 0
    with pytest.raises(CoreError, match=f"{TASKS_WAITING} tasks wait"):
        while asked < 1_000_000:
            core.inquire(0, COUNTS, number=1 << 40, cursor=0, value=0, data=names)
            asked += 1
    return asked


def test_orders_of_the_program_are_bounded() -> None:
    """KIND_INQUIRY, KIND_KICK: a loop that handles nothing gets no more of them. EVENT_LISTED: one for each."""
    names = "\n".join(f"room-{number}" for number in range(2000)).encode()

    async def main() -> None:
        async with Engine(listen="127.0.0.1:0", nats="off", loops=1) as engine:
            core, nobody = core_of(engine), engine.address.rpartition(".")[0] + ".0000000000000"
            asked = inquire_until_refused(core, names)
            assert asked >= TASKS_WAITING
            for _ in range(20):  # the loop may take one just before it is asked to disconnect
                try:
                    core.disconnect(nobody, 4000)
                except CoreError as error:
                    assert "does not respond" in str(error)
                    break
                asked += inquire_until_refused(core, names)
            else:
                pytest.fail("a disconnect is not refused")
            await come(lambda: total(engine, "inquiries") >= asked)
            assert total(engine, "tasks_refused") >= 2
            pages = await asyncio.gather(*(engine.rooms() for _ in range(500)))  # more than are sent at once
            assert all(page.rooms == {} for page in pages)

    asyncio.run(main())


def test_joins_of_the_program_wait() -> None:
    """KIND_LOCAL_PEER: while clients cause as many tasks as the link's loop takes, or are delayed so that they do not.
    Each join is done all the same."""

    def pieces(number: int, _: str) -> Iterator[bytes]:
        return many_rooms("SUB {} presence", "UNSUB {}", name=f"f{number}")

    async def main() -> None:
        async with Engine(listen="127.0.0.1:0", nats="off", loops=2, ttl=60, on_presence=lambda event: None) as engine:
            flood = await in_thread(Flood, port_of(engine), 40, pieces)
            with flood:
                await come(lambda: total(engine, "inputs_held") + total(engine, "turns_delayed"))
                before = resident(os.getpid())
                for number in range(300):
                    await engine.join(f"own-{number % 16}", presence=True)
                    await engine.leave(f"own-{number % 16}")
                assert (resident(os.getpid()) - before) >> 20 < (4096 if kit.SANITIZED else 64)

    asyncio.run(main())


def test_hooks_that_are_too_slow_lose_events() -> None:
    """EVENT_CONNECTED and EVENT_DISCONNECTED: events that the program's loop does not take in time are counted.
    Clients go on."""

    async def main() -> None:
        received: list[object] = []
        async with Engine(
            listen="127.0.0.1:0", nats="off", loops=2, inbox_messages=64, on_connect=received.append
        ) as engine:
            for _ in range(100):  # the program's loop is blocked meanwhile
                opened(port_of(engine))[0].socket.close()
            until(lambda: total(engine, "events_lost") > 0, "some are lost")
            await come(lambda: len(received) >= 16)
            assert len(received) <= 100

    asyncio.run(main())
