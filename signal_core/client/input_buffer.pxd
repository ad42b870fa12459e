"""Buffers for incomplete input, limited per loop by input-total. A buffer belongs to one connection of its loop."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc
from signal_core.base.counters cimport C_INPUT_BYTES, C_INPUT_LIMITED
from signal_core.tables.conn_table cimport Buffer, Conn
from signal_core.tables.state cimport Loop


cdef inline Buffer* input_buffer_grow(Loop* loop, Buffer* buffer, size_t need, size_t most) noexcept nogil:
    """Returns the buffer (a new one for NULL) with a capacity of at least `need` bytes; it is doubled, up to `most`.

    NULL without memory or over input-total: the old buffer stays valid, and Loop.input_code is the close code.
    """
    cdef size_t before = 0 if buffer == NULL else buffer.size
    cdef size_t size = 64 if buffer == NULL else before
    cdef Buffer* grown
    if buffer != NULL and before >= need:
        return buffer
    while size < need:
        size *= 2
    if size > most and most >= need:
        size = most
    if loop.n[C_INPUT_BYTES] + size - before > loop.set.input_loop:
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
    if loop.n[C_INPUT_BYTES] > loop.trim.kept:  # memory_return checks once a tick: too late for a short peak
        loop.trim.kept = loop.n[C_INPUT_BYTES]
    return grown


cdef inline void input_buffer_free(Loop* loop, Buffer* buffer) noexcept nogil:
    """Frees a buffer; no effect on NULL."""
    if buffer != NULL:
        loop.n[C_INPUT_BYTES] -= buffer.size
        free(buffer)


cdef inline void input_buffer_drop(Loop* loop, Conn* c) noexcept nogil:
    """Frees the leftover input of a connection that has failed. Its further input is discarded."""
    input_buffer_free(loop, c.pending)
    c.pending = NULL
