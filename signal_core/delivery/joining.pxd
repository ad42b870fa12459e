"""The end of a handshake: HELLO, once every room of the URL is confirmed or refused.

A connection is CONN_JOINING from its 101 until then. Everything here runs on the connection's loop.
"""

from signal_core.base.limits cimport BLOCKED_LOOK_TICKS
from signal_core.base.span cimport span_none
from signal_core.delivery.conn cimport conn_answer, conn_resume, conn_silence
from signal_core.delivery.replies cimport replies_err, replies_goaway, replies_hello_new, replies_say
from signal_core.tables.codes cimport CODE_DENIED, CODE_UNAVAILABLE
from signal_core.tables.conn_table cimport (
    CONN_JOINING, CONN_OPEN, FLAG_BLOCKED, FLAG_PAUSED, Brief, Conn, Joining, slab_cold,
)
from signal_core.tables.state cimport Loop
from signal_core.tables.timer_wheel cimport wheel_arm, wheel_arm_by


cdef inline void joining_room_settled(Loop* loop, Conn* c) noexcept nogil:
    """Called when a room of the URL, or the user's room, is confirmed or refused. The last one opens the connection."""
    if c.phase.joining.waiting:
        c.phase.joining.waiting -= 1
    if c.phase.joining.waiting == 0 and c.state == CONN_JOINING:
        joining_open(loop, c)


cdef inline void joining_open(Loop* loop, Conn* c) noexcept nogil:
    """Opens a connection that is CONN_JOINING: sends HELLO, then an ERR for each refused room, and reads from it.

    Rooms that are still unconfirmed stay joined: after the handshake's deadline they are not waited for."""
    cdef Joining rooms = c.phase.joining
    c.phase.gathering.marks = 0
    c.state = CONN_OPEN
    _arm_timer(loop, c)
    if not loop.set.echo:
        conn_answer(loop, c, replies_hello_new(loop, c))
    if loop.drain.on and c.slot < loop.drain.told:  # higher slots get GOAWAY when the drain reaches them
        replies_goaway(loop, c)
    _answer_refused(loop, c, rooms)
    if c.pending != NULL:
        c.pending.since = loop.tick
    if c.flags & FLAG_PAUSED:
        conn_resume(loop, c)


cdef inline void _arm_timer(Loop* loop, Conn* c) noexcept nogil:
    """Replaces the handshake's deadline by the keepalive timer, or an earlier end of the token."""
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + (
        BLOCKED_LOOK_TICKS if c.flags & FLAG_BLOCKED else conn_silence(loop, c)))
    if brief != NULL and brief.expires:
        wheel_arm_by(&loop.wheel, &loop.slab, c.slot, brief.expires)


cdef inline void _answer_refused(Loop* loop, Conn* c, Joining rooms) noexcept nogil:
    """Sends `ERR denied` for each room that NATS denied, and `ERR unavailable` for each over its subscription limit."""
    while rooms.denied and c.state == CONN_OPEN:
        rooms.denied -= 1
        replies_say(loop, c, CODE_DENIED, span_none())
    while rooms.over and c.state == CONN_OPEN:
        rooms.over -= 1
        replies_err(loop, c, CODE_UNAVAILABLE, span_none())
