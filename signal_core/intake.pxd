"""How much a client may bring: messages a second, and bytes of what has come in part only. L2."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from signal_core.conn cimport conn_extra
from signal_core.counters cimport C_INPUT_BYTES, C_INPUT_LIMITED
from signal_core.slab cimport FLAG_WHOLE, Buffer, Conn, Extra, slab_whole
from signal_core.state cimport Loop

cdef enum:
    TOKEN = 10                # a message, in tokens: so one a second is a token a tick


cdef inline bint bucket_take(Loop* loop, Conn* c) noexcept nogil:
    """Whether one message more is within max-rate; takes its tokens. Where no rate is set there is no bucket."""
    return loop.hub.set.rate == 0 or bucket_pay(loop, c)


cdef inline bint bucket_pay(Loop* loop, Conn* c) noexcept nogil:
    """As bucket_take, where a rate is set."""
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


cdef inline void bucket_give(Loop* loop, Conn* c) noexcept nogil:
    """What its last message took: that one will be taken again."""
    if loop.hub.set.rate and c.flags & FLAG_WHOLE:
        slab_whole(&loop.slab, c).tokens += TOKEN


cdef inline Buffer* buffer_grown(Loop* loop, Buffer* buffer, size_t need, size_t most) noexcept nogil:
    """With room for `need` bytes, doubled up to `most`. NULL, and the old one kept, without memory or over
    input-total: Loop.input_code says with which close code."""
    cdef size_t before = 0 if buffer == NULL else buffer.size
    cdef size_t size = 64 if buffer == NULL else before
    cdef Buffer* grown
    if buffer != NULL and before >= need:
        return buffer
    while size < need:
        size *= 2
    if size > most and most >= need:
        size = most
    if loop.n[C_INPUT_BYTES] + size - before > loop.hub.set.input_loop:
        loop.n[C_INPUT_LIMITED] += 1
        loop.input_code = 1013
        return NULL
    grown = <Buffer*>realloc(buffer, sizeof(Buffer) + size)
    if grown == NULL:
        loop.input_code = 1011
        return NULL
    if buffer == NULL:
        grown.used = 0
        grown.since = loop.tick
    grown.size = <uint32_t>size
    loop.n[C_INPUT_BYTES] += size - before
    if loop.n[C_INPUT_BYTES] > loop.kept:  # it may be gone within a tick
        loop.kept = loop.n[C_INPUT_BYTES]
    return grown


cdef inline void buffer_free(Loop* loop, Buffer* buffer) noexcept nogil:
    """NULL is no harm."""
    if buffer != NULL:
        loop.n[C_INPUT_BYTES] -= buffer.size
        free(buffer)


cdef inline void input_drop(Loop* loop, Conn* c) noexcept nogil:
    """Frees the input left over of a connection that has failed: its socket is read on, and what comes is thrown
    away."""
    buffer_free(loop, c.pending)
    c.pending = NULL
