"""Presence: members, joins and leaves, on one node and across nodes."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

import kit
from peers import BarePeer, Received, several
from wire import TEXT, frame, fresh, until

from .bus import Bus
from .conftest import account, await_cluster
from .crowd import Crowd

LOST = 15.0  # seconds until a node is given up: three heartbeats of 2 s, and some patience


@pytest.fixture
def pair(lone_server: kit.Nats) -> Iterator[tuple[kit.Engine, kit.Engine]]:
    with kit.engine(nats=lone_server.url, loops=2) as one, kit.engine(nats=lone_server.url, loops=1) as two:
        await_cluster([one, two])
        yield one, two
        account()


def test_members_joins_and_leaves_across_nodes(nodes: list[kit.Engine]) -> None:
    room = fresh("room")
    with contextlib.ExitStack() as stack:
        there = [stack.enter_context(BarePeer(node.port)) for node in nodes for _ in range(3)]
        for peer in there:
            peer.join(room)
        watcher = stack.enter_context(BarePeer(nodes[1].port))
        crowd = Crowd(watcher, room)
        crowd.expect(watcher.address, *(peer.address for peer in there))
        verbs = {got.verb for got in crowd.received}
        assert "MEMBERS" in verbs and verbs <= {"MEMBERS", "JOIN"}, crowd.received
        late = stack.enter_context(BarePeer(nodes[2].port))
        late.join(room)
        crowd.expect(watcher.address, late.address, *(peer.address for peer in there))
        assert ("JOIN", (room, late.address)) in [(got.verb, got.words) for got in crowd.received]
        assert late.ask(f"UNSUB {room}") == "ok"
        there[0].vanish()
        there[4].close()
        left = [peer.address for i, peer in enumerate(there) if i not in (0, 4)]
        crowd.expect(watcher.address, *left)
        for peer in there[1:4]:
            assert peer.settle() == [], "a member without presence gets no events"


def test_members_on_one_node_without_nats() -> None:
    with kit.engine(loops=3) as node, several(node.port, 8) as peers:
        room = fresh("room")
        for peer in peers[1:]:
            peer.join(room)
        crowd = Crowd(peers[0], room)
        crowd.expect(*(peer.address for peer in peers))
        peers[3].vanish()
        crowd.expect(*(peer.address for i, peer in enumerate(peers) if i != 3))
        account()


def test_at_least_one_members_comes_after_the_ok(nodes: list[kit.Engine]) -> None:
    room = fresh("room")
    with BarePeer(nodes[0].port) as alone:
        alone.say(f"SUB {room} presence ref=a")
        seen = [alone.read()]
        while seen[-1].verb != "MEMBERS":  # its own JOIN comes, too, if another node has just begun to watch
            seen.append(alone.read())
        verbs = [got.verb for got in seen if got.verb != "JOIN"]
        assert verbs == ["OK", "MEMBERS"], seen
        assert alone.address.encode() in (seen[-1].payload or b"")


def test_presence_begins_with_a_second_sub_and_ends_with_unsub(nodes: list[kit.Engine]) -> None:
    room = fresh("room")
    with BarePeer(nodes[0].port) as peer, BarePeer(nodes[1].port) as other:
        peer.join(room)
        other.join(room)
        assert peer.settle() == []
        crowd = Crowd(peer, room)
        crowd.expect(peer.address, other.address)
        crowd.ask(room).expect(peer.address, other.address)
        peer.join(room)  # without presence: presence goes on
        assert other.ask(f"UNSUB {room}") == "ok"
        crowd.expect(peer.address)
        assert peer.ask(f"UNSUB {room}") == "ok"
        other.join(room)
        until(lambda: nodes[0].total("presence_listeners") == 0, "no watcher is left")
        assert peer.settle() == []


def test_a_lost_node_leaves(pair: tuple[kit.Engine, kit.Engine]) -> None:
    one, two = pair
    room = fresh("room")
    with BarePeer(one.port) as watcher, BarePeer(one.port) as near:
        far = BarePeer(two.port)
        near.join(room)
        far.join(room)
        crowd = Crowd(watcher, room)
        crowd.expect(watcher.address, near.address, far.address)
        begun = time.monotonic()
        two.kill()
        far.vanish()
        crowd.expect(watcher.address, near.address, limit=LOST)
        assert time.monotonic() - begun > 4.2, "three heartbeats of 2 s are awaited, and the last one was up to 2 s ago"
        assert (crowd.received[-1].verb, crowd.received[-1].words) == ("LEAVE", (room, f"{two.node}.*"))
        assert one.total("nodes_lost") == 1


def test_a_node_that_stops_leaves_at_once(pair: tuple[kit.Engine, kit.Engine]) -> None:
    one, two = pair
    room = fresh("room")
    with BarePeer(one.port) as watcher:
        far = BarePeer(two.port)
        far.join(room)
        crowd = Crowd(watcher, room)
        crowd.expect(watcher.address, far.address)
        two.end()
        two.killed = True
        crowd.expect(watcher.address, limit=3.0)
        until(lambda: one.total("nodes_lost") == 1, "its last heartbeat is received")
        far.vanish()


def test_nats_restarts(pair: tuple[kit.Engine, kit.Engine], lone_server: kit.Nats) -> None:
    """Joins and leaves meanwhile are known afterwards; presence on each node goes on."""
    one, two = pair
    room = fresh("room")
    with BarePeer(one.port) as watcher, several(two.port, 3) as far:
        for peer in far[:2]:
            peer.join(room)
        crowd = Crowd(watcher, room)
        crowd.expect(watcher.address, far[0].address, far[1].address)
        lone_server.stop()
        until(lambda: one.stats()["link"] == two.stats()["link"] == "away", "NATS is away")
        with BarePeer(one.port) as near:
            near.join(room)
            crowd.expect(watcher.address, near.address, far[0].address, far[1].address)
            assert far[0].ask(f"UNSUB {room}") == "ok"
            far[2].join(room)
            lone_server.start()
            crowd.expect(watcher.address, near.address, far[1].address, far[2].address, limit=30.0)
            until(lambda: one.stats()["link"] == two.stats()["link"] == "up", "NATS is back", 30.0)
            far[0].join(room)
            crowd.expect(watcher.address, near.address, *(peer.address for peer in far), limit=15.0)


def test_nothing_is_published_without_watchers(pair: tuple[kit.Engine, kit.Engine]) -> None:
    one, two = pair
    room, other = fresh("room"), fresh("other")
    with several(two.port, 5) as peers, BarePeer(one.port) as watcher:
        before = two.total("presence_changes")
        for peer in peers:
            peer.join(room)
        assert two.total("presence_changes") == before == 0
        peers[1].join(other)
        crowd = Crowd(watcher, other)
        crowd.expect(watcher.address, peers[1].address)  # so that the other node knows of the watcher
        peers[0].join(other)
        crowd.expect(watcher.address, peers[0].address, peers[1].address)
        assert two.total("presence_changes") == 1


def test_a_storm_of_joins_is_coalesced(pair: tuple[kit.Engine, kit.Engine]) -> None:
    """Many joins from one read are few publishes on NATS, and the watcher gets each, in order."""
    one, two = pair
    room = fresh("room")
    with BarePeer(one.port) as watcher, BarePeer(two.port) as peer, BarePeer(two.port) as stays:
        stays.join(room)
        crowd = Crowd(watcher, room)
        crowd.expect(watcher.address, stays.address)  # so that the other node knows of the watcher
        before = two.total("presence_out")
        churn = [f"SUB {room}", f"UNSUB {room}"] * 50 + [f"SUB {room}"]
        peer.wire.send(b"".join(frame(TEXT, head.encode()) for head in churn))
        events = [watcher.read() for _ in range(101)]
        assert [got.verb for got in events] == ["JOIN", "LEAVE"] * 50 + ["JOIN"]
        assert {got.words for got in events} == {(room, peer.address)}
        assert stays.ask(f"TO {watcher.address}", ref="t") == "ok"
        assert [got.verb for got in watcher.settle()] == ["FROM"], "each comes once"
        assert two.total("presence_changes") == 101
        beats = 3
        assert two.total("presence_out") - before <= 20 + beats, "a hundred changes are few publishes"


def test_a_watcher_that_does_not_read(pair: tuple[kit.Engine, kit.Engine]) -> None:
    """Its backlog is bounded, GAP counts what it missed, and a new SUB brings the members."""
    one, two = pair
    room = fresh("room")
    slow = BarePeer(one.port, receive_buffer=4096)
    with BarePeer(two.port) as peer:
        crowd = Crowd(slow, room)
        crowd.expect(slow.address)
        churn = b"".join(frame(TEXT, head.encode()) for head in [f"SUB {room}", f"UNSUB {room}"] * 500)
        for _ in range(200):
            peer.wire.send(churn)
            peer.settle()
            if one.total("dropped_slow_peer"):
                break
        assert one.total("dropped_slow_peer") > 0
        assert one.total("backlog_bytes") <= 2 * 256 * 1024
        peer.join(room)
        seen: list[Received] = []
        while not seen or seen[-1].verb != "GAP":
            seen.append(slow.read())
        changes = sum(got.verb in ("JOIN", "LEAVE") and got.words[1] == peer.address for got in seen)
        until(lambda: two.total("presence_changes") == changes + int(seen[-1].words[0]), "each comes or is counted")
        crowd.ask(room).expect(slow.address, peer.address)
    slow.vanish()


def test_members_are_split(lone_server: kit.Nats) -> None:
    """No MEMBERS is longer than max_message, for members on this node and on others."""
    small = {"max_message": 200}
    with (
        kit.engine(nats=lone_server.url, loops=2, **small) as one,
        kit.engine(nats=lone_server.url, loops=1, **small) as two,
    ):
        await_cluster([one, two])
        room = fresh("room")
        with several(one.port, 20) as near, several(two.port, 20) as far, BarePeer(one.port) as watcher:
            for peer in [*near, *far]:
                peer.join(room)
            crowd = Crowd(watcher, room)
            crowd.expect(watcher.address, *(peer.address for peer in [*near, *far]))
            members = [got for got in crowd.received if got.verb == "MEMBERS"]
            assert len(members) > 4 and all(len(got.raw) <= 200 for got in members)
        account()


def test_a_large_room_is_listed_in_steps(lone_server: kit.Nats) -> None:
    """1024 members an iteration. Joins, leaves and further SUBs meanwhile have their effect."""
    with (
        kit.engine(nats=lone_server.url, loops=1, node="a") as one,
        kit.engine(nats=lone_server.url, loops=1) as two,
    ):
        await_cluster([one, two])
        room = fresh("room")
        with (
            several(one.port, 4000, room) as there,
            several(one.port, 3) as asking,
            BarePeer(two.port) as afar,
        ):
            crowds = [Crowd(peer, room) for peer in asking]
            for crowd in crowds:
                crowd.expect(*(peer.address for peer in [*there, *asking]))
                lists = [got.payload for got in crowd.received if got.verb == "MEMBERS" and got.payload]
                sizes = [text.count(b"\n") + 1 for text in lists]
                assert len(sizes) >= 4 and max(sizes) <= 1024, "32 KiB hold 2048 of these, an iteration lists 1024"
            for crowd in crowds:
                crowd.peer.wire.send(frame(TEXT, f"SUB {room} presence".encode()) * 20)
            crowds.append(Crowd(afar, room))
            for peer in there[::40]:
                peer.vanish()
            late = BarePeer(one.port)
            late.join(room)
            stay = [peer.address for i, peer in enumerate(there) if i % 40]
            for crowd in crowds:
                crowd.expect(*stay, late.address, *(crowd.peer.address for crowd in crowds))
            late.close()
            asking[0].vanish()
            for crowd in crowds[1:]:
                crowd.expect(*stay, *(crowd.peer.address for crowd in crowds[1:]))
        account()


def test_presence_on_nats_is_as_documented(nodes: list[kit.Engine], bus: Bus) -> None:
    """Any NATS client can watch and query."""
    room = fresh("room")
    changes = bus.subscribe(f"signal.presence.{room}")
    answers = bus.subscribe("signal.presence-members.watcher")
    beats = bus.subscribe("signal.presence-alive")
    with BarePeer(nodes[0].port) as peer:
        peer.join(room)
        bus.publish("signal.presence-ask", f"watcher 7 {room}".encode())
        assert answers.get(timeout=10).data == f"{nodes[0].node} 7 {room}\n{peer.address}\n".encode()
        assert peer.ask(f"UNSUB {room}") == "ok"
        assert changes.get(timeout=10).data == f"LEAVE {peer.address}\n".encode()
        node, instance, epoch, listens = beats.get(timeout=10).data.decode().split(" ")
        assert node in {node.node for node in nodes} and len(instance) == 16 and epoch.isdigit() and listens in "01"


def test_malformed_presence_on_nats_is_counted(nodes: list[kit.Engine], bus: Bus) -> None:
    room = fresh("room")
    with BarePeer(nodes[0].port) as watcher:
        crowd = Crowd(watcher, room)
        crowd.expect(watcher.address)
        before = nodes[0].total("nats_malformed")
        bus.publish("signal.presence-ask", b"no question")
        bus.publish("signal.presence-alive", b"?")
        bus.publish(f"signal.presence-members.{nodes[0].node}", b"watcher 7")
        bus.publish(f"signal.presence.{room}", b"LEAVE " + b"x" * 70000 + b".*")
        lines = ["JOIN", "ENTER a.b", "LEAVE \xff.*", "LEAVE .*", "JOIN other.peer user=ann", "JOIN a.b user="]
        lines += ["LEAVE bad peer", "LEAVE a b.*"]
        bus.publish(f"signal.presence.{room}", "\n".join(lines).encode("latin-1"))
        crowd.expect(watcher.address, "other.peer")
        assert crowd.received[-1].options == {"user": "ann"}
        until(lambda: nodes[0].total("nats_malformed") == before + 11, "each is counted")


def test_a_hung_node_that_returns_is_known_again(pair: tuple[kit.Engine, kit.Engine]) -> None:
    one, two = pair
    room = fresh("room")
    with BarePeer(one.port) as watcher, BarePeer(two.port) as far:
        far.join(room)
        crowd = Crowd(watcher, room)
        crowd.expect(watcher.address, far.address)
        assert two.child is not None
        two.child.send_signal(signal.SIGSTOP)
        crowd.expect(watcher.address, limit=LOST)
        two.child.send_signal(signal.SIGCONT)
        crowd.expect(watcher.address, far.address)


def test_queries_are_shared(pair: tuple[kit.Engine, kit.Engine]) -> None:
    """However often watchers ask, few queries for a room are sent in a tick, and all watchers get their answer."""
    one, two = pair
    room = fresh("room")
    with BarePeer(two.port) as far, several(one.port, 10) as peers:
        far.join(room)
        before = one.total("presence_asked")
        asking = b"".join(frame(TEXT, f"SUB {room} presence".encode()) for _ in range(20))
        for peer in peers:
            peer.wire.send(asking)
        everyone = [far.address, *(peer.address for peer in peers)]
        for peer in peers:
            crowd = Crowd(peer)
            crowd.rooms[room] = set()
            crowd.expect(*everyone)
        assert 0 < one.total("presence_asked") - before < 100, "200 SUBs were sent"
        assert one.total("presence_listeners") == 10


def test_many_queries_are_put_aside(lone_server: kit.Nats) -> None:
    """Of more queries at once than may wait, the rest is put aside. Each is answered."""
    count = 1500
    rooms = [fresh("room") for _ in range(count)]
    with (
        kit.engine(nats=lone_server.url, loops=2, max_rooms=count) as engine,
        Bus(lone_server.url) as bus,
        several(engine.port, 6) as peers,
    ):
        answers = bus.subscribe("signal.presence-members.watcher")
        for peer in peers:
            for room in rooms:
                peer.say(f"SUB {room}")
            peer.settle()

        async def ask() -> None:
            for number, room in enumerate(rooms, 1):
                await bus.client.publish("signal.presence-ask", f"watcher {number} {room}".encode())

        def held() -> bool:
            bus.run(ask())
            listed: dict[str, int] = {}
            while len(listed) < count or sum(listed.values()) < count * len(peers):
                head, *members = answers.get(timeout=10).data.decode().splitlines()
                room = head.split(" ")[2]
                listed[room] = listed.get(room, 0) + len(members)
            return bool(engine.total("questions_held"))

        until(held, "queries wait", limit=60.0)


def test_presence_that_nats_does_not_take_is_queried_again(lone_server: kit.Nats) -> None:
    """A node that could not publish its joins and leaves increases its epoch, and is queried."""
    with (
        kit.engine(nats=lone_server.url, loops=2) as one,
        kit.engine(nats=lone_server.url, loops=1, nats_pending=65536) as two,
    ):
        await_cluster([one, two])
        room, busy = fresh("room"), fresh("busy")
        with (
            BarePeer(one.port) as watcher,
            BarePeer(one.port) as overrun,
            BarePeer(two.port) as peer,
            BarePeer(two.port) as stays,
        ):
            stays.join(room)
            crowd = Crowd(watcher, room)
            crowd.expect(watcher.address, stays.address)
            Crowd(overrun, busy)  # another client, so that events missed in this room do not affect `watcher`
            assert lone_server.child is not None
            lone_server.child.send_signal(signal.SIGSTOP)
            churn = frame(TEXT, f"SUB {busy}".encode()) + frame(TEXT, f"UNSUB {busy}".encode())
            for _ in range(1500):
                peer.wire.send(churn * 400)
                peer.settle()
                if two.total("presence_lost"):
                    break
            peer.wire.send(frame(TEXT, f"SUB {room}".encode()))
            assert peer.settle() == []
            stays.close()
            lone_server.child.send_signal(signal.SIGCONT)
            assert two.total("presence_lost") > 0
            crowd.expect(watcher.address, peer.address, limit=15.0)
            assert "GAP" not in {got.verb for got in crowd.received}
        account()


def test_watchers_wait_for_a_hung_nats_server(lone_server: kit.Nats) -> None:
    """SUBs with presence and UNSUBs without pause do not fill memory. The last one gets other nodes' members."""
    names = [f"{number:0>100}" for number in range(250)]
    listens, leaves = (
        b"".join(frame(TEXT, f"{verb} {name}{more}".encode()) for name in names)
        for verb, more in (("SUB", " presence"), ("UNSUB", ""))
    )
    with (
        kit.engine(nats=lone_server.url, loops=1, nats_pending=4 << 20) as one,
        kit.engine(nats=lone_server.url, loops=1) as two,
        BarePeer(one.port) as a,
        BarePeer(two.port) as b,
    ):
        await_cluster([one, two])
        before = one.total("nats_bytes_out")
        os.kill(lone_server.pid, signal.SIGSTOP)
        try:
            for _ in range(500):
                a.wire.send(listens)
                a.settle()
                a.wire.send(leaves)
                a.settle()
            a.say("SUB kept presence")
        finally:
            os.kill(lone_server.pid, signal.SIGCONT)
        b.join("kept")
        crowd = Crowd(a)
        crowd.expect(a.address, b.address, room="kept", limit=LOST)
        assert one.total("nats_bytes_out") - before < 16 << 20
