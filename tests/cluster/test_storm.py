"""A storm of joins to a room with watchers: bench/presence.py compares what each watcher got with the joins."""

import resource
from collections.abc import Iterator

import pytest

import kit
import presence

JOINS, WATCHERS, SLOW, BACKLOG = 10_000, 20, 4, 65536
OVERHEAD = 16384  # bytes around the messages of one watcher
BEATS = 40  # heartbeats of both nodes meanwhile, at most


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < JOINS + 1000:
        pytest.skip(f"this process may open no more than {hard} descriptors")
    with kit.many_descriptors():
        yield


def test_ten_thousand_joins_at_once() -> None:
    """Each watcher gets each join, or a GAP that counts it. NATS gets many in one message. Backlogs are bounded."""
    found = presence.storm(WATCHERS, SLOW, JOINS, at_once=True, backlog_bytes=BACKLOG)
    assert found.changes == JOINS
    assert found.publishes <= JOINS // 20 + BEATS, found
    assert min(found.missed[:SLOW]) > JOINS // 4, "watchers that do not read miss most, and get GAP"
    assert found.backlog <= SLOW * (BACKLOG + presence.FILL_SIZE + OVERHEAD), "a partly written message counts whole"
