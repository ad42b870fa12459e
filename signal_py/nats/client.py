"""A connection to NATS by nats-py, for the control plane: with the servers, credentials and files of the settings.

Each connection reads the files again, so that they may be replaced. nats-py's own reconnecting is not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client

from signal_py.base.aio import with_timeout
from signal_py.base.errors import EngineError
from signal_py.base.files import read_text
from signal_py.config.nats_url import Server
from signal_py.nats.credentials import Credentials
from signal_py.nats.tls import Tls, wants_tls

CONNECT_TIMEOUT = 5  # seconds for each step of connecting
CLOSE_TIMEOUT = 1.0
PING_INTERVAL = 30  # seconds; the connection is closed at the second PING without an answer
OPTIONS: dict[str, Any] = {
    "allow_reconnect": False,
    "max_reconnect_attempts": 1,
    "reconnect_time_wait": 0,
    "connect_timeout": CONNECT_TIMEOUT,
    "ping_interval": PING_INTERVAL,
    "max_outstanding_pings": 1,
}
ENDS = (OSError, nats.errors.StaleConnectionError)  # the connection ended, which `on_closed` reports
NO_TLS = "it offers no TLS, but its URL requires it"


class NatsError(EngineError):
    """A NATS server can't be connected to, or the connection has ended. The text says why."""


class _Client(Client):
    """nats-py's client, but the server's URL decides whether it uses TLS."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._wanted = server

    def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> Any:
        if initial_connection and wants_tls(bool(info.get("tls_required")), self._wanted):
            if not (info.get("tls_required") or info.get("tls_available")):
                raise nats.errors.Error(NO_TLS)
            info["tls_required"] = True
        return super()._process_info(info, initial_connection)


async def connect(
    server: Server,
    credentials: Credentials,
    tls: Tls,
    name: str,
    on_error: Callable[[str], None],
    on_closed: Callable[[], None],
) -> Client:
    """Connects to one server, once. Raises NatsError.

    on_error   called with each error that NATS reports, such as a permission violation
    on_closed  called when the connection has ended, for any reason
    """
    context, proof = await _access(server, credentials, tls)
    client = _Client(server)
    problems: list[str] = []

    async def report(error: Exception) -> None:
        problems.append(reason(error))
        if client.is_connected and not isinstance(error, ENDS):
            on_error(problems[-1])

    async def closed() -> None:
        on_closed()

    try:
        await client.connect(
            servers=[server.url],
            name=name,
            error_cb=report,
            closed_cb=closed,
            tls=context,
            tls_hostname=server.tls_name or server.host,
            **OPTIONS,
            **proof,
        )
    except Exception as error:  # nats-py raises many kinds
        await close(client)
        raise NatsError(problems[0] if problems else reason(error)) from None
    except BaseException:
        await close(client)
        raise
    return client


async def _access(server: Server, credentials: Credentials, tls: Tls) -> tuple[ssl.SSLContext | None, dict[str, Any]]:
    """Reads the files for TLS and the credentials. Raises NatsError."""
    try:
        context = await asyncio.to_thread(_context, tls) if server.tls or tls.ca or tls.cert else None
        return context, _proof(credentials, server)
    except Exception as error:  # such as a file that is being replaced
        raise NatsError(reason(error)) from None


async def close(client: Client) -> None:
    """Closes a connection in any state. Raises nothing."""
    with contextlib.suppress(Exception):  # such as AssertionError before it is connected
        await with_timeout(client.close(), CLOSE_TIMEOUT)


def reason(error: Exception) -> str:
    """Returns what an error of nats-py means, briefly."""
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "nothing listens there"
    if isinstance(error, asyncio.TimeoutError | nats.errors.TimeoutError):
        return "no answer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return text.removeprefix("nats: ").strip("' \r\n").replace("\n", " ")


def _context(tls: Tls) -> ssl.SSLContext:
    """Loads the files for TLS. Raises OSError (ssl.SSLError is one) or ValueError."""
    tls.check()
    context = ssl.create_default_context(cafile=tls.ca or None)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key, password=lambda: "")  # instead of a prompt
    return context


def _proof(credentials: Credentials, server: Server) -> dict[str, Any]:
    """Returns the credentials as arguments of nats-py. Raises OSError or ValueError for a file that can't be used."""
    fields = credentials.proof("", server)
    if credentials.creds_file:
        return {
            "user_jwt_cb": fields["jwt"].encode,
            "signature_cb": lambda nonce: credentials.proof(nonce, server)["sig"].encode(),
        }
    if credentials.seed_file:
        return {"nkeys_seed_str": read_text(credentials.seed_file).strip()}
    names = {"user": "user", "pass": "password", "auth_token": "token"}
    return {names[name]: value for name, value in fields.items()}
