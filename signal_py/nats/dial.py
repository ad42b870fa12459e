"""Which of several servers can be reached: tried one beside the other, as RFC 8305 (Happy Eyeballs) does.

One that can't be reached costs a quarter of a second, not the seconds until that is sure. What is found here the core's
loop then dials by itself, since the loops have descriptors of their own.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from signal_py.base.aio import cancel_and_wait, in_thread, with_timeout
from signal_py.config.nats_url import Server

STAGGER = 0.25  # seconds from one attempt to the next (RFC 8305 §5); a failure begins the next at once
RESOLVE_TIMEOUT = 5.0  # seconds
CONNECT_TIMEOUT = 5.0  # seconds
MAX_ADDRESSES = 8  # of one name

T = TypeVar("T")


class Endpoint(NamedTuple):
    """A server at one of its addresses."""

    server: Server
    family: int
    ip: str


async def endpoints_of(server: Server) -> list[Endpoint]:
    """Its addresses. Raises OSError where its name is not known here, or nobody answers in time."""
    try:
        # The loop's own resolver, which may be another than asyncio's, would hold the engine's end up.
        look_up = partial(socket.getaddrinfo, server.host, server.port, type=socket.SOCK_STREAM)
        found = await with_timeout(in_thread(look_up), RESOLVE_TIMEOUT)
    except (OSError, RuntimeError, UnicodeError, asyncio.TimeoutError) as error:
        raise OSError(f"its host name can't be resolved: {error or 'no answer'}") from None
    endpoints = dict.fromkeys(Endpoint(server, int(family), str(where[0])) for family, _, _, _, where in found)
    return [endpoint for endpoint in endpoints if "%" not in endpoint.ip][:MAX_ADDRESSES]


async def reach(endpoint: Endpoint) -> Endpoint:
    """The same endpoint once a TCP connection to it was had, which is closed again. Raises OSError."""
    probe = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        where = (endpoint.ip, endpoint.server.port)
        await with_timeout(asyncio.get_running_loop().sock_connect(probe, where), CONNECT_TIMEOUT)
    except asyncio.TimeoutError:
        raise OSError("the NATS server does not answer") from None
    except ConnectionRefusedError:
        raise OSError("the NATS server refuses the connection") from None
    finally:
        probe.close()
    return endpoint


async def race(attempts: Sequence[Callable[[], Awaitable[T]]]) -> T:
    """The result of the first attempt that has one; the others are ended. Raises OSError, the last one's, where all
    fail."""
    waiting = deque(attempts)
    running: set[asyncio.Future[T]] = set()
    reason = OSError("it has no address")
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(waiting.popleft()()))
            timeout = STAGGER if waiting else None
            done, running = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            errors = {attempt: attempt.exception() for attempt in done}  # asyncio logs those that nobody asks for
            for attempt, error in errors.items():
                if error is None:
                    return attempt.result()
                if not isinstance(error, OSError):
                    raise error
                reason = error
        raise reason
    finally:
        for attempt in running:
            await cancel_and_wait(attempt)
            if not attempt.cancelled():
                attempt.exception()
