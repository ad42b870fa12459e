"""What an embedding program does in tests: blocking clients beside its asyncio loop, and its own messages."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from signal_py import Engine, Message
from wire import LIMIT, until

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *arguments: Any) -> T:
    """A blocking client's call, in a thread, so that the program's loop runs on."""
    return await asyncio.wait_for(asyncio.to_thread(call, *arguments), 2 * LIMIT)


async def come(condition: Callable[[], T]) -> T:
    """`until`, without blocking the program's loop."""
    return await in_thread(until, condition)


def port_of(engine: Engine) -> int:
    """The port of an engine that listens on 127.0.0.1."""
    (host, port), *_ = engine.listening
    assert host == "127.0.0.1" and engine.url == f"ws://127.0.0.1:{port}/"
    return port


async def next_of(messages: Any) -> Message:
    """The next message that the program receives."""
    return await asyncio.wait_for(anext(messages), LIMIT)


class AnyRef:
    """Equal to every ref."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and 1 <= len(other) <= 16 and other.isalnum()

    __hash__ = None  # type: ignore[assignment]


ANY_REF: Any = AnyRef()
