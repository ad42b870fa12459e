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
from signal_py.base.errors import ConfigError, EngineError
from signal_py.config.nats_url import parse_url
from signal_py.config.settings import Config
from signal_py.control_thread import MAX_ERRORS, ControlThread, RefusedError
from signal_py.nats.credentials import Credentials, connect_line
from signal_py.nats.tls import Tls

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
        self.taken = 0  # INFOs

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

    def link_leave(self) -> None:
        self.told.put(("leave",))

    def link_info_taken(self) -> None:
        self.taken += 1

    def link_connect(self, *answer: object) -> None:
        self.told.put(("connect", *answer))

    def inquire(self, *question: object) -> None:
        self.told.put(("inquire", *question))

    def hear(self) -> tuple[Any, ...]:
        return self.told.get(timeout=PATIENCE)


@contextmanager
def control_thread(*urls: str, discovered: bool = True, **access: str) -> Iterator[tuple[ScriptedCore, ControlThread]]:
    core = ScriptedCore()
    servers = [parse_url(url) for url in urls]
    made = ControlThread(cast(Core, core), servers, Credentials(**access), Tls(), "n1", "1.2.3", discovered=discovered)
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


def again(core: ScriptedCore) -> None:
    """From a dial that is under way to the CONNECT."""
    assert core.hear()[0] == "dial"
    core.say("link-info", info())
    assert core.hear()[0] == "connect"


EXPIRED = "'User Authentication Expired'"


@pytest.mark.parametrize("word", [EXPIRED, "'Account Authentication Expired'", "'User Authentication Revoked'"])
@pytest.mark.parametrize("fresh", [True, False])
def test_credentials_that_expire(word: str, fresh: bool, tmp_path: Path) -> None:
    """NATS is dialled again at once with what the file says; it is refused only with the same ones again."""
    file = tmp_path / "nk"
    file.write_text(make_seed()[0])
    with control_thread(WHERE, seed_file=str(file)) as (core, made):
        connected(core)
        core.say("link-up")
        assert made.first.result(PATIENCE) == "up"
        if fresh:
            file.write_text(make_seed()[0])
        begun = time.monotonic()
        core.say("link-error", word)
        core.say("link-down", "expired")
        core.say("link-want", "expired")
        again(core)
        assert time.monotonic() - begun < 3 and made.state == "up"
        core.say("link-error", "'Authorization Violation'")
        core.say("link-want", "refused")
        if fresh:  # once is not enough for these
            again(core)
            assert made.state == "up"
            core.say("link-error", "'Authorization Violation'")
            core.say("link-want", "refused")
    assert made.state == "refused"


def test_errors_without_end_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "signal_py"), control_thread(WHERE) as (core, _):
        connected(core)
        for number in range(500):
            core.say("link-error", f"strange {number}", 0)
        core.say("link-error", "", 70000)
    assert len(caplog.records) == MAX_ERRORS + 1
    assert caplog.records[-1].fields["count"] == 70000  # type: ignore[attr-defined]


def test_a_thread_that_can_not_begin_is_told(tmp_path: Path) -> None:
    """Here since a file can't be waited for; else where no descriptor is left."""
    core = ScriptedCore()
    os.close(core.control_fd)
    core.control_fd = os.open(tmp_path, os.O_RDONLY)
    made = ControlThread(cast(Core, core), [], Credentials(), Tls(), "n1", "1.2.3")
    with pytest.raises(OSError, match="ulimit -n"):
        made.start()
    made.stop()
    os.close(core.control_fd)


def test_who_asks_while_it_ends_is_told() -> None:
    with control_thread() as (core, made):
        asked = made.submit(made.inspection.rooms(10))
        assert core.hear()[0] == "inquire"
    with pytest.raises(EngineError, match="not running"):
        asked.result(PATIENCE)


def test_without_nats_nothing_is_dialled() -> None:
    with control_thread() as (core, made):
        assert made.first.result(PATIENCE) == made.state == "off"
        core.say("link-want", "")
        core.say("log", "info", "x")
    assert core.told.empty()


def test_what_connect_says() -> None:
    with control_thread(WHERE) as (core, made):
        said = connected(core)
        assert said == {
            "echo": False, "headers": True, "no_responders": True, "verbose": False, "pedantic": False,
            "protocol": 1, "tls_required": False, "lang": "python", "version": "1.2.3",
            "name": "signal-engine n1",
        }  # fmt: skip
        core.say("link-up")
        assert made.first.result(PATIENCE) == "up"
    assert core.told.empty() and core.taken == 1


@contextmanager
def listener() -> Iterator[int]:
    """A port of 127.0.0.1 that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as open_:
        yield int(open_.getsockname()[1])


@pytest.mark.parametrize("discovered", [True, False])
def test_servers_that_the_cluster_tells_of(discovered: bool) -> None:
    """Are dialled too, unless they are not wanted."""
    with (
        listener() as named,
        listener() as told,
        control_thread(f"nats://127.0.0.1:{named}", discovered=discovered) as (core, _),
    ):
        core.say("link-want", "")
        assert core.hear()[3] == named
        core.say("link-info", info(connect_urls=[f"127.0.0.1:{told}"]))
        assert core.hear()[0] == "connect"
        core.say("link-up")
        core.say("link-down", "it is gone")
        core.say("link-want", "it is gone")
        dialled = [core.hear()[3], *(next_dial(core)[3] for _ in range(3))]
        assert set(dialled) == ({named, told} if discovered else {named})


def test_what_can_not_be_reached_costs_little() -> None:
    """It is tried beside what can: RFC 8305. Nothing answers at the addresses of TEST-NET (RFC 5737)."""
    with listener() as good:
        away = [f"nats://192.0.2.{host}:4222" for host in range(1, 9)]
        with control_thread(f"nats://127.0.0.1:{good}", *away) as (core, _):
            begun = time.monotonic()
            core.say("link-want", "")
            assert core.hear()[3] == good
            assert time.monotonic() - begun < 4


@pytest.mark.parametrize("others", [0, 1])
def test_a_server_that_is_about_to_end(others: int) -> None:
    """Is left where another answers, and only then."""
    with (
        listener() as first,
        listener() as second,
        control_thread(f"nats://127.0.0.1:{first}") as (core, made),
    ):
        core.say("link-want", "")
        core.hear()
        core.say("link-info", info(connect_urls=[f"127.0.0.1:{second}"] * others))
        core.hear()
        core.say("link-up")
        core.say("link-info", info(ldm=True, connect_urls=[f"127.0.0.1:{second}"] * others))
        if others:
            assert core.hear() == ("leave",)
            core.say("link-down", "it is about to end")
            core.say("link-want", "it is about to end")
            assert core.hear()[3] == second
            assert made.state == "up"
    assert core.told.empty()


def next_dial(core: ScriptedCore) -> tuple[Any, ...]:
    core.say("link-want", "refused")
    return core.hear()


def test_away_is_told_once_and_back_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "signal_py"), control_thread(WHERE) as (core, made):
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
    away, back, error = "NATS is away; local delivery continues", "NATS is back", "NATS reported an error"
    assert events == [away, back, away, back, error]


def test_a_resolver_that_is_silent_holds_no_end_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = threading.Event(), threading.Event()

    def silent(*_: Any, **__: Any) -> list[Any]:
        asked.set()
        answers.wait(PATIENCE)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    with control_thread("nats://a.example:1") as (core, _):
        core.say("link-want", "")
        assert asked.wait(PATIENCE)
        begun = time.monotonic()
    took = time.monotonic() - begun
    answers.set()
    assert took < PATIENCE / 2


def test_all_addresses_of_a_name_are_one_round() -> None:
    with listener() as port, control_thread(f"nats://localhost:{port}", "nats://nohost.invalid:1") as (core, made):
        core.say("link-want", "")
        dialled = {core.hear()[2]}
        while not made.first.done():
            dialled.add(next_dial(core)[2])
        assert dialled <= {"127.0.0.1", "::1"} and made.first.result() == "away"


ODD = [
    {name: value}
    for name, values in {
        "max_payload": [None, -1, 0, 255, 1 << 31, 1 << 70, 1e300, 1048576.5, True, "1048576", [], {}],
        "headers": [None, 1, "yes"],
        "tls_required": [None, 1],
        "tls_available": [None, "no"],
        "nonce": [None, 7, "x" * 5000],
        "connect_urls": [None, 7, "a:1", [None], [["a:1"]]],
        "ldm": [None, 1],
    }.items()
    for value in values
]
DEEP = b'{"headers":true,"max_payload":1048576,"x":' + b"[" * 30000 + b"]" * 30000 + b"}"


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("later", [False, True])
def test_odd_values_of_info(odd: dict[str, object], later: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A server that says such a thing is given up, at its greeting and later, with one line that names it."""
    with caplog.at_level("INFO", "signal_py"), control_thread(WHERE) as (core, made):
        if later:
            connected(core)
            core.say("link-up")
            made.first.result(PATIENCE)
        else:
            core.say("link-want", "")
            core.hear()
        core.say("link-info", info(**odd))
        assert core.hear() == ("fail",)
        core.say("link-down" if later else "link-want", "given up")
        core.say("link-want", "given up")
        core.hear()
    assert core.taken == 1 + later
    told = [record for record in caplog.records if record.levelname != "INFO"]
    assert len(told) == 1 and not told[0].exc_info
    assert next(iter(odd)) in told[0].fields["reason"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("greeting", [info(headers=False), b"{", b"[]", b"\xff", DEEP, b"1" * 60000])
def test_servers_that_can_not_be_used(greeting: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with control_thread(WHERE) as (core, made):
        core.say("link-want", "")
        core.hear()
        core.say("link-info", greeting)
        assert core.hear() == ("fail",)
        core.say("link-want", "given up")
        assert made.first.result(PATIENCE) == "away"
    assert "given up" not in caplog.text


def test_a_tls_url_is_never_spoken_to_in_clear() -> None:
    with control_thread("tls://127.0.0.1") as (core, _):
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
    with control_thread(url) as (core, _):
        core.say("link-want", "")
        core.hear()
        core.say("link-info", greeting)
        verb, line, _, tls = core.hear()
        assert (verb, tls) == ("connect", (*name, "", "", ""))
        assert json.loads(line[8:])["tls_required"] is True


def test_no_tls_where_only_the_server_offers_it() -> None:
    with control_thread(WHERE) as (core, _):
        core.say("link-want", "")
        core.hear()
        core.say("link-info", info(tls_available=True))
        assert core.hear()[3] is None


@pytest.mark.parametrize(
    ("words", "setting"),
    [(("link-error", "'Authorization Violation'"), "nats"), (("link-taken", "n1"), "node")],
)
def test_refusals(words: tuple[str, str], setting: str) -> None:
    with control_thread(WHERE) as (core, made):
        connected(core)
        core.say(*words)
        if setting == "nats":  # once more with the same: what the files say may have been good by now
            core.say("link-want", "closed")
            again(core)
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
    line = connect_line(Credentials(**access).proof(nonce, parse_url(url)), "n1", "1", False)
    found: dict[str, Any] = json.loads(line.removeprefix(b"CONNECT "))
    return {name: found[name] for name in ("user", "pass", "auth_token", "jwt", "nkey", "sig") if name in found}


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
