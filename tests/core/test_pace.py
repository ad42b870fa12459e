"""How the pace of new connections follows what loops waited for a processor."""

from hypothesis import given
from hypothesis import strategies as st

from signal_core import probe

LIMIT = 75_000  # ns in the mean beyond which new connections are slowed down
bounds = st.tuples(st.integers(160, 100_000), st.integers(1, 1000)).map(lambda b: (b[0], b[0] * b[1]))
waits = st.integers(0, 2 * LIMIT) | st.integers(0, 10**12)


@given(bounds, st.lists(waits, max_size=300))
def test_it_keeps_its_bounds(bound: tuple[int, int], waited: list[int]) -> None:
    """Whatever happens it is unbounded, or within both; who waits slows down, who doesn't never does."""
    shortest, longest = bound
    gap = 0
    for wait in waited:
        before = gap
        gap = probe.pace(gap, wait, shortest, longest)
        assert gap == 0 or shortest <= gap <= longest
        if wait > LIMIT:
            assert gap > before or gap == longest
        else:
            assert gap < before or gap == 0


@given(bounds)
def test_it_goes_all_the_way(bound: tuple[int, int]) -> None:
    """To the slowest within as many looks as a second has, and back to none within ten seconds."""
    shortest, longest = bound
    gap = 0
    for _ in range(100):
        gap = probe.pace(gap, LIMIT + 1, shortest, longest)
    assert gap == longest
    for _ in range(1000):
        gap = probe.pace(gap, LIMIT, shortest, longest)
    assert gap == 0
