"""Tries whether NATS servers accept credentials and files for TLS, before a link depends on them."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from signal_py.base.aio import with_timeout
from signal_py.base.files import CERTIFICATES_MAX, read
from signal_py.config.nats_url import Server
from signal_py.nats.credentials import Credentials
from signal_py.nats.dial import Endpoint, look
from signal_py.nats.tls import Tls

REACH_TIME = 1.5  # seconds for a server to take a TCP connection
ANSWER_TIME = 3.0  # seconds for it to accept the access then
CROWDED = "connections exceeded"  # the server's limit: a link that moves ends its old connection first


class Refused(OSError):
    """A server can be reached, but not used. The text says why."""


@dataclass(frozen=True)
class Access:
    """How NATS is used: the servers, and what they are shown."""

    servers: tuple[Server, ...]
    credentials: Credentials
    tls: Tls

    def digest(self) -> str:
        """Returns a hash of everything, with the content of the files. Blocks while it reads them."""
        found = hashlib.sha256(repr(astuple(self)).encode())
        credentials, tls = self.credentials, self.tls
        for path in (credentials.seed_file, credentials.creds_file, tls.ca, tls.cert, tls.key):
            try:
                content = read(path, CERTIFICATES_MAX) if path else b""
            except (OSError, ValueError):
                content = b""  # who uses the file says what is wrong
            found.update(hashlib.sha256(content).digest())
        return found.hexdigest()


async def attempt(server: Server, credentials: Credentials, tls: Tls, name: str) -> Endpoint:
    """Connects to a server as `name`, and closes the connection. Returns the endpoint that can be reached.

    Takes at most REACH_TIME and ANSWER_TIME. Raises Refused, or OSError if it can't be reached.
    """
    try:
        endpoint = await with_timeout(look(server), REACH_TIME)
    except asyncio.TimeoutError:
        raise OSError("the NATS server does not answer") from None
    await asyncio.to_thread(importlib.import_module, "signal_py.nats.client")  # takes 40 ms the first time
    from signal_py.nats.client import NatsError, close, connect

    try:
        work = connect(server, credentials, tls, name, lambda text: None, lambda: None)
        await close(await with_timeout(work, ANSWER_TIME))
    except asyncio.TimeoutError:
        raise Refused("no answer") from None
    except NatsError as error:
        if CROWDED not in str(error).lower():
            raise Refused(str(error)) from None
    return endpoint


async def refusals(access: Access, name: str) -> list[tuple[Server, str]]:
    """Tries every server at once. Returns those that refuse the access, each with the reason."""
    attempts = [attempt(server, access.credentials, access.tls, name) for server in access.servers]
    results: Sequence[Endpoint | BaseException] = await asyncio.gather(*attempts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, OSError):
            raise result
    pairs = zip(access.servers, results, strict=True)
    return [(server, str(result)) for server, result in pairs if isinstance(result, Refused)]
