"""A node as a micro service on NATS: answers PING, INFO, STATS and the commands of operators (docs/control.md).

It runs on the control thread. While the engine's link is up, it has a second connection to the same server. The
requests on a subject are handled one after another; blocking work runs on other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from signal_py.base.aio import cancel_and_wait
from signal_py.base.log import event
from signal_py.config.nats_url import Server
from signal_py.control.wire import (
    COMMANDS,
    SERVICE,
    VERSION,
    Fields,
    WireError,
    answer,
    command_of,
    parse_request,
    semver,
    subject,
)
from signal_py.nats.credentials import Credentials
from signal_py.nats.servers import FIRST_DELAY, LAST_DELAY
from signal_py.nats.tls import Tls

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.micro.request import Request

FAILURES = 3  # in a row until a warning, since the link may not have noticed yet that NATS is away
MAX_ERRORS = 100  # different errors that are logged for one connection
STATUS = {
    "bad-request": "400",
    "unknown-command": "404",
    "bad-settings": "422",
    "unavailable": "503",
    "unsupported-version": "505",
}

NAMES = 64 * 1024  # maximum bytes of names in an answer
JSON_SHARE = 8  # ... and at most this part of NATS's max_payload, since JSON needs more bytes

Command = Callable[[Fields, int], Awaitable[Mapping[str, object]]]

logger = logging.getLogger(__name__)


class _Metadata(dict[str, str]):
    """The metadata of a micro service, computed anew whenever it is encoded as JSON."""

    def __init__(self, compute: Callable[[], Mapping[str, str]]) -> None:
        super().__init__(compute())
        self._compute = compute

    def items(self) -> Any:
        """Called by json.dumps."""
        return self._compute().items()


class ControlServer:
    """Answers operators while the link is up. For the control thread only."""

    def __init__(
        self,
        node: str,
        version: str,
        prefix: str,
        commands: Mapping[str, Command],
        about: Callable[[], Mapping[str, str]],
        credentials: Credentials,
        tls: Tls,
    ) -> None:
        """Starts nothing yet.

        commands  for each of COMMANDS, makes the fields of an answer from those of a request and the maximum bytes of
                  names; raises WireError
        about     further metadata of the node
        """
        self._node = node
        self._version = version
        self._prefix = prefix
        self._commands = commands
        self._about = about
        self._credentials = credentials
        self._tls = tls
        self._server: Server | None = None
        self._changed = asyncio.Event()  # another server, or the connection has ended
        self._most = 0  # maximum bytes of names in an answer
        self._failed = 0  # connection attempts that failed in a row
        self._reported: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def use(self, credentials: Credentials, tls: Tls) -> None:
        """Takes other credentials and files for TLS, for the next connection."""
        self._credentials, self._tls = credentials, tls

    def follow(self, server: Server | None) -> None:
        """Takes the server that the link is now connected to; None if it is not connected."""
        self._server = server
        self._changed.set()
        if server is not None and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Closes the connection, and connects no more."""
        if self._task is not None:
            await cancel_and_wait(self._task)

    async def _run(self) -> None:
        delay = FIRST_DELAY
        while True:
            while self._server is None:
                await self._wait()
            begun = time.monotonic()
            try:
                if await self._serve(self._server) and time.monotonic() - begun > LAST_DELAY:
                    delay = FIRST_DELAY  # not for a server that ends the connection at once
            except Exception:
                logger.exception("the control plane failed; trying again")
            await asyncio.sleep(random.uniform(0.0, delay))
            delay = min(2 * delay, LAST_DELAY)

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _serve(self, server: Server) -> bool:
        """Answers through one server until the connection ends. Returns False if it could not connect."""
        await asyncio.to_thread(importlib.import_module, "signal_py.nats.client")  # takes 40 ms the first time
        from signal_py.nats.client import NatsError, close, connect

        self._reported.clear()
        name = f"{SERVICE} {self._node} control"
        try:
            client = await connect(server, self._credentials, self._tls, name, self._report_error, self._changed.set)
        except NatsError as error:
            self._failed += 1
            level = "warning" if self._failed == FAILURES else "debug"
            event(logger, level, "the control plane is away", server=server.where, reason=str(error))
            return False
        self._failed = 0
        try:
            await self._offer(client)
            event(logger, "debug", "the control plane is connected", server=server.where)
            while client.is_connected and self._server is server:
                await self._wait()
        except Exception as error:  # nats-py raises many kinds when the connection ends
            event(logger, "debug", "the control plane is interrupted", server=server.where, reason=str(error))
        finally:
            await close(client)
        return True

    async def _offer(self, client: Client) -> None:
        """Adds the endpoints. Each node has its own queue group, since micro services require one."""
        from nats.micro import add_service

        self._most = min(NAMES, client.max_payload // JSON_SHARE)
        service = await add_service(
            client,
            name=SERVICE,
            version=semver(self._version),
            description="a signal-engine node",
            queue_group=self._node,
            metadata=_Metadata(self._metadata),
        )
        for command in COMMANDS:
            for node in ("", self._node):
                await service.add_endpoint(
                    name=f"{command}-node" if node else command,
                    subject=subject(self._prefix, command, node),
                    handler=partial(self._handle, command),
                )
        for node in ("", self._node):
            await client.subscribe(subject(self._prefix, "*", node), cb=self._refuse_unknown)
        await client.flush()

    def _metadata(self) -> Mapping[str, str]:
        """Returns the metadata in the answer to PING."""
        own = {"node": self._node, "prefix": self._prefix, "version": self._version, "control": str(VERSION)}
        return own | dict(self._about())

    async def _handle(self, command: str, request: Request) -> None:
        try:
            fields = parse_request(command, request.data)
            data, error = answer(self._node, **await self._commands[command](fields, self._most)), None
        except WireError as wrong:
            data, error = answer(self._node, error=wrong.code, text=str(wrong)), wrong
        except Exception:
            logger.exception("a request of the control plane failed")
            error = WireError("unavailable", "the node failed to do this: see its log")
            data = answer(self._node, error=error.code, text=str(error))
        with contextlib.suppress(ValueError):  # the request has no reply subject
            if error is None:
                await request.respond(data)
            else:
                await request.respond_error(STATUS[error.code], str(error), data)

    async def _refuse_unknown(self, message: Msg) -> None:
        """Answers a command that has no endpoint; the client may be newer than this node."""
        from nats.micro.request import Request

        command = command_of(message.subject, self._prefix)
        if command not in COMMANDS:
            await self._handle(command, Request(message))

    def _report_error(self, text: str) -> None:
        if text not in self._reported and len(self._reported) < MAX_ERRORS:
            self._reported.add(text)
            event(logger, "warning", "NATS reported an error to the control plane", error=text)
