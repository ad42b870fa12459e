"""The messages between operators and nodes on NATS (docs/control.md): subjects, requests, answers. No I/O.

A request is `{"v": 1, "command": "rooms", …}`, an answer `{"v": 1, "node": "k7m2", …}`. The `v` of a request is the
oldest version that understands it. Both sides ignore fields that they don't know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from signal_py.config.types import NODE

VERSION = 1  # of the control protocol
SERVICE = "signal-engine"  # name of each node as a NATS micro service
COMMANDS = ("disconnect", "drain", "members", "reload", "rooms", "stats")
MAX_REQUEST = 65536  # bytes
MAX_PAGE = 1000  # rooms or members in one answer
MAX_NAMES = 200  # rooms that one request may name

PEER = re.compile(r"([a-z0-9]{1,16})\.[a-z0-9]{1,32}")
OPERATOR_CLOSE = 4009  # close code: disconnected by an operator or the embedding program
NAME = re.compile(r"(?!.*\.\.)(?!\.)[!-)+-=?-~]{1,128}(?<!\.)")
NUMBER_TEXT = re.compile(r"[0-9]{1,9}")
CURSOR = re.compile(r"[0-9]{1,3}\.[0-9]{1,20}")

Fields = dict[str, Any]


class WireError(ValueError):
    """A request or answer that can't be used. `code` is for programs, the text for people.

    The codes are bad-request, unknown-command, unsupported-version, unavailable (the node can't do it now), and
    bad-settings (they can't be reloaded).
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def subject(prefix: str, command: str, node: str = "") -> str:
    """Returns the subject of a command to all nodes, or to one."""
    return f"{prefix}.ctl.{command}.{node}" if node else f"{prefix}.ctl.{command}"


def command_of(subject: str, prefix: str) -> str:
    """Returns the command that a subject names."""
    return subject[len(prefix) + 5 :].partition(".")[0]


def semver(version: str) -> str:
    """Converts a package's version to SemVer, which micro services require: `0.2.0.dev1` to `0.2.0+dev1`."""
    found = re.match(r"\d+(\.\d+){0,2}", version, re.ASCII)
    begins = found[0] if found else ""
    parts = [str(int(part)) for part in begins.split(".") if part]
    rest = re.sub(r"[^0-9A-Za-z]+", "-", version[len(begins) :]).strip("-")
    return ".".join((*parts, "0", "0", "0")[:3]) + (f"+{rest}" if rest else "")


# -- requests --


def request(command: str, **fields: object) -> bytes:
    """Encodes a request. Fields that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({"v": VERSION, "command": command, **given}).encode()


def parse_request(command: str, data: bytes) -> Fields:
    """Returns the fields of a request on the subject of `command`. Raises WireError.

    A request also names its command, so that no other message on that subject is taken for one, such as an answer to
    a reply subject that a client chose.
    """
    fields = _object(data, MAX_REQUEST)
    needed = fields.get("v")
    if not isinstance(needed, int) or isinstance(needed, bool) or needed < 1 or fields.get("command") != command:
        raise WireError("bad-request", f'the request must be {{"v": {VERSION}, "command": "{command}", …}}')
    if command not in COMMANDS:
        raise WireError("unknown-command", f"the commands are {', '.join(COMMANDS)}")
    if needed > VERSION:
        raise WireError("unsupported-version", f"this node speaks version {VERSION}, the request needs {needed}")
    return fields


def _object(data: bytes, most: int) -> Fields:
    try:
        found = json.loads(data) if len(data) <= most else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WireError("bad-request", f"it is not a JSON object of at most {most} bytes")
    return found


def text_of(fields: Mapping[str, object], name: str, pattern: re.Pattern[str]) -> str:
    """Returns a field; "" if it is absent. Raises WireError."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise WireError("bad-request", f"'{name}' is malformed")
    return value


def limit_of(fields: Mapping[str, object]) -> int:
    """Returns the limit of a page. Raises WireError."""
    value = fields.get("limit", MAX_PAGE)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_PAGE:
        raise WireError("bad-request", f"'limit' must be 1 to {MAX_PAGE}")
    return value


def names_of(fields: Mapping[str, object]) -> list[str]:
    """Returns the rooms that a request names. Raises WireError."""
    value = fields.get("names", [])
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise WireError("bad-request", f"'names' must be a list of at most {MAX_NAMES} rooms")
    if not all(isinstance(name, str) and NAME.fullmatch(name) for name in value):
        raise WireError("bad-request", "'names' has an entry that is not a room name")
    return value


def whom_of(fields: Mapping[str, object]) -> tuple[str, str]:
    """Returns a peer and a user, one of which is "". Raises WireError."""
    peer = text_of(fields, "peer", PEER)
    user = text_of(fields, "user", NAME)
    if bool(peer) == bool(user) or len(user) > 127:
        raise WireError("bad-request", "give one of 'peer' and 'user'")
    return peer, user


# -- answers --


def answer(node: str, **fields: object) -> bytes:
    """Encodes an answer."""
    return json.dumps({"v": VERSION, "node": node, **fields}, separators=(",", ":")).encode()


def parse_answer(data: bytes) -> Fields:
    """Returns the fields of a node's answer. Raises WireError."""
    fields = _object(data, 1 << 26)
    if not isinstance(fields.get("node"), str) or not NODE.fullmatch(fields["node"]):
        raise WireError("bad-request", "it names no node")
    return fields


def parse_ping(data: bytes) -> dict[str, str]:
    """Returns the metadata of a service. Raises WireError."""
    about = _object(data, 1 << 20).get("metadata")
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise WireError("bad-request", "it has no metadata")
    return about
