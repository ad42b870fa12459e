"""Parses and formats HOST:PORT and WebSocket URLs."""

from __future__ import annotations

import ipaddress
import re

TOKEN = re.compile(r"([?&]token=)[^&#]*")
USERINFO = re.compile(r"(?<=://)[^/?#]*@")


def split_address(text: str) -> tuple[str, int]:
    """Parses `HOST:PORT` or `[IPv6]:PORT`. Raises ValueError, whose text follows the setting's name."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("is not HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError("has no port from 0 to 65535 after the last colon")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare == host and ("[" in host or "]" in host):
        raise ValueError("has brackets that are not around an IPv6 address: write it as in [::1]:8080")
    if ":" in bare and bare == host:
        raise ValueError(f"is ambiguous: write an IPv6 address in brackets, [{host}]:{port}")
    if bare != host:
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise ValueError("has no IPv6 address between its brackets") from None
    return bare, int(port)


def host_port(host: str, port: int) -> str:
    """Returns `HOST:PORT`, with an IPv6 host in brackets; of a unix socket its name, such as `unix:/run/ws.sock`."""
    if host.startswith("unix:"):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_ip(host: str) -> bool:
    """Returns whether a host is a numeric address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def redacted(url: str) -> str:
    """Hides the token in a URL's query, and its user name and password."""
    return TOKEN.sub(r"\1***", USERINFO.sub("***@", url))


def bound_url(host: str, port: int, path: str = "/") -> str:
    """Returns the WebSocket URL of a bound address, such as `ws://0.0.0.0:8080/` or `ws+unix:/run/ws.sock:/`."""
    if host.startswith("unix:"):
        return f"ws+{host}:{path}"
    return f"ws://{host_port(host, port)}{path}"


def admin_url(host: str, port: int, tls: bool = False) -> str:
    """Returns the URL of the admin server, such as `http://127.0.0.1:9100/` or `http+unix:/run/admin.sock:/`."""
    scheme = "https" if tls else "http"
    return f"http+{host}:/" if host.startswith("unix:") else f"{scheme}://{host_port(host, port)}/"


def unix_target(text: str, scheme: str) -> tuple[str, str] | None:
    """Splits the name or URL of a unix socket; None for anything else.

    text    `unix:/run/s`, `unix:@name`, or of these `ws+unix:/run/s:/path` for the scheme `ws`

    Returns the address that connect() takes, and the path of the request with its query, which begins with a slash.
    """
    text = text.removeprefix(f"{scheme}+")
    if not text.startswith(("unix:/", "unix:@")):
        return None
    name, colon, path = text.removeprefix("unix:").partition(":/")
    return "\0" + name[1:] if name.startswith("@") else name, "/" + path if colon else "/"


def url_of(host: str, port: int, path: str = "/") -> str:
    """Returns a WebSocket URL for clients on this machine. `path` begins with a slash."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return bound_url(local, port, path)
