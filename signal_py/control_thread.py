"""The control thread: decides which NATS server the link dials, and what CONNECT says.

The core's loop connects, moves the bytes and sends mails (`control_drain`), which are answered here. Messages of
clients never pass through this thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from signal_py.auth.authenticators import Authenticator
from signal_py.base.aio import DAEMON_THREADS, cancel_and_wait
from signal_py.base.errors import EngineError
from signal_py.base.log import event
from signal_py.base.memory_return import MemoryReturn
from signal_py.config.nats_url import Server
from signal_py.control.inspection import Inspection
from signal_py.control.server import ControlServer
from signal_py.nats.credentials import Credentials, connect_line, fingerprint_of
from signal_py.nats.dial import Dialler, Endpoint, look, race
from signal_py.nats.info import InfoError, ServerInfo, parse_info
from signal_py.nats.servers import LAST_DELAY, Pool
from signal_py.nats.tls import Tls, wants_tls
from signal_py.nats.trial import attempt

if TYPE_CHECKING:
    from signal_core.engine import Core

MAX_ERRORS = 20  # different errors that are logged for one connection; further ones are counted
REFUSALS = (  # errors about credentials; since their files may have changed, only a second refusal is final
    "authorization violation",
    "user authentication expired",
    "user authentication revoked",
    "account authentication expired",
)

T = TypeVar("T")

logger = logging.getLogger(__name__)


class RefusedError(EngineError):
    """NATS refuses this node: its credentials, or its name, which another node has.

    The text says why; `setting` is the one to fix: `node` or `nats`.
    """

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(reason)
        self.setting = setting


class ControlThread:
    """Handles the mails of the core. Public methods may be called from any thread, unless they say otherwise.

    state  off, connecting, up, away (NATS can't be reached; local delivery goes on) or refused
    first  the state after the first round of dialling, or a RefusedError
    """

    def __init__(
        self,
        core: Core,
        servers: Sequence[Server],
        credentials: Credentials,
        tls: Tls,
        node: str,
        version: str,
        authenticator: Authenticator | None = None,
        discovered: bool = True,
    ) -> None:
        self._core = core
        self._pool = Pool(servers) if servers else None
        self._credentials = credentials
        self._tls = tls
        self._node = node
        self._version = version
        self.inspection = Inspection(core)
        self._memory_return = MemoryReturn()
        self.authenticator = authenticator  # for this thread
        self._discovered = discovered  # use servers that NATS reports
        self._control: ControlServer | None = None
        self._endpoint: Endpoint | None = None  # the one that was dialled last
        self._dialler = Dialler()
        self._leaving = False
        self._was_up = False  # the link's connection reached `up`,
        self._up_since = 0.0  # ... at this time
        self._greeted = True  # its INFO was answered
        self._problem = ""  # the last error of this connection
        self._errors: set[str] = set()  # logged for this connection
        self._fingerprint = ""  # fingerprint of the credentials that were sent last,
        self._refused_fingerprint = ""  # ... and of those that NATS refused since it last accepted any
        self._returns = False  # the connection will end, and another server is known
        self._dialling: asyncio.Task[None] | None = None
        self._moving: asyncio.Task[None] | None = None
        self._next: Endpoint | None = None  # to dial next, found before the connection ended
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._running = threading.Event()
        self._failure: BaseException | None = None  # why the thread could not start
        self._thread = threading.Thread(target=self._run, name="signal-engine", daemon=True)
        self.state = "connecting" if servers else "off"
        self.first: Future[str] = Future()
        if not servers:
            self.first.set_result("off")

    @property
    def where(self) -> str:
        """HOST:PORT of the server that was dialled last; "" if none was."""
        return self._endpoint.server.where if self._endpoint else ""

    @property
    def url(self) -> str:
        """The URL of that server, without secrets; "" if none was dialled."""
        return self._endpoint.server.url if self._endpoint else ""

    def use_control_server(self, control: ControlServer) -> None:
        """Has operators answered while NATS is up. Call before `start`."""
        self._control = control

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs a coroutine on the control thread. Raises EngineError if that does not run."""
        if self._loop is None or not self._thread.is_alive():
            work.close()
            raise EngineError("The engine is not running.")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def start(self) -> None:
        """Starts the thread, and returns when it runs. Call after the core's loops have started. Raises OSError."""
        self._thread.start()
        self._running.wait()
        if isinstance(self._failure, OSError):
            reason = self._failure.strerror or self._failure
            raise OSError(f"a thread of the engine can't start ({reason}): raise the limit of open files (ulimit -n)")
        if self._failure is not None:
            raise self._failure

    def leave(self) -> None:
        """From now on, the end of the connection is not logged, and causes no dial. Call before the core stops."""
        self._leaving = True

    def stop(self) -> None:
        """Ends the thread; blocks until it has. Call after the core has stopped, so that its last mails are handled."""
        if self._thread.is_alive() and self._loop is not None and self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def _run(self) -> None:
        main = self._main()
        try:
            asyncio.run(main)
        except BaseException as error:
            if self._end is not None:
                raise
            self._failure = error
        finally:
            main.close()  # if asyncio.run could not make a loop
            self._running.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(DAEMON_THREADS)
        self._loop.add_reader(self._core.control_fd, self._drain)
        self._end = asyncio.Event()
        if self.authenticator is not None:
            self.authenticator.start()
        self._running.set()
        self._drain()
        await self._end.wait()
        self._loop.remove_reader(self._core.control_fd)
        self._drain()
        await self.inspection.close()
        if self._control is not None:
            await self._control.close()
        if self.authenticator is not None:
            await self.authenticator.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            await cancel_and_wait(task)
        self._dialling = None

    def _drain(self) -> None:
        queries: list[Any] = []
        for kind, *rest in self._core.control_drain():
            if kind == "ask":
                queries.append(tuple(rest))
            else:
                self._handle(HANDLERS[str(kind)], self, *rest)
        if queries and self.authenticator is not None:
            self._handle(self.authenticator.take, queries)

    def _handle(self, handler: Callable[..., None], *arguments: object) -> None:
        try:
            handler(*arguments)
        except Exception:
            if not self._leaving:  # otherwise the core may have stopped already
                logger.exception("the control thread failed to handle an event")

    # -- mails of the core --

    def _on_want(self, reason: str) -> None:
        """The link has no connection. The reason is empty if it never had one."""
        if self._pool is None or self._leaving:
            return
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None
        pause = self._lost(self._problem or reason) if reason else 0.0
        if self._dialling is None or self._dialling.done():
            self._dialling = asyncio.get_running_loop().create_task(self._dial(self._pool, pause))

    def _on_info(self, text: bytes) -> None:
        """The first INFO of a connection is answered with CONNECT; later ones report changes of the cluster."""
        try:
            if self._pool is not None and self._endpoint is not None:
                self._take_info(text, self._pool, self._endpoint.server)
        finally:
            self._core.link_info_taken()

    def _take_info(self, text: bytes, pool: Pool, server: Server) -> None:
        greets, self._greeted = not self._greeted, True
        try:
            info = parse_info(text)
            if greets:
                self._introduce(info, server)
        except InfoError as error:
            self._problem = str(error)
            self._core.link_fail()
            return
        if self._discovered and pool.learn(info.connect_urls):
            event(logger, "debug", "NATS reported other servers", servers=[server.where for server in pool.servers])
        if info.lame_duck and self.state == "up" and self._moving is None:
            event(logger, "info", "the NATS server is about to stop: looking for another", server=self.where)
            self._moving = asyncio.get_running_loop().create_task(self._move(pool, server))

    def _introduce(self, info: ServerInfo, server: Server) -> None:
        """Has the core send CONNECT. Raises InfoError for a server that can't be used."""
        from signal_core.engine import TlsError

        if server.tls and not (info.tls_required or info.tls_available):
            raise InfoError("it offers no TLS, but its URL requires it")
        if not info.headers:
            raise InfoError("it is not a NATS server, or it is older than 2.2 and has no headers")
        try:
            tls = self._tls.handshake(server) if wants_tls(info.tls_required, server) else None
        except (OSError, ValueError) as error:
            raise InfoError(f"a file for TLS can't be read: {error}") from None
        try:
            proof = self._credentials.proof(info.nonce, server)
            line = connect_line(proof, self._node, self._version, tls is not None)
            self._core.link_connect(line, info.max_payload, tls)
        except TlsError as error:
            raise InfoError(f"TLS is not available: {error}") from None
        except (OSError, ValueError) as error:
            raise InfoError(f"the credentials can't be read: {error}") from None
        self._fingerprint = fingerprint_of(proof)

    def _on_up(self) -> None:
        back = self.state in ("away", "refused")
        self.state, self._problem, self._was_up, self._up_since = "up", "", True, time.monotonic()
        self._refused_fingerprint, self._returns = "", False
        event(logger, "info", "NATS is back" if back else "connected to NATS", server=self.where)
        self._tell_control(self._endpoint.server if self._endpoint else None)
        self.decide("up")

    def _on_down(self, reason: str) -> None:
        if self.state == "up" and not self._leaving and not self._returns:
            self._away(self._problem or reason)

    def _on_taken(self, node: str) -> None:
        self._refused("node", f"the name {node} is taken by another node of the cluster")

    def _on_error(self, text: str, untold: int = 0) -> None:
        if untold:
            event(logger, "warning", "NATS reported further errors", count=untold, server=self.where)
        if not text:
            return
        self._problem = text
        if text.strip("' ").lower() not in REFUSALS:
            self._report_error(text)
        elif self._fingerprint == self._refused_fingerprint:
            self._refused("nats", f"NATS at {self.where} refuses the credentials ({text})")
        else:
            self._refused_fingerprint, self._returns = self._fingerprint, True
            event(logger, "info", "NATS no longer accepts the credentials: reading them again", reason=text)

    def _report_error(self, text: str) -> None:
        if text not in self._errors and len(self._errors) < MAX_ERRORS:
            self._errors.add(text)
            event(logger, "warning", "NATS reported an error", error=text, server=self.where)

    def _on_listed(self, number: int, next_: int, text: str) -> None:
        self.inspection.listed(number, next_, text)

    def _on_freed(self) -> None:
        self._memory_return.freed()

    def _on_log(self, level: str, text: str) -> None:
        event(logger, level, text)

    # -- reload --

    def reload(self, servers: Sequence[Server], access: tuple[Credentials, Tls], discovered: bool) -> None:
        """Takes other settings. A link that they don't fit moves to another server in good order. On this thread only.

        access  the credentials and files for TLS
        """
        if self._pool is None or self._leaving:
            return
        server = self._endpoint.server if self._endpoint else None
        stays = access == (self._credentials, self._tls) and access[0].are_those(self._fingerprint, server)
        if stays and tuple(servers) == self._pool.named and discovered == self._discovered:
            return
        stays = stays and server in servers
        (self._credentials, self._tls), self._discovered = access, discovered
        if self._control is not None:
            self._control.use(*access)
        self._pool = pool = Pool(servers)
        self._dialler.failed.clear()
        self._refused_fingerprint, self._next = "", None
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None
        if self.state != "up":
            self._dial_anew(pool)
        elif not stays:
            event(logger, "info", "the NATS settings have changed: moving to another connection", server=self.where)
            self._moving = asyncio.get_running_loop().create_task(self._move(pool, None))

    def _dial_anew(self, pool: Pool) -> None:
        """Ends the dialling that goes on, and begins it anew at once."""
        if self.state == "refused":
            self.state = "away"
        if self._dialling is not None and not self._dialling.done():
            self._dialling.cancel()
            self._dialling = asyncio.get_running_loop().create_task(self._dial(pool, 0.0))
        else:
            self._core.link_fail()

    # -- states and dialling --

    def _tell_control(self, server: Server | None) -> None:
        if self._control is not None:
            self._control.follow(server)

    def _lost(self, reason: str) -> float:
        """Handles a dial that failed, or a connection that ended. Returns the seconds until the next dial."""
        assert self._pool is not None
        self._dialler.reason, returns = reason, self._returns
        if self._was_up:
            self._on_down(reason)
            if time.monotonic() - self._up_since > LAST_DELAY:
                self._pool.succeeded()
            else:
                self._pool.failed()
            self._dialler.failed.clear()
        else:
            event(logger, "debug", "can't connect to NATS", server=self.where, reason=reason)
            if self._endpoint is not None and not returns:
                self._dialler.failed.add(self._endpoint)
        pause = self._pool.delay() if (self._was_up or returns) and self._next is None else 0.0
        self._was_up = self._returns = False
        return LAST_DELAY if self.state == "refused" else pause

    def _round_over(self, pool: Pool, reason: str) -> float:
        """Handles a round in which no server could be reached. Returns the seconds until the next round."""
        pool.failed()
        self._dialler.failed.clear()
        if self.state in ("connecting", "up"):
            self._away(reason)
        return LAST_DELAY if self.state == "refused" else pool.delay()

    def _away(self, reason: str) -> None:
        self.state = "away"
        self._tell_control(None)
        servers = [server.where for server in self._pool.servers] if self._pool else []
        where = self.where or ",".join(servers[:3])
        event(logger, "warning", "NATS is away; local delivery continues", server=where, reason=reason)
        self.decide("away")

    def _refused(self, setting: str, reason: str) -> None:
        if self.state != "refused":
            self.state = "refused"
            self._tell_control(None)
            event(logger, "error", "NATS refuses this node", reason=reason)
        with contextlib.suppress(InvalidStateError):
            self.first.set_exception(RefusedError(setting, reason))

    def decide(self, state: str) -> None:
        """Sets `first`, unless it is set."""
        with contextlib.suppress(InvalidStateError):
            self.first.set_result(state)

    async def _dial(self, pool: Pool, pause: float) -> None:
        """Chooses an endpoint after `pause` seconds, however many rounds that takes, and has the loop dial it."""
        await asyncio.sleep(pause)
        while True:
            try:
                endpoint = self._next or await self._dialler.choose(pool)
                break
            except OSError as error:
                event(logger, "debug", "no NATS server is reachable", reason=str(error))
                await asyncio.sleep(self._round_over(pool, str(error)))
        self._endpoint, self._next = endpoint, None
        self._greeted, self._problem = False, ""
        self._errors.clear()
        if not self._leaving:
            self._core.link_dial(endpoint.family, endpoint.ip, endpoint.server.port)

    async def _move(self, pool: Pool, server: Server | None) -> None:
        """Finds another server than this one, which is about to stop, and then leaves the present one. None: any
        server of the pool that accepts the credentials, after a reload."""
        told = server is not None
        name = f"signal-engine {self._node} reload"
        try_ = look if told else partial(attempt, credentials=self._credentials, tls=self._tls, name=name)
        while self.state == "up":
            others = [other for other in pool.servers if other != server]
            try:
                self._next = await race([partial(try_, other) for other in others])
            except OSError as error:
                if not told:
                    text = "no NATS server of the new settings can be used: staying with the present one"
                    event(logger, "warning", text, server=self.where, reason=str(error))
                    told = True
                await asyncio.sleep(LAST_DELAY)
                continue
            await asyncio.sleep(pool.delay())  # while still connected, so that not all nodes move at once
            self._returns = True
            self._core.link_leave()
            return


HANDLERS: dict[str, Callable[..., None]] = {
    "link-want": ControlThread._on_want,
    "link-info": ControlThread._on_info,
    "link-up": ControlThread._on_up,
    "link-down": ControlThread._on_down,
    "link-taken": ControlThread._on_taken,
    "link-error": ControlThread._on_error,
    "listed": ControlThread._on_listed,
    "freed": ControlThread._on_freed,
    "log": ControlThread._on_log,
}
