"""UTF-8 in pieces, against Python's decoder, at every cut and every position."""

import codecs
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signal_core import probe

ACCEPT, REJECT = 0, 1

# One byte from each side of every border between byte classes (Unicode, table 3-7).
BORDERS = bytes.fromhex("00 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def python_states(data: bytes) -> list[str]:
    """The state of Python's incremental decoder after each byte.

    It rejects at the first bad byte, but for surrogates: there it waits for the third byte (for "surrogatepass").
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    states = []
    for i in range(len(data)):
        try:
            decoder.decode(data[i : i + 1])
        except UnicodeDecodeError:
            return states + ["reject"] * (len(data) - i)
        pending = decoder.getstate()[0]
        if pending[:1] == b"\xed" and pending[1:2] >= b"\xa0":
            return states + ["reject"] * (len(data) - i)
        states.append("inside" if pending else "accept")
    return states


def name(state: int) -> str:
    return {ACCEPT: "accept", REJECT: "reject"}.get(state, "inside")


def feed(data: bytes, cuts: list[int]) -> int:
    state = ACCEPT
    edges = [0, *sorted(cuts), len(data)]
    for a, b in itertools.pairwise(edges):
        state = probe.utf8_feed(state, data[a:b])
    return state


pieces = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    st.text(alphabet="az", max_size=80).map(str.encode),
    st.sampled_from([b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xf0\x9f\x98"]),
)
texts = st.lists(pieces, max_size=5).map(b"".join)


@given(texts, st.data())
@example(b"a" * 64 + "é".encode() + b"b" * 64, None)
def test_any_split_gives_the_state_of_python(data, draw):
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=6)) if draw else list(range(len(data)))
    expected = python_states(data)
    assert name(feed(data, cuts)) == (expected[-1] if expected else "accept")
    assert probe.utf8_valid(data) == is_utf8(data)


@given(texts)
def test_every_prefix_is_rejected_at_its_first_bad_byte(data):
    whole = [name(probe.utf8_feed(ACCEPT, data[:n])) for n in range(1, len(data) + 1)]
    assert whole == python_states(data)


def test_all_short_sequences_over_the_borders():
    for size in (1, 2, 3):
        for values in itertools.product(BORDERS, repeat=size):
            data = bytes(values)
            assert name(probe.utf8_feed(ACCEPT, data)) == python_states(data)[-1], data.hex()


@pytest.mark.parametrize("lead", [b"\xf0", b"\xf1", b"\xf3", b"\xf4"], ids=bytes.hex)
def test_all_long_sequences_over_the_borders(lead):
    for values in itertools.product(BORDERS, repeat=3):
        data = lead + bytes(values)
        assert probe.utf8_valid(data) == is_utf8(data), data.hex()


def test_every_character_there_is():
    everything = "".join(map(chr, itertools.chain(range(0xD800), range(0xE000, 0x110000)))).encode()
    assert probe.utf8_valid(everything)
    assert not probe.utf8_valid(everything[:-1])


def test_every_surrogate_is_rejected_at_its_second_byte():
    for code in range(0xD800, 0xE000):
        data = chr(code).encode("utf-8", "surrogatepass")
        assert name(probe.utf8_feed(ACCEPT, data[:1])) == "inside"
        assert probe.utf8_feed(ACCEPT, data[:2]) == REJECT


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        b"\xc0",
        b"\xc1",
        b"\xe0\x9f",
        b"\xed\xa0",
        b"\xf0\x8f",
        b"\xf4\x90",
        b"\xf5",
        b"\xff",
        b"\xe2\x28",
    ],
    ids=bytes.hex,
)
def test_a_bad_byte_is_found_at_any_position(data):
    """The blocks of the fast path end at 8, 16 and 64 bytes."""
    for before in range(100):
        for after in (0, 1, 7, 8, 15, 16, 63, 64, 65):
            assert probe.utf8_feed(ACCEPT, b"x" * before + data + b"y" * after) == REJECT


def test_a_character_is_read_at_any_position():
    for before in range(100):
        for after in (0, 1, 7, 8, 15, 16, 63, 64, 65):
            for character in ("é", "€", "😀"):
                text = b"x" * before + character.encode() + b"y" * after
                assert probe.utf8_valid(text)
                assert name(probe.utf8_feed(ACCEPT, text[: before + 1])) == "inside"


@given(st.binary(max_size=40))
def test_rejection_is_final(data):
    assert probe.utf8_feed(REJECT, data) == REJECT


@given(st.text(min_size=1, max_size=40), st.integers(0, 3))
def test_no_bytes_change_no_state(text, cut):
    data = text.encode()
    state = probe.utf8_feed(ACCEPT, data[: len(data) - min(cut, len(data))])
    assert probe.utf8_feed(state, b"") == state
