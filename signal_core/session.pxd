"""What a client says: bytes into frames, frames into messages, messages into verbs. L4."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy
from signal_core.address cimport LOCAL_TEXT
from signal_core.answers cimport (
    REF_SUB, REF_TO, put_peer, ref_add, ref_find, ref_remove, say, say_pong, strike,
)
from signal_core.auth cimport do_auth
from signal_core.awaiting cimport AWAIT_FAILED, AWAIT_IT, AWAIT_NOTHING, await_nats
from signal_core.conn cimport (
    conn_answer, conn_bye, conn_extra, conn_fail, conn_flush, conn_frame, conn_id, conn_kill, conn_ready,
)
from signal_core.counters cimport C_AUTH_DENIED, C_BYTES_IN, C_PROTOCOL_ERRORS, C_READS
from signal_core.delayed cimport conn_delay, is_scarce
from signal_core.frame cimport (
    CLOSE_TOO_BIG, FRAME_CONTROL, OP_BINARY, OP_CLOSE, OP_CONT, OP_PING, OP_PONG, Frame, close_code_of, frame_parse,
    frame_unmask,
)
from signal_core.handshake cimport handshake_input
from signal_core.head cimport HEAD_MAX, VERB_AUTH, VERB_PUB, VERB_SUB, VERB_TO, VERB_UNSUB, Head, head_parse
from signal_core.identity cimport conn_user, may_publish, may_send, may_sub
from signal_core.intake cimport bucket_give, bucket_take, buffer_free, buffer_grown
from signal_core.ledger cimport count_message
from signal_core.limits cimport READ_BUFFER, TICK_MS
from signal_core.memory cimport TELL_NOBODY, TELL_PEER, Msg
from signal_core.packet cimport Packet, expiry
from signal_core.partial cimport part_arm, part_keep, part_no_memory
from signal_core.pressure cimport conn_hold, input_waits, joins_wait, words_full
from signal_core.roomtable cimport RoomEntry
from signal_core.rooms cimport rooms_find
from signal_core.route cimport join, leave, listen, listen_ask, route_peer, route_room
from signal_core.slab cimport (
    CONN_CLOSING, CONN_DEAD, CONN_HANDSHAKE, CONN_LINGER, CONN_OPEN, FLAG_BLOCKED, FLAG_DONE, FLAG_LAST, FLAG_LIMITED,
    FLAG_PARTS, FLAG_PAUSED, FLAG_READY, FLAG_USER, LISTENS_MEMBER, LISTENS_NEW, Buffer, Conn, Extra, Gathering, Ref,
    slab_whole,
)
from signal_core.state cimport (
    CODE_BAD_REQUEST, CODE_DENIED, CODE_OK, CODE_RATE, CODE_UNAVAILABLE, Loop,
)
from signal_core.sys cimport EAGAIN, EINTR, SE_COLD, SE_RARE, errno, recv
from signal_core.turn cimport step_is_over
from signal_core.utf8 cimport UTF8_ACCEPT, UTF8_REJECT, utf8_feed, utf8_valid

cdef enum:
    SMALL_PENDING = 8192 + 1024   # input left over up to this is copied before the next read; more is read in place
    PEER_TEXT = 48                # bytes of the longest own address


cdef inline uint8_t not_allowed(Loop* loop) noexcept nogil:
    loop.n[C_AUTH_DENIED] += 1
    return CODE_DENIED


cdef inline void packet_fill(Loop* loop, Conn* c, const Head* head, bint binary, char* me,
                             Packet* p) noexcept nogil:
    """`me`: PEER_TEXT bytes that live as long as the packet."""
    put_peer(<uint8_t*>me, loop.hub, conn_id(loop, c))
    p[0] = Packet(
        origin=conn_id(loop, c), sender=me, sender_len=loop.hub.node_len + 1 + LOCAL_TEXT, ref=head.ref,
        ref_len=head.ref_len, re=head.re, re_len=head.re_len, user=NULL, user_len=0,
        payload=<const uint8_t*>head.payload, size=head.payload_len, binary=binary, remote=False,
        expires=expiry(loop, head.ttl_ms), ttl_ms=head.ttl_ms, tell=TELL_NOBODY, tell_text=NULL, tell_len=0)
    if SE_RARE(c.flags & FLAG_USER):
        p.user = conn_user(loop, c, &p.user_len)


cdef inline uint32_t ref_deadline(const Loop* loop, int64_t ttl_ms) noexcept nogil:
    """The tick at which an answer is overdue: one that begins, and so is answered, before the message's ttl and a
    second are over."""
    cdef int64_t ms = ttl_ms if ttl_ms >= 0 else loop.hub.set.ttl_ms
    return loop.tick + <uint32_t>((ms + 1000) // TICK_MS) - 1


cdef inline SE_COLD message_hold(Loop* loop, Conn* c) noexcept nogil:
    """It would cause a word to a loop for which many wait: as if it had not come yet."""
    loop.holds = True
    bucket_give(loop, c)


cdef inline void do_to(Loop* loop, Conn* c, const Head* head, bint binary) noexcept nogil:
    """TO <peer>."""
    cdef char me[48]
    cdef Packet p
    cdef uint8_t code = CODE_OK
    packet_fill(loop, c, head, binary, me, &p)
    if SE_RARE(c.flags & FLAG_LIMITED) and not may_send(loop, c):
        code = not_allowed(loop)
    elif head.ref_len:
        if SE_RARE(words_full(loop, loop)):
            message_hold(loop, c)
            return
        p.tell = TELL_PEER
        p.tell_text = head.ref
        p.tell_len = head.ref_len
        code = ref_add(loop, c, head.ref, head.ref_len, REF_TO, ref_deadline(loop, head.ttl_ms))
    if code == CODE_OK:
        code = route_peer(loop, head.arg, head.arg_len, head.node_len, &p)
        if code != CODE_OK and head.ref_len:
            ref_remove(loop, c, ref_find(loop, c, head.ref, head.ref_len))
    count_message(loop, code)
    if code != CODE_OK:
        say(loop, c, code, head.ref, head.ref_len)


cdef inline void do_pub(Loop* loop, Conn* c, const Head* head, bint binary) noexcept nogil:
    """PUB <room> and TO @<user>."""
    cdef char me[48]
    cdef Packet p
    cdef uint8_t code = CODE_OK
    if head.ref_len and ref_find(loop, c, head.ref, head.ref_len) != NULL:
        code = CODE_BAD_REQUEST
    elif c.flags & FLAG_LIMITED and not (may_send(loop, c) if head.verb == VERB_TO
                                         else may_publish(loop, c, head.arg, head.arg_len)):
        code = not_allowed(loop)
    else:
        packet_fill(loop, c, head, binary, me, &p)
        code = route_room(loop, head.arg, head.arg_len, &p, head.verb == VERB_TO)
    count_message(loop, code)
    say(loop, c, code, head.ref, head.ref_len)


cdef inline void do_sub(Loop* loop, Conn* c, const Head* head) noexcept nogil:
    cdef RoomEntry* entry
    cdef Ref* ref
    cdef uint32_t room = 0
    cdef uint16_t before = c.nrooms
    cdef uint8_t code = CODE_OK
    cdef int waits = AWAIT_NOTHING
    if SE_RARE(joins_wait(loop)):
        message_hold(loop, c)
        return
    if head.ref_len:
        code = ref_add(loop, c, head.ref, head.ref_len, REF_SUB, ref_deadline(loop, -1))
        if code != CODE_OK:
            say(loop, c, code, head.ref, head.ref_len)
            return
    if may_sub(loop, c, head.arg, head.arg_len):
        code = join(loop, c, head.arg, head.arg_len, &entry)
    else:
        code = not_allowed(loop)
    if code == CODE_OK and head.presence:
        code = listen(loop, c, head.arg, head.arg_len, &room)
    if code == CODE_OK and head.ref_len:
        waits = await_nats(loop, conn_id(loop, c), entry, head.ref, head.ref_len, head.presence)
    if waits == AWAIT_IT:
        ref = ref_find(loop, c, head.ref, head.ref_len)
        ref.room = rooms_find(&loop.rooms, entry.hash, entry.name, entry.size) + 1
        ref.listens = 0 if not head.presence else LISTENS_NEW if c.nrooms > before else LISTENS_MEMBER
        return
    if waits == AWAIT_FAILED:
        code = CODE_UNAVAILABLE
    if code != CODE_OK and c.nrooms > before:  # who was a member before stays one
        leave(loop, c, head.arg, head.arg_len)
    if head.ref_len:
        ref_remove(loop, c, ref_find(loop, c, head.ref, head.ref_len))
    say(loop, c, code, head.ref, head.ref_len)
    if code == CODE_OK and head.presence:
        listen_ask(loop, c, room)


cdef inline void do_unsub(Loop* loop, Conn* c, const Head* head) noexcept nogil:
    if head.ref_len and ref_find(loop, c, head.ref, head.ref_len) != NULL:
        say(loop, c, CODE_BAD_REQUEST, head.ref, head.ref_len)
        return
    leave(loop, c, head.arg, head.arg_len)
    say(loop, c, CODE_OK, head.ref, head.ref_len)


cdef inline SE_COLD session_rate(Loop* loop, Conn* c, const Head* head) noexcept nogil:
    """A message over max-rate. Its ref may be outstanding, whose answer this must not be."""
    cdef bint again = head.ref_len and ref_find(loop, c, head.ref, head.ref_len) != NULL
    cdef uint8_t code = CODE_BAD_REQUEST if again else CODE_RATE
    count_message(loop, code)
    say(loop, c, code, head.ref, head.ref_len)


cdef inline bint session_is_long(const Loop* loop, const uint8_t* p, size_t n) noexcept nogil:
    """Whether a message longer than max-message is too long: what follows its first line is, or, where it has one line
    only, that can't be a head."""
    cdef const uint8_t* line = <const uint8_t*>memchr(p, c"\n", n)
    if line == NULL:
        return n > HEAD_MAX and memcmp(p, b"AUTH ", 5) != 0
    return n - (line + 1 - p) > loop.hub.set.max_message


cdef inline void session_message(Loop* loop, Conn* c, const uint8_t* p, size_t n, bint binary) noexcept nogil:
    """One whole message of an open connection."""
    cdef Head head
    if SE_RARE(n > loop.hub.set.max_message) and session_is_long(loop, p, n):
        session_fail(loop, c, CLOSE_TOO_BIG)
    elif head_parse(<const char*>p, n, &head) < 0:
        count_message(loop, CODE_BAD_REQUEST)
        say(loop, c, CODE_BAD_REQUEST, head.ref, head.ref_len)
        strike(loop, c)
    elif not bucket_take(loop, c):
        session_rate(loop, c, &head)
    elif head.verb == VERB_TO and head.node_len:
        do_to(loop, c, &head, binary)
    elif head.verb == VERB_TO or head.verb == VERB_PUB:
        do_pub(loop, c, &head, binary)
    elif head.verb == VERB_SUB:
        do_sub(loop, c, &head)
    elif head.verb == VERB_UNSUB:
        do_unsub(loop, c, &head)
    elif head.verb == VERB_AUTH:
        do_auth(loop, c, &head)
    else:
        say_pong(loop, c, head.arg, head.arg_len)


cdef inline SE_COLD session_fail(Loop* loop, Conn* c, uint16_t code) noexcept nogil:
    loop.n[C_PROTOCOL_ERRORS] += 1
    conn_fail(loop, c, code)


cdef inline Buffer* session_fragment(Loop* loop, Conn* c, const Frame* f, const uint8_t* p) noexcept nogil:
    """A data frame of a fragmented message, which is returned with the last; Gathering.binary says what it is."""
    cdef Extra* extra = conn_extra(loop, c)
    cdef Buffer* message
    cdef size_t n = <size_t>f.length
    if extra == NULL:
        conn_fail(loop, c, 1011)
        return NULL
    message = buffer_grown(loop, extra.message, (0 if extra.message == NULL else extra.message.used) + n + 1,
                           loop.hub.set.max_frame + 1)
    if message == NULL:
        conn_fail(loop, c, <uint16_t>loop.input_code)
        return NULL
    extra.message = message
    c.flags |= FLAG_PARTS
    if f.opcode != OP_CONT:
        part_arm(loop, c, message)
        c.phase.gathering = Gathering(utf8=UTF8_ACCEPT, binary=f.opcode == OP_BINARY)
    memcpy(message.data + message.used, p, n)
    message.used += <uint32_t>n
    if not c.phase.gathering.binary:
        c.phase.gathering.utf8 = <uint8_t>utf8_feed(c.phase.gathering.utf8, p, n)
        if c.phase.gathering.utf8 == UTF8_REJECT or (f.fin and c.phase.gathering.utf8 != UTF8_ACCEPT):
            session_fail(loop, c, 1007)
            return NULL
    if not f.fin:
        return NULL
    extra.message = NULL
    c.flags &= <uint16_t>~FLAG_PARTS
    return message


cdef inline void session_close(Loop* loop, Conn* c, const uint8_t* p, size_t n) noexcept nogil:
    """A Close frame: answers it, or ends the handshake that we began."""
    cdef int code = close_code_of(p, n)
    if c.state == CONN_CLOSING:
        if c.out.head == NULL:
            conn_kill(loop, c)
        else:
            c.state = CONN_LINGER
            c.flags |= FLAG_LAST | FLAG_DONE
    elif code == -1:
        session_fail(loop, c, 1002)
    elif code == -2:
        session_fail(loop, c, 1007)
    else:
        conn_bye(loop, c, <uint16_t>code)


cdef inline void session_ping(Loop* loop, Conn* c, const uint8_t* p, size_t n) noexcept nogil:
    cdef uint8_t* body
    cdef Msg* msg = conn_frame(loop, c, OP_PONG, n, 0, &body)
    if msg != NULL:
        memcpy(body, p, n)
    conn_answer(loop, c, msg)


cdef inline void session_control(Loop* loop, Conn* c, const Frame* f, const uint8_t* p) noexcept nogil:
    if f.opcode == OP_CLOSE:
        session_close(loop, c, p, <size_t>f.length)
    elif f.opcode == OP_PING and c.state != CONN_CLOSING:
        session_ping(loop, c, p, <size_t>f.length)


cdef inline void session_frame(Loop* loop, Conn* c, const Frame* f, uint8_t* p) noexcept nogil:
    """One whole frame, unmasked."""
    cdef size_t n = <size_t>f.length
    cdef bint binary = f.opcode == OP_BINARY
    cdef Buffer* message = NULL
    if f.opcode & FRAME_CONTROL:
        session_control(loop, c, f, p)
        return
    if SE_RARE(c.state == CONN_CLOSING):
        return
    if SE_RARE(c.flags & FLAG_PARTS or not f.fin or f.opcode == OP_CONT):
        if (f.opcode == OP_CONT) != (c.flags & FLAG_PARTS != 0):
            session_fail(loop, c, 1002)
            return
        if f.fin and input_waits(loop):
            loop.holds = True
            return
        message = session_fragment(loop, c, f, p)
        if message == NULL:
            return
        p = message.data
        n = message.used
        binary = c.phase.gathering.binary
    elif not binary and SE_RARE(not utf8_valid(p, n)):
        session_fail(loop, c, 1007)
        return
    session_message(loop, c, p, n, binary)
    if SE_RARE(message != NULL):
        buffer_free(loop, message)


cdef inline uint64_t session_allowance(Loop* loop, const Conn* c) noexcept nogil:
    """Bytes that the next data frame may have."""
    cdef uint64_t most = loop.hub.set.max_frame
    if SE_RARE(c.flags & FLAG_PARTS):
        most -= slab_whole(&loop.slab, c).message.used
    return most


cdef inline SE_COLD session_hold(Loop* loop, Conn* c, const Frame* f, uint8_t* p) noexcept nogil:
    """A frame that is to wait: it is left as it came."""
    frame_unmask(p, <size_t>f.length, f.key)
    conn_hold(loop, c)


cdef inline size_t session_feed(Loop* loop, Conn* c, uint8_t* p, size_t n, uint64_t* need) noexcept nogil:
    """Handles whole frames for the time of a turn: then the connection waits for another.

    Returns the bytes done with; `need`: what the next frame takes in all, 0 where that is not known.
    """
    cdef size_t done = 0
    cdef uint64_t last = loop.work + loop.share
    cdef Frame f
    cdef int head
    need[0] = 0
    loop.caused = 0
    while done < n and (c.state == CONN_OPEN or c.state == CONN_CLOSING):
        head = frame_parse(p + done, n - done, session_allowance(loop, c), &f)
        if head == -2:
            return done
        if head < 0:
            session_fail(loop, c, f.close_code)
            return n
        if n - done - head < f.length:
            need[0] = head + f.length
            return done
        done += head
        frame_unmask(p + done, <size_t>f.length, f.key)
        session_frame(loop, c, &f, p + done)
        if SE_RARE(loop.holds):
            session_hold(loop, c, &f, p + done)
            return done - head
        done += <size_t>f.length
        if done == n:
            return done
        loop.work += 1
        if SE_RARE(loop.work >= last or step_is_over(loop)):
            session_turn_over(loop, c, last)
            return done
    return done


cdef inline void session_turn_over(Loop* loop, Conn* c, uint64_t last) noexcept nogil:
    """It has input left over; its share of units ended at `last`."""
    if loop.caused == 0 and (loop.work < last or not is_scarce(loop)):
        conn_ready(loop, c)
    elif c.state != CONN_DEAD:
        conn_delay(loop, c)


cdef inline void session_input(Loop* loop, Conn* c, uint8_t* p, size_t n, size_t before) noexcept nogil:
    """n bytes of input, of which `before` were left over from an earlier read."""
    cdef uint64_t need = 0
    cdef size_t done = 0
    if c.state == CONN_HANDSHAKE:
        done = handshake_input(loop, c, p, n, before)
    if c.state == CONN_OPEN or c.state == CONN_CLOSING:
        done += session_feed(loop, c, p + done, n - done, &need)
    if c.state >= CONN_LINGER:
        done = n
    part_keep(loop, c, p + done, n - done, need, done != 0)


cdef inline void session_continue(Loop* loop, Conn* c) noexcept nogil:
    """Its next turn, with input that was left over."""
    c.flags &= <uint16_t>~FLAG_READY
    if c.flags & FLAG_BLOCKED:  # its event may have come when the step's time was over
        conn_flush(loop, c)
    if c.state == CONN_DEAD or c.flags & (FLAG_PAUSED | FLAG_READY):
        return
    if c.pending != NULL:
        session_input(loop, c, c.pending.data, c.pending.used, 0 if c.state == CONN_HANDSHAKE else c.pending.used)
    else:
        session_read(loop, c)


cdef inline ssize_t session_recv(Loop* loop, Conn* c, void* p, size_t n) noexcept nogil:
    """Bytes read, 0 where there are none now; -1: the connection is dead."""
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


cdef inline SE_COLD session_read_more(Loop* loop, Conn* c) noexcept nogil:
    """Reads on behind a large frame's first bytes, in place."""
    cdef size_t most = <size_t>loop.hub.set.max_frame + READ_BUFFER
    cdef Buffer* grown = buffer_grown(loop, c.pending, c.pending.used + READ_BUFFER // 16, most)
    cdef ssize_t got
    cdef size_t before
    if grown == NULL:
        part_no_memory(loop, c)
        return
    c.pending = grown
    before = grown.used
    got = session_recv(loop, c, grown.data + before, grown.size - before)
    if got > 0:
        grown.used += <uint32_t>got
        session_input(loop, c, grown.data, grown.used, before)


cdef inline void session_read(Loop* loop, Conn* c) noexcept nogil:
    """The socket has something to read, or has ended."""
    cdef size_t before = 0
    cdef ssize_t got
    if c.state == CONN_DEAD or c.flags & (FLAG_READY | FLAG_PAUSED):
        return
    if c.pending != NULL:
        before = c.pending.used
        if before > SMALL_PENDING:
            session_read_more(loop, c)
            return
        memcpy(loop.input, c.pending.data, before)
    got = session_recv(loop, c, loop.input + before, READ_BUFFER - before)
    if got > 0 and c.state != CONN_LINGER:
        session_input(loop, c, loop.input, before + <size_t>got, before)
