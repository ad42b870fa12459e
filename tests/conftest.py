"""Shows the logs of engines and nats-servers where a test fails, clears them away after it, and gives a test that is
marked `alone` the machine while other processes (pytest-xdist's) run tests. Engines that many tests share."""

import contextlib
import fcntl
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import kit
from peers import CLIENTS, Peer

# An example may take long on a busy machine: a hang is what a test's timeout is for.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")

# A shell ignores it for what it runs in the background, and what is ignored stays so in every child.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Locked files of the checkout. DOOR: by who begins a test, so that none begins while one waits to be alone.
DOOR, ROOM = Path(__file__), Path(kit.__file__)


@contextlib.contextmanager
def locked(file: Path, how: int) -> Iterator[None]:
    with file.open("rb") as held:
        fcntl.flock(held, how)
        yield


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that are alone come first: what they wait for then, and hold up, are short tests."""
    items.sort(key=lambda item: not is_alone(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """The wait is none of the test's time: its timeout begins within."""
    with contextlib.ExitStack() as door:
        door.enter_context(locked(DOOR, fcntl.LOCK_EX))
        with locked(ROOM, fcntl.LOCK_EX if is_alone(item) else fcntl.LOCK_SH):
            door.close()
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
    """An engine with every setting at its default, on one loop and on several."""
    with kit.engine(nats="off", loops=request.param) as engine:
        yield engine


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> type[Peer]:
    """A WebSocket client of the engine's users."""
    return CLIENTS[request.param]
