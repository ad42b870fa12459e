"""Helpers for asyncio: blocking calls on separate threads, and timeouts and cancellations that are never lost.

Before Python 3.12, `asyncio.wait_for` loses a cancellation that comes in the same iteration as its result. Parts of
nats-py still do. The canceller would then wait for ever; `with_timeout` and `cancel_and_wait` prevent that.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

CANCEL_AGAIN = 0.3  # seconds; nats.client.close takes milliseconds, and a second cancellation would cut it short


class NoThreadError(RuntimeError):
    """The system gives no more threads. The call was not started."""


class Threads(ThreadPoolExecutor):
    """An executor that starts a thread for each call. Neither another call nor the end of an asyncio loop waits for it.

    daemon  Python does not wait for it at exit either: for calls that can't be interrupted, such as a name lookup
    """

    def __init__(self, *, daemon: bool) -> None:
        super().__init__()
        self._daemon = daemon

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Starts a call. If the system gives no thread, the future fails with NoThreadError."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        try:
            threading.Thread(target=run, daemon=self._daemon).start()
        except RuntimeError as error:
            future.set_exception(NoThreadError(str(error)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """There is nothing to wait for."""


DAEMON_THREADS = Threads(daemon=True)
JOINED_THREADS = Threads(daemon=False)


def in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """Calls a blocking function on a new daemon thread. The future belongs to the running asyncio loop.

    Unlike a thread of `asyncio.to_thread`, it may outlive the loop and Python, since a read can't be interrupted. It
    waits for no other call of the program, and is not affected if all tasks of the loop are cancelled.
    """
    return asyncio.wrap_future(DAEMON_THREADS.submit(call))


def in_joined_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """As `in_thread`, but Python waits for the thread at exit.

    A daemon thread that ends while Python exits has to load libgcc, for which no descriptor may be left.
    """
    return asyncio.wrap_future(JOINED_THREADS.submit(call))


async def with_timeout(work: Awaitable[T], seconds: float | None) -> T:
    """Returns the result of `work`. After `seconds` (None: never), cancels it and raises asyncio.TimeoutError.

    Unlike `asyncio.wait_for`, it loses no cancellation, and does not wait for work that ignores its cancellation.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise asyncio.TimeoutError
        return task.result()
    finally:
        if not task.cancel() and not task.cancelled():
            task.exception()  # otherwise asyncio logs it if a cancellation came first


async def uninterrupted(done: asyncio.Future[T]) -> T:
    """Waits through cancellations for a step that must not be left half done, and returns its result."""
    while not done.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({done})
    return done.result()


async def run_in_joined_thread(call: Callable[[], None]) -> None:
    """Calls a function as `in_joined_thread`, through cancellations; on this thread if no other can start."""
    try:
        await uninterrupted(in_joined_thread(call))
    except NoThreadError:
        call()


async def cancel_and_wait(task: asyncio.Future[Any]) -> None:
    """Cancels a task, repeatedly if it ignores that, and waits for its end. Its exception is not raised here."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN)


def run(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, but Ctrl-C does not wait for a name lookup."""

    async def main() -> T:
        asyncio.get_running_loop().set_default_executor(DAEMON_THREADS)
        return await work

    return asyncio.run(main())
