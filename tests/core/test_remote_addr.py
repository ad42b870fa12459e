"""Addresses that a proxy names, against ipaddress."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_core import probe


@given(st.one_of(st.ip_addresses(), st.text("0123456789abcdef.:[]", max_size=20)), st.booleans())
def test_good_addresses(address: Any, port: bool) -> None:
    text = str(address)
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return
    packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    shown = f"[{text}]:443" if port and parsed.version == 6 else f"{text}:443" if port else text
    assert probe.address_parse(shown.encode()) == packed


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1.2.3.4.5", "[::1", ":", "::g", "1.2.3.4:x:y", "a" * 60])
def test_bad_addresses(text: str) -> None:
    assert probe.address_parse(text.encode()) is None
