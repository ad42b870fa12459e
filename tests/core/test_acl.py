"""Rights: their text, and the patterns of rooms in them, against regular expressions."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signal_core import probe
from signal_py.auth.grants import (
    RIGHTS_MAX,
    Grant,
    GrantError,
    verdict_of,
)

WORD = st.text("abc", min_size=1, max_size=3)
ROOM = st.lists(WORD, min_size=1, max_size=4).map(".".join)
PART = st.one_of(WORD, st.just("*"))

SHAPE = st.builds(
    lambda parts, tail: ".".join([*parts, *tail]),
    st.lists(PART, min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
)
PATTERNS = st.one_of(st.none(), st.lists(st.one_of(SHAPE, st.just(">")), max_size=5))


def oracle(pattern: str, room: str) -> bool:
    """Whether a pattern matches, by a regular expression."""
    parts = [{"*": r"[^.]+", ">": r".+"}.get(part, re.escape(part)) for part in pattern.split(".")]
    return re.fullmatch(r"\.".join(parts), room) is not None


def rights_of(grant: Grant) -> bytes:
    return verdict_of(0, grant, 0.0)[3]


@given(PATTERNS, PATTERNS, st.booleans(), st.lists(ROOM, max_size=5))
@example(["a.>"], ["a"], True, ["a", "a.b", "a.b.c", "ab"])
@example([">"], [], True, ["a"])
def test_patterns_match_as_nats_does(sub: list[str] | None, pub: list[str] | None, to: bool, rooms: list[str]) -> None:
    text = rights_of(Grant(sub=sub, pub=pub, to=to))
    if sub is None and pub is None and to:
        assert text == b""
        return
    assert probe.rights_are_whole(text)
    for room in rooms:
        wanted = tuple(
            patterns is None or any(oracle(pattern, room) for pattern in patterns) for patterns in (sub, pub)
        )
        assert probe.rights_allow(text, room.encode()) == wanted


@given(st.binary(max_size=40))
def test_only_whole_rights_are_accepted(text: bytes) -> None:
    def whole() -> bool:
        if len(text) < 9:
            return False
        at = 9
        for _ in range(int.from_bytes(text[5:7], "big") + int.from_bytes(text[7:9], "big")):
            if at >= len(text):
                return False
            at += 1 + text[at]
        return at == len(text)

    assert probe.rights_are_whole(text) == whole()


def test_rights_are_bounded() -> None:
    patterns = ["x" * 99] * (RIGHTS_MAX // 100 - 1)
    assert probe.rights_are_whole(rights_of(Grant(sub=patterns)))
    with pytest.raises(GrantError):
        rights_of(Grant(sub=[*patterns, *patterns[:2]]))
