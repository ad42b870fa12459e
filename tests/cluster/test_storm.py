"""A storm of joins to a room with listeners, of bench/presence.py, which holds what each heard to what happened."""

import resource
from collections.abc import Iterator

import pytest

import kit
import presence

JOINS, LISTENERS, SLOW, BACKLOG = 10_000, 20, 4, 65536
OVERHEAD = 16384  # bytes of what is about the messages of one listener
BEATS = 40  # heartbeats of both nodes meanwhile, at most


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < JOINS + 1000:
        pytest.skip(f"this process may open no more than {hard} descriptors")
    with kit.many_descriptors():
        yield


def test_ten_thousand_joins_at_one_moment() -> None:
    """Each is told once or counted in a GAP, to every listener; NATS hears many in one piece; what waits is bounded."""
    found = presence.storm(LISTENERS, SLOW, JOINS, at_once=True, backlog_bytes=BACKLOG)
    assert found.changes == JOINS
    assert found.publishes <= JOINS // 20 + BEATS, found
    assert min(found.missed[:SLOW]) > JOINS // 4, "who does not read misses most, and is told"
    assert found.backlog <= SLOW * (BACKLOG + presence.FILL_SIZE + OVERHEAD), "one that was begun counts whole"
