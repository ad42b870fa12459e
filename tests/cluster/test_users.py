"""Users on several nodes: `@user` reaches all connections of a user."""

from collections.abc import Iterator

import pytest

import kit
from minted import SECRET, Guest, token
from peers import ledgers_hold
from wire import fresh, until

from .bus import Bus
from .crowd import Crowd


@pytest.fixture(scope="module")
def guarded(server: kit.Nats) -> Iterator[list[kit.Engine]]:
    """Two nodes that take tokens, on one loop and on three."""
    with (
        kit.engine(nats=server.url, auth="jwt", auth_key=SECRET, loops=1, auth_grace=0) as one,
        kit.engine(nats=server.url, auth="jwt", auth_key=SECRET, loops=3, auth_grace=0) as three,
    ):
        nodes = [one, three]
        guests = [Guest(node.port, token=token()) for node in nodes]
        for a in guests:
            for b in guests:
                until(lambda a=a, b=b: a.ask(f"TO {b.address}", "ready?") == "ok", "the nodes meet")  # type: ignore[misc]
        for guest in guests:
            guest.close()
        yield nodes


def test_a_user_on_two_nodes(guarded: list[kit.Engine]) -> None:
    user = fresh("u")
    guests = [Guest(node.port, token=token(user)) for node in guarded * 3]
    with Guest(guarded[0].port, token=token(fresh("u"))) as other:
        for i, sender in enumerate(guests):
            assert sender.ask(f"TO @{user}", str(i), ref=f"m{i}") == "ok"
            for guest in guests:
                if guest is not sender:
                    guest.expect("FROM", sender.address, ref=f"m{i}", user=user)
        other.say(f"TO @{user}", "from another")
        for guest in guests:
            assert guest.read().payload == b"from another"
        assert other.settle() == []
    for guest in guests:
        assert guest.settle() == []
        guest.close()
    for node in guarded:
        ledgers_hold(node.stats()["total"])


def test_the_user_crosses_nats(guarded: list[kit.Engine], bus: Bus) -> None:
    user, room = fresh("u"), fresh("r")
    received = bus.subscribe(f"signal.room.{room}")
    to_user = bus.subscribe(f"signal.room.@{user}")
    with Guest(guarded[0].port, token=token(user)) as ann, Guest(guarded[1].port, token=token()) as bob:
        bob.join(room)
        assert ann.ask(f"PUB {room}", "x", ref="p1") == "ok"
        bob.expect("MSG", room, ann.address, ref="p1", user=user)
        ann.say(f"TO {bob.address}", "y")
        bob.expect("FROM", ann.address, user=user)
        ann.say(f"TO @{user}", "z")
        for queue in (received, to_user):
            message = queue.get(timeout=10)
            assert message.headers is not None and message.headers["Signal-User"] == user
        bus.publish(f"signal.room.@{user}", b"from a service")
        ann.expect("FROM", "-")


def test_presence_names_the_user(guarded: list[kit.Engine], bus: Bus) -> None:
    """In MEMBERS, JOIN and LEAVE, on every node. A user's own room has no presence."""
    user, room = fresh("u"), fresh("r")
    own, other = bus.subscribe(f"signal.presence.@{user}"), bus.subscribe(f"signal.presence.{room}")
    for node in guarded:
        with Guest(guarded[1].port, token=token()) as bob:
            crowd = Crowd(bob, room)
            crowd.expect(bob.address)
            ann = Guest(node.port, token=token(user))
            ann.join(room)
            crowd.expect(bob.address, ann.address)
            crowd.ask(room).expect(bob.address, ann.address)
            ann.vanish()
            crowd.expect(bob.address)
        named = {"user": user}
        events = [(got.verb, got.options) for got in crowd.received if got.words[1:] == (ann.address,)]
        assert ("JOIN", named) in events and ("LEAVE", named) in events and len(events) == 2
        lines = b"\n".join(got.payload or b"" for got in crowd.received if got.verb == "MEMBERS").decode().split("\n")
        assert f"{ann.address} user={user}" in lines and bob.address in lines
        if node is guarded[0]:  # the other node has no reason to publish
            while f"LEAVE {ann.address} user={user}\n".encode() not in other.get(timeout=10).data:
                pass
    assert own.empty()


def test_hello_waits_for_the_users_room(guarded: list[kit.Engine], bus: Bus) -> None:
    """A user that has HELLO gets messages: none is lost in between."""
    for _ in range(20):
        user = fresh("u")
        with Guest(guarded[1].port, token=token(user)) as ann:
            bus.publish(f"signal.room.@{user}", b"at once")
            assert ann.read().payload == b"at once"


def test_one_subscription_for_each_user(guarded: list[kit.Engine]) -> None:
    node = guarded[0]
    before = int(node.total("nats_subs"))
    guests = [Guest(node.port, token=token("one")) for _ in range(5)]
    assert int(node.total("nats_subs")) == before + 1
    for guest in guests:
        guest.close()
    until(lambda: int(node.total("nats_subs")) == before, "the subscription ends")


def test_a_users_room_that_nats_denies() -> None:
    """Messages to the user still arrive on this node."""
    rules = 'authorization { users [ {user: node, password: p, permissions: {publish: ">", subscribe: '
    rules += '{deny: "signal.room.@>"}}} ] }'
    with kit.nats(rules) as server:
        url = server.url.replace("nats://", "nats://node:p@")
        with (
            kit.engine(nats=url, auth="jwt", auth_key=SECRET) as engine,
            Guest(engine.port, token=token("ann")) as ann,
            Guest(engine.port, token=token("ann")) as also,
        ):
            ann.say("TO @ann", "here")
            also.expect("FROM", ann.address, user="ann")
            assert ann.ask("SUB lobby") == "ok"
