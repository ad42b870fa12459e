"""INFO as the loop reads it and as Python reads it: both agree on whatever Python accepts."""

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from signal_core import probe
from signal_py.nats.info import MAX_URLS, InfoError, parse_info

NAME = b"max_payload"
KEYS = st.one_of(st.text(max_size=8), st.sampled_from(["max_payload", "headers", "x\\", 'max_payload"', '"', "\\"]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(), st.text(max_size=20), KEYS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=6), st.sampled_from([None, 1, " "]), st.booleans())
def test_a_number_in_an_object(members: dict[str, Any], indent: Any, ascii_only: bool) -> None:
    """Found only as a member of the object itself, however the JSON is formatted."""
    text = json.dumps(members, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    value = members.get("max_payload")
    plain = type(value) is int and 0 <= value < 10**10
    assert probe.info_number(text, NAME) == (value if plain else -1)


@given(st.binary(max_size=60))
def test_text_that_is_not_json(text: bytes) -> None:
    assert -1 <= probe.info_number(b'{"max_payload":' + text, NAME) < 10**10
    assert -1 <= probe.info_number(text, NAME) < 10**10


@given(st.dictionaries(KEYS, VALUES, max_size=6), st.integers(256, (1 << 31) - 1))
def test_the_loop_reads_what_python_accepts(members: dict[str, Any], most: int) -> None:
    text = json.dumps({**members, "max_payload": most}).encode()
    try:
        info = parse_info(text)
    except InfoError as error:
        assert "\n" not in str(error)
    else:
        assert info.max_payload == most == probe.info_number(text, NAME)


@given(st.binary(max_size=200))
def test_any_bytes(text: bytes) -> None:
    with contextlib.suppress(InfoError):
        parse_info(text)


def test_the_last_of_two_members_counts() -> None:
    assert probe.info_number(b'{"max_payload":1,"x":{"max_payload":2},"max_payload" : 3 }', NAME) == 3


def test_the_number_of_announced_servers_is_bounded() -> None:
    urls = [f"10.0.0.1:{port}" for port in range(1, 10001)]
    assert len(parse_info(json.dumps({"max_payload": 1 << 20, "connect_urls": urls}).encode()).connect_urls) == MAX_URLS
