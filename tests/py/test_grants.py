"""Grants: users, patterns, claims of any form, and how long a grant lasts."""

import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signal_core import probe
from signal_py.auth.grants import (
    PATTERN,
    TOKEN,
    USER,
    Grant,
    GrantError,
    grant_of,
    verdict_of,
)

NAMES = st.text(st.characters(min_codepoint=0x1F, max_codepoint=0x80), max_size=12)


@given(NAMES)
@example("a.b")
@example(".")
@example("a..b")
def test_users_and_rooms_have_the_same_names(name: str) -> None:
    assert (USER.fullmatch(name) is not None) == bool(probe.room_valid(name.encode("latin-1")))


@given(NAMES)
@example("*")
@example("a.*.>")
@example(">.a")
def test_patterns_are_rooms_with_wildcards(text: str) -> None:
    parts = text.split(".")
    good = all(
        part == "*" or (part == ">" and i == len(parts) - 1) or re.fullmatch(TOKEN, part)
        for i, part in enumerate(parts)
    )
    assert (PATTERN.fullmatch(text) is not None) == bool(good)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a*.> ", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["sub", "pub", "x"]), inner),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(["sub", "rooms", "to", "max_rooms"], JSON)))
@example({"rooms": None})
@example({"rooms": {"sub": None}})
@example({"max_rooms": None})
def test_claims_of_any_form(claims: dict[str, Any]) -> None:
    """They are accepted if they are of the documented form, and else refused with GrantError."""

    def patterns_good(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(each, str) and PATTERN.fullmatch(each) for each in value)

    def rooms_good(value: Any) -> bool:
        if isinstance(value, dict):
            return set(value) <= {"sub", "pub"} and all(map(patterns_good, value.values()))
        return patterns_good(value)

    good = (
        ("sub" not in claims or (isinstance(claims["sub"], str) and USER.fullmatch(claims["sub"]) is not None))
        and ("rooms" not in claims or rooms_good(claims["rooms"]))
        and isinstance(claims.get("to", True), bool)
        and ("max_rooms" not in claims or (type(claims["max_rooms"]) is int and claims["max_rooms"] >= 0))
    )
    try:
        _, status, user, rights, life = verdict_of(7, grant_of(claims), time.time())
    except GrantError:
        assert not good
        return
    assert good and (status, life) == (0, 0)
    assert user.decode() == (claims.get("sub") or "")
    assert rights == b"" or probe.rights_are_whole(rights)


@pytest.mark.parametrize(
    ("expires", "life"),
    [
        (None, 0),
        (1000.0, 1),
        (999.0, 1),
        (1001.5, 1500),
        (1000.0001, 1),
        (1e300, 0),
        (float("inf"), 0),
        (10**400, 0),
        (-(10**400), 1),
        (float("-inf"), 1),
    ],
)
def test_how_long_a_grant_lasts(expires: float | None, life: int) -> None:
    assert verdict_of(0, Grant(expires=expires), 1000.0)[4] == life
