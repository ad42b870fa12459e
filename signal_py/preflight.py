"""Checks a configuration as far as possible without starting an engine: for the command `check`."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from signal_py.base.errors import Fault, Faults
from signal_py.base.hostport import host_port
from signal_py.base.log import ROOT
from signal_py.config.settings import SETTINGS, Config
from signal_py.inherited import with_inherited
from signal_py.listen import Address, resolve
from signal_py.listeners import Held
from signal_py.parts import parts_of

WITH_NATS = ("nats-token", "nats-user", "nats-nkey", "nats-creds", "nats-tls-ca", "nats-tls-cert")
# Settings that have no effect while another one has a value.
IDLE: tuple[tuple[str, object, tuple[str, ...]], ...] = (
    ("nats", ("off",), WITH_NATS),
    ("nats", ("embedded",), WITH_NATS),
    ("auth", "off", ("auth-algorithms", "auth-audience", "auth-issuer")),
    ("max-rate", 0, ("max-burst",)),
    ("deflate", "off", ("deflate-threshold", "deflate-level")),
)


def preflight(config: Config, faults: Faults) -> list[Fault]:
    """Adds to `faults` why an engine with these settings would not start. Returns warnings.

    An address in use is a warning, since it may belong to the engine that is to be restarted. Connects to nothing, but
    looks names up, which may block.
    """
    warnings: list[Fault] = []
    with _logged(warnings):
        parts = parts_of(config, faults)
        with faults.of("listen"):
            config = with_inherited(config)
            _bind(config, faults)
    warnings += [fault for fault in faults.found if fault.passing]
    faults.found = [fault for fault in faults.found if not fault.passing]
    hosts = [("nats", server.host) for server in parts.servers]
    if "://" in config.auth_jwks:
        hosts.append(("auth-jwks", urlsplit(config.auth_jwks).hostname or ""))
    return [*warnings, *_idle(config), *_visible(config), *_unknown_hosts(config, hosts)]


class _Keeper(logging.Handler):
    """Keeps log records as warnings."""

    def __init__(self, warnings: list[Fault]) -> None:
        super().__init__(logging.WARNING)
        self._warnings = warnings

    def emit(self, record: logging.LogRecord) -> None:
        fields = dict(getattr(record, "fields", {}))
        named = fields.pop("setting", "")
        more = ", ".join(f"{name} {value}" for name, value in fields.items())
        text = (f"{named}: " if named else "") + str(getattr(record, "event", "")) + (f" ({more})" if more else "")
        self._warnings.append(Fault(f"{text}.", origin=named))


@contextlib.contextmanager
def _logged(warnings: list[Fault]) -> Iterator[None]:
    """Keeps the warnings that the engine's parts log."""
    logger, keeper = logging.getLogger(ROOT), _Keeper(warnings)
    logger.addHandler(keeper)
    try:
        yield
    finally:
        logger.removeHandler(keeper)


def _bind(config: Config, faults: Faults) -> None:
    """Binds the addresses to listen on, as the engine does, and then those of the admin server."""
    taken: list[Address] = []
    for name, texts in (("listen", config.listen), ("admin", (config.admin,) if config.admin else ())):
        if faults.blame(name):
            continue
        named = config.named(name)
        with faults.of(name, named):
            resolved = resolve([text for text in texts if not text.startswith(("unix:", "fd:"))], named)
            double = _overlap([address for one in resolved for address in one.addresses], taken)
            if name == "admin" and config.admin.startswith("unix:") and config.admin in config.listen:
                double = config.admin
            if double:
                fix = "path" if double.startswith("unix:") else "port"
                text = f"{named} {double} is already one of the addresses to listen on: choose another {fix}."
                faults.found.append(Fault(text, name, named))
                continue
            with Held.of(config, name, texts):
                taken += [address for one in resolved for address in one.addresses]


def _overlap(addresses: Iterable[Address], taken: Iterable[Address]) -> str:
    """Returns the first address that is among those taken, or below one of them such as 0.0.0.0; "" if none is."""
    for one in addresses:
        for other in taken:
            same = one.host == other.host or "0.0.0.0" in (one.host, other.host) or "::" in (one.host, other.host)
            if one.port and one.port == other.port and one.family == other.family and same:
                return host_port(one.host, one.port)
    return ""


def _value(config: Config, name: str) -> object:
    value: object = getattr(config, SETTINGS[name].field)
    return value


def _idle(config: Config) -> Iterator[Fault]:
    """Yields the settings that were given and have no effect."""
    for needed, value, names in IDLE:
        for name in names:
            if name in config.sources and _value(config, name) and _value(config, needed) == value:
                shown = value[0] if isinstance(value, tuple) else value
                named = config.named(name)
                yield Fault(f"{named} has no effect while {needed} is {shown}: change {needed}.", name, named)
    if config.admin_tls_cert and (not config.admin or config.admin.startswith("unix:")):
        named = config.named("admin-tls-cert")
        where = f"admin is {config.admin}, a unix socket" if config.admin else "admin is not set"
        yield Fault(f"{named} has no effect while {where}: change admin.", "admin-tls-cert", named)
    unix = any(text.startswith(("unix:", "fd:")) for text in config.listen)
    if config.proxy_protocol == "on" and not config.trusted_proxies and not unix:
        named = config.named("proxy-protocol")
        text = f"{named} refuses every header while trusted-proxies is empty: set trusted-proxies."
        yield Fault(text, "proxy-protocol", named)


def _visible(config: Config) -> Iterator[Fault]:
    """Yields the secrets that were given as flags."""
    for name, setting in SETTINGS.items():
        if setting.secret and config.sources.get(name) == setting.flag:
            text = f"{setting.flag} can be seen by other users of this machine: use {setting.variable}, or the file."
            yield Fault(text, name, config.named(name))


def _unknown_hosts(config: Config, hosts: Iterable[tuple[str, str]]) -> Iterator[Fault]:
    """Yields the hosts of other servers that can't be resolved. The engine would start, and try again."""
    for name, host in hosts:
        try:
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            named = config.named(name)
            yield Fault(f"{named} has a host that can't be resolved now ({host}: {reason}).", name, named, True)
