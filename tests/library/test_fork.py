"""An engine in a forked child: every method raises there, and the parent goes on."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

import pytest

from peers import BarePeer
from signal_py import Engine, EngineError

from .program import in_thread, port_of


def test_methods_raise_in_a_forked_child() -> None:
    """The parent goes on."""

    async def main() -> None:
        async with Engine(nats="off", loops=1) as engine:
            peer = await in_thread(BarePeer, port_of(engine))
            child = os.fork()
            if not child:
                os._exit(in_child(engine, peer.address))
            _, status = await in_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            await engine.send(peer.address, "still here", receipt=True)
            assert (await in_thread(peer.read)).payload == b"still here"
            await in_thread(peer.close)

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


def test_a_forked_child_that_goes_on_with_the_loop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It logs one warning, however often the loop finds something to read."""
    logger = logging.getLogger("signal_py")  # not to pytest's file, whose lock another thread may hold during the fork
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])

    async def main() -> None:
        async with Engine(nats="off", loops=1) as engine:
            child = os.fork()
            if not child:
                assert engine._local_peer is not None
                caplog.clear()
                warnings = -1
                with contextlib.suppress(BaseException):
                    for _ in range(100):
                        engine._local_peer._drain()
                    warnings = len([one for one in caplog.records if "fork()" in one.message])
                os._exit(warnings if warnings >= 0 else 99)
            _, status = await in_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 1
            await engine.send(engine.address, "still here", receipt=True)

    asyncio.run(main())
