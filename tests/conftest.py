"""Shows the logs of engines and nats-servers where a test fails, and clears them away after it."""

from collections.abc import Iterator

import pytest

import kit


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
