"""The command `drain`: asks a node's admin server for a drain."""

from __future__ import annotations

import contextlib
import http.client
import json

from signal_py.base.errors import ConfigError
from signal_py.base.hostport import redacted
from signal_py.base.log import say
from signal_py.cli.admin_http import connection_to, tls_trouble
from signal_py.cli.client_tls import SYSTEM, ClientTls
from signal_py.config.parsing import FAILED

MAX_ANSWER = 65536  # bytes


def drain(admin: str, named: str, tls: ClientTls = SYSTEM) -> int:
    """Makes a node begin a drain, and prints what it will do. Returns the exit status. Raises ConfigError.

    admin  the address of the admin server, as connection_to takes it
    named  how it was given, for errors
    tls    for https://
    """
    connection = connection_to(admin, named, tls=tls)
    try:
        status, body = _post(connection)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        text = f"can't be reached ({getattr(error, 'strerror', None) or error}): give the engine's --admin address."
        raise ConfigError(f"{named} {redacted(admin)} {tls_trouble(error, connection) or text}") from None
    if status != http.client.ACCEPTED:
        say(f"{redacted(admin)} answered HTTP {status}")
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


def _post(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
    """Asks for the drain. Returns the status and the body of the answer."""
    with contextlib.closing(connection):
        connection.request("POST", "/drain")
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_ANSWER)
