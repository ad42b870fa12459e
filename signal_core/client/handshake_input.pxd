"""Handles the head of a handshake as its bytes arrive. Runs on the connection's loop."""

from libc.stdint cimport uint64_t
from signal_core.base.counters cimport C_OVERSIZED, C_PROXY_REFUSED
from signal_core.base.limits cimport OVER_LOG_MS
from signal_core.base.span cimport Span, span_between, span_of
from signal_core.base.sys cimport (
    SE_RARE, se_add_relaxed, se_cas_relaxed, se_load_relaxed, se_now_ms, se_store_relaxed, se_sub_relaxed,
)
from signal_core.base.text cimport text_put, text_put_uint
from signal_core.client.auth cimport auth_ask
from signal_core.client.open cimport open_finish, open_origin
from signal_core.client.proxied cimport proxied_parse
from signal_core.delivery.backpressure cimport backpressure_hold, backpressure_joins_wait
from signal_core.delivery.outbox cimport outbox_event_if_room
from signal_core.tables.codes cimport AUTH_OFF, EVENT_LOG
from signal_core.tables.conn_table cimport Conn
from signal_core.tables.state cimport OVER_COUNT, OVER_HEAD, OVER_LINE, Hub, Loop
from signal_core.wire.handshake cimport PROXIED_WRONG, STATUS_HEALTH, Upgrade

cdef enum:
    OVER_TEXT = 256           # bytes of the buffer for a log line about requests over a size limit


# -- logging requests over a size limit --

cdef inline void _over_say(Loop* loop, int which, uint64_t count) noexcept nogil:
    """Logs one line, at most 200 bytes, about `count` requests."""
    cdef char text[OVER_TEXT]
    cdef char* p = text
    cdef Hub* hub = loop.hub
    if which == OVER_LINE:
        p = text_put(p, b"requests are refused with 414: their line is over max-request-line, ")
        p = text_put_uint(p, loop.set.site.max_line)
    else:
        p = text_put(p, b"requests are refused with 431: their head is over max-head, ")
        p = text_put_uint(p, loop.set.site.max_head)
    p = text_put_uint(text_put(p, b" bytes; "), count)
    p = text_put(p, b" since the last such line, the latest with at least ")
    p = text_put(text_put_uint(p, se_load_relaxed(&hub.over_size[which])), b" bytes")
    outbox_event_if_room(loop, EVENT_LOG, 0, span_between(text, p))


cdef inline void handshake_input_tell_over(Loop* loop) noexcept nogil:
    """Logs the requests refused for their size since the last such lines, once in OVER_LOG_MS for all loops
    together."""
    cdef Hub* hub = loop.hub
    cdef uint64_t count, now = se_now_ms(), due = se_load_relaxed(&hub.over_due)
    cdef int i
    if now < due or not se_cas_relaxed(&hub.over_due, &due, now + OVER_LOG_MS):
        return
    for i in range(OVER_COUNT):
        count = se_load_relaxed(&hub.over[i])
        if count:
            se_sub_relaxed(&hub.over[i], count)
            _over_say(loop, i, count)


cdef inline bint handshake_input_any_over(const Hub* hub) noexcept nogil:
    """Whether some refused requests are not in the log yet."""
    return (se_load_relaxed(&hub.over[OVER_LINE]) | se_load_relaxed(&hub.over[OVER_HEAD])) != 0


cdef inline void _over_note(Loop* loop, const Upgrade* u) noexcept nogil:
    """Counts a request over max-request-line or max-head, and has it logged."""
    cdef int which = OVER_LINE if u.status == 414 else OVER_HEAD
    loop.n[C_OVERSIZED] += 1
    se_store_relaxed(&loop.hub.over_size[which], u.over)
    se_add_relaxed(&loop.hub.over[which], 1)
    handshake_input_tell_over(loop)


# -- the head --

cdef inline void _handshake_refuse(const Conn* c, Upgrade* u) noexcept nogil:
    """Sets the refusal of a connection over a limit (Arriving.refusal), whose head asks for no health check."""
    u.status = 400 + c.phase.arriving.refusal
    u.why = NULL


cdef inline size_t handshake_input(Loop* loop, Conn* c, Span input, size_t before) noexcept nogil:
    """Handles bytes of a head, of which `before` were there at the last call. Returns the size of the head once the
    connection is upgraded, that of the input if it is refused, 0 if bytes are missing or it waits (for a verdict, or
    held)."""
    cdef Upgrade u
    cdef int head = proxied_parse(loop.set, c.fd, input, before, &loop.set.site, &u)
    if head == -2:
        return 0
    if SE_RARE(u.proxied == PROXIED_WRONG):
        loop.n[C_PROXY_REFUSED] += 1
    if SE_RARE(u.status == 414 or u.status == 431) and u.why == NULL:
        _over_note(loop, &u)
    if head > 0 and loop.accept.shut:
        u.status = 503
    elif SE_RARE(c.phase.arriving.refusal) and u.status != STATUS_HEALTH:
        _handshake_refuse(c, &u)
    if u.status == 0 and u.query.size and backpressure_joins_wait(loop):
        backpressure_hold(loop, c)
        return 0
    if u.status == 0:
        u.status = open_origin(loop, c, &u)
    if u.status == 0 and loop.set.auth != AUTH_OFF:
        u.status = auth_ask(loop, c, &u, span_of(input.at + u.skipped, <size_t>head - u.skipped))
        if u.status == 0:
            return 0
    return <size_t>head if open_finish(loop, c, &u) else input.size
