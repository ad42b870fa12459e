"""Histograms against a model, and which iterations of a loop are measured."""

from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st

from signal_core import names, probe
from signal_py.base.histograms import BOUNDS

BOUNDS_NS = names.bucket_bounds()
TO, ROOM, RECEIPT = 1, 2, 3  # kinds.pxd
MS = 1_000_000
SHORT, LONG = 64, 4  # one in so many iterations is measured
near = st.sampled_from(BOUNDS_NS).flatmap(lambda bound: st.integers(bound - 2, bound + 2))
times = near | st.integers(0, 2**12) | st.integers(0, 2**36) | st.just(2**63)


def test_bounds() -> None:
    assert BOUNDS_NS[:4] == [1024, 1536, 2048, 3072]
    assert BOUNDS_NS[-1] == 2**34
    assert sorted(set(BOUNDS_NS)) == BOUNDS_NS
    assert len(probe.Histogram().counts) == len(BOUNDS_NS) + 2 == len(BOUNDS) + 1


@given(st.lists(st.tuples(times, st.integers(1, 1000))))
def test_each_time_is_in_its_bucket(samples: list[tuple[int, int]]) -> None:
    histogram = probe.Histogram()
    model = [0] * (len(BOUNDS_NS) + 1)
    for ns, weight in samples:
        histogram.record(ns, weight)
        model[bisect_right(BOUNDS_NS, ns)] += weight
    *counts, total = histogram.counts
    assert counts == model
    assert total == sum(ns * weight for ns, weight in samples) % 2**64


def run(*each: tuple[int, int, bool, bool, int, int], first: int = 1) -> tuple[dict[int, int], dict[int, int]]:
    """The histograms of relays and of loop lag of these iterations, of which `first` is the first one's number: counts
    by the lower bound of the bucket, in ms."""
    found = []
    for counts in probe.iterations(list(each), first):
        lower = [0, *BOUNDS_NS]
        found.append({lower[i] // MS: count for i, count in enumerate(counts[:-1]) if count})
    return found[0], found[1]


@given(first=st.integers(0, 2**40), step=st.integers(1, 5))
def test_a_measured_iteration_counts_for_all_of_its_kind(first: int, step: int) -> None:
    """Whatever periodic mixture of short and long iterations there is."""
    n = 4000
    short, long = (20 * MS, 3, False, False, 0, 0), (150 * MS, 5, True, False, 0, 0)
    relay, lag = run(*[short, *[long] * step] * n, first=first)
    assert lag[16] % SHORT == 0 and 0.9 * n < lag[16] < 1.1 * n
    assert lag[134] % LONG == 0 and 0.9 * n < lag[134] / step < 1.1 * n
    assert relay == {16: 3 * lag[16], 134: 5 * lag[134]}


def measured(*each: tuple[int, int, bool, bool, int, int]) -> tuple[dict[int, int], dict[int, int]]:
    """As `run`, each weighing 1: the last of these iterations is long, and measured. No other one is."""
    first = next(i for i in range(1, 99) if chosen(i, SHORT) < chosen(i + len(each) - 1, LONG))
    relay, lag = run(*each, first=first)
    return {ms: count // LONG for ms, count in relay.items()}, {ms: count // LONG for ms, count in lag.items()}


def chosen(number: int, of: int) -> bool:
    return number * 0x9E3779B1 % 2**32 < 2**32 // of


def test_a_message_of_another_loop_counts_from_when_that_read_it() -> None:
    for kind in (TO, ROOM):
        relay, lag = measured((20 * MS, 1, True, False, kind, 150 * MS))
        assert (relay, lag) == ({134: 1}, {16: 1})
    assert measured((20 * MS, 1, True, False, RECEIPT, 150 * MS))[0] == {16: 1}


def test_what_an_iteration_leaves_unwritten_counts_from_its_beginning() -> None:
    first, rest, end = (20 * MS, 1, False, True, 0, 0), (0, 1, False, False, 0, 0), (0, 1, True, False, 0, 0)
    assert measured(first, end)[0] == {16: 1}
    assert measured(first, rest, end)[0] == {0: 1}


def test_an_iteration_that_writes_nothing_is_no_relay() -> None:
    assert measured((20 * MS, 0, True, False, 0, 0)) == ({}, {16: 1})
