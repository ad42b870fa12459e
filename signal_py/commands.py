"""What `sub`, `pub` and `send` do."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence

from signal_py.aside import aside
from signal_py.client import Heard, LostError, open_client
from signal_py.errors import ConfigError, DeliveryError

FAILED = 1  # exit status of what was refused, or of a connection that was lost
NAME_MAX = 128  # characters of a room or @USER; addresses are shorter
PRESENCE = {"MEMBERS": "member", "JOIN": "join", "LEAVE": "leave"}  # verb: the word that is printed


async def subscribe(url: str, token: str, rooms: Sequence[str], as_json: bool, presence: bool = False) -> int:
    """Prints what it hears, a line each, until the connection ends; with `presence` also who is there, joins and
    leaves. Raises ConfigError."""
    _check_words(rooms, "ROOM")

    def show(heard: Heard) -> None:
        if heard.verb in ("MSG", "FROM"):
            sys.stdout.buffer.write((_json_line if as_json else _plain_line)(heard))
            sys.stdout.buffer.flush()
        elif heard.verb in PRESENCE:
            for line in _presence_lines(heard, as_json):
                sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        elif heard.verb == "GAP":
            _say(f"{heard.arguments[0]} messages were lost: this reads too slowly")

    try:
        async with open_client(url, show, token) as client:
            for room in rooms:
                await client.request(f"SUB {room} presence" if presence else f"SUB {room}")
            _say(f"{client.address} hears {', '.join(rooms)}")
            await client.listen()
    except DeliveryError as error:
        _say(f"{error.code}: the engine refuses to join {room}")
    except LostError as error:
        _say(str(error))
    return FAILED


async def deliver(url: str, token: str, head: str, text: str | None, as_json: bool) -> int:
    """Sends a text, or each line of standard input, and waits for each answer; stops at the first ERR."""
    _check_words([head.partition(" ")[2]], "ROOM" if head.startswith("PUB") else "PEER")
    code = ""
    try:
        async with open_client(url, token=token) as client:
            async for line in _texts(text):
                try:
                    await client.request(head, line)
                except DeliveryError as error:
                    code = error.code
                if as_json:
                    print(json.dumps({"code": code or "ok"}), flush=True)
                if code:
                    _say(code)
                    return FAILED
    except LostError as error:
        _say(str(error))
        return FAILED
    return 0


async def _texts(text: str | None) -> AsyncIterator[bytes]:
    if text is not None:
        yield os.fsencode(text)
        return
    # One of its own, and never closed: that, as the end of Python does with sys.stdin, would wait for a read under way.
    lines = os.fdopen(sys.stdin.fileno(), "rb", closefd=False)
    while line := await aside(lines.readline):  # on a thread, so that pings are answered meanwhile
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _json_line(heard: Heard) -> bytes:
    *room, peer = heard.arguments  # one that was sent to this connection itself has no room
    line: dict[str, str] = {**({"room": room[0]} if room else {}), "peer": peer, **heard.options}
    if isinstance(heard.payload, str):
        line["text"] = heard.payload
    else:
        line["base64"] = base64.b64encode(heard.payload).decode()
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _presence_lines(heard: Heard, as_json: bool) -> list[bytes]:
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


def _plain_line(heard: Heard) -> bytes:
    return (heard.payload.encode() if isinstance(heard.payload, str) else heard.payload) + b"\n"


def _check_words(words: Sequence[str], what: str) -> None:
    for word in words:
        if not word or " " in word or not word.isprintable():  # a space or a line's end would end the word that it is
            raise ConfigError(f"{what} '{word}' is empty, or has a space or something unprintable in it: mend that.")
        if len(word) > NAME_MAX:  # a head beyond its bound has no ref, so nothing would answer
            raise ConfigError(f"{what} has {len(word)} characters: give one of at most {NAME_MAX}.")


def _say(text: str) -> None:
    print(f"signal-engine: {text}", file=sys.stderr, flush=True)
