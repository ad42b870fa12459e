"""A loop's timer wheel: one timer for each connection, linked by slot numbers. The loop only.

A connection's timer says when to check it, not what is due; activity never touches it. The check finds out what is due,
and arms the timer again. So a message costs no timer work, and an idle connection costs one check an interval.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memset
from signal_core.base.limits cimport WHEEL_SLOTS
from signal_core.base.sys cimport SE_ASSERT, SE_INLINE
from signal_core.tables.conn_table cimport CONN_DEAD, NO_SLOT, Cold, Slab, slab_cold, slab_conn

cdef struct Wheel:
    uint32_t head[WHEEL_SLOTS]  # 2048  first slot of each list
    uint32_t now              # 4     tick up to which timers have fired
    uint32_t armed            # 4
    uint32_t walk             # 4     next slot of the list of `now`; NO_SLOT: the list is done
    uint32_t empty_to         # 4     the lists of the ticks after `now` up to this one are empty


cdef inline void wheel_init(Wheel* wheel, uint32_t now) noexcept nogil:
    memset(wheel.head, 0xff, sizeof(wheel.head))
    wheel.now = now
    wheel.armed = 0
    wheel.walk = NO_SLOT
    wheel.empty_to = now


cdef inline void wheel_disarm(Wheel* wheel, Slab* slab, uint32_t slot) noexcept nogil:
    """No effect on a timer that is not armed."""
    cdef Cold* cold = slab_cold(slab, slot)
    if cold.due == 0:
        return
    if wheel.walk == slot:
        wheel.walk = cold.next
    if cold.prev != NO_SLOT:
        slab_cold(slab, cold.prev).next = cold.next
    else:
        wheel.head[cold.due % WHEEL_SLOTS] = cold.next
    if cold.next != NO_SLOT:
        slab_cold(slab, cold.next).prev = cold.prev
    cold.due = 0
    wheel.armed -= 1


cdef inline SE_INLINE wheel_arm(Wheel* wheel, Slab* slab, uint32_t slot, uint32_t due) noexcept nogil:
    """Sets the timer of `slot` to tick `due`, or to the next tick if that has passed."""
    cdef Cold* cold = slab_cold(slab, slot)
    cdef uint32_t* head
    cdef uint32_t comes_up
    SE_ASSERT(slab_conn(slab, slot).state != CONN_DEAD)  # its Cold.next belongs to Loop.dead
    wheel_disarm(wheel, slab, slot)
    if due <= wheel.now:
        due = wheel.now + 1
    comes_up = wheel.now + 1 + (due - wheel.now - 1) % WHEEL_SLOTS
    if comes_up <= wheel.empty_to:
        wheel.empty_to = comes_up - 1
    head = &wheel.head[due % WHEEL_SLOTS]
    cold.due = due
    cold.prev = NO_SLOT
    cold.next = head[0]
    if head[0] != NO_SLOT:
        slab_cold(slab, head[0]).prev = slot
    head[0] = slot
    wheel.armed += 1


cdef inline void wheel_arm_by(Wheel* wheel, Slab* slab, uint32_t slot, uint32_t due) noexcept nogil:
    """As wheel_arm, unless the timer is armed for an earlier tick."""
    cdef uint32_t armed = slab_cold(slab, slot).due
    if armed == 0 or due < armed:
        wheel_arm(wheel, slab, slot, due)


cdef inline uint32_t wheel_pop(Wheel* wheel, Slab* slab, uint32_t now, uint32_t* budget) noexcept nogil:
    """Disarms and returns the next slot whose timer is due by tick `now`; NO_SLOT: none is left, or no budget.

    Each slot visited takes 1 from the budget, also one that is due in a later turn of the wheel. The next call goes on
    from there.
    """
    cdef uint32_t slot
    while True:
        slot = wheel.walk
        while slot != NO_SLOT:
            if budget[0] == 0:
                return NO_SLOT
            budget[0] -= 1
            if slab_cold(slab, slot).due <= wheel.now:
                wheel_disarm(wheel, slab, slot)
                return slot
            slot = slab_cold(slab, slot).next
            wheel.walk = slot
        if wheel.now >= now:
            return NO_SLOT
        wheel.now += 1
        wheel.walk = wheel.head[wheel.now % WHEEL_SLOTS]


cdef inline bint wheel_is_late(const Wheel* wheel, uint32_t now) noexcept nogil:
    """Whether timers may be left that were due before tick `now`."""
    if wheel.walk != NO_SLOT:
        return wheel.now < now
    return wheel.now + 1 < now and wheel.empty_to + 1 < now


cdef inline uint32_t wheel_next(Wheel* wheel) noexcept nogil:
    """Returns the ticks from Wheel.now to the next list that is not empty, at most WHEEL_SLOTS; 0: one is being walked.

    Lists found empty are not visited again, so that a call in every iteration costs one visit a tick.
    """
    if wheel.walk != NO_SLOT:
        return 0
    if wheel.armed == 0:
        return WHEEL_SLOTS
    if wheel.empty_to < wheel.now:
        wheel.empty_to = wheel.now
    while (wheel.empty_to + 1 - wheel.now < WHEEL_SLOTS
           and wheel.head[(wheel.empty_to + 1) % WHEEL_SLOTS] == NO_SLOT):
        wheel.empty_to += 1
    return wheel.empty_to + 1 - wheel.now
