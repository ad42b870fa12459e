"""The log: one line per event, as text or as JSON.

Modules log to the logger "signal_py" and its children. Only the command line configures them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TextIO

from signal_py.base.log_writer import PENDING, LineStream, LineWriter, write_within

ROOT = "signal_py"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")  # all but tab and line feed
LAST_LINES = 1.0  # seconds to write the remaining lines at the end


def event(logger: logging.Logger, level: str, text: str, *, trace: object = "", **fields: object) -> None:
    """Logs an event with its fields, and the trace of an exception.

    The record's message has all parts, on one line but for the trace, since the formatters of an embedding program
    don't know the fields. The parts are also the record's attributes `event`, `fields` and `trace`.
    """
    number = LEVELS.get(level, logging.INFO)
    if logger.isEnabledFor(number):
        message = _one_line(text + _pairs(fields)) + (f"\n{_plain_lines(str(trace))}" if trace else "")
        extra = {"event": text, "fields": fields, "trace": trace}
        logger.log(number, "%s", message, extra=extra, stacklevel=2)


def _pairs(fields: dict[str, object]) -> str:
    return "".join(f"  {name}={_plain(value)}" for name, value in fields.items())


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def _event(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", "")) or record.getMessage()


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else str(getattr(record, "trace", ""))


def _one_line(text: str) -> str:
    return _plain_lines(text.replace("\n", "\\n"))


def _plain_lines(text: str) -> str:
    """Escapes control characters, since clients chose some of the text."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class TextFormatter(logging.Formatter):
    """`10:32:25.018 info    NATS is back  server=127.0.0.1:4222`"""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, and below it the lines of a trace."""
        when = datetime.fromtimestamp(record.created)
        stamp = f"{when:%H:%M:%S}.{int(record.msecs):03} {record.levelname.lower():7}"
        trace = _trace(self, record)
        line = _one_line(f"{stamp} {_event(record)}{_pairs(_fields(record))}")
        return line + (f"\n{_plain_lines(trace)}" if trace else "")


class JsonFormatter(logging.Formatter):
    """`{"time": "2026-01-31T10:32:25.018Z", "level": "info", "event": "NATS is back", "server": …}`"""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the object on one line, with a trace as `trace`."""
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": _event(record),
            **_fields(record),
        }
        if trace := _trace(self, record):
            line["trace"] = trace
        return json.dumps(line, ensure_ascii=False, default=str)


def clipped(text: str, most: int = 64) -> str:
    """Makes a client's text safe to log: printable ASCII, the rest escaped, at most `most` characters."""
    plain = text[:most].encode("unicode_escape").decode("ascii")
    return plain if len(text) <= most and len(plain) <= most else plain[:most] + "..."


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def is_text(form: str, stream: TextIO) -> bool:
    """Returns whether the log is text. With `auto` it is text on a terminal."""
    return form == "text" or (form == "auto" and stream.isatty())


class LineHandler(logging.Handler):
    """Formats each record, and passes it to a LineWriter."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self.writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Queues a record. Never waits for a write."""
        try:
            self.writer.put(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:
            self.handleError(record)


def dropped() -> int:
    """Returns the number of log lines that were dropped because they could not be written in time."""
    handlers = logging.getLogger(ROOT).handlers
    return sum(handler.writer.dropped for handler in handlers if isinstance(handler, LineHandler))


def printable(text: str) -> str:
    """Escapes what is not printable, since a terminal may obey it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def say(text: str) -> None:
    """Prints a line of a command to sys.stderr, within LAST_LINES seconds: the reader may be slow or gone."""
    line = f"signal-engine: {text}\n"
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # not a file, such as io.StringIO
        sys.stderr.write(line)
    else:
        write_within(descriptor, line.encode("utf-8", "backslashreplace"), LAST_LINES)


def log_as(stream: TextIO, form: str, level: str) -> None:
    """Sets the format and the level of the log that goes to a stream, as `logging_to` does. Any thread."""
    formatter = TextFormatter() if is_text(form, stream) else JsonFormatter()
    for handler in logging.getLogger(ROOT).handlers:
        if isinstance(handler, LineHandler):
            handler.setFormatter(formatter)
    logging.getLogger(ROOT).setLevel(LEVELS[level])


def _dropped_line(formatter: logging.Formatter | None, lines: int) -> bytes:
    """Returns the line that says how many lines were dropped."""
    assert formatter is not None
    record = logging.LogRecord(ROOT, logging.WARNING, "", 0, "log lines were dropped", None, None)
    record.fields = {"lines": lines}
    return formatter.format(record).encode() + b"\n"


@contextlib.contextmanager
def logging_to(stream: TextIO, form: str, level: str) -> Iterator[None]:
    """Sends the log, and what is printed to sys.stderr, to a stream and nowhere else. No thread waits for a write.

    At the end, the remaining lines are written within LAST_LINES seconds. For programs, not for libraries.

    stream  a file, such as sys.stderr
    form    "text", "json", or "auto": text if the stream is a terminal
    level   one of LEVELS
    """
    handler = LineHandler(LineWriter(stream.fileno(), lambda lines: _dropped_line(handler.formatter, lines), PENDING))
    logger, others = logging.getLogger(ROOT), logging.getLogger()  # others: the loggers of other packages
    logger.handlers[:] = others.handlers[:] = [handler]
    log_as(stream, form, level)
    logger.propagate = False
    try:
        with contextlib.redirect_stderr(LineStream(handler.writer, stream.fileno())):
            yield
    finally:
        for each in (logger, others):
            each.removeHandler(handler)
        handler.writer.close(LAST_LINES)
