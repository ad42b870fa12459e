"""Tasks and threads beside an asyncio loop: they end when they are cancelled, at any moment."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jwt
import pytest

from signal_py.auth.authenticators import JwtAuthenticator
from signal_py.auth.grants import Verdict
from signal_py.auth.jwt import Verifier
from signal_py.auth.keys import KeySet
from signal_py.base import aio
from signal_py.base.aio import DAEMON_THREADS, cancel_and_wait, in_joined_thread, uninterrupted, with_timeout
from wire import LIMIT

STEPS = 10  # of an asyncio loop: more than there are between having keys and waiting
T = TypeVar("T")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "CANCEL_AGAIN", 0.02)


@pytest.mark.parametrize("swallowed", [0, 1, 2])
def test_a_cancellation_that_is_swallowed_is_repeated(swallowed: int) -> None:
    left = swallowed

    async def stubborn() -> None:
        nonlocal left
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                left -= 1
                if left < 0:
                    raise

    async def main() -> None:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await asyncio.wait_for(cancel_and_wait(task), LIMIT)
        assert task.cancelled() and left == -1

    asyncio.run(main())


def test_a_task_that_is_done_is_left_alone() -> None:
    async def main() -> None:
        async def fails() -> None:
            raise ValueError

        task = asyncio.create_task(fails())
        await asyncio.wait({task})
        await cancel_and_wait(task)
        assert isinstance(task.exception(), ValueError)

    asyncio.run(main())


def test_an_authenticator_closes_while_keys_are_fetched(tmp_path: Path) -> None:
    """Before Python 3.12, the cancellation is lost if the task that fetches keys was just woken."""
    file = tmp_path / "keys"
    key = {"kty": "oct", "k": "A" * 43, "alg": "HS256", "kid": "one"}
    file.write_text(json.dumps({"keys": [key]}), encoding="utf-8")
    unknown = jwt.encode({}, "k" * 32, headers={"kid": "other"}).encode()

    async def closed_after(steps: int) -> None:
        keys = KeySet(str(file), 3600.0)
        authenticator = JwtAuthenticator(Verifier(keys, ("HS256",), "", "", 0.0), lambda verdicts: None, 1.0)
        authenticator.start()
        while not keys.count:
            await asyncio.sleep(0.001)
        for _ in range(steps):
            await asyncio.sleep(0)
        authenticator.take([(1, False, b"\n\n\n\n\n" + unknown)])
        assert authenticator._waiting, "the key is unknown, so keys are fetched"
        await asyncio.wait_for(authenticator.close(), LIMIT)

    async def main() -> None:
        for steps in range(STEPS):
            await closed_after(steps)

    asyncio.run(main())


def test_a_token_that_comes_during_a_lookup_waits_for_the_next_one(tmp_path: Path) -> None:
    """The file may have been read before its key was there."""
    file = tmp_path / "keys"
    secrets = {"one": "A" * 43, "two": "B" * 43}
    keys = [{"kty": "oct", "k": secret, "alg": "HS256", "kid": kid} for kid, secret in secrets.items()]
    file.write_text(json.dumps({"keys": keys[:1]}), encoding="utf-8")
    secret = base64.urlsafe_b64decode(secrets["two"] + "=")
    token = jwt.encode({"sub": "ann", "exp": time.time() + LIMIT}, secret, headers={"kid": "two"}).encode()
    was_read, may_end = threading.Event(), threading.Event()

    class Slow(KeySet):
        def load(self) -> None:
            super().load()
            was_read.set()
            assert may_end.wait(LIMIT)

    async def main() -> None:
        verdicts: list[Verdict] = []
        verifier = Verifier(Slow(str(file), 3600.0), ("HS256",), "", "", 0.0)
        authenticator = JwtAuthenticator(verifier, verdicts.extend, LIMIT)
        authenticator.start()
        await asyncio.to_thread(was_read.wait, LIMIT)
        file.write_text(json.dumps({"keys": keys}), encoding="utf-8")
        authenticator.take([(1, False, b"\n\n\n\n\n" + token)])
        may_end.set()
        while not verdicts:
            await asyncio.sleep(0.001)
        assert verdicts[0][:2] == (1, 0), verdicts
        await authenticator.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT))


# -- with_timeout --


def test_no_cancellation_is_lost() -> None:
    """It may come before the awaited result, at the same moment, or some steps after."""

    async def ended(steps: int) -> tuple[bool, bool]:
        """Whether `cancel` returned true, and whether the task was cancelled."""
        comes: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(with_timeout(comes, LIMIT))
        for _ in range(3):
            await asyncio.sleep(0)
        comes.set_result(1)
        for _ in range(steps):
            await asyncio.sleep(0)
        taken = task.cancel()
        await asyncio.wait({task}, timeout=LIMIT)
        return taken, task.cancelled()

    async def main() -> None:
        outcomes = [await ended(steps) for steps in range(STEPS)]
        assert outcomes[0] == (True, True) and outcomes[-1] == (False, False)
        assert all(taken == cancelled for taken, cancelled in outcomes), outcomes

    asyncio.run(main())


def test_with_timeout_gives_up_in_time() -> None:
    async def main() -> None:
        inner = asyncio.create_task(asyncio.Event().wait())
        with pytest.raises(asyncio.TimeoutError):
            await with_timeout(inner, 0.01)
        await asyncio.wait({inner}, timeout=LIMIT)
        assert inner.cancelled()

    asyncio.run(main())


def test_with_timeout_passes_results_and_errors_on() -> None:
    async def fails() -> None:
        raise ValueError("x")

    async def main() -> None:
        assert await with_timeout(asyncio.sleep(0, 7), LIMIT) == 7
        with pytest.raises(ValueError, match="x"):
            await with_timeout(fails(), LIMIT)

    asyncio.run(main())


# -- steps and threads --


def test_a_step_is_waited_for_through_cancellations() -> None:
    async def main() -> None:
        comes: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(uninterrupted(comes))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        assert not task.done() and not comes.done()
        comes.set_result(3)
        assert await task == 3

    asyncio.run(main())


def result_in_time(work: Callable[[], T]) -> T:
    """The result of `work`; AssertionError if it takes too long."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert results, "it hangs"
    return results[0]


def test_daemon_threads_do_not_delay_the_end() -> None:
    """Those of a loop, also during a call."""
    goes_on, ended = threading.Event(), threading.Event()

    def blocks() -> None:
        goes_on.wait()
        ended.set()

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(DAEMON_THREADS)
        loop.run_in_executor(None, blocks)
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)
        return await loop.run_in_executor(None, threading.current_thread) is not threading.current_thread()

    assert result_in_time(lambda: asyncio.run(main()))
    goes_on.set()
    assert ended.wait(LIMIT)


def test_python_waits_only_for_joined_threads() -> None:
    async def main() -> None:
        assert (await aio.in_thread(threading.current_thread)).daemon
        assert not (await in_joined_thread(threading.current_thread)).daemon

    asyncio.run(main())


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets the error, and may try again."""

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(DAEMON_THREADS)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none_left)
            first, second = aio.in_thread(int), loop.run_in_executor(None, int)
        for failed in (first, second):
            with pytest.raises(RuntimeError, match="can't start"):
                await failed
        assert await aio.in_thread(int) == await loop.run_in_executor(None, int) == 0

    asyncio.run(main())
