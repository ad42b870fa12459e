"""Packets that NATS, and clients that wait for it, cause between threads are bounded for each kind
(docs/architecture/threads-and-ownership.md)."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

import pytest

import kit
from flood import Flood, grown, many_rooms, resident
from peers import BarePeer
from wire import LIMIT, TEXT, frame, opened, until

from .conftest import await_cluster
from .crowd import Crowd
from .fake_nats import SilentNats
from .test_presence_queries import apart

pytestmark = pytest.mark.timeout(180)  # some waits may take a minute

MOST = 4096 if kit.SANITIZED else 64  # MiB


@contextlib.contextmanager
def publishing(server: kit.Nats, data: bytes) -> Iterator[None]:
    """A NATS client that publishes without pause, as fast as the server reads."""
    over = threading.Event()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nPING\r\n')
        received = b""
        while b"PONG" not in received:
            received += client.recv(65536)
        client.settimeout(0.2)

        def run() -> None:
            left = memoryview(data)
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    left = left[client.send(left) :] or memoryview(data)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def hpub(subject: str, headers: str) -> bytes:
    """A message without a payload."""
    block = f"NATS/1.0\r\n{headers}\r\n\r\n"
    return f"HPUB {subject} {len(block)} {len(block)}\r\n{block}\r\n".encode()


def pub(subject: str, payload: str) -> bytes:
    return f"PUB {subject} {len(payload)}\r\n{payload}\r\n".encode()


def test_receipts_from_nats_are_bounded() -> None:
    """KIND_RECEIPT: receipts for unknown refs. Messages still arrive, and refs are answered."""
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=2, inbox_messages=64) as engine,
        contextlib.ExitStack() as stack,
    ):
        await_cluster([engine])
        first, (peer,) = apart(stack, engine, 1)
        before = resident(engine.pid)
        with publishing(server, hpub(f"signal.peer.{peer.address}.r1", "Signal-Receipt: ok") * 1000):
            until(lambda: engine.total("receipts_lost") > 100_000, "many are lost", limit=60.0)
            assert (resident(engine.pid) - before) >> 20 < MOST
        assert peer.ask(f"TO {first.address}", "x") == "ok"


def test_remote_queries_are_bounded() -> None:
    """KIND_QUESTION: from very many nodes that do not exist. Watchers here get their answers."""
    room = "room"
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=2, inbox_messages=64) as engine,
        contextlib.ExitStack() as stack,
    ):
        await_cluster([engine])
        _, (member, watcher) = apart(stack, engine, 2)
        member.join(room)
        data = b"".join(pub("signal.presence-ask", f"w{number} 1 {room}") for number in range(2000))
        before = resident(engine.pid)
        with publishing(server, data):
            until(lambda: engine.total("questions_full") > 100_000, "many are lost", limit=60.0)
            assert (resident(engine.pid) - before) >> 20 < MOST
        Crowd(watcher, room).expect(member.address, watcher.address)


def test_presence_for_nats_is_bounded() -> None:
    """KIND_NATS: joins and leaves for another node, from a loop that is faster than the link's."""
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=2, inbox_messages=64, nats_pending=65536) as one,
        kit.engine(nats=server.url, loops=1) as two,
        BarePeer(two.port) as abroad,
    ):
        await_cluster([one, two])
        Crowd(abroad, "elsewhere")

        def pieces(number: int, _: str) -> Iterator[bytes]:
            return many_rooms("SUB {}", "UNSUB {}", name=f"f{number}")

        with Flood(one.port, 40, pieces) as flood:
            assert grown(one.pid, flood, 4 if kit.SANITIZED else 128) < MOST
            until(lambda: one.total("presence_lost"), "some is lost", limit=60.0)
        until(lambda: one.total("rooms") == 0, "all have left", limit=60.0)


def test_very_many_that_await_nats_are_refused() -> None:
    """KIND_AWAIT: SUBs while NATS is silent. Each gets one answer. One that is refused leaves no new member behind, and
    an earlier one in its room."""
    refs, most = 4096, 262_144
    data = b"".join(frame(TEXT, f"SUB room-{number} ref=r{number}".encode()) for number in range(refs))
    settings = {"max_refs": refs, "max_rooms": refs, "ttl": 300, "ping_interval": 300}  # the test may be slow
    with (
        SilentNats() as server,
        kit.engine(nats=server.url, control="off", loops=1, **settings) as engine,
        BarePeer(engine.port) as early,
        contextlib.ExitStack() as stack,
    ):
        server.link()
        wires, addresses = zip(*(opened(engine.port) for _ in range(most // refs + 1)), strict=True)
        for wire in wires:
            stack.enter_context(wire)
        with server.silent():
            early.say("SUB early ref=a")
            early.say("PING in-time")
            early.expect("PONG", "in-time")
            for wire in wires:
                wire.send(data)
            until(lambda: engine.total("awaits_refused"), "some are refused", limit=150.0)
            readable = select.select([wire.socket for wire in wires], [], [], LIMIT)[0]
            refused = next(wire for wire in wires if wire.socket in readable)
            answer = refused.read_message()[1]
            assert answer.startswith(b"ERR unavailable ref=r"), answer
            early.say("SUB early ref=b")
            early.refused("unavailable", ref="b")
        received = [wires[0].read_message()[1].partition(b"\n")[0].rpartition(b"r")[2] for _ in range(refs)]
        assert sorted(map(int, received)) == list(range(refs))
        early.expect("OK", "a")
        wires[0].send(frame(TEXT, b"PUB early\nfor a member"))
        assert early.expect("MSG", "early", addresses[0]).payload == b"for a member"
        number = answer.partition(b"\n")[0].rpartition(b"r")[2]
        rest = [refused.read_message()[1] for _ in range(refs - 1)]
        assert all(text.startswith((b"OK ", b"ERR unavailable ")) for text in rest)
        sender, address = wires[0], addresses[wires.index(refused)]
        sender.send(frame(TEXT, b"PUB room-%b\nnot for one that was refused" % number))
        sender.send(frame(TEXT, f"TO {address}\nlast".encode()))
        assert refused.read_message()[1].endswith(b"\nlast")
        assert engine.total("nats_lost") == 0
