"""The table of docs/sizing.md: the model's formulas, with the figures that were measured as its constants.

    python bench/sizing.py
"""

from __future__ import annotations

from dataclasses import dataclass

# Measured; docs/sizing.md says how. Bytes:
CONNECTION = 96
MEMBER = 8
ROOM = 226
ROOM_ON_LOOP = 38
KERNEL = 3737
SUBSCRIPTION = 767
# Processor seconds:
PING = 10.5e-6
DELIVERY = 5.7e-6
CROSSING = 5.3e-6

INTERVAL = 25.0  # seconds between pings: the default


@dataclass(frozen=True)
class Case:
    """Each connection is in one room of `members`; `rate` messages a second are published in all."""

    connections: int
    nodes: int
    members: int
    rate: int
    loops: int = 8

    @property
    def rooms(self) -> float:
        return self.connections / self.members

    def share(self, places: int) -> float:
        """Of rooms that have a member in one of so many places, members being anywhere."""
        return 1 - (1 - 1 / places) ** self.members

    def subscriptions(self) -> float:
        return self.rooms * self.share(self.nodes)

    def engine(self) -> float:
        on_loops = self.rooms * self.loops * self.share(self.nodes * self.loops)
        own = self.connections / self.nodes * (CONNECTION + MEMBER)
        return own + self.subscriptions() * ROOM + on_loops * ROOM_ON_LOOP

    def kernel(self) -> float:
        return self.connections / self.nodes * KERNEL

    def link(self) -> float:
        """Messages a second over a node's connection to NATS, out and in."""
        if self.nodes == 1:
            return self.rate
        return self.rate / self.nodes + self.rate * (1 - 1 / self.nodes) * self.share(self.nodes)

    def keepalive(self) -> float:
        return self.connections / self.nodes / INTERVAL * PING

    def messages(self) -> float:
        return self.rate * (self.members - 1) / self.nodes * DELIVERY + self.link() * CROSSING


CASES = (
    Case(100_000, 1, 10, 1_000),
    Case(1_000_000, 1, 10, 10_000),
    Case(1_000_000, 2, 10, 10_000),
    Case(10_000_000, 1, 10, 10_000),
    Case(10_000_000, 5, 10, 100_000),
    Case(10_000_000, 5, 1000, 1_000),
    Case(10_000_000, 20, 10, 100_000),
)


def row(case: Case) -> str:
    cells = (
        f"{case.connections:,}", f"{case.rooms:,.0f} × {case.members:,}", f"{case.rate:,}", f"{case.nodes}",
        f"{case.engine() / 1e9:.2f}", f"{case.kernel() / 1e9:.1f}",
        f"{case.keepalive():.2f}", f"{case.messages():.2f}",
        f"{case.subscriptions():,.0f}", f"{case.link():,.0f}",
        f"{case.subscriptions() * case.nodes * SUBSCRIPTION / 1e9:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    heads = (
        "connections", "rooms × members", "published a second", "nodes", "engine, GB", "kernel, GB", "cores, pings",
        "cores, messages", "subscriptions", "NATS messages a second", "all nodes' subscriptions in NATS, GB",
    )
    print(f"| {' | '.join(heads)} |\n|{'--:|' * len(heads)}")
    for case in CASES:
        print(row(case))


if __name__ == "__main__":
    main()
