"""Several servers tried in parallel: the first that answers wins."""

import asyncio
import gc
import logging

import pytest

from signal_py.nats import dial
from signal_py.nats.dial import race


def test_failures_beside_the_winner_are_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if a try fails as it is cancelled."""
    monkeypatch.setattr(dial, "STAGGER", 0.001)

    async def main() -> None:
        last = asyncio.Event()

        async def good() -> str:
            await last.wait()
            return "good"

        async def bad() -> str:
            try:
                return await asyncio.Future()
            except asyncio.CancelledError:
                raise OSError("no route") from None

        async def latest() -> str:
            last.set()
            return await asyncio.Future()

        assert await race([bad, good, bad, latest]) == "good"

    with caplog.at_level(logging.ERROR, "asyncio"):
        asyncio.run(main())
        gc.collect()
    assert not caplog.records


def test_the_common_error_is_raised() -> None:
    async def bad() -> str:
        raise OSError("no route")

    with pytest.raises(OSError, match="no route"):
        asyncio.run(race([bad, bad]))
