"""What `sub` prints of what it hears: a line each, for people, as JSON, or as it came."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable

from signal_py.base import log
from signal_py.cli.ws_client import Heard

PRESENCE = {"MEMBERS": "member", "JOIN": "join", "LEAVE": "leave"}  # verb: the word that is printed
TO_ME = "@me"  # in place of a room, whose name can't begin so

Show = Callable[[Heard], None]


def say(text: str) -> None:
    """On standard error. Where nobody reads that, the exit status still tells."""
    log.say(f"signal-engine: {text}")


def printer(form: str) -> Show:
    """Prints messages and presence: "plain", "json", or "raw", which is payloads only. What was lost is told on
    standard error."""

    def show(heard: Heard) -> None:
        if heard.verb in ("MSG", "FROM"):
            lines = [json_line(heard) if form == "json" else plain_line(heard, form == "raw", sys.stdout.isatty())]
        elif heard.verb in PRESENCE:
            lines = presence_lines(heard, form == "json")
        else:
            if heard.verb == "GAP":
                say(f"{heard.arguments[0]} messages were lost, because they were read too slowly")
            return
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()

    return show


def json_line(heard: Heard) -> bytes:
    *room, peer = heard.arguments  # one that was sent to this connection itself has no room
    line: dict[str, str] = {**({"room": room[0]} if room else {}), "peer": peer, **heard.options}
    if isinstance(heard.payload, str):
        line["text"] = heard.payload
    else:
        line["base64"] = base64.b64encode(heard.payload).decode()
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def presence_lines(heard: Heard, as_json: bool) -> list[bytes]:
    """A line for each peer: `join ROOM PEER [user=U]`, or an object."""
    event, room = PRESENCE[heard.verb], heard.arguments[0]
    if heard.verb == "MEMBERS":
        told = [line.split(" ") for line in str(heard.payload).split("\n") if line]
    else:
        told = [[heard.arguments[1], *(f"{name}={value}" for name, value in heard.options.items())]]
    if not as_json:
        return [f"{' '.join([event, room, *who])}\n".encode() for who in told]
    return [
        json.dumps({"room": room, "event": event, "peer": peer, **dict(o.split("=", 1) for o in options)}).encode()
        + b"\n"
        for peer, *options in told
    ]


def plain_line(heard: Heard, raw: bool, terminal: bool) -> bytes:
    """`ROOM SENDER PAYLOAD`, or the payload only. On a terminal it is one line without anything that a terminal obeys,
    elsewhere the payload's own bytes."""
    payload = heard.payload.encode() if isinstance(heard.payload, str) else heard.payload
    if terminal:
        payload = _printable(payload.decode("utf-8", "backslashreplace")).encode()
    *room, peer = heard.arguments
    head = b"" if raw else f"{room[0] if room else TO_ME} {peer} ".encode()
    return head + payload + b"\n"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
