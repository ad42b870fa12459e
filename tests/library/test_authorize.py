"""The embedding program decides who may connect: an async function, which may hang, raise, or be late."""

import asyncio
import base64
import contextlib
import functools
import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from minted import Guest, knock
from peers import ledgers_hold
from signal_py import ConfigError, Engine, Grant, Refusal, Request
from signal_py.auth.authenticators import secrets_of
from signal_py.base import throttled_log
from wire import TEXT, Wire, frame, request

LIMIT = 20.0


def run(
    authorize: Callable[[Request], Awaitable[Any]], test: Callable[[Engine, int], Awaitable[None]], **settings: Any
) -> None:
    """The test beside an engine on one loop and on three."""

    async def both() -> None:
        for loops in (1, 3):
            async with Engine(authorize=authorize, loops=loops, close_timeout=0.5, **settings) as engine:
                await asyncio.wait_for(test(engine, engine.listening[0][1]), LIMIT)
                ledgers_hold(engine.stats()["total"])

    asyncio.run(both())


def counted(engine: Engine) -> dict[str, int]:
    total: dict[str, int] = engine.stats()["total"]
    return total


async def until(ask: Callable[[], bool]) -> None:
    while not ask():
        await asyncio.sleep(0.01)


async def ready(peer: Any) -> Any:
    return await asyncio.to_thread(peer)


def test_what_is_asked_and_granted() -> None:
    seen: list[Request] = []

    async def authorize(asked: Request) -> Grant:
        seen.append(asked)
        await asyncio.sleep(0)
        return Grant(user="ann", sub=["a.>"], pub=[], max_rooms=1)

    async def test(engine: Engine, port: int) -> None:
        seen.clear()
        extra = ("Origin: https://app.example.org", "X-Forwarded-For: 192.0.2.7")
        answer = await asyncio.to_thread(knock, port, "/?room=a.x&token=s%65cret&x=1", *extra)
        assert answer.status == 101
        wanted = Request("secret", "127.0.0.1", "https://app.example.org", "/", "room=a.x&x=1")
        assert seen == [wanted] and "secret" not in repr(seen[0])
        assert seen[0].headers["ORIGIN"] == "https://app.example.org" and "x-forwarded-for" in seen[0].headers
        assert (await asyncio.to_thread(knock, port, "/?room=b")).status == 403
        assert seen[1].token == ""
        guest = await asyncio.to_thread(Guest, port, token="t1")
        assert guest.hello["user"] == "ann"
        asked = [await asyncio.to_thread(guest.ask, head) for head in ("SUB a.x", "SUB a.y", "SUB b", "PUB a.x")]
        assert asked == ["ok", "too-many-rooms", "denied", "denied"]
        assert await asyncio.to_thread(guest.ask, "AUTH t2") == "ok"
        assert seen[-1] == Request("t2", "127.0.0.1", renewal=True, user="ann") and not seen[-1].headers
        await asyncio.to_thread(guest.close)

    run(authorize, test)


@pytest.mark.parametrize(
    ("said", "remote"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7, 10.1.2.3, 127.0.0.9"], "192.0.2.7"),
        (["192.0.2.7", "10.1.2.3"], "192.0.2.7"),
        (["2001:db8::1, [2001:db8:ffff::1]:443"], "2001:db8::1"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["6.6.6.6, nonsense, 10.1.2.3"], "10.1.2.3"),
        ([""], "127.0.0.1"),
        ([], "127.0.0.1"),
        (["10.9.9.9"], "10.9.9.9"),
        (["6.6.6.6"] * 3 + ["192.0.2.7"] + ["10.0.0.1"] * 3, "192.0.2.7"),
    ],
)
def test_trusted_proxies(said: list[str], remote: str) -> None:
    seen: list[str] = []

    async def authorize(asked: Request) -> Grant:
        seen.append(asked.remote)
        return Grant()

    async def test(engine: Engine, port: int) -> None:
        seen.clear()
        lines = [f"X-Forwarded-For: {line}" for line in said]
        assert (await asyncio.to_thread(knock, port, "/", *lines)).status == 101
        assert seen == [remote]

    run(authorize, test, trusted_proxies=["127.0.0.0/8", "10.0.0.0/8", "2001:db8:ffff::/48"])


def test_a_session_cookie_authorizes() -> None:
    """Among other cookies, in several headers, however long the head is."""

    async def authorize(asked: Request) -> Grant | Refusal:
        user = {"s3ss10n": "ann"}.get(asked.cookies.get("sid", ""))
        return Grant(user=user, sub=[asked.path, asked.headers["x-long"][-3:]]) if user else Refusal("no session")

    async def test(engine: Engine, port: int) -> None:
        long = "X-Long: " + "x" * 5000 + "end"
        good = ("Cookie: theme=dark; sid=s3ss10n", 'cookie: sid=other; q="1"', long)
        assert (await asyncio.to_thread(knock, port, "/", *good)).status == 101
        for bad in (("Cookie: sid=s3ss1on", long), ("X-Cookie: sid=s3ss10n", long), (long,)):
            assert (await asyncio.to_thread(knock, port, "/", *bad)).status == 401

    run(authorize, test)


def test_heads_do_not_wait_beyond_their_bound() -> None:
    """Of clients that ask and go: `auth-pending` bounds the questions, and so the heads that are kept for them."""
    gate: list[asyncio.Event] = []
    heads: list[Request] = []

    async def authorize(asked: Request) -> Grant:
        heads.append(asked)
        await gate[0].wait()
        return Grant()

    async def scenario() -> None:
        gate.append(asyncio.Event())
        async with Engine(authorize=authorize, auth_pending=8, loops=1, close_timeout=0.5) as engine:
            port = engine.listening[0][1]
            for number in range(50):
                wire = await asyncio.to_thread(Wire, port)
                wire.send(request("/", "X-Long: " + "x" * 7000))
                if number < 8:
                    await until(lambda number=number: len(heads) > number)
                else:
                    assert (await asyncio.to_thread(wire.read_answer)).status == 503
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                wire.socket.close()
            assert counted(engine)["auth_failed"] == 42
            gate[0].set()
            while (await asyncio.to_thread(knock, port)).status != 101:
                pass

    asyncio.run(asyncio.wait_for(scenario(), LIMIT))


@pytest.mark.parametrize("status", [401, 403])
def test_refusals(status: int) -> None:
    async def authorize(asked: Request) -> Refusal:
        return Refusal("not today", status)

    async def test(engine: Engine, port: int) -> None:
        answer = await asyncio.to_thread(knock, port)
        assert answer.status == status and b"today" not in answer.body
        assert counted(engine)["auth_refused"] == 1

    run(authorize, test)


class Wrong(Exception):
    """What an authorizer may raise."""


async def raises(asked: Request) -> Grant:
    raise Wrong("the database is away")


def raises_at_once(asked: Request) -> Awaitable[Grant]:
    raise Wrong("the database is away")


async def answers_nonsense(asked: Request) -> Any:
    return True


async def grants_nonsense(asked: Request) -> Grant:
    return Grant(user="a b")


class Trap(list[str]):
    """Patterns that can't be read."""

    def __iter__(self) -> Any:
        raise Wrong("a trap")


async def grants_a_trap(asked: Request) -> Grant:
    return Grant(sub=Trap())


async def refuses_nonsense(asked: Request) -> Refusal:
    return Refusal(status=200)


def plain(asked: Request) -> Grant:
    return Grant(user="ann")


@functools.wraps(plain)
def wrapped(asked: Request) -> Grant:
    return plain(asked)


class Plain:
    def method(self, asked: Request) -> Grant:
        return plain(asked)

    def __call__(self, asked: Request) -> Grant:
        return plain(asked)


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the log says of decisions; the rest depends on the machine."""
    return [record for record in caplog.records if record.name == "signal_py.auth.authenticators"]


@pytest.mark.parametrize("authorize", [plain, Plain(), Plain().method, functools.partial(plain), wrapped])
def test_an_authorizer_that_is_no_async_def(authorize: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A plain one may return what can be awaited, so its first call tells: in one line, without a traceback."""

    async def test(engine: Engine, port: int) -> None:
        caplog.clear()
        assert (await asyncio.to_thread(knock, port)).status == 503
        reason = "it returned Grant instead of a coroutine: make it an `async def`"
        assert [one.message for one in told(caplog)] == [f"the authorizer failed  reason={reason}  times=1"]

    run(authorize, test)


async def grants(asked: Request) -> Grant:
    return Grant(user="ann")


@functools.wraps(grants)
def watched(asked: Request) -> Awaitable[Grant]:
    return grants(asked)


@functools.wraps(plain)
async def threaded(asked: Request) -> Grant:
    return await asyncio.to_thread(plain, asked)


class Grants:
    async def __call__(self, asked: Request) -> Grant:
        return await grants(asked)


@pytest.mark.parametrize(
    "authorize",
    [watched, threaded, Grants(), Grants().__call__, functools.partial(grants), lambda _: asyncio.to_thread(Grant)],
)
def test_what_can_be_awaited_is_an_authorizer(authorize: Any) -> None:
    async def test(engine: Engine, port: int) -> None:
        assert (await asyncio.to_thread(knock, port)).status == 101

    run(authorize, test)


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
    """As a program prints it that knows nothing of the engine's fields."""
    formatter = logging.Formatter("%(levelname)s %(message)s")
    return "\n".join(formatter.format(record) for record in records)


def test_a_failure_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Once a kind, which is an exception's type and place, and not its text; and nothing secret is shown."""
    tries = 0

    async def authorize(asked: Request) -> Grant:
        nonlocal tries
        tries += 1
        if asked.path == "/" and "x=2" in asked.query:
            raise Wrong("another place")
        raise Wrong(f"try {tries}: no {asked.token}, {asked.cookies['sid']} and {asked.headers['authorization']}")

    async def test(engine: Engine, port: int) -> None:
        nonlocal tries
        caplog.clear()
        tries = 0
        secrets = ("Authorization: Bearer t0k3n", "Cookie: sid=s3ss10n")
        for query in ("", "?x=2", "", "", "?x=2"):
            assert (await asyncio.to_thread(knock, port, f"/{query}", *secrets)).status == 503
        said = plain_log(told(caplog))
        assert said.count("the authorizer failed") == len(told(caplog)) == 2, said
        assert said.count("Traceback (most recent call last)") == 2 and __file__ in said
        assert "Wrong: try 1: no (hidden), (hidden) and" in said and "reason=Wrong: another place" in said
        assert "t0k3n" not in said and "s3ss10n" not in said

    run(authorize, test)


def test_what_a_program_takes_apart_is_secret_too() -> None:
    protocol = base64.urlsafe_b64encode(b"a token").decode().rstrip("=")
    head = (
        "GET / HTTP/1.1\r\nAuthorization: Basic dXNlcjpwYXNz\r\nCookie: a=abcd; sid=abcdefgh; b=x%20y%20z\r\n"
        f"Sec-WebSocket-Protocol: signal.v1, token.{protocol}\r\n\r\n"
    )
    question = 1, False, f"::1\n\n/\nkey=k%2B1%20k+2\n\na token\n{head}".encode()
    told = throttled_log._without(
        secrets_of(question), f"abcdefgh dXNlcjpwYXNz {protocol}|x y z|k+1 k 2|k+1 k+2|a token"
    )
    assert told.replace(throttled_log.HIDDEN, "").strip(" |") == "", told


def test_what_an_authorizer_raised_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """At level debug, of each connection."""
    caplog.set_level(logging.DEBUG, "signal_py")

    async def test(engine: Engine, port: int) -> None:
        caplog.clear()
        await asyncio.to_thread(knock, port, "/")
        said = [one.__dict__["fields"] for one in told(caplog) if one.__dict__["event"] == "refused a connection"]
        assert [fields["reason"] for fields in said] == ["Wrong"]

    run(raises, test)


def test_a_failure_that_lasts_is_counted(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a minute, which says how many there were, without the traceback again while it goes on."""
    now = [1000.0]
    monkeypatch.setattr(throttled_log.time, "monotonic", lambda: now[0])
    told = throttled_log.ThrottledLog(logging.getLogger("signal_py.test"))
    error = Wrong("the database is away")
    with contextlib.suppress(Wrong):
        raise error
    for seconds in (0, 1, 58, 2, 1, 58, 2, 200):
        now[0] += seconds
        told.add("it failed", "", error)
    fields = [(one.__dict__["fields"]["times"], bool(one.__dict__["trace"])) for one in caplog.records]
    assert fields == [(1, True), (3, False), (3, False), (1, True)]
    for number in range(10 * throttled_log.KINDS):
        told.add("it failed", f"reason {number}")
    assert len(told._kinds) == throttled_log.KINDS


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_authorizer_that_hangs(stubborn: bool) -> None:
    """It is cancelled; one that will not end is left to itself, and the next is asked all the same."""
    release = asyncio.Event()

    async def authorize(asked: Request) -> Grant:
        if asked.token == "good":
            return Grant(user="ann")
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                if not stubborn:
                    raise
        return Grant(user="late")

    async def test(engine: Engine, port: int) -> None:
        start = time.monotonic()
        knocks = [asyncio.to_thread(knock, port) for _ in range(5)]
        answers = await asyncio.gather(*knocks)
        assert [answer.status for answer in answers] == [503] * 5
        assert all(b"could not decide" in answer.body for answer in answers)
        assert 0.2 < time.monotonic() - start < 5
        assert counted(engine)["auth_failed"] == 5
        assert (await asyncio.to_thread(knock, port, "/?token=good")).status == 101
        guest = await asyncio.to_thread(Guest, port, token="good")
        assert await asyncio.to_thread(guest.ask, "AUTH bad") in ("unavailable", "timeout")
        assert await asyncio.to_thread(guest.ask, "AUTH good") == "ok"
        await asyncio.to_thread(guest.close)

    async def scenario() -> None:
        async with Engine(authorize=authorize, auth_timeout=0.4, close_timeout=0.5) as engine:
            await asyncio.wait_for(test(engine, engine.listening[0][1]), LIMIT)
            release.set()
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_program_that_blocks() -> None:
    """Nobody decides while its loop is blocked: the engine's loops refuse by themselves, and go on."""

    async def authorize(asked: Request) -> Grant:
        return Grant(user="ann")

    async def scenario() -> None:
        async with Engine(authorize=authorize, auth_timeout=0.3, close_timeout=0.5) as engine:
            port = engine.listening[0][1]
            guest = await asyncio.to_thread(Guest, port, token="t")
            knocking = asyncio.ensure_future(asyncio.to_thread(knock, port))
            await until(lambda: counted(engine)["accepted_sockets"] == 2)
            end = time.monotonic() + 1.0
            answered = 0
            while time.monotonic() < end:  # the program's loop does nothing else
                assert guest.ask(f"TO {guest.address}", "x") == "ok"
                answered += 1
            assert answered > 10
            answer = await knocking
            assert answer.status in (101, 503)
            late = await asyncio.to_thread(knock, port)
            assert late.status == 101
            guest.close()

    asyncio.run(scenario())


def test_answers_that_come_too_late() -> None:
    """The client is gone, or was refused meanwhile: the answer is for nobody, and harms nobody who came since."""
    gates: list[asyncio.Event] = []

    async def authorize(asked: Request) -> Grant:
        gate = asyncio.Event()
        gates.append(gate)
        await gate.wait()
        return Grant(user="late")

    async def test(engine: Engine, port: int) -> None:
        gates.clear()
        before = counted(engine)["auth_granted"]
        wires = [await asyncio.to_thread(Wire, port) for _ in range(10)]
        for wire in wires:
            wire.send(request("/", "Authorization: Bearer x") + frame(TEXT, b"PING"))
        await until(lambda: len(gates) == 10)
        for wire in wires:
            wire.socket.close()
        for gate in gates:
            gate.set()
        await until(lambda: counted(engine)["auth_granted"] - before == 10)
        await until(lambda: counted(engine)["connections"] == 0)
        assert counted(engine)["rooms"] == 0

    run(authorize, test, auth_timeout=30)


def test_more_wait_than_may() -> None:
    gate: list[asyncio.Event] = []

    async def authorize(asked: Request) -> Grant:
        await gate[0].wait()
        return Grant()

    async def scenario() -> None:
        gate.append(asyncio.Event())
        async with Engine(authorize=authorize, auth_pending=4, loops=1, close_timeout=0.5) as engine:
            port = engine.listening[0][1]
            knocks = [asyncio.ensure_future(asyncio.to_thread(knock, port)) for _ in range(4)]
            await until(lambda: counted(engine)["accepted_sockets"] == 4)
            await until(lambda: counted(engine)["bytes_in"] > 0)
            statuses = [(await asyncio.to_thread(knock, port)).status for _ in range(3)]
            assert statuses == [503] * 3 and counted(engine)["auth_failed"] == 3
            gate[0].set()
            assert [answer.status for answer in await asyncio.gather(*knocks)] == [101] * 4
            assert (await asyncio.to_thread(knock, port)).status == 101

    asyncio.run(scenario())


def test_who_is_gone_waits_no_more() -> None:
    """Once it is decided about, another may wait in its place."""
    asked: list[str] = []
    gate: list[asyncio.Event] = []

    async def authorize(one: Request) -> Grant:
        asked.append(one.token)
        await gate[0].wait()
        return Grant()

    async def scenario() -> None:
        gate.append(asyncio.Event())
        async with Engine(authorize=authorize, auth_pending=4, loops=1, close_timeout=0.5) as engine:
            port = engine.listening[0][1]
            wires = [await asyncio.to_thread(Wire, port) for _ in range(4)]
            for wire in wires:
                wire.send(request("/", "Authorization: Bearer x"))
            await until(lambda: len(asked) == 4)
            for wire in wires:
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                wire.socket.close()  # it is reset
            assert (await asyncio.to_thread(knock, port)).status == 503
            gate[0].set()
            end = time.monotonic() + LIMIT
            while (await asyncio.to_thread(knock, port)).status != 101:
                assert time.monotonic() < end, "they still wait"

    asyncio.run(scenario())


@pytest.mark.parametrize("bound", ["max_connections_per_address", "max_connections_per_user"])
def test_who_is_gone_before_it_is_judged_holds_no_place(bound: str) -> None:
    """Neither of its address, at once, nor of its user, when it is judged; a slot may be another's by then."""
    gates: list[asyncio.Event] = []

    async def authorize(_: Request) -> Grant:
        gates.append(asyncio.Event())
        await gates[-1].wait()
        return Grant(user="ann")

    async def scenario() -> None:
        async with Engine(authorize=authorize, loops=1, close_timeout=0.5, **{bound: 1}) as engine:
            wires = []
            for number in range(2):
                wires.append(await asyncio.to_thread(Wire, engine.listening[0][1]))
                wires[-1].send(request("/", "Authorization: Bearer x"))
                await until(lambda number=number: len(gates) > number)
                if number == 0:
                    wires[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    wires[0].socket.close()  # it is reset
                    await until(lambda: counted(engine)["input_bytes"] == 0)
            for gate in gates:
                gate.set()
            assert (await asyncio.to_thread(wires[1].read_answer)).status == 101
            assert (await engine.members("@ann")).count == 1
            wires[1].socket.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT))


def test_many_at_once_each_its_own() -> None:
    """More than run at once, in answers that come in any order."""
    running = most = 0

    async def authorize(asked: Request) -> Grant:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (hash(asked.token) % 7))
        running -= 1
        return Grant(user=asked.token)

    async def test(engine: Engine, port: int) -> None:
        from signal_py.auth.authenticators import AT_ONCE

        wires = [Wire(port) for _ in range(AT_ONCE + 100)]
        for i, wire in enumerate(wires):
            wire.send(request("/", f"Authorization: Bearer u{i}"))

        def hello(i: int, wire: Wire) -> bool:
            assert wire.read_answer().status == 101
            return f'"user":"u{i}"'.encode() in wire.read_message()[1]

        found = await asyncio.to_thread(lambda: [hello(i, wire) for i, wire in enumerate(wires)])
        assert all(found) and most <= AT_ONCE
        for wire in wires:
            wire.socket.close()

    run(authorize, test, auth_timeout=30)


def test_it_stops_while_somebody_is_judged() -> None:
    async def authorize(asked: Request) -> Grant:
        await asyncio.Event().wait()
        return Grant()

    async def scenario() -> None:
        async with Engine(authorize=authorize, auth_timeout=60, close_timeout=1) as engine:
            port = engine.listening[0][1]
            knocking = asyncio.ensure_future(asyncio.to_thread(knock, port))
            await until(lambda: counted(engine)["bytes_in"] > 0)
        assert (await knocking).status == 503

    asyncio.run(scenario())


def test_a_grant_ends() -> None:
    async def authorize(asked: Request) -> Grant:
        return Grant(user="ann", expires=time.time() + 0.4)

    async def test(engine: Engine, port: int) -> None:
        guest = await asyncio.to_thread(Guest, port)
        assert await asyncio.to_thread(guest.ended) == 1008
        assert counted(engine)["auth_expired"] == 1

    run(authorize, test, auth_grace=0)


def test_settings_that_do_not_go_together() -> None:
    async def authorize(asked: Request) -> Grant:
        return Grant()

    for settings in ({"auth": "callback"}, {"auth": "off", "authorize": authorize}):
        with contextlib.suppress(KeyError), pytest.raises(ConfigError):
            Engine(**settings)  # type: ignore[arg-type]
