"""The embedding program as a peer of the clients: messages, presence, receipts, and clients that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from signal_py.auth.grants import Rights, rights_of
from signal_py.base.errors import DeliveryError, EngineError
from signal_py.base.throttled_log import ThrottledLog
from signal_py.core_calls import call_core, raise_code

if TYPE_CHECKING:
    from signal_core.engine import Core

JOIN_PAUSE = 0.001  # seconds between checks whether a join may go on
BATCH = 1024  # events that are taken from the core before other callbacks of the loop run
RECEIPT_MARGIN = 1.0  # seconds after a message's ttl until its receipt counts as lost
REF_PREFIX = "s"  # of the refs that are made here; the program may choose any other

Handler = Callable[..., Awaitable[None] | None]

HANDLER_FAILED = "a handler of the embedding program raised an exception"
UNANSWERABLE = "The sender has no address, so it can't be answered."

logger = logging.getLogger(__name__)


class Send(Protocol):
    """As Engine.send."""

    async def __call__(
        self, target: str, data: bytes | str, *, ref: str | None, re: str | None, receipt: bool, ttl: float | None
    ) -> None: ...


class Peer(str):
    """A client of this node, as `on_connect` and `on_disconnect` receive it: a str with its address.

    user    its user; None if it has none
    rights  its rights at that moment; a renewal (AUTH) may change them later
    """

    __slots__ = ("rights", "user")
    user: str | None
    rights: Rights

    def __new__(cls, address: str, user: str | None = None, rights: Rights | None = None) -> Peer:
        peer = super().__new__(cls, address)
        peer.user = user
        peer.rights = rights or Rights()
        return peer


@dataclass(frozen=True)
class Message:
    """A message to the embedding program.

    sender  the address of the sender; "-" if it has none and can't be answered
    data    a str if it was sent as text, bytes if it was sent as binary
    room    the room that it was published to; None if it was sent to the program itself
    ref     the sender's ref; None if it wants no answer. `reply` sends it back
    re      on an answer, the ref of the message that it answers
    user    the user of the sender; None if it has none
    """

    sender: str
    data: str | bytes
    room: str | None = None
    ref: str | None = None
    re: str | None = None
    user: str | None = None
    _send: Send | None = field(default=None, repr=False, compare=False)

    async def reply(
        self, data: bytes | str, *, ref: str | None = None, receipt: bool = False, ttl: float | None = None
    ) -> DeliveryError | None:
        """Answers the sender, with the ref of this message if it has one.

        data     as in `Engine.send`
        ref      as in `Engine.send`
        receipt  as in `Engine.send`
        ttl      as in `Engine.send`

        Returns None, or a DeliveryError that says why the answer was not delivered; without `receipt`, as far as this
        node knows at once. Unlike `Engine.send`, it raises nothing that a client can cause: by leaving, by reading
        slowly, or by making the answer too large. So no client can stop a service. Raises TypeError, ValueError and
        EngineError as `Engine.send` does.
        """
        if self._send is None:
            raise EngineError("This message did not come from an engine, so it can't be answered.")
        if self.sender == "-":
            return DeliveryError("no-such-peer", UNANSWERABLE)
        try:
            await self._send(self.sender, data, ref=ref, re=self.ref, receipt=receipt, ttl=ttl)
        except DeliveryError as refused:
            return refused
        return None


@dataclass(frozen=True)
class Presence:
    """A member, join or leave in a room that the embedding program joined with presence.

    room   the name of the room
    event  "member": the peer is in the room (it may have been reported before); "join"; or "leave"
    peer   the address of the peer. `<node>.*` with "leave" stands for all peers of a node that is lost
    user   the user of the peer; None if it has none
    """

    room: str
    event: str
    peer: str
    user: str | None = None


@dataclass(frozen=True)
class Handlers:
    """The handlers that the embedding program gave to `Engine`."""

    message: Handler | None = None
    connect: Handler | None = None
    disconnect: Handler | None = None
    presence: Handler | None = None


class LocalPeer:
    """Passes the core's events to the handlers, in order, on the program's asyncio loop. Not thread-safe."""

    def __init__(
        self,
        core: Core,
        limit: int,
        handlers: Handlers,
        send: Send | None = None,
    ) -> None:
        """Begins to read the core's events.

        limit  messages that are kept for `messages()`; further ones are dropped and counted
        send   sends the replies to messages
        """
        self._core = core
        self._send = send
        self.limit = limit
        self._on = {"connect": handlers.connect, "disconnect": handlers.disconnect}
        self._on_message = handlers.message
        self._on_presence = handlers.presence
        self._queue: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._receipts: dict[str, asyncio.Future[str]] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._failures = ThrottledLog(logger)
        self._next_ref = 0
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._pid = os.getpid()
        self.dropped = 0
        self._loop.add_reader(core.local_peer_fd, self._drain)

    def close(self) -> None:
        """Handles the remaining events, and ends every wait."""
        if not self._open:
            return
        with contextlib.suppress(RuntimeError):  # the program's loop is closed
            self._loop.remove_reader(self._core.local_peer_fd)
        while self._drain():
            pass
        self._open = False
        self._send = None  # which holds the engine
        self._wake.set()
        for waiting in self._receipts.values():
            if not waiting.done():
                with contextlib.suppress(RuntimeError):
                    waiting.set_result("unavailable")

    async def join(self, room: str, presence: bool, ttl: float) -> str:
        """Joins the program to a room, as Engine.join; waits at most `ttl` seconds. Returns "" or an ERR code."""
        ref = self.new_ref()
        end = asyncio.get_running_loop().time() + ttl
        # Another join may come first, although turn_to_join found room.
        while (code := call_core(self._core.join_room, room, ref, presence)) == "later":
            if not await self.turn_to_join(end):
                return "unavailable"
        return await self.receipt(ref, ttl) if code is None else code

    def new_ref(self) -> str:
        """Returns a ref that is not outstanding: at most 16 of A-Za-z0-9."""
        while True:
            self._next_ref += 1
            ref = f"{REF_PREFIX}{self._next_ref:x}"
            if ref not in self._receipts:
                return ref

    def claim_ref(self, ref: str | None, receipt: bool) -> str | None:
        """Returns `ref`, or a new one where a receipt needs it. Raises DeliveryError for a ref that is outstanding."""
        if ref is None:
            return self.new_ref() if receipt else None
        if ref in self._receipts:
            raise DeliveryError("bad-request", f"The ref '{ref}' is outstanding: its receipt has not arrived yet.")
        return ref

    async def deliver(
        self, post: Callable[[str | None], str], ref: str | None, receipt: bool, ttl: float, wrong: Callable[[], str]
    ) -> None:
        """Passes a message to the core, and with `receipt` awaits its receipt. Raises DeliveryError.

        ttl    seconds that the message may wait
        wrong  returns why it is a bad request
        """
        ref = self.claim_ref(ref, receipt)
        raise_code(call_core(post, ref), wrong)
        if receipt and ref is not None:
            raise_code(await self.receipt(ref, ttl), wrong)

    async def turn_to_join(self, end: float) -> bool:
        """Waits until the core has room for a join. Returns False if it has none until `end`, in the loop's time."""
        while True:
            await asyncio.sleep(JOIN_PAUSE)
            if self._loop.time() >= end:
                return False
            if not self._core.joins_wait:
                return True

    async def receipt(self, ref: str, ttl: float) -> str:
        """Waits for the code that answers `ref`: "" for OK, `timeout` if none came RECEIPT_MARGIN after `ttl` seconds.

        `ref` must not be outstanding. Call this in the same iteration of the loop as the request that carries it.
        """
        waiting: asyncio.Future[str] = self._loop.create_future()
        self._receipts[ref] = waiting
        timer = self._loop.call_later(ttl + RECEIPT_MARGIN, self._settle, ref, "timeout")
        try:
            return await waiting
        finally:
            timer.cancel()
            del self._receipts[ref]

    async def messages(self) -> AsyncIterator[Message]:
        """Yields messages until the engine stops. Raises EngineError on another loop than the program's."""
        if asyncio.get_running_loop() is not self._loop:
            raise EngineError("messages() was called on another asyncio loop: use the one that started the engine.")
        while self._queue or self._open:
            if self._queue:
                yield self._queue.popleft()
            else:
                self._wake.clear()
                await self._wake.wait()
        if os.getpid() != self._pid:
            raise EngineError("a child made by fork() can't use the engine of its parent: make a new one there")

    def _drain(self) -> bool:
        """Handles a batch of events. Returns whether there may be more."""
        if not self._open:
            return False
        if os.getpid() != self._pid:
            self._disown()
            return False
        events = self._core.local_peer_drain(BATCH)
        for kind, *rest in events:
            if kind == "message":
                self._take(_message(self._send, *rest))
            elif kind == "receipt":
                self._settle(*rest)
            elif kind == "presence":
                self._tell_presence(*rest)
            else:
                self._call(self._on[str(kind)], *_peer(*rest))
        self._wake.set()
        if len(events) == BATCH:
            self._loop.call_soon(self._drain)
        return bool(events)

    def _disown(self) -> None:
        """Stops, in a child made by fork() that continues the loop.

        It logs nothing: another thread of the parent may have held a lock of a log file at the fork.
        The reader stays: both processes share the selector, so removing it would remove it from the parent.
        """
        self._open = False
        self._wake.set()

    def _take(self, message: Message) -> None:
        """Passes a message to the handler, or keeps it for `messages()`."""
        if self._on_message is not None:
            self._call(self._on_message, message)
        elif len(self._queue) < self.limit:
            self._queue.append(message)
        else:
            self.dropped += 1

    def _tell_presence(self, texts: Any) -> None:
        """Passes presence events, each the text of MEMBERS, JOIN or LEAVE, to the handler."""
        for text in texts:
            for presence in _presence(text):
                self._call(self._on_presence, presence)

    def _settle(self, ref: Any, code: Any) -> None:
        """Takes the receipt of a ref. No effect if nothing waits for it."""
        waiting = self._receipts.get(ref)
        if waiting is not None and not waiting.done():
            waiting.set_result(code)

    def _call(self, handler: Handler | None, *arguments: object) -> None:
        """Calls a handler of the program. A coroutine runs as a task. Exceptions are logged."""
        if handler is None:
            return
        try:
            answer = handler(*arguments)
        except Exception as error:
            self._failures.add(HANDLER_FAILED, "", error)
            return
        if inspect.isawaitable(answer):
            task = asyncio.ensure_future(answer, loop=self._loop)
            self._tasks.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failures.add(HANDLER_FAILED, "", task.exception())


def _presence(text: str) -> list[Presence]:
    """Parses MEMBERS, JOIN or LEAVE."""
    head, _, lines = text.partition("\n")
    verb, room, *rest = head.split(" ")
    peers = [line.split(" ") for line in lines.split("\n") if line] if verb == "MEMBERS" else [rest]
    event = "member" if verb == "MEMBERS" else verb.lower()
    return [
        Presence(room, event, peer, next((o[5:] for o in options if o.startswith("user=")), None))
        for peer, *options in peers
    ]


def _peer(address: Any, user: Any, rights: Any, *code: Any) -> tuple[Any, ...]:
    return Peer(address, user or None, rights_of(rights)), *code


def _message(
    send: Send | None, room: Any, sender: Any, ref: Any, re: Any, user: Any, payload: Any, binary: Any
) -> Message:
    data = payload if binary else payload.decode("utf-8", "replace")
    return Message(sender, data, room, ref, re, user, send)
