"""The bars that the engine is held to, each beside what the kept results say of it.

Only the targets are written here. A bar is met where the median of what was measured is: half of the turns may be
beyond it, and the spread tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from results import (
    Figures,
    Run,
    Runs,
    Spread,
    figure,
    figures,
    label,
    pooled,
    read,
    read_scales,
    scenarios,
    spread,
    turns,
)
from scale_figures import BOUND, cpu_per_delivery, without_pings

MILLION = 1_000_000
USER = ("all_servers", "user_us_per_delivery")
CPU = ("all_servers", "cpu_us_per_delivery")
RIVAL, PROXY = "uws", "goproxy"


@dataclass(frozen=True)
class Bar:
    """What is bounded, by how much, and what was measured, if it was."""

    what: str
    target: float
    found: Spread | None
    unit: str = "×"
    least: bool = False  # the target is the least that will do, else the most
    lost: int | None = None  # messages, where none may be
    compared: bool = True  # False where it tells what the machine does, or a setting, beside a bar

    def targeted(self) -> str:
        """The target for people."""
        none_lost = ", none lost" if self.lost is not None else ""
        return f"{'≥' if self.least else '≤'} {self.target:g} {self.unit}{none_lost}"

    def measured(self) -> str:
        """What was measured, for people."""
        if self.found is None:
            return ""
        lost = "" if self.lost is None else f", {self.lost or 'none'} lost"
        return f"{self.found} {self.unit}{lost}"

    def verdict(self) -> str:
        """Whether it is met."""
        if self.found is None:
            return "not measured"
        if not self.compared:
            return "for comparison"
        within = self.found.middle >= self.target if self.least else self.found.middle <= self.target
        return "met" if within and not self.lost else "missed"


def at(*path: str) -> Callable[[Run], float | None]:
    """What the keys lead to, as a function of a run."""
    return lambda run: figure(run, *path)


def beside(macro: Figures, scenario: str, other: str, *path: str) -> Spread | None:
    """The engine's figure by another's, turn by turn."""
    by = scenarios(macro).get(scenario, {})
    mine, theirs = by.get("engine", []), by.get(other, [])
    return pooled(mine, theirs, *path) if path == USER else spread(turns(mine, theirs, at(*path)))


def of_million(scales: list[Figures]) -> list[Figures]:
    """What was found among a million."""
    return [kept["scale"] for kept in scales if kept["scale"]["connections"] == MILLION]


def million_to_few(scales: list[Figures]) -> Spread | None:
    """A delivery's CPU among a million by that among few, without pings: by the mean of both runs, and by each."""
    for found in of_million(scales):
        if without_pings(found):
            mine, few = cpu_per_delivery(found["many"]), [cpu_per_delivery(run) for run in found["few"]]
            return Spread(mine / max(few), mine / (sum(few) / len(few)), mine / min(few))
    return None


def memory_bars(scales: list[Figures], kernel: Figures) -> Iterator[Bar]:
    """What a connection takes."""
    runs: Runs = [found["many"] for found in of_million(scales)]
    each = spread(figures(runs, "all_servers", "bytes_per_connection"))
    yield Bar(f"user memory of a connection among {MILLION:,}", 192, each, unit="B")
    ratio = spread(figures(kernel.get("kernel", {}).get("turns", []), "ratio"))
    yield Bar("kernel memory of an idle connection, by a bare socket's", 1.07, ratio)


def cpu_bars(macro: Figures) -> Iterator[Bar]:
    """CPU a delivery by that of the rival, whose router is in C++, too."""
    rows = (
        ("relay", "1:1 in pairs", 0.8),
        ("random", "1:1 from anyone to anyone", 0.8),
        ("fanout-10k", "one room of 10,000", 0.6),
    )
    for scenario, words, user in rows:
        yield Bar(f"{words}: CPU a delivery, by that of {label(RIVAL)}", 1.0, beside(macro, scenario, RIVAL, *CPU))
        yield Bar(f"{words}: user CPU a delivery, by the same", user, beside(macro, scenario, RIVAL, *USER))
    by = scenarios(macro).get("fanout-10k", {})
    two = spread(turns(by.get("engine-2", []), by.get("engine", []), at(*CPU)))
    yield Bar("one room of 10,000 on two loops: CPU a delivery, by the engine's own on one", 1.1, two)
    churn = beside(macro, "churn", RIVAL, *CPU)
    yield Bar(f"connect, greet, close: CPU a connection, by that of {label(RIVAL)}", 1.0, churn)


def distance_bars(macro: Figures, scales: list[Figures], hop: Figures) -> Iterator[Bar]:
    """From many, from loop to loop, from node to node."""
    words = f"1:1 and rooms among {MILLION:,}, without pings: CPU a delivery, by the engine's own among 1,000"
    yield Bar(words, BOUND, million_to_few(scales))
    ratio = spread(figures(hop.get("hop", {}).get("turns", []), "ratio"))
    yield Bar("1:1 to another loop: what it takes longer than on one, by a bare wake", 1.2, ratio)
    name = label(PROXY)
    across = beside(macro, "cross", PROXY, *CPU)
    yield Bar(f"1:1 from node to node: CPU a delivery, by that of {name}", 0.4, across)
    speed = beside(macro, "cross", PROXY, "per_second")
    yield Bar("1:1 from node to node: deliveries a second, by the same", 1.4, speed, least=True)
    median = beside(macro, "cross-pair", PROXY, "latency_us", "p50")
    yield Bar("a lone pair of two nodes: median latency, by the same", 0.7, median)


def storm_bars(storm: Figures) -> Iterator[Bar]:
    """One for each form that is kept, or one that is not measured."""
    kept = storm.get("storm", {})
    if not kept.get("forms"):
        yield Bar("storm of reconnects: p99 of the others' relays, by that in quiet", 10, None, lost=0)
    for form, runs in kept.get("forms", {}).items():
        options = f"`{form}`" if form.startswith("-") else form
        yield Bar(
            f"storm of {kept['connections']:,} reconnects, {options}: p99 of the others' relays, by that in quiet",
            10,
            spread(figures(runs, "ratio")),
            lost=sum(int(run["lost"]) for run in runs),
            compared=not {"--apart", "--server"} & set(form.split()),
        )


def bars(folder: Path) -> list[Bar]:
    """All of them, by the results kept in a folder."""
    macro, scales = read("macro", folder), read_scales(folder)
    return [
        *memory_bars(scales, read("kernel", folder)),
        *cpu_bars(macro),
        *distance_bars(macro, scales, read("hop", folder)),
        *storm_bars(read("storm", folder)),
    ]
