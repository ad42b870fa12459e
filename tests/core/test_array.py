"""Growable arrays against lists: what is kept, how far the capacity grows, and what is refused."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from signal_core import probe

numbers = st.integers(0, 2**32 - 1)
firsts = st.integers(1, 100)
too_many = st.one_of(
    st.tuples(st.integers(2**32, 2**64 - 1), st.integers(1, 100)),  # more than 32 bits count
    st.tuples(st.integers(2**20, 2**32 - 1), st.integers(2**44, 2**64 - 1)),  # more bytes than 64 bits count
)


@given(firsts, st.lists(st.lists(numbers, max_size=300)))
def test_contents_are_kept_and_the_capacity_doubles(first: int, steps: list[list[int]]) -> None:
    array, model, size = probe.Array(first), [], 0
    for step in steps:
        array.append(step)
        model += step
        while size < len(model):
            size = 2 * size or first
        assert array.contents() == model
        assert array.size == size


@given(firsts, st.lists(numbers, max_size=50), too_many)
def test_a_refusal_leaves_all_as_it_was(first: int, model: list[int], asked: tuple[int, int]) -> None:
    array = probe.Array(first)
    array.append(model)
    size = array.size
    assert not array.reserve(*asked)
    assert array.contents() == model
    assert array.size == size


@given(firsts, st.lists(st.one_of(numbers, st.none()), max_size=500))
def test_a_queue_reuses_what_is_gone(first: int, steps: list[int | None]) -> None:
    """None takes the oldest number. The capacity is at most four times the longest queue."""
    array, model, most = probe.Array(first), deque[int](), first
    for step in steps:
        if step is not None:
            array.push(step)
            model.append(step)
        elif model:
            assert array.pop() == model.popleft()
        most = max(most, len(model))
        assert array.contents() == list(model)
        assert len(model) <= array.size <= 4 * most
