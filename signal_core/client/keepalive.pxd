"""Handles a connection's timer: keepalive, timeouts, checks of a blocked socket. Runs on the connection's loop.

The timers of a tick are spread over the tick. Many pings at one moment would delay the messages of their loop, and of
other loops on the same processor.
"""

from libc.stdint cimport uint32_t, uint64_t
from signal_core.base.counters cimport C_BACKLOG_BYTES, C_HANDSHAKES_TIMED_OUT, C_PEERS_LOST, C_PINGS_SENT, C_STALLED
from signal_core.base.limits cimport (
    BLOCKED_LOOK_TICKS, STAMP_BYTES, TICK_MS, TIMERS_PER_MS, TIMERS_PER_TURN, TIMERS_WITHIN, WHEEL_SLOTS,
)
from signal_core.base.memory cimport Packet
from signal_core.base.sys cimport (
    FIONREAD, SE_COLD, SE_INLINE, SE_RARE, SIOCOUTQ, ioctl, se_acknowledged,
)
from signal_core.client.auth cimport auth_due, auth_refuse
from signal_core.client.listener cimport listener_turn_away
from signal_core.client.partial cimport partial_due, partial_unread
from signal_core.delivery.backlog cimport backlog_cost, backlog_has_share, backlog_trim
from signal_core.delivery.conn cimport conn_answer, conn_expire, conn_extra, conn_frame, conn_kill, conn_silence
from signal_core.delivery.conn_close cimport conn_close_stalled
from signal_core.delivery.joining cimport joining_open
from signal_core.delivery.refs cimport refs_due
from signal_core.tables.conn_table cimport (
    CONN_AUTHENTICATING, CONN_DEAD, CONN_HANDSHAKE, CONN_JOINING, CONN_OPEN, FLAG_BLOCKED, FLAG_PAUSED, NO_SLOT, Cold,
    Conn, Extra, slab_cold, slab_conn, slab_extra, slab_whole,
)
from signal_core.tables.latency cimport latency_ping, latency_ping_due
from signal_core.tables.state cimport Loop, loop_ms
from signal_core.tables.timer_wheel cimport wheel_arm, wheel_is_late, wheel_pop
from signal_core.wire.frame cimport OP_PING
from signal_core.wire.handshake cimport UNDECIDED, UNHANDLED


cdef inline SE_COLD _ping_sampled(Loop* loop, Conn* c) noexcept nogil:
    """Sends a ping whose pong is timed."""
    cdef char* body
    cdef Packet* packet = conn_frame(loop, c, OP_PING, STAMP_BYTES, &body)
    if packet != NULL:
        latency_ping(loop, c, body)
    conn_answer(loop, c, packet)


cdef inline SE_INLINE _ping(Loop* loop, Conn* c) noexcept nogil:
    cdef char* body
    cdef bint sampled = latency_ping_due(loop)
    loop.n[C_PINGS_SENT] += 1
    if SE_RARE(sampled):
        _ping_sampled(loop, c)
    else:
        conn_answer(loop, c, conn_frame(loop, c, OP_PING, 0, &body))


cdef inline bint _may_answer(Loop* loop, Conn* c, uint32_t ticks) noexcept nogil:
    """Whether a client that was pinged this many ticks ago has sent something that was not read, or may still answer:
    it has not received everything yet, but has acknowledged some of it since the ping and since the last such check."""
    cdef Extra* extra
    cdef int waits = 0
    cdef uint32_t quiet_ms = 0, acked = 0
    if not c.flags & FLAG_PAUSED:
        ioctl(c.fd, FIONREAD, &waits)
        if waits:
            return True
    ioctl(c.fd, SIOCOUTQ, &waits)
    if waits == 0 or not se_acknowledged(c.fd, &quiet_ms, &acked) or quiet_ms > ticks * TICK_MS:
        return False
    extra = conn_extra(loop, c)
    if extra == NULL or extra.acked == acked:
        return False
    extra.acked = acked
    return True


cdef inline uint32_t _asked(const Loop* loop, const Cold* cold, uint32_t patience) noexcept nogil:
    """Returns the tick of the next check of a client that owes a pong: when it is late, or a ping could be due."""
    cdef uint32_t late = cold.asked + patience, due = loop.tick + loop.set.ping
    return late if late < due else due


cdef inline uint32_t _keepalive(Loop* loop, Conn* c) noexcept nogil:
    """Pings a silent client, and kills one that stays silent. Returns the tick of the next check; 0: it is dead."""
    cdef Cold* cold = slab_cold(&loop.slab, c.slot)
    cdef uint32_t patience = loop.set.pong + 1  # its ping may have left at the end of a tick
    cdef uint32_t silence
    if c.heard < cold.asked:
        if loop.tick < cold.asked + patience:
            return _asked(loop, cold, patience)
        if not _may_answer(loop, c, loop.tick - cold.asked):
            loop.n[C_PEERS_LOST] += 1
            conn_kill(loop, c)
            return 0
        cold.asked = loop.tick
        return _asked(loop, cold, patience)
    silence = conn_silence(loop, c)
    if loop.tick - c.heard < silence:
        return c.heard + silence
    if c.flags & FLAG_BLOCKED:
        return loop.tick + loop.set.ping
    cold.asked = loop.tick
    _ping(loop, c)
    return _asked(loop, cold, patience)


cdef inline SE_COLD _share(Loop* loop, Conn* c) noexcept nogil:
    """Drops the newest messages of a blocked connection that exceeds its present share of backlog-total."""
    cdef uint64_t cost = backlog_cost(&c.out), dropped = 0
    if backlog_has_share(loop, cost, 0):
        return
    loop.n[C_BACKLOG_BYTES] -= cost
    backlog_trim(loop, &c.out, &dropped)
    loop.n[C_BACKLOG_BYTES] += backlog_cost(&c.out)
    slab_whole(&loop.slab, c).missed += <uint32_t>dropped


cdef inline bint _blocked(Loop* loop, Conn* c) noexcept nogil:
    """Drops a blocked connection's messages that expired or exceed its share, and closes it if its client takes
    nothing. False: it is closed."""
    cdef Extra* extra = slab_extra(&loop.slab, c)
    cdef int unsent = 0
    conn_expire(loop, c)
    _share(loop, c)
    # The kernel reports a socket as writable only when a third of its buffer is free. So progress is measured by what
    # the client has acknowledged.
    ioctl(c.fd, SIOCOUTQ, &unsent)
    if unsent != extra.unsent:
        extra.unsent = unsent
        extra.progress = loop.tick
    if loop.tick - extra.progress < loop.set.stall:
        return True
    loop.n[C_STALLED] += 1
    conn_close_stalled(loop, c)
    return False


cdef inline SE_INLINE _open(Loop* loop, Conn* c) noexcept nogil:
    """Checks everything that an open connection may be late with, and arms its timer for the next check."""
    cdef uint32_t next_look, refs, end, late
    next_look = _keepalive(loop, c)
    if next_look == 0:
        return
    if c.flags & FLAG_BLOCKED:
        if not _blocked(loop, c):
            return
        if loop.tick + BLOCKED_LOOK_TICKS < next_look:
            next_look = loop.tick + BLOCKED_LOOK_TICKS
    refs = refs_due(loop, c)
    if refs and refs < next_look:
        next_look = refs
    end = auth_due(loop, c)
    if end and end < next_look:
        next_look = end
    late = partial_due(loop, c)
    if late and late < next_look:
        next_look = late
    if c.state == CONN_OPEN:
        wheel_arm(&loop.wheel, &loop.slab, c.slot, next_look)


cdef inline SE_COLD _handshake(Loop* loop, Conn* c) noexcept nogil:
    """Ends a handshake that timed out: the head is late, or was not handled in time. A client that has sent nothing,
    such as a browser that connects in advance, gets no 408 (RFC 9110 §15.5.9): its connection is just closed."""
    if c.phase.arriving.refusal:
        listener_turn_away(loop, c, 400 + c.phase.arriving.refusal)
        return
    if c.flags & FLAG_PAUSED or partial_unread(c):
        listener_turn_away(loop, c, UNHANDLED)
        return
    loop.n[C_HANDSHAKES_TIMED_OUT] += 1
    if c.pending == NULL:
        conn_kill(loop, c)
    else:
        listener_turn_away(loop, c, 408)


cdef inline void _fire(Loop* loop, Conn* c) noexcept nogil:
    """Does what is due when a connection's timer fires; that arms it again."""
    if c.state == CONN_OPEN:
        _open(loop, c)
    elif c.state == CONN_JOINING:
        joining_open(loop, c)
    elif c.state == CONN_HANDSHAKE and loop.accept.shut:
        listener_turn_away(loop, c, 503)
    elif c.state == CONN_AUTHENTICATING:
        auth_refuse(loop, c, 503 if loop.accept.shut else UNDECIDED)
    elif c.state == CONN_HANDSHAKE:
        _handshake(loop, c)
    elif c.state != CONN_DEAD:
        conn_kill(loop, c)


cdef inline bint keepalive_hurry(const Loop* loop) noexcept nogil:
    """Whether due timers must fire at once: they belong to an earlier tick, or the engine stops."""
    return loop.accept.shut or wheel_is_late(&loop.wheel, loop.tick)


cdef inline uint32_t _timers_share(const Loop* loop) noexcept nogil:
    """Returns how many timers may fire in one ms. A ping interval fires each connection's timer twice, for the ping and
    for the pong; the wheel passes each once in its period."""
    cdef uint32_t interval = loop.set.ping
    if interval > WHEEL_SLOTS:
        interval = WHEEL_SLOTS
    return TIMERS_PER_MS + 2 * loop.wheel.armed // (TIMERS_WITHIN * interval)


cdef inline uint32_t _timers_turn(const Loop* loop) noexcept nogil:
    """Returns how many timers may fire in this iteration: a share for each ms since the last, at most TIMERS_PER_TURN
    unless one share is more."""
    cdef uint32_t share = _timers_share(loop), passed = loop_ms(loop) - loop.timers_ms
    cdef uint32_t most = share if share > TIMERS_PER_TURN else TIMERS_PER_TURN
    if passed > loop.late_ms + 1:  # the tick's timers have waited for no longer
        passed = loop.late_ms + 1
    return share * passed if share * passed < most else most


cdef inline void keepalive_run(Loop* loop) noexcept nogil:
    """Runs in each iteration: fires due timers, spread over their tick."""
    cdef uint32_t slot, budget = TIMERS_PER_TURN
    if not keepalive_hurry(loop):
        if loop.timers_ms == loop_ms(loop):
            return
        budget = _timers_turn(loop)
    loop.timers_ms = loop_ms(loop)
    while True:
        slot = wheel_pop(&loop.wheel, &loop.slab, loop.tick, &budget)
        if slot == NO_SLOT:
            return
        _fire(loop, slab_conn(&loop.slab, slot))
