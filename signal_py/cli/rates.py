"""What `top` shows, computed from the statistics of nodes. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from signal_py.base.histograms import merged, since

RATES = {"messages_in": "accepted", "messages_out": "written", "bytes_in": "bytes_in", "bytes_out": "bytes_out"}
CAUSES = ("refused", "dropped")
GAUGES = ("connections", "memberships", "in_flight", "backlog_bytes")
STATE = ("node", "version", "state", "uptime", "nats_state", "memory", "descriptors")
LEAST_SECONDS = 1e-3  # between two readings: a shorter time gives no rate

Stats = Mapping[str, Any]
Figures = dict[str, Any]


def figures(now: Stats, before: Stats | None) -> Figures:
    """Returns the figures of one node.

    now     its statistics
    before  an earlier reading; None: rates are since its start

    Rates are a second. If the node has started anew in between, they are since its start as well.
    """
    if before is not None and _restarted(now, before):
        before = None
    seconds = max(now.get("uptime", 0.0) - (before or {}).get("uptime", 0.0), LEAST_SECONDS)
    total: Counter[str] = Counter(now.get("total", {}))
    total.subtract((before or {}).get("total", {}))
    latency = {name: since(found, _latency(before).get(name)) for name, found in _latency(now).items()}
    return {
        **{name: now.get(name) for name in STATE},
        **{name: now.get("total", {}).get(name, 0) for name in GAUGES},
        **{name: round(total[counter] / seconds, 3) for name, counter in RATES.items()},
        **{first: _causes(total, first, seconds) for first in CAUSES},
        "cpu": round(sum(_shares(now, before, seconds)), 4),
        "latency": latency,
        "loops": _loops(now, before, seconds),
    }


def summed(nodes: Iterable[Figures]) -> Figures:
    """Returns the figures of a cluster: sums over its nodes, and latencies of all together."""
    found = list(nodes)
    names = [*GAUGES, *RATES, "cpu"]
    names += [name for name in ("memory", "descriptors") if all(node[name] is not None for node in found)]
    latencies = {name for node in found for name in node["latency"]}
    return {
        "nodes": len(found),
        **{name: round(sum(node[name] for node in found), 3) for name in names},
        **{first: dict(sum((Counter(node[first]) for node in found), Counter())) for first in CAUSES},
        "latency": {
            name: merged(node["latency"][name] for node in found if name in node["latency"])
            for name in sorted(latencies)
        },
    }


def _restarted(now: Stats, before: Stats) -> bool:
    return bool(now.get("node") != before.get("node") or now.get("uptime", 0.0) < before.get("uptime", 0.0))


def _latency(stats: Stats | None) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (stats or {}).get("latency", {})
    return found


def _causes(total: Mapping[str, int], first: str, seconds: float) -> dict[str, float]:
    """Returns the rates of the counters `<first>_<cause>` that are not 0."""
    names = [name for name in total if name.startswith(f"{first}_") and total[name]]
    return {name.removeprefix(f"{first}_"): round(total[name] / seconds, 3) for name in names}


def _shares(now: Stats, before: Stats | None, seconds: float) -> list[float]:
    """Returns the share of a CPU that each loop took."""
    old = (before or {}).get("cpu") or [0.0] * len(now.get("cpu", ()))
    return [
        round(max(after - earlier, 0.0) / seconds, 4) for after, earlier in zip(now.get("cpu", ()), old, strict=True)
    ]


def _loops(now: Stats, before: Stats | None, seconds: float) -> list[Figures]:
    """Returns the figures of each loop; none of a node that was asked by NATS."""
    old = (before or {}).get("loop_lag") or [None] * len(now.get("loop_lag", ()))
    rows = zip(now.get("loops", ()), now.get("loop_lag", ()), old, _shares(now, before, seconds), strict=False)
    return [
        {"connections": counts["connections"], "cpu": cpu, "loop_lag": since(lag, earlier)}
        for counts, lag, earlier, cpu in rows
    ]
