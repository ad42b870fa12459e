"""What clients can make one thread post to another is bounded for each kind, however fast they send
(docs/architecture/threads-and-ownership.md)."""

import itertools
from collections.abc import Iterator

import kit
from flood import Flood, grown, many_rooms, texts
from minted import SECRET, token
from peers import BarePeer
from wire import TEXT, frame, fresh, opened, until

READ = 8 if kit.SANITIZED else 192  # MiB of a flood: without bounds each grows by as many at least
MOST = 4096 if kit.SANITIZED else 48  # MiB: the sum of the bounds, what 40 clients have sent in part, and some heap


def total(engine: kit.Engine, counter: str) -> int:
    return int(engine.stats()["total"][counter])


def loop_of(address: str) -> str:
    return address.split(".")[1][:2]


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


def is_told(peer: BarePeer) -> bool:
    """Whether it hears who is in its room."""
    while peer.read().verb != "MEMBERS":
        pass
    return True


def test_questions_of_clients_are_one_for_all() -> None:
    """KIND_ASK: forty clients that ask who is in a room, without a ref, again and again."""
    with kit.engine(loops=1) as engine:
        with Flood(engine.port, 40, lambda *_: itertools.repeat(texts("SUB r presence"))) as flood:
            assert grown(engine.pid, flood, READ) < MOST // 2
        with BarePeer(engine.port) as late:
            late.say("SUB r presence")
            assert is_told(late)


def test_rooms_that_come_and_go_are_held_to_what_the_link_takes() -> None:
    """KIND_SYNC and KIND_ASK of ever new rooms: who makes them is not read for a moment, others are."""
    with kit.engine(loops=2) as engine:
        one, other = on_both_loops(engine)
        with one, other:

            def pieces(number: int, _: str) -> Iterator[bytes]:
                return many_rooms("SUB {} presence", "UNSUB {}", name=f"f{number}")

            with Flood(engine.port, 40, pieces) as flood:
                assert grown(engine.pid, flood, READ) < MOST
                until(lambda: relays(one, other) and total(engine, "inputs_held"), "some are held", limit=60.0)
            until(lambda: total(engine, "rooms") == 0, "all have left", limit=60.0)
            other.say("SUB after presence")
            assert is_told(other)


def test_receipts_are_held_to_what_their_loop_takes() -> None:
    """KIND_RECEIPT: refs that peers on the other loop answer for."""
    with kit.engine(loops=2, max_refs=4096) as engine:
        one, other = on_both_loops(engine)
        with one, other:
            say = [f"TO {{}} ref=r{number}\nhello" for number in range(1024)]

            def pieces(_: int, address: str) -> Iterator[bytes]:
                far = one if loop_of(address) != "00" else other
                return itertools.repeat(texts(*(line.format(far.address) for line in say)))

            with Flood(engine.port, 40, pieces) as flood:
                assert grown(engine.pid, flood, READ) < MOST


def test_what_is_held_goes_on_as_it_came() -> None:
    """Messages whole and in pieces, behind as many joins as have to wait: each is answered, in order, and counted
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
                until(lambda: total(engine, "inputs_held"), "some are held", limit=60.0)
                for number in range(rounds):
                    said = b""
                    for room in range(rooms):
                        line = f"SUB own-{room} ref=r".encode() if room % 2 else f"UNSUB own-{room} ref=r".encode()
                        said += frame(TEXT, line[:5], fin=False) + frame(0, line[5:]) if room % 3 else frame(TEXT, line)
                        said += frame(TEXT, f"PING {number}.{room}".encode())
                    wire.send(said)
                    for room in range(rooms):
                        assert wire.read_message()[1] == b"OK r"
                        assert wire.read_message()[1] == f"PONG {number}.{room}".encode()


def test_a_handshake_with_rooms_waits_its_turn() -> None:
    """It is held as a SUB is, and its rooms are joined."""
    with kit.engine(loops=2) as engine:

        def pieces(number: int, _: str) -> Iterator[bytes]:
            return many_rooms("SUB {} presence", "UNSUB {}", name=f"f{number}")

        with Flood(engine.port, 40, pieces):
            until(lambda: total(engine, "inputs_held"), "some are held", limit=60.0)
            for number in range(100):
                with opened(engine.port, f"/?room=a{number}&room=b")[0] as wire:
                    wire.send(frame(TEXT, f"PUB a{number} ref=1\nx".encode()))
                    assert wire.read_message()[1] == b"OK 1"


def test_verdicts_wait_for_what_they_cause() -> None:
    """KIND_VERDICT, EVENT_ASK: tokens of clients that ask for rooms, and for other tokens again and again."""
    with kit.engine(loops=2, auth="jwt", auth_key=SECRET) as engine:
        path = f"/?token={token('ann')}"

        def pieces(number: int, _: str) -> Iterator[bytes]:
            again = f"AUTH {token('ann')}"
            return many_rooms("SUB {} presence", again, "UNSUB {}", name=f"f{number}", count=512)

        with Flood(engine.port, 40, pieces, path) as flood:
            assert grown(engine.pid, flood, READ) < MOST
            until(lambda: total(engine, "inputs_held"), "some are held", limit=60.0)
            for number in range(50):
                with opened(engine.port, f"{path}&room=a{number}")[0] as wire:
                    wire.send(frame(TEXT, f"PUB a{number} ref=1\nx".encode()))
                    assert wire.read_message()[1] == b"OK 1"
