"""Random joins, leaves and lost connections on two nodes, while random members watch. Once it is quiet, each watcher
knows the true members, and other members have got no events."""

import contextlib
import sys
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

import kit
from peers import BarePeer, ledgers_hold
from wire import until

from .conftest import await_cluster
from .crowd import Crowd

ROOMS = ("a", "b")
STACK = contextlib.ExitStack()
NODES: list[kit.Engine] = []


def nodes() -> list[kit.Engine]:
    """Two for all runs; STACK ends them."""
    if not NODES:
        server = STACK.enter_context(kit.nats())
        NODES.extend(STACK.enter_context(kit.engine(nats=server.url, loops=loops)) for loops in (1, 3))
        await_cluster(NODES)
    return NODES


def teardown_module() -> None:
    STACK.close()
    NODES.clear()


@dataclass
class Client:
    crowd: Crowd
    rooms: set[str] = field(default_factory=set)
    watches: set[str] = field(default_factory=set)

    @property
    def peer(self) -> Any:
        return self.crowd.peer


class Machine(RuleBasedStateMachine):
    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[Client] = []

    @initialize(target=clients)
    def begin(self) -> Any:
        """A watcher on each node, and one more member in each room."""
        self.nodes = nodes()
        until(lambda: self.total("connections") == 0, "no connection is left")
        made = [self.connect(i % 2, {ROOMS[i // 2]}) for i in range(4)]
        for i, client in enumerate(made[:2]):
            self.watch(client, ROOMS[i])
        return multiple(*made)

    def total(self, name: str) -> int:
        return sum(int(node.total(name)) for node in self.nodes)

    @rule(target=clients, node=st.integers(0, 1), rooms=st.sets(st.sampled_from(ROOMS)))
    def come(self, node: int, rooms: set[str]) -> Client:
        return self.connect(node, rooms)

    def connect(self, node: int, rooms: set[str]) -> Client:
        client = Client(Crowd(BarePeer(self.nodes[node].port, *sorted(rooms))), set(rooms))
        self.alive.append(client)
        return client

    @rule(client=clients, room=st.sampled_from(ROOMS))
    def watches(self, client: Client, room: str) -> None:
        """For the first time, or anew."""
        self.watch(client, room)

    def watch(self, client: Client, room: str) -> None:
        client.crowd.ask(room)
        client.rooms.add(room)
        client.watches.add(room)

    @rule(client=clients, rooms=st.lists(st.sampled_from(ROOMS), min_size=1, max_size=6))
    def churn(self, client: Client, rooms: list[str]) -> None:
        """Joins rooms that it is not in, and leaves those that it is in, without waiting for answers."""
        for room in rooms:
            client.peer.say(f"{'UNSUB' if room in client.rooms else 'SUB'} {room}")
            client.watches.discard(room)
            client.rooms ^= {room}

    @rule(client=consumes(clients), politely=st.booleans())
    def end(self, client: Client, politely: bool) -> None:
        self.alive.remove(client)
        if politely:
            client.peer.close()
        else:
            client.peer.vanish()

    @rule()
    def quiet(self) -> None:
        """Waits until every watcher knows the true members."""
        for client in self.alive:
            client.crowd.settle()
        for room in ROOMS:
            truth = [client.peer.address for client in self.alive if room in client.rooms]
            for client in self.alive:
                if room in client.watches:
                    client.crowd.expect(*truth, room=room)
        until(lambda: self.total("presence_listeners") == sum(len(one.watches) for one in self.alive), "watchers")
        for client in self.alive:
            if not client.watches:
                received = len(client.crowd.received)
                client.crowd.settle()
                assert len(client.crowd.received) == received, client.crowd.received[received:]

    def teardown(self) -> None:
        try:
            if not sys.exc_info()[0]:  # no step has failed
                self.quiet()
                for client in self.alive:
                    client.peer.close()
                for gauge in ("connections", "memberships", "presence_listeners", "in_flight"):
                    until(lambda gauge=gauge: self.total(gauge) == 0, f"no {gauge} left")  # type: ignore[misc]
                for node in self.nodes:
                    ledgers_hold(node.stats()["total"])
                assert self.total("presence_lost") == self.total("nodes_lost") == 0
        finally:
            for client in self.alive:
                client.peer.vanish()


TestPresence = Machine.TestCase
TestPresence.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes too long
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
