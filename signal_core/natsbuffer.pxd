"""The link's read buffer: bounded, whatever a server sends, and small again afterwards. L3. Loop 0 only."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memmove
from signal_core.limits cimport NATS_HEADERS_KEPT, NATS_KEPT, NATS_READ_BUFFER
from signal_core.natswire cimport NATS_HMSG, NATS_MSG, NatsOp, control_line, nats_need
from signal_core.state cimport Link, Loop

cdef enum:
    BUFFER_TICKS = 10             # without need of a larger buffer, until it is small again
    BUFFER_SPARE = 4096           # bytes that there is room for beside what is needed


cdef inline bint is_oversize(const Loop* loop, const NatsOp* op) noexcept nogil:
    """Whether a message is not kept: no member may have it, and presence has none so large."""
    cdef uint64_t most = loop.hub.set.max_message if loop.hub.set.max_message > NATS_KEPT else NATS_KEPT
    return op.payload_len > most or op.headers_len > NATS_HEADERS_KEPT


cdef inline bint buffer_oversize(const Loop* loop, const char* p, size_t n, NatsOp* op, size_t* need) noexcept nogil:
    """Whether p starts with a message that is not kept. `need`: its control line, and headers where those are."""
    cdef int64_t line = control_line(p, n, op)
    if line < 0 or (op.kind != NATS_MSG and op.kind != NATS_HMSG) or not is_oversize(loop, op):
        return False
    need[0] = <size_t>line
    if op.headers_len <= NATS_HEADERS_KEPT:
        need[0] += op.headers_len
        op.headers = p + line if op.headers_len else NULL
    op.payload = NULL
    return True


cdef inline void buffer_skip(Link* link) noexcept nogil:
    """Passes over what is in the buffer of a message that is not kept."""
    cdef uint32_t here = link.buffer_used - link.buffer_start
    if link.skip < here:
        here = <uint32_t>link.skip
    link.skip -= here
    link.buffer_start += here


cdef inline size_t buffer_need(const Loop* loop) noexcept nogil:
    """Bytes of the operation at the buffer's beginning that must be there; 0 where that is not known."""
    cdef const Link* link = loop.linked
    cdef NatsOp op
    cdef size_t need
    if buffer_oversize(loop, <const char*>link.buffer, link.buffer_used, &op, &need):
        return need
    return nats_need(<const char*>link.buffer, link.buffer_used)


cdef inline bint buffer_room(Loop* loop) noexcept nogil:
    """Moves what is left over to the front, and grows the buffer where the next operation needs it. False without
    memory."""
    cdef Link* link = loop.linked
    cdef uint32_t left = link.buffer_used - link.buffer_start
    cdef size_t need
    cdef uint8_t* grown
    if link.buffer_start:
        memmove(link.buffer, link.buffer + link.buffer_start, left)
        link.buffer_start = 0
        link.buffer_used = left
    need = buffer_need(loop) if left else 0
    if need < left + BUFFER_SPARE:
        need = left + BUFFER_SPARE
    if need > NATS_READ_BUFFER:
        link.grown = loop.tick
    if need > link.buffer_size:
        need = need + NATS_READ_BUFFER if link.buffer_size else NATS_READ_BUFFER
        grown = <uint8_t*>realloc(link.buffer, need)
        if grown == NULL:
            return False
        link.buffer = grown
        link.buffer_size = <uint32_t>need
    return True


cdef inline void buffer_shrink(Loop* loop) noexcept nogil:
    """Each tick: a buffer that was large for a message is small again soon after it."""
    cdef Link* link = loop.linked
    cdef uint8_t* shrunk
    if (link.buffer_size <= NATS_READ_BUFFER or link.buffer_used > NATS_READ_BUFFER
            or loop.tick - link.grown < BUFFER_TICKS):
        return
    shrunk = <uint8_t*>realloc(link.buffer, NATS_READ_BUFFER)
    if shrunk != NULL:
        link.buffer = shrunk
        link.buffer_size = NATS_READ_BUFFER
