"""A rolling restart of two nodes whose clients reconnect: no message between clients of the node that stays is lost,
and that node is not overrun."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import kit
from peers import BarePeer
from receipts import Waits
from wire import until

from .conftest import await_cluster

CLIENTS = 240
SECONDS = 6.0  # of a drain
LOOPS = 2
WINDOW = 1.0  # seconds over which the rate of handshakes is compared with the pace
TICK = 0.1  # seconds: the clients due in a tick are closed at once
RECONNECT = 0.1  # seconds by which the times to reconnect may differ
CHANCE = 10  # obedient clients that happen to leave in the same window: more in one of a thousand runs


@pytest.fixture
def server() -> Iterator[kit.Nats]:
    with kit.nats() as running:
        yield running


class Crowd:
    """Clients of a node that reconnect to another: some within the time in GOAWAY, as they should, others at once when
    they are closed."""

    def __init__(self, port: int, elsewhere: int, obedient: int) -> None:
        """`obedient`: how many of them leave within the time in GOAWAY."""
        self.port, self.elsewhere, self.obedient = port, elsewhere, obedient
        self.arrived: list[float] = []
        self.ready = 0
        self.ends = asyncio.Event()

    async def run(self, obedient: bool) -> None:
        async with connect(f"ws://127.0.0.1:{self.port}/", compression=None, open_timeout=20) as client:
            await client.recv()
            self.ready += 1
            try:
                goaway = str(await client.recv()).split(" ")
                assert goaway[0] == "GOAWAY"
                if obedient:
                    await asyncio.wait_for(client.wait_closed(), random.uniform(0, int(goaway[1]) / 1000))
                await client.wait_closed()
            except (ConnectionClosed, asyncio.TimeoutError):
                pass
            if client.close_code is None:
                await client.close()
        async with connect(f"ws://127.0.0.1:{self.elsewhere}/", compression=None, open_timeout=20) as client:
            await client.recv()
            self.arrived.append(time.monotonic())
            await self.ends.wait()

    async def all(self) -> list["asyncio.Task[None]"]:
        tasks = [asyncio.ensure_future(self.run(i < self.obedient)) for i in range(CLIENTS)]
        while self.ready < CLIENTS:
            await asyncio.sleep(0.01)
        return tasks


class Talk:
    """Two clients of nodes that stay. They send to each other and to a room, one message after another."""

    def __init__(self, left: int, right: int) -> None:
        self.a, self.b = BarePeer(left, "talk"), BarePeer(right, "talk")
        self.sent = 0

    def go_on(self, over: "asyncio.Event") -> None:
        """Asserts that each message is answered OK, and arrives complete and in order."""
        while not over.is_set() or self.sent < 20:
            for one, other in ((self.a, self.b), (self.b, self.a)):
                self.sent += 1
                text = str(self.sent)
                one.say(f"TO {other.address} ref=t", text)
                one.say("PUB talk ref=p", text)
                assert one.answer_to("t") == one.answer_to("p") == "ok"
                assert other.expect("FROM", one.address, ref="t").payload == text.encode()
                assert other.expect("MSG", "talk", one.address, ref="p").payload == text.encode()
        for peer in (self.a, self.b):
            assert peer.settle() == []
            peer.close()


def most_at_once(moments: list[float]) -> int:
    """The largest number of moments within any WINDOW."""
    moments = sorted(moments)
    return max(
        sum(1 for one in itertools.islice(moments, i, None) if one < start + WINDOW) for i, start in enumerate(moments)
    )


def lasted(engine: kit.Engine) -> float:
    """Seconds from the beginning of the drain to the end of the engine, by its log."""
    moments = {line["event"]: datetime.fromisoformat(line["time"].rstrip("Z")) for line in engine.events()}
    return (moments["stopped"] - moments["draining"]).total_seconds()


async def watch(waits: Waits, pid: int) -> None:
    """Watches until the process ends."""
    with contextlib.suppress(OSError, ValueError):
        await waits.watch(pid)


async def drain(goes: kit.Engine, stays: kit.Engine, obedient: int) -> None:
    """Drains one of two nodes under traffic; returns when that node has ended."""
    crowd, waits = Crowd(goes.port, stays.port, obedient), Waits()
    tasks = await crowd.all()
    watching = asyncio.ensure_future(watch(waits, goes.pid))
    over = asyncio.Event()
    talk = asyncio.ensure_future(asyncio.to_thread(Talk(stays.port, stays.port).go_on, over))
    os.kill(goes.pid, signal.SIGTERM)
    begun = time.monotonic()
    assert await asyncio.to_thread(goes.wait, SECONDS + 10) == 0
    over.set()
    await talk
    while len(crowd.arrived) < CLIENTS:
        await asyncio.sleep(0.01)
    crowd.ends.set()
    await asyncio.gather(*tasks)
    await watching
    assert lasted(goes) < SECONDS + 2
    late = TICK + RECONNECT + waits.most  # clients that were due while the node waited for a processor come at once
    pace = CLIENTS / SECONDS * (WINDOW + late) + LOOPS
    assert most_at_once(crowd.arrived) <= pace + (CHANCE if obedient else 0), (crowd.arrived, late)
    assert crowd.arrived[-1] - begun > 0.8 * SECONDS


def test_a_rolling_restart(server: kit.Nats) -> None:
    """First of a node whose clients all wait to be closed, then of one half of whose clients leave in time."""
    settings = {"nats": server.url, "loops": LOOPS, "drain_time": SECONDS, "close_timeout": 2}
    with kit.engine(node="one", **settings) as one, kit.engine(node="two", **settings) as two:
        await_cluster([one, two])
        asyncio.run(drain(one, two, 0))
        with kit.engine(node="one", **settings) as again:
            await_cluster([again, two])
            asyncio.run(drain(two, again, CLIENTS // 2))


def test_messages_to_and_from_a_node_that_drains(server: kit.Nats) -> None:
    """Until its client is closed, all arrive, both ways. The last ones reach the other node."""
    settings = {"nats": server.url, "loops": 2}
    with kit.engine(drain_time=4, **settings) as goes, kit.engine(**settings) as stays:
        await_cluster([goes, stays])
        leaver, stayer = BarePeer(goes.port), BarePeer(stays.port, "last")
        os.kill(goes.pid, signal.SIGTERM)
        assert leaver.read().verb == "GOAWAY"
        for i in range(100):
            assert leaver.ask(f"TO {stayer.address}", f"a{i}") == "ok"
            assert stayer.read().payload == b"a%d" % i
            assert stayer.ask(f"TO {leaver.address}", f"b{i}") == "ok"
            assert leaver.read().payload == b"b%d" % i
        for i in range(500):
            leaver.say("PUB last", str(i))
        leaver.close()
        assert [stayer.read().payload for _ in range(500)] == [b"%d" % i for i in range(500)]
        assert goes.wait() == 0
        until(lambda: stayer.ask(f"TO {leaver.address} ttl=500", "x") == "no-such-peer")
        stayer.close()
