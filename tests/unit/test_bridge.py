"""What is decided for the NATS link, asked by a scripted core."""

import base64
import json
import os
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import nkeys
import pytest

from signal_core.engine import Core
from signal_py.bridge import Bridge, RefusedError
from signal_py.credentials import Credentials, connect_line
from signal_py.errors import ConfigError, EngineError
from signal_py.natspool import parse_url
from signal_py.settings import Config
from signal_py.tls import Tls

PATIENCE = 10.0  # seconds
INFO = {"server_id": "x", "headers": True, "max_payload": 1048576}
WHERE = "nats://127.0.0.1:4222"


class ScriptedCore:
    """Says what a test has it say, and keeps what it is told."""

    def __init__(self) -> None:
        self.control_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.nloops = 1
        self.service_rooms: list[str] = []
        self.events: deque[tuple[object, ...]] = deque()
        self.told: queue.Queue[tuple[Any, ...]] = queue.Queue()

    def say(self, *event: object) -> None:
        self.events.append(event)
        os.eventfd_write(self.control_fd, 1)

    def control_drain(self) -> list[tuple[object, ...]]:
        with suppress(BlockingIOError):
            os.eventfd_read(self.control_fd)
        return [self.events.popleft() for _ in range(len(self.events))]

    def link_dial(self, *where: object) -> None:
        self.told.put(("dial", *where))

    def link_fail(self) -> None:
        self.told.put(("fail",))

    def link_connect(self, *answer: object) -> None:
        self.told.put(("connect", *answer))

    def inquire(self, *question: object) -> None:
        self.told.put(("inquire", *question))

    def hear(self) -> tuple[Any, ...]:
        return self.told.get(timeout=PATIENCE)


@contextmanager
def bridge(*urls: str, **access: str) -> Iterator[tuple[ScriptedCore, Bridge]]:
    core = ScriptedCore()
    made = Bridge(cast(Core, core), [parse_url(url) for url in urls], Credentials(**access), Tls(), "n1", "1.2.3")
    made.start()
    try:
        yield core, made
    finally:
        made.stop()
        os.close(core.control_fd)


def info(**more: object) -> bytes:
    return json.dumps({**INFO, **more}).encode()


def connected(core: ScriptedCore) -> dict[str, Any]:
    """Goes through a dial to the CONNECT, and what that says."""
    core.say("link-want", "")
    assert core.hear() == ("dial", 2, "127.0.0.1", 4222)
    core.say("link-info", info())
    verb, line, max_payload, tls = core.hear()
    assert (verb, max_payload, tls) == ("connect", 1048576, None)
    assert line.startswith(b"CONNECT ") and line.endswith(b"\r\n")
    said: dict[str, Any] = json.loads(line[8:])
    return said


def test_a_thread_that_can_not_begin_is_told(tmp_path: Path) -> None:
    """Here since a file can't be waited for; else where no descriptor is left."""
    core = ScriptedCore()
    os.close(core.control_fd)
    core.control_fd = os.open(tmp_path, os.O_RDONLY)
    made = Bridge(cast(Core, core), [], Credentials(), Tls(), "n1", "1.2.3")
    with pytest.raises(OSError, match="ulimit -n"):
        made.start()
    made.stop()
    os.close(core.control_fd)


def test_who_asks_while_it_ends_is_told() -> None:
    with bridge() as (core, made):
        asked = made.submit(made.inspection.rooms(10))
        assert core.hear()[0] == "inquire"
    with pytest.raises(EngineError, match="not running"):
        asked.result(PATIENCE)


def test_without_nats_nothing_is_dialled() -> None:
    with bridge() as (core, made):
        assert made.first.result(PATIENCE) == made.state == "off"
        core.say("link-want", "")
        core.say("log", "info", "x")
    assert core.told.empty()


def test_what_connect_says() -> None:
    with bridge(WHERE) as (core, made):
        said = connected(core)
        assert said == {
            "echo": False, "headers": True, "no_responders": True, "verbose": False, "pedantic": False,
            "protocol": 1, "tls_required": False, "lang": "python", "version": "1.2.3",
            "name": "signal-engine n1",
        }  # fmt: skip
        core.say("link-up")
        assert made.first.result(PATIENCE) == "up"
        core.say("link-info", info(connect_urls=["127.0.0.1:5555"]))
        core.say("link-down", "it is gone")
        core.say("link-want", "it is gone")
        assert {core.hear()[3], next_dial(core)[3]} == {4222, 5555}
    assert core.told.empty()


def next_dial(core: ScriptedCore) -> tuple[Any, ...]:
    core.say("link-want", "refused")
    return core.hear()


def test_away_is_told_once_and_back_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "signal_py"), bridge(WHERE) as (core, made):
        core.say("link-want", "")
        core.hear()
        for _ in range(3):
            next_dial(core)
        assert made.first.result(PATIENCE) == made.state == "away"
        core.say("link-up")
        core.say("link-down", "broken")
        next_dial(core)
        core.say("link-up")
        core.say("link-error", "Permissions Violation for Publish to x")
        core.say("link-error", "Permissions Violation for Publish to x")
    events = [record.__dict__["event"] for record in caplog.records]
    away, back, error = "NATS is away; local delivery goes on", "NATS is back", "NATS reports an error"
    assert events == [away, back, away, back, error]


def test_a_resolver_that_is_silent_holds_no_end_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = threading.Event(), threading.Event()

    def silent(*_: Any, **__: Any) -> list[Any]:
        asked.set()
        answers.wait(PATIENCE)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    with bridge("nats://a.example:1") as (core, _):
        core.say("link-want", "")
        assert asked.wait(PATIENCE)
        begun = time.monotonic()
    took = time.monotonic() - begun
    answers.set()
    assert took < PATIENCE / 2


def test_all_addresses_of_a_name_are_one_round() -> None:
    with bridge("nats://localhost:4222", "nats://nohost.invalid:1") as (core, made):
        core.say("link-want", "")
        dialled = {core.hear()[2]}
        while not made.first.done():
            dialled.add(next_dial(core)[2])
        assert dialled <= {"127.0.0.1", "::1"} and made.first.result() == "away"


@pytest.mark.parametrize("greeting", [info(headers=False), b"{", b"[]", b"\xff"])
def test_servers_that_can_not_be_used(greeting: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with bridge(WHERE) as (core, made):
        core.say("link-want", "")
        core.hear()
        core.say("link-info", greeting)
        assert core.hear() == ("fail",)
        core.say("link-want", "given up")
        assert made.first.result(PATIENCE) == "away"
    assert "given up" not in caplog.text


def test_a_tls_url_is_never_spoken_to_in_clear() -> None:
    with bridge("tls://127.0.0.1") as (core, _):
        core.say("link-want", "")
        core.hear()
        core.say("link-info", info())
        assert core.hear() == ("fail",)


@pytest.mark.parametrize(
    ("url", "greeting", "name"),
    [
        (WHERE, info(tls_required=True), ("127.0.0.1", True)),
        ("tls://127.0.0.1", info(tls_available=True), ("127.0.0.1", True)),
        ("tls://localhost", info(tls_required=True), ("localhost", False)),
    ],
)
def test_tls_where_either_end_asks(url: str, greeting: bytes, name: tuple[str, bool]) -> None:
    with bridge(url) as (core, _):
        core.say("link-want", "")
        core.hear()
        core.say("link-info", greeting)
        verb, line, _, tls = core.hear()
        assert (verb, tls) == ("connect", (*name, "", "", ""))
        assert json.loads(line[8:])["tls_required"] is True


def test_no_tls_where_only_the_server_offers_it() -> None:
    with bridge(WHERE) as (core, _):
        core.say("link-want", "")
        core.hear()
        core.say("link-info", info(tls_available=True))
        assert core.hear()[3] is None


@pytest.mark.parametrize(
    ("words", "setting"),
    [(("link-error", "'Authorization Violation'"), "nats"), (("link-taken", "n1"), "node")],
)
def test_refusals(words: tuple[str, str], setting: str) -> None:
    with bridge(WHERE) as (core, made):
        connected(core)
        core.say(*words)
        refused = made.first.exception(PATIENCE)
        assert isinstance(refused, RefusedError) and refused.setting == setting
        assert made.state == "refused"
        core.say("link-want", "closed")
        core.say("link-up")
        made.stop()
        assert made.state == "up"


# -- who we are --


def said(url: str, nonce: str = "", **access: str) -> dict[str, Any]:
    info = {"nonce": nonce} if nonce else {}
    line = connect_line(info, parse_url(url), Credentials(**access), "n1", "1", False)
    found: dict[str, Any] = json.loads(line.removeprefix(b"CONNECT "))
    return {
        name: found[name] for name in ("user", "pass", "auth_token", "jwt", "nkey", "sig") if name in found
    }


def make_seed() -> tuple[str, nkeys.KeyPair]:
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed.decode(), nkeys.from_seed(bytearray(seed))


def test_passwords_and_tokens() -> None:
    assert said("h") == {}
    assert said("nats://u:p@h") == {"user": "u", "pass": "p"}
    assert said("nats://t@h") == {"auth_token": "t"}
    assert said("nats://u:p@h", token="t") == {"auth_token": "t"}
    assert said("nats://t@h", user="u", password="p") == {"user": "u", "pass": "p"}


def test_the_nonce_is_signed(tmp_path: Path) -> None:
    seed, pair = make_seed()
    (tmp_path / "nk").write_text(seed + "\n", encoding="ascii")
    found = said("h", "a nonce", seed_file=str(tmp_path / "nk"))
    assert found.pop("nkey") == pair.public_key.decode()
    assert pair.verify(b"a nonce", base64.b64decode(found.pop("sig"))) and found == {}
    (tmp_path / "creds").write_text(
        f"-----BEGIN NATS USER JWT-----\nej.wt\n------END NATS USER JWT------\n\n*** note ***\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
        encoding="ascii",
    )
    found = said("h", "a nonce", creds_file=str(tmp_path / "creds"))
    assert pair.verify(b"a nonce", base64.b64decode(found.pop("sig"))) and found == {"jwt": "ej.wt"}


@pytest.mark.parametrize("text", ["", "nonsense", "SUAAAAA", "é", "-----BEGIN NATS USER JWT-----\nx"])
def test_files_without_a_seed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file"
    file.write_text(text, encoding="utf-8")
    for setting in ("nats_nkey", "nats_creds"):
        with pytest.raises(ConfigError) as refused:
            Credentials.of(Config(**{setting: str(file)}))  # type: ignore[arg-type]
        assert str(file) in str(refused.value)
