"""The control thread and the NATS link: dials, servers, errors, refusals."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from scripted_core import PATIENCE, WHERE, ScriptedCore, connected, control_thread, info, make_seed, next_dial
from signal_core.engine import Core
from signal_py.base.errors import EngineError
from signal_py.control_thread import MAX_ERRORS, ControlThread, RefusedError
from signal_py.nats.credentials import Credentials
from signal_py.nats.tls import Tls


def reconnected(core: ScriptedCore) -> None:
    """Goes from the dial that is under way to the CONNECT."""
    assert core.next_call()[0] == "dial"
    core.report("link-info", info())
    assert core.next_call()[0] == "connect"


EXPIRED = "'User Authentication Expired'"


@pytest.mark.parametrize("word", [EXPIRED, "'Account Authentication Expired'", "'User Authentication Revoked'"])
@pytest.mark.parametrize("fresh", [True, False])
def test_credentials_that_expire(word: str, fresh: bool, tmp_path: Path) -> None:
    """NATS is dialled again at once with the credentials that the file has now. The link is refused only if the
    same ones fail twice."""
    file = tmp_path / "nk"
    file.write_text(make_seed()[0])
    with control_thread(WHERE, seed_file=str(file)) as (core, made):
        connected(core)
        core.report("link-up")
        assert made.first.result(PATIENCE) == "up"
        if fresh:
            file.write_text(make_seed()[0])
        begun = time.monotonic()
        core.report("link-error", word)
        core.report("link-down", "expired")
        core.report("link-want", "expired")
        reconnected(core)
        assert time.monotonic() - begun < 3 and made.state == "up"
        core.report("link-error", "'Authorization Violation'")
        core.report("link-want", "refused")
        if fresh:  # new credentials have to be refused twice
            reconnected(core)
            assert made.state == "up"
            core.report("link-error", "'Authorization Violation'")
            core.report("link-want", "refused")
    assert made.state == "refused"


def test_endless_errors_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "signal_py"), control_thread(WHERE) as (core, _):
        connected(core)
        for number in range(500):
            core.report("link-error", f"strange {number}", 0)
        core.report("link-error", "", 70000)
    assert len(caplog.records) == MAX_ERRORS + 1
    assert caplog.records[-1].fields["count"] == 70000  # type: ignore[attr-defined]


def test_a_thread_that_can_not_begin_raises(tmp_path: Path) -> None:
    """Here because epoll refuses a folder; in production because no descriptor is left."""
    core = ScriptedCore()
    os.close(core.control_fd)
    core.control_fd = os.open(tmp_path, os.O_RDONLY)
    made = ControlThread(cast(Core, core), [], Credentials(), Tls(), "n1", "1.2.3")
    with pytest.raises(OSError, match="ulimit -n"):
        made.start()
    made.stop()
    os.close(core.control_fd)


def test_a_query_that_waits_while_the_thread_ends_fails() -> None:
    with control_thread() as (core, made):
        pending = made.submit(made.inspection.rooms(10))
        assert core.next_call()[0] == "inquire"
    with pytest.raises(EngineError, match="not running"):
        pending.result(PATIENCE)


def test_without_nats_nothing_is_dialled() -> None:
    with control_thread() as (core, made):
        assert made.first.result(PATIENCE) == made.state == "off"
        core.report("link-want", "")
        core.report("log", "info", "x")
    assert core.calls.empty()


def test_connect() -> None:
    with control_thread(WHERE) as (core, made):
        assert connected(core) == {
            "echo": False, "headers": True, "no_responders": True, "verbose": False, "pedantic": False,
            "protocol": 1, "tls_required": False, "lang": "python", "version": "1.2.3",
            "name": "signal-engine n1",
        }  # fmt: skip
        core.report("link-up")
        assert made.first.result(PATIENCE) == "up"
    assert core.calls.empty() and core.taken == 1


@contextmanager
def listener() -> Iterator[int]:
    """The port of a socket that accepts connections on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as open_:
        yield int(open_.getsockname()[1])


@pytest.mark.parametrize("discovered", [True, False])
def test_servers_that_the_cluster_announces(discovered: bool) -> None:
    """They are dialled, too, unless `discovered` is off."""
    with (
        listener() as named,
        listener() as announced,
        control_thread(f"nats://127.0.0.1:{named}", discovered=discovered) as (core, _),
    ):
        core.report("link-want", "")
        assert core.next_call()[3] == named
        core.report("link-info", info(connect_urls=[f"127.0.0.1:{announced}"]))
        assert core.next_call()[0] == "connect"
        core.report("link-up")
        core.report("link-down", "it is gone")
        core.report("link-want", "it is gone")
        dialled = [core.next_call()[3], *(next_dial(core)[3] for _ in range(3))]
        assert set(dialled) == ({named, announced} if discovered else {named})


def test_servers_that_can_not_be_reached_cost_little_time() -> None:
    """Servers are tried in parallel (RFC 8305). Nothing answers at the addresses of TEST-NET (RFC 5737)."""
    with listener() as good:
        away = [f"nats://192.0.2.{host}:4222" for host in range(1, 9)]
        with control_thread(f"nats://127.0.0.1:{good}", *away) as (core, _):
            begun = time.monotonic()
            core.report("link-want", "")
            assert core.next_call()[3] == good
            assert time.monotonic() - begun < 4


@pytest.mark.parametrize("others", [0, 1])
def test_a_server_in_lame_duck_mode(others: int) -> None:
    """The link leaves it if another server answers, and only then."""
    with (
        listener() as first,
        listener() as second,
        control_thread(f"nats://127.0.0.1:{first}") as (core, made),
    ):
        core.report("link-want", "")
        core.next_call()
        core.report("link-info", info(connect_urls=[f"127.0.0.1:{second}"] * others))
        core.next_call()
        core.report("link-up")
        core.report("link-info", info(ldm=True, connect_urls=[f"127.0.0.1:{second}"] * others))
        if others:
            assert core.next_call() == ("leave",)
            core.report("link-down", "it is about to end")
            core.report("link-want", "it is about to end")
            assert core.next_call()[3] == second
            assert made.state == "up"
    assert core.calls.empty()


def test_away_and_back_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "signal_py"), control_thread(WHERE) as (core, made):
        core.report("link-want", "")
        core.next_call()
        for _ in range(3):
            next_dial(core)
        assert made.first.result(PATIENCE) == made.state == "away"
        core.report("link-up")
        core.report("link-down", "broken")
        next_dial(core)
        core.report("link-up")
        core.report("link-error", "Permissions Violation for Publish to x")
        core.report("link-error", "Permissions Violation for Publish to x")
    events = [record.__dict__["event"] for record in caplog.records]
    away, back, error = "NATS is away; local delivery continues", "NATS is back", "NATS reported an error"
    assert events == [away, back, away, back, error]


def test_a_silent_resolver_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = threading.Event(), threading.Event()

    def silent(*_: Any, **__: Any) -> list[Any]:
        asked.set()
        answers.wait(PATIENCE)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    with control_thread("nats://a.example:1") as (core, _):
        core.report("link-want", "")
        assert asked.wait(PATIENCE)
        begun = time.monotonic()
    took = time.monotonic() - begun
    answers.set()
    assert took < PATIENCE / 2


def test_all_addresses_of_a_name_are_one_round() -> None:
    with listener() as port, control_thread(f"nats://localhost:{port}", "nats://nohost.invalid:1") as (core, made):
        core.report("link-want", "")
        dialled = {core.next_call()[2]}
        while not made.first.done():
            dialled.add(next_dial(core)[2])
        assert dialled <= {"127.0.0.1", "::1"} and made.first.result() == "away"


@pytest.mark.parametrize(
    ("words", "setting"),
    [(("link-error", "'Authorization Violation'"), "nats"), (("link-taken", "n1"), "node")],
)
def test_refusals(words: tuple[str, str], setting: str) -> None:
    with control_thread(WHERE) as (core, made):
        connected(core)
        core.report(*words)
        if setting == "nats":  # twice: the files may have changed since the first time
            core.report("link-want", "closed")
            reconnected(core)
            core.report(*words)
        refused = made.first.exception(PATIENCE)
        assert isinstance(refused, RefusedError) and refused.setting == setting
        assert made.state == "refused"
        core.report("link-want", "closed")
        core.report("link-up")
        made.stop()
        assert made.state == "up"
