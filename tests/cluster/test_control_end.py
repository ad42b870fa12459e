"""The control plane of a node ends at any step of its connection."""

import asyncio
from collections.abc import Mapping

import pytest

import kit
from signal_py.base import aio
from signal_py.config.load import make_config
from signal_py.config.nats_url import parse_url
from signal_py.control.server import ControlServer
from signal_py.control.wire import COMMANDS, Fields
from signal_py.nats.credentials import Credentials
from signal_py.nats.tls import Tls
from wire import LIMIT


async def answer(fields: Fields, most: int) -> Mapping[str, object]:
    return {}


async def end_after(url: str, steps: int) -> bool:
    """Ends it after so many steps of the asyncio loop; returns whether it was offered by then."""
    server = parse_url(url)
    config = make_config({"nats": [url]}, {"nats": "nats"})
    made = ControlServer(
        "n1", "1", "signal", dict.fromkeys(COMMANDS, answer), dict, Credentials.of(config), Tls.of(config, [server])
    )
    offered = asyncio.Event()
    offer = made._offer

    async def watched(client: object) -> None:
        await offer(client)  # type: ignore[arg-type]
        offered.set()

    made._offer = watched  # type: ignore[assignment, method-assign]
    made.follow(server)
    for _ in range(steps):
        await asyncio.sleep(0)
    was_offered = offered.is_set()
    await asyncio.wait_for(made.close(), LIMIT)
    return was_offered


def test_it_ends_at_any_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-py, and asyncio.wait_for before Python 3.12, swallow a cancellation at some steps. Not each of many steps is
    tried."""
    monkeypatch.setattr(aio, "CANCEL_AGAIN", 0.05)

    async def main() -> None:
        await end_after(server.url, 10000)  # imports nats-py, so that the steps are those of the connection
        steps = 0
        while not await end_after(server.url, steps):
            steps += 1 + steps // 50

    with kit.nats() as server:
        asyncio.run(main())
