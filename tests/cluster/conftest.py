"""A nats-server and nodes for the tests that break nothing; servers for those that do."""

import contextlib
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


@pytest.fixture
def lone_server() -> Iterator[kit.Nats]:
    """A nats-server for one test, which may break it."""
    with kit.nats() as running:
        yield running


@contextlib.contextmanager
def nats_pair() -> Iterator[tuple[kit.Nats, kit.Nats]]:
    """Two nats-servers in one cluster."""
    config = "cluster {{ name: pair, listen: 127.0.0.1:{0}, routes: [nats://127.0.0.1:{1}] }}"
    routes = [kit.free_port(), kit.free_port()]
    with (
        kit.nats(config=config.format(*routes)) as one,
        kit.nats(config=config.format(*reversed(routes))) as other,
    ):
        yield one, other


@pytest.fixture(scope="package")
def nodes(server: kit.Nats) -> Iterator[list[kit.Engine]]:
    """Three nodes of one cluster, with one, two and three loops."""
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
    """After each test, asserts the ledgers of all running nodes."""
    yield
    account()


@pytest.fixture
def bus(server: kit.Nats) -> Iterator[Bus]:
    with Bus(server.url) as client:
        yield client


def await_cluster(nodes: list[kit.Engine]) -> None:
    """Returns when each node reaches each."""
    peers = [BarePeer(node.port) for node in nodes]
    for a, b in itertools.product(peers, peers):
        until(lambda a=a, b=b: a.ask(f"TO {b.address}", "ready?") == "ok", "the nodes meet")  # type: ignore[misc]
    for peer in peers:
        peer.close()


def account() -> None:
    """Asserts the ledgers of every running node."""
    for process in kit.started:
        if isinstance(process, kit.Engine) and process.alive():
            ledgers_hold(process.stats()["total"])
