"""Rights that a token loses while a SUB waits, and subjects that NATS denies."""

import os
import signal
import threading
import time

import kit
from kit import freeze
from minted import SECRET, Guest, token
from peers import BarePeer
from wire import CLOSE, CONT, TEXT, Wire, frame, until

from .crowd import Crowd
from .fake_nats import FakeNats, Link

NO_PRESENCE = """authorization { users: [
    { user: node, password: node, permissions: { publish: { deny: ["signal.presence.>"] } } }
    { user: free, password: free }
] }"""

NO_SECRETS = """authorization { users: [
    { user: node, password: node, permissions: { subscribe: { deny: ["signal.room.secret.>"] } } }
] }"""


def test_a_sub_that_waits_for_nats_while_its_right_is_lost() -> None:
    """It gets denied, and is not a member. A SUB that is still allowed gets OK."""
    settings = {"auth": "jwt", "auth_key": SECRET, "loops": 1, "auth_grace": 0}
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, **settings) as engine,
        Guest(engine.port, token=token("ann")) as ann,
        Guest(engine.port, token=token("bob")) as bob,
    ):
        denied = engine.total("auth_denied")
        freeze(server)
        try:
            ann.say("SUB taken presence ref=s1")
            ann.say("SUB kept ref=s2")
            assert ann.ask(f"AUTH {token('ann', rooms=['kept'])}") == "ok"
            assert bob.ask("PUB taken", "x") in ("ok", "unavailable")
            assert ann.settle() == []
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert ann.answer_to("s1") == "denied"
        assert ann.answer_to("s2") == "ok"
        assert ann.settle() == []
        assert engine.total("auth_denied") == denied + 1
        assert ann.ask("SUB taken") == "denied"


def test_presence_that_nats_does_not_allow() -> None:
    """It is counted, and logged once. Other nodes are not made to query again each time."""
    with kit.nats(config=NO_PRESENCE) as server:
        free = {"nats": server.url, "nats_user": "free", "nats_password": "free", "loops": 1}
        node = {"nats": server.url, "nats_user": "node", "nats_password": "node", "loops": 2}
        with kit.engine(**free) as listens, kit.engine(**node) as silent:
            with BarePeer(listens.port) as a, BarePeer(silent.port) as b:
                crowd = Crowd(a, "room")
                until(lambda: a.ask(f"TO {b.address}", "?") == "ok" and b.ask(f"TO {a.address}", "!") == "ok")

                def asked() -> tuple[int, int]:
                    total = silent.stats()["total"]
                    return int(total["presence_denied"]), int(total["presence_lost"])

                def joins() -> bool:
                    assert b.ask("SUB room") == b.ask("UNSUB room") == "ok"
                    return asked()[0] >= 20

                until(joins, "NATS has denied it, and joins are counted")
                assert asked()[1] == 0
                beats = silent.total("presence_out")
                begun = time.monotonic()
                for _ in range(200):
                    joins()
                assert silent.total("presence_out") - beats < 10 + 2 * (time.monotonic() - begun)
                crowd.expect(a.address)
            lines = silent.events("publish presence")
            assert len(lines) == 1 and lines[0]["level"] == "warning"


def test_rooms_of_a_url_that_nats_does_not_allow() -> None:
    """Each gets denied after HELLO. The connection is a member of the other rooms only."""
    with (
        kit.nats(config=NO_SECRETS) as server,
        kit.engine(nats=server.url, nats_user="node", nats_password="node", loops=2) as engine,
    ):
        for _ in range(2):  # before NATS has denied it, and after
            with BarePeer(engine.port, "secret.a", "open", "secret.b") as peer, BarePeer(engine.port) as other:
                peer.refused("denied")
                peer.refused("denied")
                assert peer.settle() == []
                assert other.ask("PUB secret.a", "no") == other.ask("PUB open", "yes") == "ok"
                assert peer.read().payload == b"yes"


def test_a_client_that_is_closed_before_all_its_rooms_are_settled() -> None:
    """NATS has denied one, and another still waits, when the node stops. What the client sends then is no message."""
    denied = threading.Event()

    def answer(link: Link, line: bytes) -> bool:
        if line.startswith(b"SUB") and b".room.secret " in line:
            link.say(b"-ERR 'Permissions Violation for Subscription to \"%s\"'\r\n" % line.split()[1])
            denied.set()
        return denied.is_set() and line.startswith(b"PING")

    with FakeNats(answer=answer) as server, kit.engine(nats=server.url, loops=1, drain_time=0) as engine:
        server.link()
        with Wire(engine.port) as wire:
            wire.upgrade("/?room=secret&room=open")
            until(lambda: engine.total("nats_errors") == 1, "the room is denied")
            os.kill(engine.pid, signal.SIGTERM)
            got = wire.read_frame()
            assert (got.opcode, got.code) == (CLOSE, 1001)
            wire.send(frame(TEXT, b"PUB open\nx", fin=False) + frame(CONT, b"y") + frame(CLOSE, b"\x03\xe9"))
            assert wire.read_end() == b""
        assert engine.wait() == 0
