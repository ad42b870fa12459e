"""What `drain` does: a word to a node's admin server."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

from signal_py.base.errors import ConfigError
from signal_py.base.hostport import redacted
from signal_py.base.log import say

TIMEOUT = 10.0  # seconds for the admin server to answer
MAX_ANSWER = 65536  # bytes
FAILED = 1


def drain(admin: str, named: str) -> int:
    """Has a node begin to drain, and says what that leads to; the exit status. `named`: how its place was given.
    Raises ConfigError."""
    host, port = _place(admin, named)
    connection: http.client.HTTPConnection | None = None
    try:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        connection.request("POST", "/drain")
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise ConfigError(
            f"{named} {redacted(admin)} can't be reached ({getattr(error, 'strerror', None) or error}): "
            "give the engine's --admin address."
        ) from None
    finally:
        if connection is not None:
            connection.close()
    if answer.status != http.client.ACCEPTED:
        say(f"signal-engine: {redacted(admin)} answered HTTP {answer.status}")
        return FAILED
    try:
        found = json.loads(body)
        text = f"{found['node']} is draining: {found['connections']} connections end within {found['drain_time']:g} s"
    except (LookupError, RecursionError, TypeError, ValueError):
        raise ConfigError(
            f"{named} {redacted(admin)} did not answer like an engine: give the engine's --admin address."
        ) from None
    print(text)
    return 0


def _place(admin: str, named: str) -> tuple[str, int]:
    """Host and port. Raises ConfigError."""
    url = admin if "://" in admin else f"http://{admin}"
    try:
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise ConfigError(f"{named} '{redacted(admin)}' is not an admin server: write HOST:PORT or http://HOST:PORT/.")
