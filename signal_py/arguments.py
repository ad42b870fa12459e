"""Checks the arguments of Engine's methods, and converts them for the core."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from signal_py.base.errors import ConfigError, Fault, Faults
from signal_py.config.load import check_all
from signal_py.config.parsing import nearest
from signal_py.config.settings import SETTINGS, Config
from signal_py.control.wire import CURSOR, NAME, PEER

if TYPE_CHECKING:
    from signal_py.config.options import Options
    from signal_py.runtime import Runtime

DEFAULTS: dict[str, object] = {"listen": "127.0.0.1:0", "nats": "off"}  # that differ from the daemon's
NO_TTL = -1  # for the core: the setting `ttl` applies
REF = re.compile(r"[A-Za-z0-9]{1,16}")


def config_of(config: Config | None, settings: Options, authorize: bool) -> Config:
    """Returns the settings of an Engine. Raises ConfigError, which names the keyword.

    config     ready-made settings, in place of keywords
    settings   the keywords
    authorize  whether there is an authorizer
    """
    if config is not None and settings:
        raise ConfigError("Engine's config is given together with settings: give one or the other.")
    if config is None:
        config = _config_of_keywords({"auth": "callback", **settings} if authorize else settings)
    _check_authorize(config, authorize)
    return config


def reconfigured(runtime: Runtime, settings: Options) -> Config:
    """Returns the settings of an engine with other values for some. Raises ConfigError, which names the keyword."""
    config = runtime.wanted
    changed, faults = _by_name(settings, "Engine.reload's")
    given: dict[str, object] = {name: getattr(config, setting.field) for name, setting in SETTINGS.items()}
    sources = {name: f"Engine.reload's {SETTINGS[name].field}" for name in changed}
    made = check_all(given | changed, {name: config.named(name) for name in SETTINGS} | sources, faults)
    faults.raise_all()
    return made


def _config_of_keywords(settings: Options) -> Config:
    by_name, faults = _by_name({**DEFAULTS, **settings}, "Engine's")
    config = check_all(by_name, {name: f"Engine's {setting.field}" for name, setting in SETTINGS.items()}, faults)
    faults.raise_all()
    return config


def _by_name(settings: Mapping[str, object], whose: str) -> tuple[dict[str, object], Faults]:
    """Returns the values of keywords by the names of their settings, and the faults of unknown keywords."""
    fields = {setting.field: name for name, setting in SETTINGS.items()}
    faults = Faults()
    for field in sorted(settings.keys() - fields.keys()):
        near = nearest(field.lower().replace("-", "_"), fields)
        fix = f"write {near}=…" if near else "signal_py.config.settings.Config lists them"
        faults.found.append(Fault(f"{whose} {field} is not a setting: {fix}."))
    return {fields[field]: value for field, value in settings.items() if field in fields}, faults


def _check_authorize(config: Config, given: bool) -> None:
    """Raises ConfigError if there is an authorizer without `auth='callback'`, or the other way round."""
    if config.auth == "callback" and not given:
        raise ConfigError(f"{config.named('auth')} is callback, but authorize is missing: give Engine both or neither.")
    if given and config.auth != "callback":
        raise ConfigError("Engine's authorize is given, but auth is not callback: leave out one of them.")


def check_name(what: str, name: str) -> None:
    """Raises ValueError for the name of a room or user (`what`) that is not valid."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' is not a valid {what} name: use 1 to 128 printable characters, without space, * and >"
        )


def check_close(code: int) -> None:
    """Raises ValueError for a close code that an endpoint may not send (RFC 6455 §7.4)."""
    from signal_core.engine import may_close_with

    if not may_close_with(code):
        raise ValueError(f"{code} can't be sent as a close code: use 1000 to 1003, 1007 to 1014 or 3000 to 4999")


def check_page(limit: int, after: str) -> None:
    """Raises ValueError for arguments of a page that are not valid."""
    if limit < 1 or (after and not CURSOR.fullmatch(after)):
        raise ValueError("give a limit of 1 or more, and as 'after' the 'next' of the last page")


def payload_of(data: bytes | str) -> tuple[bytes, bool]:
    """Returns a payload, and whether it is binary. Raises TypeError, or ValueError for text that can't be encoded."""
    return (data.encode(), False) if isinstance(data, str) else (bytes(memoryview(data)), True)


def milliseconds(ttl: float | None) -> int:
    """Converts a ttl in seconds for the core. Raises ValueError if it is out of bounds."""
    if ttl is None:
        return NO_TTL
    if not SETTINGS["ttl"].low <= ttl <= SETTINGS["ttl"].high:
        raise ValueError(f"the ttl is {ttl}: use 0.001 to 86400 seconds")
    return round(ttl * 1000)


def why_not_sent(target: str, *refs: str | None) -> str:
    """Returns why a message to a peer or a user is a bad request; "" if neither target nor refs are the cause."""
    if wrong := _wrong_ref(refs):
        return wrong
    if target.startswith("@"):
        return f"'{target}' is not a user: write @ and 1 to 127 printable characters, without space, * and >."
    if target == "-":
        return "'-' stands for a sender without an address, which can't be answered."
    return "" if PEER.fullmatch(target) else f"'{target}' is not a peer: write <node>.<local>, or @<user>."


def why_not_room(room: str, *refs: str | None) -> str:
    """Returns why a message to a room, or a join, is a bad request: a ref, or else the room."""
    rule = "1 to 128 printable characters, without space, * and >, and not $ or @ first"
    return _wrong_ref(refs) or f"'{room}' is not a room: write {rule}."


def _wrong_ref(refs: tuple[str | None, ...]) -> str:
    wrong = next((ref for ref in refs if ref and not REF.fullmatch(ref)), None)
    return f"'{wrong}' is not a ref: write 1 to 16 of A-Za-z0-9." if wrong is not None else ""
