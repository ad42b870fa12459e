"""Back-pressure between threads: whose words wait for a loop, and the connections that are held meanwhile. L3.

A word is any message between threads but payload (post.pxd). Where WORDS_WAITING wait for a loop, a message that would
cause another one stays with its connection, which is not read until there is room: its loop looks each HELD_WAIT_MS.
No loop waits for another: what a loop has taken in it handles, and what it owes (a receipt, a leave) it posts.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove
from signal_core.conn cimport conn_kill, conn_watch
from signal_core.counters cimport C_INPUTS_HELD
from signal_core.inbox cimport Chain
from signal_core.limits cimport LINE_KEPT, WORDS_WAITING
from signal_core.memory cimport Msg
from signal_core.slab cimport CONN_HANDSHAKE, CONN_OPEN, FLAG_BLOCKED, FLAG_PAUSED, FLAG_READY, Conn, slab_find
from signal_core.state cimport Loop
from signal_core.sys cimport se_load_relaxed

cdef enum:
    HELD_AT_FIRST = 64        # places for connections that are held


cdef inline bint words_full(const Loop* loop, const Loop* target) noexcept nogil:
    """Whether what would cause another word to a loop is to wait. Of what all loops hold back in one iteration each has
    its share."""
    cdef const Chain* held = &loop.outbox[target.index]
    return (se_load_relaxed(<uint64_t*>&target.inbox.words) + held.words >= WORDS_WAITING
            or held.words * loop.hub.nloops >= WORDS_WAITING)


cdef inline bint joins_wait(const Loop* loop) noexcept nogil:
    """Of what may make a room or a question: a join, and all that joins."""
    return words_full(loop, loop.hub.loops[0])


cdef inline bint input_waits(const Loop* loop) noexcept nogil:
    """Of what may cause any word: also receipts, which come back to the sender's loop."""
    return joins_wait(loop) or words_full(loop, loop)


cdef inline void conn_hold(Loop* loop, Conn* c) noexcept nogil:
    """Not read, from the message on that its caller leaves with it, until loop_held finds room."""
    cdef uint32_t size
    cdef void* grown
    loop.holds = False
    if loop.held_used == loop.held_size:
        size = 2 * loop.held_size + HELD_AT_FIRST
        grown = realloc(loop.held, size * sizeof(uint64_t))
        if grown == NULL:
            conn_kill(loop, c)
            return
        loop.held = <uint64_t*>grown
        loop.held_size = size
    loop.held[loop.held_used] = <uint64_t>c.slot << 32 | c.tag
    loop.held_used += 1
    loop.waits += 1
    loop.n[C_INPUTS_HELD] += 1
    c.flags |= FLAG_PAUSED
    conn_watch(loop, c)


cdef inline Conn* held_next(Loop* loop, uint32_t i) noexcept nogil:
    """The connection at a place of the list, to be read again; NULL where it is gone, or was read again meanwhile."""
    cdef Conn* c = slab_find(&loop.slab, <uint32_t>(loop.held[i] >> 32), <uint32_t>loop.held[i])
    if (c == NULL or (c.state != CONN_OPEN and c.state != CONN_HANDSHAKE)
            or c.flags & (FLAG_PAUSED | FLAG_BLOCKED | FLAG_READY) != FLAG_PAUSED):
        return NULL
    c.flags &= <uint16_t>~FLAG_PAUSED
    return c


cdef inline void held_drop(Loop* loop, uint32_t count) noexcept nogil:
    """Takes the first off the list."""
    if count == 0:
        return
    loop.held_used -= count
    loop.waits -= count
    memmove(loop.held, loop.held + count, loop.held_used * sizeof(uint64_t))
    if loop.held_used == 0 and loop.held_size > LINE_KEPT:
        free(loop.held)
        loop.held = NULL
        loop.held_size = 0


cdef inline void verdict_hold(Loop* loop, Msg* msg) noexcept nogil:
    """A KIND_VERDICT, taken over, whose connection would join rooms; auth-pending bounds how many there are."""
    msg.next = NULL
    loop.waits += 1
    if loop.verdicts == NULL:
        loop.verdicts = msg
    else:
        loop.verdicts_last.next = msg
    loop.verdicts_last = msg


cdef inline Msg* verdict_next(Loop* loop) noexcept nogil:
    """The oldest one that was held; NULL without any."""
    cdef Msg* msg = loop.verdicts
    if msg != NULL:
        loop.verdicts = msg.next
        loop.waits -= 1
    return msg
