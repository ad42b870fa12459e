"""What waits for its turn: lanes of queues against lists, and the time of a message in part."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from signal_core import probe

SLOTS = 12
slots = st.integers(0, SLOTS - 1)
lanes = st.integers(0, 1)


class LaneMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = probe.OneLoop(SLOTS)
        self.model: tuple[list[int], list[int]] = ([], [])

    def added(self, slot: int, lane: int) -> None:
        if slot not in self.model[0] and slot not in self.model[1]:
            self.model[lane].append(slot)

    @rule(slot=slots, lane=lanes)
    def add(self, slot: int, lane: int) -> None:
        self.loop.add(slot, lane)
        self.added(slot, lane)

    @rule(lane=lanes, most=st.integers(0, SLOTS), again=st.sets(slots), other=st.sets(slots))
    def flush(self, lane: int, most: int, again: set[int], other: set[int]) -> None:
        """What is added meanwhile comes after all that is put back."""
        written = self.model[lane][:most]
        del self.model[lane][:most]
        assert self.loop.flush(lane, most, again, other) == written
        for slot in written:
            if slot in again:
                self.added(slot, lane)
            elif slot in other:
                self.added(slot, 1 - lane)

    @invariant()
    def same(self) -> None:
        assert [self.loop.lane(lane) for lane in (0, 1)] == list(self.model)


LaneMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_lanes = LaneMachine.TestCase


@pytest.mark.parametrize("patience", [1, 5, 10, 11, 300])
@pytest.mark.parametrize("now", [3, 1000, 2**32 - 5], ids=["early", "later", "wrapping"])
def test_a_message_in_part_that_waited_has_a_second_at_least(patience: int, now: int) -> None:
    """However short message-timeout is: a timer that fires for another reason closes it no sooner."""

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
