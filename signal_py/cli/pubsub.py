"""The commands `pub` and `send`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import BinaryIO

from signal_py.arguments import why_not_room, why_not_sent
from signal_py.base.aio import in_thread
from signal_py.base.errors import ConfigError, DeliveryError
from signal_py.base.log import say
from signal_py.cli.ws_client import URL_FLAG, Access, Client, LostError, open_client
from signal_py.config.parsing import FAILED
from signal_py.config.settings import SETTINGS

NAME_MAX = 128  # characters of a room or @USER; addresses are shorter
STDIN = "-"  # as TEXT or --file: all of standard input


async def deliver(
    url: str,
    access: Access,
    head: str,
    messages: AsyncIterator[bytes],
    as_json: bool,
    binary: bool = False,
    named: str = URL_FLAG,
) -> int:
    """Sends payloads one by one, and waits for each answer. Stops at the first ERR. Returns the exit status.

    head      the head without a ref: `PUB <room>` or `TO <peer>`
    messages  the payloads
    as_json   print the code of each answer, as JSON
    binary    send as binary even if a payload is UTF-8
    named     how the URL was given, for errors

    Raises ConfigError if the target is malformed or the engine can't be connected to.
    """
    check_names([head.partition(" ")[2]], "ROOM" if head.startswith("PUB") else "PEER")
    try:
        async with open_client(url, access=access, named=named) as client:
            async for payload in messages:
                refused = await _deliver(client, head, payload, binary)
                if as_json:
                    print(json.dumps({"code": refused.code if refused else "ok"}), flush=True)
                if refused:
                    say(str(refused))
                    return FAILED
    except LostError as error:
        say(str(error))
        return FAILED
    return 0


async def _deliver(client: Client, head: str, payload: bytes, binary: bool) -> DeliveryError | None:
    """Sends a payload. Returns the error that it is answered with; None for OK."""
    try:
        await client.request(head, payload, binary)
    except DeliveryError as error:
        return explained(error, head)
    return None


def explained(error: DeliveryError, head: str) -> DeliveryError:
    """Returns an error with a sentence about the target of its head if that is the cause of a `bad-request`."""
    verb, target = head.split(" ")[:2]
    why = why_not_sent(target) if verb == "TO" else why_not_room(target)
    return DeliveryError(error.code, why) if error.code == "bad-request" and why else error


def payloads(text: str | None, file: str | None) -> AsyncIterator[bytes]:
    """Yields the payloads to send: a text, a whole file, or without both each line of standard input.

    Raises ConfigError.
    """
    if text is not None and file is not None:
        raise ConfigError("TEXT is given together with --file: give one of them.")
    if STDIN in (text, file):
        return _whole(lambda: _standard_input().read(_most()))
    if file is not None:
        return _whole(lambda: _read(file))
    return _lines() if text is None else _whole(lambda: os.fsencode(text))


async def _whole(read: Callable[[], bytes]) -> AsyncIterator[bytes]:
    yield await in_thread(read)


async def _lines() -> AsyncIterator[bytes]:
    lines = _standard_input()
    while line := await in_thread(lines.readline):  # on a thread, so that pings are answered meanwhile
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _standard_input() -> BinaryIO:
    """Returns a second file object for standard input, which is never closed.

    Closing waits for a read that is under way, and Python closes sys.stdin at exit.
    """
    return os.fdopen(sys.stdin.fileno(), "rb", closefd=False)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_most())
    except OSError as error:
        raise ConfigError(f"--file {path} can't be read: {error.strerror}. Name a readable file.") from None


def _most() -> int:
    """Returns how many bytes to read: one more than any engine accepts, so that a longer payload is refused."""
    return int(SETTINGS["max-message"].high) + 1


def check_names(names: Sequence[str], what: str) -> None:
    """Raises ConfigError for the name of a room or peer that would break the head, or get no answer."""
    for name in names:
        if not name or " " in name or not name.isprintable():
            raise ConfigError(f"{what} '{name}' is empty, or has a space or an unprintable character: remove it.")
        if len(name) > NAME_MAX:  # the engine finds no ref in a head that is too long, so it can't answer
            raise ConfigError(f"{what} has {len(name)} characters: use at most {NAME_MAX}.")
