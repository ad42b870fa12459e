"""Calls of the core, with its errors as those of the public API."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from signal_py.base.errors import DeliveryError, EngineError

T = TypeVar("T")


def call_core(call: Callable[..., T], *arguments: object) -> T:
    """Returns what the core answers. Raises EngineError if it has stopped meanwhile."""
    try:
        return call(*arguments)
    except Exception as error:
        from signal_core.engine import CoreError

        if isinstance(error, CoreError):
            raise EngineError(str(error)) from None
        raise


def raise_code(code: str, wrong: Callable[[], str]) -> None:
    """Raises DeliveryError for a code; "" is none. `wrong` says what makes a request a bad one."""
    if code:
        from signal_core.engine import code_sentence

        raise DeliveryError(code, (code == "bad-request" and wrong()) or code_sentence(code))
