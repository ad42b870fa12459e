"""The form of a log line, with any content."""

import json
import logging

import pytest

from signal_py.base.log import JsonFormatter, TextFormatter, event

HOSTILE = "a\x1b[2Jb\r\nc\x9bd\u2028e\x7f\tf ü"
PLAIN = "a\\x1b[2Jb\\r\\nc\\x9bd\\u2028e\\x7f\tf ü"


def test_control_characters_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    """Such as those in the reason of a Refusal. A traceback keeps its lines."""
    logger = logging.getLogger("signal_py.test")
    event(logger, "warning", "it happened", reason=HOSTILE, trace="one\ntwo \x1b[2J")
    (record,) = caplog.records
    assert record.getMessage() == f"it happened  reason={PLAIN}\none\ntwo \\x1b[2J"
    assert TextFormatter().format(record).partition(" warning ")[2] == record.getMessage()
    line = JsonFormatter().format(record)
    assert json.loads(line)["reason"] == HOSTILE and "\x1b" not in line and "\n" not in line
