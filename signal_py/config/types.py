"""The description of a setting, and the checks of values."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from signal_py.base import files
from signal_py.base.errors import ConfigError, Faults
from signal_py.base.hostport import redacted, split_address
from signal_py.config.nats_url import check_url

USERINFO = re.compile(r"(?<=://).*@|^(?!\w+://).*@")
HIDDEN = "***"  # in place of a secret
NODE = re.compile(r"[a-z0-9]{1,16}")
NATS_WORDS = ("auto", "embedded", "off")  # each in place of the URLs of NATS servers
ORIGIN = re.compile(r"null|[a-z][a-z0-9+.-]*://(\*\.)?([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]+)?")
ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
PREFIX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
MAX_PREFIX = 63  # bytes; the core's buffer
FD_NAME = re.compile(r"[!-9;-~]{1,255}")  # sd_listen_fds_with_names(3)
MAX_UNIX = 107  # bytes; the kernel's sun_path, less its NUL
MODE = re.compile(r"0?[0-7]{3}")
WS_URL = re.compile(r"wss?://[!-~]+")
MAX_WS_URL = 255  # bytes; the core's buffer
PATH = re.compile(r"/|(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+/?")
MAX_PATH = 127  # bytes; the core's buffer

Value = int | float | str | tuple[str, ...]


RELOADS = {
    "live": "a change applies at once, to open connections too",
    "new": "a change applies to new connections",
    "restart": "a change needs a restart of the node",
}


@dataclass(frozen=True)
class Setting:
    """The description of one setting."""

    name: str  # the flag without its dashes, and the key of the file
    default: Value  # has the type of every value of the setting
    help: str
    unit: str = ""
    low: float = 0
    high: float = math.inf
    choices: tuple[str, ...] = ()
    word: str = ""  # may be given in place of a number
    check: Callable[[str], str] | None = None  # returns what is wrong with a text; "" if nothing is
    metavar: str = ""
    secret: bool = False  # never shown
    reload: str = ""  # what a reload does with a change: one of RELOADS

    @property
    def flag(self) -> str:
        """Such as `--max-message`."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """Such as `SIGNAL_ENGINE_MAX_MESSAGE`."""
        return "SIGNAL_ENGINE_" + self.name.upper().replace("-", "_")

    @property
    def field(self) -> str:
        """The field of Config, such as `max_message`."""
        return self.name.replace("-", "_")

    @property
    def is_file(self) -> bool:
        """Whether the value is the path of a file."""
        return self.metavar.startswith("FILE")

    @property
    def kind(self) -> type:
        """The type of every value but `word`."""
        return float if self.word else type(self.default)

    def public(self, value: Value) -> Value:
        """Returns a value without secrets: `***` for a secret, URLs without user, password and token."""
        if self.secret and value:
            return HIDDEN
        if isinstance(value, tuple):
            return tuple(self._redacted(item) for item in value)
        return self._redacted(value) if isinstance(value, str) else value

    def _redacted(self, text: str) -> str:
        """Hides tokens, users and passwords in URLs. That of a NATS server needs no scheme."""
        return redacted(USERINFO.sub("***@", text) if self.name == "nats" else text)

    def parse(self, given: object, named: str) -> Value:
        """Converts and checks a value. Raises ConfigError. `named`: how it was given, for errors."""
        value, faults = self._convert(given, named), Faults()
        for item in value if isinstance(value, tuple) else (value,):
            with faults.of():
                self._validate(item, named)
        faults.raise_all()
        return value

    def _convert(self, given: object, named: str) -> Value:
        if self.kind is tuple:
            items = given.split(",") if isinstance(given, str) else given
            if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
                return tuple(part.strip() for item in items for part in item.split(",") if part.strip())
            raise ConfigError(f"{named} must be a string or a list of strings, not {self._shown(given)}.")
        if self.kind is str:
            if isinstance(given, bool) and set(self.choices) == {"on", "off"}:
                return "on" if given else "off"
            if isinstance(given, str):
                return self._path(given, named) if self.is_file and given else given
            raise ConfigError(f"{named} must be a string, not {self._shown(given)}: put it in quotation marks.")
        if self.word and given == self.word:
            return self.word
        return self._number(given, named)

    def _path(self, given: str, named: str) -> str:
        """Makes a path absolute, since the working directory may change before the file is opened again."""
        if "://" in given:
            return given
        try:
            return files.from_here(given)
        except OSError:
            raise ConfigError(
                f"{named} {given} is relative to the working directory, which no longer exists: give an absolute path."
            ) from None

    def _number(self, given: object, named: str) -> int | float:
        whole = self.kind is int
        try:
            if isinstance(given, bool) or not isinstance(given, (int, str) if whole else (int, float, str)):
                raise ValueError
            number = int(given) if whole else float(given)
            if not math.isfinite(number):
                raise ValueError
        except (ValueError, OverflowError):
            wanted = "a whole number" if whole else f"{self.word} or a number" if self.word else "a number"
            unit = f" of {self.unit}" if self.unit else ""
            raise ConfigError(f"{named} must be {wanted}{unit}, not {self._shown(given)}.") from None
        return number

    def _shown(self, given: object) -> str:
        """Formats a value for an error, without secrets: only the type of a secret, a URL without its user."""
        if self.secret:
            return type(given).__name__
        if not isinstance(given, str):
            return f"{given!r}"
        return f"'{given if given.startswith('unix:') else USERINFO.sub('***@', given)}'"  # unix:@NAME has no user

    def _validate(self, item: float | str, named: str) -> None:
        if self.word and item == self.word:
            return
        if isinstance(item, str):
            if self.choices and item not in self.choices:
                raise ConfigError(f"{named} is {self._shown(item)}: use one of {', '.join(self.choices)}.")
            wrong = self.check(item) if self.check and item else ""
            if wrong:
                raise ConfigError(f"{named} {'' if self.secret else self._shown(item) + ' '}{wrong}.")
        elif not self.low <= item <= self.high:
            unit = f" {self.unit}" if self.unit else ""
            raise ConfigError(f"{named} is {item:.15g}: use {self.low:.15g} to {self.high:.15g}{unit}.")


# -- checks: each returns what is wrong with a text, as the end of an error, or "" if nothing is --


def check_address(text: str) -> str:
    """Checks HOST:PORT."""
    try:
        split_address(text)
    except ValueError as wrong:
        return str(wrong)
    return ""


def check_listen(text: str) -> str:
    """Checks HOST:PORT, unix:/PATH, unix:@NAME or fd:NAME."""
    if text.startswith("fd:"):
        return "" if FD_NAME.fullmatch(text[3:]) else "has no name of a socket after fd:"
    if not text.startswith("unix:"):
        return check_address(text)
    name = text.removeprefix("unix:")
    if not name.startswith(("/", "@")) or len(name) < 2 or "\0" in name or name.endswith("/"):
        return "is not a unix socket: write unix:/PATH, such as unix:/run/signal-engine/ws.sock, or unix:@NAME"
    size = len(os.fsencode(name))
    return "" if size <= MAX_UNIX else f"is longer than the kernel allows: {size} bytes of at most {MAX_UNIX}"


def check_mode(text: str) -> str:
    """Checks the permissions of a file in octal."""
    return "" if MODE.fullmatch(text) else "is not a file mode: write octal digits, such as 0660"


def check_node(text: str) -> str:
    """Checks the name of a node."""
    return "" if NODE.fullmatch(text) else "is not a node name: use 1 to 16 of a-z and 0-9"


def check_prefix(text: str) -> str:
    """Checks the beginning of a NATS subject."""
    if PREFIX.fullmatch(text) and len(text) <= MAX_PREFIX:
        return ""
    return (
        "is not a NATS subject: use tokens of A-Z, a-z, 0-9, - and _, separated "
        f"by dots, at most {MAX_PREFIX} characters"
    )


def check_nats(text: str) -> str:
    """Checks the URL of a NATS server, or one of NATS_WORDS."""
    return "" if text in NATS_WORDS else check_url(text)


def check_ws_url(text: str) -> str:
    """Checks a WebSocket URL that fits into a head."""
    if WS_URL.fullmatch(text) and len(text) <= MAX_WS_URL:
        return ""
    return f"is not a WebSocket URL: write ws://… or wss://…, at most {MAX_WS_URL} characters, without spaces"


def check_path(text: str) -> str:
    """Checks the path of the WebSocket endpoint."""
    if not PATH.fullmatch(text) or len(text) > MAX_PATH:
        return f"is not a path: write / or /NAME, at most {MAX_PATH} characters, without a query"
    return "is the path of health checks: choose another" if text.rstrip("/") == "/healthz" else ""


def check_advertise(text: str) -> str:
    """Checks a WebSocket URL, or HOST:PORT with a host that others can reach."""
    if "://" in text:
        return check_ws_url(text)
    try:
        host, port = split_address(text)
    except ValueError as wrong:
        return str(wrong)
    if host in ("0.0.0.0", "::") or not port:
        return "is not an address that others can reach: give a host and a port, or a URL"
    return check_ws_url(f"ws://{text}/")


def check_algorithm(text: str) -> str:
    """Checks the algorithm of a token (RFC 7518 §3.1)."""
    return "" if text in ALGORITHMS else f"is not a supported algorithm: use {', '.join(ALGORITHMS)}"


def check_origin(text: str) -> str:
    """Checks the origin of a web page (RFC 6454 §6.2), whose host may begin with `*.`."""
    if ORIGIN.fullmatch(text.lower()):
        return ""
    return "is not an origin: write SCHEME://HOST or SCHEME://HOST:PORT, without a path; the host may begin with *."


def check_network(text: str) -> str:
    """Checks an IP address, or a network in CIDR notation."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return "is not a network: write an address, or a network such as 10.0.0.0/8"
    return ""
