"""Histograms of times as `stats` has them, in seconds.

A histogram is a dict: `count` and `sum`; the estimates `p50`, `p90` and `p99`; `max`, the upper bound of the highest
bucket in use; and `buckets`, the non-empty ones as [upper bound, count]. The bound of the last bucket is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from signal_core.names import bucket_bounds

NS = 1_000_000_000
BOUNDS: tuple[float | None, ...] = (*(bound / NS for bound in bucket_bounds()), None)
LAST = bucket_bounds()[-1] / NS  # what a time in the last bucket is taken for
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_BELOW = dict(zip(BOUNDS, (0.0, *BOUNDS), strict=False))  # by a bucket's upper bound, its lower bound

Histogram = dict[str, Any]
Buckets = Sequence[Sequence[Any]]


def of_counts(counts: Sequence[int]) -> Histogram:
    """Returns a histogram from the core's: the count of each bucket, then the sum in ns."""
    pairs = zip(BOUNDS, counts[:-1], strict=True)
    return _made([[bound, count] for bound, count in pairs if count], counts[-1] / NS)


def measured(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the core's statistics with `latency`, the histograms of all loops by name, and `loop_lag`, that of each
    loop, in place of its `histograms`."""
    loops = stats.get("histograms", ())
    found = {name: value for name, value in stats.items() if name != "histograms"}
    if loops:
        sums = {
            name: [sum(counts) for counts in zip(*(loop[name] for loop in loops), strict=True)] for name in loops[0]
        }
        found["latency"] = {name: of_counts(counts) for name, counts in sums.items()}
        found["loop_lag"] = [of_counts(loop["loop_lag"]) for loop in loops]
    return found


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Returns one histogram of all their times."""
    found: Counter[float | None] = Counter()
    total = 0.0
    for histogram in histograms:
        found.update(dict(histogram["buckets"]))
        total += histogram["sum"]
    return _made([[bound, found[bound]] for bound in BOUNDS if found[bound]], total)


def since(now: Histogram, before: Histogram | None) -> Histogram:
    """Returns the times that were added after `before`; all of them if the node has started anew in between."""
    old = dict(before["buckets"]) if before else {}
    left = [[bound, count - old.pop(bound, 0)] for bound, count in now["buckets"]]
    if before is None or old or any(count < 0 for _, count in left):
        return now
    return _made([pair for pair in left if pair[1]], max(now["sum"] - before["sum"], 0.0))


def quantile(buckets: Buckets, share: float) -> float:
    """Returns an estimate of the quantile, as Prometheus makes it: times are spread evenly over their bucket. 0 if
    there are none."""
    rank = share * sum(count for _, count in buckets)
    for bound, count in buckets:
        if rank <= count:
            low = _BELOW[bound]
            assert low is not None
            return LAST if bound is None else round(low + (bound - low) * rank / count, 9)
        rank -= count
    return 0.0


def cumulative(histogram: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Returns each bucket's upper bound, as Prometheus writes it, and the count of times below that."""
    found: dict[float | None, int] = dict(histogram["buckets"])
    total, pairs = 0, []
    for bound in BOUNDS:
        total += found.get(bound, 0)
        pairs.append(("+Inf" if bound is None else repr(bound), float(total)))
    return pairs


def _made(buckets: list[list[Any]], total: float) -> Histogram:
    quantiles = {name: quantile(buckets, share) for name, share in QUANTILES.items()}
    most = (buckets[-1][0] or LAST) if buckets else 0.0
    count = sum(count for _, count in buckets)
    return {"count": count, "sum": round(total, 9), **quantiles, "max": most, "buckets": buckets}
