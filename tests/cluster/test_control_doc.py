"""What docs/control.md shows works with real nodes: the configuration of NATS, the commands, the program."""

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
from peers import BarePeer
from signal_py.control import Control

from .conftest import await_cluster
from .test_control import await_control

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "control.md").read_text(encoding="utf-8")
PASSWORDS = {f"{name.upper()}_PASSWORD": name for name in ("node", "operator", "viewer", "time", "monitor")}


def sample(name: str, page: str = PAGE) -> str:
    found = re.search(rf"^<!-- sample: {re.escape(name)} -->\n```\w*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


@contextlib.contextmanager
def permitted(config: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[kit.Nats]:
    """A nats-server with the configuration of a page, and passwords."""
    for name, value in PASSWORDS.items():
        monkeypatch.setenv(name, value)
    with kit.nats(config=config.replace("4222", "-1")) as server:
        yield server


@contextlib.contextmanager
def cluster(server: kit.Nats) -> Iterator[list[kit.Engine]]:
    node = {"nats": server.url, "nats_user": "node", "nats_password": "node", "loops": 1, "drain_time": 1}
    node["ping_interval"] = 600  # the tests' peers answer no pings while commands run
    with kit.engine(node="k7m2", **node) as one, kit.engine(node="other", **node) as other:
        await_cluster([one, other])
        await_control(server, one, other, nats_user="operator", nats_password="operator")
        yield [one, other]


def command(server: kit.Nats, user: str, *words: str) -> "subprocess.CompletedProcess[str]":
    access = {"SIGNAL_ENGINE_NATS_USER": user, "SIGNAL_ENGINE_NATS_PASSWORD": user}
    return kit.run(*words, SIGNAL_ENGINE_NATS=server.url, **access)


def test_the_commands_and_permissions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command of the page, as its operator. A viewer may only read."""
    with permitted(sample("control.conf"), monkeypatch) as server, cluster(server) as nodes:
        with BarePeer(nodes[0].port, "lobby") as peer, BarePeer(nodes[1].port, "lobby") as other:
            for words in ("stats", "rooms"):
                assert command(server, "viewer", "ctl", words).returncode == 0
            for words in ("drain --all", f"disconnect {peer.address}", "members lobby"):
                done = command(server, "viewer", "ctl", *words.split())
                assert done.returncode == 1 and "NATS does not allow it" in done.stderr, done.stderr
            lines = re.findall(r"^\$ signal-engine (.*)$", sample("ctl"), re.MULTILINE)
            assert len(lines) == 9
            for line in lines:
                words = shlex.split(line.replace("k7m2.0f3zq8m2v9w1x", peer.address), comments=True)
                done = command(server, "operator", *words)
                nobody = words[-1] == "@ann" and words[1] == "disconnect"
                assert done.returncode == int(nobody), (line, done.stderr)
                if words[1:] == ["members", "lobby"]:
                    assert done.stdout.splitlines() == sorted([peer.address, other.address])
            assert peer.ended() == 4009
            assert nodes[0].wait() == 0, "drained by the last line"
            assert other.settle() == []
        assert nodes[1].stats()["state"] == "running"


def test_nodes_and_services_can_not_give_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the credentials of nodes and services in nats.md and control.md."""
    page = (DOCS / "nats.md").read_text(encoding="utf-8")
    services = sample("nats.conf", page)
    for config, users in ((services, ("node", "time", "monitor")), (sample("control.conf"), ("node",))):
        with permitted(config, monkeypatch) as server:
            for user in users:
                done = command(server, user, "ctl", "drain", "k7m2")
                assert done.returncode == 1 and "NATS does not allow it" in done.stderr, (user, done.stderr)


def test_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It runs unchanged."""
    file = tmp_path / "operator.py"
    file.write_text(sample("operator.py"), encoding="utf-8")
    with permitted(sample("control.conf"), monkeypatch) as server, cluster(server) as nodes:
        url = server.url.replace("nats://", "nats://operator:operator@")
        with BarePeer(nodes[0].port, "lobby"), BarePeer(nodes[1].port, "lobby"):
            command = [*kit.python(), str(file)]
            environment = os.environ | {"NATS_URL": url}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["k7m2", "other", "lobby", "0"]
        assert lines[2] == "lobby 2 {'k7m2': 1, 'other': 1}" and lines[3] == "0 connections closed"


def test_each_method_on_the_page_exists() -> None:
    named = set(re.findall(r"control\.(\w+)\(|`(room_page|member_page)`", PAGE))
    assert {one or other for one, other in named} <= set(dir(Control))
