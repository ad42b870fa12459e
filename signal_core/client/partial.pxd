"""Keeps input that is incomplete, and limits the time for the rest of it. Runs on the connection's loop.

Incomplete frames and messages take memory that all clients share (input-total), so message-timeout limits the time from
the first byte of a message to its last. The connection's timer checks it, and is armed for it only while something is
kept.
"""

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memmove, memset
from signal_core.base.counters cimport C_MESSAGES_LATE
from signal_core.base.limits cimport PART_AGAIN_TICKS
from signal_core.base.memory cimport Packet
from signal_core.base.span cimport Span, span_text
from signal_core.base.sys cimport FIONREAD, SE_COLD, ioctl
from signal_core.base.text cimport text_put_span
from signal_core.client.auth cimport auth_refuse
from signal_core.client.input_buffer cimport input_buffer_drop, input_buffer_free, input_buffer_grow
from signal_core.client.open cimport open_answer_http
from signal_core.delivery.conn cimport conn_answer, conn_extra, conn_frame
from signal_core.delivery.conn_close cimport conn_close_failed
from signal_core.tables.conn_table cimport (
    CONN_AUTHENTICATING, CONN_CLOSING, CONN_DEAD, CONN_HANDSHAKE, CONN_LINGER, CONN_OPEN, FLAG_BLOCKED, FLAG_PAUSED,
    FLAG_READY, MARK_PARTS, Buffer, Conn, Extra, slab_whole,
)
from signal_core.tables.state cimport Loop
from signal_core.tables.timer_wheel cimport wheel_arm_by
from signal_core.wire.frame cimport OP_CLOSE
from signal_core.wire.handshake cimport Upgrade


# -- what is kept --

cdef inline SE_COLD partial_no_memory(Loop* loop, Conn* c) noexcept nogil:
    """Ends a connection whose input can't be kept: 503 before the upgrade, then a close with Loop.input_code."""
    cdef Upgrade u
    if c.state == CONN_AUTHENTICATING:
        auth_refuse(loop, c, 503)
    elif c.state == CONN_HANDSHAKE:
        memset(&u, 0, sizeof(u))
        u.status = 503
        open_answer_http(loop, c, &u)
    else:
        conn_close_failed(loop, c, <uint16_t>loop.input_code)
    input_buffer_drop(loop, c)


cdef inline void partial_arm(Loop* loop, Conn* c, const Buffer* part) noexcept nogil:
    """Arms an open connection's timer for the deadline of its incomplete input."""
    if loop.set.message and c.state == CONN_OPEN:
        wheel_arm_by(&loop.wheel, &loop.slab, c.slot, part.since + loop.set.message)


cdef inline void _part_store(Loop* loop, Conn* c, const uint8_t* p, size_t n, uint64_t need,
                             bint fresh) noexcept nogil:
    """partial_keep, if there is something to keep."""
    cdef Buffer* kept = c.pending
    if kept != NULL and p >= kept.data and p < kept.data + kept.size:
        memmove(kept.data, p, n)
    else:
        kept = input_buffer_grow(loop, kept, n, n if need < n else <size_t>need)
        if kept == NULL:
            partial_no_memory(loop, c)
            return
        memcpy(kept.data, p, n)
    kept.used = <uint32_t>n
    c.pending = kept
    if fresh:
        kept.since = loop.tick
    partial_arm(loop, c, kept)


cdef inline void partial_keep(
    Loop* loop, Conn* c, const uint8_t* p, size_t n, uint64_t need, bint fresh,
) noexcept nogil:
    """Keeps the `n` bytes left over at `p`, which may lie in c.pending; frees the buffer if `n` is 0. `need`: bytes of
    the whole frame, 0 if not known. `fresh`: input before them was handled, so their time begins now."""
    if n != 0 and c.state < CONN_LINGER:
        _part_store(loop, c, p, n, need, fresh)
        return
    input_buffer_free(loop, c.pending)
    c.pending = NULL


# -- for how long --

cdef inline SE_COLD _conn_fail_late(Loop* loop, Conn* c) noexcept nogil:
    """conn_close_failed with 1008, and a reason in the Close frame (RFC 6455 §5.5.1)."""
    cdef Span reason = span_text(b"a message did not arrive within message-timeout")
    cdef char* body
    cdef Extra* extra = conn_extra(loop, c)
    cdef Packet* packet = conn_frame(loop, c, OP_CLOSE, 2 + reason.size, &body)
    if packet != NULL:
        body[0] = <char>(1008 >> 8)
        body[1] = <char>(1008 & 0xff)
        text_put_span(body + 2, reason)
    if extra != NULL:
        extra.close_code = 1008
    conn_answer(loop, c, packet)
    if c.state != CONN_DEAD:
        c.state = CONN_CLOSING  # our Close frame is queued: conn_close_failed queues no other
        conn_close_failed(loop, c, 1008)


cdef inline bint _part_waits(const Conn* c) noexcept nogil:
    """Whether the rest of incomplete input waits for the loop, not for the client."""
    if c.flags & FLAG_PAUSED:
        return not c.flags & FLAG_BLOCKED
    return c.flags & FLAG_READY and not c.phase.gathering.marks & MARK_PARTS


cdef inline bint partial_unread(const Conn* c) noexcept nogil:
    """Whether some of the connection's input is on this machine and was not handled yet."""
    cdef int waits = 0
    if c.flags & FLAG_READY:
        return True
    ioctl(c.fd, FIONREAD, &waits)
    return waits != 0


cdef inline uint32_t _part_due(Loop* loop, Conn* c, Buffer* part) noexcept nogil:
    """Fails an open connection whose message is late. Returns the tick of the next check; 0: none is needed.

    While the loop leaves the connection unread, at least PART_AGAIN_TICKS of its time remain. This does not apply to a
    client that is not read because it does not take its answers. If unread input waits, which may be the rest, the time
    is doubled, but no more: a client that sends pings within a message would always have unread input.
    """
    cdef int32_t patience = <int32_t>loop.set.message, passed
    if patience == 0:
        return 0
    passed = <int32_t>(loop.tick - part.since)  # below 0 where PART_AGAIN_TICKS is more than message-timeout
    if _part_waits(c) and passed + PART_AGAIN_TICKS > patience:
        part.since = loop.tick + PART_AGAIN_TICKS - patience
        return loop.tick + PART_AGAIN_TICKS
    if passed < patience:
        return part.since + patience
    if passed < 2 * patience and partial_unread(c):
        return loop.tick + 1
    loop.n[C_MESSAGES_LATE] += 1
    _conn_fail_late(loop, c)
    input_buffer_drop(loop, c)
    if c.phase.gathering.marks & MARK_PARTS:
        input_buffer_free(loop, part)
        slab_whole(&loop.slab, c).message = NULL
        c.phase.gathering.marks &= <uint8_t>~MARK_PARTS
    return 0


cdef inline uint32_t partial_due(Loop* loop, Conn* c) noexcept nogil:
    """Fails a connection whose incomplete message is late. Returns the tick of the next check; 0: none is needed."""
    if c.state != CONN_OPEN:
        return 0
    if c.phase.gathering.marks & MARK_PARTS:
        return _part_due(loop, c, slab_whole(&loop.slab, c).message)
    return _part_due(loop, c, c.pending) if c.pending != NULL else 0
