"""Draws what `top` shows, with rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from signal_core.names import HISTOGRAMS
from signal_py.base.log import printable
from signal_py.cli.rates import Figures, summed

LOOPS_SHOWN = 32
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float | None) -> str:
    """Returns a number in at most 5 characters, such as 999, 1.5k or 12M; "-" for None."""
    if value is None:
        return "-"
    for size, unit in UNITS:
        if value >= size:
            return f"{value / size:.{1 if value < 100 * size else 0}f}{unit}"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Returns a time such as 12 µs, 3.4 ms or 1.2 s."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.{1 if seconds < 100 * size else 0}f} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def view(nodes: Sequence[Figures], trouble: Sequence[str]) -> RenderableType:
    """Returns the whole view: a table of nodes, or all about one node; and what is wrong."""
    parts: list[RenderableType] = []
    if len(nodes) == 1:
        parts += [_state(nodes[0]), _nodes(nodes), _latency(nodes[0]["latency"]), _loops(nodes[0]["loops"])]
    elif nodes:
        total = summed(nodes)
        parts += [_nodes([*nodes, {**total, "node": f"{total['nodes']} nodes"}]), _latency(total["latency"])]
    causes = summed(nodes)
    parts += [_causes("dropped/s", causes["dropped"]), _causes("refused/s", causes["refused"])]
    parts += [Text(printable(text), style="bold red") for text in trouble]
    parts.append(Text("q quits", style="dim"))
    return Group(*parts)


def _state(node: Figures) -> Text:
    """Returns a line about a node."""
    uptime = node["uptime"] or 0
    text = f"{node['node']}  {node['version']}  {node['state']}  up {uptime:.0f} s  NATS {node['nats_state']}"
    return Text(printable(text), style="bold")


def _nodes(nodes: Sequence[Figures]) -> Table:
    """Returns a row for each node."""
    titles = ("node", "state", "NATS", "conns", "in/s", "out/s", "B in/s", "B out/s", "drop/s", "refuse/s")
    table = _table(*titles, "relay p50", "p99", "CPU", "memory", "fds")
    for node in nodes:
        relay = node["latency"].get("relay", {"p50": 0.0, "p99": 0.0})
        table.add_row(
            *(printable(str(node.get(name) or "")) for name in ("node", "state", "nats_state")),
            *(count(node[name]) for name in ("connections", "messages_in", "messages_out", "bytes_in", "bytes_out")),
            *(count(sum(node[first].values())) for first in ("dropped", "refused")),
            duration(relay["p50"]),
            duration(relay["p99"]),
            f"{node['cpu']:.0%}",
            *(count(node.get(name)) for name in ("memory", "descriptors")),
        )
    return table


def _latency(latency: Mapping[str, Any]) -> Table:
    table = _table("latency", "samples", "p50", "p90", "p99", "max")
    for name, _ in HISTOGRAMS:
        found = latency.get(name)
        if found is not None:
            times = [duration(found[which]) if found["count"] else "-" for which in ("p50", "p90", "p99", "max")]
            table.add_row(name.replace("_", " "), count(found["count"]), *times)
    return table


def _loops(loops: Sequence[Figures]) -> Table:
    table = _table("loop", "connections", "lag p50", "lag p99", "CPU")
    for index, loop in enumerate(loops[:LOOPS_SHOWN]):
        lag = loop["loop_lag"]
        table.add_row(
            str(index), count(loop["connections"]), duration(lag["p50"]), duration(lag["p99"]), f"{loop['cpu']:.0%}"
        )
    if len(loops) > LOOPS_SHOWN:
        table.add_row(f"and {len(loops) - LOOPS_SHOWN} more")
    return table


def _causes(title: str, causes: Mapping[str, float]) -> Text:
    found = "  ".join(f"{cause.replace('_', '-')} {count(rate)}" for cause, rate in sorted(causes.items()))
    return Text(f"{title}: {found or 'none'}", style="yellow" if found else "dim")


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, title in enumerate(titles):
        table.add_column(
            title, justify="left" if index == 0 else "right", no_wrap=True, min_width=8 if index == 0 else 0
        )
    return table
