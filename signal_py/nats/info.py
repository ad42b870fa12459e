"""Parses and validates the INFO of a NATS server. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MAX_URLS = 256  # servers that the cluster reports; further ones are ignored
MAX_URL = 300  # characters of each
MAX_NONCE = 1024  # characters
LEAST_PAYLOAD = 256  # bytes that the messages between nodes need
MOST_PAYLOAD = (1 << 31) - 1


class InfoError(ValueError):
    """A server that can't be used. The text says what is wrong with its INFO, in one line."""


@dataclass(frozen=True)
class ServerInfo:
    """The fields of INFO that the engine uses."""

    max_payload: int  # bytes
    headers: bool = False
    tls_required: bool = False
    tls_available: bool = False
    nonce: str = ""  # to be signed; "" if there is none
    connect_urls: tuple[str, ...] = ()  # HOST:PORT, at most MAX_URLS
    lame_duck: bool = False  # it is about to stop


def parse_info(text: bytes) -> ServerInfo:
    """Parses an INFO. Raises InfoError, and nothing else, for malformed text."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise InfoError("its INFO is not JSON or is nested too deeply: it is not a NATS server") from None
    if not isinstance(fields, dict):
        raise InfoError("its INFO is not a JSON object: it is not a NATS server")
    return ServerInfo(
        max_payload=_payload(fields),
        headers=_flag(fields, "headers"),
        tls_required=_flag(fields, "tls_required"),
        tls_available=_flag(fields, "tls_available"),
        nonce=_nonce(fields),
        connect_urls=_urls(fields),
        lame_duck=_flag(fields, "ldm"),
    )


def _wrong(name: str, what: str) -> InfoError:
    return InfoError(f"the {name} in its INFO is {what}")


def _payload(fields: dict[str, Any]) -> int:
    value = fields.get("max_payload")
    if isinstance(value, bool) or not isinstance(value, int) or not LEAST_PAYLOAD <= value <= MOST_PAYLOAD:
        raise _wrong("max_payload", f"not a whole number from {LEAST_PAYLOAD} to {MOST_PAYLOAD}")
    return value


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise _wrong(name, "neither true nor false")
    return value


def _nonce(fields: dict[str, Any]) -> str:
    value = fields.get("nonce", "")
    if not isinstance(value, str) or len(value) > MAX_NONCE:
        raise _wrong("nonce", f"not a string of at most {MAX_NONCE} characters")
    return value


def _urls(fields: dict[str, Any]) -> tuple[str, ...]:
    value = fields.get("connect_urls", [])
    if not isinstance(value, list) or not all(isinstance(url, str) for url in value[:MAX_URLS]):
        raise _wrong("connect_urls", "not a list of strings")
    return tuple(url for url in value[:MAX_URLS] if len(url) <= MAX_URL)
