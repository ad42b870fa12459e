"""Errors of `signal-engine ctl` before it queries a node."""

import asyncio
import re
import shlex
from pathlib import Path

import pytest

from signal_py.base.errors import ConfigError
from signal_py.cli import ctl
from signal_py.cli import main as cli
from signal_py.config.control_settings import CONTROL_SETTINGS
from signal_py.config.settings import SETTINGS
from signal_py.config.sources import load
from signal_py.control.client import Control
from signal_py.control.query import Query

ROOT = Path(__file__).parents[2]
NATS = ["--nats", "nats://127.0.0.1:1"]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS.values():
        monkeypatch.delenv(setting.variable, raising=False)


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The error, in one line, with exit status 2."""
    try:
        status = cli.main(["ctl", *words])
    except SystemExit as end:
        status = int(end.code or 0)
    output = capsys.readouterr()
    assert (status, output.out) == (2, "")
    assert output.err.startswith("signal-engine: ") and output.err.count("\n") == 1, output.err
    return output.err


@pytest.mark.parametrize(
    "words, parts",
    [
        ([], ["COMMAND", "--help"]),
        (["dance"], ["dance", "--help"]),
        (["members", *NATS], ["ROOM", "--help"]),
        (["nodes", "--nat", "x"], ["--nat", "--help"]),
        (["nodes"], ["--nats names no NATS server", "URL"]),
        (["nodes", "--nats", "off"], ["--nats names no NATS server", "URL"]),
        (["nodes", "--nats", "http://x"], ["--nats 'http://x'", "write nats://HOST:PORT"]),
        (["nodes", *NATS, "--nats-user", "x"], ["--nats-user is given without --nats-password"]),
        (["nodes", *NATS, "--nats-nkey", "/none"], ["--nats-nkey /none can't be read", "Name a readable file"]),
        (["nodes", *NATS, "--nats-creds", __file__], ["--nats-creds", "holds no credentials"]),
        (["nodes", *NATS, "--nats-tls-ca", __file__], ["--nats-tls-ca", "name a file with"]),
        (["nodes", *NATS, "--prefix", "a b"], ["--prefix 'a b' is not a NATS subject"]),
        (["nodes", *NATS, "--timeout", "0"], ["--timeout is 0: use more than 0"]),
        (["nodes", *NATS, "--timeout", "nan"], ["--timeout is nan: use more than 0"]),
        (["nodes", *NATS, "--timeout", "x"], ["--timeout", "--help"]),
        (["nodes", *NATS], ["--nats nats://127.0.0.1:1 can't be reached (nothing listens there)", "give the URL"]),
        (["stats", *NATS, "--node", "A"], ["'A' is not a node name", "ctl nodes"]),
        (["rooms", *NATS, "--limit", "0"], ["--limit is 0: use 1 to 1000"]),
        (["members", *NATS, "a b"], ["'a b' is not a room", "@USER"]),
        (["disconnect", *NATS, "lobby"], ["'lobby' is neither a peer nor a user", "@USER"]),
        (["disconnect", *NATS, "@"], ["'@' is neither a peer nor a user"]),
        (["drain", *NATS], ["--all", "give one of them"]),
        (["drain", *NATS, "k7", "--all"], ["give one of them"]),
        (["drain", *NATS, "a.b"], ["'a.b' is not a node name"]),
        (["nodes", "--config", "/none.toml"], ["--config /none.toml can't be read"]),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]) -> None:
    text = complaint(capsys, *words)
    for part in parts:
        assert part in text


def test_variables_are_named_and_those_of_nodes_ignored(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators' commands work in a shell that has a node's variables."""
    monkeypatch.setenv("SIGNAL_ENGINE_AUTH_KEY", "without --auth")
    monkeypatch.setenv("SIGNAL_ENGINE_NATS", "nats://127.0.0.1:1")
    assert "SIGNAL_ENGINE_NATS nats://127.0.0.1:1 can't be reached" in complaint(capsys, "nodes")


def test_secrets_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert "s3cr3t" not in complaint(capsys, "nodes", "--nats", "nats://node:s3cr3t@127.0.0.1:1")


def test_errors_of_the_library() -> None:
    with pytest.raises(ConfigError, match="Control's nats names no NATS server"):
        Control()
    with pytest.raises(ConfigError, match="Control's loops is not one of its settings"):
        Control(nats="nats://x", loops=1)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="Control's nats_user is given without"):
        Control(nats="nats://x", nats_user="x")


def test_arguments_that_the_library_refuses() -> None:
    control = Control(nats="nats://127.0.0.1:1")
    for ask in (
        control.disconnect,
        lambda: control.disconnect("a"),
        lambda: control.disconnect("k7.a", user="ann"),
        lambda: control.disconnect(user="a b"),
        control.drain,
        lambda: control.drain("a.b"),
        lambda: control.members("a b"),
        lambda: control.rooms(0),
        lambda: control.room_page(after="0.0"),
        lambda: control.room_page("k7", after="x"),
        lambda: control.stats("k7.>"),
    ):
        with pytest.raises(ValueError, match=r"is not a|give|the limit is"):
            asyncio.run(ask())  # type: ignore[arg-type]


def test_a_query_fails_with_the_error_of_nats_for_it() -> None:
    """Several queries may be open: NATS names the subject that it denies."""

    mine, other = Query("signal.ctl.stats", "_INBOX.aBc"), Query("signal.ctl.rooms", "_INBOX.dEf")
    for one in (mine, other):
        one.report('permissions violation for publish to "signal.ctl.stats"')
    assert "signal.ctl.stats" in mine.problem and mine.changed.is_set()
    assert other.problem == "" and not other.changed.is_set()
    for text, meant in (('Permissions Violation for Subscription to "_INBOX.aBc"', True), ("stale", True)):
        query = Query("signal.ctl.stats", "_INBOX.aBc")
        query.report(text)
        assert bool(query.problem) is meant


def test_each_line_of_the_pages_is_understood() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    lines = re.findall(r"^(?: {4}|\$ )signal-engine (ctl .*)$", text, re.MULTILINE)
    assert {line.split()[1] for line in lines} == set(ctl.COMMANDS)
    for line in lines:
        options = cli._parser().parse_args(shlex.split(line, comments=True))
        config = load({"nats": ["nats://a.example"]} | cli.given(options), {}, options.config)
        ctl._check(options, config)


def test_its_help_offers_only_valid_values(capsys: pytest.CaptureFixture[str]) -> None:
    """A server's URL; other values of --nats are only for nodes."""
    assert cli.main(["ctl", "nodes", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--nats URL" in text
    assert "embedded" not in text and "auto" not in text


def test_its_settings() -> None:
    nodes = ("nats-pending", "nats-discovered")
    assert {name for name in SETTINGS if name.startswith("nats") and name not in nodes} == {*CONTROL_SETTINGS} - {
        "prefix"
    }
