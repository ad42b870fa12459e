"""Handles a client's input: bytes become frames, frames messages, messages verbs. Runs on the connection's loop."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy
from signal_core.base.counters cimport C_BYTES_IN, C_PROTOCOL_ERRORS, C_READS
from signal_core.base.limits cimport READ_BUFFER, STAMP_BYTES
from signal_core.base.memory cimport Packet
from signal_core.base.span cimport Span, span_none, span_of, span_starts, span_until
from signal_core.base.sys cimport EAGAIN, EINTR, SE_ASSERT, SE_COLD, SE_RARE, errno, recv
from signal_core.client.auth cimport auth_verb
from signal_core.client.echo cimport echo_message
from signal_core.client.handshake_input cimport handshake_input
from signal_core.client.inflate cimport inflate_done, inflate_message
from signal_core.client.input_buffer cimport input_buffer_free, input_buffer_grow
from signal_core.client.partial cimport partial_arm, partial_keep, partial_no_memory
from signal_core.client.rate_limit cimport rate_limit_take
from signal_core.client.verbs cimport verbs_pub, verbs_sub, verbs_to, verbs_unsub
from signal_core.delivery.backpressure cimport backpressure_hold, backpressure_input_waits
from signal_core.delivery.conn cimport conn_answer, conn_extra, conn_flush, conn_frame, conn_kill, conn_ready
from signal_core.delivery.conn_close cimport conn_close_failed, conn_close_soon
from signal_core.delivery.delayed cimport delayed_add, delayed_is_scarce
from signal_core.delivery.ledger cimport ledger_count
from signal_core.delivery.refs cimport refs_find, refs_strike
from signal_core.delivery.replies cimport replies_pong, replies_say
from signal_core.tables.codes cimport CODE_BAD_REQUEST, CODE_RATE
from signal_core.tables.conn_table cimport (
    CONN_CLOSING, CONN_DEAD, CONN_HANDSHAKE, CONN_LINGER, CONN_OPEN, FLAG_BLOCKED, FLAG_DEFLATE, FLAG_DONE, FLAG_LAST,
    FLAG_PAUSED, FLAG_READY, MARK_DEFLATED, MARK_PARTS, Buffer, Conn, Extra, slab_whole,
)
from signal_core.tables.latency cimport latency_pong
from signal_core.tables.state cimport Loop
from signal_core.tables.turns cimport turns_step_is_over
from signal_core.wire.command cimport (
    HEAD_MAX, VERB_AUTH, VERB_PING, VERB_PUB, VERB_SUB, VERB_TO, VERB_UNSUB, Head, head_parse,
)
from signal_core.wire.frame cimport (
    CLOSE_TOO_BIG, FRAME_CONTROL, FRAME_DEFLATED, FRAME_FIN, OP_BINARY, OP_CLOSE, OP_CONT, OP_PING, OP_PONG, Frame,
    frame_close_code, frame_is_message, frame_parse, frame_unmask,
)
from signal_core.wire.utf8 cimport UTF8_ACCEPT, UTF8_REJECT, utf8_feed, utf8_valid

cdef enum:
    DEFLATE_SHIFT = 8             # FLAG_DEFLATE >> 8 is FRAME_DEFLATED
    SMALL_PENDING = 8192 + 1024   # bytes: up to this, leftover input is copied to the loop's buffer for the next read


cdef inline SE_COLD _session_rate(Loop* loop, Conn* c, const Head* head) noexcept nogil:
    """Refuses a message over max-rate. If its ref is outstanding, the code is bad-request: `rate` would answer that."""
    cdef bint again = head.ref.size and refs_find(loop, c, head.ref) != NULL
    cdef uint8_t code = CODE_BAD_REQUEST if again else CODE_RATE
    ledger_count(loop, code)
    replies_say(loop, c, code, head.ref)


cdef inline bint _session_is_long(const Loop* loop, Span message) noexcept nogil:
    """Whether a message of more than max-message bytes is too long: its payload is, or it is one line that cannot be a
    head. AUTH is one line that can be longer."""
    cdef size_t line = span_until(message, c"\n")
    if line == message.size:
        return message.size > HEAD_MAX and not span_starts(message, b"AUTH ")
    return message.size - (line + 1) > loop.set.max_message


cdef inline bint _session_special(Loop* loop, Conn* c, Span message, bint binary) noexcept nogil:
    """Handles a message that is too long, or any with echo. False: it is an ordinary one."""
    if message.size > loop.set.max_message and _session_is_long(loop, message):
        _session_fail(loop, c, CLOSE_TOO_BIG)
    elif loop.set.echo:
        echo_message(loop, c, message, binary)
    else:
        return False
    return True


cdef inline void _session_message(Loop* loop, Conn* c, Span message, bint binary) noexcept nogil:
    """Handles one whole message of an open connection."""
    cdef Head head
    if SE_RARE(<int64_t>message.size > loop.set.ordinary) and _session_special(loop, c, message, binary):
        return
    if head_parse(message, &head) < 0:
        ledger_count(loop, CODE_BAD_REQUEST)
        replies_say(loop, c, CODE_BAD_REQUEST, head.ref)
        refs_strike(loop, c)
    elif not rate_limit_take(loop, c):
        _session_rate(loop, c, &head)
    elif head.verb == VERB_TO and head.node_len:
        verbs_to(loop, c, &head, binary)
    elif head.verb == VERB_TO or head.verb == VERB_PUB:
        verbs_pub(loop, c, &head, binary)
    elif head.verb == VERB_SUB:
        verbs_sub(loop, c, &head)
    elif head.verb == VERB_UNSUB:
        verbs_unsub(loop, c, &head)
    elif head.verb == VERB_AUTH:
        auth_verb(loop, c, &head)
    elif head.verb == VERB_PING:
        replies_pong(loop, c, head.arg)
    else:
        SE_ASSERT(False)  # a verb that head_parse knows has its case here (tests/test_layers.py)


cdef inline SE_COLD _session_fail(Loop* loop, Conn* c, uint16_t code) noexcept nogil:
    """Fails a connection whose client broke the protocol, with this close code (RFC 6455 §7.4.1)."""
    loop.n[C_PROTOCOL_ERRORS] += 1
    conn_close_failed(loop, c, code)


cdef inline bint _session_inflate(Loop* loop, Conn* c, Span* message, bint binary) noexcept nogil:
    """Replaces a compressed message by what it contains, until inflate_done. False: the connection has failed."""
    cdef uint16_t code = inflate_message(loop, message)
    if code == 0 and not binary and not utf8_valid(<const uint8_t*>message.at, message.size):
        code = 1007
    if code == 0:
        return True
    if code == 1007 or code == CLOSE_TOO_BIG:
        _session_fail(loop, c, code)
    else:
        conn_close_failed(loop, c, code)
    return False


cdef inline Buffer* _session_fragment(Loop* loop, Conn* c, const Frame* f, const uint8_t* p) noexcept nogil:
    """Adds a data frame to a fragmented message. Returns the message with its last frame, for the caller to free; else
    NULL. Gathering.binary tells its type."""
    cdef Extra* extra = conn_extra(loop, c)
    cdef Buffer* message
    cdef size_t n = <size_t>f.length
    if extra == NULL:
        conn_close_failed(loop, c, 1011)
        return NULL
    message = input_buffer_grow(loop, extra.message, (0 if extra.message == NULL else extra.message.used) + n + 1,
                                loop.set.max_frame + 1)
    if message == NULL:
        conn_close_failed(loop, c, <uint16_t>loop.input_code)
        return NULL
    extra.message = message
    c.phase.gathering.marks |= MARK_PARTS
    if f.opcode != OP_CONT:
        partial_arm(loop, c, message)
        c.phase.gathering.utf8 = UTF8_ACCEPT
        c.phase.gathering.binary = f.opcode == OP_BINARY
        c.phase.gathering.marks &= <uint8_t>~MARK_DEFLATED
        if f.first & FRAME_DEFLATED:
            c.phase.gathering.marks |= MARK_DEFLATED
    memcpy(message.data + message.used, p, n)
    message.used += <uint32_t>n
    if not c.phase.gathering.binary and not c.phase.gathering.marks & MARK_DEFLATED:
        c.phase.gathering.utf8 = <uint8_t>utf8_feed(c.phase.gathering.utf8, p, n)
        if c.phase.gathering.utf8 == UTF8_REJECT or (f.first & FRAME_FIN and c.phase.gathering.utf8 != UTF8_ACCEPT):
            _session_fail(loop, c, 1007)
            return NULL
    if not f.first & FRAME_FIN:
        return NULL
    extra.message = NULL
    c.phase.gathering.marks &= <uint8_t>~MARK_PARTS
    return message


cdef inline SE_COLD _session_gather(Loop* loop, Conn* c, const Frame* f, const uint8_t* p) noexcept nogil:
    """Adds a frame to its message, and inflates a compressed one: Loop.whole is then the whole message, for
    _session_gathered, and Gathering.binary tells its type. It is absent if frames are missing, it waits, or the
    connection has failed."""
    cdef bint deflated = f.first & FRAME_DEFLATED
    loop.whole = span_none()
    if (f.opcode == OP_CONT) != (c.phase.gathering.marks & MARK_PARTS != 0):
        _session_fail(loop, c, 1002)
        return
    if f.first & FRAME_FIN and backpressure_input_waits(loop):
        loop.pressure.holds = True
        return
    loop.parts = NULL
    if c.phase.gathering.marks & MARK_PARTS or not f.first & FRAME_FIN:
        loop.parts = _session_fragment(loop, c, f, p)
        if loop.parts == NULL:
            return
        loop.whole = span_of(loop.parts.data, loop.parts.used)
        deflated = c.phase.gathering.marks & MARK_DEFLATED
    else:
        c.phase.gathering.binary = f.opcode == OP_BINARY
        loop.whole = span_of(p, <size_t>f.length)
    if deflated and not _session_inflate(loop, c, &loop.whole, c.phase.gathering.binary):
        _session_gathered(loop)


cdef inline SE_COLD _session_gathered(Loop* loop) noexcept nogil:
    """Frees a message of _session_gather, which was handled."""
    loop.whole = span_none()
    input_buffer_free(loop, loop.parts)
    inflate_done(loop)


cdef inline void _session_close(Loop* loop, Conn* c, const uint8_t* p, size_t n) noexcept nogil:
    """Handles a Close frame: answers it, or completes the close that the engine began."""
    cdef int code = frame_close_code(p, n)
    if c.state == CONN_CLOSING:
        if c.out.head == NULL:
            conn_kill(loop, c)
        else:
            c.state = CONN_LINGER
            c.flags |= FLAG_LAST | FLAG_DONE
    elif code == -1:
        _session_fail(loop, c, 1002)
    elif code == -2:
        _session_fail(loop, c, 1007)
    else:
        conn_close_soon(loop, c, <uint16_t>code)


cdef inline void _session_ping(Loop* loop, Conn* c, const uint8_t* p, size_t n) noexcept nogil:
    cdef char* body
    cdef Packet* packet = conn_frame(loop, c, OP_PONG, n, &body)
    if packet != NULL:
        memcpy(body, p, n)
    conn_answer(loop, c, packet)


cdef inline void _session_control(Loop* loop, Conn* c, const Frame* f, const uint8_t* p) noexcept nogil:
    if f.opcode == OP_CLOSE:
        _session_close(loop, c, p, <size_t>f.length)
    elif f.opcode == OP_PING and c.state != CONN_CLOSING:
        _session_ping(loop, c, p, <size_t>f.length)
    elif f.opcode == OP_PONG and f.length == STAMP_BYTES:
        latency_pong(loop, c, p)


cdef inline void _session_frame(Loop* loop, Conn* c, const Frame* f, uint8_t* p) noexcept nogil:
    """Handles one whole frame, already unmasked."""
    cdef Span message = span_of(p, <size_t>f.length)
    cdef bint binary = f.opcode == OP_BINARY
    if f.opcode & FRAME_CONTROL:
        _session_control(loop, c, f, p)
        return
    if SE_RARE(c.state == CONN_CLOSING):
        return
    if SE_RARE(c.phase.gathering.marks & MARK_PARTS or not frame_is_message(f.first)):
        _session_gather(loop, c, f, p)
        message = loop.whole
        if message.at == NULL:
            return
        binary = c.phase.gathering.binary
    elif not binary and SE_RARE(not utf8_valid(p, message.size)):
        _session_fail(loop, c, 1007)
        return
    _session_message(loop, c, message, binary)
    if SE_RARE(loop.whole.at != NULL):
        _session_gathered(loop)


cdef inline uint64_t _session_allowance(Loop* loop, const Conn* c) noexcept nogil:
    """Returns how many bytes the next data frame may have."""
    cdef uint64_t most = loop.set.max_frame
    cdef uint64_t used
    if SE_RARE(c.phase.gathering.marks & MARK_PARTS):
        used = slab_whole(&loop.slab, c).message.used
        return most - used if used < most else 0  # a reload may have lowered max-message
    return most


cdef inline SE_COLD _session_hold(Loop* loop, Conn* c, const Frame* f, uint8_t* p) noexcept nogil:
    """Holds a frame: masks it again, so that it can be handled anew when the tasks that it causes have room."""
    frame_unmask(p, <size_t>f.length, f.key)
    backpressure_hold(loop, c)


cdef inline int _session_next(Loop* loop, Conn* c, uint8_t* p, size_t n, Frame* f, uint64_t* need) noexcept nogil:
    """Parses the frame at `p`, and unmasks it. Returns the size of its header; 0: it is incomplete, and `need` is as in
    _session_feed; -1: the connection has failed."""
    cdef uint8_t reserved = <uint8_t>((c.flags & FLAG_DEFLATE) >> DEFLATE_SHIFT)
    cdef int head = frame_parse(p, n, _session_allowance(loop, c), reserved, f)
    if head == -2:
        return 0
    if head < 0:
        _session_fail(loop, c, f.close_code)
        return -1
    if n - head < f.length:
        need[0] = head + f.length
        return 0
    frame_unmask(p + head, <size_t>f.length, f.key)
    return head


cdef inline size_t _session_feed(Loop* loop, Conn* c, uint8_t* p, size_t n, uint64_t* need) noexcept nogil:
    """Handles whole frames until the connection's turn is over.

    Returns the bytes handled. `need`: the size of the next frame with its header, 0 if not known yet.
    """
    cdef size_t done = 0
    cdef uint64_t last = loop.turn.work + loop.turn.share
    cdef Frame f
    cdef int head
    need[0] = 0
    loop.turn.caused = 0
    while done < n and (c.state == CONN_OPEN or c.state == CONN_CLOSING):
        head = _session_next(loop, c, p + done, n - done, &f, need)
        if head <= 0:
            return done if head == 0 else n
        done += head
        _session_frame(loop, c, &f, p + done)
        if SE_RARE(loop.pressure.holds):
            _session_hold(loop, c, &f, p + done)
            return done - head
        done += <size_t>f.length
        if done == n:
            return done
        loop.turn.work += 1
        if SE_RARE(loop.turn.work >= last or turns_step_is_over(loop)):
            _session_turn_over(loop, c, last)
            return done
    return done


cdef inline void _session_turn_over(Loop* loop, Conn* c, uint64_t last) noexcept nogil:
    """Queues a connection with leftover input for its next turn, or delays it. Its share of this turn ended at
    `last`."""
    if loop.turn.caused == 0 and (loop.turn.work < last or not delayed_is_scarce(loop)):
        conn_ready(loop, c)
    elif c.state != CONN_DEAD:
        delayed_add(loop, c)


cdef inline size_t _session_input(Loop* loop, Conn* c, uint8_t* p, size_t n, size_t before) noexcept nogil:
    """Handles n bytes of input, of which the first `before` were left over from an earlier read. Returns how many it
    has handled; the rest is kept."""
    cdef uint64_t need = 0
    cdef size_t done = 0
    if c.state == CONN_HANDSHAKE:
        done = handshake_input(loop, c, span_of(p, n), before)
    if c.state == CONN_OPEN or c.state == CONN_CLOSING:
        done += _session_feed(loop, c, p + done, n - done, &need)
    if c.state >= CONN_LINGER:
        done = n
    partial_keep(loop, c, p + done, n - done, need, done != 0)
    return done


cdef inline void session_continue(Loop* loop, Conn* c) noexcept nogil:
    """Gives a connection with leftover input its next turn. If no frame of that is complete, reads the socket, whose
    event may be postponed in each iteration (_loop_event)."""
    c.flags &= <uint16_t>~FLAG_READY
    if c.flags & FLAG_BLOCKED:
        conn_flush(loop, c)
    if c.state == CONN_DEAD or c.flags & (FLAG_PAUSED | FLAG_READY):
        return
    if c.pending == NULL or _session_input(loop, c, c.pending.data, c.pending.used,
                                           0 if c.state == CONN_HANDSHAKE else c.pending.used) == 0:
        session_read(loop, c)


cdef inline ssize_t _session_recv(Loop* loop, Conn* c, void* p, size_t n) noexcept nogil:
    """Returns the bytes read, 0 if there are none now; -1: the connection is dead."""
    cdef ssize_t got = recv(c.fd, p, n, 0)
    loop.n[C_READS] += 1
    if got > 0:
        loop.n[C_BYTES_IN] += <uint64_t>got
        c.heard = loop.tick
        return got
    if got < 0 and (errno == EAGAIN or errno == EINTR):
        return 0
    conn_kill(loop, c)
    return -1


cdef inline void _session_read_more(Loop* loop, Conn* c) noexcept nogil:
    """Reads more of a large frame, directly behind its first bytes."""
    cdef size_t most = <size_t>loop.set.max_frame + READ_BUFFER
    cdef Buffer* grown = input_buffer_grow(loop, c.pending, c.pending.used + READ_BUFFER // 16, most)
    cdef ssize_t got
    cdef size_t before
    if grown == NULL:
        partial_no_memory(loop, c)
        return
    c.pending = grown
    before = grown.used
    got = _session_recv(loop, c, grown.data + before, grown.size - before)
    if got > 0:
        grown.used += <uint32_t>got
        _session_input(loop, c, grown.data, grown.used, before)


cdef inline void session_read(Loop* loop, Conn* c) noexcept nogil:
    """Reads from a socket that is readable or closed, and handles the input."""
    cdef size_t before = 0
    cdef ssize_t got
    if c.state == CONN_DEAD or c.flags & (FLAG_READY | FLAG_PAUSED):
        return
    if c.pending != NULL:
        before = c.pending.used
        if before > SMALL_PENDING:
            _session_read_more(loop, c)
            return
        memcpy(loop.input, c.pending.data, before)
    got = _session_recv(loop, c, loop.input + before, READ_BUFFER - before)
    if got > 0 and c.state != CONN_LINGER:
        _session_input(loop, c, loop.input, before + <size_t>got, before)
