"""What a line of the log looks like, whatever is in it."""

import json
import logging

import pytest

from signal_py.base.log import JsonFormatter, TextFormatter, event

HOSTILE = "a\x1b[2Jb\r\nc\x9bd\u2028e\x7f\tf ü"
PLAIN = "a\\x1b[2Jb\\r\\nc\\x9bd\\u2028e\\x7f\tf ü"


def test_what_a_terminal_obeys_is_not_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Such as what a program says of a stranger when it refuses it. A trace keeps its lines."""
    logger = logging.getLogger("signal_py.test")
    event(logger, "warning", "it happened", reason=HOSTILE, trace="one\ntwo \x1b[2J")
    (record,) = caplog.records
    assert record.getMessage() == f"it happened  reason={PLAIN}\none\ntwo \\x1b[2J"
    assert TextFormatter().format(record).partition(" warning ")[2] == record.getMessage()
    line = JsonFormatter().format(record)
    assert json.loads(line)["reason"] == HOSTILE and "\x1b" not in line and "\n" not in line
