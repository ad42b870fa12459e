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


def test_a_forked_child_that_goes_on_with_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages() raises. It logs nothing: another thread may have held a lock of a log file during the fork."""
    logged: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record)

    logger = logging.getLogger("signal_py")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [Kept()])

    async def main() -> None:
        async with Engine(nats="off", loops=1) as engine:
            assert engine._local_peer is not None
            pending = anext(engine._local_peer.messages()).__await__()
            next(pending)  # waits for a message
            child = os.fork()
            if not child:
                status = 99
                with contextlib.suppress(BaseException):
                    logged.clear()
                    drained = [engine._local_peer._drain() for _ in range(100)]
                    with pytest.raises(EngineError, match="made by fork"):
                        next(pending)
                    status = len(logged) + sum(drained)
                os._exit(status)
            _, status = await in_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            pending.close()
            await engine.send(engine.address, "still here", receipt=True)

    asyncio.run(main())
