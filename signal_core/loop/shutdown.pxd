"""How a loop takes leave, in a stop and in a drain.

In a drain everybody is told to go elsewhere, and who stays is closed, evenly over the time that it takes.
The pace counts all that go, be it by themselves or not: at each moment no more are left than those for whom there is
time left. So clients that leave at a moment of their own choice within the time are not hurried, and those that
reconnect when they are closed arrive elsewhere at no more than so many in a second. Messages go on meanwhile.
"""

from libc.stdint cimport uint32_t, uint64_t
from signal_core.base.counters cimport C_CONNECTIONS, C_DRAINED
from signal_core.base.limits cimport GOODBYES_PER_TURN
from signal_core.client.listener cimport listener_drain_backlog, listener_shut
from signal_core.delivery.conn_close cimport conn_close
from signal_core.delivery.replies cimport replies_goaway
from signal_core.tables.conn_table cimport (
    CONN_AUTHENTICATING, CONN_DEAD, CONN_HANDSHAKE, CONN_JOINING, CONN_OPEN, FLAG_LEAVING, Conn, slab_conn,
)
from signal_core.tables.state cimport Drain, Loop
from signal_core.tables.timer_wheel cimport wheel_arm_by


cdef inline void shutdown_begin_drain(Loop* loop, uint32_t ticks) noexcept nogil:
    """No effect on one that drains or stops already."""
    if loop.drain.on or loop.stop.on:
        return
    listener_shut(loop)
    loop.drain = Drain(on=True, behind=False, begun=loop.tick, by=loop.tick + ticks,
                       total=<uint32_t>loop.n[C_CONNECTIONS], leaving=0, told=0, cursor=0)


cdef inline void _drain_tell(Loop* loop) noexcept nogil:
    """GOAWAY to those in the next slots, a bounded number at a time; 503 soon to those not yet upgraded."""
    cdef Conn* c
    cdef int _i
    for _i in range(GOODBYES_PER_TURN):
        if loop.drain.told >= loop.slab.used:
            return
        c = slab_conn(&loop.slab, loop.drain.told)
        loop.drain.told += 1
        if c.state == CONN_OPEN:
            replies_goaway(loop, c)
        elif c.state == CONN_HANDSHAKE or c.state == CONN_AUTHENTICATING:
            wheel_arm_by(&loop.wheel, &loop.slab, c.slot, loop.stop.answer_by)


cdef inline uint64_t _drain_excess(const Loop* loop) noexcept nogil:
    """How many too many are still here."""
    cdef const Drain* f = &loop.drain
    cdef uint64_t here = loop.n[C_CONNECTIONS] - f.leaving
    cdef uint64_t ticks = f.by - f.begun
    cdef uint64_t left = f.by - loop.tick if f.by > loop.tick else 0
    cdef uint64_t may_stay = (f.total * left + ticks - 1) // ticks
    return here - may_stay if here > may_stay else 0


cdef inline void _drain_close(Loop* loop) noexcept nogil:
    """1001 to as many as are too many, slot by slot, of those that were told; a bounded number at a time."""
    cdef uint64_t excess = _drain_excess(loop)
    cdef int budget = GOODBYES_PER_TURN
    cdef Conn* c
    while excess and budget and loop.drain.cursor < loop.drain.told:
        c = slab_conn(&loop.slab, loop.drain.cursor)
        loop.drain.cursor += 1
        budget -= 1
        if c.state != CONN_OPEN and c.state != CONN_JOINING:
            continue
        conn_close(loop, c, 1001)
        if c.state != CONN_DEAD:
            c.flags |= FLAG_LEAVING
            loop.drain.leaving += 1
        loop.n[C_DRAINED] += 1
        excess -= 1
    loop.drain.behind = excess and loop.drain.cursor < loop.slab.used


cdef inline void _drain_step(Loop* loop) noexcept nogil:
    """In each iteration of a drain."""
    _drain_tell(loop)
    _drain_close(loop)


cdef inline bint _drain_has_work(const Loop* loop) noexcept nogil:
    """Whether there is work for the next iteration already."""
    return loop.drain.on and (loop.drain.behind or loop.drain.told < loop.slab.used)


cdef inline void _stop_step(Loop* loop) noexcept nogil:
    """While stopping: 1001 to those in the next slots, a bounded number at a time, be they free or not; 503 soon to
    those not yet upgraded."""
    cdef Conn* c
    cdef int _i
    for _i in range(GOODBYES_PER_TURN):
        if loop.stop.cursor >= loop.slab.used:
            return
        c = slab_conn(&loop.slab, loop.stop.cursor)
        loop.stop.cursor += 1
        if c.state == CONN_OPEN or c.state == CONN_JOINING:
            conn_close(loop, c, 1001)
        elif c.state == CONN_HANDSHAKE or c.state == CONN_AUTHENTICATING:
            wheel_arm_by(&loop.wheel, &loop.slab, c.slot, loop.stop.answer_by)


cdef inline bint shutdown_has_work(const Loop* loop) noexcept nogil:
    """Of one that is shut: whether there are some to say goodbye to already."""
    return (loop.stop.on and loop.stop.cursor < loop.slab.used) or _drain_has_work(loop)


cdef inline void shutdown_step(Loop* loop) noexcept nogil:
    """In each iteration, once shut: a drain's part, a stop's, and the listeners'."""
    if loop.drain.on:
        _drain_step(loop)
    if loop.stop.on:
        _stop_step(loop)
    listener_drain_backlog(loop)
