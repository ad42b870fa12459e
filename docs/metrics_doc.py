"""docs/metrics.md, from what the admin server exports: `python docs/metrics_doc.py > docs/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric

from signal_core.names import COUNTERS
from signal_py.admin import EngineCollector

HEAD = """\
# Metrics

What `/metrics` of the [admin server](operations.md#health-and-metrics) exports for Prometheus. Every engine counter has
the label `loop`: the number of a loop, or `service` for the embedding program. `/stats` has the same counters, without
the prefix `signal_engine_` and the suffix `_total`, and so has `signal-engine ctl stats --json`.

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
    """Name, type and meaning of each. The engine's own need no engine; a descriptor count is only there with one."""
    for metric in EngineCollector(COUNTERS, lambda: {"descriptors": 0}).collect():
        yield _name(metric), metric.type, metric.documentation


def _name(metric: Metric) -> str:
    suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    return metric.name + suffix


if __name__ == "__main__":
    print(document(), end="")
