"""The embedding program authorizes clients: the Request that it gets, the Grant or Refusal that it returns."""

import asyncio
import functools
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from minted import Guest, knock
from signal_py import ConfigError, Engine, Grant, Refusal, Request

from .authorizers import counted, logged, plain, run


def test_requests_and_grants() -> None:
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
        expected = Request("secret", "127.0.0.1", "https://app.example.org", "/", "room=a.x&x=1")
        assert seen == [expected] and "secret" not in repr(seen[0])
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
    ("forwarded", "remote"),
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
def test_trusted_proxies(forwarded: list[str], remote: str) -> None:
    seen: list[str] = []

    async def authorize(asked: Request) -> Grant:
        seen.append(asked.remote)
        return Grant()

    async def test(engine: Engine, port: int) -> None:
        seen.clear()
        lines = [f"X-Forwarded-For: {line}" for line in forwarded]
        assert (await asyncio.to_thread(knock, port, "/", *lines)).status == 101
        assert seen == [remote]

    run(authorize, test, trusted_proxies=["127.0.0.0/8", "10.0.0.0/8", "2001:db8:ffff::/48"])


def test_a_session_cookie_authorizes() -> None:
    """Among other cookies, in several headers, in a long head."""

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


@pytest.mark.parametrize("status", [401, 403])
def test_refusals(status: int) -> None:
    async def authorize(asked: Request) -> Refusal:
        return Refusal("not today", status)

    async def test(engine: Engine, port: int) -> None:
        answer = await asyncio.to_thread(knock, port)
        assert answer.status == status and b"today" not in answer.body
        assert counted(engine)["auth_refused"] == 1

    run(authorize, test)


def test_a_grant_ends() -> None:
    async def authorize(asked: Request) -> Grant:
        return Grant(user="ann", expires=time.time() + 0.4)

    async def test(engine: Engine, port: int) -> None:
        guest = await asyncio.to_thread(Guest, port)
        assert await asyncio.to_thread(guest.ended) == 1008
        assert counted(engine)["auth_expired"] == 1

    run(authorize, test, auth_grace=0)


@functools.wraps(plain)
def wrapped(asked: Request) -> Grant:
    return plain(asked)


class Plain:
    def method(self, asked: Request) -> Grant:
        return plain(asked)

    def __call__(self, asked: Request) -> Grant:
        return plain(asked)


@pytest.mark.parametrize("authorize", [plain, Plain(), Plain().method, functools.partial(plain), wrapped])
def test_an_authorizer_that_is_not_async(authorize: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A plain function may return an awaitable, so only its first call shows the error: one line, no traceback."""

    async def test(engine: Engine, port: int) -> None:
        caplog.clear()
        assert (await asyncio.to_thread(knock, port)).status == 503
        reason = "it returned Grant instead of a coroutine: make it an `async def`"
        assert [one.message for one in logged(caplog)] == [f"the authorizer failed  reason={reason}  times=1"]

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
def test_anything_that_returns_an_awaitable_is_an_authorizer(authorize: Any) -> None:
    async def test(engine: Engine, port: int) -> None:
        assert (await asyncio.to_thread(knock, port)).status == 101

    run(authorize, test)


def test_settings_that_contradict_each_other() -> None:
    async def authorize(asked: Request) -> Grant:
        return Grant()

    for settings in ({"auth": "callback"}, {"auth": "off", "authorize": authorize}):
        with pytest.raises(ConfigError):
            Engine(**settings)  # type: ignore[arg-type]
