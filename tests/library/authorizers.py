"""Authorizers that tests share, and engines that call them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from peers import ledgers_hold
from signal_py import Engine, Grant, Request

LIMIT = 20.0  # seconds that a test may take


def run(
    authorize: Callable[[Request], Awaitable[Any]], test: Callable[[Engine, int], Awaitable[None]], **settings: Any
) -> None:
    """Runs a test with an engine on one loop, and with one on three; `test` gets the engine and its port."""

    async def both() -> None:
        for loops in (1, 3):
            async with Engine(authorize=authorize, loops=loops, close_timeout=0.5, **settings) as engine:
                await asyncio.wait_for(test(engine, engine.listening[0][1]), LIMIT)
                ledgers_hold(engine.stats()["total"])

    asyncio.run(both())


def counted(engine: Engine) -> dict[str, int]:
    """The engine's counters, summed over its loops."""
    total: dict[str, int] = engine.stats()["total"]
    return total


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


class Wrong(Exception):
    """An error that an authorizer raises."""


async def raises(asked: Request) -> Grant:
    raise Wrong("the database is away")


def plain(asked: Request) -> Grant:
    return Grant(user="ann")


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The log records about decisions; others depend on the machine."""
    return [record for record in caplog.records if record.name == "signal_py.auth.authenticators"]
