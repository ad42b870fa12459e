"""The model of docs/sizing.md: what a node of so many connections takes, computed from the results that are kept.

    python bench/sizing.py               # the tables that are computed, and the model held to what was measured
    make sizing                          # docs/sizing.md, by sizing_doc.py

No figure is typed here but the system's defaults: each comes from a file in results/, by the command that it names.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structures
from results import RESULTS, Figures, digits_of, figures, read, read_scales, scenarios

INTERVAL = 25.0  # seconds between pings: the engine's default
TABLE = 1_048_576  # descriptors that a table may have: fs.nr_open's default
FILLED = 7 / 8  # of a table: as loops' shares differ
LOOPS = 8  # of a node, where the descriptors need no more
LINK_THREADS = 3  # through which all that a node's link carries goes: its loop, nats-server's reader and its writer
MILLION = "scale-1000000"


class Missing(Exception):
    """A result that the model needs is not kept; the text says which command makes it."""


@dataclass(frozen=True)
class Span:
    """From a figure to another."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def times(self, by: float) -> Span:
        """Both by the same."""
        return Span(self.low * by, self.high * by)

    def at_most(self, bound: float) -> Span:
        """The upper one no higher than that, unless the lower one is."""
        return Span(self.low, max(self.low, min(self.high, bound)))

    def shown(self, digits: int) -> str:
        """Both, or one where they do not differ."""
        low, high = (f"{value:,.{digits}f}" for value in (self.low, self.high))
        return low if low == high else f"{low} to {high}"


def between(one: float, other: float) -> Span:
    """From the lesser to the greater."""
    return Span(min(one, other), max(one, other))


@dataclass(frozen=True)
class Costs:
    """What was measured: memory in bytes, processor time in seconds."""

    connection: float  # of the engine, for an open one
    member: float  # for the membership in a room
    room: float  # for a room
    room_on_loop: float  # for each loop that has members of it
    kernel: float  # of the kernel, for a connection's end
    subscription: float  # of nats-server
    ping: Span  # a ping and its pong: among some thousands, and among a million
    delivery: float  # on a loop that has always more to do
    wake: float  # what a message takes more for each loop that sleeps until it comes
    crossing: Span  # what a message takes more that crosses NATS, nats-server included: among many, and alone


def needed(name: str, command: str, folder: Path) -> Figures:
    """A kept file; Missing where there is none."""
    if not (found := read(name, folder)):
        raise Missing(f"bench/results/{name}.json is not there: `{command}` makes it")
    return found


def medians(turns: list[Figures]) -> dict[str, float]:
    """Of each figure, over all turns."""
    return {name: statistics.median(float(turn[name]) for turn in turns) for name in turns[0]}


def crowds(kept: Figures, one_loop: bool) -> dict[int, dict[str, float]]:
    """Of structures.json: the medians of each crowd by its connections, of those on one loop or of those on many."""
    found = {}
    for form, turns in kept["structures"]["forms"].items():
        conns, loops = (int(word) for word in form.split()[1::2])
        if (loops == 1) == one_loop:
            found[conns] = medians(turns)
    return dict(sorted(found.items()))


def room_bytes(kept: Figures, one_loop: bool) -> float:
    """The most that a room of ten was measured to take, in a crowd that is large enough for what malloc keeps."""
    name = f"join a room of {structures.ROOM}: bytes"
    found = [crowd[name] * structures.ROOM for conns, crowd in crowds(kept, one_loop).items() if conns >= 100_000]
    if not found:
        raise Missing("bench/results/structures.json has too few crowds: `python bench/structures.py --loops 56`")
    return max(found)


def us_of(macro: Figures, scenario: str) -> float:
    """Microseconds of a server's CPU a delivery, all its processes; the engine's median."""
    runs = scenarios(macro).get(scenario, {}).get("engine", [])
    if not (found := figures(runs, "all_servers", "cpu_us_per_delivery")):
        raise Missing(f"bench/results/macro.json has no `{scenario}`: `make bench-performance` makes it")
    return statistics.median(found)


def ping_among(run: Figures) -> float:
    """Microseconds of the engine's CPU for a ping in the quiet time of a run of scale.py."""
    quiet = run["quiet"]
    if not quiet["pings"]:
        raise Missing(f"bench/results/{MILLION}.json has no pings: `make bench-scale N=1000000` makes it")
    return float((quiet["user_s"] + quiet["system_s"]) * 1e6 / quiet["pings"])


def touched(places: int, members: int) -> float:
    """How many of so many places have one of the members, who are anywhere."""
    return float(places * (1 - (1 - 1 / places) ** members))


def wakes(run: Figures, loops: int) -> float:
    """Loops that a run of scale.py wakes a second: one for each relay, and those that have members for each publish."""
    relays = run["delivered"] / run["seconds"] - run["room_rate"] * (run["members"] - 1)
    return float(relays + run["room_rate"] * touched(loops, run["members"] - 1))


def wake_us(scales: list[Figures], busy_us: float) -> float:
    """Microseconds of a wake-up, among few connections over many loops, which sleep before each: the most of the runs.

    What a delivery takes there more than on a busy loop, by how many loops a delivery wakes.
    """
    found: list[float] = []
    for kept in scales:
        us = float(kept["scale"]["figures"]["few"]["cpu_us_per_delivery_less_pings"])
        few = kept["scale"]["few"][0]
        found.append((us - busy_us) * few["delivered"] / few["seconds"] / wakes(few, kept["scale"]["loops"]))
    return max(found)


def subscriptions(kept: Figures) -> dict[int, dict[str, float]]:
    """Of nats.json: bytes and processor microseconds a subscription, by how many there were."""
    found = {}
    for form, turns in kept["nats"]["forms"].items():
        found[int(form.split()[1])] = medians(turns)
    return dict(sorted(found.items()))


def costs(folder: Path = RESULTS) -> Costs:
    """What the kept results say; Missing where one of them is not there."""
    filled = needed("structures", "python bench/structures.py --json bench/results/structures.json", folder)
    million = needed(MILLION, "make bench-scale N=1000000", folder)["scale"]
    macro = needed("macro", "make bench-performance", folder)
    pinged = needed("keepalive", "python bench/keepalive.py --json bench/results/keepalive.json", folder)["keepalive"]
    nats = needed("nats", "python bench/nats_subscriptions.py --json bench/results/nats.json", folder)
    largest = list(crowds(filled, True).values())[-1]
    member = largest["join one room of all, as the only one: bytes"]
    one_loop, apart = room_bytes(filled, True), room_bytes(filled, False)
    room_on_loop = (apart - one_loop) / (structures.ROOM - 1)
    busy = us_of(macro, "fanout")
    ping = statistics.median(figures(pinged["turns"], "us")), ping_among(million["many"])
    crossing = [us_of(macro, far) - us_of(macro, near) for far, near in (("cross", "relay"), ("cross-pair", "pair"))]
    return Costs(
        connection=largest["open: bytes"],
        member=member,
        room=one_loop - room_on_loop - structures.ROOM * member,
        room_on_loop=room_on_loop,
        kernel=million["figures"]["kernel_bytes"]["counted"],
        subscription=list(subscriptions(nats).values())[-1]["bytes"],
        ping=between(*ping).times(1e-6),
        delivery=busy * 1e-6,
        wake=wake_us(read_scales(folder), busy) * 1e-6,
        crossing=between(*crossing).times(1e-6),
    )


@dataclass(frozen=True)
class Case:
    """Connections on nodes, in rooms of `members` that are anywhere; `rate` messages a second are published in all.

    Each connection is in one room, unless `some_rooms` says that there are only so many.
    """

    connections: int
    nodes: int
    members: int
    rate: float
    some_rooms: int = 0
    some_loops: int = 0

    @property
    def each(self) -> float:
        """Connections of a node."""
        return self.connections / self.nodes

    @property
    def rooms(self) -> float:
        """Of all nodes together."""
        return self.some_rooms or self.connections / self.members

    @property
    def loops(self) -> int:
        """Of a node: as many as its tables of descriptors demand, and no less than LOOPS."""
        return self.some_loops or max(LOOPS, -(-int(self.each) // int(TABLE * FILLED)))

    def share(self, places: int) -> float:
        """Of rooms that have a member in one of so many places, members being anywhere."""
        return touched(places, self.members) / places

    def subscriptions(self) -> float:
        """Of a node: one for each room that has members on it."""
        return self.rooms * self.share(self.nodes)

    def engine(self, cost: Costs) -> float:
        """Bytes of a node's engine, besides what it takes without connections."""
        memberships = self.rooms * self.members / self.nodes
        on_loops = self.rooms * self.loops * self.share(self.nodes * self.loops)
        own = self.each * cost.connection + memberships * cost.member
        return own + self.subscriptions() * cost.room + on_loops * cost.room_on_loop

    def kernel(self, cost: Costs) -> float:
        """Bytes of a node's kernel."""
        return self.each * cost.kernel

    def link(self) -> float:
        """Messages a second over a node's connection to NATS, out and in."""
        if self.nodes == 1:
            return self.rate
        return self.rate / self.nodes + self.rate * (1 - 1 / self.nodes) * self.share(self.nodes)

    def deliveries(self) -> float:
        """A second, on a node."""
        return self.rate * (self.members - 1) / self.nodes

    def wakes(self) -> float:
        """Loops of a node that are woken a second, where all sleep until a message comes."""
        everywhere = touched(self.nodes * self.loops, self.members - 1)
        return self.rate * everywhere / self.nodes

    def pings(self) -> float:
        """A second, on a node, where all are idle."""
        return self.each / INTERVAL

    def messages(self, cost: Costs) -> Span:
        """Cores of a node for messages, and of nats-server for those that cross its link."""
        crossing = cost.crossing.times(self.link()).at_most(LINK_THREADS)
        return delivering(cost, self.deliveries(), self.wakes(), self.loops) + crossing


def delivering(cost: Costs, deliveries: float, woken: float, loops: int) -> Span:
    """Cores for so many deliveries a second, of which so many wake a loop: from none to all of these.

    They take no more than the loops, each of which is a thread.
    """
    busy = deliveries * cost.delivery
    return Span(busy, busy + woken * cost.wake).at_most(loops)


CASES = (
    Case(100_000, 1, 10, 1_000),
    Case(1_000_000, 1, 10, 10_000),
    Case(1_000_000, 2, 10, 10_000),
    Case(10_000_000, 1, 10, 10_000),
    Case(10_000_000, 5, 10, 100_000),
    Case(10_000_000, 5, 1000, 1_000),
    Case(10_000_000, 20, 10, 100_000),
)

COLUMNS: dict[str, Callable[[Case, Costs], str]] = {
    "connections": lambda case, cost: f"{case.connections:,}",
    "rooms × members": lambda case, cost: f"{case.rooms:,.0f} × {case.members:,}",
    "published a second": lambda case, cost: f"{case.rate:,}",
    "nodes": lambda case, cost: f"{case.nodes}",
    "loops of a node": lambda case, cost: f"{case.loops}",
    "descriptors of a loop": lambda case, cost: f"{case.each / case.loops:,.0f}",
    "engine, GB": lambda case, cost: f"{case.engine(cost) / 1e9:.2f}",
    "kernel, GB": lambda case, cost: f"{case.kernel(cost) / 1e9:.1f}",
    "cores, pings": lambda case, cost: cost.ping.times(case.pings()).shown(2),
    "cores, messages": lambda case, cost: case.messages(cost).shown(2),
    "subscriptions": lambda case, cost: f"{case.subscriptions():,.0f}",
    "NATS messages a second": lambda case, cost: f"{case.link():,.0f}",
    "all nodes' subscriptions in NATS, GB": lambda case, cost: (
        f"{case.subscriptions() * case.nodes * cost.subscription / 1e9:.2f}"
    ),
}


def markdown(heads: list[str], rows: list[list[str]], text_columns: int = 0) -> str:
    """A table, numbers to the right but for the first columns."""
    rule = "|" + "---|" * text_columns + "--:|" * (len(heads) - text_columns)
    lines = [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(cells)} |" for cells in rows)]
    return "".join(f"{line}\n" for line in lines)


def computed(cost: Costs) -> str:
    """The table of cases, each row that of one node."""
    return markdown(list(COLUMNS), [[cell(case, cost) for cell in COLUMNS.values()] for case in CASES])


@dataclass(frozen=True)
class Check:
    """A figure of a run from end to end, and what the model says of it."""

    run: str
    name: str
    model: Span
    measured: float

    def row(self) -> list[str]:
        """Its cells: the ratios are the measured figure's to both ends of the model's."""
        digits = digits_of(self.measured)
        low, high = (f"{value:,.{digits}f}" for value in (self.model.low, self.model.high))
        ratios = [f"{self.measured / value:.2f}" for value in (self.model.low, self.model.high)]
        same = self.model.low == self.model.high
        return [self.run, self.name, low, "" if same else high, f"{self.measured:,.{digits}f}",
                ratios[0], "" if same else ratios[1]]


def checks(cost: Costs, kept: Figures) -> list[Check]:
    """A run of scale.py held to the model, with the pings and deliveries that were counted."""
    found, many = kept["scale"], kept["scale"]["many"]
    seconds, loops, n = many["seconds"], found["loops"], found["connections"]
    pings, deliveries = many["pings_measured"] / seconds, many["delivered"] / seconds
    used = many["all_servers"]["user_s"] + many["all_servers"]["system_s"]
    case = Case(n, 1, many["members"], 0, some_rooms=many["rooms"], some_loops=loops)
    run = f"{n:,}, {loops} loops"
    rates = f"{pings:,.0f} pings and {deliveries:,.0f} deliveries a second"
    cores = cost.ping.times(pings) + delivering(cost, deliveries, wakes(many, loops), loops)
    rows = [Check(run, f"cores, {rates}", cores, used / seconds)]
    if (each := many["all_servers"]["bytes_per_connection"]) is not None:
        memory = case.engine(cost)
        rows.append(Check(run, "engine, GB", Span(memory, memory).times(1e-9), each * n / 1e9))
    kernel = found["figures"]["kernel_bytes"]["counted"]
    if kernel != cost.kernel:  # which the model has from that run
        rows.append(Check(run, "kernel, GB", Span(cost.kernel, cost.kernel).times(n / 1e9), kernel * n / 1e9))
    return rows


CHECK_HEADS = ["run", "figure", "model, from", "to", "measured", "by from", "by to"]


def checked(cost: Costs, scales: list[Figures]) -> str:
    """The model held to all runs of scale.py that are kept."""
    return markdown(CHECK_HEADS, [check.row() for kept in scales for check in checks(cost, kept)], 2)


def main() -> int:
    """Prints both tables; 1 where a result is missing."""
    try:
        cost = costs()
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    print(computed(cost))
    print(checked(cost, read_scales()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
