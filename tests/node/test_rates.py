"""Limits on what one client, one address, or all clients send: messages, connections, bytes of partial messages."""

import contextlib
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import kit
from peers import BarePeer, Closed, ledgers_hold
from wire import BINARY, LIMIT, Wire, closing, frame, fresh, opened, request, until

# -- messages a second --


@pytest.mark.parametrize("verb", ["TO", "PUB"])
def test_max_rate(verb: str) -> None:
    """A message over it gets `rate`, is counted, and is not delivered. Other clients are not affected."""
    with kit.engine(loops=2, max_rate=20, max_burst=10) as engine:
        a, b = BarePeer(engine.port), BarePeer(engine.port, "room")
        with a, b:
            target = b.address if verb == "TO" else "room"
            begun = time.monotonic()
            for i in range(60):
                a.say(f"{verb} {target} ref={i}", str(i))
            codes = [a.answer_to(str(i)) for i in range(60)]
            took = time.monotonic() - begun
            passed = codes.count("ok")
            assert codes[:10] == ["ok"] * 10
            assert codes.count("rate") == 60 - passed
            assert passed <= 10 + 20 * (took + 0.2)
            received = [b.read().payload for _ in range(passed)]
            assert received == [b"%d" % i for i, code in enumerate(codes) if code == "ok"]
            assert b.ask(f"PUB {fresh('other')}", "x") == "ok"
            until(lambda: a.ask("PUB room", "later") == "ok", every=0.2)
            total = engine.stats()["total"]
            assert total["refused_rate"] >= 60 - passed
            ledgers_hold(total)


def test_the_mean_rate() -> None:
    """A client that never pauses: first the burst, then max-rate messages a second."""
    with kit.engine(loops=1, max_rate=50, max_burst=1) as engine, BarePeer(engine.port) as a:
        begun = time.monotonic()
        passed = sum(a.ask("PUB room", "x") == "ok" for _ in iter(lambda: time.monotonic() < begun + 2, False))
        assert 60 <= passed <= 5 + 50 * (time.monotonic() - begun + 0.2)


def test_a_pause_earns_no_more_than_the_burst() -> None:
    with kit.engine(loops=1, max_rate=50, max_burst=5) as engine, BarePeer(engine.port) as a:
        quiet = time.monotonic() + 0.6
        assert a.ask("PUB room", "x") == "ok"
        until(lambda: time.monotonic() > quiet, "thirty messages would have been allowed")
        begun = time.monotonic()
        for i in range(30):
            a.say(f"PUB room ref={i}", "x")
        codes = [a.answer_to(str(i)) for i in range(30)]
        assert codes[:5] == ["ok"] * 5
        assert codes.count("ok") <= 5 + 50 * (time.monotonic() - begun + 0.1)


def test_every_verb_counts() -> None:
    with kit.engine(loops=1, max_rate=1, max_burst=3) as engine, BarePeer(engine.port) as a:
        a.say("PING x")
        a.expect("PONG", "x")
        assert a.ask("SUB room") == "ok"
        assert a.ask("UNSUB room") == "ok"
        a.say("PING y")
        a.refused("rate")
        a.say("SUB room ref=1")
        a.refused("rate", "1")
        a.say("nonsense")
        a.refused("bad-request")


def test_an_outstanding_ref_keeps_its_answer() -> None:
    room = {"backlog_bytes": 1 << 26, "backlog_messages": 60000}
    with kit.engine(loops=1, max_rate=5, max_burst=400, ttl=3, **room) as engine:
        a, b = BarePeer(engine.port), BarePeer(engine.port, receive_buffer=4096)
        with a, contextlib.closing(b.wire.socket):
            for _ in range(390):
                a.say(f"TO {b.address}", b"x" * 16000)
            a.say(f"TO {b.address} ref=dup", "x")
            until(lambda: a.ask("PUB room", "x") == "rate")
            a.say(f"TO {b.address} ref=dup", "x")
            assert a.answer_to("dup") == "bad-request"
            assert a.answer_to("dup") == "expired"


def test_no_rate_is_the_default() -> None:
    with kit.engine(loops=1) as engine, BarePeer(engine.port) as a:
        for _ in range(3000):
            a.say("PUB room", "x")
        assert a.settle() == []
        assert engine.total("refused_rate") == 0


# -- connections of an address --


def connect(port: int, source: str) -> tuple[int, socket.socket]:
    """The status of a handshake from this address, and its socket."""
    client = socket.create_connection(("127.0.0.1", port), timeout=LIMIT, source_address=(source, 0))
    client.sendall(request())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(4096)
    status = int(answer.split(b" ", 2)[1])
    assert (b"Retry-After: 1\r\n" in answer) == (status != 101)
    return status, client


def test_max_connections_per_address() -> None:
    """One more gets 429, on any loop. Another address is not affected. A connection that ends frees the quota."""
    with kit.engine(loops=3, max_connections_per_address=4) as engine, contextlib.ExitStack() as stack:
        made = [connect(engine.port, "127.0.0.1") for _ in range(7)]
        for _, client in made:
            stack.enter_context(client)
        assert [status for status, _ in made] == [101] * 4 + [429] * 3
        status, other = connect(engine.port, "127.0.0.2")
        stack.enter_context(other)
        assert status == 101
        total = engine.stats()["total"]
        assert (total["address_limited"], total["shed"], total["connections"]) == (3, 0, 5)
        made[0][1].sendall(closing(1000))
        made[1][1].close()  # without a Close frame
        until(lambda: engine.total("connections") == 3)
        again = [connect(engine.port, "127.0.0.1") for _ in range(3)]
        for _, client in again:
            stack.enter_context(client)
        assert sorted(status for status, _ in again) == [101, 101, 429]


def test_many_addresses() -> None:
    """The table grows and shrinks, and counts each address."""
    with kit.engine(loops=2, max_connections_per_address=1) as engine:
        for _ in range(2):
            with contextlib.ExitStack() as stack:
                sources = [f"127.1.{i // 250}.{1 + i % 250}" for i in range(600)]
                for source in sources:
                    status, client = connect(engine.port, source)
                    stack.enter_context(client)
                    assert status == 101, source
                for source in sources[::20]:
                    status, client = connect(engine.port, source)
                    stack.enter_context(client)
                    assert status == 429, source
            until(lambda: engine.total("connections") == 0)
        assert engine.total("address_limited") == 60


# -- new connections a second --


def test_accept_rate() -> None:
    """It is for all loops together. A client that comes too soon waits; none is refused."""
    with kit.engine(loops=3, accept_rate=20) as engine:
        begun = time.monotonic()
        with ThreadPoolExecutor(40) as pool:
            came = list(pool.map(lambda _: connect(engine.port, "127.0.0.1"), range(40)))
        took = time.monotonic() - begun
        assert [status for status, _ in came] == [101] * 40
        assert took >= (40 - 2) / 20  # one at once, and one that was due already
        total = engine.stats()["total"]
        assert total["opened"] == 40
        assert total["accept_paced"] >= 1
        for _, client in came:
            client.close()


def test_accept_rate_and_a_stop() -> None:
    """Clients that wait get 503 when the engine stops."""
    with ThreadPoolExecutor(8) as pool:
        with kit.engine(loops=1, accept_rate=1) as engine:
            asked = [pool.submit(connect, engine.port, "127.0.0.1") for _ in range(8)]
            until(lambda: engine.total("opened") >= 1)
        statuses = {each.result()[0] for each in asked}
    assert statuses == {101, 503}


# -- partial messages --


def test_input_total() -> None:
    """A client whose message exceeds it is closed with 1013; others finish their messages."""
    with kit.engine(loops=1, input_total=400000, max_message=65536) as engine, BarePeer(engine.port) as receiver:
        text = f"TO {receiver.address}\n".encode() + b"x" * 60000
        data = frame(BINARY, text)
        wires: list[Wire] = []
        with contextlib.ExitStack() as stack:
            for _ in range(16):
                wire, _ = opened(engine.port)
                wires.append(stack.enter_context(wire))
                with contextlib.suppress(OSError):
                    wire.send(data[:50000])
                    wire.wait_read()
                assert engine.total("input_bytes") <= 400000
            limited = engine.total("input_limited")
            assert 8 <= limited <= 12
            for wire in wires[-limited:]:
                assert wire.read_closed() == 1013
            for wire in wires[:-limited]:
                wire.send(data[50000:])
                assert receiver.read().payload == b"x" * 60000
            assert engine.total("input_bytes") == 0
            assert receiver.settle() == []


def test_input_total_of_fragments_and_heads() -> None:
    with kit.engine(loops=1, input_total=100000, handshake_timeout=30) as engine, contextlib.ExitStack() as stack:
        wire, _ = opened(engine.port)
        stack.enter_context(wire)
        wire.send(frame(BINARY, b"PUB room\n" + b"x" * 40000, fin=False))
        wire.wait_read()
        assert 40000 < engine.total("input_bytes") <= 100000
        heads = [stack.enter_context(Wire(engine.port)) for _ in range(20)]
        for head in heads:
            head.send(request()[:-2] + b"X-Long: " + b"y" * 7000)
        by_socket = {head.socket: head for head in heads}

        def answered() -> list[socket.socket]:
            """Any of them: a head that came in two parts may be refused at the second."""
            return select.select(list(by_socket), [], [], 0)[0]

        until(lambda: engine.total("input_limited") >= 5)
        until(lambda: len(answered()) >= 5)
        assert {by_socket[each].read_answer().status for each in answered()} == {503}


def test_a_message_over_input_total_closes() -> None:
    with kit.engine(loops=1, input_total=1000) as engine, BarePeer(engine.port) as a:
        a.wire.send(frame(BINARY, b"x" * 5000)[:4000])
        with pytest.raises(Closed) as closed:
            a.read()
        assert closed.value.code == 1013


def test_a_client_over_input_total_is_still_read() -> None:
    """What it sends then is thrown away: it takes no memory, and does not wake the loop again and again."""
    data = frame(BINARY, b"PUB room\n" + b"x" * 60000)
    with kit.engine(loops=1, input_total=20000, close_timeout=30) as engine:
        wire, _ = opened(engine.port)
        with wire:
            wire.send(data[:10000])
            wire.wait_read()
            wire.send(data[10000:40000])
            assert wire.read_frame().code == 1013
            wire.wait_read()
            total = engine.stats()["total"]
            assert (total["input_limited"], total["input_bytes"]) == (1, 0)
