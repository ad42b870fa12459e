"""The arguments of the clients `sub`, `pub` and `send`. What they run is imported once one of them is chosen."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from signal_py.base.errors import ConfigError
from signal_py.config.parsing import Parser

if TYPE_CHECKING:
    from signal_py.cli.ws_client import Access

DEFAULT_URL = "ws://127.0.0.1:8080/"
URL_VARIABLE = "SIGNAL_ENGINE_URL"
TOKEN_VARIABLE = "SIGNAL_ENGINE_TOKEN"  # no flag: other users can see flags

SUB = """\
Joins rooms and prints one line for each message, until Ctrl-C: ROOM SENDER PAYLOAD, or @me SENDER PAYLOAD for a message
to this connection alone. SENDER is - if the sender has no address. The command reconnects when the connection ends, and
moves to another engine when its engine drains. The exit status is 1 if the engine refuses the token or a room, and with
--once when the connection ends."""
PUB = """\
Publishes to a room and waits until the engine has accepted the message. If the engine refuses it, the error goes to
standard error, and the exit status is 1."""
SEND = """\
Sends to a peer on any node and waits until the message is written to the peer's socket. If it is not delivered, the
error goes to standard error, and the exit status is 1."""
TOKEN = f"""\
If the engine requires a token, set the environment variable {TOKEN_VARIABLE}."""
CLIENTS = {
    "sub": ("print what is published to rooms", SUB),
    "pub": ("publish to a room", PUB),
    "send": ("send to one peer, or to @USER", SEND),
}


def add_clients(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the commands of the clients."""
    for name, run in (("sub", _sub), ("pub", _pub), ("send", _send)):
        _add_client(commands, name, run)


def _add_client(commands: argparse._SubParsersAction[Parser], name: str, run: object) -> None:
    short, long = CLIENTS[name]
    command = commands.add_parser(name, help=short, description=f"{long} {TOKEN}", allow_abbrev=False)
    command.add_argument(
        "--url",
        help=f"URL of an engine, ws:// or wss:// (default {DEFAULT_URL}, or the variable {URL_VARIABLE})",
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per line" if name == "sub" else "print the result as JSON",
    )
    if name == "sub":
        command.add_argument("rooms", metavar="ROOM", nargs="+", help="a room to join, such as lobby")
        command.add_argument("--presence", action="store_true", help="also print members, joins and leaves")
        command.add_argument("--raw", action="store_true", help="print only the payloads, one per line")
        command.add_argument("--once", action="store_true", help="exit when the connection ends, without reconnecting")
    elif name == "pub":
        _add_message(command, "ROOM", "a room, such as lobby")
    else:
        _add_message(command, "PEER", "an address that sub prints, such as k7m2.0f3zq8m2v9w1x, or @USER")
    add_tls(command, "wss://")
    command.set_defaults(run=run, reads=(URL_VARIABLE, TOKEN_VARIABLE))


def _add_message(command: argparse.ArgumentParser, target: str, target_help: str) -> None:
    """Adds the arguments for the target and the payload of a message."""
    command.add_argument("--file", metavar="FILE", help="send a whole file, or standard input (-), unchanged")
    command.add_argument("--binary", action="store_true", help="send as binary even if it is valid UTF-8")
    command.add_argument("target", metavar=target, help=target_help)
    text = (
        "the payload; - reads all of standard input; without TEXT and --file, "
        "each line of standard input is one message"
    )
    command.add_argument("text", metavar="TEXT", nargs="?", help=text)


def add_tls(command: argparse.ArgumentParser, scheme: str) -> None:
    """Adds the arguments for TLS. `scheme`: of URLs with TLS, for the help."""
    command.add_argument(
        "--ca",
        metavar="FILE",
        default="",
        help=f"with {scheme}: trust the certificate authorities in this file (PEM) alone (default: those of the "
        f"system, or of the variable SSL_CERT_FILE)",
    )
    command.add_argument(
        "--cert", metavar="FILE", default="", help=f"with {scheme}: the client's own certificate and its chain (PEM)"
    )
    command.add_argument(
        "--key",
        metavar="FILE",
        default="",
        help="the key of --cert (PEM, without a passphrase; default: it is in the same file)",
    )
    command.add_argument(
        "-k",
        "--insecure",
        action="store_true",
        help=f"with {scheme}: take any certificate, of anybody; whoever is on the way can then read and change "
        "everything, the token too",
    )


def _sub(options: argparse.Namespace) -> int:
    from signal_py.base.aio import run
    from signal_py.cli.output import printer
    from signal_py.cli.subscribe import Subscription

    if options.raw and options.json:
        raise ConfigError("--raw is given together with --json: give one of them.")
    show = printer("json" if options.json else "raw" if options.raw else "plain")
    url, named = _url(options)
    subscription = Subscription(url, _access(options), options.rooms, options.presence, options.once, show, named)
    return run(subscription.run())


def _pub(options: argparse.Namespace) -> int:
    return _deliver(options, f"PUB {options.target}")


def _send(options: argparse.Namespace) -> int:
    return _deliver(options, f"TO {options.target}")


def _deliver(options: argparse.Namespace, head: str) -> int:
    from signal_py.base.aio import run
    from signal_py.cli.pubsub import deliver, payloads

    messages = payloads(options.text, options.file)
    url, named = _url(options)
    return run(deliver(url, _access(options), head, messages, options.json, options.binary, named))


def _url(options: argparse.Namespace) -> tuple[str, str]:
    """Returns the URL of the engine, and how it was given."""
    if options.url is None:
        url = os.environ.get(URL_VARIABLE, "")
        return (url, URL_VARIABLE) if url else (DEFAULT_URL, "--url")
    return str(options.url), "--url"


def _access(options: argparse.Namespace) -> Access:
    """Returns what to connect with. Raises ConfigError."""
    from signal_py.cli.client_tls import ClientTls
    from signal_py.cli.ws_client import Access

    return Access(_token(), ClientTls.of(options))


def _token() -> str:
    """Returns the token to connect with; "" for none. Raises ConfigError for a text that no header can contain."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(
            f"{TOKEN_VARIABLE} has a space, a line break or a character that is not ASCII: give one token."
        )
    return token
