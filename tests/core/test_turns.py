"""Lanes of connections that wait for their turn, against lists."""

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
        """Connections added meanwhile come after those that are put back."""
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
