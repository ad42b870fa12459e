"""nats-py with blocking calls, on another thread, for tests with blocking WebSocket clients."""

import asyncio
import threading
from collections.abc import Coroutine
from queue import Queue
from typing import Any, TypeVar

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from typing_extensions import Self

from wire import LIMIT

T = TypeVar("T")


class Bus:
    """A NATS client that uses no code of the engine."""

    def __init__(self, url: str, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.client: Client = self.run(nats.connect(url, reconnect_time_wait=0.1, **options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(LIMIT)

    def subscribe(self, subject: str) -> "Queue[Msg]":
        """A queue of the messages from now on: the server has the subscription when this returns."""
        queue: Queue[Msg] = Queue()

        async def keep(msg: Msg) -> None:
            queue.put(msg)

        self.run(self.client.subscribe(subject, cb=keep))
        self.flush()
        return queue

    def publish(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        self.run(self.client.publish(subject, data, reply=reply, headers=headers))

    def request(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> Msg:
        """The first answer; nats.errors.NoRespondersError if nobody listens."""
        return self.run(self.client.request(subject, data, timeout=LIMIT, headers=headers))

    def flush(self) -> None:
        """Returns when the server has all that was published and subscribed."""
        self.run(self.client.flush())
