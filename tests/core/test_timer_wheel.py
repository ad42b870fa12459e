"""The timer wheel against a dict of slot to tick."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from signal_core import probe

SLOTS = 24
WHEEL_SLOTS = 512
slots = st.integers(0, SLOTS - 1)
# Around now, around one turn of the wheel, and several turns ahead.
delays = st.integers(-3, 3) | st.integers(509, 515) | st.integers(1, 2000)


class WheelMachine(RuleBasedStateMachine):
    @initialize(now=st.sampled_from([0, 1, 511, 512, 1_000_000]))
    def start(self, now: int) -> None:
        self.wheel = probe.Wheel(SLOTS, now)
        self.model: dict[int, int] = {}
        self.halfway = 0  # the tick of a pop that stopped early; 0: none did

    def target(self, delay: int) -> int:
        return max(self.wheel.now + delay, 0)

    def kept(self, due: int) -> int:
        """When a timer armed for `due` fires: one that has passed fires at the next tick."""
        return max(due, self.wheel.now + 1)

    @rule(slot=slots, delay=delays)
    def arm(self, slot: int, delay: int) -> None:
        due = self.target(delay)
        self.wheel.arm(slot, due)
        self.model[slot] = self.kept(due)

    @rule(slot=slots, delay=delays)
    def arm_by(self, slot: int, delay: int) -> None:
        due = self.target(delay)
        self.wheel.arm_by(slot, due)
        if slot not in self.model or due < self.model[slot]:
            self.model[slot] = self.kept(due)

    @rule(slot=slots)
    def disarm(self, slot: int) -> None:
        self.wheel.disarm(slot)
        self.model.pop(slot, None)

    @rule(step=st.integers(0, 3) | st.integers(510, 514) | st.integers(0, 1500))
    def pop(self, step: int) -> None:
        """All due timers, each once, in the order of their ticks, and no others."""
        now = max(self.wheel.now, self.halfway) + step
        found = self.wheel.pop(now)
        due = [slot for slot in self.model if self.model[slot] <= now]
        assert sorted(found) == sorted(due)
        ticks = [self.model.pop(slot) for slot in found]
        assert ticks == sorted(ticks)
        assert self.wheel.now == now
        self.halfway = 0

    @rule(step=st.integers(0, 3) | st.integers(0, 1500), most=st.integers(1, 3))
    def pop_some(self, step: int, most: int) -> None:
        """Pops at most `most`; other rules run before the rest is popped."""
        now = max(self.wheel.now, self.halfway) + step
        due = [slot for slot in self.model if self.model[slot] <= now]
        found = self.wheel.pop(now, most)
        assert len(found) == len(set(found)) == min(most, len(due))
        for slot in found:
            assert self.model.pop(slot) <= now
        self.halfway = now

    @invariant()
    def agrees(self) -> None:
        assert {slot: due for slot in range(SLOTS) if (due := self.wheel.due(slot))} == self.model
        assert self.wheel.armed == len(self.model)

    @precondition(lambda self: self.halfway == 0)
    @invariant()
    def sleeps_no_longer_than_the_first(self) -> None:
        """And never longer than one turn of the wheel."""
        ahead = self.wheel.next()
        assert 0 <= ahead <= WHEEL_SLOTS
        if self.model:
            assert ahead <= max(min(self.model.values()) - self.wheel.now, 0)

    @invariant()
    def is_late_if_a_timer_is_overdue(self) -> None:
        for now in (*range(self.wheel.now, self.wheel.now + 4), self.wheel.now + 600):
            if not self.wheel.late(now):
                assert all(due >= now for due in self.model.values())


TestWheel = WheelMachine.TestCase
TestWheel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_tick_that_has_just_come_is_not_late() -> None:
    """Not even after ticks without timers, once `next` has looked at them."""
    wheel = probe.Wheel(1, 0)
    wheel.arm(0, 400)
    assert wheel.late(400)
    assert wheel.next() == 400
    assert not wheel.late(400)
    assert wheel.late(401)


def test_timers_of_a_later_turn_count_as_work() -> None:
    """1000 timers in one list of the wheel, every second one due a turn later. No call looks at more timers than
    allowed. While the wheel says that it is not done, calls go on, and all due timers fire."""
    count, looks = 1000, 64
    wheel = probe.Wheel(count, 0)
    for slot in range(count):
        wheel.arm(slot, 10 + WHEEL_SLOTS * (slot % 2))
    fired, calls = [], 0
    while calls == 0 or wheel.next() == 0:
        found = wheel.pop(10, looks=looks)
        assert len(found) <= looks // 2
        fired += found
        calls += 1
    assert sorted(fired) == list(range(0, count, 2))
    assert calls >= count // looks
    assert wheel.armed == count // 2
    assert sorted(wheel.pop(10 + WHEEL_SLOTS)) == list(range(1, count, 2))
