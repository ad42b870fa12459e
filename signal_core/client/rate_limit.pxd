"""Limits a connection's messages per second (max-rate), by a token bucket in its Extra. Runs on its loop."""

from libc.stdint cimport uint32_t, uint64_t
from signal_core.delivery.conn cimport conn_extra
from signal_core.tables.conn_table cimport FLAG_WHOLE, Conn, Extra, slab_whole
from signal_core.tables.state cimport Loop

cdef enum:
    TOKEN = 10                # units of the bucket that a message takes: max-rate units are added each tick


cdef inline bint rate_limit_take(Loop* loop, Conn* c) noexcept nogil:
    """Whether one more message is within max-rate, which then counts it. Always true without a max-rate."""
    return loop.set.rate == 0 or _bucket_pay(loop, c)


cdef inline bint _bucket_pay(Loop* loop, Conn* c) noexcept nogil:
    """rate_limit_take, if a max-rate is set. True without memory for the bucket."""
    cdef uint64_t most = <uint64_t>loop.set.burst * TOKEN, tokens = most
    cdef Extra* extra = conn_extra(loop, c)
    if extra == NULL:
        return True
    if extra.filled:
        tokens = extra.tokens + <uint64_t>(loop.tick - extra.filled) * loop.set.rate
        if tokens > most:
            tokens = most
    extra.filled = loop.tick
    extra.tokens = <uint32_t>(tokens - TOKEN if tokens >= TOKEN else tokens)
    return tokens >= TOKEN


cdef inline void rate_limit_give(Loop* loop, Conn* c) noexcept nogil:
    """Gives back what the connection's last message took, because it will be handled again."""
    if loop.set.rate and c.flags & FLAG_WHOLE:
        slab_whole(&loop.slab, c).tokens += TOKEN
