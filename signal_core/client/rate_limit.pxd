"""Messages a second: a token bucket for each connection."""

from libc.stdint cimport uint32_t, uint64_t
from signal_core.client.input_buffer cimport TOKEN
from signal_core.delivery.conn cimport conn_extra
from signal_core.tables.conn_table cimport FLAG_WHOLE, Conn, Extra, slab_whole
from signal_core.tables.state cimport Loop


cdef inline bint rate_limit_take(Loop* loop, Conn* c) noexcept nogil:
    """Whether one message more is within max-rate; takes its tokens. Where no rate is set there is no bucket."""
    return loop.hub.set.rate == 0 or _bucket_pay(loop, c)


cdef inline bint _bucket_pay(Loop* loop, Conn* c) noexcept nogil:
    """As rate_limit_take, where a rate is set."""
    cdef uint64_t most = <uint64_t>loop.hub.set.burst * TOKEN, tokens = most
    cdef Extra* extra = conn_extra(loop, c)
    if extra == NULL:
        return True
    if extra.filled:
        tokens = extra.tokens + <uint64_t>(loop.tick - extra.filled) * loop.hub.set.rate
        if tokens > most:
            tokens = most
    extra.filled = loop.tick
    extra.tokens = <uint32_t>(tokens - TOKEN if tokens >= TOKEN else tokens)
    return tokens >= TOKEN


cdef inline void rate_limit_give(Loop* loop, Conn* c) noexcept nogil:
    """What its last message took: that one will be taken again."""
    if loop.hub.set.rate and c.flags & FLAG_WHOLE:
        slab_whole(&loop.slab, c).tokens += TOKEN
