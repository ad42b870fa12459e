"""Work beside an asyncio loop: it ends when it is told to, in whatever moment that is."""

import asyncio
import json
from pathlib import Path

import jwt
import pytest

from signal_py import aside
from signal_py.aside import end
from signal_py.judge import JwtJudge
from signal_py.tokens import KeySet, Verifier
from wire import LIMIT

STEPS = 10  # of an asyncio loop, more than those from having keys to waiting


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "CANCEL_AGAIN", 0.02)


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
        await asyncio.wait_for(end(task), LIMIT)
        assert task.cancelled() and left == -1

    asyncio.run(main())


def test_what_is_over_already_is_left_alone() -> None:
    async def main() -> None:
        async def fails() -> None:
            raise ValueError

        task = asyncio.create_task(fails())
        await asyncio.wait({task})
        await end(task)
        assert isinstance(task.exception(), ValueError)

    asyncio.run(main())


def test_a_judge_closes_though_a_key_is_asked_for_at_that_moment(tmp_path: Path) -> None:
    """Before Python 3.12 the cancellation is lost where the task that fetches keys was just woken."""
    place = tmp_path / "keys"
    key = {"kty": "oct", "k": "A" * 43, "alg": "HS256", "kid": "one"}
    place.write_text(json.dumps({"keys": [key]}), encoding="utf-8")
    unknown = jwt.encode({}, "k" * 32, headers={"kid": "other"}).encode()

    async def closed_after(steps: int) -> None:
        keys = KeySet(str(place), 3600.0)
        judge = JwtJudge(Verifier(keys, ("HS256",), "", "", 0.0), lambda verdicts: None, 1.0)
        judge.start()
        while keys._keys is None:
            await asyncio.sleep(0.001)
        for _ in range(steps):
            await asyncio.sleep(0)
        judge.take([(1, False, b"\n\n\n\n\n" + unknown)])
        assert judge._waiting, "the key is not known, and fetched"
        await asyncio.wait_for(judge.close(), LIMIT)

    async def main() -> None:
        for steps in range(STEPS):
            await closed_after(steps)

    asyncio.run(main())
