"""Presence queries that share an answer: the numbers of the queries that it answers."""

from hypothesis import given
from hypothesis import strategies as st

from signal_core import probe

numbers = st.integers(1, 0xFFFF)


@given(st.lists(numbers, min_size=1, max_size=8))
def test_growing_numbers_are_joined_from_first_to_last(asked: list[int]) -> None:
    asked.sort()
    joined = asked[0] | asked[0] << 16
    for number in asked[1:]:
        joined = probe.questions_joined(joined, number | number << 16)
    assert (joined & 0xFFFF, joined >> 16) == (asked[0], asked[-1])


@given(numbers, numbers)
def test_numbers_that_began_anew_stand_for_all(one: int, other: int) -> None:
    joined = probe.questions_joined(one | one << 16, other | other << 16)
    assert (joined == 0) == (other < one)


@given(st.integers(0, 0xFFFFFFFF))
def test_all_joined_with_any_is_all(other: int) -> None:
    assert probe.questions_joined(0, other) == probe.questions_joined(other, 0) == 0
