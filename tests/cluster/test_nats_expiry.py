"""Credentials that expire while NATS is connected."""

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
    """All values of nats_state during this time."""
    seen: set[str] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen.add(str(engine.stats()["nats_state"]))
        time.sleep(0.02)
    return seen


def test_credentials_that_are_replaced_in_time(tmp_path: Path) -> None:
    """The node logs in again at once with the new content of the file, and is not refused."""
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
    """The state is refused when the same ones failed twice, which is logged once. New ones are used when they come."""
    operator = Operator()
    file = operator.creds(tmp_path / "node.creds", life=3)
    with (
        kit.nats(config=operator.config) as server,
        kit.engine(nats=server.url, nats_creds=str(file), loops=1, control="off") as engine,
    ):
        until(lambda: engine.stats()["nats_state"] == "refused", "they have expired", 15)
        until(lambda: engine.events("NATS refuses this node"), "it is logged")
        lines = [line for line in engine.events() if line["level"] in ("warning", "error")]
        assert [line["event"] for line in lines] == ["NATS refuses this node"]
        operator.creds(file)
        until(lambda: engine.stats()["nats_state"] == "up", "new ones are used", 15)


def test_a_user_that_is_removed(tmp_path: Path) -> None:
    """By a reload of the server, which reports it. The same credentials are tried once more, and refused."""
    users = "authorization { users: [ { user: node, password: %s } ] }"
    with (
        kit.nats(config=users % "node") as server,
        kit.engine(nats=server.url, nats_user="node", nats_password="node", loops=1, control="off") as engine,
    ):
        until(lambda: engine.stats()["nats_state"] == "up", "it is up")
        (server.folder / "nats.conf").write_text(users % "other")
        os.kill(server.pid, signal.SIGHUP)
        until(lambda: engine.stats()["nats_state"] == "refused", "it is refused", 15)
