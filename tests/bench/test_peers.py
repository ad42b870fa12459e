"""The servers that the engine is compared with do what bench/README.md says of them. One that can't run here is
skipped, with what macro.py says of it; the engine is held to the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import contenders
import load
import macro
from bench_tools import BUILT, built, loaded
from peers import BarePeer, WebsocketsPeer, several
from wire import BINARY, TEXT, fresh, until

pytestmark = pytest.mark.timeout(300)  # Go's first build compiles its library, too

GO = os.environ.get("GO", "go")
GO_PACKAGES = Path(os.environ.get("GO_PACKAGES", "/usr/share/gocode")) / "src" / "github.com"
GO_NEEDS = ("gorilla/websocket", "nats-io/nats.go")
MODES = {
    "relay": "relay --connections 10",
    "random": "random --connections 10 --payload 4000",
    "echo": "echo --connections 10",
    "pair": "pair",
    "room": "room --rooms 2 --members 5",
    "idle": "idle --connections 10 --verify",
    "churn": "churn --connections 5",
}


def named(name: str) -> contenders.Contender:
    """As contenders.py has it, but for a Go proxy that is built here where there is all that it takes."""
    found = next(peer for peer in contenders.BUILT_IN if peer.name == name)
    if name != "goproxy" or not shutil.which(GO) or not all((GO_PACKAGES / needed).is_dir() for needed in GO_NEEDS):
        return found
    command = found.command.replace(str(contenders.GOPROXY), str(BUILT / "goproxy"))
    return replace(found, command=command)


PEERS = [named(peer.name) for peer in contenders.BUILT_IN]
MISSING = {peer.name: peer.absent() for peer in PEERS}
SPEAKERS = [peer for peer in PEERS if not MISSING[peer.name] and not peer.load_options]  # of signal.v1
NATS_WS = named("nats-ws")


@dataclass(frozen=True)
class Server:
    """One that runs."""

    name: str
    url: str
    pids: list[int]

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])


@contextmanager
def running(contender: contenders.Contender) -> Iterator[Server]:
    """As macro.py starts it; what the Go compiler objects to is a failure."""
    if contender.name == "goproxy":
        built("goproxy")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:
            if contender.name != "engine":  # whose sanitizer is not theirs
                environment.delenv("LD_PRELOAD", raising=False)
            (one,), pids = macro.start(contender, 1, stack)
        yield Server(contender.name, one.url, pids)


@pytest.mark.parametrize("name", MISSING)
def test_is_there(name: str) -> None:
    """What follows is of those that are."""
    if MISSING[name]:
        pytest.skip(f"{name}: {MISSING[name]}")
    assert name == NATS_WS.name or name in [peer.name for peer in SPEAKERS]


@pytest.mark.parametrize("peer", SPEAKERS, ids=lambda peer: peer.name)
def test_it_does_what_is_said_of_it(peer: contenders.Contender) -> None:
    """In one test, so that it is started once."""
    with running(peer) as server:
        for check in CHECKS:
            check(server)
        for mode in ("relay", "random", "room", "churn"):
            loads(server, mode)


@pytest.mark.skipif(bool(MISSING[NATS_WS.name]), reason=MISSING[NATS_WS.name])
def test_nats_server_itself_can_be_loaded() -> None:
    with running(NATS_WS) as server:
        for mode in MODES:
            loads(server, mode, *NATS_WS.load_options.split())


def loads(server: Server, mode: str, *more: str) -> None:
    built("load")
    run = loaded("load", MODES[mode], [server.url], server.pids, *more)
    assert load.trouble(run) == "", mode
    assert run["verified" if mode == "idle" else "delivered"] > 0, mode


def has_an_address_for_each(server: Server) -> None:
    with several(server.port, 3) as peers:
        assert len({peer.address for peer in peers}) == 3
        assert all(peer.protocol == "signal.v1" for peer in peers)
        assert all(0 < len(peer.address) < 32 for peer in peers), "or the load generator has no room for it"
        assert all(isinstance(peer.hello, dict) for peer in peers)


def speaks_with_a_library(server: Server) -> None:
    with WebsocketsPeer(server.port) as ann, WebsocketsPeer(server.port) as bob:
        ann.say(f"TO {bob.address}", "hello")
        assert bob.expect("FROM", ann.address).payload == b"hello"


def delivers_a_message_as_it_was_sent(server: Server) -> None:
    """In one frame: the load generator takes a fragment for an error."""
    long = ("x" * 1000, "x" * 5000, b"\xfe" * 60000)
    with several(server.port, 2) as (ann, bob):
        for payload in ("hello, wörld", "", "two\nlines", b"\x00\xff\n\x80", b"", *long):
            ann.say(f"TO {bob.address}", payload)
            got = bob.wire.read_frame()
            data = payload if isinstance(payload, bytes) else payload.encode()
            assert got.fin and got.opcode == (BINARY if isinstance(payload, bytes) else TEXT)
            assert got.payload == f"FROM {ann.address}\n".encode() + data


def keeps_the_order(server: Server) -> None:
    with several(server.port, 2) as (ann, bob):
        for n in range(30):  # no more than any of them lets wait
            ann.say(f"TO {bob.address}", str(n))
        assert [bob.expect("FROM", ann.address).payload for _ in range(30)] == [str(n).encode() for n in range(30)]


def publishes_to_all_others_in_a_room(server: Server) -> None:
    room = fresh("room.")
    with several(server.port, 4) as (ann, bob, eve, outside):
        for member in (ann, bob, eve):
            member.join(room)
            member.join(room)  # again: nobody hears a message twice
        for publisher, payload in ((ann, "to all"), (outside, b"\x80to all")):
            publisher.say(f"PUB {room}", payload)
            for member in {ann, bob, eve} - {publisher}:
                got = member.expect("MSG", room, publisher.address)
                assert got.binary == isinstance(payload, bytes)
                assert got.payload == (payload if isinstance(payload, bytes) else payload.encode())
            quiet(publisher)
        quiet(bob)


def knows_who_is_gone(server: Server) -> None:
    """All but goproxy, which does not say so."""
    with several(server.port, 2) as (ann, stays):
        with BarePeer(server.port) as gone:
            gone.join(fresh("room."))
        if server.name != "goproxy":
            until(lambda: no_such_peer(ann, gone.address), "the server has seen that it went")
        ann.say(f"TO {stays.address}", "and you?")
        assert stays.expect("FROM", ann.address).payload == b"and you?"
        quiet(ann)


def no_such_peer(peer: BarePeer, address: str) -> bool:
    """Whether a message to an address is refused, before one to itself arrives. The engine says so for a ref only."""
    peer.say(f"TO {address} ref=gone", "are you there?")
    peer.say(f"TO {peer.address}", "to myself")
    answers = []
    while (heard := peer.read()).verb != "FROM":
        answers.append(heard.words)
    return ("no-such-peer",) in answers


def refuses_what_is_malformed(server: Server) -> None:
    with several(server.port, 1) as (ann,):
        for head in ("HURRY up", "TO"):
            ann.say(head, "x")
            assert ann.read().words == ("bad-request",)
        quiet(ann)


def quiet(peer: BarePeer) -> None:
    """It hears nothing before what it says to itself."""
    token = fresh("quiet")
    peer.say(f"TO {peer.address}", token)
    assert peer.expect("FROM", peer.address).payload == token.encode()


CHECKS = (
    has_an_address_for_each,
    speaks_with_a_library,
    delivers_a_message_as_it_was_sent,
    keeps_the_order,
    publishes_to_all_others_in_a_room,
    knows_who_is_gone,
    refuses_what_is_malformed,
)
