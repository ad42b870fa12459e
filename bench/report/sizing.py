"""The tables of docs/sizing.md, from what is kept in bench/results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import scale
from capacity import structures
from report import model
from report.bars import by_of
from report.model import Case, Costs, Span, crowds
from report.tables import machines, table
from results import RESULTS, Figures, digits_of, middle, read, read_scales, spread

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
STEPS = {
    "open: ns": "open",
    "look up an address: ns": "look up an address, in random order",
    "leave and rejoin a room of 10: ns": "leave and rejoin a room of 10, in random order",
    "leave and rejoin a room of 10,000: ns": "leave and rejoin a room of 10,000, in random order",
    "publish to a room of 10,000: ns a member": "publish to a room of 10,000, a member",
    "timers: ns a ping, without its write": "timers, a ping, without its write",
    "close: ns": "close, with two rooms, in random order",
}
LONGEST = {
    "timers: µs a tick of one loop, median": "a tick of the timers, median, in µs",
    "bunched timers: ms of their one tick": "all pings in one tick, divided into turns of 256 timers",
    "longest, open: ms": "open",
    "longest, join a room of 10: ms": "join a room of 10",
    "longest, join one room of all: ms": "join one room of all",
    "longest, close: ms": "close",
    "longest, free rooms, a turn: ms": "free rooms that went, a turn",
    "longest, a large malloc after that: ms": "malloc of a large block after the rooms went",
    "longest, lose NATS: ms": "NATS goes away (rooms: a tenth of the connections)",
    "longest, publish to one room of all: ms": "publish to one room of all",
}
DELIVERIES = {
    "fanout": "engine, a delivery in a room of 1,000",
    "relay": "engine, a delivery between two connections of a node",
    "cross": "... of two nodes, with both and the nats-server",
    "pair": "engine, a delivery between two that have one message under way",
    "cross-pair": "... of two nodes, with both and the nats-server",
}

Row = tuple[str, str, list[Figures]]  # a figure, its value, and the calls that measured it


def whole(kept: Figures) -> list[Figures]:
    """The call that made a file without forms."""
    return [{"date": kept["date"], "commit": kept["versions"].get("commit", ""), "command": kept["command"]}]


def sizes(by: dict[int, Figures], name: str, digits: int = 0, factor: float = 1.0, unit: str = "bytes") -> str:
    """A figure of each of the larger crowds, as `97 bytes of 100,000; 96 of 1,000,000`."""
    last = [(n, middle(found, name) * factor) for n, found in by.items() if n >= model.LARGE and name in found]
    text = "; ".join(f"{value:,.{digits}f} of {n:,}" for n, value in last)
    return text.replace(" of ", f" {unit} of ", 1)


def structure_rows(kept: Figures) -> Iterator[Row]:
    """What the engine's own structures take."""
    one, many = crowds(kept, True), crowds(kept, False)
    on_one = [crowd for conns, crowd in one.items() if conns >= model.LARGE]
    room, big = structures.ROOM, f"{structures.BIG:,}"
    yield "engine, an open idle connection", sizes(one, "open: bytes", 1), on_one
    only = sizes(one, "join one room of all, as the only one: bytes", 1)
    yield "... its membership in a large room, if it is its only one", only, on_one
    yield f"... a further membership in a room of {big}", sizes(one, f"join a second, of {big}: bytes"), on_one
    name = f"join a room of {room}: bytes"
    yield f"engine, a room of {room} with all members on one loop", sizes(one, name, 0, room), on_one
    apart = sizes(many, name, 0, room)
    yield f"engine, a room of {room} with each member on another loop", apart, list(many.values())
    for length in (12, 36):
        user = sizes(one, f"a user of its own, {length} bytes: bytes")
        yield f"engine, `--auth jwt`, a user of its own for each, named by {length} bytes", user, on_one


def auth_rows(kept: Figures) -> Iterator[Row]:
    """What tokens take."""
    if memory := kept["forms"].get("memory"):
        off = middle(memory, "auth off")
        one, each, nats = (
            f"{middle(memory, name) - off:,.0f}"
            for name in ("one user", "distinct users", "distinct users, with NATS")
        )
        yield "engine, `--auth jwt`, an expiry, and rights that others have, too", f"{one} bytes more", [memory]
        yield "... each of another user, with a room of its own", f"{each} bytes more; {nats} with NATS", [memory]
    if connecting := kept["forms"].get("connecting"):
        us = middle(connecting, "HS256") - middle(connecting, "off")
        yield "Python, validating an HS256 token", f"{us:.0f} µs of processor time a connection", [connecting]


def kernel_rows(kept: Figures) -> Iterator[Row]:
    """What sockets take."""
    found = kept["forms"]["kernel"]
    entry = f", and {middle(found, 'engine dentry') / 2:,.0f} of a dentry" if "engine dentry" in found else ""
    value = f"{middle(found, 'bare ' + found['by']) / 2:,.0f} bytes{entry}"
    yield "kernel, one end of an idle connection, in an epoll, in the caches of sockets alone", value, [found]
    yield "kernel, the engine's connections to bare sockets", f"{spread(found['ratio'])}", [found]


def nats_rows(kept: Figures) -> Iterator[Row]:
    """What subscriptions take."""
    found = dict(sorted((int(form.split()[1]), columns) for form, columns in kept["forms"].items()))
    yield "nats-server, a subscription", sizes(found, "bytes"), list(found.values())
    yield "nats-server, taking one", sizes(found, "us", 1, unit="µs"), list(found.values())


def keepalive_rows(kept: Figures) -> Iterator[Row]:
    """What pings take."""
    found = kept["forms"]["keepalive"]
    words = f"engine, a ping and its pong, of {found['connections']:,} on two loops"
    yield words, f"{spread(found['us'])} µs", [found]


def macro_rows(kept: Figures) -> Iterator[Row]:
    """What messages take."""
    for name, text in DELIVERIES.items():
        each = spread(by_of(kept, name).get("engine", {}).get("cpu_us", []))
        yield f"{text} (`{name}`)", f"{each} µs", whole(kept)


def presence_rows(kept: Figures) -> Iterator[Row]:
    """What a storm of joins takes."""
    found = kept["forms"]["presence"]
    used, sent = (middle(found, name) for name in ("processor s of both engines", "publishes"))
    took = spread(found["seconds until all is heard"])
    value = f"{took} s, with {used:.2f} s of both engines' processor time, and {sent:.0f} publishes"
    what = f"{found['joins']:,} joins received by {found['listeners']:,} watchers of a room, on two nodes"
    yield what, value, [found]


def scale_rows(kept: Figures) -> Iterator[Row]:
    """What very many take, on one machine with their clients."""
    found, call = kept["scale"], whole(kept)
    many = found["many"]
    user = "" if many["user_bytes"] is None else f"{many['user_bytes']:,.0f} bytes, and "
    who = f"{found['connections']:,} on {found['loops']} loops"
    yield f"engine, an idle connection of {who}", f"{user}{many['kernel_bytes']:,.0f} in the kernel", call
    yield "... opened a second", f"{many['opened_per_s']:,.0f}", call
    if many["ping_us"] is not None:
        yield "... a ping and its pong, before the messages", f"{many['ping_us']:.1f} µs", call
    few = f"{scale.few(found)['cpu_us_less_pings']:.1f} µs"
    yield f"... a delivery among {scale.FEW:,} connections on as many loops", few, call
    yield "... a delivery among all", f"{many['cpu_us']:.1f} µs; {many['cpu_us_less_pings']:.1f} less the pings", call
    heard = f"{many['relay_p50_us'] / 1e3:,.2f} ms at the median, {many['relay_p99_us'] / 1e3:,.1f} ms at p99"
    yield "... a relay among all", f"{heard}; {many['lost'] + many['gap'] or 'none'} lost", call


ROWS: dict[str, Callable[[Figures], Iterator[Row]]] = {
    "structures": structure_rows,
    "auth": auth_rows,
    "kernel": kernel_rows,
    "nats": nats_rows,
    "keepalive": keepalive_rows,
    "macro": macro_rows,
    "presence": presence_rows,
}
MAKES = {
    "auth": "python bench/auth.py --json bench/results/auth.json",
    "kernel": "python bench/capacity kernel --json bench/results/kernel.json",
    "presence": "python bench/presence.py --json bench/results/presence.json",
    **model.MAKES,
}


def measured(folder: Path) -> str:
    """The table of what was measured; a tool whose results are not kept has a row that says how to make them."""
    rows: list[list[str]] = []
    for name, make in ROWS.items():
        kept = read(name, folder)
        found = make(kept) if kept else iter([(name, "no results are kept", [{"command": MAKES[name]}])])
        rows += [[what, value, *said(calls)] for what, value, calls in found]
    for kept in read_scales(folder):
        rows += [[what, value, *said(calls)] for what, value, calls in scale_rows(kept)]
    return table(["figure", "value", "command", "measured"], rows, 4)


def said(calls: list[Figures]) -> tuple[str, str]:
    """The commands of these calls, and when and of which commits they were."""
    commands = dict.fromkeys(f"`{call['command']}`" for call in calls)
    made = dict.fromkeys(f"{call['date'][:10]}, `{call['commit']}`" for call in calls if "date" in call)
    return ", ".join(commands), "; ".join(made)


def by_crowd(kept: Figures, rows: dict[str, str], digits: int | None) -> str:
    """A column for each crowd; with so many decimals, or with three significant digits."""
    crowd = {f"{n:,}": found for n, found in crowds(kept, True).items()}
    for form, found in list(kept["forms"].items())[-1:]:  # the largest one on many loops
        if not form.endswith(" 1"):
            crowd[f"{int(form.split()[1]):,} on {form.split()[-1]} loops"] = found
    lines = []
    for name, text in rows.items():
        values = [middle(found, name) for found in crowd.values()]
        lines.append([text, *(f"{value:,.{digits_of(value) if digits is None else digits}f}" for value in values)])
    return table(["step", *crowd], lines)


def constants(cost: Costs, kept: Figures, million: Figures) -> str:
    """What the formulas of the page stand for, and what follows for ten million."""
    ten, own = 10_000_000, cost.connection + cost.member
    rows = [
        ("`base`", f"{million['many']['base_bytes'] / 1e6:.0f} MB", "an engine without connections"),
        ("`connection`", f"{cost.connection:.1f} B", "an open connection, in the engine"),
        ("`member`", f"{cost.member:.1f} B", "a membership in a room"),
        ("`room`", f"{cost.room:.0f} B", "a room"),
        ("`on_loop`", f"{cost.room_on_loop:.0f} B", "a room, for each loop that has members of it"),
        ("`kernel`", f"{cost.kernel:,.0f} B", "one end of a connection, in the kernel, among a million"),
        ("`subscription`", f"{cost.subscription:.0f} B", "a subscription, in nats-server"),
        ("`ping`", f"{cost.ping.times(1e6).shown(1)} µs", "a ping and its pong"),
        ("`delivery`", f"{cost.delivery * 1e6:.1f} µs", "a delivery on a loop that never waits"),
        ("`wake`", f"{cost.wake * 1e6:.1f} µs", "waking a loop that sleeps"),
        ("`crossing`", f"{cost.crossing.times(1e6).shown(1)} µs", "what a message over NATS takes more"),
        ("", f"{model.room_bytes(kept, True):.0f} B", "a room of ten, all members on one loop"),
        ("", f"{model.room_bytes(kept, False):.0f} B", "a room of ten, each member on another loop"),
        ("", f"{cost.kernel / cost.connection:.0f}", "`kernel` / `connection`"),
        ("", f"{ten * (cost.kernel + own) / 1e9:.0f} GB", "memory of ten million idle connections"),
        ("", cost.ping.times(ten / model.INTERVAL).shown(1), "cores for their pings, every 25 s"),
        ("", cost.ping.times(ten / 100).shown(1), "cores for their pings, every 100 s"),
    ]
    return table(["name", "value", "what it is"], [list(row) for row in rows], 3)


def computed(cost: Costs) -> str:
    """The table of cases, each row that of one node."""
    return table(list(COLUMNS), [[cell(case, cost) for cell in COLUMNS.values()] for case in CASES], 0)


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
        ends = (self.model.low, self.model.high)
        low, high = (f"{value:,.{digits}f}" for value in ends)
        ratios = [f"{self.measured / value:.2f}" for value in ends]
        same = self.model.low == self.model.high
        return [self.run, self.name, low, "" if same else high, f"{self.measured:,.{digits}f}",
                ratios[0], "" if same else ratios[1]]


def checks(cost: Costs, kept: Figures) -> list[Check]:
    """A run of scale.py held to the model, with the pings and deliveries that were counted."""
    found, many = kept["scale"], kept["scale"]["many"]
    loops, n = found["loops"], found["connections"]
    pings, deliveries = many["loaded_pings_per_s"], many["delivered"] / many["seconds"]
    case = Case(n, 1, found["members"], 0, some_rooms=found["rooms"], some_loops=loops)
    run = f"{n:,}, {loops} loops"
    cores = cost.ping.times(pings) + model.delivering(cost, deliveries, model.wakes(found, many), loops)
    rates = f"{pings:,.0f} pings and {deliveries:,.0f} deliveries a second"
    rows = [Check(run, f"cores, {rates}", cores, many["cores"])]
    if many["user_bytes"] is not None:
        memory = case.engine(cost)
        rows.append(Check(run, "engine, GB", Span(memory, memory).times(1e-9), many["user_bytes"] * n / 1e9))
    if many["kernel_bytes"] != cost.kernel:  # which the model has from that run
        kernel = Span(cost.kernel, cost.kernel).times(n / 1e9)
        rows.append(Check(run, "kernel, GB", kernel, many["kernel_bytes"] * n / 1e9))
    return rows


def tables(folder: Path = RESULTS) -> dict[str, str]:
    """Every table of the page, by name; Missing where a result that the model needs is not kept."""
    cost, filled, scales = model.costs(folder), read("structures", folder), read_scales(folder)
    checked = [check.row() for kept in scales for check in checks(cost, kept)]
    heads = ["run", "figure", "model, from", "to", "measured", "by from", "by to"]
    return {
        "machine": machines({f"{scales[-1]['scale']['connections']:,} connections": scales[-1]}),
        "measured": measured(folder),
        "steps": by_crowd(filled, STEPS, 0),
        "longest": by_crowd(filled, LONGEST, None),
        "constants": constants(cost, filled, read(model.MILLION, folder)["scale"]),
        "cases": computed(cost),
        "checks": table(heads, checked, 2),
    }
