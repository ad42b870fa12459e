"""Engines that many tests share, alone in their cluster."""

from collections.abc import Iterator

import pytest

import kit
from peers import CLIENTS, Peer


@pytest.fixture(scope="session", params=[1, 3], ids=["1loop", "3loops"])
def node(request: pytest.FixtureRequest) -> Iterator[kit.Engine]:
    """An engine with every setting at its default, on one loop and on several."""
    with kit.engine(nats="off", loops=request.param) as engine:
        yield engine


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> type[Peer]:
    """A WebSocket client of the engine's users."""
    return CLIENTS[request.param]
