"""What `pub` and `send` do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import BinaryIO

from signal_py.arguments import why_not_room, why_not_sent
from signal_py.base.aio import in_thread
from signal_py.base.errors import ConfigError, DeliveryError
from signal_py.cli.output import say
from signal_py.cli.ws_client import URL_FLAG, LostError, open_client
from signal_py.config.settings import SETTINGS

FAILED = 1  # exit status of what was refused, or of a connection that was lost
NAME_MAX = 128  # characters of a room or @USER; addresses are shorter
WHOLE = "-"  # in place of a text or a file: standard input


async def deliver(
    url: str,
    token: str,
    head: str,
    what: AsyncIterator[bytes],
    as_json: bool,
    binary: bool = False,
    named: str = URL_FLAG,
) -> int:
    """Sends payloads, waits for each answer, and stops at the first ERR. `binary`: also those that are UTF-8; `named`:
    how the URL was given."""
    check_words([head.partition(" ")[2]], "ROOM" if head.startswith("PUB") else "PEER")
    refused: DeliveryError | None = None
    try:
        async with open_client(url, token=token, named=named) as client:
            async for payload in what:
                try:
                    await client.request(head, payload, binary)
                except DeliveryError as error:
                    refused = explained(error, head)
                if as_json:
                    print(json.dumps({"code": refused.code if refused else "ok"}), flush=True)
                if refused:
                    say(str(refused))
                    return FAILED
    except LostError as error:
        say(str(error))
        return FAILED
    return 0


def explained(error: DeliveryError, head: str) -> DeliveryError:
    """Says what is wrong with the peer or room of a head that the engine calls a bad request."""
    verb, target = head.split(" ")[:2]
    why = why_not_sent(target) if verb == "TO" else why_not_room(target)
    return DeliveryError(error.code, why) if error.code == "bad-request" and why else error


def payloads(text: str | None, file: str | None) -> AsyncIterator[bytes]:
    """A text; all of a file, or of standard input; or without either each line of that. Raises ConfigError."""
    if text is not None and file is not None:
        raise ConfigError("TEXT is given together with --file: give one of them.")
    if text == WHOLE or file == WHOLE:
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
    """One of its own, and never closed: closing waits for a read under way, as the end of Python does of sys.stdin."""
    return os.fdopen(sys.stdin.fileno(), "rb", closefd=False)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_most())
    except OSError as error:
        raise ConfigError(f"--file {path} can't be read: {error.strerror}. Name a readable file.") from None


def _most() -> int:
    """One byte more than any engine takes, so that it is refused."""
    return int(SETTINGS["max-message"].high) + 1


def check_words(words: Sequence[str], what: str) -> None:
    for word in words:
        if not word or " " in word or not word.isprintable():  # a space or a line's end would end the word that it is
            raise ConfigError(f"{what} '{word}' is empty, or has a space or an unprintable character: remove it.")
        if len(word) > NAME_MAX:  # a head beyond its bound has no ref, so nothing would answer
            raise ConfigError(f"{what} has {len(word)} characters: use at most {NAME_MAX}.")
