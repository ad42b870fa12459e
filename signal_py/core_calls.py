"""Calls the core, and converts its errors to those of the public API."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from signal_py.base.errors import DeliveryError, EngineError

T = TypeVar("T")


def call_core(call: Callable[..., T], *arguments: object) -> T:
    """Calls a function of the core. Raises EngineError if the core has stopped."""
    try:
        return call(*arguments)
    except Exception as error:
        from signal_core.engine import CoreError

        if isinstance(error, CoreError):
            raise EngineError(str(error)) from None
        raise


def raise_code(code: str, wrong: Callable[[], str]) -> None:
    """Raises DeliveryError for any code but "". `wrong` returns the reason for `bad-request`; "" for the usual one."""
    if code:
        from signal_core.engine import code_sentence

        raise DeliveryError(code, (code == "bad-request" and wrong()) or code_sentence(code))
