"""Divides an iteration among connections: turns, time limits of steps, and the connections that wait for a turn.

Work is counted in units, not in messages: a frame, an event, a write and each further 4 KiB of it, a mailbox item, or
64 deliveries that a fan-out attempts. A connection's turn ends after its share of units, a step of the iteration after
its time. The clock is read every LOOK_UNITS units, so a message does not pay for it.

Connections with input left over wait in Turn.ready for their turn, in order. One that has caused work that is not done
(fan-outs or presence not written yet, or more messages than another loop has taken) waits in Turn.delayed instead
(delivery/delayed.pxd).

What fan-outs, presence and GAPs queue is written in a second lane, after messages to one peer and answers.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memmove
from signal_core.base.array cimport array_reserve
from signal_core.base.counters cimport C_STEPS_CUT
from signal_core.base.kinds cimport KIND_NEWS, KIND_ROOM
from signal_core.base.limits cimport (
    CROWD_MESSAGES, CROWD_ROOMS, FRAMES_PER_TURN, LINE_KEPT, LOOK_UNITS, SHARE_LEAST, SHARE_TOTAL, UNIT_SHIFT,
)
from signal_core.base.sys cimport SE_INLINE, SE_RARE, se_load_relaxed, se_now_ns, se_store_relaxed
from signal_core.tables.conn_table cimport FLAG_BLOCKED, FLAG_DIRTY, FLAG_READY, NO_SLOT, Conn
from signal_core.tables.latency cimport latency_note_long
from signal_core.tables.state cimport CROWD_WORDS, LANE_DIRECT, LANE_SPREAD, Line, Loop

cdef enum:
    # Turn.step_end, unless it is a time
    STEP_SPENT = 0            # the step's time is over
    STEP_FRESH_BIT = 62       # if set, the clock was not read yet, and the bits below are the step's time

    LINE_AT_FIRST = 64        # initial capacity of a list of waiting connections


# -- the time of a step --

cdef inline void turns_step_begin(Loop* loop, uint64_t ns) noexcept nogil:
    """Begins a step of the iteration that may take `ns` from its first reading of the clock."""
    loop.turn.step_end = <uint64_t>1 << STEP_FRESH_BIT | ns
    loop.turn.look = loop.turn.work + LOOK_UNITS


cdef inline bint turns_step_look(Loop* loop) noexcept nogil:
    """Reads the clock; returns whether the step's time is over."""
    cdef uint64_t now
    if loop.turn.step_end == STEP_SPENT:
        return True
    latency_note_long(loop)
    now = se_now_ns()
    if loop.turn.step_end >> STEP_FRESH_BIT:
        loop.turn.step_end += now - (<uint64_t>1 << STEP_FRESH_BIT)
    elif now >= loop.turn.step_end:
        loop.turn.step_end = STEP_SPENT
        loop.n[C_STEPS_CUT] += 1
        return True
    loop.turn.look = loop.turn.work + LOOK_UNITS
    return False


cdef inline bint turns_step_is_over(Loop* loop) noexcept nogil:
    """Whether the step's time is over; reads the clock every LOOK_UNITS units of work."""
    return SE_RARE(loop.turn.work >= loop.turn.look) and turns_step_look(loop)


# -- the lanes of queues to write --

cdef inline SE_INLINE turns_lane_add(Loop* loop, Conn* c, int lane) noexcept nogil:
    """Puts a connection into a lane of queues to write, unless it is in one or waits for EPOLLOUT."""
    if c.flags & (FLAG_DIRTY | FLAG_BLOCKED):
        return
    c.flags |= FLAG_DIRTY
    c.out.next = NO_SLOT
    loop.turn.dirty_tail[lane][0] = c.slot
    loop.turn.dirty_tail[lane] = &c.out.next


cdef inline uint32_t turns_lane_take(Loop* loop, int lane) noexcept nogil:
    """Empties a lane and returns its first slot, linked to the others by Queue.next; NO_SLOT: it was empty."""
    cdef uint32_t first = loop.turn.dirty_head[lane]
    loop.turn.dirty_head[lane] = NO_SLOT
    loop.turn.dirty_tail[lane] = &loop.turn.dirty_head[lane]
    return first


cdef inline void turns_lane_put_back(Loop* loop, int lane, uint32_t first, uint32_t* last) noexcept nogil:
    """Puts the rest of a taken lane back, before what was added since. `last` was the lane's tail when it was taken."""
    last[0] = loop.turn.dirty_head[lane]
    if last[0] == NO_SLOT:
        loop.turn.dirty_tail[lane] = last
    loop.turn.dirty_head[lane] = first


cdef inline bint turns_lanes_wait(const Loop* loop) noexcept nogil:
    """Whether a queue is to be written."""
    return loop.turn.dirty_head[LANE_DIRECT] & loop.turn.dirty_head[LANE_SPREAD] != NO_SLOT


# -- connections that wait for a turn --

cdef inline bint turns_line_room(Line* line, uint32_t more) noexcept nogil:
    """Makes room for `more` connections. False without memory."""
    return array_reserve(&line.slots, &line.size, <uint64_t>line.used + more, sizeof(uint32_t), LINE_AT_FIRST)


cdef inline bint turns_line_add(Line* line, Conn* c) noexcept nogil:
    """Appends a connection. False without memory."""
    if not turns_line_room(line, 1):
        return False
    c.flags |= FLAG_READY
    line.slots[line.used] = c.slot
    line.used += 1
    return True


cdef inline void turns_line_drop(Line* line, uint32_t first) noexcept nogil:
    """Removes the `first` oldest. An empty list with more than LINE_KEPT entries is freed."""
    line.used -= first
    memmove(line.slots, line.slots + first, line.used * sizeof(uint32_t))
    if SE_RARE(line.used == 0 and line.size > LINE_KEPT):
        free(line.slots)
        line.slots = NULL
        line.size = 0


cdef inline uint32_t turns_share(int waiting) noexcept nogil:
    """Returns the units of a turn when `waiting` connections have one in the iteration; -1 (epoll_wait failed) is 0."""
    cdef uint32_t share
    if not SE_RARE(waiting >= SHARE_TOTAL // FRAMES_PER_TURN):
        return FRAMES_PER_TURN
    share = SHARE_TOTAL // (<uint32_t>waiting + 1)
    return share if share > SHARE_LEAST else SHARE_LEAST


cdef inline void turns_spread_work(Loop* loop, uint64_t deliveries) noexcept nogil:
    """Counts the work of a fan-out that has attempted so many deliveries."""
    loop.turn.work += deliveries >> UNIT_SHIFT


# -- crowded loops --

cdef inline bint _turns_is_for_many(uint8_t kind) noexcept nogil:
    return kind == KIND_ROOM or kind == KIND_NEWS


cdef inline bint turns_is_crowded(const Loop* target, uint64_t held, uint8_t kind) noexcept nogil:
    """Whether a loop is crowded for packets of this kind: too many wait in its mailbox, `held` ones in the caller's
    outbox included, or it has fan-outs or presence to write and this is more of them."""
    cdef uint64_t waiting = se_load_relaxed(&target.mailbox.waiting) + held
    if _turns_is_for_many(kind):
        return waiting >= CROWD_ROOMS or se_load_relaxed(&target.behind) != 0
    return waiting >= CROWD_MESSAGES


cdef inline void turns_crowd_note(Loop* loop, uint32_t index, uint8_t kind) noexcept nogil:
    """Notes that loop `index` is crowded and that the connection at hand has posted to it."""
    loop.turn.crowds[(index >> 6) + (0 if _turns_is_for_many(kind) else CROWD_WORDS)] |= <uint64_t>1 << (index & 63)
    loop.turn.crowding = True
    loop.turn.caused += 1


cdef inline bint _crowd_is_over(const Loop* target, bint for_many) noexcept nogil:
    if for_many:
        return not turns_is_crowded(target, 0, KIND_ROOM)
    return se_load_relaxed(&target.mailbox.waiting) < CROWD_MESSAGES // 2


cdef inline bint turns_crowds_remain(Loop* loop) noexcept nogil:
    """Whether a noted loop is still crowded; forgets those that are not."""
    cdef uint32_t word, bit
    if not loop.turn.crowding:
        return False
    loop.turn.crowding = False
    for word in range(2 * CROWD_WORDS):
        for bit in range(64 if loop.turn.crowds[word] else 0):
            if not loop.turn.crowds[word] >> bit & 1:
                continue
            if _crowd_is_over(loop.hub.loops[(word & (CROWD_WORDS - 1)) << 6 | bit], word < CROWD_WORDS):
                loop.turn.crowds[word] &= ~(<uint64_t>1 << bit)
            else:
                loop.turn.crowding = True
    return loop.turn.crowding


cdef inline void turns_behind_note(Loop* loop) noexcept nogil:
    """Publishes to other loops whether fan-outs and presence are still to be written. Called after the writes."""
    cdef uint64_t behind = loop.turn.dirty_head[LANE_SPREAD] != NO_SLOT
    if SE_RARE(behind != loop.behind):
        se_store_relaxed(&loop.behind, behind)
