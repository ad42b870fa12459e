"""Operators' queries and orders, through a real nats-server, to real nodes."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import nats.errors
import pytest

import kit
from minted import SECRET, Guest, token
from peers import BarePeer
from signal_py.control import Control, Gathered, Node
from signal_py.control.wire import COMMANDS, request
from wire import fresh

from .bus import Bus
from .conftest import await_cluster

T = TypeVar("T")


def ctl(server: kit.Nats, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, lines of JSON, and stderr of `ctl`."""
    done = kit.run("ctl", *words, "--json", SIGNAL_ENGINE_NATS=server.url)
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def ask(server: kit.Nats, work: Callable[[Control], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Control(nats=server.url, timeout=10) as control:
            return await work(control)

    return asyncio.run(run())


def await_control(server: kit.Nats, *nodes: kit.Engine, **settings: Any) -> None:
    """Returns when all nodes answer operators, which is soon after they are ready."""

    async def run() -> None:
        async with Control(nats=server.url, **settings) as control:
            while {node.node for node in await control.nodes()} != {node.node for node in nodes}:
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(run(), kit.PATIENCE))


@pytest.fixture(scope="module", autouse=True)
def ready(server: kit.Nats, nodes: list[kit.Engine]) -> None:
    await_control(server, *nodes)


@pytest.fixture
def peers(nodes: list[kit.Engine]) -> Iterator[Callable[..., BarePeer]]:
    """Makes peers: of a node's number, in rooms."""
    made: list[BarePeer] = []

    def make(node: int, *rooms: str) -> BarePeer:
        made.append(BarePeer(nodes[node].port, *rooms))
        return made[-1]

    yield make
    for peer in made:
        peer.close()


# -- the command line --


def test_nodes_and_stats(server: kit.Nats, nodes: list[kit.Engine]) -> None:
    status, found, stderr = ctl(server, "nodes")
    assert (status, stderr) == (0, "")
    assert [node["node"] for node in found] == sorted(node.node for node in nodes)
    assert sorted(str(node["listen"]) for node in found) == sorted(str([node.url]) for node in nodes)
    status, found, _ = ctl(server, "stats", "--node", nodes[0].node)
    assert status == 0 and [stats["node"] for stats in found] == [nodes[0].node]
    assert found[0]["total"].keys() == nodes[0].stats()["total"].keys()


def test_rooms_members_disconnect(server: kit.Nats, nodes: list[kit.Engine], peers: Callable[..., BarePeer]) -> None:
    """One after the other."""
    a, b, c = peers(0, "ctl.here"), peers(1, "ctl.here"), peers(2, "ctl.there")
    status, rooms, _ = ctl(server, "rooms")
    counted = {room["room"]: room for room in rooms}
    assert status == 0 and counted["ctl.here"]["members"] == 2 and counted["ctl.there"]["members"] == 1
    assert counted["ctl.here"]["nodes"] == {nodes[0].node: 1, nodes[1].node: 1}
    status, members, _ = ctl(server, "members", "ctl.here")
    assert status == 0 and [member["peer"] for member in members] == sorted([a.address, b.address])
    status, done, _ = ctl(server, "disconnect", a.address)
    assert status == 0 and done == [{"node": nodes[0].node, "disconnected": 1}]
    assert a.ended() == 4009
    status, done, stderr = ctl(server, "disconnect", a.address)
    assert status == 1 and "has no connection" in stderr
    assert b.settle() == c.settle() == []


def test_a_user_is_disconnected_everywhere(lone_server: kit.Nats) -> None:
    """All its connections on all nodes and loops, and no others."""
    settings = {"nats": lone_server.url, "auth": "jwt", "auth_key": SECRET}
    with kit.engine(loops=1, **settings) as one, kit.engine(loops=3, **settings) as three:
        user = fresh("u")
        guests = [Guest(node.port, token=token(user)) for node in (one, three) for _ in range(20)]
        with Guest(three.port, token=token(fresh("u"))) as other:
            await_control(lone_server, one, three)
            members = ask(lone_server, lambda control: control.members(f"@{user}")).answers
            assert {member.peer for member in members} == {guest.address for guest in guests}
            assert {member.user for member in members} == {user}
            assert ask(lone_server, lambda control: control.rooms()).answers == ()
            status, done, _ = ctl(lone_server, "disconnect", f"@{user}")
            assert status == 0 and {line["node"]: line["disconnected"] for line in done} == {
                one.node: 20,
                three.node: 20,
            }
            assert [guest.ended() for guest in guests] == [4009] * 40
            assert one.total("kicked") == three.total("kicked") == 20
            assert other.settle() == []
            again = ask(lone_server, lambda control: control.disconnect(user=user))
            assert again.complete and [node.disconnected for node in again.answers] == [0, 0]
        for guest in guests:
            guest.close()


def test_one_node_is_drained(lone_server: kit.Nats) -> None:
    settings = {"nats": lone_server.url, "drain_time": 1}
    with kit.engine(**settings) as stays, kit.engine(**settings) as goes:
        await_cluster([stays, goes])
        with BarePeer(goes.port) as leaver, BarePeer(stays.port) as stayer:
            await_control(lone_server, stays, goes)
            status, done, _ = ctl(lone_server, "drain", goes.node)
            assert status == 0
            assert done == [{"node": goes.node, "connections": 1, "drain_time": 1.0}]
            assert leaver.read().verb == "GOAWAY"
            assert leaver.ended() == 1001
            assert goes.wait() == 0
            assert stayer.settle() == []
        await_control(lone_server, stays)
        status, _, stderr = ctl(lone_server, "drain", goes.node)
        assert (status, stderr) == (1, f"signal-engine: {goes.node} did not answer\n")


def test_a_node_that_hangs_is_silent(lone_server: kit.Nats) -> None:
    """It answered PING, and misses the deadline. The answers of others are returned."""
    with kit.engine(nats=lone_server.url, loops=1) as one, kit.engine(nats=lone_server.url, loops=1) as two:

        async def run() -> None:
            async with Control(nats=lone_server.url, timeout=1) as control:
                discover = control.discover

                async def both() -> Gathered[Node]:
                    return Gathered(tuple(Node(node.node, "", 1, ()) for node in (one, two)), (), (), 2)

                os.kill(two.pid, signal.SIGSTOP)
                control.discover = both  # type: ignore[method-assign]
                stats = await control.stats()
                assert [one.node] == [answer.node for answer in stats.answers]
                assert stats.silent == (two.node,) and not stats.complete
                control.discover = discover  # type: ignore[method-assign]
                assert [node.node for node in await control.nodes()] == [one.node]

        await_control(lone_server, one, two)
        try:
            asyncio.run(run())
        finally:
            os.kill(two.pid, signal.SIGCONT)


# -- pages --


def test_pages_of_rooms(lone_server: kit.Nats) -> None:
    """Each room once, with its number of members, on several pages and loops. Queries are counted."""
    rooms = [f"page.{i}" for i in range(300)]
    settings = {"nats": lone_server.url, "max_rooms": 400}
    with kit.engine(loops=3, **settings) as node, kit.engine(loops=1, **settings) as other:
        peers = [BarePeer(node.port, "both") for _ in range(12)]
        for peer in peers:
            peer.join(*rooms[:150])
        with BarePeer(node.port, "both") as one, BarePeer(other.port, *rooms[100:110], "both") as far:
            one.join(*rooms[150:])
            await_control(lone_server, node, other)
            before = node.total("inquiries")

            async def pages(control: Control) -> tuple[list[str], dict[str, int]]:
                names: list[str] = []
                counts: dict[str, int] = {}
                after = ""
                while True:
                    (page,) = (await control.room_page(node.node, 70, after)).answers
                    assert len(page.rooms) <= 70
                    names += page.rooms
                    counts |= page.rooms
                    after = page.next
                    if not after:
                        return names, counts

            names, counts = ask(lone_server, pages)
            assert sorted(names) == sorted({*rooms, "both"}) and len(names) == len(set(names))
            assert counts == {"both": 13} | {room: 12 if int(room[5:]) < 150 else 1 for room in rooms}
            assert node.total("inquiries") > before
            few = ask(lone_server, lambda control: control.rooms(9))
            assert len(few.answers) == 9 and few.more and few.nodes == 2
            for room in few.answers:
                assert room.nodes.get(node.node, 0) == counts[room.room]
                on_both = room.room == "both" or 100 <= int(room.room[5:]) < 110
                assert room.members == counts[room.room] + on_both
            assert far.settle() == []
        for peer in peers:
            peer.close()


def test_pages_of_members(server: kit.Nats, nodes: list[kit.Engine], peers: Callable[..., BarePeer]) -> None:
    """On several loops, more than one answer may have."""
    room = fresh("r")
    here = [peers(2, room) for _ in range(70)]

    async def pages(control: Control) -> list[str]:
        found: list[str] = []
        after = ""
        while True:
            (page,) = (await control.member_page(room, nodes[2].node, 30, after)).answers
            assert len(page.members) <= 30 and page.count == 70
            found += [member.peer for member in page.members]
            after = page.next
            if not after:
                return found

    assert sorted(ask(server, pages)) == sorted(peer.address for peer in here)
    few = ask(server, lambda control: control.members(room, 30))
    assert few.more and len(few.answers) == 30


def test_pages_are_as_large_as_nats_allows() -> None:
    with (
        kit.nats(config="max_payload: 4096") as server,
        kit.engine(nats=server.url, loops=2) as node,
        BarePeer(node.port) as peer,
    ):
        rooms = [f"{'x' * 60}.{i}" for i in range(60)]
        peer.join(*rooms)
        await_control(server, node)

        async def pages(control: Control) -> list[str]:
            (page,) = (await control.room_page()).answers
            names = list(page.rooms)
            assert page.next
            while page.next:
                (page,) = (await control.room_page(node.node, after=page.next)).answers
                names += page.rooms
            return names

        assert sorted(ask(server, pages)) == sorted(rooms)


# -- the wire --


def answer_of(bus: Bus, subject: str, data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    message = bus.request(subject, data)
    return json.loads(message.data), message.headers or {}


def test_nodes_are_nats_micro_services(bus: Bus, nodes: list[kit.Engine]) -> None:
    """Tools that list NATS services list the nodes and their endpoints."""
    ping = json.loads(bus.request("$SRV.PING.signal-engine", b"").data)
    assert ping["type"] == "io.nats.micro.v1.ping_response"
    assert ping["metadata"]["node"] in {node.node for node in nodes} and ping["metadata"]["control"] == "1"
    info = json.loads(bus.request(f"$SRV.INFO.signal-engine.{ping['id']}", b"").data)
    node = ping["metadata"]["node"]
    assert {endpoint["subject"] for endpoint in info["endpoints"]} == {
        f"signal.ctl.{command}{tail}" for command in COMMANDS for tail in ("", f".{node}")
    }
    counted = json.loads(bus.request(f"$SRV.STATS.signal-engine.{ping['id']}", b"").data)
    assert {endpoint["name"] for endpoint in counted["endpoints"]} > set(COMMANDS)


def test_neighbouring_versions(bus: Bus, nodes: list[kit.Engine]) -> None:
    """Unknown fields are ignored; a higher version and an unknown command get an error."""
    subject = f"signal.ctl.stats.{nodes[0].node}"
    answer, _ = answer_of(bus, subject, request("stats", added="later", limit=None))
    assert answer["v"] == 1 and answer["node"] == nodes[0].node and "error" not in answer
    answer, headers = answer_of(bus, subject, b'{"v": 2, "command": "stats"}')
    assert answer["error"] == "unsupported-version" and answer["v"] == 1
    assert headers["Nats-Service-Error-Code"] == "505"
    answer, headers = answer_of(bus, f"signal.ctl.dance.{nodes[0].node}", request("dance"))
    assert answer["error"] == "unknown-command" and headers["Nats-Service-Error-Code"] == "404"
    answer, _ = answer_of(bus, "signal.ctl.dance", request("dance"))
    assert answer["error"] == "unknown-command"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"[]",
        b"null",
        b"{}",
        b'{"v": 1}',
        b'{"v": 1, "command": "stats"}',
        b'{"v": true, "command": "drain"}',
        b'{"command": "drain"}',
        b"[" * 60000,
        b'{"v": 1, "command": "drain", "x": "' + b"x" * 65536 + b'"}',
    ],
)
def test_malformed_requests(bus: Bus, nodes: list[kit.Engine], data: bytes) -> None:
    """So is an answer of a node, as it names no command."""
    answer, headers = answer_of(bus, f"signal.ctl.drain.{nodes[0].node}", data)
    assert answer["error"] == "bad-request" and headers["Nats-Service-Error-Code"] == "400"
    assert nodes[0].get("readyz") == b"ready\n"


@pytest.mark.parametrize(
    "command, fields",
    [
        ("disconnect", {}),
        ("disconnect", {"peer": "k7"}),
        ("disconnect", {"peer": "k7.a", "user": "ann"}),
        ("disconnect", {"user": "x" * 128}),
        ("disconnect", {"user": 1}),
        ("members", {}),
        ("members", {"room": "a b"}),
        ("members", {"room": "a", "after": "1"}),
        ("rooms", {"limit": 0}),
        ("rooms", {"limit": True}),
        ("rooms", {"limit": 10**6}),
        ("rooms", {"after": "1." + "9" * 30}),
        ("rooms", {"names": ["a", 1]}),
        ("rooms", {"names": ["a"] * 1000}),
    ],
)
def test_bad_fields(bus: Bus, nodes: list[kit.Engine], command: str, fields: dict[str, object]) -> None:
    answer, _ = answer_of(bus, f"signal.ctl.{command}.{nodes[1].node}", request(command, **fields))
    assert answer["error"] == "bad-request"


def test_a_cursor_that_does_not_exist_ends_the_list(bus: Bus, nodes: list[kit.Engine]) -> None:
    for after in ("999.0", "0.99999999999999999999", "1.4096"):
        answer, _ = answer_of(bus, f"signal.ctl.rooms.{nodes[2].node}", request("rooms", after=after))
        assert answer["next"] == "" and isinstance(answer["rooms"], dict)


def test_receipts_and_answers_are_not_orders(bus: Bus, nodes: list[kit.Engine], peers: Callable[..., BarePeer]) -> None:
    """A node publishes them to any reply subject, also to that of an order."""
    peer = peers(0)
    errors = bus.subscribe("_INBOX.errors")
    bus.publish(f"signal.peer.{peer.address}", b"x", reply="signal.ctl.drain")
    peer.expect("FROM", "-")
    for subject in ("$SRV.PING", f"signal.ctl.stats.{nodes[0].node}"):
        bus.publish(subject, request("stats"), reply="signal.ctl.drain")
    bus.publish(f"signal.ctl.drain.{nodes[0].node}", b"{}", reply="_INBOX.errors")
    assert b"bad-request" in errors.get(timeout=10).data
    assert all_are_ready(nodes)


def all_are_ready(nodes: list[kit.Engine]) -> bool:
    return all(node.get("readyz") == b"ready\n" and node.stats()["state"] == "running" for node in nodes)


# -- the connection of the control plane --


def test_off() -> None:
    with kit.nats() as own, kit.engine(nats=own.url, control="off", loops=1) as node, Bus(own.url) as bus:
        with pytest.raises(nats.errors.NoRespondersError):
            bus.request("$SRV.PING.signal-engine", b"")
        status, found, stderr = ctl(own, "nodes")
        assert (status, found) == (1, []) and "--control on" in stderr
        assert node.stats()["nats_state"] == "up"


def test_it_comes_back_with_nats() -> None:
    with kit.nats() as server, kit.engine(nats=server.url, loops=1) as node:
        await_control(server, node)
        server.stop()
        server.start()
        await_control(server, node)


def test_a_password_in_the_url_and_one_that_is_refused() -> None:
    with kit.nats(config='authorization { user: "node", password: "p@ss" }') as server:
        url = server.url.replace("nats://", "nats://node:p%40ss@")
        with kit.engine(nats=url, loops=1) as node:
            await_control(server, node, nats_user="node", nats_password="p@ss")
            done = kit.run("ctl", "nodes", "--nats", server.url, "--nats-user", "node", "--nats-password", "x")
            stderr = kit.complaint(done)
            assert "--nats nats://" in stderr and "refuses the credentials" in stderr and "--nats-creds" in stderr
            assert ctl_ok(kit.run("ctl", "nodes", SIGNAL_ENGINE_NATS=url))


def ctl_ok(done: Any) -> bool:
    return done.returncode == 0 and done.stdout.count("\n") == 1


PERMITTED = """authorization {{ users: [
    {{ user: node, password: node, permissions: {{ subscribe: {{ deny: [{subscribe}] }} }} }}
    {{ user: seer, password: seer,
       permissions: {{ publish: ["$SRV.PING.signal-engine", "signal.ctl.rooms"], subscribe: "_INBOX.>" }} }}
] }}"""


def test_denials_of_nats_are_reported() -> None:
    """To the operator at once; on a node, in its log. The rest works."""
    seer = {"nats_user": "seer", "nats_password": "seer"}
    with (
        kit.nats(config=PERMITTED.format(subscribe='"signal.ctl.drain"')) as server,
        kit.engine(nats=server.url, loops=1, nats_user="node", nats_password="node") as node,
    ):
        await_control(server, node, **seer)
        flags = ["--nats", server.url, "--nats-user", "seer", "--nats-password", "seer"]
        assert kit.run("ctl", "rooms", *flags).returncode == 0
        done = kit.run("ctl", "drain", "--all", *flags)
        assert done.returncode == 1 and 'to "signal.ctl.drain"' in done.stderr and "docs/control.md" in done.stderr
        assert "Traceback" not in done.stderr
        errors = [line for line in node.events() if "reported an error to the control plane" in line["event"]]
        assert len(errors) == 1 and "signal.ctl.drain" in errors[0]["error"]
        assert all_are_ready([node])
