"""Work beside an asyncio loop: calls that block, on threads that nobody waits for at the end; what surely ends.

Before Python 3.12 `asyncio.wait_for` returns as if nothing was where it is cancelled in the moment in which what it
waits for comes; so do parts of nats-py, still. Whoever cancelled then waits for ever: `within` and `end` see to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

CANCEL_AGAIN = 0.3  # seconds; nats.client.close takes milliseconds; a second cancellation would cut it short


class NoThreadError(RuntimeError):
    """The system gives no more threads: the call was not begun."""


class Threads(ThreadPoolExecutor):
    """An executor with a thread a call: one does not wait for another, nor the end of an asyncio loop for any.

    daemon  nor does Python's, in whose end they may then find themselves: for what can't be interrupted, such as
            looking a name up, which asyncio does in its default executor
    """

    def __init__(self, *, daemon: bool) -> None:
        super().__init__()
        self._daemon = daemon

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
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
    """Its result, or what it raises, for the running asyncio loop.

    Unlike those of `asyncio.to_thread` the thread may outlive the loop, and Python: a read can't be interrupted. Nor
    does it wait for others of the program's, and cancelling all tasks of the loop leaves it alone.
    """
    return asyncio.wrap_future(DAEMON_THREADS.submit(call))


def in_joined_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """As `aside`, but Python's end waits for it: a thread that is in its last lines as that begins must load libgcc to
    end, for which there may be no descriptor."""
    return asyncio.wrap_future(JOINED_THREADS.submit(call))


async def with_timeout(work: Awaitable[T], seconds: float) -> T:
    """Its result; raises asyncio.TimeoutError after so many seconds, and cancels it then.

    As `asyncio.wait_for`, but no cancellation is lost, and what does not end when it is cancelled is not waited for.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise asyncio.TimeoutError
        return task.result()
    finally:
        if not task.cancel() and not task.cancelled():
            task.exception()  # else it is logged where a cancellation came before it


async def uninterrupted(done: asyncio.Future[T]) -> T:
    """Its result, waited for through cancellations: of a step that must not be left half done."""
    while not done.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({done})
    return done.result()


async def run_in_joined_thread(call: Callable[[], None]) -> None:
    """As `in_joined_thread`, through cancellations; in this thread if the system gives no more of them."""
    try:
        await uninterrupted(in_joined_thread(call))
    except NoThreadError:
        call()


async def cancel_and_wait(task: asyncio.Future[Any]) -> None:
    """Cancels it, and returns when it is over; what it raises is not raised here. Again where that had no effect."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Its result. As asyncio.run, but an interrupt waits for no name that is looked up."""

    async def main() -> T:
        asyncio.get_running_loop().set_default_executor(DAEMON_THREADS)
        return await work

    return asyncio.run(main())
