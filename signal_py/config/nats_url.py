"""Parses URLs of NATS servers. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from signal_py.base.hostport import host_port

DEFAULT_PORT = 4222
NO_URL = "is not the URL of a NATS server: write nats://HOST:PORT or tls://HOST:PORT"


@dataclass(frozen=True)
class Server:
    """A NATS server, and the credentials in its URL."""

    host: str
    port: int
    user: str = ""
    password: str = ""
    token: str = ""
    tls: bool = False  # required
    tls_name: str = ""  # name in its certificate; "": host

    @property
    def where(self) -> str:
        """HOST:PORT, without secrets."""
        return host_port(self.host, self.port)

    @property
    def url(self) -> str:
        """The URL without secrets."""
        return f"{'tls' if self.tls else 'nats'}://{self.where}"


def check_url(text: str) -> str:
    """Returns what is wrong with the URL of a NATS server; "" if nothing is."""
    try:
        parse_url(text)
    except ValueError as wrong:
        return str(wrong)
    return ""


def parse_url(text: str) -> Server:
    """Parses `nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT]`, or `tls://…`. Raises ValueError."""
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
    except ValueError:
        raise ValueError(NO_URL) from None
    if parts.scheme not in ("nats", "tls"):
        raise ValueError(NO_URL)
    port, tls = _port(parts), parts.scheme == "tls"
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"is not the URL of a NATS server: write {parts.scheme}://HOST:PORT")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if user and parts.password is None:
        return Server(parts.hostname, port, token=user, tls=tls)
    return Server(parts.hostname, port, user, password, tls=tls)


def _port(parts: SplitResult) -> int:
    try:
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("has no port from 1 to 65535")
    return port
