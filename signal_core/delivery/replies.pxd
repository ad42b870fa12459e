"""The engine's answers to a client: HELLO, OK, ERR, PONG, GOAWAY. Source: docs/protocol.md, §3."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, strlen
from signal_core.base.counters cimport C_GOAWAYS
from signal_core.base.limits cimport TICK_MS
from signal_core.base.memory cimport Packet
from signal_core.base.sys cimport SE_COLD
from signal_core.base.text cimport UINT_TEXT, text_put_bytes, text_put_uint
from signal_core.delivery.conn cimport conn_answer, conn_frame, conn_id
from signal_core.tables.codes cimport (
    CODE_BAD_REQUEST, CODE_COUNT, CODE_DENIED, CODE_EXPIRED, CODE_NO_SUCH_PEER, CODE_OK, CODE_RATE, CODE_SLOW_PEER,
    CODE_TIMEOUT, CODE_TOO_LARGE, CODE_TOO_MANY_ROOMS, CODE_UNAVAILABLE,
)
from signal_core.tables.conn_acl cimport conn_acl_json_put, conn_acl_json_size, conn_acl_user
from signal_core.tables.conn_table cimport Conn
from signal_core.tables.state cimport Hub, Loop
from signal_core.wire.frame cimport OP_TEXT
from signal_core.wire.ids cimport LOCAL_TEXT, ids_put_local

cdef enum:
    REFS_AT_FIRST = 4         # capacity of Brief.refs when it is allocated

    # Ref.kind
    REF_TO = 1
    REF_SUB = 2
    REF_AUTH = 3


cdef inline const char* replies_code_text(uint8_t code) noexcept nogil:
    """Returns a code as the protocol writes it."""
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


cdef inline const char* replies_code_reason(uint8_t code) noexcept nogil:
    """Returns the explanation for people that follows an ERR."""
    if code == CODE_BAD_REQUEST:
        return b"The head of this message is not valid signal.v1."
    if code == CODE_NO_SUCH_PEER:
        return b"No connection has this address, or its node is gone."
    if code == CODE_SLOW_PEER:
        return b"The receiver reads too slowly: its backlog is full."
    if code == CODE_EXPIRED:
        return b"The message exceeded its ttl before it could be written."
    if code == CODE_TIMEOUT:
        return b"No receipt came in time: the message may or may not have been delivered."
    if code == CODE_TOO_LARGE:
        return b"The message is larger than the engine or its NATS server accepts."
    if code == CODE_DENIED:
        return b"The token of this connection, or NATS, does not allow it."
    if code == CODE_RATE:
        return b"Too many messages in a short time, or too many refs outstanding."
    if code == CODE_TOO_MANY_ROOMS:
        return b"This connection is in the maximum number of rooms."
    return b"The cluster or the authenticator is out of reach, or the node is short of memory."


cdef inline uint8_t replies_code_parse(const char* text, size_t n) noexcept nogil:
    """Parses the code of a receipt. A code that only a newer node knows counts as CODE_UNAVAILABLE."""
    cdef uint8_t code
    for code in range(CODE_COUNT):
        if strlen(replies_code_text(code)) == n and memcmp(replies_code_text(code), text, n) == 0:
            return code
    return CODE_UNAVAILABLE


cdef inline uint8_t* replies_put_peer(uint8_t* out, const Hub* hub, uint64_t id) noexcept nogil:
    """Writes the address of an id of this node, hub.node_len + 1 + LOCAL_TEXT bytes; returns its end."""
    memcpy(out, hub.node, hub.node_len + 1)
    ids_put_local(id, <char*>out + hub.node_len + 1)
    return out + hub.node_len + 1 + LOCAL_TEXT


cdef inline Packet* replies_hello_new(Loop* loop, Conn* c) noexcept nogil:
    """Returns the HELLO for a connection, with its address and user; NULL without memory."""
    cdef Hub* hub = loop.hub
    cdef uint32_t user_n = 0
    cdef const char* user = conn_acl_user(loop, c, &user_n)
    cdef size_t size = 6 + hub.node_len + 1 + LOCAL_TEXT + 1 + hub.hello_len + conn_acl_json_size(user, user_n)
    cdef uint8_t* p
    cdef Packet* packet = conn_frame(loop, c, OP_TEXT, size, 0, &p)
    if packet == NULL:
        return NULL
    p = text_put_bytes(p, b"HELLO ", 6)
    p = replies_put_peer(p, hub, conn_id(loop, c))
    p = text_put_bytes(p, b"\n", 1)
    p = text_put_bytes(p, hub.hello, hub.hello_len - 1)
    text_put_bytes(conn_acl_json_put(p, user, user_n), b"}", 1)
    return packet


cdef inline void _say_ok(Loop* loop, Conn* c, const char* ref, size_t n) noexcept nogil:
    cdef uint8_t* p
    cdef Packet* packet = conn_frame(loop, c, OP_TEXT, 3 + n, 0, &p)
    if packet != NULL:
        text_put_bytes(text_put_bytes(p, b"OK ", 3), ref, n)
    conn_answer(loop, c, packet)


cdef inline SE_COLD replies_err(Loop* loop, Conn* c, uint8_t code, const char* ref, size_t n) noexcept nogil:
    """Sends an ERR; `n` 0: without a ref."""
    cdef const char* text = replies_code_text(code)
    cdef const char* reason = replies_code_reason(code)
    cdef size_t text_n = strlen(text), reason_n = strlen(reason)
    cdef uint8_t* p
    cdef Packet* packet = conn_frame(loop, c, OP_TEXT, 4 + text_n + (5 + n if n else 0) + 1 + reason_n, 0, &p)
    if packet != NULL:
        p = text_put_bytes(text_put_bytes(p, b"ERR ", 4), text, text_n)
        if n:
            p = text_put_bytes(text_put_bytes(p, b" ref=", 5), ref, n)
        text_put_bytes(text_put_bytes(p, b"\n", 1), reason, reason_n)
    conn_answer(loop, c, packet)


cdef inline void replies_say(Loop* loop, Conn* c, uint8_t code, const char* ref, size_t n) noexcept nogil:
    """Answers a request with OK or ERR. Without a ref only an ERR is sent, and only if the fault is the client's."""
    if code != CODE_OK:
        if n or code in (CODE_BAD_REQUEST, CODE_TOO_LARGE, CODE_DENIED, CODE_RATE, CODE_TOO_MANY_ROOMS):
            replies_err(loop, c, code, ref, n)
    elif n:
        _say_ok(loop, c, ref, n)


cdef inline void replies_pong(Loop* loop, Conn* c, const char* token, size_t n) noexcept nogil:
    """Answers a PING message of signal.v1 with its token, if any (`n` > 0)."""
    cdef uint8_t* p
    cdef Packet* packet = conn_frame(loop, c, OP_TEXT, 4 + (1 + n if n else 0), 0, &p)
    if packet != NULL:
        p = text_put_bytes(p, b"PONG", 4)
        if n:
            text_put_bytes(text_put_bytes(p, b" ", 1), token, n)
    conn_answer(loop, c, packet)


cdef inline SE_COLD replies_goaway(Loop* loop, Conn* c) noexcept nogil:
    """Sends GOAWAY: this node drains, and closes the connection within the time that GOAWAY gives."""
    cdef Hub* hub = loop.hub
    cdef uint32_t ticks = loop.drain.by - loop.tick if loop.drain.by > loop.tick else 0
    cdef char ms[UINT_TEXT]
    cdef size_t ms_n = text_put_uint(ms, <uint64_t>ticks * TICK_MS), url_n = hub.set.drain_url_len
    cdef uint8_t* p
    cdef Packet* packet = conn_frame(loop, c, OP_TEXT, 7 + ms_n + (5 + url_n if url_n else 0), 0, &p)
    if packet != NULL:
        p = text_put_bytes(text_put_bytes(p, b"GOAWAY ", 7), ms, ms_n)
        if url_n:
            text_put_bytes(text_put_bytes(p, b" url=", 5), hub.set.drain_url, url_n)
    loop.n[C_GOAWAYS] += 1
    conn_answer(loop, c, packet)
