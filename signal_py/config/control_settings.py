"""The settings of an operator's connection to NATS."""

from __future__ import annotations

from dataclasses import replace

from signal_py.config.settings import SETTINGS
from signal_py.config.types import Setting

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
    """Returns CONTROL_SETTINGS for an operator's command, where `nats` can only be the URLs of servers."""
    nats = replace(SETTINGS["nats"], default=(), help="a NATS server that the nodes use", metavar="URL")
    return [nats if name == "nats" else SETTINGS[name] for name in CONTROL_SETTINGS]
