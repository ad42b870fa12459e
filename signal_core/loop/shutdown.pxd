"""How a loop shuts down: a drain, then a stop, then its end. Runs on the loop's thread.

A drain (KIND_STOP with a time) stops accepting, sends GOAWAY to every client, and closes those that stay, evenly over
the drain time. Clients that leave on GOAWAY count as well: at each moment no more are left than the remaining time
allows. So clients are not closed earlier than necessary, and arrive at other nodes at a bounded rate. Messages flow
throughout.

A stop (KIND_STOP without a time) ends a drain, stops accepting, and closes every client with 1001. Handshakes in
progress get 503 after half of the close time.

In both, the accept backlog comes first: connections that were queued or in progress are accepted and get 503. Then the
listeners are closed (client/listening.pxd).

The loop is over when no connection is left and its last messages are with NATS, or when the close time has passed
(shutdown_is_over). Its thread then closes what is left and frees its memory (thread.pxd).
"""

from libc.stdint cimport uint32_t, uint64_t
from signal_core.base.counters cimport C_CONNECTIONS, C_DRAINED
from signal_core.base.limits cimport GOODBYES_PER_TURN, MAX_LISTENERS
from signal_core.client.listening cimport listening_refuse, listening_step
from signal_core.delivery.conn_close cimport conn_close
from signal_core.delivery.replies cimport replies_goaway
from signal_core.tables.conn_table cimport (
    CONN_AUTHENTICATING, CONN_DEAD, CONN_HANDSHAKE, CONN_JOINING, CONN_OPEN, FLAG_LEAVING, Conn, slab_conn,
)
from signal_core.tables.state cimport Drain, Loop
from signal_core.tables.timer_wheel cimport wheel_arm_by


# -- the accept backlog --

cdef inline void _shut(Loop* loop) noexcept nogil:
    """Stops accepting: from now on new connections get 503. No effect the second time."""
    cdef uint32_t i
    if loop.accept.shut:
        return
    loop.accept.shut = True
    loop.stop.answer_by = loop.tick + loop.set.close // 2
    for i in range(MAX_LISTENERS):  # nlisteners may fall meanwhile
        listening_refuse(loop, i)


# -- a drain --

cdef inline void shutdown_begin_drain(Loop* loop, uint32_t ticks) noexcept nogil:
    """Begins a drain of this many ticks. No effect during a drain or a stop."""
    if loop.drain.on or loop.stop.on:
        return
    _shut(loop)
    loop.drain = Drain(on=True, behind=False, begun=loop.tick, by=loop.tick + ticks,
                       total=<uint32_t>loop.n[C_CONNECTIONS], leaving=0, told=0, cursor=0)


cdef inline void _drain_tell(Loop* loop) noexcept nogil:
    """Sends GOAWAY to the clients of the next slots, at most GOODBYES_PER_TURN; handshakes in progress get 503 soon."""
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
    """Returns how many connections are open beyond what the remaining time allows."""
    cdef const Drain* drain = &loop.drain
    cdef uint64_t here = loop.n[C_CONNECTIONS] - drain.leaving
    cdef uint64_t ticks = drain.by - drain.begun
    cdef uint64_t left = drain.by - loop.tick if drain.by > loop.tick else 0
    cdef uint64_t may_stay = (drain.total * left + ticks - 1) // ticks
    return here - may_stay if here > may_stay else 0


cdef inline void _drain_close(Loop* loop) noexcept nogil:
    """Closes the excess with 1001, slot by slot, only clients that have got GOAWAY. Visits at most GOODBYES_PER_TURN
    slots."""
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


# -- a stop --

cdef inline void shutdown_begin_stop(Loop* loop) noexcept nogil:
    """Begins a stop, which ends a drain. It takes at most the close time. No effect the second time."""
    cdef uint32_t close_ticks = loop.set.close
    if loop.stop.on:
        return
    _shut(loop)
    loop.drain.on = False
    loop.stop.on = True
    loop.stop.by = loop.tick + close_ticks
    loop.stop.answer_by = loop.tick + close_ticks // 2


cdef inline void _stop_step(Loop* loop) noexcept nogil:
    """Closes the clients of the next GOODBYES_PER_TURN slots with 1001; handshakes in progress get 503 soon."""
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


cdef inline bint shutdown_is_over(const Loop* loop) noexcept nogil:
    """Whether a stop is complete: no connection is left and NATS has everything, or the close time has passed."""
    if not loop.stop.on:
        return False
    if loop.tick > loop.stop.by:
        return True
    return (loop.accept.nlisteners == 0 and loop.slab.live == 0 and loop.stop.cursor >= loop.slab.used
            and (loop.linked == NULL or loop.linked.out.head == NULL))


# -- in each iteration --

cdef inline bint shutdown_has_work(const Loop* loop) noexcept nogil:
    """Whether a drain or a stop has work for the next iteration, so that the loop must not sleep."""
    if loop.stop.on and loop.stop.cursor < loop.slab.used:
        return True
    return loop.drain.on and (loop.drain.behind or loop.drain.told < loop.slab.used)


cdef inline void shutdown_step(Loop* loop) noexcept nogil:
    """Runs in each iteration once a drain or a stop has begun."""
    if loop.drain.on:
        _drain_tell(loop)
        _drain_close(loop)
    if loop.stop.on:
        _stop_step(loop)
    listening_step(loop)
