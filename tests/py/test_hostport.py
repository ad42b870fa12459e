"""URLs as they are shown."""

import pytest

from signal_py.base.hostport import redacted, unix_target


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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("unix:/run/s", ("/run/s", "/")),
        ("ws+unix:/run/s:/", ("/run/s", "/")),
        ("ws+unix:/run/a:b:/ws?room=x", ("/run/a:b", "/ws?room=x")),
        ("ws+unix:@name:/", ("\0name", "/")),
        ("http+unix:/run/s:/", None),
        ("unix:s", None),
        ("ws://h/", None),
    ],
)
def test_unix_targets(text: str, found: tuple[str, str] | None) -> None:
    assert unix_target(text, "ws") == found
