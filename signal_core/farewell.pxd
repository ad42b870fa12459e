"""How a loop takes leave, in a stop and in a drain. L4.

In a drain everybody is told to go elsewhere, and who stays is closed, evenly over the time that it takes.
The pace counts all that go, be it by themselves or not: at each moment no more are left than those for whom there is
time left. So clients that leave at a moment of their own choice within the time are not hurried, and those that
reconnect when they are closed arrive elsewhere at no more than so many in a second. Messages go on meanwhile.
"""

from libc.stdint cimport uint32_t, uint64_t
from signal_core.accept cimport loop_drain, loop_shut
from signal_core.answers cimport say_goaway
from signal_core.conn cimport conn_close
from signal_core.counters cimport C_CONNECTIONS, C_DRAINED
from signal_core.limits cimport GOODBYES_PER_TURN
from signal_core.slab cimport (
    CONN_DEAD, CONN_HANDSHAKE, CONN_JOINING, CONN_JUDGED, CONN_OPEN, FLAG_LEAVING, Conn, slab_conn,
)
from signal_core.state cimport Farewell, Loop
from signal_core.wheel cimport wheel_arm_by


cdef inline void farewell_begin(Loop* loop, uint32_t ticks) noexcept nogil:
    """No effect on one that drains or stops already."""
    if loop.farewell.on or loop.stopping:
        return
    loop_shut(loop)
    loop.farewell = Farewell(on=True, behind=False, begun=loop.tick, by=loop.tick + ticks,
                             total=<uint32_t>loop.n[C_CONNECTIONS], leaving=0, told=0, cursor=0)


cdef inline void farewell_tell(Loop* loop) noexcept nogil:
    """GOAWAY to those in the next slots, a bounded number at a time; 503 soon to those not yet upgraded."""
    cdef Conn* c
    cdef int _i
    for _i in range(GOODBYES_PER_TURN):
        if loop.farewell.told >= loop.slab.used:
            return
        c = slab_conn(&loop.slab, loop.farewell.told)
        loop.farewell.told += 1
        if c.state == CONN_OPEN:
            say_goaway(loop, c)
        elif c.state == CONN_HANDSHAKE or c.state == CONN_JUDGED:
            wheel_arm_by(&loop.wheel, &loop.slab, c.slot, loop.answer_by)


cdef inline uint64_t farewell_excess(const Loop* loop) noexcept nogil:
    """How many too many are still here."""
    cdef const Farewell* f = &loop.farewell
    cdef uint64_t here = loop.n[C_CONNECTIONS] - f.leaving
    cdef uint64_t ticks = f.by - f.begun
    cdef uint64_t left = f.by - loop.tick if f.by > loop.tick else 0
    cdef uint64_t may_stay = (f.total * left + ticks - 1) // ticks
    return here - may_stay if here > may_stay else 0


cdef inline void farewell_close(Loop* loop) noexcept nogil:
    """1001 to as many as are too many, slot by slot, of those that were told; a bounded number at a time."""
    cdef uint64_t excess = farewell_excess(loop)
    cdef int budget = GOODBYES_PER_TURN
    cdef Conn* c
    while excess and budget and loop.farewell.cursor < loop.farewell.told:
        c = slab_conn(&loop.slab, loop.farewell.cursor)
        loop.farewell.cursor += 1
        budget -= 1
        if c.state != CONN_OPEN and c.state != CONN_JOINING:
            continue
        conn_close(loop, c, 1001)
        if c.state != CONN_DEAD:
            c.flags |= FLAG_LEAVING
            loop.farewell.leaving += 1
        loop.n[C_DRAINED] += 1
        excess -= 1
    loop.farewell.behind = excess and loop.farewell.cursor < loop.slab.used


cdef inline void farewell_turn(Loop* loop) noexcept nogil:
    """In each iteration of a drain."""
    farewell_tell(loop)
    farewell_close(loop)


cdef inline bint farewell_has_work(const Loop* loop) noexcept nogil:
    """Whether there is work for the next iteration already."""
    return loop.farewell.on and (loop.farewell.behind or loop.farewell.told < loop.slab.used)


cdef inline void loop_goodbye(Loop* loop) noexcept nogil:
    """While stopping: 1001 to those in the next slots, a bounded number at a time, be they free or not; 503 soon to
    those not yet upgraded."""
    cdef Conn* c
    cdef int _i
    for _i in range(GOODBYES_PER_TURN):
        if loop.stop_cursor >= loop.slab.used:
            return
        c = slab_conn(&loop.slab, loop.stop_cursor)
        loop.stop_cursor += 1
        if c.state == CONN_OPEN or c.state == CONN_JOINING:
            conn_close(loop, c, 1001)
        elif c.state == CONN_HANDSHAKE or c.state == CONN_JUDGED:
            wheel_arm_by(&loop.wheel, &loop.slab, c.slot, loop.answer_by)


cdef inline bint loop_leaves(const Loop* loop) noexcept nogil:
    """Of one that is shut: whether there are some to say goodbye to already."""
    return (loop.stopping and loop.stop_cursor < loop.slab.used) or farewell_has_work(loop)


cdef inline void loop_leave(Loop* loop) noexcept nogil:
    """In each iteration, once shut: a drain's part, a stop's, and the listeners'."""
    if loop.farewell.on:
        farewell_turn(loop)
    if loop.stopping:
        loop_goodbye(loop)
    loop_drain(loop)
