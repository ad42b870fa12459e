"""Every ref gets exactly one answer, within its ttl and a second, whatever fails between the peers."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

import kit
import receipts
from kit import freeze
from peers import BarePeer
from wire import until

from .bus import Bus
from .conftest import await_cluster


def waited_for_processor(node: kit.Engine) -> float:
    """Seconds that a node's loop and this thread have waited for a processor since their start."""
    waits = receipts.Waits()
    waits.pid = node.pid
    own = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    return (sum(waits.loops()) + own) / 1e9


@pytest.mark.alone
@pytest.mark.timeout(120)
def test_one_answer_for_each_ref_under_faults() -> None:
    """A short run of tests/support/receipts.py: nodes, NATS and receivers are killed and stopped meanwhile."""
    tally = asyncio.run(receipts.measure(6000, 24.0))
    report = tally.report()
    assert tally.sent == 6000 and not tally.never and not tally.twice, report
    assert tally.late == 0, report
    assert len(tally.faults) == 5, report
    assert {"ok", "timeout", "unavailable"} <= set(tally.codes), report


@pytest.mark.alone
@pytest.mark.parametrize("ttl", [100, 250, 730])
def test_a_timeout_comes_in_time(ttl: int) -> None:
    """For a node that hangs: within the ttl and a second, whenever in a tick it was sent. Time for which the sender's
    node or this program waited for a processor is allowed for."""
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=1) as one,
        kit.engine(nats=server.url, loops=1) as two,
        BarePeer(one.port) as a,
        BarePeer(two.port) as b,
    ):
        await_cluster([one, two])
        freeze(two)
        try:
            due: dict[str, float] = {}
            kept = waited_for_processor(one)
            begun = time.monotonic()
            for i in range(20):
                until(lambda i=i: time.monotonic() > begun + i * 0.013, every=0.001)  # type: ignore[misc]
                a.say(f"TO {b.address} ref={i} ttl={ttl}", "x")
                due[str(i)] = time.monotonic() + ttl / 1000 + 1
            for ref, moment in due.items():
                assert a.answer_to(ref) == "timeout"
                over, waited = time.monotonic() - moment, waited_for_processor(one) - kept
                assert -0.25 - waited < over < 0.05 + waited
        finally:
            os.kill(two.pid, signal.SIGCONT)
        assert a.settle() == []


def test_ttl_is_enforced_while_nats_takes_nothing() -> None:
    """What waits for NATS longer than its ttl gets expired, frees its space, and is never published."""
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=2, nats_pending=1 << 20) as engine,
        BarePeer(engine.port) as a,
        Bus(server.url) as bus,
    ):
        received = bus.subscribe("signal.peer.elsewhere.>")
        freeze(server)
        try:
            until(lambda: engine.total("in_flight") > 7 or a.say("PUB big ttl=60000", "x" * 60000))
            before = engine.total("dropped_expired")
            begun = time.monotonic()
            codes = [a.ask(f"TO elsewhere.0f3zq8m2v9w1x ttl={ttl}", "late") for ttl in (300, 100)]
            assert codes == ["expired", "expired"], codes
            assert time.monotonic() - begun < 3.5
            assert engine.total("dropped_expired") == before + 2
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert a.ask("TO elsewhere.0f3zq8m2v9w1x ttl=500", "fresh") in ("timeout", "ok")
        assert received.get(timeout=10).data == b"fresh"


def test_a_receiver_that_closes_with_messages_queued() -> None:
    """On the other node: each message that waits for it is answered once, and at once."""
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=1, ttl=20, max_refs=1000) as one,
        kit.engine(nats=server.url, loops=1, ttl=20) as two,
        BarePeer(one.port) as a,
    ):
        await_cluster([one, two])
        b = BarePeer(two.port, receive_buffer=4096)
        for i in range(400):
            a.say(f"TO {b.address} ref={i}", b"x" * 16000)
        until(lambda: two.total("backlog_bytes") > 200000)
        begun = time.monotonic()
        b.vanish()
        codes = [a.answer_to(str(i)) for i in range(400)]
        assert time.monotonic() - begun < 5
        assert codes.count("no-such-peer") > 5 and set(codes) <= {"ok", "no-such-peer", "slow-peer"}
        assert a.settle() == []


def test_receipts_that_nats_does_not_take_are_counted() -> None:
    """More at once than may wait for NATS: each comes, or is counted."""
    sent = 4000
    with kit.nats() as server, kit.engine(nats=server.url, loops=1, nats_pending=65536) as node, Bus(server.url) as bus:
        gone = BarePeer(node.port)
        gone.vanish()
        until(lambda: node.total("connections") == 0, "it is gone")
        receipts_received = bus.subscribe("receipts")

        async def send() -> None:
            for _ in range(sent):
                await bus.client.publish(f"signal.peer.{gone.address}", b"x", reply="receipts")

        def lost() -> int:
            return int(node.total("receipts_lost"))

        def all_are_accounted_for() -> bool:
            return receipts_received.qsize() + lost() == rounds * sent

        rounds = 0
        while lost() == 0:
            rounds += 1
            bus.run(send())
            until(all_are_accounted_for, "each comes or is counted")
