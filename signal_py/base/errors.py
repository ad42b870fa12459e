"""The exceptions. The text of each is a sentence for the person who has to fix the cause."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace


class EngineError(Exception):
    """The engine can't do this: it is not running, or this is not the asyncio loop, thread or process that started it.

    Base class of the other exceptions.
    """


class ReloadError(EngineError):
    """The settings can't be reloaded now, and nothing has changed: the engine starts, drains, stops, or is stuck."""


@dataclass(frozen=True)
class Fault:
    """One fault of a configuration.

    text     a sentence: the setting as it was given, what is wrong, and the fix
    setting  the setting's name; "" if the fault belongs to none
    origin   where it was given; "" if unknown
    passing  whether it can end without a change of the configuration, such as a port in use
    """

    text: str
    setting: str = ""
    origin: str = ""
    passing: bool = False


class ConfigError(EngineError, ValueError):
    """A setting can't be used. The text names the setting as it was given, what is wrong, and the fix.

    faults  every fault that was found, each with its `text`, `setting` and `origin`; the text of the exception is
            theirs, one a line
    """

    def __init__(self, *faults: str | Fault) -> None:
        super().__init__(*faults)
        self.faults = tuple(Fault(fault) if isinstance(fault, str) else fault for fault in faults)

    def __str__(self) -> str:
        return "\n".join(fault.text for fault in self.faults)


class Faults:
    """Collects the faults of several steps, so that a user gets all of them at once."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    @contextlib.contextmanager
    def of(self, setting: str = "", origin: str = "") -> Iterator[None]:
        """Keeps the faults of a ConfigError. `setting`, `origin`: of those faults that have none."""
        try:
            yield
        except ConfigError as error:
            self.found += [
                replace(fault, setting=fault.setting or setting, origin=fault.origin or origin)
                for fault in error.faults
            ]

    def blame(self, *settings: str) -> bool:
        """Returns whether one of these settings has a fault."""
        return any(fault.setting in settings for fault in self.found)

    def raise_all(self) -> None:
        """Raises ConfigError if there are any."""
        if self.found:
            raise ConfigError(*self.found)



class DeliveryError(EngineError):
    """A message was not delivered, or may not have been (`timeout`).

    code    a code of signal.v1: no-such-peer, slow-peer, expired, timeout, too-large, denied, rate, bad-request,
            too-many-rooms or unavailable
    reason  a sentence for people; the text of the exception is the code and the reason
    """

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}" if self.reason else self.code
