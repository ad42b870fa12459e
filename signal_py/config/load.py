"""Makes a Config: checks each value, and then which settings fit together."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from signal_py.base.errors import ConfigError
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.types import NATS_WORDS


def make_config(given: Mapping[str, object], sources: Mapping[str, str]) -> Config:
    """Returns the checked settings. Raises ConfigError.

    given    values by setting name
    sources  how each setting was given, for errors
    """
    values = {name: SETTINGS[name].parse(value, sources[name]) for name, value in given.items()}
    by_field: dict[str, Any] = {SETTINGS[name].field: value for name, value in values.items()}
    config = Config(**by_field, sources=MappingProxyType(dict(sources)))
    _check_together(config)
    return config


def _check_pair(config: Config, one: str, other: str) -> None:
    """Checks two settings that need each other."""
    first, second = (bool(getattr(config, SETTINGS[name].field)) for name in (one, other))
    if first != second:
        here, gone = (one, other) if first else (other, one)
        raise ConfigError(f"{config.named(here)} is given without {config.written(gone)}: give both or neither.")


def _check_auth(config: Config) -> None:
    keys = [name for name in ("auth-key", "auth-key-file", "auth-jwks") if getattr(config, SETTINGS[name].field)]
    if len(keys) > 1:
        raise ConfigError(f"{config.named(keys[0])} and {config.named(keys[1])} are both given: give one.")
    if keys and config.auth != "jwt":
        jwt = config.written("auth", "jwt")
        raise ConfigError(f"{config.named(keys[0])} is given without {jwt}: give both or neither.")
    if config.auth == "jwt" and not keys:
        keys = [config.written(name) for name in ("auth-key", "auth-key-file", "auth-jwks")]
        raise ConfigError(f"{config.named('auth')} is jwt without a key: give one of {', '.join(keys)}.")


def _check_together(config: Config) -> None:
    if not config.listen:
        raise ConfigError(f"{config.named('listen')} is empty: give at least one HOST:PORT.")
    if not config.nats:
        raise ConfigError(f"{config.named('nats')} is empty: use off, embedded or the URLs of NATS servers.")
    if not config.path:
        raise ConfigError(f"{config.named('path')} is empty: leave it out, or name a path, such as /ws.")
    if not config.prefix:
        raise ConfigError(f"{config.named('prefix')} is empty: leave it out, or name a NATS subject.")
    if len(config.nats) > 1 and set(NATS_WORDS) & set(config.nats):
        raise ConfigError(
            f"{config.named('nats')} combines auto, embedded or off with other servers: use one of them alone, or URLs."
        )
    _check_pair(config, "nats-user", "nats-password")
    _check_pair(config, "nats-tls-cert", "nats-tls-key")
    _check_auth(config)
    if config.nats_nkey and config.nats_creds:
        raise ConfigError(f"{config.named('nats-nkey')} and {config.named('nats-creds')} are both given: give one.")
