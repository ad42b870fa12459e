"""Closes WebSockets, from the Close frame on.

The order of every close:
1. One of four functions begins it:
   * conn_close: the engine closes (a kick, an expired token, a drain, a stop). It sends Close and reads on until the
     client's Close (CONN_CLOSING).
   * conn_close_failed: the client broke the protocol, its message came too late (1008), or its input found no memory
     (1011) or no room in input-total (1013). Close is sent, and input is discarded (CONN_LINGER).
   * conn_close_soon: the client's Close is answered (CONN_LINGER).
   * conn_close_stalled: the client takes no bytes. It is killed at once (CONN_DEAD).
2. The queue is written, with Close at its end. Then conn_drained (conn.pxd) shuts down our side of the socket, or kills
   the connection if both Close frames are through.
3. The timer, armed for close-timeout, kills what has not ended by then (keepalive.pxd).
4. conn_kill (conn.pxd) closes the socket and adds the connection to Loop.dead (CONN_DEAD).
5. At the end of the iteration loop_reap (loop.pxd) ends its memberships, and frees what it holds and its slot.

Other ends begin at 4: a missing pong, a broken socket, backlog-total, no memory for output. A connection that was not
upgraded ends with an HTTP answer: open_answer_http (open.pxd) or listener_turn_away (listener.pxd).
"""

from libc.stdint cimport uint16_t, uint8_t
from signal_core.base.memory cimport Packet
from signal_core.base.sys cimport MSG_DONTWAIT, MSG_NOSIGNAL, SE_COLD, send
from signal_core.delivery.conn cimport conn_answer, conn_drained, conn_extra, conn_frame, conn_kill, conn_resume
from signal_core.tables.conn_table cimport (
    CONN_CLOSING, CONN_DEAD, CONN_JOINING, CONN_LINGER, FLAG_BLOCKED, FLAG_DONE, FLAG_LAST, FLAG_PAUSED, Conn, Extra,
    slab_extra,
)
from signal_core.tables.state cimport Loop
from signal_core.tables.timer_wheel cimport wheel_arm
from signal_core.wire.frame cimport OP_CLOSE


cdef inline void _conn_say_close(Loop* loop, Conn* c, uint16_t code) noexcept nogil:
    cdef char* body
    cdef Packet* packet = conn_frame(loop, c, OP_CLOSE, 2, &body)
    cdef Extra* extra = conn_extra(loop, c)
    if packet != NULL:
        body[0] = <char>(code >> 8)
        body[1] = <char>(code & 0xff)
    if extra != NULL and extra.close_code == 0:
        extra.close_code = code
    conn_answer(loop, c, packet)


cdef inline SE_COLD conn_close(Loop* loop, Conn* c, uint16_t code) noexcept nogil:
    """Starts the close handshake: input is read until the client's Close frame, for at most close-timeout."""
    if c.state == CONN_DEAD or c.state == CONN_LINGER or c.state == CONN_CLOSING:
        return
    if c.state == CONN_JOINING:
        c.phase.gathering.marks = 0  # its rooms are not counted any more: frames are read from now on
    c.state = CONN_CLOSING
    wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + loop.set.close)
    if c.flags & FLAG_PAUSED and not c.flags & FLAG_BLOCKED:
        conn_resume(loop, c)
    _conn_say_close(loop, c, code)


cdef inline SE_COLD conn_close_failed(Loop* loop, Conn* c, uint16_t code) noexcept nogil:
    """Fails the connection (RFC 6455 §7.1.7): sends a Close frame, unless one was sent; then our side is shut down and
    input is discarded."""
    cdef bint said = c.state == CONN_CLOSING
    if c.state == CONN_DEAD or c.state == CONN_LINGER:
        return
    c.state = CONN_LINGER
    c.flags |= FLAG_LAST
    wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + loop.set.close)
    if not said:
        _conn_say_close(loop, c, code)
    elif c.out.head == NULL:
        conn_drained(loop, c)


cdef inline void conn_close_soon(Loop* loop, Conn* c, uint16_t code) noexcept nogil:
    """Answers the client's Close frame; the socket is closed once the answer is written."""
    c.state = CONN_LINGER
    c.flags |= FLAG_LAST | FLAG_DONE
    wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + loop.set.close)
    _conn_say_close(loop, c, code)


cdef inline SE_COLD conn_close_stalled(Loop* loop, Conn* c) noexcept nogil:
    """Kills a connection that takes no bytes, with 4008. The queue is dropped. The Close frame is sent only if no
    packet is half written, and only if the socket takes it now."""
    cdef Extra* extra = slab_extra(&loop.slab, c)
    cdef uint8_t head[4]
    if extra != NULL:
        extra.close_code = 4008
    if c.out.offset == 0:
        head[0] = 0x80 | OP_CLOSE
        head[1] = 2
        head[2] = 4008 >> 8
        head[3] = 4008 & 0xff
        send(c.fd, head, sizeof(head), MSG_NOSIGNAL | MSG_DONTWAIT)
    conn_kill(loop, c)
