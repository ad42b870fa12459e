"""The link's read buffer: bounded, whatever a server sends, and small again afterwards. Loop 0 only."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport realloc
from libc.string cimport memmove
from signal_core.base.limits cimport NATS_BUFFER_TICKS, NATS_HEADERS_KEPT, NATS_KEPT, NATS_READ_BUFFER
from signal_core.tables.link_state cimport Link
from signal_core.tables.state cimport Loop
from signal_core.wire.nats_proto cimport NATS_HMSG, NATS_MSG, NatsOp, nats_proto_control_line, nats_proto_need

cdef enum:
    BUFFER_SPARE = 4096           # bytes that there is room for beside what is needed


cdef inline bint _is_oversize(const Loop* loop, const NatsOp* op) noexcept nogil:
    """Whether a message is not kept: no member may have it, and presence has none so large."""
    cdef uint64_t most = loop.hub.set.max_message if loop.hub.set.max_message > NATS_KEPT else NATS_KEPT
    return op.payload_len > most or op.headers_len > NATS_HEADERS_KEPT


cdef inline bint read_buffer_oversize(
    const Loop* loop, const char* p, size_t n, NatsOp* op, size_t* need,
) noexcept nogil:
    """Whether p starts with a message that is not kept. `need`: its control line, and headers where those are."""
    cdef int64_t line = nats_proto_control_line(p, n, op)
    if line < 0 or (op.kind != NATS_MSG and op.kind != NATS_HMSG) or not _is_oversize(loop, op):
        return False
    need[0] = <size_t>line
    if op.headers_len <= NATS_HEADERS_KEPT:
        need[0] += op.headers_len
        op.headers = p + line if op.headers_len else NULL
    op.payload = NULL
    return True


cdef inline void read_buffer_skip(Link* link) noexcept nogil:
    """Passes over what is in the buffer of a message that is not kept."""
    cdef uint32_t here = link.input.used - link.input.start
    if link.input.skip < here:
        here = <uint32_t>link.input.skip
    link.input.skip -= here
    link.input.start += here


cdef inline size_t _buffer_need(const Loop* loop) noexcept nogil:
    """Bytes of the operation at the buffer's beginning that must be there; 0 where that is not known."""
    cdef const Link* link = loop.linked
    cdef NatsOp op
    cdef size_t need
    if read_buffer_oversize(loop, <const char*>link.input.data, link.input.used, &op, &need):
        return need
    return nats_proto_need(<const char*>link.input.data, link.input.used)


cdef inline bint read_buffer_room(Loop* loop) noexcept nogil:
    """Moves what is left over to the front, and grows the buffer where the next operation needs it. False without
    memory."""
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
    """Each tick: a buffer that was large for a message is small again soon after it."""
    cdef Link* link = loop.linked
    cdef uint8_t* shrunk
    if (link.input.size <= NATS_READ_BUFFER or link.input.used > NATS_READ_BUFFER
            or loop.tick - link.input.grown < NATS_BUFFER_TICKS):
        return
    shrunk = <uint8_t*>realloc(link.input.data, NATS_READ_BUFFER)
    if shrunk != NULL:
        link.input.data = shrunk
        link.input.size = NATS_READ_BUFFER
