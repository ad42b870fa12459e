"""Makes a Config: checks each value, and then which settings fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from signal_py.base.errors import Fault, Faults
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.types import NATS_WORDS

KEYS = ("auth-key", "auth-key-file", "auth-jwks")
EMPTY = {  # what to do about a setting that must not be empty
    "listen": "give at least one HOST:PORT",
    "nats": "use off, embedded or the URLs of NATS servers",
    "path": "leave it out, or name a path, such as /ws",
    "prefix": "leave it out, or name a NATS subject",
}
Wrong = tuple[tuple[str, ...], str]  # the settings that don't fit together, and the sentence about them


def make_config(given: Mapping[str, object], sources: Mapping[str, str]) -> Config:
    """Returns the checked settings. Raises ConfigError with every fault.

    given    values by setting name
    sources  how each setting was given, for errors
    """
    faults = Faults()
    config = check_all(given, sources, faults)
    faults.raise_all()
    return config


def check_all(given: Mapping[str, object], sources: Mapping[str, str], faults: Faults) -> Config:
    """As make_config, but adds to `faults` in place of raising. A setting with a fault then has its default."""
    values: dict[str, object] = {}
    for name, value in given.items():
        with faults.of(name, sources[name]):
            values[name] = SETTINGS[name].parse(value, sources[name])
    by_field: dict[str, Any] = {SETTINGS[name].field: value for name, value in values.items()}
    config = Config(**by_field, sources=MappingProxyType(dict(sources)))
    for names, text in _not_together(config):
        if not any(name in given and name not in values for name in names):  # else that fault comes first
            faults.found.append(Fault(text, names[0], config.sources.get(names[0], "")))
    return config


def _has(config: Config, name: str) -> bool:
    return bool(getattr(config, SETTINGS[name].field))


def _pairs(config: Config) -> Iterator[Wrong]:
    """Checks settings that need each other."""
    for pair in (("nats-user", "nats-password"), ("nats-tls-cert", "nats-tls-key")):
        if _has(config, pair[0]) != _has(config, pair[1]):
            here, gone = pair if _has(config, pair[0]) else pair[::-1]
            text = f"{config.named(here)} is given without {config.written(gone)}: give both or neither."
            yield (here, gone), text
    for name in ("admin-tls-key", "admin-tls-client-ca"):
        if _has(config, name) and not config.admin_tls_cert:
            text = f"{config.named(name)} is given without {config.written('admin-tls-cert')}: give that, too."
            yield (name, "admin-tls-cert"), text


def _auth(config: Config) -> Iterator[Wrong]:
    keys = [name for name in KEYS if _has(config, name)]
    if len(keys) > 1:
        yield (*keys,), f"{config.named(keys[0])} and {config.named(keys[1])} are both given: give one."
    if keys and config.auth != "jwt":
        jwt = config.written("auth", "jwt")
        yield (keys[0], "auth"), f"{config.named(keys[0])} is given without {jwt}: give both or neither."
    if config.auth == "jwt" and not keys:
        ways = ", ".join(config.written(name) for name in KEYS)
        yield ("auth", *KEYS), f"{config.named('auth')} is jwt without a key: give one of {ways}."


def _not_together(config: Config) -> Iterator[Wrong]:
    """Yields what is wrong with settings that are good by themselves."""
    for name, fix in EMPTY.items():
        if not _has(config, name):
            yield (name,), f"{config.named(name)} is empty: {fix}."
    if len(config.nats) > 1 and set(NATS_WORDS) & set(config.nats):
        named = config.named("nats")
        fix = "use one of them alone, or URLs"
        yield ("nats",), f"{named} combines auto, embedded or off with other servers: {fix}."
    yield from _pairs(config)
    yield from _auth(config)
    if config.nats_nkey and config.nats_creds:
        both = ("nats-nkey", "nats-creds")
        yield both, f"{config.named(both[0])} and {config.named(both[1])} are both given: give one."
