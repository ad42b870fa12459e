"""Work beside an asyncio loop: calls that block, on threads that nobody waits for at the end; tasks that end surely."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

CANCEL_AGAIN = 0.3  # seconds; natsclient.close, which a second cancellation would cut short, takes milliseconds


def aside(call: Callable[[], T]) -> asyncio.Future[T]:
    """Its result, or what it raises, for the running asyncio loop.

    Unlike those of `asyncio.to_thread` the thread may outlive the loop, and Python: a read can't be interrupted.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if done.done():  # cancelled
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True).start()
    return done


async def end(task: asyncio.Future[None]) -> None:
    """Cancels it, and returns when it is over; what it raises is not raised here.

    Again where that had no effect: a cancellation in the moment in which what was waited for comes is swallowed by
    `asyncio.wait_for` before Python 3.12, and by parts of nats-py.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN)
