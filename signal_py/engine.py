"""Engine: a complete node, embedded in a Python program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from signal_py import arguments
from signal_py.auth.authenticators import Authorizer
from signal_py.base.affinity import Affinity
from signal_py.base.aio import in_joined_thread, run_in_joined_thread, uninterrupted
from signal_py.base.errors import EngineError
from signal_py.base.hostport import url_of
from signal_py.config.changes import Reloaded
from signal_py.config.settings import Config
from signal_py.control.inspection import Inspection, MemberPage, RoomPage
from signal_py.control.wire import OPERATOR_CLOSE
from signal_py.core_calls import call_core, raise_code
from signal_py.local_peer import Handler, Handlers, LocalPeer, Message
from signal_py.reloading import Source
from signal_py.runtime import Runtime

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from signal_core.engine import Core
    from signal_py.config.options import Options

T = TypeVar("T")


class Engine:
    """A node in this process, on separate threads. The program is a peer of the node's clients.

        async with Engine(listen="127.0.0.1:0", nats="off") as engine:
            await engine.publish("lobby", b"hello")

    Every setting of the daemon is a keyword (`max_message=4096`). Without any, the engine listens on a free port of
    the loopback address and joins no cluster.

    An engine belongs to the asyncio loop that started it: methods raise EngineError on another loop and in other
    threads. `stats` and the properties may be used from any thread. All but `start`, `stop`, `drain`, `ended`, `stats`,
    `node`, `nats_url` and `admin_address` raise EngineError unless the engine is running.

    The engine sets no signal handlers and changes no global state, so several engines may run in one process. One that
    has not been started can be started in a child made by fork(). One that has been started can't be used there: every
    method raises EngineError.
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
        """Checks the settings, and starts nothing yet.

        on_message     `on_message(message: Message)`: called for each message to this program. Without it, read
                       `messages()`
        on_connect     `on_connect(peer: Peer)`: called for each client that connects to this node
        on_disconnect  `on_disconnect(peer: Peer, code: int)`: called when a client's connection has ended, with its
                       close code
        on_presence    `on_presence(presence: Presence)`: called for each member, join and leave in a room that this
                       program joined with `presence=True`
        authorize      `async def authorize(request: Request) -> Grant | Refusal`: decides who may connect, and as whom
        config         ready-made settings, in place of keywords
        settings       the settings of the daemon, with underscores (docs/settings.md)

        Handlers are called on the asyncio loop, in order. If a handler is a coroutine function, each call runs as a
        task. An exception in a handler is logged, and does not stop the engine.

        Raises ConfigError for a setting that can't be used.
        """
        self._config = arguments.config_of(config, settings, authorize is not None)
        self._handlers = Handlers(on_message, on_connect, on_disconnect, on_presence)
        self._authorize = authorize
        self._affinity = Affinity()
        self._runtime = self._new_runtime()
        self._local_peer: LocalPeer | None = None
        self._started = False
        self._step: asyncio.Future[None] | None = None  # the present step of the start
        self._stopping: asyncio.Future[None] | None = None
        self._draining: asyncio.Future[None] | None = None
        self._start_over = asyncio.Event()  # the start has succeeded or failed
        self._drain_begun = asyncio.Event()
        self._ended = asyncio.Event()

    def _new_runtime(self) -> Runtime:
        hooks = bool(self._handlers.connect or self._handlers.disconnect)
        return Runtime(self._config, hooks, self._asked_to_drain, self._authorize)

    async def __aenter__(self) -> Engine:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts the node. Returns when it listens, and NATS is connected or known to be away (at most 5 s).

        Raises ConfigError if a setting can't be used, such as a port in use, a node name that is taken or refused
        credentials; EngineError if the engine was started or stopped before, or is stopped meanwhile; OSError if the
        system has no descriptors left.
        """
        self._bind()
        if self._started or self._stopping is not None:
            raise EngineError("An engine can be started only once: make a new Engine.")
        self._started = True
        self._runtime.program = asyncio.get_running_loop()
        try:
            await self._blocking(self._runtime.prepare)
            assert self._runtime.core is not None
            local_peer = LocalPeer(self._runtime.core, self._runtime.inbox_messages, self._handlers, self.send)
            self._local_peer = self._runtime.local_peer = local_peer
            await self._blocking(self._runtime.run)
        except BaseException:
            await self.stop()
            raise
        finally:
            self._start_over.set()

    async def stop(self) -> None:
        """Closes every connection with 1001. Returns when everything has ended, little more than `close_timeout` later.

        A `send` that waits for its receipt fails: with `no-such-peer` if the receiver was a client of this node, else
        with `unavailable`. `messages()` ends. A drain ends at once. A second call waits for the first. If the asyncio
        loop that started the engine is closed, call this on any other loop.
        """
        self._bind(last=True)
        if self._stopping is None or self._stopping.cancelled():
            self._stopping = asyncio.ensure_future(self._stop())
        try:
            await asyncio.shield(self._stopping)
        except asyncio.CancelledError:
            if self._stopping.cancelled():  # together with all tasks of the program, before it began
                self._stopping = asyncio.ensure_future(self._stop())
                await uninterrupted(self._stopping)
            raise

    async def drain(self) -> None:
        """Sends the clients to other nodes, then stops. Takes little more than `drain_time` and `close_timeout`.

        New clients are refused from now on. Every client gets GOAWAY, and those that stay are closed with 1001, evenly
        over `drain_time`. Messages are delivered meanwhile, including those of this program. A second call waits for
        the first.
        """
        self._bind()
        await asyncio.shield(self._begin_drain())

    async def reload(self, **settings: Unpack[Options]) -> Reloaded:
        """Changes settings while the engine runs, all or none. The files that settings name are read again.

        settings  those to change, as of Engine; the others keep their values

        Those that need a restart keep their old values, and are in the result. Connections stay open. Raises
        ConfigError for settings that can't be used, ReloadError while the engine drains or stops.
        """
        self._follow_fork()
        self._affinity.check()
        load = partial(arguments.reconfigured, self._runtime, settings) if settings else None
        return await asyncio.shield(in_joined_thread(partial(self._runtime.reload, load)))

    def _use_source(self, source: Source) -> None:
        """Sets where a reload without keywords gets the settings."""
        self._runtime.source = source

    async def ended(self) -> None:
        """Returns when the engine has stopped: by `stop`, by `drain`, or by the command of an operator."""
        self._bind()
        await self._ended.wait()

    def _asked_to_drain(self) -> None:
        """Called on another thread. No effect if the loop has ended."""
        if self._affinity.loop is not None:
            with contextlib.suppress(RuntimeError):
                self._affinity.loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> asyncio.Future[None]:
        if self._draining is None or self._draining.cancelled():
            self._draining = asyncio.ensure_future(self._drain())
            self._drain_begun.set()
        return self._draining

    async def _drain(self) -> None:
        """A drain that is requested during the start begins after it."""
        if self._started:
            await self._start_over.wait()
        try:
            if self._stopping is None and self._runtime.state == "running" and self._runtime.drain_time:
                await in_joined_thread(self._runtime.drain)
        finally:
            await self.stop()

    async def _stop(self) -> None:
        """Stops completely, even if the program cancels all its tasks."""
        self._runtime.hurry()
        try:
            if self._step is not None and not self._step.done():  # a start is under way
                await uninterrupted(asyncio.gather(self._step, return_exceptions=True))
            await run_in_joined_thread(self._runtime.stop)
            if self._local_peer is not None:
                self._local_peer.close()
            await run_in_joined_thread(self._runtime.close)
        finally:
            self._ended.set()

    async def _blocking(self, call: Callable[[], None]) -> None:
        """Runs a step of the start on a thread. A cancellation waits until the step has ended."""
        self._step = in_joined_thread(call)
        try:
            await asyncio.shield(self._step)
        except asyncio.CancelledError:
            self._runtime.hurry()
            await uninterrupted(asyncio.gather(self._step, return_exceptions=True))
            raise
        if self._stopping is not None:
            raise EngineError("The engine was stopped while it was starting.")

    # -- properties --

    @property
    def node(self) -> str:
        """The name of the node. If it is random, a child made by fork() has another one."""
        self._follow_fork()
        return self._runtime.node

    @property
    def address(self) -> str:
        """The address of this program as a peer: `<node>.<local>`. Clients on any node can send to it."""
        return self._core().address

    @property
    def listening(self) -> list[tuple[str, int]]:
        """The numeric host and the port of each address that the engine listens on."""
        self._core()
        return list(self._runtime.listening)

    @property
    def url(self) -> str:
        """The WebSocket URL of the first of these addresses, for clients on this machine."""
        self._core()
        return url_of(*self._runtime.listening[0], self._runtime.config.path)

    @property
    def nats_url(self) -> str:
        """`nats://HOST:PORT` or `tls://HOST:PORT` of the NATS server that was dialled last; "" if none was."""
        return self._runtime.control_thread.url if self._runtime.control_thread is not None else ""

    @property
    def admin_address(self) -> tuple[str, int] | None:
        """Host and port of the admin server; None if `admin` is not set."""
        return self._runtime.admin_address

    def stats(self) -> dict[str, Any]:
        """The counters of each loop and their `total`, the state of the node, and its uptime in seconds.

        The result can be converted to JSON. May be called from any thread.
        """
        self._follow_fork()
        return self._runtime.stats()

    # -- operations --

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
        """Sends a message to one peer, or to all connections of a user, on any node. Delivery is at most once.

        target   the address of a peer, or `@` and the name of a user
        data     a str is sent as text, bytes as binary; at most `max_message` bytes
        ref      1 to 16 characters of A-Za-z0-9, which the receiver's answer carries as `Message.re`. While a receipt
                 for a ref is outstanding, that ref is refused with `bad-request`. Without `receipt` the ref is not
                 remembered, and may be used again
        re       the `ref` of the message that this one answers
        receipt  wait until the message is delivered or has failed; for a user, until it is accepted for routing
        ttl      seconds that the message may wait, 0.001 to 86400; None: the setting `ttl`

        A ref that was sent without `receipt` must not be used with `receipt` while the first message may still be on
        its way: its receipt would be taken for that of the second.

        Raises DeliveryError if the message was refused; without `receipt`, only if this node knows that at once.
        Raises ValueError for a ttl out of bounds or text that can't be encoded, TypeError for data of another type.
        """
        core = self._core_here()
        payload, binary = arguments.payload_of(data)
        assert self._local_peer is not None
        await self._local_peer.deliver(
            lambda chosen: core.send(target, payload, binary, ref=chosen, re=re, ttl_ms=arguments.milliseconds(ttl)),
            ref,
            receipt and not target.startswith("@"),
            self._runtime.config.ttl if ttl is None else ttl,
            lambda: arguments.why_not_sent(target, ref, re),
        )

    async def publish(
        self,
        room: str,
        data: bytes | str,
        *,
        ref: str | None = None,
        receipt: bool = False,
        ttl: float | None = None,
    ) -> None:
        """Sends a message to every member of a room, on every node. This program need not be a member.

        room     the name of the room
        data     as in `send`
        ref      as in `send`
        receipt  has no effect: whether the message is accepted for routing is known at once
        ttl      as in `send`

        Raises DeliveryError, ValueError and TypeError as `send` does.
        """
        core = self._core_here()
        payload, binary = arguments.payload_of(data)
        assert self._local_peer is not None
        await self._local_peer.deliver(
            lambda chosen: core.publish(room, payload, binary, chosen, arguments.milliseconds(ttl)),
            ref,
            False,
            0.0,
            lambda: arguments.why_not_room(room, ref),
        )

    async def join(self, room: str, *, presence: bool = False) -> None:
        """Makes this program a member of a room: it receives what is published there on any node.

        room      the name of the room
        presence  also call `on_presence` for members, joins and leaves. A further call reports the members again

        Returns once NATS, if it is connected, has the subscription to the room. Raises DeliveryError if the room can't
        be joined.
        """
        self._core_here()
        assert self._local_peer is not None
        code = await self._local_peer.join(room, presence, self._runtime.config.ttl)
        raise_code(code, lambda: arguments.why_not_room(room))

    async def leave(self, room: str) -> None:
        """Ends the membership in a room. No effect if this program is not a member.

        room  the name of the room
        """
        call_core(self._core_here().leave_room, room)

    def disconnect(self, peer: str, code: int = OPERATOR_CLOSE) -> bool:
        """Closes a client's connection to this node. Returns whether there was one.

        peer  the address of the client
        code  the close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999 (RFC 6455 §7.4)

        Raises ValueError for any other code, EngineError if a loop does not answer in time.
        """
        arguments.check_close(code)
        return call_core(self._core_here().disconnect, peer, code)

    async def disconnect_user(self, user: str, code: int = OPERATOR_CLOSE) -> int:
        """Closes all connections of a user to this node. Returns how many there were.

        user  the name of the user
        code  the close code, as in `disconnect`

        Raises ValueError for a name or code that is not valid.
        """
        arguments.check_name("user", user)
        arguments.check_close(code)
        return await self._inspect(lambda inspection: inspection.disconnect_user(user, code))

    async def rooms(self, limit: int = 1000, after: str = "") -> RoomPage:
        """Returns a page of this node's rooms with their number of members, in no particular order.

        limit  the maximum number of rooms in the page
        after  `next` of the previous page; "" for the first page

        Raises ValueError for arguments that are not valid.
        """
        arguments.check_page(limit, after)
        return await self._inspect(lambda inspection: inspection.rooms(limit, after))

    async def members(self, room: str, limit: int = 1000, after: str = "") -> MemberPage:
        """Returns a page of a room's members on this node, in no particular order.

        room   the name of the room, or `@` and the name of a user
        limit  the maximum number of members in the page
        after  `next` of the previous page; "" for the first page

        Raises ValueError for arguments that are not valid.
        """
        arguments.check_name("room", room)
        arguments.check_page(limit, after)
        return await self._inspect(lambda inspection: inspection.members(room, limit, after))

    async def _inspect(self, ask: Callable[[Inspection], Coroutine[Any, Any, T]]) -> T:
        self._core_here()
        thread = self._runtime.control_thread
        assert thread is not None
        return await asyncio.wrap_future(thread.submit(ask(thread.inspection)))

    def messages(self) -> AsyncIterator[Message]:
        """Iterates over the messages to this program, until the engine stops. For one reader, without `on_message`.

        At most `inbox_messages` (65,536 by default) wait to be read. Further ones are dropped and counted as
        `service_dropped`.
        """
        self._core_here()
        assert self._local_peer is not None
        return self._local_peer.messages()

    def _follow_fork(self) -> None:
        """Makes new parts in a child made by fork(), for an engine that was not used before. Raises EngineError."""
        if self._affinity.moves():
            self._runtime = self._new_runtime()

    def _bind(self, last: bool = False) -> None:
        """Binds the engine to the running loop, for a coroutine that may be the first one."""
        self._follow_fork()
        self._affinity.enter(last)

    def _core_here(self) -> Core:
        """As `_core`, for what may only be used on the engine's loop."""
        self._follow_fork()
        self._affinity.check()
        return self._core()

    def _core(self) -> Core:
        """Returns the core. Raises EngineError unless it runs."""
        self._follow_fork()
        if self._runtime.state not in ("running", "draining") or self._runtime.core is None:
            raise EngineError(f"The engine is {self._runtime.state if self._started else 'not started'}.")
        return self._runtime.core
