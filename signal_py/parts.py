"""What an engine makes of the files and programs that its settings name."""

from __future__ import annotations

import ssl
from contextlib import AbstractContextManager
from dataclasses import dataclass

from signal_py.admin_tls import FILES as ADMIN_TLS
from signal_py.admin_tls import admin_tls_of
from signal_py.auth.jwt import Verifier, verifier_of
from signal_py.base.errors import ConfigError, Faults
from signal_py.config.nats_url import Server, parse_url
from signal_py.config.settings import SETTINGS, Config
from signal_py.nats.credentials import Credentials
from signal_py.nats.server_process import find_server, installed_server
from signal_py.nats.tls import Tls

CREDENTIALS = ("nats-nkey", "nats-creds")
TLS = ("nats-tls-ca", "nats-tls-cert", "nats-tls-key")
KEYS = ("auth-key", "auth-key-file", "auth-jwks")


@dataclass(frozen=True)
class Parts:
    """The parts of an engine that need files, loaded and found good.

    servers    the NATS servers that the settings name; none if NATS is embedded or off
    program    of the embedded NATS server; "" if there is none
    verifier   of tokens; None unless `auth` is jwt
    admin_tls  of the admin server; None: it speaks HTTP
    """

    servers: list[Server]
    program: str
    credentials: Credentials
    tls: Tls
    verifier: Verifier | None
    admin_tls: ssl.SSLContext | None


def mode_of(nats: tuple[str, ...]) -> str:
    """Returns how the setting `nats` has an engine use NATS: off, embedded or servers."""
    if nats == ("auto",):
        return "embedded" if installed_server() else "off"
    return nats[0] if nats in (("embedded",), ("off",)) else "servers"


def parts_of(config: Config, faults: Faults) -> Parts:
    """Loads the parts. Adds to `faults` what is wrong, and leaves out what belongs to settings with a fault."""
    servers = servers_of(config)
    program, credentials, tls, verifier, admin_tls = "", Credentials(), Tls(), None, None
    if mode_of(config.nats) == "embedded":
        with faults.of("nats", config.named("nats")):
            program = find_server(config.named("nats"))
    if not faults.blame(*CREDENTIALS):
        with _of_given(config, faults, *CREDENTIALS):
            credentials = Credentials.of(config)
    if not faults.blame(*TLS):
        with faults.of("nats", config.named("nats")):
            tls = Tls.of(config, servers)
    if config.auth == "jwt" and not faults.blame("auth", *KEYS):
        with _of_given(config, faults, *KEYS, "auth"):
            verifier = verifier_of(config)
    if config.deflate == "on":
        with faults.of("deflate", config.named("deflate")):
            _check_zlib(config)
    if not faults.blame(*ADMIN_TLS):
        with faults.of("admin-tls-cert", config.named("admin-tls-cert")):
            admin_tls = admin_tls_of(config)
    return Parts(servers, program, credentials, tls, verifier, admin_tls)


def servers_of(config: Config) -> list[Server]:
    """Returns the NATS servers that the settings name; none if NATS is embedded or off."""
    return [parse_url(url) for url in config.nats] if mode_of(config.nats) == "servers" else []


def _check_zlib(config: Config) -> None:
    """Raises ConfigError if compression is not possible."""
    from signal_core.engine import deflate_loads

    if not deflate_loads():
        raise ConfigError(
            f"{config.written('deflate', 'on')} needs the library zlib (libz.so.1), which is not installed: install "
            "it (Debian: apt-get install zlib1g)."
        )


def _of_given(config: Config, faults: Faults, *names: str) -> AbstractContextManager[None]:
    """Collects faults of the first of these settings that is given."""
    name = next((name for name in names if getattr(config, SETTINGS[name].field)), names[0])
    return faults.of(name, config.named(name))
