"""Out of memory: new clients are refused, old ones go on, the ledgers hold, and all is well once there is memory."""

import contextlib
import os
import re
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kit
from minted import SECRET, Guest, token
from peers import BarePeer, Closed, exchange_messages, ledgers_hold
from wire import CONT, TEXT, Wire, frame, fresh, request, until

CHUNK = 4096  # connections that a loop allocates at once: CHUNK_CONNS of signal_core
SPARE = 3 << 20  # bytes of address space that the engine may still take


def status(engine: kit.Engine, path: str = "/") -> int:
    """The status that one more client gets; 0 if the engine closes without an answer."""
    with Wire(engine.port) as wire:
        wire.send(request(path))
        try:
            return wire.read_answer().status
        except EOFError:
            return 0


# -- a limit of the kernel --


def held_bytes(pid: int) -> int:
    """The process's address space."""
    found = re.search(r"^VmSize:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return 1024 * int(found[1])


@contextlib.contextmanager
def short_of_memory(engine: kit.Engine) -> Iterator[None]:
    """The running engine can map SPARE bytes more, and no others."""
    before = resource.prlimit(engine.pid, resource.RLIMIT_AS)
    resource.prlimit(engine.pid, resource.RLIMIT_AS, (held_bytes(engine.pid) + SPARE, before[1]))
    try:
        yield
    finally:
        if engine.alive():
            resource.prlimit(engine.pid, resource.RLIMIT_AS, before)


def fill(sender: BarePeer, slow: BarePeer) -> int:
    """Sends to a client that doesn't read until even the smallest message finds no memory; returns how many did."""
    kept = 0
    for size in (60000, 16000, 4000, 1000, 200, 10, 10):
        code = ""
        while code != "unavailable":
            ref = fresh("f")
            sender.say(f"TO {slow.address} ref={ref}", b"x" * size)
            codes = [one.words[0] for one in sender.settle() if one.options.get("ref") == ref]
            code = codes[0] if codes else ""
            kept += code == ""
            assert code in ("", "unavailable") and kept < 4096
    return kept


@pytest.mark.skipif(kit.SANITIZED, reason="a sanitizer's memory can't be bounded like this")
def test_the_address_space_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog takes all memory; then slots, rooms and messages are refused, and nothing else."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < CHUNK + 200:
        pytest.skip(f"this test needs {CHUNK + 200} descriptors, {hard} are allowed")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # otherwise malloc reserves 64 MB of address space for a loop
    settings: dict[str, Any] = {"max_refs": 4096, "backlog_messages": 4096, "backlog_bytes": 1 << 28, "ttl": 120}
    settings |= {"max_rooms": 4096, "backlog_total": 1 << 28, "handshake_timeout": 300, "stall_timeout": 300}
    with kit.engine(loops=1, **settings) as engine, contextlib.ExitStack() as stack:
        stack.enter_context(kit.many_descriptors(CHUNK + 200))
        a, b, filler = (stack.enter_context(BarePeer(engine.port, "room")) for _ in range(3))
        slow = BarePeer(engine.port, receive_buffer=4096)
        stack.callback(slow.vanish)
        idle = [stack.enter_context(Wire(engine.port)) for _ in range(CHUNK - 4)]
        until(lambda: engine.total("accepted_sockets") == CHUNK, "no slot is left")
        exchange_messages(a, b)  # so that both have memory for refs: it may be refused, too
        before = engine.stats()["total"]
        with short_of_memory(engine):
            kept = fill(filler, slow)
            exchange_messages(a, b)
            until(lambda: a.ask("SUB " + fresh("room")) == "unavailable", "no room can be made", every=0)
            assert [status(engine) for _ in range(20)] == [503] * 20
            assert a.ask("PUB room", b"x" * 60000) == "unavailable"
            exchange_messages(b, a)
        assert kept > 20
        idle.pop().socket.close()
        until(lambda: status(engine) == 101, "it accepts clients again")
        assert b.ask("SUB " + fresh("room")) == "ok"
        assert a.ask("PUB room", "to all", ref="all") == "ok"
        assert b.expect("MSG", "room", a.address, ref="all").payload == b"to all"
        after = engine.stats()["total"]
        assert after["shed"] - before["shed"] >= 20
        ledgers_hold(after)
        for _ in range(kept):
            assert slow.read().verb == "FROM"
        until(lambda: engine.total("in_flight") == 0, "all is written")
        ledgers_hold(engine.stats()["total"])
        exchange_messages(a, b)


# -- allocations refused by a preloaded library --


class Refusal:
    """Controls which allocations of the loops are refused, in engines that start under it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.one_in(0)

    def one_in(self, n: int) -> None:
        """Refuses one allocation in n; 1: all, 0: none."""
        with self.file.open("r+b" if self.file.exists() else "wb") as mode:  # the engines have it mapped
            mode.write(bytes([n]))


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    if "libtsan" in kit.MAPS:
        pytest.skip("ThreadSanitizer ends a process that has no memory")
    library = tmp_path / "refuse_memory.so"
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = Path(__file__).parents[1] / "support" / "refuse_memory.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    before = os.environ.get("LD_PRELOAD", "")
    monkeypatch.setenv("LD_PRELOAD", f"{library} {before}".strip())
    monkeypatch.setenv("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
    monkeypatch.setenv("SIGNAL_TEST_REFUSE", str(tmp_path / "mode"))
    return Refusal(tmp_path / "mode")


def test_all_memory_is_refused(refusal: Refusal) -> None:
    """What needs no memory goes on; what needs some is refused, or closed in order."""
    with kit.engine(loops=1) as engine, contextlib.ExitStack() as stack:
        a, b, c, d = (stack.enter_context(BarePeer(engine.port, "room")) for _ in range(4))
        half = stack.enter_context(Wire(engine.port))
        exchange_messages(a, b)
        before = engine.stats()["total"]
        refusal.one_in(1)
        for sender, receiver in ((a, b), (b, a)):
            sender.say(f"TO {receiver.address}", "still here")
            assert receiver.expect("FROM", sender.address).payload == b"still here"
        assert a.ask("SUB " + fresh("room")) == a.ask("PUB room", "to all") == "unavailable"
        c.wire.send(frame(TEXT, b"PI", fin=False))
        assert c.ended() == 1011
        d.wire.send(frame(TEXT, b"PING")[:3])
        assert d.ended() == 1011
        half.send(request()[:50])
        answer = half.read_answer()
        assert (answer.status, answer.headers["retry-after"], half.read_end()) == (503, "1", b"")
        assert status(engine, "/?room=" + fresh("room")) == 503
        assert {status(engine) for _ in range(50)} <= {101, 503}
        refusal.one_in(0)
        after = engine.stats()["total"]
        assert after["shed"] - before["shed"] >= 2
        assert after["refused_unavailable"] - before["refused_unavailable"] == 1
        ledgers_hold(after)
        assert a.ask("SUB " + fresh("room")) == a.ask("PUB room", "to all") == "ok"
        assert b.read().payload == b"to all"
        assert status(engine) == 101


class Crowd:
    """Peers that send messages of all kinds; those that are closed for it are replaced."""

    def __init__(self, engine: kit.Engine) -> None:
        self.engine = engine
        self.peers: list[BarePeer] = []
        self.slow: list[BarePeer] = []
        self.codes: Counter[str] = Counter()

    def fill(self) -> None:
        """Connects the missing ones, as far as they are accepted."""
        for _ in range(8 - len(self.peers)):
            self.add(self.peers)
        for _ in range(2 - len(self.slow)):
            self.add(self.slow, receive_buffer=4096)

    def add(self, peers: list[BarePeer], receive_buffer: int = 0) -> None:
        try:
            peers.append(BarePeer(self.engine.port, "room", receive_buffer=receive_buffer))
        except (AssertionError, OSError, EOFError, Closed) as error:
            self.codes[type(error).__name__] += 1

    def turn(self) -> None:
        """Each sends one message of each kind; asserts that each ref is answered, or its connection has ended."""
        self.fill()
        sent = [(peer, self.speak(peer, self.peers[i - 1], i)) for i, peer in enumerate(self.peers)]
        for peer, refs in sent:
            try:
                for ref in refs:
                    self.codes[peer.answer_to(ref)] += 1
            except (OSError, EOFError, Closed) as error:
                assert not isinstance(error, TimeoutError), f"ref {ref} of {peer.address} is not answered"
                self.codes["ended"] += 1
                peer.vanish()
                self.peers.remove(peer)
        if len(self.slow) == 2:
            self.slow.pop(0).vanish()

    def speak(self, peer: BarePeer, other: BarePeer, i: int) -> list[str]:
        room = f"room{i % 3}"
        heads = [f"SUB {room}", f"PUB {room}", "PUB room", f"TO {other.address} ttl=200", f"UNSUB {room}"]
        with contextlib.suppress(OSError):
            for slow in self.slow:
                peer.say(f"TO {slow.address} ttl=200", b"x" * 60000)
            if i % 4 == 0:
                peer.wire.send(frame(TEXT, b"PUB roo", fin=False) + frame(CONT, b"m\nin two pieces"))
            for j, head in enumerate(heads):
                peer.say(f"{head} ref={j}", b"y" * (20000 if j == 3 else 10) if head[0] in "PT" else None)
        return [str(j) for j in range(len(heads))]

    def leave(self) -> None:
        for peer in self.peers + self.slow:
            peer.vanish()


@pytest.mark.parametrize("loops", [1, 3])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_some_memory_is_refused(refusal: Refusal, loops: int, n: int) -> None:
    """Whichever allocation fails: the engine lives, each ref is answered, and nothing is left or lost uncounted."""
    with kit.engine(loops=loops) as engine:
        crowd = Crowd(engine)
        crowd.fill()
        refusal.one_in(n)
        for _ in range(6):
            crowd.turn()
        refusal.one_in(0)
        assert crowd.codes.keys() & {"unavailable", "ended", "Closed", "AssertionError"}, crowd.codes
        crowd.codes.clear()
        crowd.turn()
        assert crowd.codes == {"ok": crowd.codes["ok"]} and crowd.codes["ok"] >= 5, crowd.codes
        crowd.leave()
        until(lambda: is_empty(engine), "nothing is left")
        ledgers_hold(engine.stats()["total"])


def test_a_renewal_that_can_not_be_answered(refusal: Refusal) -> None:
    """Its connection ends, as there is no memory for the answer. Others, whose tokens expire at the same time, stay."""
    text, far = token(), 86400  # seconds, so that no other timer fires
    settings: dict[str, Any] = {"ping_interval": far, "stall_timeout": 600, "ttl": 600, "auth": "jwt"}
    with kit.engine(loops=1, auth_key=SECRET, **settings) as engine, contextlib.ExitStack() as stack:
        calm = [stack.enter_context(Guest(engine.port, token=text)) for _ in range(20)]
        slow = [Guest(engine.port, "room", token=text, receive_buffer=4096) for _ in range(30)]
        for peer in slow:
            stack.callback(peer.vanish)

        def all_are_full() -> bool:
            calm[0].say("PUB room", b"x" * 60000)
            return bool(engine.total("blocked") >= len(slow))

        until(all_are_full, "all sockets are full", every=0, limit=60)
        refusal.one_in(2)

        def some_have_ended() -> bool:
            for peer in slow:
                with contextlib.suppress(OSError):
                    peer.say(f"AUTH {text} ref=r")
            return bool(engine.total("connections") < len(calm) + len(slow) * 2 // 3)

        until(some_have_ended, "some are not answered")
        refusal.one_in(0)
        for peer in calm:
            assert peer.settle() == []
        assert engine.total("connections") >= len(calm)


@pytest.mark.parametrize("n", [3, 7])
def test_a_room_that_was_joined_is_subscribed_on_nats(refusal: Refusal, n: int) -> None:
    """A SUB that was answered `ok` reaches NATS, though memory for it was refused at first."""
    with kit.nats() as server, contextlib.ExitStack() as stack:
        here, there = (stack.enter_context(kit.engine(nats=server.url, loops=loops, ttl=0.5)) for loops in (2, 1))
        peers = [stack.enter_context(BarePeer(here.port)) for _ in range(8)]
        refusal.one_in(n)
        joined = {peer: join_some(peer) for peer in peers}
        refusal.one_in(0)
        assert sum(map(len, joined.values())) >= 5
        far = stack.enter_context(BarePeer(there.port))
        for rooms in joined.values():
            for room in rooms:
                assert far.ask(f"PUB {room}", room, ref="r") == "ok"
        for peer, rooms in joined.items():
            assert [peer.expect("MSG", room, far.address, ref="r").words[0] for room in rooms] == rooms


def join_some(peer: BarePeer) -> list[str]:
    """Sends SUB for some rooms; returns those that were answered `ok`, none if the engine has closed."""
    rooms = [fresh("room") for _ in range(6)]
    try:
        return [room for room in rooms if peer.ask(f"SUB {room}") == "ok"]
    except (EOFError, ConnectionError, Closed):
        return []


def is_empty(engine: kit.Engine) -> bool:
    total = engine.stats()["total"]
    gauges = ("connections", "rooms", "memberships", "in_flight", "backlog_bytes")
    return not any(total[name] for name in gauges) and total["posted"] == total["taken"]
