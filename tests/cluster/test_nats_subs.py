"""More subscriptions than NATS allows: for an account, a user, or a connection."""

from pathlib import Path

import pytest

import kit
from peers import BarePeer
from wire import TEXT, frame, until

from .accounts import Operator
from .bus import Bus
from .conftest import account
from .crowd import Crowd
from .fake_nats import FakeNats, Link

OWN = 6  # subscriptions that a node needs
NODE = {"nats_user": "node", "nats_password": "node"}
ACCOUNT = """accounts {{
    A {{
        users: [ {{ user: node, password: node }} {users} ]
        limits {{ max_subscriptions: {limit} }}
    }}
}}"""


def of_account(limit: int, users: str = "") -> str:
    return ACCOUNT.format(limit=limit, users=users)


def of_server(config: str) -> str:
    """A configuration that limits every connection."""
    return f"max_subscriptions: {config}\nauthorization {{ user: node, password: node }}"


def receives(bus: Bus, peer: BarePeer, room: str) -> None:
    bus.publish(f"signal.room.{room}", room.encode())
    assert peer.expect("MSG", room, "-").payload == room.encode()


def never_lost(engine: kit.Engine) -> None:
    """Asserts that the node kept its link, and logged one warning."""
    total = engine.stats()["total"]
    assert (total["nats_connects"], total["nats_lost"]) == (1, 0)
    lines = [line for line in engine.events() if line["level"] in ("warning", "error")]
    assert len(lines) == 1 and "no more subscriptions" in lines[0]["event"], lines


@pytest.mark.parametrize("config", [of_account, lambda limit: of_server(str(limit))], ids=["account", "server"])
@pytest.mark.parametrize("loops", [1, 2])
def test_subs_over_the_limit(config: object, loops: int) -> None:
    """Exactly those get ERR. The link stays, and the other rooms work."""
    text = config(OWN + 5)  # type: ignore[operator]
    with (
        kit.nats(config=text) as server,
        kit.engine(nats=server.url, loops=loops, control="off", **NODE) as engine,
        BarePeer(engine.port) as a,
    ):
        for number in range(20):  # in one iteration, or in a few
            a.say(f"SUB room{number} ref=r{number}")
        codes = [a.answer_to(f"r{number}") for number in range(20)]
        assert codes == ["ok"] * 5 + ["unavailable"] * 15
        assert a.ask("SUB another") == "unavailable"
        with Bus(server.url, user="node", password="node") as bus:
            for number in range(5):
                receives(bus, a, f"room{number}")
            for number in range(5, 20):
                bus.publish(f"signal.room.room{number}", b"x")
            receives(bus, a, "room0")
        assert engine.total("memberships") == 5
        assert engine.total("nats_subs_refused") >= 16
        assert a.ask("PUB elsewhere", "x") == "ok"
        assert a.ask("SUB room3") == "ok", "it is a member already"
        never_lost(engine)
        account()


def test_a_subscription_that_ends_is_free_for_others() -> None:
    with (
        kit.nats(config=of_account(OWN + 3)) as server,
        Bus(server.url, user="node", password="node") as bus,
        kit.engine(nats=server.url, loops=2, control="off", **NODE) as engine,
    ):
        with BarePeer(engine.port) as a, BarePeer(engine.port) as b:
            for number in range(3):
                assert a.ask(f"SUB room{number}") == "ok"
            assert b.ask("SUB late") == "unavailable"
            assert a.ask("UNSUB room1") == "ok"
            until(lambda: b.ask("SUB late") == "ok", "a subscription is free")
            receives(bus, b, "late")
            assert b.ask("SUB later") == "unavailable"
            for number in range(50):  # in one iteration: left and joined
                a.say(f"UNSUB churn{number}")
                a.say(f"SUB churn{number + 1} ref=c{number}")
                assert a.answer_to(f"c{number}") == "unavailable"
            receives(bus, a, "room0")
        never_lost(engine)


def test_a_sub_without_ref_is_subscribed_later() -> None:
    """The client is a member on the node at once, and in the cluster as soon as NATS takes the subscription."""
    with (
        kit.nats(config=of_account(OWN + 2)) as server,
        Bus(server.url, user="node", password="node") as bus,
        kit.engine(nats=server.url, loops=1, control="off", **NODE) as engine,
    ):
        with BarePeer(engine.port) as a, BarePeer(engine.port) as b:
            assert a.ask("SUB one") == a.ask("SUB two") == "ok"
            b.say("SUB waits")
            assert b.settle() == []
            a.say("PUB waits", "near")
            assert b.expect("MSG", "waits", a.address).payload == b"near"
            assert a.ask("UNSUB one") == "ok"

            def received() -> bool:
                bus.publish("signal.room.waits", b"far")
                return bool(b.settle())

            until(received, "it is tried again")
        never_lost(engine)


def test_a_limit_that_is_raised(tmp_path: Path) -> None:
    """By a restart of the server with another account."""
    operator = Operator(subs=OWN + 2)
    file = operator.creds(tmp_path / "node.creds")
    with (
        kit.nats(config=operator.config) as server,
        kit.engine(nats=server.url, nats_creds=str(file), loops=1, control="off") as engine,
        BarePeer(engine.port) as a,
    ):
        codes = [a.ask(f"SUB room{number}") for number in range(4)]
        assert codes == ["ok", "ok", "unavailable", "unavailable"]
        a.say("SUB silent")
        assert a.settle() == []
        server.stop()
        operator.account_limits(subs=-1)
        server.config = operator.config
        server.start()
        until(lambda: engine.total("nats_connects") == 2, "it is back", 25)
        assert [a.ask(f"SUB room{number}") for number in range(4)] == ["ok"] * 4
        with Bus(server.url, user_credentials=str(file)) as bus:
            receives(bus, a, "silent")


def test_a_limit_that_is_lowered(tmp_path: Path) -> None:
    """Members stay members on the node, and nothing flaps."""
    operator = Operator()
    file = operator.creds(tmp_path / "node.creds")
    with (
        kit.nats(config=operator.config) as server,
        kit.engine(nats=server.url, nats_creds=str(file), loops=2, control="off") as engine,
        BarePeer(engine.port, *(f"room{number}" for number in range(20))) as a,
        BarePeer(engine.port) as b,
    ):
        server.stop()
        operator.account_limits(subs=OWN + 5)
        server.config = operator.config
        server.start()
        until(lambda: engine.total("nats_subs_refused") >= 15, "some are refused", 25)
        assert b.ask("SUB new") == "unavailable"
        for number in range(20):
            b.say(f"PUB room{number}", "near")
            assert a.expect("MSG", f"room{number}", b.address).payload == b"near"
        before = engine.total("nats_subs_refused")
        until(lambda: engine.total("nats_subs_refused") > before, "it is tried again")
        assert engine.total("nats_connects") == 2
        with Bus(server.url, user_credentials=str(file)) as bus:
            for number in range(20):
                bus.publish(f"signal.room.room{number}", b"far")
            bus.publish(f"signal.peer.{a.address}", b"end")
            received = []
            while (got := a.read()).payload != b"end":
                received.append(got.words[0])
        assert len(received) == 5


def test_rooms_of_a_url_over_the_limit() -> None:
    with (
        kit.nats(config=of_account(OWN + 1)) as server,
        kit.engine(nats=server.url, loops=2, control="off", **NODE) as engine,
    ):
        with BarePeer(engine.port, "one", "two", "three") as a:
            for _ in range(2):
                a.refused("unavailable")
            assert a.settle() == []
            assert engine.total("memberships") == 1
        never_lost(engine)


def test_presence_over_the_limit() -> None:
    """A SUB with presence needs two subscriptions. A member stays a member."""
    with (
        kit.nats(config=of_account(OWN + 3)) as server,
        kit.engine(nats=server.url, loops=2, control="off", **NODE) as engine,
    ):
        with BarePeer(engine.port) as a, BarePeer(engine.port) as b:
            assert a.ask("SUB first") == a.ask("SUB second") == "ok"
            assert b.ask("SUB third presence") == "unavailable"
            assert b.settle() == []
            until(lambda: engine.total("memberships") == 2, "it is left")
            assert b.ask("SUB third") == "ok"
            assert b.ask("SUB third presence") == "unavailable"
            assert engine.total("memberships") == 3
            assert engine.total("presence_listeners") == 0
            assert a.ask("UNSUB first") == "ok"
            until(lambda: b.ask("SUB third presence") == "ok", "a subscription is free")
            assert b.read().verb == "MEMBERS"
        never_lost(engine)


def test_watchers_get_members_when_presence_is_subscribed_again(tmp_path: Path) -> None:
    """A client that watched before NATS lowered its limit gets MEMBERS once presence is subscribed to again."""
    operator = Operator()
    file = operator.creds(tmp_path / "node.creds")
    with kit.nats(config=operator.config) as server:
        settings = {"nats": server.url, "nats_creds": str(file), "control": "off"}
        with kit.engine(loops=1, **settings) as engine, BarePeer(engine.port) as a, BarePeer(engine.port) as b:
            Crowd(b, "room")
            assert a.ask("SUB one") == "ok"
            server.stop()
            operator.account_limits(subs=OWN + 2)
            server.config = operator.config
            server.start()
            until(lambda: engine.total("nats_subs_refused"), "one is refused", 25)
            assert engine.total("nats_connects") == 2
            b.early.clear()
            assert a.ask("UNSUB one") == "ok"
            received = until(lambda: [one for one in b.settle() if one.verb == "MEMBERS"], "it queries again")
            assert received[0].payload == b.address.encode()


def test_a_limit_below_what_a_node_needs() -> None:
    """The node does not dial without pause, and logs once which limit to raise."""
    for limit in (1, OWN - 1):
        with (
            kit.nats(config=of_account(limit)) as server,
            kit.engine(nats=server.url, loops=1, control="off", **NODE) as engine,
        ):
            assert engine.ready["nats_state"] == "away"
            until(lambda: engine.total("nats_errors") > 3, "it is tried again")
            lines = [line for line in engine.events() if line["level"] in ("warning", "error")]
            assert len(lines) == 1 and "max_subscriptions" in lines[0]["reason"], lines
            assert engine.total("nats_lost") < 20


def test_permissions_and_the_limit_together() -> None:
    """Each SUB gets the right answer, though NATS names only denied subjects."""
    config = f"""accounts {{ A {{
        users: [ {{ user: node, password: node, permissions: {{ subscribe: {{ deny: ["signal.room.secret.>"] }} }} }} ]
        limits {{ max_subscriptions: {OWN + 3} }}
    }} }}"""
    with (
        kit.nats(config=config) as server,
        kit.engine(nats=server.url, loops=1, control="off", **NODE) as engine,
        BarePeer(engine.port) as a,
    ):
        rooms = ["a", "secret.b", "c", "d", "e", "secret.f", "g"]
        subs = [frame(TEXT, f"SUB {room} ref=r{number}".encode()) for number, room in enumerate(rooms)]
        a.wire.send(b"".join(subs))  # read in one iteration, before NATS answers
        codes = [a.answer_to(f"r{number}") for number in range(len(rooms))]
        assert codes == ["ok", "denied", "ok", "ok", "unavailable", "denied", "unavailable"]


def test_refused_subscriptions_are_tried_at_a_bounded_pace() -> None:
    """With any number of SUBs, NATS is tried about once a second. Clients are answered at once."""
    limit = OWN + 1

    def answer(link: Link, line: bytes) -> bool:
        if line.startswith(b"SUB"):
            link.subs = getattr(link, "subs", 0) + 1  # type: ignore[attr-defined]
            if link.subs > limit:  # type: ignore[attr-defined]
                link.subs -= 1  # type: ignore[attr-defined]
                link.say(b"-ERR 'maximum subscriptions exceeded'\r\n")
        return False

    with FakeNats(answer=answer) as fake, kit.engine(nats=fake.url, loops=1, control="off") as engine:
        link = fake.link()
        with BarePeer(engine.port) as a:
            assert a.ask("SUB first") == "ok"
            assert a.ask("SUB second") == "unavailable"
            asked = sum(line.startswith(b"SUB") for line in list(link.lines))
            for number in range(300):
                assert a.ask(f"SUB room{number}") == "unavailable"
            assert sum(line.startswith(b"SUB") for line in list(link.lines)) - asked < 15
        assert engine.total("nats_lost") == 0
