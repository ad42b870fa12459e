"""Ids and their text; addresses, rooms and refs against regular expressions."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signal_core import probe

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
PEER = re.compile(rb"([a-z0-9]{1,16})\.[a-z0-9]{1,32}")
ROOM = re.compile(rb"(?=.{1,128}\Z)[!-)+,\-/-=?-~]+(\.[!-)+,\-/-=?-~]+)*")
REF = re.compile(rb"[A-Za-z0-9]{1,16}")
ids = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 64).map(lambda bits: (1 << bits) - 1))

near_names = st.one_of(
    st.binary(max_size=140),
    st.text(alphabet="az09AZ._-*>$@ \x7f\n", max_size=60).map(str.encode),
    st.from_regex(PEER, fullmatch=True),
    st.from_regex(ROOM, fullmatch=True),
    st.from_regex(REF, fullmatch=True),
)


def spelling(number: int) -> bytes:
    """The 13 digits of an id, by division."""
    text = ""
    for _ in range(13):
        number, digit = divmod(number, 32)
        text = ALPHABET[digit] + text
    return text.encode()


@given(st.integers(0, 255), st.integers(0, 2**24 - 1), st.integers(0, 2**32 - 1))
def test_an_id_is_loop_slot_tag(loop, slot, tag):
    number = probe.id_make(loop, slot, tag)
    assert number == loop << 56 | slot << 32 | tag


@given(ids)
@example(0)
@example(2**64 - 1)
def test_text_is_thirteen_digits_of_base_32(number):
    assert probe.local_put(number) == spelling(number)
    assert probe.local_parse(spelling(number)) == number


def test_every_character_is_used_and_read_back():
    seen = set()
    for digit in range(32):
        number = sum(digit << 5 * position for position in range(12))
        assert probe.local_parse(probe.local_put(number)) == number
        seen.update(probe.local_put(number).decode()[1:])
    assert seen == set(ALPHABET)


@given(ids, st.integers(0, 12), st.integers(0, 255))
def test_an_altered_text_is_another_id_or_none(number, position, byte):
    text = bytearray(probe.local_put(number))
    if text[position] == byte:
        return
    text[position] = byte
    other = probe.local_parse(bytes(text))
    assert other != number
    assert other is None or probe.local_put(other) == text


def test_each_byte_at_each_position():
    text = b"f" + b"z" * 12
    for position in range(13):
        read = {b for b in range(256) if probe.local_parse(text[:position] + bytes([b]) + text[position + 1 :])}
        assert read == set((ALPHABET if position else ALPHABET[:16]).encode()), position


@given(st.binary(max_size=40))
def test_an_id_has_only_one_text(data):
    number = probe.local_parse(data)
    assert number is None or probe.local_put(number) == data


@pytest.mark.parametrize("size", [0, 1, 12, 14, 26, 64])
def test_only_thirteen_characters_are_an_id(size):
    assert probe.local_parse(b"0" * size) is None


@given(near_names)
def test_addresses(data):
    match = PEER.fullmatch(data)
    assert probe.peer_split(data) == (len(match[1]) if match else None)


@pytest.mark.parametrize("node", [0, 1, 15, 16, 17, 40])
@pytest.mark.parametrize("local", [0, 1, 13, 15, 16, 17, 31, 32, 33, 70])
def test_bounds_of_addresses(node, local):
    good = 1 <= node <= 16 and 1 <= local <= 32
    assert probe.peer_split(b"a" * node + b"." + b"9" * local) == (node if good else None)


def test_each_byte_in_an_address():
    lower = set(b"abcdefghijklmnopqrstuvwxyz0123456789")
    for template in (b"k%cm.0f3zq8m2v9w1x", b"k7m2.0f3zq8m2%cv9w1x", b"k7m2.0f3zq8m2v9w1xabcdefghijklmno%c"):
        good = {b for b in range(256) if probe.peer_split(template % b) is not None}
        assert good - {ord(".")} == lower


@given(near_names)
@example(b"")
@example(b".")
@example(b"a..b")
@example(b"a.")
@example(b".a")
def test_rooms(data):
    assert probe.room_valid(data) == bool(ROOM.fullmatch(data))


def test_each_byte_in_a_room():
    good = {b for b in range(256) if probe.room_valid(b"ro%cm" % b)}
    assert good == set(range(0x21, 0x7F)) - set(b"*>")


@pytest.mark.parametrize(("size", "good"), [(1, True), (127, True), (128, True), (129, False), (4000, False)])
def test_bounds_of_rooms(size, good):
    assert probe.room_valid(b"r" * size) is good


@given(near_names)
def test_refs(data):
    assert probe.ref_valid(data) == bool(REF.fullmatch(data))
