"""An authorizer that fails: clients get 503, and the log one line, without secrets."""

import asyncio
import base64
import contextlib
import logging
from collections.abc import Awaitable
from typing import Any

import pytest

from minted import knock
from signal_py import Engine, Grant, Refusal, Request
from signal_py.auth.authenticators import secrets_of
from signal_py.base import throttled_log

from .authorizers import Wrong, counted, logged, raises, run


def raises_at_once(asked: Request) -> Awaitable[Grant]:
    raise Wrong("the database is away")


async def answers_nonsense(asked: Request) -> Any:
    return True


async def grants_nonsense(asked: Request) -> Grant:
    return Grant(user="a b")


class Trap(list[str]):
    """Patterns that raise when they are read."""

    def __iter__(self) -> Any:
        raise Wrong("a trap")


async def grants_a_trap(asked: Request) -> Grant:
    return Grant(sub=Trap())


async def refuses_nonsense(asked: Request) -> Refusal:
    return Refusal(status=200)


@pytest.mark.parametrize(
    "authorize", [raises, raises_at_once, answers_nonsense, grants_nonsense, grants_a_trap, refuses_nonsense]
)
def test_an_authorizer_that_fails(authorize: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test(engine: Engine, port: int) -> None:
        for _ in range(3):
            answer = await asyncio.to_thread(knock, port)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert b"could not decide" in answer.body and b"full" not in answer.body
        assert counted(engine)["auth_failed"] == 3
        assert "the authorizer failed" in caplog.text

    run(authorize, test)


def plain_log(records: list[logging.LogRecord]) -> str:
    """The log as a program prints it that does not know the engine's fields."""
    formatter = logging.Formatter("%(levelname)s %(message)s")
    return "\n".join(formatter.format(record) for record in records)


def test_a_failure_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Once for each kind: an exception's type and line, not its text. Secrets are not shown."""
    tries = 0

    async def authorize(asked: Request) -> Grant:
        nonlocal tries
        tries += 1
        if asked.path == "/" and "x=2" in asked.query:
            raise Wrong("another line")
        raise Wrong(f"try {tries}: no {asked.token}, {asked.cookies['sid']} and {asked.headers['authorization']}")

    async def test(engine: Engine, port: int) -> None:
        nonlocal tries
        caplog.clear()
        tries = 0
        secrets = ("Authorization: Bearer t0k3n", "Cookie: sid=s3ss10n")
        for query in ("", "?x=2", "", "", "?x=2"):
            assert (await asyncio.to_thread(knock, port, f"/{query}", *secrets)).status == 503
        text = plain_log(logged(caplog))
        assert text.count("the authorizer failed") == len(logged(caplog)) == 2, text
        assert text.count("Traceback (most recent call last)") == 2 and __file__ in text
        assert "Wrong: try 1: no (hidden), (hidden) and" in text and "reason=Wrong: another line" in text
        assert "t0k3n" not in text and "s3ss10n" not in text

    run(authorize, test)


def test_parts_of_a_secret_are_hidden_too() -> None:
    protocol = base64.urlsafe_b64encode(b"a token").decode().rstrip("=")
    head = (
        "GET / HTTP/1.1\r\nAuthorization: Basic dXNlcjpwYXNz\r\nCookie: a=abcd; sid=abcdefgh; b=x%20y%20z\r\n"
        f"Sec-WebSocket-Protocol: signal.v1, token.{protocol}\r\n\r\n"
    )
    query = 1, False, f"::1\n\n/\nkey=k%2B1%20k+2\n\na token\n{head}".encode()
    text = throttled_log._without(
        secrets_of(query), f"abcdefgh dXNlcjpwYXNz {protocol}|x y z|k+1 k 2|k+1 k+2|a token"
    )
    assert text.replace(throttled_log.HIDDEN, "").strip(" |") == "", text


def test_an_authorizers_error_is_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """For each connection."""
    caplog.set_level(logging.DEBUG, "signal_py")

    async def test(engine: Engine, port: int) -> None:
        caplog.clear()
        await asyncio.to_thread(knock, port, "/")
        fields = [one.__dict__["fields"] for one in logged(caplog) if one.__dict__["event"] == "refused a connection"]
        assert [one["reason"] for one in fields] == ["Wrong"]

    run(raises, test)


def test_a_failure_that_lasts_is_counted(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a minute with the number of failures; the traceback is only in the first."""
    now = [1000.0]
    monkeypatch.setattr(throttled_log.time, "monotonic", lambda: now[0])
    log = throttled_log.ThrottledLog(logging.getLogger("signal_py.test"))
    error = Wrong("the database is away")
    with contextlib.suppress(Wrong):
        raise error
    for seconds in (0, 1, 58, 2, 1, 58, 2, 200):
        now[0] += seconds
        log.add("it failed", "", error)
    fields = [(one.__dict__["fields"]["times"], bool(one.__dict__["trace"])) for one in caplog.records]
    assert fields == [(1, True), (3, False), (3, False), (1, True)]
    for number in range(10 * throttled_log.KINDS):
        log.add("it failed", f"reason {number}")
    assert len(log._kinds) == throttled_log.KINDS
