"""An Engine's start and stop in a busy program: cancelled, at once, twice, while sends wait."""

import asyncio
import concurrent.futures
import contextlib
import gc
import signal
import socket
import threading
import types
from typing import Any

import pytest

from peers import BarePeer
from signal_py import ConfigError, DeliveryError, Engine, EngineError
from signal_py.base import aio
from wire import LIMIT


async def refuses(engine: Engine) -> None:
    """Asserts that every method of an engine that has ended raises."""
    for call in (engine.publish("room", b"x"), engine.send("a.b", b"x"), engine.join("room"), engine.leave("room")):
        with pytest.raises(EngineError):
            await call
    with pytest.raises(EngineError):
        engine.messages()
    with pytest.raises(EngineError):
        await engine.start()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def silent() -> socket.socket:
    """A NATS server that accepts connections and sends nothing, so that a start waits for it."""
    return socket.create_server(("127.0.0.1", 0))


def test_several_stops_at_once_and_again() -> None:
    async def main() -> None:
        engine = Engine(close_timeout=0.2, loops=1)
        await engine.start()
        port = engine.listening[0][1]
        await asyncio.gather(engine.stop(), engine.stop(), engine.stop())
        await engine.stop()
        assert engine.stats()["state"] == "stopped" and is_free(port)
        await refuses(engine)

    asyncio.run(main())


def test_an_engine_that_was_stopped_does_not_start() -> None:
    async def main() -> None:
        engine = Engine()
        await engine.stop()
        await refuses(engine)

    asyncio.run(main())


@pytest.mark.parametrize("by", ["stop", "cancel", "both"])
def test_a_start_is_given_up(by: str) -> None:
    """By a stop from elsewhere, or by being cancelled. The engine does not run afterwards, nor wait for NATS."""

    async def main(nats: str, port: int) -> None:
        engine = Engine(listen=f"127.0.0.1:{port}", nats=nats, loops=1, close_timeout=0.2)
        starting = asyncio.ensure_future(engine.start())
        while engine.stats()["nats_state"] != "connecting" or is_free(port):
            assert not starting.done()
            await asyncio.sleep(0.01)
        began = asyncio.get_running_loop().time()
        if by != "stop":
            starting.cancel()
        if by != "cancel":
            await engine.stop()
        with pytest.raises(EngineError if by == "stop" else asyncio.CancelledError):
            await starting
        assert asyncio.get_running_loop().time() - began < 4
        assert engine.stats()["state"] == "stopped" and is_free(port)
        await refuses(engine)

    with silent() as server, socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        held.close()
        asyncio.run(main(f"nats://127.0.0.1:{server.getsockname()[1]}", port))


def test_a_stop_just_after_the_start_began() -> None:
    """At any step of the start."""

    async def main() -> None:
        for turns in range(6):
            engine = Engine(loops=1, close_timeout=0.2)
            starting = asyncio.ensure_future(engine.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            await engine.stop()
            with pytest.raises(EngineError):
                await starting
            assert engine.stats()["state"] == "stopped"

    asyncio.run(main())


def test_a_cancelled_stop_goes_on() -> None:
    async def main() -> None:
        engine = Engine(loops=1, close_timeout=0.2)
        await engine.start()
        stopping = asyncio.ensure_future(engine.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await asyncio.wait_for(engine.stop(), LIMIT)
        assert engine.stats()["state"] == "stopped"

    asyncio.run(main())


def test_a_stop_goes_on_if_the_program_cancels_all_tasks() -> None:
    """As asyncio.run does at an interrupt. Its NATS server ends, too, and nothing listens."""

    async def main() -> None:
        for steps in range(8):
            engine = Engine(nats="embedded", loops=1, close_timeout=0.2, admin="127.0.0.1:0")
            await engine.start()
            assert engine.admin_address is not None and engine.nats_url
            ports = [engine.listening[0][1], engine.admin_address[1], int(engine.nats_url.rpartition(":")[2])]
            stopping = asyncio.ensure_future(engine.stop())
            for _ in range(steps):
                await asyncio.sleep(0.01 if steps > 4 else 0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stopping
            await asyncio.wait_for(engine.stop(), LIMIT)
            await asyncio.wait_for(engine.ended(), LIMIT)
            assert engine.stats()["state"] == "stopped" and all(is_free(port) for port in ports)

    asyncio.run(main())


def test_a_program_that_ends_while_a_stop_begins() -> None:
    """asyncio.run cancels a stop that has not begun. The engine stops all the same."""
    ports = []

    async def serve(here: asyncio.Event) -> None:
        async with Engine(loops=1, close_timeout=0.2) as engine:
            ports.append(engine.listening[0][1])
            here.set()
            await asyncio.Event().wait()

    async def main() -> None:
        here = asyncio.Event()
        serving = asyncio.ensure_future(serve(here))
        await here.wait()
        serving.cancel()

    asyncio.run(main())
    assert is_free(ports[0])


def test_a_stop_when_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoneLeft(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    async def main() -> None:
        engine = Engine(loops=1, close_timeout=0.2)
        await engine.start()
        monkeypatch.setattr(aio, "threading", types.SimpleNamespace(Thread=NoneLeft))
        await asyncio.wait_for(engine.stop(), LIMIT)
        assert engine.stats()["state"] == "stopped"
        await refuses(engine)

    asyncio.run(main())


def test_a_drain_can_begin_again_after_it_was_cancelled() -> None:
    async def main() -> None:
        engine = Engine(loops=1, close_timeout=0.2, drain_time=0.2)
        await engine.start()
        draining = asyncio.ensure_future(engine.drain())
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        assert engine.stats()["state"] == "running"
        await asyncio.wait_for(engine.drain(), LIMIT)
        assert engine.stats()["state"] == "stopped"

    asyncio.run(main())


def test_a_program_whose_threads_are_all_busy() -> None:
    """Those of asyncio's default executor: the engine does not need them."""
    busy = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        loop.run_in_executor(None, busy.wait)

        async def use() -> None:
            async with Engine(loops=1, drain_time=0.1, close_timeout=0.2) as engine:
                await engine.drain()

        using = asyncio.ensure_future(use())
        done, _ = await asyncio.wait({using}, timeout=LIMIT)
        busy.set()
        assert done
        using.result()

    asyncio.run(main())


@pytest.mark.parametrize("first", ["drain", "stop"])
def test_a_drain_and_a_stop_at_once(first: str) -> None:
    """Neither raises, in whatever order their threads begin, and the engine stops."""
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        for steps in range(6):
            engine = Engine(loops=1, close_timeout=0.2, drain_time=30)
            await engine.start()
            draining = asyncio.ensure_future(engine.drain()) if first == "drain" else None
            stopping = asyncio.ensure_future(engine.stop())
            draining = draining or asyncio.ensure_future(engine.drain())
            for _ in range(steps):
                await asyncio.sleep(0)
            await asyncio.wait_for(asyncio.gather(draining, stopping), LIMIT)
            await asyncio.to_thread(engine._runtime.drain)  # as if its thread were slow to begin
            assert engine.stats()["state"] == "stopped"
            await refuses(engine)

    asyncio.run(main())
    assert not complaints


def test_a_cancelled_start_that_fails_is_silent() -> None:
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        with socket.create_server(("127.0.0.1", 0)) as other:
            for steps in range(6):
                engine = Engine(listen=f"127.0.0.1:{other.getsockname()[1]}")
                starting = asyncio.ensure_future(engine.start())
                for _ in range(steps):
                    await asyncio.sleep(0)
                starting.cancel()
                with pytest.raises((asyncio.CancelledError, ConfigError)):
                    await starting
                del engine, starting
                gc.collect()

    asyncio.run(main())
    assert not complaints


def test_a_cancelled_send_is_cancelled() -> None:
    """Also at the moment at which its receipt comes: nothing waits for it for ever."""

    async def main() -> None:
        async with Engine(loops=1) as engine:
            taken = 0
            for steps in range(100):
                sending = asyncio.ensure_future(engine.send(engine.address, b"x", receipt=True))
                for _ in range(steps % 20):
                    await asyncio.sleep(0)
                cancelling = sending.cancel()
                await asyncio.wait({sending}, timeout=LIMIT)
                assert sending.cancelled() == cancelling, steps
                taken += cancelling
            assert taken

    asyncio.run(main())


def test_a_start_that_fails_leaves_nothing() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            engine = Engine(listen=f"127.0.0.1:{other.getsockname()[1]}")
            with pytest.raises(ConfigError, match="listen"):
                await engine.start()
            assert engine.stats()["state"] == "stopped"
            await refuses(engine)

    asyncio.run(main())


def test_sends_that_wait_fail_at_a_stop() -> None:
    """And reading messages ends."""

    async def main() -> None:
        engine = Engine(loops=1, close_timeout=0.2, backlog_messages=1000)
        await engine.start()
        peer = await asyncio.to_thread(BarePeer, engine.listening[0][1], receive_buffer=4096)
        reading = asyncio.ensure_future(anext(engine.messages(), None))
        waiting: list[asyncio.Future[None]] = []
        while len(waiting) < 1 or waiting[-1].done():  # until its socket takes no more
            waiting = [asyncio.ensure_future(engine.send(peer.address, b"x" * 60_000, receipt=True))]
            await asyncio.wait(waiting, timeout=0.3)
        await engine.stop()
        with pytest.raises(DeliveryError) as refused:
            await waiting[0]
        assert refused.value.code in ("no-such-peer", "unavailable")
        assert await asyncio.wait_for(reading, LIMIT) is None
        peer.vanish()

    asyncio.run(main())


def test_signal_handlers_and_limits_of_the_process_stay() -> None:
    """An error in a message handler is logged, and the engine goes on."""
    import resource

    def handlers() -> list[Any]:
        return [signal.getsignal(number) for number in signal.valid_signals()]

    async def main() -> None:
        received: list[Any] = []

        def fail(message: Any) -> None:
            received.append(message.data)
            raise ValueError(message.data)

        before = handlers(), resource.getrlimit(resource.RLIMIT_NOFILE)
        async with Engine(loops=1, on_message=fail) as engine:
            assert (handlers(), resource.getrlimit(resource.RLIMIT_NOFILE)) == before
            for text in ("1", "2"):
                await engine.send(engine.address, text, receipt=True)
            assert received == ["1", "2"]
        assert handlers() == before[0]

    asyncio.run(main())


@pytest.mark.parametrize("waits", [False, True])
def test_a_handler_that_fails_is_logged_once(waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback, for however many messages it fails."""

    async def main() -> None:
        received: list[Any] = []

        def fail(message: Any) -> Any:
            received.append(message.data)
            if waits:
                return fail_later(message)
            raise ValueError(message.data)

        async def fail_later(message: Any) -> None:
            raise ValueError(message.data)

        async with Engine(loops=1, on_message=fail) as engine:
            for number in range(50):
                await engine.send(engine.address, f"number {number}", receipt=True)
            assert len(received) == 50
        lines = [one.getMessage() for one in caplog.records if "a handler of the embedding program" in one.getMessage()]
        assert len(lines) == 1 and "ValueError: number 0" in lines[0] and "Traceback" in lines[0], lines

    asyncio.run(main())


@pytest.mark.parametrize("data", [5, [1, 2], None])
def test_data_of_another_type_is_a_type_error(data: Any) -> None:
    async def main() -> None:
        async with Engine(loops=1) as engine:
            with pytest.raises(TypeError):
                await engine.publish("room", data)
            for good in (b"x", bytearray(b"x"), memoryview(b"x"), "x"):
                await engine.publish("room", good)

    asyncio.run(main())
