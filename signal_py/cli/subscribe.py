"""What `sub` does: stays in its rooms, over connections that end and nodes that drain, until it is told to end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from signal_py.base.errors import ConfigError, DeliveryError
from signal_py.cli.output import PRESENCE, Show, say
from signal_py.cli.pubsub import FAILED, check_words, explained
from signal_py.cli.ws_client import URL_FLAG, Client, ConnectError, Heard, LostError, open_client

FIRST_DELAY, MOST_DELAY = 0.25, 30.0  # seconds; a delay is a random part of a bound that doubles from one to the other
GOAWAY_URL = "the url of GOAWAY,"  # how that one is named
SETTLED = 10.0  # seconds that a connection stands until the next delay is short again
PATIENCE_MOST = 600.0  # seconds of GOAWAY that are heeded
EARLY = 0.9  # of that: to come elsewhere takes time, too
BUSY = 429
HOPELESS_STATUS = {*range(400, 500)} - {BUSY}  # of HTTP: another try would end the same
HOPELESS_CLOSE = (1008, 4001)  # the token has ended or is refused, or the client misbehaved
PASSING = ("unavailable", "timeout", "rate")  # codes of a SUB that is worth another try


class Session:
    """One connection that is in its rooms."""

    def __init__(self, show: Show, live: bool) -> None:
        """`live`: what is said in rooms is shown from the start, and not only from when that is set."""
        self._show = show
        self.live = live
        self.goaway: Heard | None = None
        self.lost: LostError | None = None
        self.room = ""  # that is being joined
        self.since = time.monotonic()
        self._stack = AsyncExitStack()
        self._told = asyncio.Event()
        self._listening: asyncio.Future[None] | None = None

    async def open(self, url: str, token: str, rooms: Sequence[str], presence: bool, named: str = URL_FLAG) -> Client:
        """`named`: how the URL was given. Raises ConnectError, DeliveryError, LostError."""
        try:
            client = await self._stack.enter_async_context(open_client(url, self._take, token, named))
            for self.room in rooms:
                room = self.room
                await client.request(f"SUB {room} presence" if presence else f"SUB {room}")
        except BaseException:
            await self.close()
            raise
        self._listening = asyncio.ensure_future(client.listen())
        self._listening.add_done_callback(lambda _: self._told.set())
        return client

    def _take(self, heard: Heard) -> None:
        if heard.verb == "GOAWAY":
            self.goaway = heard
            self._told.set()
        elif self.live or heard.verb in PRESENCE or heard.verb == "FROM":
            self._show(heard)

    async def wait(self, seconds: float | None = None) -> None:
        """Until it is lost or told to go, or so many seconds. Raises what printing raised."""
        self._told.clear()
        if self.goaway is None and not self._ended():
            await _wait(self._told, seconds)
        self._ended()

    async def linger(self, seconds: float) -> None:
        """As `wait`, for one that was told to go."""
        self._told.clear()
        if not self._ended():
            await _wait(self._told, seconds)
        self._ended()

    def _ended(self) -> bool:
        if self._listening is None or not self._listening.done():
            return False
        error = self._listening.exception()
        if not isinstance(error, LostError):
            raise error or AssertionError("it stopped listening")
        self.lost = error
        return True

    async def close(self) -> None:
        self.live = False
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
            if not self._listening.cancelled():
                self._listening.exception()
        await self._stack.aclose()


class Subscription:
    """`sub`: its rooms, and the connection by which it is in them."""

    def __init__(
        self,
        url: str,
        token: str,
        rooms: Sequence[str],
        presence: bool,
        once: bool,
        show: Show,
        named: str = URL_FLAG,
    ) -> None:
        """`once`: it ends with its connection. `named`: how the URL was given. Raises ConfigError."""
        check_words(rooms, "ROOM")
        self._urls = [url]  # tried in turn; the last is the one that was given
        self._named = named
        self._token = token
        self._rooms = rooms
        self._presence = presence
        self._once = once
        self._show = show
        self._tries = 0  # since a connection stood for a while

    async def run(self) -> int:
        """The exit status. Raises ConfigError where nothing is there to connect to at first."""
        session = await self._connect(first=True)
        try:
            while session is not None:
                await session.wait()
                if session.lost is None and not self._once:
                    session = await self._move(session)
                else:
                    session = await self._again(session)
        finally:
            if session is not None:
                await session.close()
        return FAILED

    async def _again(self, session: Session) -> Session | None:
        """The connection after one that is lost; None where there is to be none."""
        if session.lost is None:  # it is told to go, and goes with its connection
            await session.linger(PATIENCE_MOST)
            return session if session.lost is None else await self._again(session)
        await session.close()
        if self._once or session.lost.code in HOPELESS_CLOSE:
            say(str(session.lost))
            return None
        say(f"{session.lost}; reconnecting")
        if time.monotonic() - session.since >= SETTLED:
            self._tries = 0
        return await self._connect()

    async def _connect(self, first: bool = False) -> Session | None:
        """Tries until it is in its rooms, or has no reason to hope. `first`: raises ConnectError where nothing is
        there, and says what is tried again."""
        wait = 0.0 if first else self._delay()
        while True:
            await asyncio.sleep(wait)
            session = Session(self._show, live=True)
            url = self._urls[self._tries % len(self._urls)]
            try:
                named = self._named if url == self._urls[-1] else GOAWAY_URL
                client = await session.open(url, self._token, self._rooms, self._presence, named)
            except ConnectError as error:
                if first and (self._once or not _is_busy(error)):
                    raise
                hopeless, reason, wait = error.status in HOPELESS_STATUS, str(error), error.retry_after
            except DeliveryError as error:
                hopeless, reason, wait = error.code not in PASSING, _not_joined(session.room, error), 0.0
            except LostError as error:
                hopeless, reason, wait = error.code in HOPELESS_CLOSE, str(error), 0.0
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
        """To the node that takes over from one that drains: the new connection stands before the old one goes."""
        assert old.goaway is not None
        within, url = _advice(old.goaway, self._urls[0])
        await old.linger(random.uniform(0, EARLY * within))
        self._tries = 0
        while old.lost is None:
            new = Session(self._show, live=False)
            try:
                client = await new.open(url, self._token, self._rooms, self._presence)
            except (ConfigError, DeliveryError, LostError):
                await old.linger(self._delay())
                continue
            new.live, old.live = True, False
            say(f"{client.address} joined {', '.join(self._rooms)}, because the previous node is draining")
            await old.close()
            self._urls = [url, self._urls[-1]] if url != self._urls[-1] else [url]
            return new
        return await self._again(old)

    def _delay(self) -> float:
        """Full jitter: any part of a bound that doubles each time, so that those who were lost together come apart."""
        bound = min(MOST_DELAY, FIRST_DELAY * 2 ** min(self._tries, 20))
        self._tries += 1
        return random.uniform(0, bound)


def _not_joined(room: str, error: DeliveryError) -> str:
    return f"{room} can't be joined: {explained(error, f'SUB {room}')}"


def _is_busy(error: ConnectError) -> bool:
    """Whether it may be another time."""
    return error.status == BUSY or error.status >= 500


def _advice(goaway: Heard, url: str) -> tuple[float, str]:
    """Seconds within which to go, and where to."""
    ms = goaway.arguments[0] if goaway.arguments else ""
    within = min(int(ms) / 1000, PATIENCE_MOST) if ms.isdecimal() else 0.0
    return within, goaway.options.get("url", url)


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    finally:
        waiting.cancel()
