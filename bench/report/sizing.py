"""The tables of docs/sizing.md, from bench/results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import scale
from capacity import structures
from report import model
from report.model import Case, Costs, Span, crowds
from report.tables import machines, table
from results import RESULTS, Figures, by_of, digits_of, middle, read, read_scales, spread

CASES = (
    Case(100_000, 1, 10, 1_000),
    Case(1_000_000, 1, 10, 10_000),
    Case(1_000_000, 2, 10, 10_000),
    Case(10_000_000, 1, 10, 10_000),
    Case(10_000_000, 5, 10, 100_000),
    Case(10_000_000, 5, 1000, 1_000),
    Case(10_000_000, 20, 10, 100_000),
)
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
MAKES = {
    "auth": "python bench/auth.py --json bench/results/auth.json",
    "kernel": "python bench/capacity kernel --json bench/results/kernel.json",
    "presence": "python bench/presence.py --json bench/results/presence.json",
    **model.MAKES,
}

Row = tuple[str, str, list[Figures]]  # a figure, its value, and the calls that measured it


def sizes(by: dict[int, Figures], name: str, digits: int = 0, factor: float = 1.0, unit: str = "bytes") -> str:
    """A figure of each of the larger crowds, as `97 bytes of 100,000; 96 of 1,000,000`."""
    last = [(n, middle(found, name) * factor) for n, found in by.items() if n >= model.LARGE and name in found]
    text = "; ".join(f"{value:,.{digits}f} of {n:,}" for n, value in last)
    return text.replace(" of ", f" {unit} of ", 1)


def structure_rows(kept: Figures) -> Iterator[Row]:
    one, many = crowds(kept, True), crowds(kept, False)
    room, big, user = structures.ROOM, f"{structures.BIG:,}", "engine, `--auth jwt`, a user of its own for each"
    for text, by, name, digits, factor in (
        ("engine, an open idle connection", one, "open: bytes", 1, 1),
        ("... its membership in a large room, if it is its only one", one,
         "join one room of all, as the only one: bytes", 1, 1),
        (f"... a further membership in a room of {big}", one, f"join a second, of {big}: bytes", 0, 1),
        (f"engine, a room of {room} with all members on one loop", one, f"join a room of {room}: bytes", 0, room),
        (f"engine, a room of {room} with each member on another loop", many, f"join a room of {room}: bytes", 0, room),
        (f"{user}, named by 12 bytes", one, "a user of its own, 12 bytes: bytes", 0, 1),
        (f"{user}, named by 36 bytes", one, "a user of its own, 36 bytes: bytes", 0, 1),
    ):
        yield text, sizes(by, name, digits, factor), [found for n, found in by.items() if n >= model.LARGE]


def auth_rows(kept: Figures) -> Iterator[Row]:
    if memory := kept["forms"].get("memory"):
        names = ("one user", "distinct users", "distinct users, with NATS")
        one, each, nats = (f"{middle(memory, name) - middle(memory, 'auth off'):,.0f}" for name in names)
        yield "engine, `--auth jwt`, an expiry, and rights that others have, too", f"{one} bytes more", [memory]
        yield "... each of another user, with a room of its own", f"{each} bytes more; {nats} with NATS", [memory]
    if connecting := kept["forms"].get("connecting"):
        us = middle(connecting, "HS256") - middle(connecting, "off")
        yield "Python, validating an HS256 token", f"{us:.0f} µs of processor time a connection", [connecting]


def kernel_rows(kept: Figures) -> Iterator[Row]:
    found = kept["forms"]["kernel"]
    entry = f", and {middle(found, 'engine dentry') / 2:,.0f} of a dentry" if "engine dentry" in found else ""
    value = f"{middle(found, 'bare ' + found['by']) / 2:,.0f} bytes{entry}"
    yield "kernel, one end of an idle connection, in an epoll, in the caches of sockets alone", value, [found]
    yield "kernel, the engine's connections to bare sockets", f"{spread(found['ratio'])}", [found]


def nats_rows(kept: Figures) -> Iterator[Row]:
    found = dict(sorted((int(form.split()[1]), columns) for form, columns in kept["forms"].items()))
    yield "nats-server, a subscription", sizes(found, "bytes"), list(found.values())
    yield "nats-server, taking one", sizes(found, "us", 1, unit="µs"), list(found.values())


def keepalive_rows(kept: Figures) -> Iterator[Row]:
    found = kept["forms"]["keepalive"]
    text = f"engine, a ping and its pong, of {found['connections']:,} on two loops"
    yield text, f"{spread(found['us'])} µs", [found]


def macro_rows(kept: Figures) -> Iterator[Row]:
    for name, text in DELIVERIES.items():
        each = spread(by_of(kept, name).get("engine", {}).get("cpu_us", []))
        yield f"{text} (`{name}`)", f"{each} µs", [kept]


def presence_rows(kept: Figures) -> Iterator[Row]:
    found = kept["forms"]["presence"]
    used, sent = (middle(found, name) for name in ("processor s of both engines", "publishes"))
    took = spread(found["seconds until all is heard"])
    value = f"{took} s, with {used:.2f} s of both engines' processor time, and {sent:.0f} publishes"
    text = f"{found['joins']:,} joins received by {found['listeners']:,} watchers of a room, on two nodes"
    yield text, value, [found]


def scale_rows(kept: Figures) -> Iterator[Row]:
    found, many, few = kept["scale"], kept["scale"]["many"], scale.few(kept["scale"])
    user = "" if many["user_bytes"] is None else f"{many['user_bytes']:,.0f} bytes, and "
    ping = f"{many['ping_us']:.1f} µs" if many["ping_us"] is not None else ""
    cpu = f"{many['cpu_us']:.1f} µs; {many['cpu_us_less_pings']:.1f} less the pings"
    latency = f"{many['relay_p50_us'] / 1e3:,.2f} ms at the median, {many['relay_p99_us'] / 1e3:,.1f} ms at p99"
    who = f"engine, an idle connection of {found['connections']:,} on {found['loops']} loops"
    for text, value in (
        (who, f"{user}{many['kernel_bytes']:,.0f} in the kernel"),
        ("... opened a second", f"{many['opened_per_s']:,.0f}"),
        ("... a ping and its pong, before the messages", ping),
        (f"... a delivery among {scale.FEW:,} connections on as many loops", f"{few['cpu_us_less_pings']:.1f} µs"),
        ("... a delivery among all", cpu),
        ("... a relay among all", f"{latency}; {many['lost'] + many['gap'] or 'none'} lost"),
    ):
        if value:
            yield text, value, [kept]


ROWS: dict[str, Callable[[Figures], Iterator[Row]]] = {
    "structures": structure_rows,
    "auth": auth_rows,
    "kernel": kernel_rows,
    "nats": nats_rows,
    "keepalive": keepalive_rows,
    "macro": macro_rows,
    "presence": presence_rows,
}


def called(calls: list[Figures]) -> list[str]:
    """The commands of these calls, and the dates and commits."""
    commands = dict.fromkeys(f"`{call['command']}`" for call in calls)
    commits = [call.get("commit") or call.get("versions", {}).get("commit", "") for call in calls]
    made = [f"{c['date'][:10]}, `{commit}`" for c, commit in zip(calls, commits, strict=True) if "date" in c]
    return [", ".join(commands), "; ".join(dict.fromkeys(made))]


def measured(folder: Path) -> str:
    """The table of what was measured; a tool whose results are not kept has a row that says how to make them."""
    found: list[Row] = []
    for name, rows in ROWS.items():
        kept = read(name, folder)
        found += rows(kept) if kept else [(name, "no results are kept", [{"command": MAKES[name]}])]
    for kept in read_scales(folder):
        found += scale_rows(kept)
    cells = [[text, value, *called(calls)] for text, value, calls in found]
    return table(["figure", "value", "command", "measured"], cells, 4)


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
    """The names in the formulas of the page, and what follows for ten million."""
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
    return table(["name", "value", "what it is"], rows, 3)


def computed(cost: Costs) -> str:
    """The table of cases, each row that of one node."""
    rows = []
    for case in CASES:
        node = model.node(case, cost)
        rows.append({
            "connections": f"{case.connections:,}",
            "rooms × members": f"{node['rooms']:,.0f} × {case.members:,}",
            "published a second": f"{case.rate:,}",
            "nodes": f"{case.nodes}",
            "loops of a node": f"{node['loops']}",
            "descriptors of a loop": f"{node['each'] / node['loops']:,.0f}",
            "engine, GB": f"{node['engine'] / 1e9:.2f}",
            "kernel, GB": f"{node['kernel'] / 1e9:.1f}",
            "cores, pings": node["pings"].shown(2),
            "cores, messages": node["messages"].shown(2),
            "subscriptions": f"{node['subscriptions']:,.0f}",
            "NATS messages a second": f"{node['link']:,.0f}",
            "all nodes' subscriptions in NATS, GB": f"{node['bus'] / 1e9:.2f}",
        })
    return table(rows[0], (row.values() for row in rows), 0)


@dataclass(frozen=True)
class Check:
    """A figure of a run from end to end, and what the model says of it."""

    run: str
    name: str
    model: Span
    measured: float

    def row(self) -> list[str]:
        """Its cells: the ratios are the measured figure's to both ends of the model's."""
        digits, ends = digits_of(self.measured), [self.model.low, self.model.high]
        low, high = (f"{value:,.{digits}f}" for value in ends)
        ratios = [f"{self.measured / value:.2f}" for value in ends]
        if self.model.low == self.model.high:
            high = ratios[1] = ""
        return [self.run, self.name, low, high, f"{self.measured:,.{digits}f}", *ratios]


def checks(cost: Costs, kept: Figures) -> list[Check]:
    """A run of scale.py held to the model, with the pings and deliveries that were counted."""
    found, many = kept["scale"], kept["scale"]["many"]
    loops, n = found["loops"], found["connections"]
    pings, deliveries = many["loaded_pings_per_s"], many["delivered"] / many["seconds"]
    memory = model.node(Case(n, 1, found["members"], 0, some_rooms=found["rooms"], some_loops=loops), cost)["engine"]
    run = f"{n:,}, {loops} loops"
    cores = cost.ping.times(pings) + model.delivering(cost, deliveries, model.wakes(found, many), loops)
    rates = f"{pings:,.0f} pings and {deliveries:,.0f} deliveries a second"
    rows = [Check(run, f"cores, {rates}", cores, many["cores"])]
    if many["user_bytes"] is not None:
        rows.append(Check(run, "engine, GB", Span(memory, memory).times(1e-9), many["user_bytes"] * n / 1e9))
    if many["kernel_bytes"] != cost.kernel:  # which the model has from that run
        kernel = Span(cost.kernel, cost.kernel).times(n / 1e9)
        rows.append(Check(run, "kernel, GB", kernel, many["kernel_bytes"] * n / 1e9))
    return rows


def tables(folder: Path = RESULTS) -> dict[str, str]:
    """Every table of the page, by name; Missing if a result that the model needs is not kept."""
    cost, filled, scales = model.costs(folder), read("structures", folder), read_scales(folder)
    heads = ["run", "figure", "model, from", "to", "measured", "by from", "by to"]
    return {
        "machine": machines({f"{scales[-1]['scale']['connections']:,} connections": scales[-1]}),
        "measured": measured(folder),
        "steps": by_crowd(filled, STEPS, 0),
        "longest": by_crowd(filled, LONGEST, None),
        "constants": constants(cost, filled, read(model.MILLION, folder)["scale"]),
        "cases": computed(cost),
        "checks": table(heads, (check.row() for kept in scales for check in checks(cost, kept)), 2),
    }
