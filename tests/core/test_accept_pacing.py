"""How the pace of new connections follows the time that loops wait for a processor."""

from hypothesis import given
from hypothesis import strategies as st

from signal_core import probe

LIMIT = 75_000  # ns: a longer mean wait slows new connections down
bounds = st.tuples(st.integers(160, 100_000), st.integers(1, 1000)).map(lambda b: (b[0], b[0] * b[1]))
waits = st.integers(0, 2 * LIMIT) | st.integers(0, 10**12)


@given(bounds, st.lists(waits, max_size=300))
def test_the_pace_is_within_its_bounds(bound: tuple[int, int], waited: list[int]) -> None:
    """The interval is 0 or within both bounds. It grows while loops wait, and shrinks while they don't."""
    shortest, longest = bound
    interval = 0
    for wait in waited:
        before = interval
        interval = probe.pace(interval, wait, shortest, longest)
        assert interval == 0 or shortest <= interval <= longest
        if wait > LIMIT:
            assert interval > before or interval == longest
        else:
            assert interval < before or interval == 0


@given(bounds)
def test_the_pace_goes_from_bound_to_bound(bound: tuple[int, int]) -> None:
    """To the longest interval within 100 steps, and back to none within 1000."""
    shortest, longest = bound
    interval = 0
    for _ in range(100):
        interval = probe.pace(interval, LIMIT + 1, shortest, longest)
    assert interval == longest
    for _ in range(1000):
        interval = probe.pace(interval, LIMIT, shortest, longest)
    assert interval == 0
