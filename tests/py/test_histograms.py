"""Histograms of statistics: quantiles, sums and differences."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from signal_core.names import bucket_bounds
from signal_py.base.histograms import BOUNDS, LAST, Histogram, cumulative, merged, of_counts, quantile, since

counts = st.lists(st.integers(0, 3) | st.integers(0, 10**12), min_size=len(BOUNDS), max_size=len(BOUNDS))
histograms = st.tuples(counts, st.integers(0, 10**18)).map(lambda made: of_counts([*made[0], made[1]]))


def times(*ns: int) -> Histogram:
    """A histogram of these times."""
    bounds = bucket_bounds()
    found = [0] * (len(bounds) + 1)
    for time in ns:
        found[sum(bound <= time for bound in bounds)] += 1
    return of_counts([*found, sum(ns)])


def test_an_empty_one() -> None:
    found = times()
    assert found == {"count": 0, "sum": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0, "buckets": []}


@given(st.lists(st.integers(1100, 10**10), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_true_one(ns: list[int], share: float) -> None:
    true = sorted(ns)[math.ceil(share * len(ns) - 1e-9) - 1] / 1e9
    assert true / 1.51 <= quantile(times(*ns)["buckets"], share) <= true * 1.51


def test_what_is_over_the_last_bound_is_taken_for_it() -> None:
    found = times(1 << 40)
    assert found["buckets"] == [[None, 1]]
    assert found["p50"] == found["max"] == LAST
    assert json.loads(json.dumps(found)) == found


@given(histograms, histograms)
def test_a_sum_and_its_difference(one: Histogram, other: Histogram) -> None:
    both = merged([one, other])
    assert both["count"] == one["count"] + other["count"]
    left = since(both, one)
    assert left["buckets"] == other["buckets"] or one["count"] == 0
    assert math.isclose(left["sum"], other["sum"], rel_tol=1e-6, abs_tol=1e-3 + one["sum"] * 1e-9)
    assert since(one, None) == one


def test_after_a_restart_all_times_are_new() -> None:
    now = times(5000, 5000)
    assert since(now, times(5000, 5000, 5000)) == now
    assert since(now, times(1 << 30)) == now


@given(histograms)
def test_cumulative_counts(found: Histogram) -> None:
    pairs = cumulative(found)
    assert [pair[0] for pair in pairs][-1] == "+Inf"
    assert len(pairs) == len(BOUNDS)
    assert [pair[1] for pair in pairs] == sorted(pair[1] for pair in pairs)
    assert pairs[-1][1] == found["count"]
