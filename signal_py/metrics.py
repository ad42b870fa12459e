"""The metrics of an engine, made from its statistics, for prometheus_client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from signal_core.names import HISTOGRAMS
from signal_py.auth.jwks_fetch import REASONS
from signal_py.base.histograms import cumulative, of_counts

LINK_STATES = ("off", "connecting", "up", "away", "refused")
# What follows the first word of these counters is a label of one metric. Their old names go after the next version.
LABELS = (
    ("refused", "reason", "messages refused, by the reason that their sender gets; the sum is a part of accepted"),
    ("dropped", "cause", "deliveries dropped, by cause; the sum is a part of attempted"),
)

Stats = Mapping[str, Any]
Counters = Iterable[tuple[str, str, str]]  # name, kind, help


class EngineCollector(Collector):
    """Makes the metrics: every counter by loop (`service`: the embedding program), and the state of the node."""

    def __init__(self, counters: Counters, stats: Callable[[], Stats]) -> None:
        self._counters = tuple(counters)
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """Yields the metrics, from one snapshot of the statistics."""
        stats = self._stats()
        counted = {str(index): counts for index, counts in enumerate(stats.get("loops", ()))}
        if "service" in stats:
            counted["service"] = stats["service"]
        for name, kind, text in self._counters:
            family = GaugeMetricFamily if kind == "gauge" else CounterMetricFamily
            metric = family(f"signal_engine_{name}", text + _replaced(name), labels=["loop"])
            for loop, counts in counted.items():
                metric.add_metric([loop], counts[name])
            yield metric
        yield from self._labelled(counted)
        yield from _histograms(stats)
        yield from _general(stats)

    def _labelled(self, counted: Mapping[str, Mapping[str, int]]) -> Iterable[Metric]:
        """Yields one metric for each of LABELS."""
        names = [name for name, _, _ in self._counters]
        for first, label, text in LABELS:
            metric = CounterMetricFamily(f"signal_engine_{first}", text, labels=["loop", label])
            for loop, counts in counted.items():
                for name in names:
                    if name.startswith(f"{first}_"):
                        metric.add_metric([loop, name.removeprefix(f"{first}_")], counts[name])
            yield metric


def _replaced(name: str) -> str:
    """Returns what to add to the help of a counter that is also a label of another one."""
    for first, label, _ in LABELS:
        if name.startswith(f"{first}_"):
            value = name.removeprefix(f"{first}_")
            return f'. Deprecated: signal_engine_{first}_total{{{label}="{value}"}} replaces it'
    return ""


def _histograms(stats: Stats) -> Iterable[Metric]:
    """Yields the histograms of times, each the sum of all loops."""
    for name, text in HISTOGRAMS:
        metric = HistogramMetricFamily(f"signal_engine_{name}_seconds", text)
        found = stats.get("latency", {}).get(name) or of_counts([0] * 51)
        metric.add_metric([], buckets=cumulative(found), sum_value=found["sum"])
        yield metric
    cpu = CounterMetricFamily("signal_engine_cpu_seconds", "CPU time of a loop's thread", labels=["loop"])
    for index, seconds in enumerate(stats.get("cpu", ())):
        cpu.add_metric([str(index)], seconds)
    yield cpu


def _general(stats: Stats) -> Iterable[Metric]:
    """Yields the metrics that are not counters of the core."""
    info = {name: str(stats.get(name, "")) for name in ("node", "version")}
    yield InfoMetricFamily("signal_engine", "the node and its version", value=info)
    link = GaugeMetricFamily("signal_engine_nats_state", "1 for the current state of the NATS link", labels=["state"])
    for state in LINK_STATES:
        link.add_metric([state], int(stats.get("nats_state") == state))
    yield link
    yield from _keys(stats)
    dropped = stats.get("service_dropped", 0)
    yield CounterMetricFamily(
        "signal_engine_service_dropped",
        "messages to the embedding program dropped because it did not read them in time",
        value=dropped,
    )
    yield CounterMetricFamily(
        "signal_engine_log_dropped",
        "log lines dropped because they could not be written in time",
        value=stats.get("log_dropped", 0),
    )
    if stats.get("descriptors") is not None:
        yield GaugeMetricFamily(
            "signal_engine_descriptors",
            "open descriptors in all descriptor tables of the process",
            value=stats["descriptors"],
        )
    if stats.get("memory") is not None:
        yield GaugeMetricFamily(
            "signal_engine_resident_memory_bytes", "resident memory of the process", value=stats["memory"]
        )


def _keys(stats: Stats) -> Iterable[Metric]:
    """Yields the metrics of keys for tokens."""
    text = "keys that verify tokens; with --auth jwt, 0 means that none could be loaded yet"
    yield GaugeMetricFamily("signal_engine_auth_keys", text, value=stats.get("auth_keys", 0))
    text = "1 for the reason why keys could not be loaded the last time"
    trouble = GaugeMetricFamily("signal_engine_auth_keys_trouble", text, labels=["reason"])
    for reason in REASONS:
        trouble.add_metric([reason], int(stats.get("auth_keys_trouble") == reason))
    yield trouble
