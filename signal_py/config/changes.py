"""What differs between the settings of a running engine and new ones, and which of that needs a restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from signal_py.config.settings import SETTINGS, Config
from signal_py.config.types import Value


@dataclass(frozen=True)
class Change:
    """A setting whose value differs. Values are shown without secrets; those of a secret are `***`.

    setting  the setting's name, such as max-message
    old      the value in force before the reload
    new      the value that was asked for
    """

    setting: str
    old: Value
    new: Value


@dataclass(frozen=True)
class Reloaded:
    """What a reload did.

    changed    the settings that were changed, with their new values in force
    restart    the settings that differ and need a restart; their old values stay in force
    unchanged  the number of all other settings
    node       the name of the node
    """

    changed: tuple[Change, ...] = ()
    restart: tuple[Change, ...] = ()
    unchanged: int = 0
    node: str = field(default="", compare=False)

    def fields(self) -> dict[str, Any]:
        """Returns it for JSON."""
        return {
            "changed": [vars(change) for change in self.changed],
            "restart": [vars(change) for change in self.restart],
            "unchanged": self.unchanged,
        }

    def summary(self) -> dict[str, object]:
        """Returns it for a log line: `changed` and `restart` are lists such as `max-message 65536 -> 4096`."""
        found: dict[str, object] = {}
        for name, changes in (("changed", self.changed), ("restart", self.restart)):
            if changes:
                found[name] = [f"{one.setting} {_text(one.old)} -> {_text(one.new)}" for one in changes]
        return found or {"changed": "nothing"}


def differing(old: Config, new: Config) -> list[str]:
    """Returns the names of the settings that differ, in the order of the table."""
    fields = {name: setting.field for name, setting in SETTINGS.items()}
    return [name for name in SETTINGS if getattr(old, fields[name]) != getattr(new, fields[name])]


def with_old(old: Config, new: Config, names: Iterable[str]) -> Config:
    """Returns the new settings with the old values of some of them."""
    fields: dict[str, Any] = {SETTINGS[name].field: getattr(old, SETTINGS[name].field) for name in names}
    return replace(new, **fields)


def reloaded(old: Config, new: Config, kept: Iterable[str], node: str) -> Reloaded:
    """Returns what changes between two configurations. `kept`: the settings that need a restart."""
    kept = set(kept)
    names = differing(old, new)
    changes = {name: _change(name, old, new) for name in names}
    return Reloaded(
        tuple(changes[name] for name in names if name not in kept),
        tuple(changes[name] for name in names if name in kept),
        len(SETTINGS) - len(names),
        node,
    )


def _text(value: Value | list[str]) -> str:
    return ("+".join(value) if isinstance(value, tuple | list) else str(value)) or "none"


def _change(name: str, old: Config, new: Config) -> Change:
    setting = SETTINGS[name]
    return Change(name, *(setting.public(getattr(config, setting.field)) for config in (old, new)))
