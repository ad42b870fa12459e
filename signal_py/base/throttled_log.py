"""Failures that may last: logged once a kind with the traceback, then at most once a minute, with their number."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable

from signal_py.base.log import event

QUIET = 60.0  # seconds between two lines about failures of one kind; after so long without any it counts as new
KINDS = 64  # told apart; the one that was seen least recently makes way
SECRET_MIN = 4  # letters: what is shorter is no secret, and would be struck out of every word
HIDDEN = "(hidden)"

Secrets = Callable[[], Iterable[str]]


def _nothing() -> Iterable[str]:
    return ()


class ThrottledLog:
    """Of one part of the engine. Not thread-safe."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._kinds: dict[tuple[object, ...], tuple[float, int, float]] = {}  # told at, since then, seen at

    def add(self, text: str, reason: str, error: BaseException | None = None, secrets: Secrets = _nothing) -> None:
        """`text` says what fails, and `reason` why: that, or the type of the exception and where it was raised, is the
        kind. `secrets` is asked, where something is logged, for what must be struck out of it."""
        now = time.monotonic()
        kind = (text, reason) if error is None else (text, type(error), *_place(error))
        told, count, seen = self._kinds.pop(kind, (-QUIET, 0, -QUIET))
        count += 1
        if now - told >= QUIET:
            trace = ""
            if error is not None:
                reason = _without(secrets(), f"{type(error).__name__}: {error}")
                if now - seen >= QUIET:
                    trace = _without(secrets(), "".join(traceback.format_exception(error)).rstrip())
            event(self._logger, "error", text, reason=reason, times=count, trace=trace)
            told, count = now, 0
        self._kinds[kind] = told, count, now
        if len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]


def _place(error: BaseException) -> tuple[object, ...]:
    """File and line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ()


def _without(secrets: Iterable[str], text: str) -> str:
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        if len(secret) >= SECRET_MIN:
            text = text.replace(secret, HIDDEN)
    return text
