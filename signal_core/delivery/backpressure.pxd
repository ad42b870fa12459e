"""Back-pressure between threads: whose words wait for a loop, and the connections that are held meanwhile.

A word is any message between threads but payload (outbox.pxd). Where TASKS_WAITING wait for a loop, a message that
would cause another one stays with its connection, which is not read until there is room: its loop looks each
HELD_WAIT_MS. No loop waits for another: what a loop has taken in it handles, and what it owes (a receipt, a leave) it
posts.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove
from signal_core.base.counters cimport C_INPUTS_HELD
from signal_core.base.limits cimport LINE_KEPT, TASKS_WAITING
from signal_core.base.memory cimport Packet
from signal_core.base.sys cimport se_load_relaxed
from signal_core.delivery.conn cimport conn_kill, conn_watch
from signal_core.tables.conn_table cimport (
    CONN_HANDSHAKE, CONN_OPEN, FLAG_BLOCKED, FLAG_PAUSED, FLAG_READY, Conn, slab_find,
)
from signal_core.tables.mailbox cimport Chain
from signal_core.tables.state cimport Loop

cdef enum:
    HELD_AT_FIRST = 64        # places for connections that are held


cdef inline bint backpressure_tasks_full(const Loop* loop, const Loop* target) noexcept nogil:
    """Whether what would cause another word to a loop is to wait. Of what all loops hold back in one iteration each has
    its share."""
    cdef const Chain* held = &loop.post.chains[target.index]
    return (se_load_relaxed(<uint64_t*>&target.mailbox.tasks) + held.tasks >= TASKS_WAITING
            or held.tasks * loop.hub.nloops >= TASKS_WAITING)


cdef inline bint backpressure_joins_wait(const Loop* loop) noexcept nogil:
    """Of what may make a room or a question: a join, and all that joins."""
    return backpressure_tasks_full(loop, loop.hub.loops[0])


cdef inline bint backpressure_input_waits(const Loop* loop) noexcept nogil:
    """Of what may cause any word: also receipts, which come back to the sender's loop."""
    return backpressure_joins_wait(loop) or backpressure_tasks_full(loop, loop)


cdef inline void backpressure_hold(Loop* loop, Conn* c) noexcept nogil:
    """Not read, from the message on that its caller leaves with it, until _loop_held finds room."""
    cdef uint32_t size
    cdef void* grown
    loop.pressure.holds = False
    if loop.pressure.held_used == loop.pressure.held_size:
        size = 2 * loop.pressure.held_size + HELD_AT_FIRST
        grown = realloc(loop.pressure.held, size * sizeof(uint64_t))
        if grown == NULL:
            conn_kill(loop, c)
            return
        loop.pressure.held = <uint64_t*>grown
        loop.pressure.held_size = size
    loop.pressure.held[loop.pressure.held_used] = <uint64_t>c.slot << 32 | c.tag
    loop.pressure.held_used += 1
    loop.pressure.waits += 1
    loop.n[C_INPUTS_HELD] += 1
    c.flags |= FLAG_PAUSED
    conn_watch(loop, c)


cdef inline Conn* backpressure_next(Loop* loop, uint32_t i) noexcept nogil:
    """The connection at a place of the list, to be read again; NULL where it is gone, or was read again meanwhile."""
    cdef Conn* c = slab_find(&loop.slab, <uint32_t>(loop.pressure.held[i] >> 32), <uint32_t>loop.pressure.held[i])
    if (c == NULL or (c.state != CONN_OPEN and c.state != CONN_HANDSHAKE)
            or c.flags & (FLAG_PAUSED | FLAG_BLOCKED | FLAG_READY) != FLAG_PAUSED):
        return NULL
    c.flags &= <uint16_t>~FLAG_PAUSED
    return c


cdef inline void backpressure_drop(Loop* loop, uint32_t count) noexcept nogil:
    """Takes the first off the list."""
    if count == 0:
        return
    loop.pressure.held_used -= count
    loop.pressure.waits -= count
    memmove(loop.pressure.held, loop.pressure.held + count, loop.pressure.held_used * sizeof(uint64_t))
    if loop.pressure.held_used == 0 and loop.pressure.held_size > LINE_KEPT:
        free(loop.pressure.held)
        loop.pressure.held = NULL
        loop.pressure.held_size = 0


cdef inline void backpressure_hold_verdict(Loop* loop, Packet* packet) noexcept nogil:
    """A KIND_VERDICT, taken over, whose connection would join rooms; auth-pending bounds how many there are."""
    packet.next = NULL
    loop.pressure.waits += 1
    if loop.pressure.verdicts == NULL:
        loop.pressure.verdicts = packet
    else:
        loop.pressure.verdicts_last.next = packet
    loop.pressure.verdicts_last = packet


cdef inline Packet* backpressure_next_verdict(Loop* loop) noexcept nogil:
    """The oldest one that was held; NULL without any."""
    cdef Packet* packet = loop.pressure.verdicts
    if packet != NULL:
        loop.pressure.verdicts = packet.next
        loop.pressure.waits -= 1
    return packet
