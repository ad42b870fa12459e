"""Decimal numbers as text."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from signal_core import probe

UINT = re.compile(rb"[0-9]{1,19}")


@given(
    st.one_of(
        st.integers(0, 2**64 - 1),
        st.integers(0, 64).map(lambda bits: (1 << bits) - 1),
        st.integers(0, 19).map(lambda digits: 10**digits),
    )
)
def test_decimals_round_trip(number):
    assert probe.put_uint(number) == str(number).encode()
    assert probe.uint_parse(str(number).encode()) == (number if number < 10**19 else None)


@given(st.text(alphabet="0123456789", max_size=19), st.integers(0, 2**64 - 1))
@example("950", 1000)
@example("99", 100)
@example("1000", 0)
def test_a_number_is_lowered_in_place_and_never_raised(digits, value):
    lowered = probe.uint_lower(b": " + digits.encode(), value)
    assert lowered == b": " + str(min(int(digits or 0), value)).zfill(len(digits)).encode()[: len(digits)]


@given(st.one_of(st.binary(max_size=24), st.text(alphabet="0123456789", max_size=24).map(str.encode)))
@example(b"+1")
@example(b"1 ")
@example(b"00")
def test_only_digits_are_a_decimal(data):
    assert probe.uint_parse(data) == (int(data) if UINT.fullmatch(data) else None)
