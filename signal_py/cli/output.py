"""Prints what `sub` receives, one line each: as text, as JSON, or the payload only."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable

from signal_py.base.log import printable, say
from signal_py.cli.ws_client import Received

PRESENCE = {"MEMBERS": "member", "JOIN": "join", "LEAVE": "leave"}  # verb: the event that is printed
TO_ME = "@me"  # printed in place of a room, since no room's name begins with @

Show = Callable[[Received], None]


def printer(form: str) -> Show:
    """Returns a function that prints messages, presence events, and on standard error drop notices.

    form  "plain", "json", or "raw": of a message only the payload
    """

    def show(message: Received) -> None:
        if message.verb in ("MSG", "FROM"):
            lines = [json_line(message) if form == "json" else plain_line(message, form == "raw", sys.stdout.isatty())]
        elif message.verb in PRESENCE:
            lines = presence_lines(message, form == "json")
        else:
            if message.verb == "GAP":
                say(f"{message.arguments[0]} messages were dropped, because they were read too slowly")
            return
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()

    return show


def json_line(message: Received) -> bytes:
    """Returns a message as a JSON object, with the payload as `text`, or `base64` if it is binary."""
    *room, peer = message.arguments  # FROM has no room
    line: dict[str, str] = {**({"room": room[0]} if room else {}), "peer": peer, **message.options}
    if isinstance(message.payload, str):
        line["text"] = message.payload
    else:
        line["base64"] = base64.b64encode(message.payload).decode()
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def presence_lines(message: Received, as_json: bool) -> list[bytes]:
    """Returns a line for each peer: `join ROOM PEER [user=U]`, or a JSON object."""
    event, room = PRESENCE[message.verb], message.arguments[0]
    if message.verb == "MEMBERS":
        peers = [line.split(" ") for line in str(message.payload).split("\n") if line]
    else:
        peers = [[message.arguments[1], *(f"{name}={value}" for name, value in message.options.items())]]
    if not as_json:
        return [f"{' '.join([event, room, *peer])}\n".encode() for peer in peers]
    return [
        json.dumps({"room": room, "event": event, "peer": peer, **dict(o.split("=", 1) for o in options)}).encode()
        + b"\n"
        for peer, *options in peers
    ]


def plain_line(message: Received, raw: bool, terminal: bool) -> bytes:
    """Returns `ROOM SENDER PAYLOAD`, or the payload only if `raw`.

    For a terminal it is one line, with everything escaped that is not printable; otherwise the payload is unchanged.
    """
    payload = message.payload.encode() if isinstance(message.payload, str) else message.payload
    if terminal:
        payload = printable(payload.decode("utf-8", "backslashreplace")).encode()
    *room, peer = message.arguments
    head = b"" if raw else f"{room[0] if room else TO_ME} {peer} ".encode()
    return head + payload + b"\n"
