"""Engine: the whole of signal-engine, started and used from a Python program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from signal_py.address import url_of
from signal_py.arguments import (
    check_close,
    check_name,
    check_page,
    config_of,
    milliseconds,
    payload_of,
    why_not_room,
    why_not_sent,
)
from signal_py.aside import NoThreadError, step, surely
from signal_py.controlwire import OPERATOR_CLOSE
from signal_py.errors import ConfigError, DeliveryError, EngineError
from signal_py.inspection import Inspection, MemberPage, RoomPage
from signal_py.judge import Authorizer
from signal_py.place import Place
from signal_py.runtime import Runtime
from signal_py.service import Handler, Handlers, Message, Service
from signal_py.settings import Config

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from signal_core.engine import Core
    from signal_py.options import Options

RECEIPT_MARGIN = 1.0  # seconds after a message's ttl until its receipt counts as lost
T = TypeVar("T")


class Engine:
    """A node, in this process, on threads of its own; and the program that runs it, as a peer of the clients.

        async with Engine(listen="127.0.0.1:0", nats="off") as engine:
            await engine.publish("lobby", b"hello")

    Every setting of the daemon is a keyword (`max_message=4096`); without any it listens on a free port of
    loopback and joins no cluster. Methods are for the asyncio loop that started it, and raise EngineError on
    another and in other threads; `stats` and what it is (`node`, `url`, ...) may be asked from any. It sets no signal
    handler and touches nothing global: several may run in one process. One that was not started may start in a child
    made by fork(); of one that was, every method raises EngineError there.
    """

    def __init__(
        self,
        *,
        on_message: Handler | None = None,
        on_connect: Handler | None = None,
        on_disconnect: Handler | None = None,
        on_presence: Handler | None = None,
        authorize: Authorizer | None = None,
        config: Config | None = None,
        **settings: Unpack[Options],
    ) -> None:
        """Checks the settings; nothing is started yet. Raises ConfigError.

        on_message     called with each Message to this program; without it, read `messages()`
        on_connect     called with the Peer of each client that connects: its address, a str that has user and rights
        on_disconnect  called with the Peer and the close code of each client that goes
        on_presence    called with a Presence of each peer that is in a room joined with presence, joins, leaves
        authorize      an `async def` from a Request to a Grant or a Refusal: who may connect, and as whom

        Handlers run on the loop, in order; what a coroutine function returns runs as a task.
        config         ready-made settings, in place of keywords
        """
        if config is not None and settings:
            raise ConfigError("Engine's config is given together with settings: give one or the other.")
        if authorize is not None and config is None:
            settings.setdefault("auth", "callback")
        self._config = config or config_of(settings)
        self._handlers = Handlers(on_message, on_connect, on_disconnect, on_presence)
        if (self._config.auth == "callback") != (authorize is not None):
            raise ConfigError(
                f"{self._config.named('auth')} is callback without authorize: give Engine both or neither."
                if authorize is None
                else "Engine's authorize is given together with another auth than callback: give one of them."
            )
        self._authorize = authorize
        self._place = Place()
        self._runtime = self._made()
        self._service: Service | None = None
        self._started = False
        self._step: asyncio.Future[None] | None = None  # of the start
        self._stopping: asyncio.Future[None] | None = None
        self._draining: asyncio.Future[None] | None = None
        self._come = asyncio.Event()  # the start is over, well or not
        self._ended = asyncio.Event()

    def _made(self) -> Runtime:
        """Its parts, of which none runs."""
        hooks = bool(self._handlers.connect or self._handlers.disconnect)
        return Runtime(self._config, hooks, self._asked_to_drain, self._authorize)

    async def __aenter__(self) -> Engine:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when it listens, and NATS is connected or known to be out of reach (at most 5 s).

        Raises ConfigError where a setting can't be used: a busy port, a taken name, refused credentials;
        EngineError where it was started or stopped before, or is stopped meanwhile; OSError where the system has no
        descriptors left.
        """
        self._settle()
        if self._started or self._stopping is not None:
            raise EngineError("An engine is started once: make a new Engine.")
        self._started = True
        self._runtime.program = asyncio.get_running_loop()
        try:
            await self._blocking(self._runtime.prepare)
            assert self._runtime.core is not None
            service = Service(self._runtime.core, self._runtime.inbox_messages, self._handlers, self.send)
            self._service = self._runtime.service = service
            await self._blocking(self._runtime.run)
        except BaseException:
            await self.stop()
            raise
        finally:
            self._come.set()

    async def stop(self) -> None:
        """Closes every connection with 1001, and returns when all has ended: in `close_timeout` and a little.

        Sends that wait for a receipt fail, with `no-such-peer` where the receiver was a client of this node, else
        with `unavailable`; `messages()` ends. Again: waits for the first. It ends a drain at once. Where the asyncio
        loop that started it has been closed meanwhile, any other will do.
        """
        self._settle(last=True)
        if self._stopping is None or self._stopping.cancelled():
            self._stopping = asyncio.ensure_future(self._stop())
        try:
            await asyncio.shield(self._stopping)
        except asyncio.CancelledError:
            if self._stopping.cancelled():  # with all of the program's tasks, before it began
                self._stopping = asyncio.ensure_future(self._stop())
                await surely(self._stopping)
            raise

    async def drain(self) -> None:
        """Sends the clients elsewhere, then stops: returns in `drain_time`, `close_timeout` and a little.

        It takes no new ones from here on. All are told (GOAWAY), and those that stay are closed with 1001,
        evenly over `drain_time`. Messages go on until then, this program's too. Again: waits for the first.
        """
        self._settle()
        self._begin_drain()
        assert self._draining is not None
        await asyncio.shield(self._draining)

    async def ended(self) -> None:
        """Returns when it has stopped, by `stop`, `drain` or an operator's word."""
        self._settle()
        await self._ended.wait()

    def _asked_to_drain(self) -> None:
        """From another thread; no effect where the loop has ended."""
        if self._place.loop is not None:
            with contextlib.suppress(RuntimeError):
                self._place.loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        if self._draining is None or self._draining.cancelled():
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        """An order that comes while the engine starts is obeyed once it has."""
        if self._started:
            await self._come.wait()
        try:
            if self._stopping is None and self._runtime.state == "running" and self._config.drain_time:
                await step(self._runtime.drain)
        finally:
            await self.stop()

    async def _stop(self) -> None:
        """To its end, also where the program cancels all its tasks."""
        self._runtime.hurry()
        try:
            if self._step is not None and not self._step.done():  # of a start that is under way
                await surely(asyncio.gather(self._step, return_exceptions=True))
            await _whole(self._runtime.stop)
            if self._service is not None:
                self._service.close()
            await _whole(self._runtime.close)
        finally:
            self._ended.set()

    async def _blocking(self, call: Callable[[], None]) -> None:
        """Runs a step of the start on a thread of its own; a cancellation waits for the step's end."""
        self._step = step(call)
        try:
            await asyncio.shield(self._step)
        except asyncio.CancelledError:
            self._runtime.hurry()
            await surely(asyncio.gather(self._step, return_exceptions=True))
            raise
        if self._stopping is not None:
            raise EngineError("The engine was stopped while it started.")

    # -- what it is --

    @property
    def node(self) -> str:
        """The node's name; a random one is another in a child made by fork()."""
        self._settle_process()
        return self._runtime.node

    @property
    def address(self) -> str:
        """The peer by which clients and other nodes reach this program: `<node>.<local>`."""
        return self._core().address

    @property
    def listening(self) -> list[tuple[str, int]]:
        """Host (numeric) and port of each address that it listens on."""
        self._core()
        return list(self._runtime.listening)

    @property
    def url(self) -> str:
        """A WebSocket URL by which this machine reaches the first of them."""
        self._core()
        return url_of(*self._runtime.listening[0], self._config.path)

    @property
    def nats_url(self) -> str:
        """`nats://HOST:PORT` (or `tls://…`) of the server that was dialled last, "" for none."""
        return self._runtime.bridge.url if self._runtime.bridge is not None else ""

    @property
    def admin_address(self) -> tuple[str, int] | None:
        """Host and port of the admin server, where one is set."""
        return self._runtime.admin_address

    def stats(self) -> dict[str, Any]:
        """Counters of each loop, their `total`, state, uptime in seconds; fit for JSON. From any thread."""
        self._settle_process()
        return self._runtime.stats()

    # -- what it does --

    async def send(
        self,
        target: str,
        data: bytes | str,
        *,
        ref: str | None = None,
        re: str | None = None,
        receipt: bool = False,
        ttl: float | None = None,
    ) -> None:
        """Sends to a peer, or with `@user` to all connections of a user, on whichever node; at most once.

        data     a str goes as text, bytes as binary; at most `max_message` bytes
        ref      1 to 16 of A-Za-z0-9, for the receiver to answer with (`Message.re`). While a receipt for it is
                 waited for, it is `bad-request` here and in `publish`. Without `receipt` it is not kept, and may be
                 given again; but with `receipt` only once that message is over, whose fate would be told else
        re       the `ref` of the message that this answers
        receipt  wait until it is known what became of it (for a user: until it is accepted)
        ttl      seconds that it may wait, 0.001 to 86400; None: the setting `ttl`

        Raises DeliveryError with the code where it was refused, ValueError for a ttl or text that can't be
        sent. Without `receipt` only what this node knows at once is told.
        """
        self._core_here()
        payload, binary = payload_of(data)

        def hand_on(core: Core, chosen: str | None) -> str:
            return core.send(target, payload, binary, chosen, re, milliseconds(ttl))

        waits = receipt and not target.startswith("@")
        await self._deliver(hand_on, ref, waits, ttl, lambda: why_not_sent(target, ref, re))

    async def publish(
        self,
        room: str,
        data: bytes | str,
        *,
        ref: str | None = None,
        receipt: bool = False,
        ttl: float | None = None,
    ) -> None:
        """Sends to every member of a room, on every node; this program need not be one. As `send` otherwise.

        What it was accepted for is routing, and that is known at once: `receipt` adds nothing.
        """
        self._core_here()
        payload, binary = payload_of(data)

        def hand_on(core: Core, chosen: str | None) -> str:
            return core.publish(room, payload, binary, chosen, milliseconds(ttl))

        await self._deliver(hand_on, ref, False, ttl, lambda: why_not_room(room, ref))

    async def join(self, room: str, *, presence: bool = False) -> None:
        """From now on this program hears what is published to a room, on every node. Raises DeliveryError.

        presence  `on_presence` is told who is there, and who joins and leaves; again: who is there, anew

        Each call waits until NATS, where it is up, has the room, also where the program is in it already.
        """
        core = self._core_here()
        assert self._service is not None
        ref = self._service.new_ref()
        code = _asked(core.join_room, room, ref, presence)
        end = asyncio.get_running_loop().time() + self._config.ttl
        while code == "later":  # others may be first each time that there is room
            if not await self._service.turn_to_join(end):
                code = "unavailable"
            else:
                code = _asked(core.join_room, room, ref, presence)
        if code is None:
            code = await self._service.receipt(ref, self._config.ttl + RECEIPT_MARGIN)
        _raise(code, lambda: why_not_room(room))

    async def leave(self, room: str) -> None:
        """Ends that. Raises DeliveryError."""
        _raise(_asked(self._core_here().leave_room, room), lambda: why_not_room(room))

    def disconnect(self, peer: str, code: int = OPERATOR_CLOSE) -> bool:
        """Closes a connection of this node with a close code. Whether there was one.

        Raises ValueError for a code that may not be sent: those are 1000 to 1003, 1007 to 1014 and 3000 to 4999
        (RFC 6455 §7.4).
        """
        check_close(code)
        return _asked(self._core_here().disconnect, peer, code)

    async def disconnect_user(self, user: str, code: int = OPERATOR_CLOSE) -> int:
        """Closes all connections of a user to this node; how many there were. Raises ValueError as `disconnect`."""
        check_name("user", user)
        check_close(code)
        return await self._inspect(lambda inspection: inspection.disconnect_user(user, code))

    async def rooms(self, limit: int = 1000, after: str = "") -> RoomPage:
        """Rooms with their members on this node, in no particular order; `after`: the last page's `next`."""
        check_page(limit, after)
        return await self._inspect(lambda inspection: inspection.rooms(limit, after))

    async def members(self, room: str, limit: int = 1000, after: str = "") -> MemberPage:
        """Who is in a room on this node, in no particular order; as `rooms` otherwise."""
        check_name("room", room)
        check_page(limit, after)
        return await self._inspect(lambda inspection: inspection.members(room, limit, after))

    async def _inspect(self, ask: Callable[[Inspection], Coroutine[Any, Any, T]]) -> T:
        self._core_here()
        assert self._runtime.bridge is not None
        return await asyncio.wrap_future(self._runtime.bridge.submit(ask(self._runtime.bridge.inspection)))

    def messages(self) -> AsyncIterator[Message]:
        """Messages to this program as they come, until it stops. For one reader, without `on_message`.

        At most `inbox_messages` wait (65,536 by default); more are dropped, and counted as `service_dropped`.
        """
        self._core_here()
        assert self._service is not None
        return self._service.messages()

    async def _deliver(
        self,
        hand_on: Callable[[Core, str | None], str],
        ref: str | None,
        receipt: bool,
        ttl: float | None,
        wrong: Callable[[], str],
    ) -> None:
        """`wrong` says why it would be a bad request."""
        core = self._core()
        assert self._service is not None
        if receipt and ref is None:
            ref = self._service.new_ref()
        elif ref is not None and self._service.is_outstanding(ref):
            raise DeliveryError("bad-request", f"The ref '{ref}' is outstanding: its receipt is waited for.")
        _raise(_asked(hand_on, core, ref), wrong)
        if receipt and ref is not None:
            seconds = (self._config.ttl if ttl is None else ttl) + RECEIPT_MARGIN
            _raise(await self._service.receipt(ref, seconds), wrong)

    def _settle_process(self) -> None:
        """In a child made by fork() an engine that was never used makes its parts anew."""
        if self._place.moves():
            self._runtime = self._made()

    def _settle(self, last: bool = False) -> None:
        """Before a coroutine that may be the first to be awaited: the loop that runs is the engine's from here on."""
        self._settle_process()
        self._place.enter(last)

    def _core_here(self) -> Core:
        """The core, where it runs, for what belongs to the loop."""
        self._settle_process()
        self._place.check()
        return self._core()

    def _core(self) -> Core:
        """The core, where it runs."""
        self._settle_process()
        if self._runtime.state not in ("running", "draining") or self._runtime.core is None:
            raise EngineError(f"The engine is {self._runtime.state if self._started else 'not started'}.")
        return self._runtime.core


async def _whole(call: Callable[[], None]) -> None:
    """Does a step of a stop, on a thread of its own; on this one where the system gives no more."""
    try:
        await surely(step(call))
    except NoThreadError:
        call()


def _asked(call: Callable[..., T], *arguments: object) -> T:
    """What the core answers; EngineError where it has stopped since it was seen to run."""
    try:
        return call(*arguments)
    except Exception as error:
        from signal_core.engine import CoreError

        if isinstance(error, CoreError):
            raise EngineError(str(error)) from None
        raise


def _raise(code: str, wrong: Callable[[], str]) -> None:
    """DeliveryError for a code; `wrong` says why it is a bad request."""
    if code:
        from signal_core.engine import code_sentence

        raise DeliveryError(code, (code == "bad-request" and wrong()) or code_sentence(code))
