"""The deadline of a message of which only a part has arrived."""

import pytest

from signal_core import probe


@pytest.mark.parametrize("patience", [1, 5, 10, 11, 300])
@pytest.mark.parametrize("now", [3, 1000, 2**32 - 5], ids=["early", "later", "wrapping"])
def test_a_partial_message_that_waited_has_a_second_at_least(patience: int, now: int) -> None:
    """However short message-timeout is. A timer that fires for another reason does not close it sooner."""

    def tick(after: int) -> int:
        return (now + after) % 2**32

    loop = probe.OneLoop(1)
    loop.part(tick(0), tick(-patience), patience)
    assert loop.part_due(tick(0), True) == tick(10)
    for after in range(10):
        assert loop.part_due(tick(after), False) == tick(10)
    assert loop.part_due(tick(5), True) == tick(15)
    assert loop.part_due(tick(10), False) == tick(15)
    assert loop.part_due(tick(15), False) == 0
