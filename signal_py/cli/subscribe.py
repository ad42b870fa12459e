"""The command `sub`: stays in its rooms until it is interrupted, although connections end and nodes drain."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from signal_py.base.aio import with_timeout
from signal_py.base.errors import ConfigError, DeliveryError
from signal_py.base.log import say
from signal_py.cli.output import PRESENCE, Show
from signal_py.cli.pubsub import check_names, explained
from signal_py.cli.ws_client import URL_FLAG, Access, Client, ConnectError, LostError, Received, open_client
from signal_py.config.parsing import FAILED

FIRST_DELAY, MOST_DELAY = 0.25, 30.0  # seconds; the bound of the random delay between tries doubles up to MOST_DELAY
GOAWAY_URL = "the url of GOAWAY,"  # its name in errors
SETTLED = 10.0  # seconds; once a connection has lasted that long, the next delay is short again
PATIENCE_MOST = 600.0  # maximum seconds to wait because GOAWAY says so
EARLY = 0.9  # the part of GOAWAY's time within which to move, since connecting takes time, too
TOO_MANY = 429
HOPELESS_STATUS = {*range(400, 500)} - {TOO_MANY}  # HTTP statuses after which no other try would succeed
HOPELESS_CLOSE = (1008, 4001)  # close codes: the token has expired or is refused, or the client broke a rule
PASSING = ("unavailable", "timeout", "rate")  # codes of a SUB after which another try may succeed


class Session:
    """One connection and its membership in the rooms. For one use."""

    def __init__(self, show: Show, live: bool) -> None:
        """`live`: whether messages of rooms are shown. If not, they are shown once the attribute is set."""
        self._show = show
        self.live = live
        self.goaway: Received | None = None
        self.lost: LostError | None = None
        self.room = ""  # the room that is being joined
        self.since = time.monotonic()
        self._stack = AsyncExitStack()
        self._changed = asyncio.Event()  # GOAWAY has come, or the connection has ended
        self._listening: asyncio.Future[None] | None = None

    async def open(
        self, url: str, access: Access, rooms: Sequence[str], presence: bool, named: str = URL_FLAG
    ) -> Client:
        """Connects and joins the rooms. `named`: how the URL was given. After an error, the session is closed.

        Raises ConfigError, ConnectError, DeliveryError, LostError.
        """
        try:
            client = await self._stack.enter_async_context(open_client(url, self._take, access, named))
            for self.room in rooms:
                room = self.room
                await client.request(f"SUB {room} presence" if presence else f"SUB {room}")
        except BaseException:
            await self.close()
            raise
        self._listening = asyncio.ensure_future(client.listen())
        self._listening.add_done_callback(lambda _: self._changed.set())
        return client

    def _take(self, message: Received) -> None:
        if message.verb == "GOAWAY":
            self.goaway = message
            self._changed.set()
        elif self.live or message.verb in PRESENCE or message.verb == "FROM":
            self._show(message)

    async def wait(self) -> None:
        """Returns when GOAWAY has come or the connection has ended. Raises what `show` raised."""
        if self.goaway is None:
            await self.linger(None)
        else:
            self._ended()

    async def linger(self, seconds: float | None) -> None:
        """Returns when the connection has ended, or GOAWAY comes, or after `seconds`. Raises what `show` raised."""
        self._changed.clear()
        if not self._ended():
            with suppress(asyncio.TimeoutError):
                await with_timeout(self._changed.wait(), seconds)
        self._ended()

    def _ended(self) -> bool:
        """Whether the connection has ended; `lost` is then set. Raises what `show` raised."""
        if self._listening is None or not self._listening.done():
            return False
        error = self._listening.exception()
        if not isinstance(error, LostError):
            raise error or AssertionError("it stopped listening")
        self.lost = error
        return True

    async def close(self) -> None:
        """Closes the connection, and shows no more messages of rooms."""
        self.live = False
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
            if not self._listening.cancelled():
                self._listening.exception()
        await self._stack.aclose()


class Subscription:
    """Stays in rooms, over one connection after the other."""

    def __init__(
        self,
        url: str,
        access: Access,
        rooms: Sequence[str],
        presence: bool,
        once: bool,
        show: Show,
        named: str = URL_FLAG,
    ) -> None:
        """`once`: end with the first connection. `named`: how the URL was given. Raises ConfigError."""
        check_names(rooms, "ROOM")
        self._urls = [url]  # tried in turn; the last is the one that was given
        self._named = named
        self._access = access
        self._rooms = rooms
        self._presence = presence
        self._once = once
        self._show = show
        self._tries = 0  # since a connection last settled

    async def run(self) -> int:
        """Runs until no other try would succeed. Returns the exit status.

        Raises ConfigError if the first connection can't be made, and may not be possible later.
        """
        session = await self._connect(first=True)
        try:
            while session is not None:
                await session.wait()
                if session.lost is None and not self._once:
                    session = await self._move(session)
                else:
                    session = await self._reconnect(session)
        finally:
            if session is not None:
                await session.close()
        return FAILED

    async def _reconnect(self, session: Session) -> Session | None:
        """Returns the session after one that is lost; None if there is to be none."""
        if session.lost is None:  # GOAWAY, and `once`
            await session.linger(PATIENCE_MOST)
            return session if session.lost is None else await self._reconnect(session)
        await session.close()
        if self._once or session.lost.code in HOPELESS_CLOSE:
            say(str(session.lost))
            return None
        say(f"{session.lost}; reconnecting")
        if time.monotonic() - session.since >= SETTLED:
            self._tries = 0
        return await self._connect()

    async def _connect(self, first: bool = False) -> Session | None:
        """Tries until a session is in its rooms. Returns None if no other try would succeed, or with `once`.

        first  raise ConnectError unless the engine is only busy, and print why the first try failed
        """
        wait = 0.0 if first else self._delay()
        while True:
            await asyncio.sleep(wait)
            session = Session(self._show, live=True)
            url = self._urls[self._tries % len(self._urls)]
            named = self._named if url == self._urls[-1] else GOAWAY_URL
            try:
                client = await session.open(url, self._access, self._rooms, self._presence, named)
            except (ConnectError, DeliveryError, LostError) as error:
                if first and isinstance(error, ConnectError) and (self._once or not _is_busy(error)):
                    raise
                hopeless, reason, wait = _failure_of(error, session.room)
            else:
                say(f"{client.address} joined {', '.join(self._rooms)}")
                return session
            if self._once or hopeless:
                say(reason)
                return None
            if first:
                say(f"{reason} (trying again)")
                first = False
            wait += self._delay()

    async def _move(self, old: Session) -> Session | None:
        """Moves from a node that drains to another one. The new session is open before the old one is closed."""
        assert old.goaway is not None
        within, url = _advice_of(old.goaway, self._urls[0])
        await old.linger(random.uniform(0, EARLY * within))
        self._tries = 0
        while old.lost is None:
            new = Session(self._show, live=False)
            try:
                client = await new.open(url, self._access, self._rooms, self._presence)
            except (ConfigError, DeliveryError, LostError):
                await old.linger(self._delay())
                continue
            new.live, old.live = True, False
            say(f"{client.address} joined {', '.join(self._rooms)}, because the previous node is draining")
            await old.close()
            self._urls = [url, self._urls[-1]] if url != self._urls[-1] else [url]
            return new
        return await self._reconnect(old)

    def _delay(self) -> float:
        """Returns a random delay, whose bound doubles each time (full jitter): clients that a node loses at the same
        time don't reconnect at the same time."""
        bound = min(MOST_DELAY, FIRST_DELAY * 2 ** min(self._tries, 20))
        self._tries += 1
        return random.uniform(0, bound)


def _failure_of(error: ConnectError | DeliveryError | LostError, room: str) -> tuple[bool, str, float]:
    """Returns whether no other try would succeed, why this one failed, and the minimum seconds until the next."""
    if isinstance(error, ConnectError):
        return error.status in HOPELESS_STATUS, str(error), error.retry_after
    if isinstance(error, DeliveryError):
        return error.code not in PASSING, f"{room} can't be joined: {explained(error, f'SUB {room}')}", 0.0
    return error.code in HOPELESS_CLOSE, str(error), 0.0


def _is_busy(error: ConnectError) -> bool:
    """Whether the engine may accept the client later."""
    return error.status == TOO_MANY or error.status >= 500


def _advice_of(goaway: Received, url: str) -> tuple[float, str]:
    """Returns the seconds within which to move, and the URL to move to: that of GOAWAY, or else `url`."""
    ms = goaway.arguments[0] if goaway.arguments else ""
    within = min(int(ms) / 1000, PATIENCE_MOST) if ms.isdecimal() else 0.0
    return within, goaway.options.get("url", url)
