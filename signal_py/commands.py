"""What `sub`, `pub` and `send` do."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Sequence

from signal_py.client import Heard, LostError, open_client
from signal_py.errors import ConfigError, DeliveryError

FAILED = 1  # exit status of what was refused, or of a connection that was lost
FORBIDDEN = (" ", "\n", "\r")  # in a room or peer: they would end the word that it is


async def subscribe(url: str, token: str, rooms: Sequence[str], as_json: bool) -> int:
    """Prints what it hears, a line each, until the connection ends. Raises ConfigError."""
    _check_words(rooms, "ROOM")

    def show(heard: Heard) -> None:
        if heard.verb in ("MSG", "FROM"):
            sys.stdout.buffer.write((_json_line if as_json else _plain_line)(heard))
            sys.stdout.buffer.flush()
        elif heard.verb == "GAP":
            _say(f"{heard.arguments[0]} messages were lost: this reads too slowly")

    try:
        async with open_client(url, show, token) as client:
            for room in rooms:
                await client.request(f"SUB {room}")
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


async def _texts(text: str | None) -> AsyncIterator[str]:
    if text is not None:
        yield text
        return
    while True:  # on a thread, so that the connection's pings are answered meanwhile
        line = await asyncio.to_thread(sys.stdin.buffer.readline)
        if not line:
            return
        yield line.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")


def _json_line(heard: Heard) -> bytes:
    *room, peer = heard.arguments  # one that was sent to this connection itself has no room
    line: dict[str, str] = {**({"room": room[0]} if room else {}), "peer": peer, **heard.options}
    if isinstance(heard.payload, str):
        line["text"] = heard.payload
    else:
        line["base64"] = base64.b64encode(heard.payload).decode()
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _plain_line(heard: Heard) -> bytes:
    return (heard.payload.encode() if isinstance(heard.payload, str) else heard.payload) + b"\n"


def _check_words(words: Sequence[str], what: str) -> None:
    for word in words:
        if not word or any(letter in word for letter in FORBIDDEN):
            raise ConfigError(f"{what} '{word}' is empty or has a space in it: write it without.")


def _say(text: str) -> None:
    print(f"signal-engine: {text}", file=sys.stderr, flush=True)
