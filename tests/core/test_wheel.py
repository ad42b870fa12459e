"""The wheel of timers against a dict: slot to tick."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from signal_core import probe

SLOTS = 24
WHEEL_SLOTS = 512
slots = st.integers(0, SLOTS - 1)
# Around now, around one turn of the wheel, and turns away.
delays = st.integers(-3, 3) | st.integers(509, 515) | st.integers(1, 2000)


class WheelMachine(RuleBasedStateMachine):
    @initialize(now=st.sampled_from([0, 1, 511, 512, 1_000_000]))
    def start(self, now: int) -> None:
        self.wheel = probe.Wheel(SLOTS, now)
        self.model: dict[int, int] = {}
        self.halfway = 0  # the tick that a pop was asked for which stopped halfway; 0: none did

    def wish(self, delay: int) -> int:
        return max(self.wheel.now + delay, 0)

    def kept(self, due: int) -> int:
        """What the wheel makes of a wish: what has passed is due at the next tick."""
        return max(due, self.wheel.now + 1)

    @rule(slot=slots, delay=delays)
    def arm(self, slot: int, delay: int) -> None:
        due = self.wish(delay)
        self.wheel.arm(slot, due)
        self.model[slot] = self.kept(due)

    @rule(slot=slots, delay=delays)
    def arm_by(self, slot: int, delay: int) -> None:
        due = self.wish(delay)
        self.wheel.arm_by(slot, due)
        if slot not in self.model or due < self.model[slot]:
            self.model[slot] = self.kept(due)

    @rule(slot=slots)
    def disarm(self, slot: int) -> None:
        self.wheel.disarm(slot)
        self.model.pop(slot, None)

    @rule(step=st.integers(0, 3) | st.integers(510, 514) | st.integers(0, 1500))
    def pop(self, step: int) -> None:
        """All that is due, each once, earlier ticks first; nothing early."""
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
        """As pop, in the end; in between, timers come and go."""
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
        """And wakes at least once a turn."""
        ahead = self.wheel.next()
        assert 0 <= ahead <= WHEEL_SLOTS
        if self.model:
            assert ahead <= max(min(self.model.values()) - self.wheel.now, 0)

    @invariant()
    def says_when_it_is_late(self) -> None:
        for now in (*range(self.wheel.now, self.wheel.now + 4), self.wheel.now + 600):
            if not self.wheel.late(now):
                assert all(due >= now for due in self.model.values())


TestWheel = WheelMachine.TestCase
TestWheel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_tick_that_has_just_come_is_not_late() -> None:
    """Nor is one that comes after ticks without timers, once the wheel has looked at them."""
    wheel = probe.Wheel(1, 0)
    wheel.arm(0, 400)
    assert wheel.late(400)
    assert wheel.next() == 400
    assert not wheel.late(400)
    assert wheel.late(401)


def test_timers_of_a_later_turn_count_as_work() -> None:
    """All in one list of the wheel, every second one due a turn later: no call looks at more than it may, and what is
    due fires all the same, while the wheel says that it is not done."""
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
