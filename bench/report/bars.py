"""The bars of the engine, each beside what the kept results say of it. Only the targets are typed here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import scale
from results import RESULTS, Figures, Spread, by_of, form, label, ratio, read, read_scales, spread

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
    lost: int | None = None  # messages, if none may be lost
    compared: bool = True  # False if it shows what the machine or a setting does, beside a bar

    def targeted(self) -> str:
        """The target for people."""
        none_lost = ", none lost" if self.lost is not None else ""
        return f"{'≥' if self.least else '≤'} {self.target:g} {self.unit}{none_lost}"

    def measured(self) -> str:
        """What was measured, for people."""
        lost = "" if self.lost is None else f", {self.lost or 'none'} lost"
        return f"{self.found} {self.unit}{lost}" if self.found else ""

    def verdict(self) -> str:
        """Met or missed if every turn is; `not shown` if the target lies within the spread."""
        if self.found is None or not self.compared:
            return "for comparison" if self.found else "not measured"
        ends = (self.found.low, self.found.high)
        within = [end >= self.target if self.least else end <= self.target for end in ends]
        if self.lost or not any(within):
            return "missed"
        return "met" if all(within) else "not shown"


def beside(macro: Figures, scenario: str, other: str, figure: str, mine: str = "engine") -> Spread | None:
    """The engine's figure divided by another's."""
    by = by_of(macro, scenario)
    return ratio(by.get(mine, {}), by.get(other, {}), figure)


def million_to_few(millions: list[Figures]) -> Spread | None:
    """A delivery's CPU among a million by that among few, without pings: by the mean of both runs, and by each."""
    for found in filter(scale.without_pings, millions):
        mine, few = found["many"]["cpu_us"], [run["cpu_us"] for run in found["few"]]
        return Spread(mine / max(few), mine / (sum(few) / len(few)), mine / min(few))
    return None


def storm_bars(storm: Figures) -> Iterator[Bar]:
    """One for each form that is kept, or one that is not measured."""
    words = "p99 of the others' relays, by that in quiet"
    if not storm:
        yield Bar(f"storm of reconnects: {words}", 10, None, lost=0)
    for name, kept in storm.get("forms", {}).items():
        options = f"`{name}`" if name.startswith("-") else name
        compared = not {"--apart", "--server"} & set(name.split())
        what = f"storm of {kept['connections']:,} reconnects, {options}: {words}"
        yield Bar(what, 10, spread(kept["ratio"]), lost=sum(kept["lost"]), compared=compared)


def bars(folder: Path = RESULTS) -> list[Bar]:
    """All of them, from the results kept in a folder."""
    macro = read("macro", folder)
    millions = [k["scale"] for k in read_scales(folder) if k["scale"]["connections"] == MILLION]
    each = spread(found["many"]["user_bytes"] for found in millions)
    kernel, hop = (spread(form(read(name, folder), name).get("ratio", [])) for name in ("kernel", "hop"))
    rival, proxy, nodes = f"by that of {label(RIVAL)}", f"by that of {label(PROXY)}", "1:1 from node to node"
    found = [
        Bar(f"user memory of a connection among {MILLION:,}", 192, each, unit="B"),
        Bar("kernel memory of an idle connection, by a bare socket's", 1.07, kernel),
    ]
    for scenario, words, user in (
        ("relay", "1:1 in pairs", 0.8), ("random", "1:1 from anyone to anyone", 0.8),
        ("fanout-10k", "one room of 10,000", 0.6),
    ):
        found.append(Bar(f"{words}: CPU a delivery, {rival}", 1.0, beside(macro, scenario, RIVAL, "cpu_us")))
        found.append(Bar(f"{words}: user CPU a delivery, by the same", user, beside(macro, scenario, RIVAL, "user_us")))
    return [
        *found,
        Bar("one room of 10,000 on two loops: CPU a delivery, by the engine's own on one", 1.1,
            beside(macro, "fanout-10k", "engine", "cpu_us", "engine-2")),
        Bar(f"connect, greet, close: CPU a connection, {rival}", 1.0, beside(macro, "churn", RIVAL, "cpu_us")),
        Bar(f"1:1 and rooms among {MILLION:,}, without pings: CPU a delivery, by the engine's own among 1,000",
            scale.BOUND, million_to_few(millions)),
        Bar("1:1 to another loop: what it takes longer than on one, by a bare wake", 1.2, hop),
        Bar(f"{nodes}: CPU a delivery, {proxy}", 0.4, beside(macro, "cross", PROXY, "cpu_us")),
        Bar(f"{nodes}: deliveries a second, by the same", 1.4, beside(macro, "cross", PROXY, "per_second"), least=True),
        Bar("a lone pair of two nodes: median latency, by the same", 0.7, beside(macro, "cross-pair", PROXY, "p50_us")),
        *storm_bars(read("storm", folder)),
    ]
