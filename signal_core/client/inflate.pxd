"""Decompresses a client's messages (RFC 7692 §7.2.2). Runs on the connection's loop.

The output is limited to max-message and a head while it is made, and counts against input-total once it is longer than
INFLATE_PLAIN.
"""

from libc.stdint cimport uint16_t
from libc.string cimport memcpy
from signal_core.base.counters cimport C_INFLATE_REFUSED, C_INFLATED_BYTES, C_MESSAGES_INFLATED, C_ZLIB_BYTES
from signal_core.base.limits cimport INFLATE_PLAIN, INFLATE_UNIT_SHIFT
from signal_core.base.span cimport Span, span_of
from signal_core.client.input_buffer cimport input_buffer_free, input_buffer_grow
from signal_core.tables.conn_table cimport Buffer
from signal_core.tables.state cimport Loop
from signal_core.tables.zlib_state cimport (
    SE_INFLATE_BAD, SE_INFLATE_FULL, SE_INFLATE_MEMORY, ZlibState, se_inflate, se_inflate_begin, zlib_state_inflater,
)


cdef inline size_t _inflated(const ZlibState* z) noexcept nogil:
    """Returns the bytes decompressed so far."""
    if z.large != NULL:
        return z.inflate.next_out - z.large.data
    return z.inflate.next_out - z.plain


cdef inline bint _grow(Loop* loop, ZlibState* z) noexcept nogil:
    """Makes room for more output. False: there is none, and Loop.input_code says why."""
    cdef size_t used = _inflated(z)
    cdef size_t most = <size_t>loop.set.max_frame + 1
    cdef Buffer* grown = input_buffer_grow(loop, z.large, 2 * used if 2 * used < most else most, most)
    if grown == NULL:
        return False
    if z.large == NULL:
        memcpy(grown.data, z.plain, used)
    z.large = grown
    z.inflate.next_out = grown.data + used
    z.inflate.avail_out = <unsigned int>(grown.size - used)
    return True


cdef inline uint16_t _inflate(Loop* loop, ZlibState* z) noexcept nogil:
    """Decompresses what se_inflate_begin got. Returns 0, or the code to close the connection with."""
    cdef int tailed = 0, result
    while True:
        result = se_inflate(&z.inflate, &tailed)
        if result == SE_INFLATE_BAD:
            return 1007
        if result == SE_INFLATE_MEMORY:
            return 1011
        if _inflated(z) > loop.set.max_frame:
            loop.n[C_INFLATE_REFUSED] += 1
            return 1009
        if result != SE_INFLATE_FULL:
            return 0
        if not _grow(loop, z):
            return <uint16_t>loop.input_code


cdef inline uint16_t inflate_message(Loop* loop, Span* message) noexcept nogil:
    """Replaces a compressed message by what it contains, which is valid until inflate_done. Returns 0, or the code to
    close the connection with: 1007 (malformed), 1009 (too big), 1011, 1013 (as input_buffer_grow)."""
    cdef ZlibState* z = zlib_state_inflater(&loop.zlib)
    cdef uint16_t code
    cdef size_t size
    if z == NULL:
        return 1011
    se_inflate_begin(&z.inflate, <const unsigned char*>message.at, message.size)
    z.inflate.next_out = z.plain
    z.inflate.avail_out = INFLATE_PLAIN
    code = _inflate(loop, z)
    size = _inflated(z)
    loop.n[C_ZLIB_BYTES] = z.bytes
    loop.turn.work += (size + message.size) >> INFLATE_UNIT_SHIFT
    if code == 0:
        loop.n[C_MESSAGES_INFLATED] += 1
        loop.n[C_INFLATED_BYTES] += size
    message[0] = span_of(z.inflate.next_out - size, size)
    return code


cdef inline void inflate_done(Loop* loop) noexcept nogil:
    """Frees the message of inflate_message."""
    if loop.zlib != NULL and loop.zlib.large != NULL:
        input_buffer_free(loop, loop.zlib.large)
        loop.zlib.large = NULL
