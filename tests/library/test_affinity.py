"""An engine is used on its asyncio loop, in its thread and its process; elsewhere it raises a clear error."""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import kit
from peers import BarePeer
from signal_py import Engine, EngineError
from signal_py.control import Control
from wire import LIMIT

CALLS: dict[str, Callable[[Engine], Any]] = {
    "start": lambda engine: engine.start(),
    "stop": lambda engine: engine.stop(),
    "drain": lambda engine: engine.drain(),
    "reload": lambda engine: engine.reload(max_rooms=5),
    "ended": lambda engine: engine.ended(),
    "send": lambda engine: engine.send(engine.address, "x", receipt=True),
    "publish": lambda engine: engine.publish("room", "x"),
    "join": lambda engine: engine.join("room"),
    "leave": lambda engine: engine.leave("room"),
    "rooms": lambda engine: engine.rooms(),
    "members": lambda engine: engine.members("room"),
    "disconnect": lambda engine: engine.disconnect("a.b"),
    "disconnect_user": lambda engine: engine.disconnect_user("ann"),
    "messages": lambda engine: engine.messages(),
}


def error_of(call: Callable[[Engine], Any], engine: Engine, loop: bool) -> str:
    """The EngineError of a call on another loop, or without a loop; "" if it raises none."""

    async def on_it() -> None:
        made = call(engine)
        if asyncio.iscoroutine(made):
            await made

    try:
        if loop:
            asyncio.run(on_it())
        else:
            made = call(engine)
            if asyncio.iscoroutine(made):
                made.send(None)
    except EngineError as error:
        return str(error)
    return ""


def test_each_method_raises_on_another_loop() -> None:
    methods = {name for name in vars(Engine) if not name.startswith("_") and callable(getattr(Engine, name))}
    assert set(CALLS) == methods - {"stats"}

    async def main() -> None:
        async with Engine(loops=1, close_timeout=0.2) as engine:
            for name, call in CALLS.items():
                for loop in (True, False):
                    error = await asyncio.to_thread(error_of, call, engine, loop)
                    assert "another thread" in error and "run_coroutine_threadsafe" in error, (name, loop, error)
            assert (await asyncio.to_thread(engine.stats))["state"] == "running"
            assert await asyncio.to_thread(lambda: engine.url) == engine.url
            await engine.send(engine.address, "unharmed", receipt=True)
            loop = asyncio.get_running_loop()
            handed = await asyncio.to_thread(asyncio.run_coroutine_threadsafe, engine.publish("room", "x"), loop)
            await asyncio.wrap_future(handed)

    asyncio.run(main())


def test_messages_are_read_on_its_loop() -> None:
    async def main() -> None:
        async with Engine(loops=1, close_timeout=0.2) as engine:
            messages = engine.messages()

            async def read() -> None:
                await anext(messages)

            with pytest.raises(EngineError, match="another asyncio loop"):
                await asyncio.to_thread(asyncio.run, read())

    asyncio.run(main())


def test_an_engine_whose_loop_is_closed() -> None:
    """It can be stopped from another loop, and nothing else."""

    async def start() -> Engine:
        engine = Engine(loops=1, close_timeout=0.2)
        await engine.start()
        return engine

    async def after(engine: Engine) -> None:
        with pytest.raises(EngineError, match="closed: make a new one"):
            await engine.send(engine.address, "x")
        with pytest.raises(EngineError, match="closed: make a new one"):
            await engine.drain()
        await engine.stop()
        assert engine.stats()["state"] == "stopped"

    asyncio.run(after(asyncio.run(start())))


def in_child(work: Callable[[], int]) -> int:
    """The exit status of a forked child that returns what `work` returns; 99 if it raises."""
    child = os.fork()
    if not child:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


async def answers(engine: Engine) -> bool:
    peer = await asyncio.to_thread(BarePeer, engine.listening[0][1])
    answer = await asyncio.to_thread(peer.ask, f"TO {peer.address}", "x")
    await asyncio.to_thread(peer.close)
    return answer == "ok"


def run_forked(test: Callable[[], None]) -> None:
    """Runs a test in a process with one thread, as one that forks should be."""
    done = []
    thread = threading.Thread(target=lambda: done.append(in_child(lambda: test() or 0)))
    thread.start()
    thread.join(3 * LIMIT)
    assert done == [0]


def test_an_engine_made_before_a_fork_starts_in_children() -> None:
    """In each child as another node, and then in the parent."""

    async def use(engine: Engine) -> str:
        async with engine:
            assert await answers(engine)
            return engine.node

    def child(engine: Engine, names: int) -> int:
        os.write(names, (asyncio.run(use(engine)) + "\n").encode())
        return 0

    def parent() -> None:
        engine = Engine(loops=1, close_timeout=0.2)
        before = engine.node
        reads, writes = os.pipe()
        assert [in_child(lambda: child(engine, writes)) for _ in range(2)] == [0, 0]
        nodes = {*os.read(reads, 100).decode().split(), before}
        assert len(nodes) == 3
        assert asyncio.run(use(engine)) == before

    run_forked(parent)


def test_a_running_engine_raises_in_a_child_and_goes_on_in_the_parent() -> None:
    async def main() -> None:
        async with Engine(loops=2, nats="off", close_timeout=0.2) as engine:

            def child() -> int:
                errors = [error_of(call, engine, False) for call in CALLS.values()]
                return sum("made by fork()" not in text for text in errors)

            assert await asyncio.to_thread(in_child, child) == 0
            for _ in range(3):
                assert await answers(engine)

    asyncio.run(main())


def test_a_control_raises_on_another_loop_and_in_a_child() -> None:

    async def main() -> None:
        with kit.nats() as server:
            async with Control(nats=server.url, timeout=0.5) as control:

                def elsewhere() -> str:
                    with pytest.raises(EngineError) as error:
                        asyncio.run(control.nodes())
                    with pytest.raises(EngineError):
                        asyncio.run(control.close())
                    return str(error.value)

                error = await asyncio.to_thread(elsewhere)
                assert error.startswith("A Control must be used on the asyncio loop") and "another thread" in error

                def child() -> int:
                    with pytest.raises(EngineError, match=r"A Control .* fork\(\)"):
                        control.nodes().send(None)
                    return 0

                assert await asyncio.to_thread(in_child, child) == 0
                assert await control.nodes() == []

    asyncio.run(main())
