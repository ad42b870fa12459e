"""The bars that the engine is held to, each beside what the kept results say of it. Only targets are typed here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import scale
from results import RESULTS, Figures, Spread, label, pooled, ratios, read, read_scales, spread

MILLION = 1_000_000
RIVAL, PROXY = "uws", "goproxy"


@dataclass(frozen=True)
class Bar:
    """What is bounded, by how much, and what was measured, if it was."""

    what: str
    target: float
    found: Spread | None
    unit: str = "×"
    least: bool = False  # the target is a lower bound
    lost: int | None = None  # messages, where none may be lost
    compared: bool = True  # False where it shows what the machine or a setting does, beside a bar

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
        """Met or missed where every turn is; `not shown` where the target lies within the spread."""
        if self.found is None:
            return "not measured"
        if not self.compared:
            return "for comparison"
        ends = (self.found.low, self.found.high)
        within = [end >= self.target if self.least else end <= self.target for end in ends]
        if self.lost or not any(within):
            return "missed"
        return "met" if all(within) else "not shown"


def by_of(macro: Figures, scenario: str) -> dict[str, Figures]:
    """The columns of each contender in a scenario."""
    found: dict[str, Figures] = macro.get("scenarios", {}).get(scenario, {}).get("by", {})
    return found


def form(kept: Figures, name: str) -> Figures:
    """The columns of a form of a measurement; empty where there are none."""
    found: Figures = kept.get("forms", {}).get(name, {})
    return found


def beside(macro: Figures, scenario: str, other: str, figure: str) -> Spread | None:
    """The engine's figure by another's, turn by turn; a sampled one pooled."""
    by = by_of(macro, scenario)
    mine, theirs = by.get("engine", {}), by.get(other, {})
    return pooled(mine, theirs, figure) if figure == "user_us" else spread(ratios(mine, theirs, figure))


def of_million(scales: list[Figures]) -> list[Figures]:
    """What was found among a million."""
    return [kept["scale"] for kept in scales if kept["scale"]["connections"] == MILLION]


def million_to_few(scales: list[Figures]) -> Spread | None:
    """A delivery's CPU among a million by that among few, without pings: by the mean of both runs, and by each."""
    for found in of_million(scales):
        if scale.without_pings(found):
            mine, few = found["many"]["cpu_us"], [run["cpu_us"] for run in found["few"]]
            return Spread(mine / max(few), mine / (sum(few) / len(few)), mine / min(few))
    return None


def cpu_bars(macro: Figures) -> Iterator[Bar]:
    """CPU a delivery by that of the rival, whose router is in C++, too."""
    rows = (
        ("relay", "1:1 in pairs", 0.8),
        ("random", "1:1 from anyone to anyone", 0.8),
        ("fanout-10k", "one room of 10,000", 0.6),
    )
    name = label(RIVAL)
    for scenario, words, user in rows:
        yield Bar(f"{words}: CPU a delivery, by that of {name}", 1.0, beside(macro, scenario, RIVAL, "cpu_us"))
        yield Bar(f"{words}: user CPU a delivery, by the same", user, beside(macro, scenario, RIVAL, "user_us"))
    by = by_of(macro, "fanout-10k")
    two = spread(ratios(by.get("engine-2", {}), by.get("engine", {}), "cpu_us"))
    yield Bar("one room of 10,000 on two loops: CPU a delivery, by the engine's own on one", 1.1, two)
    churn = beside(macro, "churn", RIVAL, "cpu_us")
    yield Bar(f"connect, greet, close: CPU a connection, by that of {name}", 1.0, churn)


def distance_bars(macro: Figures, scales: list[Figures], hop: Figures) -> Iterator[Bar]:
    """Among many, from loop to loop, from node to node."""
    words = f"1:1 and rooms among {MILLION:,}, without pings: CPU a delivery, by the engine's own among 1,000"
    yield Bar(words, scale.BOUND, million_to_few(scales))
    ratio = spread(form(hop, "hop").get("ratio", []))
    yield Bar("1:1 to another loop: what it takes longer than on one, by a bare wake", 1.2, ratio)
    words, name = "1:1 from node to node", label(PROXY)
    yield Bar(f"{words}: CPU a delivery, by that of {name}", 0.4, beside(macro, "cross", PROXY, "cpu_us"))
    speed = beside(macro, "cross", PROXY, "per_second")
    yield Bar(f"{words}: deliveries a second, by the same", 1.4, speed, least=True)
    lone = beside(macro, "cross-pair", PROXY, "p50_us")
    yield Bar("a lone pair of two nodes: median latency, by the same", 0.7, lone)


def storm_bars(storm: Figures) -> Iterator[Bar]:
    """One for each form that is kept, or one that is not measured."""
    if not storm.get("forms"):
        yield Bar("storm of reconnects: p99 of the others' relays, by that in quiet", 10, None, lost=0)
    for name, kept in storm.get("forms", {}).items():
        options = f"`{name}`" if name.startswith("-") else name
        what = f"storm of {kept['connections']:,} reconnects, {options}: p99 of the others' relays, by that in quiet"
        compared = not {"--apart", "--server"} & set(name.split())
        yield Bar(what, 10, spread(kept["ratio"]), lost=sum(kept["lost"]), compared=compared)


def bars(folder: Path = RESULTS) -> list[Bar]:
    """All of them, by the results kept in a folder."""
    macro, scales = read("macro", folder), read_scales(folder)
    each = spread(found["many"]["user_bytes"] for found in of_million(scales))
    kernel = spread(form(read("kernel", folder), "kernel").get("ratio", []))
    return [
        Bar(f"user memory of a connection among {MILLION:,}", 192, each, unit="B"),
        Bar("kernel memory of an idle connection, by a bare socket's", 1.07, kernel),
        *cpu_bars(macro),
        *distance_bars(macro, scales, read("hop", folder)),
        *storm_bars(read("storm", folder)),
    ]
