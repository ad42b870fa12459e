"""What NATS refuses: tried before a reload puts it in force, and said in words."""

from __future__ import annotations

from signal_py.base.errors import Fault, Faults
from signal_py.config.nats_url import Server
from signal_py.config.settings import SETTINGS, Config
from signal_py.control_thread import REFUSALS, ControlThread, RefusedError
from signal_py.nats.trial import Access, refusals
from signal_py.parts import Parts

WAYS = ("nats-creds", "nats-nkey", "nats-user", "nats-token")


class Trial:
    """Tries each new access to NATS once. One that has not changed is not tried again, so that a reload of other
    settings does not depend on NATS."""

    def __init__(self, node: str) -> None:
        self._name = f"signal-engine {node} reload"
        self._known = ""  # digest of the access that is good, or was used at the start

    def skip(self, parts: Parts) -> None:
        """Takes the access of the start, which is not tried."""
        self._known = _access_of(parts).digest()

    def run(self, thread: ControlThread, config: Config, parts: Parts) -> None:
        """Blocks for a few seconds at most. Raises ConfigError for each server that can be reached and refuses."""
        access = _access_of(parts)
        digest = access.digest()
        if digest == self._known:
            return
        faults = Faults()
        for server, reason in thread.submit(refusals(access, self._name)).result():
            faults.found.append(_fault(config, server, reason))
        faults.raise_all()
        self._known = digest


def _access_of(parts: Parts) -> Access:
    return Access(tuple(parts.servers), parts.credentials, parts.tls)


def _fault(config: Config, server: Server, reason: str) -> Fault:
    """Returns the fault, of the setting that is most likely wrong."""
    setting, fix = "nats", "Name a NATS server that can be used"
    if reason.lower() in REFUSALS:
        setting = next((name for name in WAYS if getattr(config, SETTINGS[name].field)), "nats")
        fix = "Give credentials that it accepts"
    elif reason.startswith("its certificate"):
        setting, fix = "nats-tls-ca", "Name a file with the authority of its certificate"
    elif "ssl" in reason.lower() and config.nats_tls_cert:
        setting, fix = "nats-tls-cert", "Name a certificate that it accepts"
    named = config.named(setting)
    text = f"{named} can't be used: NATS at {server.where} refuses the connection ({reason}). {fix}."
    return Fault(text, setting, named, passing=True)


def refused_text(config: Config, refused: RefusedError) -> str:
    """Returns the sentence for a start that NATS refused."""
    named = config.named(refused.setting)
    if refused.setting == "node":
        return f"{named} can't be used: {refused}. Choose another, or leave it out for a random one."
    ways = ", ".join(config.written(name) for name in ("nats-token", "nats-user", "nats-nkey", "nats-creds"))
    return f"{named} can't be joined: {refused}. Give valid credentials with one of {ways}."
