"""The settings as keywords of Engine and Control, for type checkers. A test compares them with the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class Options(TypedDict, total=False):
    """The keywords of Engine. Config in config/settings.py says what they mean, with bounds and defaults."""

    listen: str | Sequence[str]
    listen_mode: str
    reuse_port: bool | str
    advertise: str
    path: str
    loops: int
    node: str
    nats: str | Sequence[str]
    nats_discovered: bool | str
    nats_token: str
    nats_user: str
    nats_password: str
    nats_nkey: str
    nats_creds: str
    nats_tls_ca: str
    nats_tls_cert: str
    nats_tls_key: str
    prefix: str
    control: bool | str
    max_message: int
    deflate: bool | str
    deflate_threshold: int
    deflate_level: int
    max_request_line: int
    max_head: int
    max_rooms: int
    max_refs: int
    max_connections: int
    max_connections_per_address: int
    max_connections_per_user: int
    accept_rate: int
    accept_yield: bool | str
    max_rate: int
    max_burst: int
    handshake_timeout: float
    ping_interval: float
    pong_timeout: float
    stall_timeout: float
    message_timeout: float
    ttl: float
    backlog_bytes: int
    backlog_messages: int
    backlog_total: int
    send_buffer: int
    receive_buffer: int
    input_total: int
    memory_trim: bool | str
    inbox_messages: int
    nats_pending: int
    close_timeout: float
    drain_time: float | str
    drain_url: str
    auth: str
    auth_key: str
    auth_key_file: str
    auth_jwks: str
    auth_refresh: float
    auth_algorithms: str | Sequence[str]
    auth_audience: str
    auth_issuer: str
    auth_leeway: float
    auth_grace: float
    auth_timeout: float
    auth_pending: int
    origins: str | Sequence[str]
    trusted_proxies: str | Sequence[str]
    proxy_protocol: bool | str
    admin: str
    admin_tls_cert: str
    admin_tls_key: str
    admin_tls_client_ca: str
    echo: bool | str
    log_format: str
    log_level: str


class ControlOptions(TypedDict, total=False):
    """The keywords of Control: CONTROL_SETTINGS of config/control_settings.py."""

    nats: str | Sequence[str]
    nats_token: str
    nats_user: str
    nats_password: str
    nats_nkey: str
    nats_creds: str
    nats_tls_ca: str
    nats_tls_cert: str
    nats_tls_key: str
    prefix: str
