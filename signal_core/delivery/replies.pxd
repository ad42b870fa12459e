"""The engine's answers to a client: HELLO, OK, ERR, PONG, GOAWAY. Source: docs/protocol.md, §3."""

from libc.stdint cimport uint64_t, uint8_t
from signal_core.base.counters cimport C_GOAWAYS
from signal_core.base.limits cimport TICK_MS
from signal_core.base.memory cimport Packet
from signal_core.base.span cimport Span, span_is, span_of, span_text
from signal_core.base.sys cimport SE_COLD
from signal_core.base.text cimport text_put, text_put_span, text_put_uint, text_uint_size
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


cdef inline uint8_t replies_code_parse(Span text) noexcept nogil:
    """Parses the code of a receipt. A code that only a newer node knows counts as CODE_UNAVAILABLE."""
    cdef uint8_t code
    for code in range(CODE_COUNT):
        if span_is(text, replies_code_text(code)):
            return code
    return CODE_UNAVAILABLE


cdef inline char* replies_put_peer(char* out, const Hub* hub, uint64_t id) noexcept nogil:
    """Writes `<node>.<local>` of an id of this node, at most PEER_TEXT bytes; returns its end."""
    return ids_put_local(text_put_span(out, span_of(hub.node, hub.node_len + 1)), id)  # its dot is there


cdef inline Packet* replies_hello_new(Loop* loop, Conn* c) noexcept nogil:
    """Returns the HELLO for a connection, with its address and user; NULL without memory."""
    cdef Hub* hub = loop.hub
    cdef Span user = conn_acl_user(loop, c)
    cdef size_t size = 6 + hub.node_len + 1 + LOCAL_TEXT + 1 + loop.set.hello_len + conn_acl_json_size(user)
    cdef char* p
    cdef Packet* packet = conn_frame(loop, c, OP_TEXT, size, &p)
    if packet == NULL:
        return NULL
    p = text_put(replies_put_peer(text_put(p, b"HELLO "), hub, conn_id(loop, c)), b"\n")
    p = text_put_span(p, span_of(loop.set.hello, loop.set.hello_len - 1))
    text_put(conn_acl_json_put(p, user), b"}")
    return packet


cdef inline void _say_ok(Loop* loop, Conn* c, Span ref) noexcept nogil:
    cdef char* p
    cdef Packet* packet = conn_frame(loop, c, OP_TEXT, 3 + ref.size, &p)
    if packet != NULL:
        text_put_span(text_put(p, b"OK "), ref)
    conn_answer(loop, c, packet)


cdef inline SE_COLD replies_err(Loop* loop, Conn* c, uint8_t code, Span ref) noexcept nogil:
    """Sends an ERR, with the ref if there is one."""
    cdef Span text = span_text(replies_code_text(code)), reason = span_text(replies_code_reason(code))
    cdef size_t size = 4 + text.size + (5 + ref.size if ref.size else 0) + 1 + reason.size
    cdef char* p
    cdef Packet* packet = conn_frame(loop, c, OP_TEXT, size, &p)
    if packet != NULL:
        p = text_put_span(text_put(p, b"ERR "), text)
        if ref.size:
            p = text_put_span(text_put(p, b" ref="), ref)
        text_put_span(text_put(p, b"\n"), reason)
    conn_answer(loop, c, packet)


cdef inline void replies_say(Loop* loop, Conn* c, uint8_t code, Span ref) noexcept nogil:
    """Answers a request with OK or ERR. Without a ref only an ERR is sent, and only if the fault is the client's."""
    if code != CODE_OK:
        if ref.size or code in (CODE_BAD_REQUEST, CODE_TOO_LARGE, CODE_DENIED, CODE_RATE, CODE_TOO_MANY_ROOMS):
            replies_err(loop, c, code, ref)
    elif ref.size:
        _say_ok(loop, c, ref)


cdef inline void replies_pong(Loop* loop, Conn* c, Span token) noexcept nogil:
    """Answers a PING message of signal.v1 with its token, if any."""
    cdef char* p
    cdef Packet* packet = conn_frame(loop, c, OP_TEXT, 4 + (1 + token.size if token.size else 0), &p)
    if packet != NULL:
        p = text_put(p, b"PONG")
        if token.size:
            text_put_span(text_put(p, b" "), token)
    conn_answer(loop, c, packet)


cdef inline SE_COLD replies_goaway(Loop* loop, Conn* c) noexcept nogil:
    """Sends GOAWAY: this node drains, and closes the connection within the time that GOAWAY gives."""
    cdef Span url = span_of(loop.set.drain_url, loop.set.drain_url_len)
    cdef uint64_t ms = (loop.drain.by - loop.tick) * <uint64_t>TICK_MS if loop.drain.by > loop.tick else 0
    cdef size_t size = 7 + text_uint_size(ms) + (5 + url.size if url.size else 0)
    cdef char* p
    cdef Packet* packet = conn_frame(loop, c, OP_TEXT, size, &p)
    if packet != NULL:
        p = text_put_uint(text_put(p, b"GOAWAY "), ms)
        if url.size:
            text_put_span(text_put(p, b" url="), url)
    loop.n[C_GOAWAYS] += 1
    conn_answer(loop, c, packet)
