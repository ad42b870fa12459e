"""Finds a server that can be reached: staggered attempts in parallel, as in RFC 8305 (Happy Eyeballs).

A server that does not answer delays the others by a quarter of a second, not by its timeout. The core's loop then dials
the endpoint itself, since loops may have descriptor tables of their own.
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
from signal_py.nats.servers import Pool

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
    """Resolves a server's name. Raises OSError if that fails or takes longer than RESOLVE_TIMEOUT."""
    try:
        # Not asyncio's resolver, whose threads the end of the loop waits for.
        look_up = partial(socket.getaddrinfo, server.host, server.port, type=socket.SOCK_STREAM)
        found = await with_timeout(in_thread(look_up), RESOLVE_TIMEOUT)
    except (OSError, RuntimeError, UnicodeError, asyncio.TimeoutError) as error:
        raise OSError(f"its host name can't be resolved: {error or 'no answer'}") from None
    endpoints = dict.fromkeys(Endpoint(server, int(family), str(where[0])) for family, _, _, _, where in found)
    return [endpoint for endpoint in endpoints if "%" not in endpoint.ip][:MAX_ADDRESSES]


async def reach(endpoint: Endpoint) -> Endpoint:
    """Opens a TCP connection to an endpoint, closes it, and returns the endpoint. Raises OSError."""
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
    """Returns the first result; cancels the other attempts. If all fail, raises the OSError of the last one."""
    waiting = deque(attempts)
    running: set[asyncio.Future[T]] = set()
    reason = OSError("it has no address")
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(waiting.popleft()()))
            timeout = STAGGER if waiting else None
            done, running = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            errors = {attempt: attempt.exception() for attempt in done}  # asyncio logs exceptions that nobody retrieves
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


async def look(server: Server) -> Endpoint:
    """Returns the first endpoint of a server that answers. Raises OSError."""
    return await race([partial(reach, endpoint) for endpoint in await endpoints_of(server)])


class Dialler:
    """Chooses the endpoints to dial.

    failed  those that failed in this round
    reason  why the last dial failed or the last connection ended
    """

    def __init__(self) -> None:
        self.failed: set[Endpoint] = set()
        self.reason = ""

    async def choose(self, pool: Pool) -> Endpoint:
        """Returns the first endpoint of the round that answers. A single one is not tried beforehand.

        Raises OSError when the round is over.
        """
        reason = OSError(self.reason)
        while servers := pool.left():
            alone = len(servers) == 1
            try:
                return await race([partial(self._reach, pool, server, alone) for server in servers])
            except OSError as error:
                reason = error
        raise reason

    async def _reach(self, pool: Pool, server: Server, alone: bool) -> Endpoint:
        """Returns the first endpoint of a server that answers; else drops it from the round and raises OSError."""
        try:
            endpoints = [endpoint for endpoint in await endpoints_of(server) if endpoint not in self.failed]
            if alone and len(endpoints) == 1:
                return endpoints[0]
            if not endpoints:
                raise OSError(self.reason)
            return await race([partial(reach, endpoint) for endpoint in endpoints])
        except OSError:
            pool.drop(server)
            raise
