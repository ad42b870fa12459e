"""The log: one line per event, for people as text and for machines as JSON.

The modules log to the logger "signal_py" and its children, as libraries do; only the command line sets it up.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import TextIO

ROOT = "signal_py"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def event(logger: logging.Logger, level: str, text: str, **fields: object) -> None:
    """Logs what happened; the fields say to what."""
    logger.log(LEVELS.get(level, logging.INFO), "%s", text, extra={"fields": fields})


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


class TextFormatter(logging.Formatter):
    """`10:32:25.018 info    NATS is back  server=127.0.0.1:4222`"""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created)
        pairs = "".join(f"  {name}={_plain(value)}" for name, value in _fields(record).items())
        stamp = f"{when:%H:%M:%S}.{int(record.msecs):03} {record.levelname.lower():7}"
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return _one_line(f"{stamp} {record.getMessage()}{pairs}") + trace


class JsonFormatter(logging.Formatter):
    """`{"time": "2026-01-31T10:32:25.018Z", "level": "info", "event": "NATS is back", "server": …}`"""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def is_text(form: str, stream: TextIO) -> bool:
    """Whether the log is text, where `auto` asks the stream."""
    return form == "text" or (form == "auto" and stream.isatty())


def configure(form: str, level: str, stream: TextIO | None = None) -> None:
    """Sends the log to a stream (stderr), and nowhere else. For programs, not for libraries."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if is_text(form, stream) else JsonFormatter())
    logger = logging.getLogger(ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(LEVELS[level])
    logger.propagate = False
