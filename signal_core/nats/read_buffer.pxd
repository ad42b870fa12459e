"""The link's read buffer. Its size is limited whatever the server sends, and shrinks afterwards. Loop 0 only."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport realloc
from libc.string cimport memmove
from signal_core.base.limits cimport NATS_BUFFER_TICKS, NATS_HEADERS_KEPT, NATS_KEPT, NATS_READ_BUFFER
from signal_core.base.span cimport Span, span_of
from signal_core.tables.link_state cimport Link
from signal_core.tables.state cimport Loop
from signal_core.wire.nats_proto cimport NATS_HMSG, NATS_MSG, NatsOp, nats_proto_control_line, nats_proto_need

cdef enum:
    BUFFER_SPARE = 4096           # bytes of room for a read, beside what is needed


cdef inline bint _is_oversize(const Loop* loop, const NatsOp* op) noexcept nogil:
    """Whether a message is too large to keep: it is over max-message, and larger than any message of presence."""
    cdef uint64_t most = loop.set.max_message if loop.set.max_message > NATS_KEPT else NATS_KEPT
    return op.payload.size > most or op.headers.size > NATS_HEADERS_KEPT


cdef inline Span read_buffer_left(const Link* link) noexcept nogil:
    """Returns the input that is not parsed yet; valid until the next read."""
    return span_of(link.input.data + link.input.start, link.input.used - link.input.start)


cdef inline bint read_buffer_oversize(const Loop* loop, Span input, NatsOp* op, size_t* need) noexcept nogil:
    """Whether the input starts with a message that is too large to keep. Then `need` is the size of its control line
    and of its headers, unless these are too large as well."""
    cdef int64_t line = nats_proto_control_line(input, op)
    if line < 0 or (op.kind != NATS_MSG and op.kind != NATS_HMSG) or not _is_oversize(loop, op):
        return False
    need[0] = <size_t>line
    if op.headers.size <= NATS_HEADERS_KEPT:
        need[0] += op.headers.size
        op.headers.at = input.at + line if op.headers.size else NULL
    op.payload.at = NULL
    return True


cdef inline void read_buffer_skip(Link* link) noexcept nogil:
    """Skips what the buffer has of a message that is too large to keep."""
    cdef uint32_t here = link.input.used - link.input.start
    if link.input.skip < here:
        here = <uint32_t>link.input.skip
    link.input.skip -= here
    link.input.start += here


cdef inline size_t _buffer_need(const Loop* loop) noexcept nogil:
    """Returns how many bytes of the operation at the buffer's start are needed to handle it; 0: not known."""
    cdef const Link* link = loop.linked
    cdef NatsOp op
    cdef size_t need
    cdef Span input = span_of(link.input.data, link.input.used)
    if read_buffer_oversize(loop, input, &op, &need):
        return need
    return nats_proto_need(input)


cdef inline bint read_buffer_room(Loop* loop) noexcept nogil:
    """Makes room for a read: moves leftover bytes to the front, and grows the buffer if the next operation needs it.
    False: no memory."""
    cdef Link* link = loop.linked
    cdef uint32_t left = link.input.used - link.input.start
    cdef size_t need
    cdef uint8_t* grown
    if link.input.start:
        memmove(link.input.data, link.input.data + link.input.start, left)
        link.input.start = 0
        link.input.used = left
    need = _buffer_need(loop) if left else 0
    if need < left + BUFFER_SPARE:
        need = left + BUFFER_SPARE
    if need > NATS_READ_BUFFER:
        link.input.grown = loop.tick
    if need > link.input.size:
        need = need + NATS_READ_BUFFER if link.input.size else NATS_READ_BUFFER
        grown = <uint8_t*>realloc(link.input.data, need)
        if grown == NULL:
            return False
        link.input.data = grown
        link.input.size = <uint32_t>need
    return True


cdef inline void read_buffer_shrink(Loop* loop) noexcept nogil:
    """Each tick: shrinks a buffer that had grown for a large message."""
    cdef Link* link = loop.linked
    cdef uint8_t* shrunk
    if (link.input.size <= NATS_READ_BUFFER or link.input.used > NATS_READ_BUFFER
            or loop.tick - link.input.grown < NATS_BUFFER_TICKS):
        return
    shrunk = <uint8_t*>realloc(link.input.data, NATS_READ_BUFFER)
    if shrunk != NULL:
        link.input.data = shrunk
        link.input.size = NATS_READ_BUFFER
