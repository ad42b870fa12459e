"""URLs as they are shown."""

import pytest

from signal_py.base.hostport import redacted


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://h/?token=abc", "ws://h/?token=***"),
        ("ws://h/?room=a&token=abc&x=1", "ws://h/?room=a&token=***&x=1"),
        ("ws://h/?room=a", "ws://h/?room=a"),
        ("ws://h/?mytoken=a", "ws://h/?mytoken=a"),
    ],
)
def test_tokens_in_urls_are_hidden(url: str, shown: str) -> None:
    assert redacted(url) == shown
