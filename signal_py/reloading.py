"""What a reload would do: compares settings, and loads what the new ones need. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from signal_py.auth.keys import Keys, KeySet
from signal_py.base.errors import Fault, Faults
from signal_py.config.changes import Reloaded, differing, reloaded, with_old
from signal_py.config.settings import SETTINGS, Config
from signal_py.nats.server_process import EmbeddedNats
from signal_py.parts import Parts, mode_of, parts_of


@dataclass(frozen=True)
class Source:
    """Where the settings of a reload come from, and what else follows them.

    load    returns the settings anew; raises ConfigError. None: they stay, and only files are read again
    apply   called with the settings that are in force after a reload
    around  makes a context that each reload runs in, also one that fails, such as for sd_notify
    """

    load: Callable[[], Config] | None = None
    apply: Callable[[Config], None] = lambda config: None
    around: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Plan:
    """A reload that can be done.

    config  the settings to put in force: those that need a restart have their old values
    parts   what they need, loaded
    done    what the reload will have done
    """

    config: Config
    parts: Parts
    done: Reloaded


def plan_of(old: Config, new: Config, node: str, embedded: EmbeddedNats | None, mode: str, keys: Keys | None) -> Plan:
    """Plans a reload. Blocks while files are read, and a JWKS is fetched. Raises ConfigError with every fault.

    node      the node's name
    embedded  the NATS server that runs, if any
    mode      how NATS is used: mode_of the setting `nats` at the start
    keys      the present keys of tokens, if any
    """
    kept = _kept(old, new, embedded, mode)
    config, faults = with_old(old, new, kept), Faults()
    parts = parts_of(config, faults)
    if parts.verifier is not None and isinstance(parts.verifier.keys, KeySet) and not parts.verifier.keys.is_file:
        if isinstance(keys, KeySet) and (old.auth_jwks, old.auth_refresh) == (config.auth_jwks, config.auth_refresh):
            parts.verifier.keys = keys  # they are fetched anew; until then, the known ones stay
        else:
            _fetch(config, parts.verifier.keys, faults)
    faults.raise_all()
    return Plan(config, parts, reloaded(old, new, kept, node))


def _kept(old: Config, new: Config, embedded: EmbeddedNats | None, mode: str) -> list[str]:
    """Returns the settings that differ and need a restart. Settings that belong to one of them are kept as well."""
    names = differing(old, new)
    kept = {name for name in names if SETTINGS[name].reload == "restart"}
    if "auth" in kept:
        kept.update(name for name in names if name.startswith("auth-"))
    if mode_of(new.nats) != mode:
        kept.update(name for name in names if name == "nats" or name.startswith("nats-"))
        kept.discard("nats-pending")
    if embedded is not None and "max-message" in names and not embedded.carries(new.max_message):
        kept.add("max-message")
    return [name for name in names if name in kept]


def _fetch(config: Config, keys: KeySet, faults: Faults) -> None:
    """Fetches the JWKS of a new URL, so that no client is refused for want of keys."""
    keys.look()
    if keys.trouble is not None:
        named = config.named("auth-jwks")
        text = f"{named} {keys.source} can't be fetched: {keys.trouble.text}. Name a URL that answers with a JWKS."
        faults.found.append(Fault(text, "auth-jwks", named))
