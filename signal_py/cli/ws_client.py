"""A small signal.v1 client, for the command line: one connection, one request at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from signal_py.base.aio import with_timeout
from signal_py.base.errors import ConfigError, DeliveryError, EngineError
from signal_py.base.hostport import redacted, unix_target
from signal_py.cli.client_tls import SYSTEM, ClientTls, explain, tls_error_of

SUBPROTOCOL = Subprotocol("signal.v1")
ANSWER_TIMEOUT = 30.0  # seconds; an engine answers every ref sooner
URL_FLAG = "--url"
OPEN_TIMEOUT = 10.0  # seconds
RETRY_AFTER_MOST = 600.0  # maximum seconds of Retry-After
CLOSE_TIMEOUT = 1.0  # seconds for the Close frame of the other end
POSITIONAL = {"MSG": 2, "JOIN": 2, "LEAVE": 2}  # arguments before the options of a head; 1 for others


class LostError(EngineError):
    """The connection has ended, or the other end does not answer. `code` is that of the Close frame; 0 without one."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class ConnectError(ConfigError):
    """The engine can't be connected to.

    status       of the HTTP answer; 0 without one
    retry_after  seconds to wait, as the answer says; 0 without one
    """

    def __init__(self, text: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Access:
    """What a client connects with. `token`: "" for none."""

    token: str = ""
    tls: ClientTls = SYSTEM


@dataclass(frozen=True)
class Received:
    """A message from the engine: the parts of its head, and its payload."""

    verb: str
    arguments: tuple[str, ...]
    options: dict[str, str]
    payload: str | bytes


def parse(data: str | bytes) -> Received:
    """Parses a message. The payload follows the first LF."""
    payload: str | bytes
    if isinstance(data, str):
        head, _, payload = data.partition("\n")
    else:
        first, _, payload = data.partition(b"\n")
        head = first.decode("ascii", "replace")
    verb, *parts = head.split(" ")
    count = POSITIONAL.get(verb, 1)
    options = dict(part.partition("=")[::2] for part in parts[count:])
    return Received(verb, tuple(parts[:count]), options, payload)


class Client:
    """A connection that has received HELLO. Messages that are not answers go to `on_message`."""

    def __init__(self, connection: ClientConnection, hello: Received, on_message: Callable[[Received], None]) -> None:
        self._connection = connection
        self._on_message = on_message
        self._last_ref = 0
        self.address = hello.arguments[0]
        self.hello: dict[str, Any] = json.loads(hello.payload)

    async def request(self, head: str, payload: bytes | None = None, binary: bool = False) -> None:
        """Sends a message with a ref, and waits for its answer. UTF-8 is sent as text, unless `binary` is true.

        Raises DeliveryError, LostError.
        """
        most = self.hello["max_message"]
        if payload is not None and len(payload) > most:  # the engine would close the connection
            raise DeliveryError("too-large", f"The payload is larger than the engine's limit of {most} bytes.")
        self._last_ref += 1
        ref = str(self._last_ref)
        line = f"{head} ref={ref}".encode()
        try:
            message = line if payload is None else line + b"\n" + payload
            await self._connection.send(message if binary else _text_or_bytes(message))
            await with_timeout(self._answer(ref), ANSWER_TIMEOUT)
        except ConnectionClosed as closed:
            raise _lost(closed) from None
        except asyncio.TimeoutError:
            raise LostError(f"no answer came in {ANSWER_TIMEOUT:g} s") from None

    async def _answer(self, ref: str) -> None:
        while True:
            message = parse(await self._connection.recv())
            if message.verb == "OK" and message.arguments == (ref,):
                return
            if message.verb == "ERR" and message.options.get("ref") == ref:
                raise DeliveryError(message.arguments[0], str(message.payload))
            self._on_message(message)

    async def listen(self) -> None:
        """Passes messages to `on_message` until the connection ends, and then raises LostError."""
        try:
            while True:
                self._on_message(parse(await self._connection.recv()))
        except ConnectionClosed as closed:
            raise _lost(closed) from None


def _text_or_bytes(message: bytes) -> str | bytes:
    try:
        return message.decode()
    except UnicodeDecodeError:
        return message


def _lost(closed: ConnectionClosed) -> LostError:
    if closed.rcvd is None:
        return LostError("the connection was lost")
    text = f"the engine closed the connection with {closed.rcvd.code} {closed.rcvd.reason}".rstrip()
    return LostError(text, closed.rcvd.code)


def check_url(url: str, named: str = URL_FLAG) -> None:
    """Raises ConfigError for a text that is not a WebSocket URL."""
    try:
        parts = urlsplit(_target(url)[0])
        good = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
        parse_uri(_target(url)[0])
    except (ValueError, InvalidURI):
        good = False
    if not good:
        raise ConfigError(
            f"{named} '{redacted(url)}' is not a WebSocket URL: write ws://HOST:PORT/, wss://HOST:PORT/, "
            "or ws+unix:/PATH:/."
        )


def _target(url: str) -> tuple[str, dict[str, Any]]:
    """Returns the URL of the request, and how to connect: for `ws+unix:/PATH:/`, to that unix socket."""
    unix = unix_target(url, "ws") if url.startswith("ws+unix:") else None
    return (f"ws://localhost{unix[1]}", {"unix": True, "path": unix[0]}) if unix is not None else (url, {})


def _with_tls(url: str) -> bool:
    return url[:4].lower() == "wss:"


ANYBODY = Access()
FIX = "give the URL of an engine that accepts clients."
TOKEN_FIX = "set the variable SIGNAL_ENGINE_TOKEN to a valid token."
FIXES = {  # by the status that refuses a handshake
    401: TOKEN_FIX,
    403: TOKEN_FIX,
    404: "there is no WebSocket endpoint at this path; give the URL that an engine logs as listening=….",
    429: "this address or user has reached its connection limit; close some connections, or raise the limit.",
    431: "the token or the URL is too long; give a shorter one.",
    503: "the engine is full or about to stop; try again, or give another URL.",
}


@asynccontextmanager
async def open_client(
    url: str,
    on_message: Callable[[Received], None] = lambda message: None,
    access: Access = ANYBODY,
    named: str = URL_FLAG,
) -> AsyncIterator[Client]:
    """Connects to an engine, and closes the connection at the end. `named`: how the URL was given.

    Raises ConnectError if that fails, ConfigError for a text that is not a URL.
    """
    check_url(url, named)
    async with await _connect(url, access, named) as connection:
        yield Client(connection, await _hello(connection, url, named), on_message)


async def _connect(url: str, access: Access, named: str) -> ClientConnection:
    """Opens a WebSocket. Raises ConnectError; ConfigError for files of TLS that can't be used."""
    uri, how = _target(url)
    if _with_tls(url):
        how["ssl"] = access.tls.context
    try:
        return await connect(
            uri,
            **how,
            additional_headers={"Authorization": f"Bearer {access.token}"} if access.token else None,
            subprotocols=[SUBPROTOCOL],
            max_size=None,
            compression=None,
            proxy=None,
            open_timeout=OPEN_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
        )
    except InvalidStatus as refused:
        status = refused.response.status_code
        text = f"{named} {redacted(url)} answered HTTP {status}: {FIXES.get(status, FIX)}"
        raise ConnectError(text, status, _retry_after(refused.response.headers.get("Retry-After", ""))) from None
    except (OSError, InvalidHandshake, UnicodeError, asyncio.TimeoutError) as error:
        raise ConnectError(f"{named} {redacted(url)} {_trouble(error, uri)}") from None


def _trouble(error: BaseException, uri: str) -> str:
    """Returns why no WebSocket was opened, and the fix: text that follows the URL."""
    wrong = tls_error_of(error) if _with_tls(uri) else None
    if wrong is not None:
        return explain(wrong, urlsplit(uri).hostname or "", "ws://")
    fix = "start one there with 'signal-engine serve', or give another address."
    return f"can't be reached ({_reason(error)}): {fix}"


def _retry_after(value: str) -> float:
    """Returns the seconds of Retry-After; 0 for a date, which the engine does not send."""
    return min(float(value), RETRY_AFTER_MOST) if value.isdecimal() else 0.0


def _reason(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "nothing listens there"
    if isinstance(error, asyncio.TimeoutError):
        return "no answer"
    if isinstance(error, UnicodeError):
        return "its host name is not valid"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


async def _hello(connection: ClientConnection, url: str, named: str) -> Received:
    """Waits for HELLO. Raises ConnectError for anything else."""
    try:
        hello = parse(await with_timeout(connection.recv(), OPEN_TIMEOUT))
    except (ConnectionClosed, asyncio.TimeoutError):
        hello = Received("", (), {}, "")
    if hello.verb != "HELLO" or not hello.arguments or not _is_hello(hello.payload):
        raise ConnectError(f"{named} {redacted(url)} doesn't speak signal.v1: give the address of a signal-engine.")
    return hello


def _is_hello(payload: str | bytes) -> bool:
    """Returns whether the payload of HELLO has the fields that the client needs."""
    try:
        return isinstance(json.loads(payload)["max_message"], int)
    except (LookupError, TypeError, ValueError, RecursionError):
        return False
