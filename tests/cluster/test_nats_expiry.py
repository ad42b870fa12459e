"""Credentials that end while NATS is connected."""

import os
import signal
import time
from pathlib import Path

import kit
from peers import BarePeer
from wire import until

from .accounts import Operator
from .conftest import await_cluster


def states(engine: kit.Engine, seconds: float) -> set[str]:
    """Those that it is in during this time."""
    seen: set[str] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen.add(str(engine.stats()["nats_state"]))
        time.sleep(0.02)
    return seen


def test_credentials_that_are_replaced_in_time(tmp_path: Path) -> None:
    """Their end is no refusal: the node logs in at once with what the file says now."""
    operator = Operator()
    file = operator.creds(tmp_path / "node.creds", life=12)
    with kit.nats(config=operator.config) as server:
        settings = {"nats": server.url, "nats_creds": str(file), "loops": 1, "control": "off"}
        with kit.engine(**settings) as one, kit.engine(**settings) as two:
            await_cluster([one, two])
            operator.creds(file)
            with BarePeer(one.port, "room") as a, BarePeer(two.port, "room") as b:
                until(lambda: one.total("nats_connects") == 2, "it logs in again", 30)
                until(lambda: two.total("nats_connects") == 2, "it logs in again", 30)
                assert states(one, 1) == {"up"}
                until(lambda: a.ask(f"TO {b.address} ttl=500", "x") == "ok", "they meet again")
                b.settle()
                a.say("PUB room", "still a member")
                b.expect("MSG", "room", a.address)
            for node in (one, two):
                assert not [line for line in node.events() if line["level"] in ("warning", "error")]


def test_credentials_that_are_not_replaced(tmp_path: Path) -> None:
    """The second refusal of the same is believed, and told once; fresh ones are taken when they come."""
    operator = Operator()
    file = operator.creds(tmp_path / "node.creds", life=3)
    with (
        kit.nats(config=operator.config) as server,
        kit.engine(nats=server.url, nats_creds=str(file), loops=1, control="off") as engine,
    ):
        until(lambda: engine.stats()["nats_state"] == "refused", "they have expired", 15)
        told = [line for line in engine.events() if line["level"] in ("warning", "error")]
        assert [line["event"] for line in told] == ["NATS refuses this node"]
        operator.creds(file)
        until(lambda: engine.stats()["nats_state"] == "up", "fresh ones are taken", 15)


def test_a_user_that_is_taken_away(tmp_path: Path) -> None:
    """By a reload of the server, which then says so: what the settings say is tried once more, and refused."""
    users = "authorization { users: [ { user: node, password: %s } ] }"
    with (
        kit.nats(config=users % "node") as server,
        kit.engine(nats=server.url, nats_user="node", nats_password="node", loops=1, control="off") as engine,
    ):
        until(lambda: engine.stats()["nats_state"] == "up", "it is up")
        (server.folder / "nats.conf").write_text(users % "other")
        os.kill(server.pid, signal.SIGHUP)
        until(lambda: engine.stats()["nats_state"] == "refused", "it is refused", 15)
