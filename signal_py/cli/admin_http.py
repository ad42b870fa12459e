"""HTTP to an engine's admin server, over TCP or a unix socket."""

from __future__ import annotations

import http.client
import socket
from urllib.parse import urlsplit

from signal_py.base.errors import ConfigError
from signal_py.base.hostport import redacted, unix_target
from signal_py.cli.client_tls import SYSTEM, ClientTls, explain, tls_error_of

TIMEOUT = 10.0  # seconds for the admin server to answer


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, address: str, timeout: float) -> None:
        """`address`: as socket.connect takes it."""
        super().__init__("localhost", timeout=timeout)
        self._address = address

    def connect(self) -> None:
        """Connects to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._address)
        except BaseException:
            self.sock.close()
            self.sock = None
            raise


def connection_to(
    admin: str, named: str, timeout: float = TIMEOUT, tls: ClientTls = SYSTEM
) -> http.client.HTTPConnection:
    """Returns a connection to an admin server, which is not open yet. Raises ConfigError.

    admin  HOST:PORT, unix:/PATH, unix:@NAME, or the URL that the engine logs as admin=…
    named  how it was given, for errors
    tls    for https://
    """
    unix = unix_target(admin, "http")
    if unix is not None and unix[1] == "/":
        return _UnixConnection(unix[0], timeout)
    try:
        parts = urlsplit(admin if "://" in admin else f"http://{admin}")
        if parts.scheme == "http" and parts.hostname and parts.port:
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        if parts.scheme == "https" and parts.hostname:
            port = parts.port or http.client.HTTPS_PORT
            return http.client.HTTPSConnection(parts.hostname, port, timeout=timeout, context=tls.context)
    except ConfigError:
        raise
    except (ValueError, http.client.InvalidURL):
        pass
    raise ConfigError(
        f"{named} '{redacted(admin)}' is not an admin server: write HOST:PORT, http://HOST:PORT/, "
        "https://HOST:PORT/ or unix:/PATH."
    )


def tls_trouble(error: BaseException, connection: http.client.HTTPConnection) -> str:
    """Returns what is wrong with TLS, and the fix: text that follows the address. "" if that is not the cause."""
    wrong = tls_error_of(error) if isinstance(connection, http.client.HTTPSConnection) else None
    return explain(wrong, connection.host, "http://") if wrong is not None else ""
