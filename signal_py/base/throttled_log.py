"""Logs failures that may repeat: the first of a kind with its traceback, then at most a line a minute, with a count."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable

from signal_py.base.log import event

QUIET = 60.0  # seconds between two lines of one kind; a kind not seen for as long counts as new
KINDS = 64  # kinds that are remembered; the least recently seen one is forgotten
SECRET_MIN = 4  # characters; a shorter text is not hidden, since it would be cut out of every word
HIDDEN = "(hidden)"

Secrets = Callable[[], Iterable[str]]


def _nothing() -> Iterable[str]:
    return ()


class ThrottledLog:
    """The failures of one part of the engine. Not thread-safe."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._kinds: dict[tuple[object, ...], tuple[float, int, float]] = {}  # logged at, count since, seen at

    def add(self, text: str, reason: str, error: BaseException | None = None, secrets: Secrets = _nothing) -> None:
        """Counts a failure, and logs it unless its kind was logged less than QUIET seconds ago.

        text     what fails
        reason   why. `text` and `reason` are the kind; with `error`, its type and where it was raised
        secrets  called before logging; returns texts that are replaced by HIDDEN
        """
        now = time.monotonic()
        kind = (text, reason) if error is None else (text, type(error), *_raised_at(error))
        logged, count, seen = self._kinds.pop(kind, (-QUIET, 0, -QUIET))
        count += 1
        if now - logged >= QUIET:
            trace = ""
            if error is not None:
                reason = _without(secrets(), f"{type(error).__name__}: {error}")
                if now - seen >= QUIET:
                    trace = _without(secrets(), "".join(traceback.format_exception(error)).rstrip())
            event(self._logger, "error", text, reason=reason, times=count, trace=trace)
            logged, count = now, 0
        self._kinds[kind] = logged, count, now
        if len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]


def _raised_at(error: BaseException) -> tuple[object, ...]:
    """Returns the file and line that raised an exception."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ()


def _without(secrets: Iterable[str], text: str) -> str:
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        if len(secret) >= SECRET_MIN:
            text = text.replace(secret, HIDDEN)
    return text
