"""Shows the logs of engines and nats-servers if a test fails, and removes them after it. Runs a test that is marked
`alone` while no other process of pytest-xdist runs one. Has the engines that many tests share."""

import contextlib
import fcntl
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import kit
from peers import CLIENTS, Peer

# An example may take long on a busy machine. The timeout of a test finds a hang.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")

# A shell ignores SIGINT for its background jobs, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Files that tests lock. BEGIN: while a test begins, so that none begins while another waits to be alone. RUN: while a
# test runs, shared by all that are not alone.
BEGIN, RUN = Path(__file__), Path(kit.__file__)


@contextlib.contextmanager
def locked(file: Path, how: int) -> Iterator[None]:
    with file.open("rb") as held:
        fcntl.flock(held, how)
        yield


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that are alone come first, while others that they wait for, or that wait for them, are short."""
    items.sort(key=lambda item: not is_alone(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """The timeout of the test begins after the wait for the locks."""
    with contextlib.ExitStack() as begin:
        begin.enter_context(locked(BEGIN, fcntl.LOCK_EX))
        with locked(RUN, fcntl.LOCK_EX if is_alone(item) else fcntl.LOCK_SH):
            begin.close()
            return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        for process in kit.started:
            report.sections.append((f"log of {process.title}", kit.tail(process.log())))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    result = yield
    for process in list(kit.started):
        if not process.alive():
            kit.started.remove(process)
            process.remove()
    return result


@pytest.fixture(scope="session", params=[1, 3], ids=["1loop", "3loops"])
def node(request: pytest.FixtureRequest) -> Iterator[kit.Engine]:
    """An engine with default settings, on one loop and on three."""
    with kit.engine(nats="off", loops=request.param) as engine:
        yield engine


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> type[Peer]:
    """A WebSocket client that uses a library."""
    return CLIENTS[request.param]
