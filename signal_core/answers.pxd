"""The engine's own words to a client, and the refs that it owes an answer. L3. Source: the protocol, §3."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, strlen
from signal_core.address cimport LOCAL_TEXT, local_put, put_uint
from signal_core.conn cimport conn_answer, conn_brief, conn_extra, conn_fail, conn_frame, conn_id
from signal_core.counters cimport C_ABUSERS, C_GOAWAYS, C_RECEIPTS_LATE, C_REFS_TIMED_OUT
from signal_core.frame cimport OP_TEXT
from signal_core.identity cimport conn_user, user_json_put, user_json_size
from signal_core.limits cimport STRIKES, STRIKE_WINDOW_TICKS, TICK_MS
from signal_core.memory cimport Msg
from signal_core.slab cimport Brief, Cold, Conn, Extra, Ref, slab_cold
from signal_core.state cimport (
    CODE_BAD_REQUEST, CODE_COUNT, CODE_DENIED, CODE_EXPIRED, CODE_NO_SUCH_PEER, CODE_OK, CODE_RATE,
    CODE_SLOW_PEER, CODE_TIMEOUT, CODE_TOO_LARGE, CODE_TOO_MANY_ROOMS, CODE_UNAVAILABLE, Hub, Loop,
)
from signal_core.sys cimport SE_COLD
from signal_core.wheel cimport wheel_arm_by

cdef enum:
    REFS_AT_FIRST = 4
    REF_TO = 1
    REF_SUB = 2
    REF_AUTH = 3


cdef inline const char* code_text(uint8_t code) noexcept nogil:
    """As it stands on the wire."""
    if code == CODE_OK:
        return b"ok"
    if code == CODE_BAD_REQUEST:
        return b"bad-request"
    if code == CODE_NO_SUCH_PEER:
        return b"no-such-peer"
    if code == CODE_SLOW_PEER:
        return b"slow-peer"
    if code == CODE_EXPIRED:
        return b"expired"
    if code == CODE_TIMEOUT:
        return b"timeout"
    if code == CODE_TOO_LARGE:
        return b"too-large"
    if code == CODE_DENIED:
        return b"denied"
    if code == CODE_RATE:
        return b"rate"
    if code == CODE_TOO_MANY_ROOMS:
        return b"too-many-rooms"
    return b"unavailable"


cdef inline const char* code_reason(uint8_t code) noexcept nogil:
    """For people."""
    if code == CODE_BAD_REQUEST:
        return b"The head of this message is not signal.v1."
    if code == CODE_NO_SUCH_PEER:
        return b"No connection has this address, or its node is gone."
    if code == CODE_SLOW_PEER:
        return b"The receiver reads too slowly: its backlog is full."
    if code == CODE_EXPIRED:
        return b"The message grew older than its ttl before it could be written."
    if code == CODE_TIMEOUT:
        return b"No receipt came in time: it may or may not have been delivered."
    if code == CODE_TOO_LARGE:
        return b"The message is larger than the engine or its NATS server takes."
    if code == CODE_DENIED:
        return b"The token of this connection, or NATS, does not allow it."
    if code == CODE_RATE:
        return b"Too many messages in a short time, or too many refs outstanding."
    if code == CODE_TOO_MANY_ROOMS:
        return b"This connection is in as many rooms as it may be."
    return b"The cluster is out of reach; local delivery works."


cdef inline uint8_t code_parse(const char* text, size_t n) noexcept nogil:
    """Of a receipt; what is unknown (a newer node's) is told as `unavailable`."""
    cdef uint8_t code
    for code in range(CODE_COUNT):
        if strlen(code_text(code)) == n and memcmp(code_text(code), text, n) == 0:
            return code
    return CODE_UNAVAILABLE


cdef inline uint8_t* put(uint8_t* out, const void* text, size_t n) noexcept nogil:
    memcpy(out, text, n)
    return out + n


cdef inline uint8_t* put_peer(uint8_t* out, const Hub* hub, uint64_t id) noexcept nogil:
    """`<node>.<local>` of an id of this node: hub.node_len + 1 + LOCAL_TEXT bytes."""
    memcpy(out, hub.node, hub.node_len + 1)
    local_put(id, <char*>out + hub.node_len + 1)
    return out + hub.node_len + 1 + LOCAL_TEXT


cdef inline Msg* hello_new(Loop* loop, Conn* c) noexcept nogil:
    cdef Hub* hub = loop.hub
    cdef uint32_t user_n = 0
    cdef const char* user = conn_user(loop, c, &user_n)
    cdef size_t size = 6 + hub.node_len + 1 + LOCAL_TEXT + 1 + hub.hello_len + user_json_size(user, user_n)
    cdef uint8_t* p
    cdef Msg* msg = conn_frame(loop, c, OP_TEXT, size, 0, &p)
    if msg == NULL:
        return NULL
    p = put(p, b"HELLO ", 6)
    p = put_peer(p, hub, conn_id(loop, c))
    p = put(p, b"\n", 1)
    p = put(p, hub.hello, hub.hello_len - 1)
    put(user_json_put(p, user, user_n), b"}", 1)
    return msg


cdef inline void say_ok(Loop* loop, Conn* c, const char* ref, size_t n) noexcept nogil:
    cdef uint8_t* p
    cdef Msg* msg = conn_frame(loop, c, OP_TEXT, 3 + n, 0, &p)
    if msg != NULL:
        put(put(p, b"OK ", 3), ref, n)
    conn_answer(loop, c, msg)


cdef inline SE_COLD say_err(Loop* loop, Conn* c, uint8_t code, const char* ref, size_t n) noexcept nogil:
    """`n` 0: no ref."""
    cdef const char* text = code_text(code)
    cdef const char* reason = code_reason(code)
    cdef size_t text_n = strlen(text), reason_n = strlen(reason)
    cdef uint8_t* p
    cdef Msg* msg = conn_frame(loop, c, OP_TEXT, 4 + text_n + (5 + n if n else 0) + 1 + reason_n, 0, &p)
    if msg != NULL:
        p = put(put(p, b"ERR ", 4), text, text_n)
        if n:
            p = put(put(p, b" ref=", 5), ref, n)
        put(put(p, b"\n", 1), reason, reason_n)
    conn_answer(loop, c, msg)


cdef inline void say(Loop* loop, Conn* c, uint8_t code, const char* ref, size_t n) noexcept nogil:
    """Answers a ref; without one only what is wrong with the request itself is said."""
    if code != CODE_OK:
        if n or code in (CODE_BAD_REQUEST, CODE_TOO_LARGE, CODE_DENIED, CODE_RATE, CODE_TOO_MANY_ROOMS):
            say_err(loop, c, code, ref, n)
    elif n:
        say_ok(loop, c, ref, n)


cdef inline void say_pong(Loop* loop, Conn* c, const char* token, size_t n) noexcept nogil:
    cdef uint8_t* p
    cdef Msg* msg = conn_frame(loop, c, OP_TEXT, 4 + (1 + n if n else 0), 0, &p)
    if msg != NULL:
        p = put(p, b"PONG", 4)
        if n:
            put(put(p, b" ", 1), token, n)
    conn_answer(loop, c, msg)


cdef inline SE_COLD say_goaway(Loop* loop, Conn* c) noexcept nogil:
    """That this node drains: whoever stays is closed within the time that is told."""
    cdef Hub* hub = loop.hub
    cdef uint32_t ticks = loop.farewell.by - loop.tick if loop.farewell.by > loop.tick else 0
    cdef char ms[20]
    cdef size_t ms_n = put_uint(ms, <uint64_t>ticks * TICK_MS), url_n = hub.set.drain_url_len
    cdef uint8_t* p
    cdef Msg* msg = conn_frame(loop, c, OP_TEXT, 7 + ms_n + (5 + url_n if url_n else 0), 0, &p)
    if msg != NULL:
        p = put(put(p, b"GOAWAY ", 7), ms, ms_n)
        if url_n:
            put(put(p, b" url=", 5), hub.set.drain_url, url_n)
    loop.n[C_GOAWAYS] += 1
    conn_answer(loop, c, msg)


cdef inline SE_COLD strike(Loop* loop, Conn* c) noexcept nogil:
    """Counts a malformed message; too many in a short time fail the connection."""
    cdef Extra* extra = conn_extra(loop, c)
    if extra == NULL:
        return
    if extra.strikes == 0 or loop.tick - extra.strikes_since >= STRIKE_WINDOW_TICKS:
        extra.strikes_since = loop.tick
        extra.strikes = 0
    extra.strikes += 1
    if extra.strikes >= STRIKES:
        loop.n[C_ABUSERS] += 1
        conn_fail(loop, c, 1008)


cdef inline Ref* ref_find(Loop* loop, const Conn* c, const char* text, size_t n) noexcept nogil:
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    cdef uint32_t i
    if brief == NULL:
        return NULL
    for i in range(brief.nrefs):
        if brief.refs[i].size == n and memcmp(brief.refs[i].text, text, n) == 0:
            return &brief.refs[i]
    return NULL


cdef inline uint8_t ref_add(Loop* loop, Conn* c, const char* text, size_t n, uint8_t kind,
                            uint32_t deadline) noexcept nogil:
    """Remembers an answer that is owed. CODE_OK; CODE_BAD_REQUEST: the ref is outstanding; CODE_RATE: too many are."""
    cdef Brief* brief = conn_brief(loop, c)
    cdef Ref* grown
    cdef Ref* ref
    cdef uint16_t size
    if brief == NULL:
        return CODE_UNAVAILABLE
    if ref_find(loop, c, text, n) != NULL:
        return CODE_BAD_REQUEST
    if brief.nrefs >= loop.hub.set.max_refs:
        return CODE_RATE
    if brief.nrefs == brief.refs_size:
        size = <uint16_t>(brief.refs_size * 2 if brief.refs_size else REFS_AT_FIRST)
        grown = <Ref*>realloc(brief.refs, size * sizeof(Ref))
        if grown == NULL:
            return CODE_UNAVAILABLE
        brief.refs = grown
        brief.refs_size = size
    ref = &brief.refs[brief.nrefs]
    brief.nrefs += 1
    memcpy(ref.text, text, n)
    ref.size = <uint8_t>n
    ref.kind = kind
    ref.deadline = deadline
    ref.listens = ref.taken = 0
    ref.room = 0
    wheel_arm_by(&loop.wheel, &loop.slab, c.slot, deadline)
    return CODE_OK


cdef inline void ref_remove(Loop* loop, const Conn* c, Ref* ref) noexcept nogil:
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    brief.nrefs -= 1
    ref[0] = brief.refs[brief.nrefs]


cdef inline uint32_t ref_finish(Loop* loop, Conn* c, const char* text, size_t n, uint8_t code) noexcept nogil:
    """Gives the answer that is owed, and returns the Ref.room of a SUB with presence, else 0; one that nobody is owed
    any more is counted and dropped. Who is no member any more by the time of it hears no OK."""
    cdef Ref* ref = NULL if c == NULL else ref_find(loop, c, text, n)
    cdef uint32_t room
    if ref == NULL:
        loop.n[C_RECEIPTS_LATE] += 1
        return 0
    room = ref.room if ref.listens and not ref.taken else 0
    if ref.taken and code == CODE_OK:
        code = CODE_DENIED
    ref_remove(loop, c, ref)
    say(loop, c, code, text, n)
    return room


cdef inline uint32_t refs_due(Loop* loop, Conn* c) noexcept nogil:
    """Answers `timeout` to what is overdue; returns the tick of the next deadline, 0 for none."""
    cdef Cold* cold = slab_cold(&loop.slab, c.slot)
    cdef uint32_t i = 0, next_due = 0
    cdef Ref late
    if cold.brief == NULL:
        return 0
    while i < cold.brief.nrefs:
        if cold.brief.refs[i].deadline <= loop.tick:
            late = cold.brief.refs[i]
            ref_remove(loop, c, &cold.brief.refs[i])
            loop.n[C_REFS_TIMED_OUT] += 1
            say_err(loop, c, CODE_TIMEOUT, late.text, late.size)  # this may move the Brief
            continue
        if next_due == 0 or cold.brief.refs[i].deadline < next_due:
            next_due = cold.brief.refs[i].deadline
        i += 1
    if cold.brief.nrefs == 0 and cold.brief.refs != NULL:
        free(cold.brief.refs)
        cold.brief.refs = NULL
        cold.brief.refs_size = 0
    return next_due
