"""Nodes of neighbouring versions in one cluster, and a rolling upgrade: one node runs the wheel of the previous commit,
the other this commit."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
import signal_core
from peers import BarePeer
from previous import ROOT, previous
from signal_py.control import Control
from wire import until

from .conftest import await_cluster
from .test_rolling import Talk

pytestmark = pytest.mark.timeout(700)  # a wheel may have to be built: a minute on a slow machine
SECONDS = 2.0  # of a drain


@pytest.fixture(scope="module")
def wheel() -> Path:
    if ROOT / "build" in Path(str(signal_core.__file__)).parents:
        pytest.skip("the wheel of the previous commit runs only beside a release build: it has no sanitizers")
    return previous()


@pytest.fixture
def server() -> Iterator[kit.Nats]:
    with kit.nats() as running:
        yield running


@contextlib.contextmanager
def old_engine(wheel: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Iterator[kit.Engine]:
    """A node of the previous commit."""
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(wheel))
        running = kit.engine(**settings)
        engine = running.__enter__()
    maps = Path(f"/proc/{engine.pid}/maps").read_text(encoding="utf-8")
    assert f"{wheel}/signal_core/engine" in maps, "it runs another build"
    try:
        yield engine
    finally:
        running.__exit__(None, None, None)


def messages_cross(old: BarePeer, new: BarePeer) -> None:
    """Asserts that all kinds of messages arrive both ways, with receipts, answers and presence."""
    for one, other in ((old, new), (new, old)):
        assert one.ask("SUB crossing presence") == "ok"
        members: set[str] = set()
        while len(members) < 2:
            members |= set(str(one.expect("MEMBERS", "crossing").payload, "ascii").split())
        assert members == {one.address, other.address}
        assert one.ask("UNSUB crossing") == one.ask("SUB crossing") == "ok"
    for one, other in ((old, new), (new, old)):
        assert one.ask(f"TO {other.address}", "to you", ref="t") == "ok"
        other.expect("FROM", one.address, ref="t")
        one.say("PUB crossing ref=q", "to all")
        other.expect("MSG", "crossing", one.address, ref="q")
        assert one.answer_to("q") == "ok"
        other.say(f"TO {one.address} re=q", "an answer")
        one.expect("FROM", other.address, re="q")


async def assert_controlled(server: kit.Nats, nodes: list[kit.Engine], peers: list[BarePeer]) -> None:
    """Asserts that these nodes answer operators: queries to all nodes, and queries to one."""
    names = {node.node for node in nodes}
    async with Control(nats=server.url, timeout=10) as control:
        while {node.node for node in await control.nodes()} != names:
            pass
        stats = await control.stats()
        assert {answer.node for answer in stats.answers} == names and stats.complete
        rooms = {room.room: dict(room.nodes) for room in (await control.rooms()).answers}
        assert rooms["crossing"] == dict.fromkeys(names, 1)
        members = await control.members("crossing")
        assert {member.peer for member in members.answers} == {peer.address for peer in peers}
        for node in nodes:
            (alone,) = (await control.stats(node.node)).answers
            assert alone.node == node.node
        assert [gone.disconnected for gone in (await control.disconnect(peers[0].address)).answers] == [1]
        assert peers[0].ended() == 4009


def test_a_rolling_upgrade(wheel: Path, server: kit.Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions understand each other. Nothing is lost between clients of the node that stays, while the old node
    drains and is replaced."""
    settings = {"nats": server.url, "loops": 2, "drain_time": SECONDS}
    with kit.engine(node="stays", **settings) as stays:
        with old_engine(wheel, monkeypatch, node="turns", **settings) as old:
            await_cluster([stays, old])
            with BarePeer(old.port, "crossing") as there, BarePeer(stays.port, "crossing") as here:
                messages_cross(there, here)
                asyncio.run(assert_controlled(server, [old, stays], [there, here]))
            asyncio.run(drain_under_traffic(stays, old))
        with kit.engine(node="turns", **settings) as new:
            await_cluster([stays, new])
            with BarePeer(new.port, "crossing") as there, BarePeer(stays.port, "crossing") as here:
                messages_cross(there, here)
                asyncio.run(assert_controlled(server, [new, stays], [there, here]))


async def drain_under_traffic(stays: kit.Engine, goes: kit.Engine) -> None:
    """Drains one node, while two clients of the other exchange messages."""
    over = asyncio.Event()
    talk = asyncio.ensure_future(asyncio.to_thread(Talk(stays.port, stays.port).go_on, over))
    guest = BarePeer(goes.port)
    await asyncio.to_thread(goes.stop)
    over.set()
    await talk
    assert guest.read().verb == "GOAWAY"
    assert guest.ended() == 1001
    until(lambda: not goes.alive(), "it has ended")
    guest.close()
