"""A node that is reloaded moves to other NATS servers and credentials, with real nats-servers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nkeys
import pytest

import kit
from certificates import Certificates
from peers import BarePeer
from wire import until

from .accounts import Operator, make_key, public
from .bus import Bus
from .conftest import account, await_cluster, nats_pair
from .crowd import Crowd
from .test_access import reach
from .test_control import await_control
from .test_tls import Greeter, tls_url

STAYS = "no NATS server of the new settings can be used: staying with the present one"


class Settings:
    """A file of settings."""

    def __init__(self, folder: Path, **values: Any) -> None:
        self.file = folder / "engine.toml"
        self.write(**values)

    def write(self, **values: Any) -> None:
        lines = (f"{name.replace('_', '-')} = {json.dumps(value)}\n" for name, value in values.items())
        self.file.write_text("".join(lines))


@contextlib.contextmanager
def configured(settings: Settings) -> Iterator[kit.Engine]:
    """A node that has its settings for NATS from a file."""
    made = kit.Engine({"config": settings.file, "loops": 2})
    del made.settings["nats"]
    try:
        made.start()
        yield made
        assert made.stop() == 0
    finally:
        if made.alive():
            made.end(signal.SIGKILL)


def reload(node: kit.Engine) -> tuple[int, list[str]]:
    """The status of POST /reload, and the settings that have changed, or the faults."""
    request = urllib.request.Request(node.admin_url + "reload", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=kit.PATIENCE) as answer:
            return answer.status, [one["setting"] for one in json.load(answer)["changed"]]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["faults"]


def await_move(node: kit.Engine, server: kit.Nats, connects: int = 2) -> None:
    def moved() -> bool:
        stats = node.stats()
        up = stats["nats_state"] == "up" and stats["total"]["nats_connects"] == connects
        return up and stats["nats_server"] == f"127.0.0.1:{server.port}"

    until(moved, "the link moves")


def complaints(node: kit.Engine) -> list[str]:
    return [line["event"] for line in node.events() if line["level"] in ("warning", "error")]


class Talk:
    """Two peers of different nodes that send to each other and to a room, one message after another."""

    def __init__(self, a: BarePeer, b: BarePeer) -> None:
        self.pairs = (a, b), (b, a)
        self.sent = 0
        self.answers: list[tuple[BarePeer, str, str, str]] = []  # receiver, verb, payload and answer

    def turn(self) -> list[str]:
        """Each sends two messages. Returns the answers."""
        codes = []
        for one, other in self.pairs:
            for verb, head in (("FROM", f"TO {other.address} ttl=1000"), ("MSG", "PUB talk")):
                self.sent += 1
                code = one.ask(head, str(self.sent))
                self.answers.append((other, verb, str(self.sent), code))
                codes.append(code)
        return codes

    def account(self) -> None:
        """Asserts that each ref had one answer, and that what was answered OK has arrived once, in order."""
        for _, other in self.pairs:
            got = other.settle()
            assert {one.verb for one in got} <= {"FROM", "MSG"}, "no second answer, no GAP"
            for verb in ("FROM", "MSG"):
                sent = [(text, code) for to, kind, text, code in self.answers if (to, kind) == (other, verb)]
                arrived = [(one.payload or b"").decode() for one in got if one.verb == verb]
                fine = [text for text, code in sent if code == "ok"]
                assert arrived == [text for text, _ in sent if text in arrived]
                assert verb == "MSG" or set(fine) <= set(arrived), set(fine) - set(arrived)


def test_a_node_moves_under_traffic(tmp_path: Path) -> None:
    """Between two servers of a cluster. Clients stay connected, each ref has one answer, and the other node stays."""
    with nats_pair() as (left, right), Bus(left.url) as bus:
        until(lambda: bus.client.discovered_servers, "the servers know each other")
        settings = Settings(tmp_path, nats=[left.url])
        with configured(settings) as one, kit.engine(nats=left.url, loops=2) as two:
            await_cluster([one, two])
            with (
                BarePeer(one.port, "talk") as a,
                BarePeer(two.port, "talk") as b,
                BarePeer(one.port, "hall") as member,
                BarePeer(two.port) as watcher,
            ):
                crowd = Crowd(watcher, "hall")
                crowd.expect(watcher.address, member.address)
                talk = Talk(a, b)
                for server, connects in ((right, 2), (left, 3), (right, 4)):
                    settings.write(nats=[server.url])
                    talk.turn()
                    assert reload(one) == (200, ["nats"])
                    until(lambda: talk.turn() and one.total("nats_connects") == connects, "it moves")  # type: ignore[misc]  # noqa: B023
                    until(lambda: set(talk.turn()) == {"ok"}, "the nodes meet")
                    await_move(one, server, connects)
                talk.account()
                codes = {code for *_, code in talk.answers}
                assert codes <= {"ok", "unavailable", "no-such-peer", "timeout", "expired"}
                with BarePeer(one.port, "hall") as late:
                    crowd.expect(watcher.address, member.address, late.address)
                for peer in (a, b, member):
                    assert peer.ask("PUB lobby") == "ok"
            assert two.total("nats_connects") == 1
            assert complaints(one) == complaints(two) == []
            account()


class Access:
    """One way to show who one is: the configuration of a server, and the settings of a node, for two users."""

    def __init__(self, server: Callable[[tuple[int, ...]], str], settings: Callable[[int], dict[str, Any]]) -> None:
        self.server = server  # the configuration with these users
        self.settings = settings  # those of a user; a file is replaced


def named_users(_: Path) -> Access:
    def server(users: tuple[int, ...]) -> str:
        listed = ", ".join(f'{{ user: "u{n}", password: "p{n}" }}' for n in users)
        return f"authorization {{ users: [ {listed} ] }}"

    return Access(server, lambda n: {"nats_user": f"u{n}", "nats_password": f"p{n}"})


def nkey_users(folder: Path) -> Access:
    keys = [make_key(nkeys.PREFIX_BYTE_USER) for _ in range(2)]
    file = folder / "node.nk"

    def server(users: tuple[int, ...]) -> str:
        listed = ", ".join(f"{{ nkey: {public(keys[n][0])} }}" for n in users)
        return f"authorization {{ users: [ {listed} ] }}"

    def settings(n: int) -> dict[str, Any]:
        fresh = file.with_suffix(".fresh")
        fresh.write_text(keys[n][1] + "\n")
        fresh.replace(file)
        return {"nats_nkey": str(file)}

    return Access(server, settings)


def send_reload(server: kit.Nats, config: str) -> None:
    """Has a nats-server read another configuration."""
    (server.folder / "nats.conf").write_text(config)
    seen = len(server.log())
    os.kill(server.pid, signal.SIGHUP)
    until(lambda: b"Reloaded server configuration" in server.log()[seen:], "nats-server is reloaded")


@pytest.mark.parametrize("way", [named_users, nkey_users])
def test_credentials_are_exchanged(tmp_path: Path, way: Callable[[Path], Access]) -> None:
    """For the link and for operators. The old user is removed then; neither connection notices."""
    access = way(tmp_path)
    with kit.nats(config=access.server((0, 1))) as server:
        settings = Settings(tmp_path, nats=[server.url], **access.settings(0))
        with configured(settings) as node:
            await_control(server, node, **access.settings(0))
            settings.write(nats=[server.url], **access.settings(1))
            assert reload(node)[0] == 200
            await_move(node, server)
            send_reload(server, access.server((1,)))
            await_control(server, node, **access.settings(1))
            assert reload(node) == (200, [])
            assert (node.total("nats_connects"), node.stats()["nats_state"]) == (2, "up")
            assert complaints(node) == []


def test_a_creds_file_of_another_account(tmp_path: Path) -> None:
    """The server trusts another operator when it is started again: the new file is read, and old clients stay."""
    old, new = Operator(), Operator()
    file = old.creds(tmp_path / "node.creds")
    with kit.nats(config=old.config) as first, kit.nats(config=new.config) as second:
        settings = Settings(tmp_path, nats=[first.url], nats_creds=str(file))
        with configured(settings) as node, BarePeer(node.port) as a, BarePeer(node.port) as b:
            until(lambda: node.stats()["nats_state"] == "up", "it is up")
            settings.write(nats=[second.url], nats_creds=str(file))
            assert reload(node)[0] == 422, "the second server does not know the old account"
            new.creds(file)
            assert reload(node) == (200, ["nats"])
            await_move(node, second)
            await_control(second, node, nats_creds=str(file))
            reach(a, b)


def test_certificates_of_another_authority(tmp_path: Path) -> None:
    """All three files are replaced in place, and the server is another one."""
    folders = [tmp_path / name for name in ("old", "new", "used")]
    for folder in folders:
        folder.mkdir()
    old, new = (Certificates(folder) for folder in folders[:2])
    for authority in (old, new):
        authority.issue("node", "node.example")
    names = {"nats_tls_ca": "ca.pem", "nats_tls_cert": "node.pem", "nats_tls_key": "node.key"}
    files = {setting: str(folders[2] / name) for setting, name in names.items()}

    def install(authority: Certificates) -> None:
        for name in names.values():
            shutil.copy(authority.folder / name, folders[2] / name)

    install(old)
    verify = ", verify: true"
    with kit.nats(config=old.server(more=verify)) as first, kit.nats(config=new.server(more=verify)) as second:
        settings = Settings(tmp_path, nats=[tls_url(first)], **files)
        with configured(settings) as node:
            until(lambda: node.stats()["nats_state"] == "up", "it is up")
            settings.write(nats=[tls_url(second)], **files)
            status, faults = reload(node)
            assert status == 422 and len(faults) == 1 and "nats-tls-ca" in faults[0], faults
            shutil.copy(new.ca, folders[2] / "ca.pem")
            status, faults = reload(node)
            assert status == 422 and f"127.0.0.1:{second.port}" in faults[0], faults
            assert node.stats()["nats_state"] == "up" and node.total("nats_connects") == 1
            install(new)
            assert reload(node) == (200, ["nats"])
            await_move(node, second)
            await_control(second, node, **files)


def test_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    """The link stays, which the log has once, and moves when the server is there."""
    with kit.nats() as first:
        second = kit.Nats("", ())
        settings = Settings(tmp_path, nats=[first.url])
        with configured(settings) as node, kit.engine(nats=first.url, loops=1) as other:
            await_cluster([node, other])
            settings.write(nats=[second.url])
            assert reload(node) == (200, ["nats"])
            until(lambda: complaints(node), "it is logged")
            with BarePeer(node.port) as a, BarePeer(other.port) as b:
                reach(a, b)
            second.start()
            try:
                await_move(node, second)
                assert complaints(node) == [STAYS]
            finally:
                second.stop()


def test_wrong_credentials_change_nothing(tmp_path: Path) -> None:
    """They are a fault, with the setting. The link stays, and so do all other settings."""
    access = named_users(tmp_path)
    with kit.nats(config=access.server((0,))) as server:
        settings = Settings(tmp_path, nats=[server.url], max_rooms=5, **access.settings(0))
        with configured(settings) as node:
            until(lambda: node.stats()["nats_state"] == "up", "it is up")
            settings.write(nats=[server.url], max_rooms=6, **access.settings(1))
            status, faults = reload(node)
            assert status == 422 and len(faults) == 1
            assert faults[0].startswith(f"'nats-user' in {settings.file}:3 can't be used"), faults
            assert f"127.0.0.1:{server.port}" in faults[0] and "Authorization Violation" in faults[0]
            assert (node.total("nats_connects"), node.stats()["nats_state"]) == (1, "up")
            settings.write(nats=[server.url], max_rooms=6, **access.settings(0))
            assert reload(node) == (200, ["max-rooms"])
            send_reload(server, access.server((0, 1)))
            settings.write(nats=[server.url], max_rooms=6, **access.settings(1))
            assert reload(node)[0] == 200
            await_move(node, server)


def test_one_of_two_servers_refuses(tmp_path: Path) -> None:
    with kit.nats() as first, kit.nats(config='authorization { token: "t" }') as second:
        settings = Settings(tmp_path, nats=[first.url])
        with configured(settings) as node:
            settings.write(nats=[first.url, second.url])
            status, faults = reload(node)
            assert status == 422 and [f"127.0.0.1:{second.port}" in fault for fault in faults] == [True]


def test_a_server_that_refuses_when_it_comes_up(tmp_path: Path) -> None:
    """The link stays with the present one until it is accepted."""
    access = named_users(tmp_path)
    with kit.nats(config=access.server((0,))) as first:
        second = kit.Nats(access.server((1,)), ())
        settings = Settings(tmp_path, nats=[first.url], **access.settings(0))
        with configured(settings) as node:
            until(lambda: node.stats()["nats_state"] == "up", "it is up")
            settings.write(nats=[second.url], **access.settings(0))
            assert reload(node)[0] == 200
            until(lambda: complaints(node), "it is logged")
            second.start()
            try:
                until(lambda: b"authentication error" in second.log(), "it is refused")
                assert (node.total("nats_connects"), node.stats()["nats_state"]) == (1, "up")
                send_reload(second, access.server((0,)))
                await_move(node, second)
                assert complaints(node) == [STAYS]
            finally:
                second.stop()


def test_a_server_that_greets_and_then_hangs(tmp_path: Path) -> None:
    """It is a fault after a few seconds."""
    with kit.nats() as server, Greeter() as silent:
        settings = Settings(tmp_path, nats=[server.url])
        with configured(settings) as node:
            settings.write(nats=[silent.url])
            status, faults = reload(node)
            assert status == 422 and "(no answer)" in faults[0], faults
