"""A nats-server and nodes that the tests share which break nothing."""

import itertools
from collections.abc import Iterator

import pytest

import kit
from peers import BarePeer, ledgers_hold
from wire import until

from .bus import Bus


@pytest.fixture(scope="package")
def server() -> Iterator[kit.Nats]:
    with kit.nats() as running:
        yield running


@pytest.fixture(scope="package")
def nodes(server: kit.Nats) -> Iterator[list[kit.Engine]]:
    """Three nodes of one cluster, on one loop and on several: messages cross every kind of border."""
    with (
        kit.engine(nats=server.url, loops=1) as one,
        kit.engine(nats=server.url, loops=2) as two,
        kit.engine(nats=server.url, loops=3) as three,
    ):
        nodes = [one, two, three]
        await_cluster(nodes)
        yield nodes


@pytest.fixture(autouse=True)
def ledgers() -> Iterator[None]:
    """After each test the shared nodes can account for every message."""
    yield
    account()


@pytest.fixture
def bus(server: kit.Nats) -> Iterator[Bus]:
    with Bus(server.url) as client:
        yield client


def await_cluster(nodes: list[kit.Engine]) -> None:
    """Returns when every node reaches every other."""
    peers = [BarePeer(node.port) for node in nodes]
    for a, b in itertools.product(peers, peers):
        until(lambda a=a, b=b: a.ask(f"TO {b.address}", "ready?") == "ok", "the nodes meet")  # type: ignore[misc]
    for peer in peers:
        peer.close()


def account() -> None:
    """Holds every node that runs to its ledgers, whatever broke."""
    for process in kit.started:
        if isinstance(process, kit.Engine) and process.alive():
            ledgers_hold(process.stats()["total"])
