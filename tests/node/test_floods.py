"""Packets that clients cause between threads are bounded for each kind, however fast clients send
(docs/architecture/threads-and-ownership.md)."""

import itertools
from collections.abc import Iterator

import pytest

import kit
from flood import Flood, grown, many_rooms, texts
from minted import SECRET, token
from peers import BarePeer, loop_of
from wire import TEXT, frame, fresh, opened, until

pytestmark = pytest.mark.timeout(180)  # some waits may take a minute

READ = 8 if kit.SANITIZED else 192  # MiB of a flood: without bounds, the process would grow by at least as much
MOST = 4096 if kit.SANITIZED else 48  # MiB: the sum of the bounds, the partial messages of 40 clients, and some heap


def on_both_loops(engine: kit.Engine) -> tuple[BarePeer, BarePeer]:
    """A peer on each of two loops."""
    found: dict[str, BarePeer] = {}
    while len(found) < 2:
        peer = BarePeer(engine.port)
        if found.setdefault(loop_of(peer.address), peer) is not peer:
            peer.close()
    return found["00"], next(peer for loop, peer in found.items() if loop != "00")


def relays(one: BarePeer, other: BarePeer) -> bool:
    """Whether a message from one peer reaches the other."""
    name = fresh("m")
    one.say(f"TO {other.address}", name.encode())
    while other.read().payload != name.encode():
        pass
    return True


def gets_members(peer: BarePeer) -> bool:
    """Whether it gets a MEMBERS."""
    while peer.read().verb != "MEMBERS":
        pass
    return True


def test_queries_of_clients_are_one_for_all() -> None:
    """KIND_ASK: forty clients ask for a room's presence, without a ref, again and again."""
    with kit.engine(loops=1) as engine:
        with Flood(engine.port, 40, lambda *_: itertools.repeat(texts("SUB r presence"))) as flood:
            assert grown(engine.pid, flood, READ) < MOST // 2
        with BarePeer(engine.port) as late:
            late.say("SUB r presence")
            assert gets_members(late)


def test_rooms_that_come_and_go_wait_for_the_link() -> None:
    """KIND_SYNC and KIND_ASK for ever new rooms: clients that make them are held, others are not."""
    with kit.engine(loops=2) as engine:
        one, other = on_both_loops(engine)
        with one, other:

            def pieces(number: int, _: str) -> Iterator[bytes]:
                return many_rooms("SUB {} presence", "UNSUB {}", name=f"f{number}")

            with Flood(engine.port, 40, pieces) as flood:
                assert grown(engine.pid, flood, READ) < MOST
                until(lambda: relays(one, other) and engine.total("inputs_held"), "some are held", limit=60.0)
            until(lambda: engine.total("rooms") == 0, "all have left", limit=60.0)
            other.say("SUB after presence")
            assert gets_members(other)


def test_receipts_wait_for_their_loop() -> None:
    """KIND_RECEIPT: refs that are answered on the other loop."""
    with kit.engine(loops=2, max_refs=4096) as engine:
        one, other = on_both_loops(engine)
        with one, other:
            say = [f"TO {{}} ref=r{number}\nhello" for number in range(1024)]

            def pieces(_: int, address: str) -> Iterator[bytes]:
                far = one if loop_of(address) != "00" else other
                return itertools.repeat(texts(*(line.format(far.address) for line in say)))

            with Flood(engine.port, 40, pieces) as flood:
                assert grown(engine.pid, flood, READ) < MOST


def test_held_input_goes_on_unchanged() -> None:
    """Messages in one frame and in fragments, after joins that have to wait. Each is answered, in order, and counted
    once by max-rate."""
    rooms, rounds = 250, 40
    with kit.engine(loops=2, max_rate=1000000) as engine:

        def pieces(number: int, _: str) -> Iterator[bytes]:
            return many_rooms("SUB {} presence", "UNSUB {}", name=f"f{number}")

        wire, address = opened(engine.port)
        with wire:
            while loop_of(address) == "00":  # on the other loop than the link
                wire.socket.close()
                wire, address = opened(engine.port)
            with Flood(engine.port, 40, pieces):
                until(lambda: engine.total("inputs_held"), "some are held", limit=60.0)
                for number in range(rounds):
                    data = b""
                    for room in range(rooms):
                        line = f"SUB own-{room} ref=r".encode() if room % 2 else f"UNSUB own-{room} ref=r".encode()
                        data += frame(TEXT, line[:5], fin=False) + frame(0, line[5:]) if room % 3 else frame(TEXT, line)
                        data += frame(TEXT, f"PING {number}.{room}".encode())
                    wire.send(data)
                    for room in range(rooms):
                        assert wire.read_message()[1] == b"OK r"
                        assert wire.read_message()[1] == f"PONG {number}.{room}".encode()


def test_a_handshake_with_rooms_is_held() -> None:
    """As a SUB is. Its rooms are joined."""
    with kit.engine(loops=2) as engine:

        def pieces(number: int, _: str) -> Iterator[bytes]:
            return many_rooms("SUB {} presence", "UNSUB {}", name=f"f{number}")

        with Flood(engine.port, 40, pieces):
            until(lambda: engine.total("inputs_held"), "some are held", limit=60.0)
            for number in range(100):
                with opened(engine.port, f"/?room=a{number}&room=b")[0] as wire:
                    wire.send(frame(TEXT, f"PUB a{number} ref=1\nx".encode()))
                    assert wire.read_message()[1] == b"OK 1"


def test_verdicts_wait_for_their_tasks() -> None:
    """KIND_VERDICT, EVENT_ASK: clients with tokens join rooms, and renew their tokens again and again."""
    with kit.engine(loops=2, auth="jwt", auth_key=SECRET) as engine:
        path = f"/?token={token('ann')}"

        def pieces(number: int, _: str) -> Iterator[bytes]:
            again = f"AUTH {token('ann')}"
            return many_rooms("SUB {} presence", again, "UNSUB {}", name=f"f{number}", count=512)

        with Flood(engine.port, 40, pieces, path) as flood:
            assert grown(engine.pid, flood, READ) < MOST
            slowed = "inputs_held", "turns_delayed"  # which one depends on how fast each loop is
            until(lambda: sum(map(engine.total, slowed)), "some are held, or delayed", limit=60.0)
            for number in range(50):
                with opened(engine.port, f"{path}&room=a{number}")[0] as wire:
                    wire.send(frame(TEXT, f"PUB a{number} ref=1\nx".encode()))
                    assert wire.read_message()[1] == b"OK 1"
