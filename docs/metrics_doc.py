"""docs/metrics.md, from what the admin server exports: `python docs/metrics_doc.py > docs/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric

from signal_core.names import COUNTERS
from signal_py.metrics import EngineCollector

HEAD = """\
# Metrics

What `/metrics` of the [admin server](operations.md#health-and-metrics) exports for Prometheus. Every engine counter has
the label `loop`: the number of a loop, or `service` for the embedding program. `/stats` has the same counters, without
the prefix `signal_engine_` and the suffix `_total`, and so has `signal-engine ctl stats --json`.

Two counters have the label of a cause as well: `signal_engine_refused_total{reason="…"}` and
`signal_engine_dropped_total{cause="…"}`. They replace the counters `refused_*` and `dropped_*`, which are deprecated
and go away after the next version.

The histograms (`…_seconds`) are sums over all loops, in seconds, with two buckets for each power of two from 1 µs to
17 s. [architecture/latency.md](architecture/latency.md) says what each measures and how it is biased. `/stats` has them
in `latency`, with the estimates `p50`, `p90` and `p99`, and the loop lag of each loop in `loop_lag`.

`signal_engine_nats_state` has the label `state`, and `signal_engine_auth_keys_trouble` the label `reason`. The counters
`accepted` to `refused_rate` and `attempted` to `in_flight` are
[two ledgers](architecture/flow-control.md#two-ledgers) that balance exactly. [operations.md](operations.md#limits) says
which counter belongs to which limit.

| metric | type | meaning |
|---|---|---|
"""


def document() -> str:
    """The text of docs/metrics.md."""
    return HEAD + "".join(f"| `{name}` | {kind} | {text} |\n" for name, kind, text in metrics())


def metrics() -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of each. Most need no engine; descriptors and memory are only there with one."""
    for metric in EngineCollector(COUNTERS, lambda: {"descriptors": 0, "memory": 0}).collect():
        yield _name(metric), metric.type, metric.documentation


def _name(metric: Metric) -> str:
    suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    return metric.name + suffix


if __name__ == "__main__":
    print(document(), end="")
