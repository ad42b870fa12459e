"""Engine.rooms, members and disconnect_user: a program inspects and steers its node."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from signal_py import Engine, EngineError, Grant, Request
from signal_py.control.inspection import Member


@asynccontextmanager
async def guests(engine: Engine, names: list[str], query: str = "") -> AsyncIterator[list[ClientConnection]]:
    """A connection past HELLO for each name, which is its token."""
    made = [await connect(f"{engine.url}?token={name}{query}", compression=None) for name in names]
    for one in made:
        await one.recv()
    try:
        yield made
    finally:
        await asyncio.gather(*(one.close() for one in made))


async def authorize(request: Request) -> Grant:
    return Grant(user=request.token)


async def all_of(turn: Any) -> list[Any]:
    """All pages, in order."""
    pages = [await turn("")]
    while pages[-1].next:
        pages.append(await turn(pages[-1].next))
    return pages


def test_rooms_and_members() -> None:
    """The program is a member like any other, also if it is the only one. `@` rooms are not listed."""

    async def run() -> None:
        async with Engine(loops=2, authorize=authorize) as engine:
            for room in ("alone", "lobby", "more"):
                await engine.join(room)
            async with guests(engine, [f"u{i}" for i in range(12)], "&room=lobby&room=other") as crowd:
                assert len(crowd) == 12
                everything = {"lobby": 13, "other": 12, "alone": 1, "more": 1}
                page = await engine.rooms()
                assert (page.rooms, page.next) == (everything, "")
                pages = await all_of(lambda after: engine.rooms(1, after))
                assert max(len(one.rooms) for one in pages) == 1
                assert {name: count for one in pages for name, count in one.rooms.items()} == everything
                assert sum(len(one.rooms) for one in pages) == 4
                found = await all_of(lambda after: engine.members("lobby", 5, after))
                members = [member for one in found for member in one.members]
                assert Member(engine.address) in members and len(members) == len(set(members)) == 13
                assert {member.user for member in members} == {None, *(f"u{i}" for i in range(12))}
                assert {one.count for one in found} == {13}
                assert (await engine.members("nobody")).count == 0
                assert engine.stats()["total"]["inquiries"] > 0

    asyncio.run(run())


def test_a_page_of_rooms_is_bounded_in_bytes() -> None:
    """Each room is on one page, and no page is longer."""

    async def run() -> None:
        async with Engine(loops=1) as engine:
            names = {f"{i:03}." + "x" * 96 for i in range(30)}
            for name in names:
                await engine.join(name)
            pages = await all_of(lambda after: engine._inspect(lambda inspection: inspection.rooms(1000, after, 1000)))
            assert max(sum(len(name) + 1 for name in page.rooms) for page in pages) <= 1000
            assert sorted(name for page in pages for name in page.rooms) == sorted(names)

    asyncio.run(run())


def test_a_user_is_disconnected() -> None:
    """With the given close code. Others stay connected."""

    async def run() -> None:
        async with Engine(loops=1, authorize=authorize) as engine, guests(engine, ["bob"]) as others:
            async with guests(engine, ["ann"] * 30) as crowd:
                assert await engine.disconnect_user("ann", 4321) == 30
                for one in crowd:
                    with pytest.raises(ConnectionClosed):
                        await one.recv()
                    assert one.close_code == 4321
                assert await engine.disconnect_user("ann") == 0
            assert engine.stats()["total"]["kicked"] == 30
            assert (await engine.members("@bob")).count == 1
            await others[0].send("PING still")
            assert await others[0].recv() == "PONG still"

    asyncio.run(run())


async def bare(engine: Engine) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A cheap connection of user ann, past the beginning of HELLO."""
    host, port = engine.listening[0]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"GET /?token=ann HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"HELLO ")
    return reader, writer


def test_a_user_with_more_connections_than_one_step_closes() -> None:
    """One step closes 1,024. None is left out, and each gets 4009."""

    async def run() -> None:
        async with Engine(loops=1, authorize=authorize) as engine:
            crowd = [await bare(engine) for _ in range(1100)]
            assert await engine.disconnect_user("ann") == 1100
            assert engine.stats()["total"]["inquiries"] == 2
            for reader, writer in crowd:
                await reader.readuntil(b"\x88\x02" + (4009).to_bytes(2, "big"))
                writer.close()

    asyncio.run(run())


def test_more_rooms_than_one_step_looks_at() -> None:
    """One step looks at 4,096. Each room is listed once, also after most are gone."""

    async def run() -> None:
        async with Engine(loops=1, max_rooms=6000) as engine, guests(engine, ["ann"]) as crowd:
            names = [f"room.{i}" for i in range(5000)]
            for name in names:
                await crowd[0].send(f"SUB {name}")
            await crowd[0].send("PING end")
            assert await crowd[0].recv() == "PONG end"
            pages = await all_of(lambda after: engine.rooms(1000, after))
            assert sorted(name for page in pages for name in page.rooms) == sorted(names)
            for name in names[:4500]:
                await crowd[0].send(f"UNSUB {name}")
            await crowd[0].send("PING gone")
            assert await crowd[0].recv() == "PONG gone"
            page = await engine.rooms(1000)
            assert sorted(page.rooms) == sorted(names[4500:]) and page.next == ""

    asyncio.run(run())


def test_bad_arguments_and_a_stopped_engine() -> None:
    async def run() -> None:
        engine = Engine()
        with pytest.raises(EngineError):
            await engine.rooms()
        async with engine:
            for wrong in (
                lambda: engine.rooms(0),
                lambda: engine.rooms(1, "x"),
                lambda: engine.members("a b"),
                lambda: engine.members("a", 1, "1"),
                lambda: engine.disconnect_user(""),
                lambda: engine.disconnect_user("ann", 999),
            ):
                with pytest.raises(ValueError, match=r"is not a valid|give a limit|a close code"):
                    await wrong()  # type: ignore[no-untyped-call]
        with pytest.raises(EngineError):
            await engine.members("lobby")

    asyncio.run(run())
