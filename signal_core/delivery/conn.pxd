"""A connection's output: queueing, writing, back-pressure from a full socket. Kills connections.

Also the only answer to a request that is not upgraded: conn_say_last, conn_socket_say_last.
Everything here runs on the connection's loop.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from signal_core.base.counters cimport (
    C_ATTEMPTED, C_BACKLOG_BYTES, C_BACKLOG_LIMITED, C_BLOCKED, C_BYTES_OUT, C_CLOSED, C_CONNECTIONS, C_DROPPED_EXPIRED,
    C_DROPPED_GONE, C_DROPPED_MEMORY, C_DROPPED_SLOW_PEER, C_WRITES,
)
from signal_core.base.limits cimport ANSWERS_PAUSE, BLOCKED_LOOK_TICKS, CORK_MESSAGES, FLUSH_ROUNDS, WRITE_UNIT_SHIFT
from signal_core.base.memory cimport PACKET_SHARED, Packet, packet_free, packet_new, packet_new_heap
from signal_core.base.span cimport Span
from signal_core.base.sys cimport (
    EAGAIN, EINTR, EPOLLIN, EPOLLOUT, EPOLL_CTL_MOD, MSG_DONTWAIT, MSG_NOSIGNAL, SE_ASSERT, SE_COLD, SE_INLINE, SE_RARE,
    SHUT_WR, close, epoll_ctl, epoll_event, errno, se_sub_relaxed, se_widened, send, shutdown,
)
from signal_core.base.text cimport text_put, text_put_uint, text_uint_size
from signal_core.delivery.backlog cimport (
    BLOCKED_COST, MESSAGE_COST, backlog_cost, backlog_has_room, backlog_has_share, backlog_trim,
)
from signal_core.delivery.write_queue cimport (
    WROTE_ALL, WROTE_NONE, write_queue_add, write_queue_advance, write_queue_expire, write_queue_pop_only,
    write_queue_tell, write_queue_to_heap, write_queue_write,
)
from signal_core.tables.codes cimport CODE_EXPIRED, CODE_NO_SUCH_PEER, CODE_OK, CODE_SLOW_PEER, CODE_UNAVAILABLE
from signal_core.tables.conn_table cimport (
    CONN_DEAD, CONN_JOINING, CONN_LINGER, CONN_OPEN, FLAG_BLOCKED, FLAG_DELAYED, FLAG_DONE, FLAG_GAP, FLAG_LAST,
    FLAG_LEAVING, FLAG_PAUSED, FLAG_QUOTA, FLAG_READY, FLAG_WEBSOCKET, FLAG_WHOLE, Brief, Cold, Conn, Extra, slab_cold,
    slab_find_id, slab_whole,
)
from signal_core.tables.state cimport LANE_DIRECT, LANE_SPREAD, Loop
from signal_core.tables.timer_wheel cimport wheel_arm, wheel_arm_by, wheel_disarm
from signal_core.tables.turns cimport turns_lane_add, turns_line_add
from signal_core.wire.frame cimport OP_TEXT, frame_head_size, frame_put_head
from signal_core.wire.ids cimport ids_make


cdef inline uint64_t conn_id(const Loop* loop, const Conn* c) noexcept nogil:
    return ids_make(loop.index, c.slot, c.tag)


cdef inline Conn* conn_of(Loop* loop, uint64_t id) noexcept nogil:
    """Returns the open connection with that id on this loop, or NULL."""
    cdef Conn* c = slab_find_id(&loop.slab, id)
    return c if c != NULL and c.state == CONN_OPEN else NULL


cdef inline uint32_t conn_silence(Loop* loop, const Conn* c) noexcept nogil:
    """Returns the ticks of silence after which the connection is pinged.

    The first interval is shortened at random, to half at the least: otherwise connections that arrived together would
    be pinged together, again and again."""
    cdef uint32_t interval = loop.set.ping
    return interval if slab_cold(&loop.slab, c.slot).asked else interval - c.tag % (interval // 2 + 1)


cdef inline Extra* conn_extra(Loop* loop, Conn* c) noexcept nogil:
    """Returns the connection's Extra, allocated at first use, which moves its Brief. NULL without memory."""
    cdef Cold* cold = slab_cold(&loop.slab, c.slot)
    cdef Extra* whole
    cdef size_t known
    if c.flags & FLAG_WHOLE:
        return <Extra*>cold.brief
    known = sizeof(Brief) if cold.brief != NULL else 0
    whole = <Extra*>se_widened(cold.brief, known, sizeof(Extra))
    if whole == NULL:
        return NULL
    cold.brief = &whole.brief
    c.flags |= FLAG_WHOLE
    return whole


cdef inline Brief* conn_brief(Loop* loop, Conn* c) noexcept nogil:
    """Returns the connection's Brief, allocated at first use; valid until conn_extra. NULL without memory."""
    cdef Cold* cold = slab_cold(&loop.slab, c.slot)
    if cold.brief == NULL:
        cold.brief = <Brief*>se_widened(NULL, 0, sizeof(Brief))
    return cold.brief


cdef inline void conn_watch(Loop* loop, Conn* c) noexcept nogil:
    """Tells epoll which events the connection waits for, by its flags."""
    cdef epoll_event event
    event.events = 0 if c.flags & (FLAG_PAUSED | FLAG_DELAYED) else EPOLLIN
    if c.flags & FLAG_BLOCKED:
        event.events |= EPOLLOUT
    event.data.u64 = (<uint64_t>c.slot << 32) | c.tag
    epoll_ctl(loop.epoll, EPOLL_CTL_MOD, c.fd, &event)


cdef inline void conn_bury(Loop* loop, Conn* c) noexcept nogil:
    """Makes loop_reap free a dead connection. A delayed one waits until its delay ends, since it would keep the loop
    awake until then."""
    slab_cold(&loop.slab, c.slot).next = loop.dead
    loop.dead = c.slot


cdef inline SE_COLD conn_kill(Loop* loop, Conn* c) noexcept nogil:
    """Closes the socket at once. The connection is CONN_DEAD until it is freed at the end of the iteration."""
    if c.state == CONN_DEAD:
        return
    if c.flags & FLAG_BLOCKED:
        loop.n[C_BACKLOG_BYTES] -= backlog_cost(&c.out)
        c.flags &= <uint16_t>~FLAG_BLOCKED
    if c.flags & FLAG_WEBSOCKET:
        loop.n[C_CONNECTIONS] -= 1
        loop.n[C_CLOSED] += 1
    if c.flags & FLAG_LEAVING:
        loop.drain.leaving -= 1
    c.state = CONN_DEAD
    close(c.fd)
    c.fd = -1
    wheel_disarm(&loop.wheel, &loop.slab, c.slot)
    if not c.flags & FLAG_DELAYED:
        conn_bury(loop, c)


cdef inline SE_COLD _conn_block(Loop* loop, Conn* c) noexcept nogil:
    """Makes the queue a backlog when the socket is full. Kills the connection if backlog-total has no room even for a
    message that is partly written."""
    cdef Extra* extra = conn_extra(loop, c)
    cdef uint64_t dropped = 0
    if extra != NULL and not backlog_trim(loop, &c.out, &dropped):
        loop.n[C_BACKLOG_LIMITED] += 1
        extra.close_code = 4008
        extra = NULL
    if extra == NULL or not write_queue_to_heap(loop, &c.out):
        conn_kill(loop, c)
        return
    extra.missed += <uint32_t>dropped
    extra.progress = loop.tick
    c.flags |= FLAG_BLOCKED
    loop.n[C_BLOCKED] += 1
    loop.n[C_BACKLOG_BYTES] += backlog_cost(&c.out)
    conn_watch(loop, c)
    if c.state == CONN_OPEN:
        wheel_arm_by(&loop.wheel, &loop.slab, c.slot, loop.tick + BLOCKED_LOOK_TICKS)


cdef inline void conn_ready(Loop* loop, Conn* c) noexcept nogil:
    """Gives the connection a turn in the next iteration for input that is already buffered, without a read."""
    if not c.flags & FLAG_READY and not turns_line_add(&loop.turn.ready, c):
        conn_kill(loop, c)


cdef inline SE_COLD conn_resume(Loop* loop, Conn* c) noexcept nogil:
    """Reads from a paused connection again, buffered input first."""
    c.flags &= <uint16_t>~FLAG_PAUSED
    conn_watch(loop, c)
    if c.pending != NULL:
        conn_ready(loop, c)


cdef inline SE_COLD conn_missed(Loop* loop, Conn* c, uint64_t count) noexcept nogil:
    """Counts dropped deliveries, which the next GAP reports to the client."""
    cdef Extra* extra = conn_extra(loop, c)
    if extra != NULL:
        extra.missed += <uint32_t>count
        c.flags |= FLAG_GAP
        turns_lane_add(loop, c, LANE_SPREAD)


cdef inline SE_COLD _conn_say_gap(Loop* loop, Conn* c) noexcept nogil:
    """Queues the GAP that is due."""
    cdef Extra* extra = slab_whole(&loop.slab, c)
    cdef uint64_t missed = extra.missed
    cdef char* body
    cdef Packet* packet
    c.flags &= <uint16_t>~FLAG_GAP
    if missed == 0 or c.state != CONN_OPEN:
        return
    extra.missed = 0
    packet = conn_frame(loop, c, OP_TEXT, 4 + text_uint_size(missed), &body)
    if packet != NULL:
        text_put_uint(text_put(body, b"GAP "), missed)
    conn_answer(loop, c, packet)


cdef inline void conn_drained(Loop* loop, Conn* c) noexcept nogil:
    """Called when the queue is empty: unblocks the connection, or ends it if that was its last output."""
    if c.flags & FLAG_BLOCKED:
        c.flags &= <uint16_t>~FLAG_BLOCKED
        loop.n[C_BACKLOG_BYTES] -= BLOCKED_COST
        if c.state == CONN_JOINING:
            conn_watch(loop, c)
        else:
            conn_resume(loop, c)
            _conn_say_gap(loop, c)
    elif c.flags & FLAG_GAP:
        _conn_say_gap(loop, c)
    if c.flags & FLAG_DONE:
        conn_kill(loop, c)
    elif c.flags & FLAG_LAST and c.state != CONN_DEAD:
        c.flags &= <uint16_t>~FLAG_LAST
        c.state = CONN_LINGER
        shutdown(c.fd, SHUT_WR)
        wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + loop.set.close)


cdef inline SE_COLD conn_expire(Loop* loop, Conn* c) noexcept nogil:
    """Drops expired messages from the backlog of a blocked connection."""
    cdef uint64_t before = backlog_cost(&c.out)
    cdef uint32_t count = c.out.count
    write_queue_expire(loop, &c.out)
    loop.n[C_BACKLOG_BYTES] -= before - backlog_cost(&c.out)
    slab_whole(&loop.slab, c).missed += count - c.out.count


cdef inline bint conn_socket_say_last(Loop* loop, int fd, Span text) noexcept nogil:
    """Writes the only answer to a socket and shuts our side down, without allocating. False: the socket is broken."""
    cdef ssize_t sent = send(fd, text.at, text.size, MSG_NOSIGNAL | MSG_DONTWAIT)
    loop.n[C_WRITES] += 1
    if sent > 0:
        loop.n[C_BYTES_OUT] += <uint64_t>sent
    return sent == <ssize_t>text.size and shutdown(fd, SHUT_WR) == 0


cdef inline void conn_release_quota(Loop* loop, Conn* c) noexcept nogil:
    """Ends the connection's count against max-connections. No effect if it does not count."""
    if c.flags & FLAG_QUOTA:
        c.flags &= <uint16_t>~FLAG_QUOTA
        se_sub_relaxed(&loop.hub.quota_used, 1)


cdef inline SE_COLD conn_say_last(Loop* loop, Conn* c, Span text) noexcept nogil:
    """Answers a request that is not upgraded. Input is discarded until the client closes: closing first would reset the
    connection, and the client might lose the answer."""
    c.state = CONN_LINGER
    conn_release_quota(loop, c)
    wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + loop.set.close)
    if not conn_socket_say_last(loop, c.fd, text):
        conn_kill(loop, c)


cdef inline void conn_flush(Loop* loop, Conn* c) noexcept nogil:
    """Writes as much of the queue as the socket takes; blocks or unblocks the connection accordingly."""
    cdef uint64_t expired, cost = 0
    cdef uint32_t before
    cdef int wrote
    if c.state == CONN_DEAD:
        return
    if c.flags & FLAG_BLOCKED:
        conn_expire(loop, c)
        cost = backlog_cost(&c.out)
    before = c.out.bytes
    expired = loop.n[C_DROPPED_EXPIRED]
    wrote = write_queue_write(loop, c.fd, &c.out, FLUSH_ROUNDS)
    if c.flags & FLAG_BLOCKED:
        loop.n[C_BACKLOG_BYTES] -= cost - backlog_cost(&c.out)
        if before != c.out.bytes:
            slab_whole(&loop.slab, c).progress = loop.tick
    if loop.n[C_DROPPED_EXPIRED] != expired:
        conn_missed(loop, c, loop.n[C_DROPPED_EXPIRED] - expired)
    if wrote == WROTE_ALL:
        conn_drained(loop, c)
    elif wrote == WROTE_NONE:
        conn_kill(loop, c)
    elif not c.flags & FLAG_BLOCKED:
        _conn_block(loop, c)


cdef inline SE_COLD _conn_wrote_part(Loop* loop, Conn* c, ssize_t sent) noexcept nogil:
    """The socket took `sent` bytes of the only message; negative: errno says why it took none."""
    if sent >= 0:
        loop.n[C_BYTES_OUT] += <uint64_t>sent
        write_queue_advance(loop, &c.out, <size_t>sent)
        _conn_block(loop, c)
    elif errno == EINTR:
        conn_flush(loop, c)
    elif errno == EAGAIN:
        _conn_block(loop, c)
    else:
        conn_kill(loop, c)


cdef inline int _conn_flush_all(Loop* loop, Conn* c) noexcept nogil:
    """As conn_flush, unless the socket is full. Returns the units of work done."""
    cdef int units = 1 + <int>(c.out.bytes >> WRITE_UNIT_SHIFT)
    if c.flags & FLAG_BLOCKED:
        return 1
    conn_flush(loop, c)
    return units


cdef inline int conn_write(Loop* loop, Conn* c) noexcept nogil:
    """As conn_flush, unless the socket is full, with a fast path for the usual case: one message is queued, and nothing
    is left to do once it is written. Returns the units of work done."""
    cdef Packet* packet
    cdef ssize_t sent
    if SE_RARE(c.flags & (FLAG_BLOCKED | FLAG_DONE | FLAG_GAP | FLAG_LAST) or c.state == CONN_DEAD) or c.out.count != 1:
        return _conn_flush_all(loop, c)
    SE_ASSERT(c.out.offset == 0)
    packet = c.out.head.packet
    if SE_RARE(conn_is_late(loop, packet)):
        return _conn_flush_all(loop, c)
    sent = send(c.fd, packet.data, packet.size, MSG_NOSIGNAL | MSG_DONTWAIT)
    loop.n[C_WRITES] += 1
    if SE_RARE(sent != <ssize_t>packet.size):
        _conn_wrote_part(loop, c, sent)
        return 1
    loop.n[C_BYTES_OUT] += <uint64_t>sent
    write_queue_pop_only(loop, &c.out)
    return 1


cdef inline bint _conn_has_room(const Loop* loop, const Conn* c, uint32_t size) noexcept nogil:
    """Whether `size` bytes more fit into the backlog of a blocked connection."""
    return (c.out.bytes + size <= loop.set.backlog_bytes and c.out.count < loop.set.backlog_messages
            and backlog_has_share(loop, backlog_cost(&c.out), size + MESSAGE_COST))


cdef inline SE_COLD _conn_waits(Loop* loop, Conn* c, uint32_t size) noexcept nogil:
    """Counts a message that was added to a backlog. Stops reading a client that leaves too many answers unread."""
    loop.n[C_BACKLOG_BYTES] += size + MESSAGE_COST
    if c.flags & FLAG_PAUSED or c.out.answers == 0:
        return
    if c.out.answers >= ANSWERS_PAUSE or not backlog_has_room(loop, 0):
        c.flags |= FLAG_PAUSED
        conn_watch(loop, c)


cdef inline SE_INLINE conn_queued(Loop* loop, Conn* c, uint32_t size, int lane) noexcept nogil:
    """Schedules the write. Called after a message of `size` bytes was added to the queue."""
    if SE_RARE(c.flags & FLAG_BLOCKED):
        _conn_waits(loop, c, size)
    elif SE_RARE(c.out.count >= CORK_MESSAGES):
        conn_flush(loop, c)
    else:
        turns_lane_add(loop, c, lane)


cdef inline uint8_t _conn_drop(Loop* loop, Conn* c, Packet* packet, uint8_t code) noexcept nogil:
    """Counts a delivery that is not queued and, unless it is shared, reports its fate. Returns `code`."""
    if code == CODE_NO_SUCH_PEER:
        loop.n[C_DROPPED_GONE] += 1
    elif code == CODE_EXPIRED:
        loop.n[C_DROPPED_EXPIRED] += 1
        conn_missed(loop, c, 1)
    elif code == CODE_SLOW_PEER:
        loop.n[C_DROPPED_SLOW_PEER] += 1
        slab_whole(&loop.slab, c).missed += 1 + packet.more_frames
    else:
        loop.n[C_DROPPED_MEMORY] += 1
    if not packet.flags & PACKET_SHARED:
        write_queue_tell(loop, packet, code)
    return code


cdef inline bint conn_is_late(const Loop* loop, const Packet* packet) noexcept nogil:
    return packet.expires < loop.tick and packet.expires != 0


cdef inline uint8_t conn_deliver(Loop* loop, Conn* c, Packet* packet, int lane) noexcept nogil:
    """Queues a delivery or drops it; counts it and reports its fate either way. `c` is NULL if the peer is gone.

    Takes ownership of an unshared packet."""
    cdef uint32_t size = packet.size
    loop.n[C_ATTEMPTED] += 1
    if SE_RARE(c == NULL or c.state != CONN_OPEN):
        return _conn_drop(loop, c, packet, CODE_NO_SUCH_PEER)
    if SE_RARE(conn_is_late(loop, packet)):
        return _conn_drop(loop, c, packet, CODE_EXPIRED)
    if SE_RARE(c.flags & FLAG_BLOCKED and not _conn_has_room(loop, c, size)):
        return _conn_drop(loop, c, packet, CODE_SLOW_PEER)
    if SE_RARE(not write_queue_add(loop, &c.out, packet)):
        return _conn_drop(loop, c, packet, CODE_UNAVAILABLE)
    conn_queued(loop, c, size, lane)
    return CODE_OK


cdef inline Packet* conn_frame(Loop* loop, const Conn* c, uint8_t opcode, size_t payload, char** body) noexcept nogil:
    """Returns a packet of one frame with its head written. The caller writes `payload` bytes to `body`. NULL without
    memory."""
    cdef size_t head = frame_head_size(payload)
    cdef Packet* packet
    if c != NULL and c.flags & FLAG_BLOCKED:
        packet = packet_new_heap(&loop.mem, head + payload, 0)
    else:
        packet = packet_new(&loop.mem, head + payload, 0)
    if packet == NULL:
        return NULL
    body[0] = <char*>packet.data + frame_put_head(packet.data, opcode, payload)
    packet.size = <uint32_t>(head + payload)
    return packet


cdef inline SE_INLINE conn_answer(Loop* loop, Conn* c, Packet* packet) noexcept nogil:
    """Queues an answer of the engine and takes ownership of it. NULL, for want of memory, kills the connection.

    Their number is bounded: by max_refs, and because a client that does not read its answers is not read."""
    cdef uint32_t size
    if SE_RARE(packet == NULL):
        conn_kill(loop, c)
        return
    size = packet.size
    if SE_RARE(c.state == CONN_DEAD) or SE_RARE(not write_queue_add(loop, &c.out, packet)):
        packet_free(&loop.mem, packet)
        return
    conn_queued(loop, c, size, LANE_DIRECT)
