"""Decides for the NATS link, on a thread of the engine's own: which server to dial, and what to say to it.

The core's loop connects, pumps, and asks (`control_drain`); here is answered. Messages never come by.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, TypeVar

from signal_py.aside import THREADS, aside, end, within
from signal_py.controlled import Controlled
from signal_py.credentials import Credentials, connect_line
from signal_py.errors import EngineError
from signal_py.inspection import Inspection
from signal_py.judge import Judge
from signal_py.log import event
from signal_py.natspool import LAST_DELAY, Pool, Server
from signal_py.tls import Tls, offers_tls, wants_tls

if TYPE_CHECKING:
    from signal_core.engine import Core

RESOLVE_TIMEOUT = 5.0  # seconds
MAX_ERRORS = 100  # logged of one connection
REFUSALS = (
    "authorization violation",
    "user authentication expired",
    "user authentication revoked",
    "account authentication expired",
)

T = TypeVar("T")

logger = logging.getLogger(__name__)


class RefusedError(EngineError):
    """NATS, or the node that has our name there, will not have us.

    The text is why; `setting` is the one to mend: `node` or `nats`.
    """

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(reason)
        self.setting = setting


class Bridge:
    """Answers what the core asks, and logs what it tells.

    `state` is off, connecting, up, away (out of reach; local delivery goes on) or refused. `first` gets the
    state that the first round of dialling led to, or a RefusedError.
    """

    def __init__(
        self,
        core: Core,
        servers: Sequence[Server],
        credentials: Credentials,
        tls: Tls,
        node: str,
        version: str,
        judge: Judge | None = None,
    ) -> None:
        self._core = core
        self._pool = Pool(servers) if servers else None
        self._credentials = credentials
        self._tls = tls
        self._node = node
        self._version = version
        self.inspection = Inspection(core)
        self._judge = judge
        self._control: Controlled | None = None
        self._server: Server | None = None  # dialled last
        self._others: list[tuple[int, str]] = []  # its addresses that were not dialled yet
        self._leaving = False
        self._was_up = False  # the connection that the core asks to replace worked
        self._greeted = True  # its INFO was answered
        self._problem = ""  # what it reported since it was dialled
        self._errors: set[str] = set()  # that it reported, each logged once a connection
        self._dialling: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._running = threading.Event()
        self._failure: BaseException | None = None  # for which the thread could not begin
        self._thread = threading.Thread(target=self._run, name="signal-engine", daemon=True)
        self.state = "connecting" if servers else "off"
        self.first: Future[str] = Future()
        if not servers:
            self.first.set_result("off")

    @property
    def where(self) -> str:
        """HOST:PORT of the server dialled last, "" for none."""
        return self._server.where if self._server else ""

    @property
    def url(self) -> str:
        """Its URL without secrets, "" for none."""
        return self._server.url if self._server else ""

    def obey(self, control: Controlled) -> None:
        """Operators are answered by it while NATS is up. Call before the start."""
        self._control = control

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Has the deciding thread do it. From any thread, while it runs."""
        if self._loop is None or not self._thread.is_alive():
            work.close()
            raise EngineError("The engine is not running.")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def start(self) -> None:
        """Returns when the thread runs. Call when the core's loops do. Raises OSError."""
        self._thread.start()
        self._running.wait()
        if isinstance(self._failure, OSError):
            reason = self._failure.strerror or self._failure
            raise OSError(f"a thread of the engine can't begin ({reason}): raise the limit of open files (ulimit -n)")
        if self._failure is not None:
            raise self._failure

    def leave(self) -> None:
        """From now on the end of the connection is nothing to tell or to mend. Call before the core stops."""
        self._leaving = True

    def stop(self) -> None:
        """Ends the thread; blocks until it has. Call after the core has stopped, to hear its last words."""
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
            main.close()  # where there was not even a loop for it
            self._running.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(THREADS)
        self._loop.add_reader(self._core.control_fd, self._drain)
        self._end = asyncio.Event()
        if self._judge is not None:
            self._judge.start()
        self._running.set()
        self._drain()
        await self._end.wait()
        self._loop.remove_reader(self._core.control_fd)
        self._drain()
        await self.inspection.close()
        if self._control is not None:
            await self._control.close()
        if self._judge is not None:
            await self._judge.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            await end(task)
        self._dialling = None

    def _drain(self) -> None:
        questions: list[Any] = []
        for kind, *rest in self._core.control_drain():
            if kind == "ask":
                questions.append(tuple(rest))
            else:
                self._handle(HANDLERS[str(kind)], self, *rest)
        if questions and self._judge is not None:
            self._handle(self._judge.take, questions)

    def _handle(self, handler: Callable[..., None], *arguments: object) -> None:
        try:
            handler(*arguments)
        except Exception:
            if not self._leaving:  # then the core may be gone already, and wants no answer
                logger.exception("the deciding thread failed to handle an event")

    # -- what the core tells --

    def _on_want(self, reason: str) -> None:
        """There is no connection. An empty reason: there never was one."""
        if self._pool is None or self._leaving:
            return
        if reason:
            self._lost(self._problem or reason)
        if self._dialling is None or self._dialling.done():
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    def _on_info(self, text: bytes) -> None:
        """The first of a connection asks for CONNECT; later ones tell of changes in the cluster."""
        info = _parse(text)
        urls = info.get("connect_urls")
        if self._pool is not None and isinstance(urls, list) and self._pool.learn(urls):
            event(
                logger,
                "debug",
                "NATS told of servers",
                servers=[server.where for server in self._pool.servers],
            )
        if self._greeted or self._server is None:
            return
        self._greeted = True
        self._problem = _unusable(info, self._server) or self._introduce(info, self._server)
        if self._problem:
            self._core.link_fail()

    def _introduce(self, info: dict[str, Any], server: Server) -> str:
        """Has the core say who we are. "", or why it can't."""
        from signal_core.engine import TlsError

        try:
            tls = self._tls.handshake(server) if wants_tls(info, server) else None
        except (OSError, ValueError) as error:
            return f"a file for TLS can't be read: {error}"
        try:
            line = connect_line(info, server, self._credentials, self._node, self._version, tls is not None)
            self._core.link_connect(line, int(info.get("max_payload", 0)), tls)
        except TlsError as error:
            return f"TLS can't be had: {error}"
        except (OSError, ValueError) as error:
            return f"the credentials can't be read: {error}"
        return ""

    def _on_up(self) -> None:
        if self._pool is not None:
            self._pool.succeeded()
        back = self.state in ("away", "refused")
        self.state, self._problem, self._was_up, self._others = "up", "", True, []
        event(logger, "info", "NATS is back" if back else "NATS is connected", server=self.where)
        self._tell_control(self._server)
        self.decide("up")

    def _on_down(self, reason: str) -> None:
        if self.state == "up" and not self._leaving:
            self._away(self._problem or reason)

    def _on_taken(self, node: str) -> None:
        self._refused("node", f"another node of the cluster has the name {node}")

    def _on_error(self, text: str) -> None:
        self._problem = text
        if text.strip("' ").lower() in REFUSALS:
            self._refused("nats", f"NATS at {self.where} refuses the credentials ({text})")
        else:
            self._complain(text)

    def _complain(self, text: str) -> None:
        if text not in self._errors and len(self._errors) < MAX_ERRORS:
            self._errors.add(text)
            event(logger, "warning", "NATS reports an error", error=text, server=self.where)

    def _on_listed(self, number: int, next_: int, text: str) -> None:
        self.inspection.listed(number, next_, text)

    def _on_log(self, level: str, text: str) -> None:
        event(logger, level, text)

    # -- what follows --

    def _tell_control(self, server: Server | None) -> None:
        if self._control is not None:
            self._control.follow(server)

    def _lost(self, reason: str) -> None:
        """A dial failed, or a connection ended. The first is only told when no server answers."""
        if self._was_up:
            self._was_up = False
            self._on_down(reason)
            return
        event(logger, "debug", "NATS can't be had", server=self.where, reason=reason)
        ended_round = not self._others and self._pool is not None and self._pool.failed()
        if ended_round and self.state == "connecting":
            self._away(reason)

    def _away(self, reason: str) -> None:
        self.state = "away"
        self._tell_control(None)
        event(logger, "warning", "NATS is away; local delivery goes on", server=self.where, reason=reason)
        self.decide("away")

    def _refused(self, setting: str, reason: str) -> None:
        if self.state != "refused":
            self.state = "refused"
            self._tell_control(None)
            event(logger, "error", "NATS refuses this node", reason=reason)
        with contextlib.suppress(InvalidStateError):
            self.first.set_exception(RefusedError(setting, reason))

    def decide(self, state: str) -> None:
        """Gives `first` its value, where it has none. From any thread."""
        with contextlib.suppress(InvalidStateError):
            self.first.set_result(state)

    async def _dial(self) -> None:
        """Waits, chooses, and has the loop connect; tries on until there is something to dial."""
        assert self._pool is not None
        while True:
            if self._server is not None:  # not at the very first
                await asyncio.sleep(LAST_DELAY if self.state == "refused" else self._pool.delay())
            try:
                server, family, ip = await self._choose(self._pool)
            except (OSError, RuntimeError, UnicodeError, asyncio.TimeoutError) as error:
                self._lost(f"its name is not known here: {error or 'no answer'}")
                continue
            self._greeted, self._problem = False, ""
            self._errors.clear()
            if not self._leaving:
                self._core.link_dial(family, ip, server.port)
            return

    async def _choose(self, pool: Pool) -> tuple[Server, int, str]:
        """The next address of the server dialled last, or the first of the next server."""
        if self._server is None or not self._others:
            self._server = pool.next()
            where = self._server.host, self._server.port
            # The loop's own, which may be another than asyncio's, would hold the engine's end up.
            found = await within(aside(lambda: socket.getaddrinfo(*where, type=socket.SOCK_STREAM)), RESOLVE_TIMEOUT)
            self._others = [(int(family), str(place[0])) for family, _, _, _, place in found]
        return (self._server, *self._others.pop(0))


HANDLERS: dict[str, Callable[..., None]] = {
    "link-want": Bridge._on_want,
    "link-info": Bridge._on_info,
    "link-up": Bridge._on_up,
    "link-down": Bridge._on_down,
    "link-taken": Bridge._on_taken,
    "link-error": Bridge._on_error,
    "listed": Bridge._on_listed,
    "log": Bridge._on_log,
}


def _parse(text: bytes) -> dict[str, Any]:
    try:
        info = json.loads(text)
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}


def _unusable(info: dict[str, Any], server: Server) -> str:
    """Why a server can't be used, "" where it can."""
    if server.tls and not offers_tls(info):
        return "it offers no TLS, which its URL asks for"
    if not info.get("headers"):
        return "it is no NATS server, or one from before 2.2, which has no headers"
    return ""
