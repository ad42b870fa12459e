"""What `top` computes from two readings of a node's statistics."""

from typing import Any

import pytest

from signal_py.base.histograms import of_counts
from signal_py.cli.rates import figures, summed


def times(bucket: int, count: int) -> dict[str, Any]:
    """A histogram with `count` times in one bucket."""
    counts = [0] * 51
    counts[bucket] = count
    return of_counts(counts)


def stats(uptime: float, relayed: int = 0, cpu: float = 0.0, **total: int) -> dict[str, Any]:
    """The statistics of a node of one loop."""
    counted = {"connections": 0, "accepted": 0, "written": 0, "bytes_in": 0, "bytes_out": 0, **total}
    return {
        "node": "a", "version": "1", "state": "running", "uptime": uptime, "nats_state": "up", "memory": 1000,
        "descriptors": 10, "total": counted, "loops": [counted], "cpu": [cpu],
        "latency": {"relay": times(10, relayed)}, "loop_lag": [times(4, relayed)],
    }  # fmt: skip


def test_rates_are_differences_by_the_clock_of_the_node() -> None:
    before = stats(10, 5, 1.0, accepted=100, bytes_out=7, dropped_gone=4, refused_rate=1)
    now = stats(12, 8, 1.5, accepted=150, bytes_out=9, dropped_gone=5, refused_rate=1, connections=3)
    found = figures(now, before)
    assert (found["messages_in"], found["messages_out"], found["bytes_out"]) == (25, 0, 1)
    assert found["dropped"] == {"gone": 0.5}
    assert found["refused"] == {}
    assert (found["connections"], found["memory"], found["nats_state"]) == (3, 1000, "up")
    assert found["cpu"] == 0.25
    assert found["latency"]["relay"]["count"] == 3
    (loop,) = found["loops"]
    assert (loop["connections"], loop["cpu"], loop["loop_lag"]["count"]) == (3, 0.25, 3)


@pytest.mark.parametrize("before", [None, stats(100, 50, 9.0, accepted=10**6), {**stats(1, 9), "node": "b"}])
def test_rates_of_a_node_that_has_started_anew_are_since_its_start(before: dict[str, Any] | None) -> None:
    found = figures(stats(2, 4, 1.0, accepted=50, dropped_gone=1), before)
    assert found["messages_in"] == 25
    assert found["dropped"] == {"gone": 0.5}
    assert found["cpu"] == 0.5
    assert found["latency"]["relay"]["count"] == 4
    assert found["loops"][0]["loop_lag"]["count"] == 4


def test_two_readings_at_one_moment_have_no_rates() -> None:
    assert figures(stats(2, accepted=5), stats(2, accepted=5))["messages_in"] == 0


def test_a_node_of_an_older_version_has_no_latencies() -> None:
    old = {"node": "a", "uptime": 2.0, "total": {"connections": 1, "accepted": 4, "written": 0}}
    found = figures(old, None)
    assert (found["messages_in"], found["latency"], found["loops"], found["cpu"]) == (2, {}, [], 0)
    both = summed([found, figures(stats(2, 3, accepted=8), None)])
    assert (both["messages_in"], both["latency"]["relay"]["count"]) == (6, 3)
    assert "memory" not in both  # not known of each


def test_the_sum_of_a_cluster() -> None:
    one = figures(stats(2, 3, 1.0, connections=5, dropped_gone=2), None)
    other = figures(stats(4, 5, 1.0, connections=7, dropped_gone=4, dropped_nats=4), None)
    found = summed([one, other])
    assert (found["nodes"], found["connections"], found["cpu"], found["memory"]) == (2, 12, 0.75, 2000)
    assert found["dropped"] == {"gone": 2, "nats": 1}
    assert found["latency"]["relay"]["count"] == 8
    nothing = summed([])
    assert (nothing["nodes"], nothing["connections"], nothing["dropped"], nothing["latency"]) == (0, 0, {}, {})
