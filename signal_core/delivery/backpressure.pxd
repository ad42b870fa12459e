"""Back-pressure between threads: when a message must wait because another loop has too many tasks.

A task is any packet between threads that is not payload (outbox.pxd). Once TASKS_WAITING of them wait for a loop, a
client message that would cause another one is held: its connection is not read until there is room, which its loop
checks every HELD_WAIT_MS. No loop waits for another one: it handles what it has taken, and posts what it owes, such as
receipts and leaves. Everything here runs on the loop's own thread.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memmove
from signal_core.base.array cimport array_reserve
from signal_core.base.counters cimport C_INPUTS_HELD
from signal_core.base.limits cimport LINE_KEPT, TASKS_WAITING
from signal_core.base.memory cimport Packet
from signal_core.base.sys cimport se_load_relaxed
from signal_core.delivery.conn cimport conn_id, conn_kill, conn_watch
from signal_core.tables.conn_table cimport (
    CONN_HANDSHAKE, CONN_OPEN, FLAG_BLOCKED, FLAG_PAUSED, FLAG_READY, Conn, slab_find_id,
)
from signal_core.tables.mailbox cimport Chain
from signal_core.tables.state cimport Loop

cdef enum:
    HELD_AT_FIRST = 64        # initial capacity of the list of held connections


cdef inline bint backpressure_tasks_full(const Loop* loop, const Loop* target) noexcept nogil:
    """Whether a message that would cause a task for `target` has to wait. What the loops collect within an iteration is
    not visible to each other, so each may collect its share of the limit only."""
    cdef const Chain* held = &loop.post.chains[target.index]
    return (se_load_relaxed(<uint64_t*>&target.mailbox.tasks) + held.tasks >= TASKS_WAITING
            or held.tasks * loop.hub.nloops >= TASKS_WAITING)


cdef inline bint backpressure_joins_wait(const Loop* loop) noexcept nogil:
    """Whether whatever may join a room, and so cause a KIND_SYNC or KIND_ASK for the link, has to wait."""
    return backpressure_tasks_full(loop, loop.hub.loops[0])


cdef inline bint backpressure_input_waits(const Loop* loop) noexcept nogil:
    """Whether input that may cause any task has to wait. A receipt is one: it comes back to the sender's loop."""
    return backpressure_joins_wait(loop) or backpressure_tasks_full(loop, loop)


cdef inline void backpressure_hold(Loop* loop, Conn* c) noexcept nogil:
    """Stops reading a connection until _loop_held finds room. The message at hand stays in its buffer."""
    loop.pressure.holds = False
    if not array_reserve(&loop.pressure.held, &loop.pressure.held_size, loop.pressure.held_used + 1,
                         sizeof(uint64_t), HELD_AT_FIRST):
        conn_kill(loop, c)
        return
    loop.pressure.held[loop.pressure.held_used] = conn_id(loop, c)
    loop.pressure.held_used += 1
    loop.pressure.waits += 1
    loop.n[C_INPUTS_HELD] += 1
    c.flags |= FLAG_PAUSED
    conn_watch(loop, c)


cdef inline Conn* backpressure_next(Loop* loop, uint32_t i) noexcept nogil:
    """Unpauses and returns held connection `i`. NULL if it is gone, was unpaused meanwhile, or is blocked."""
    cdef Conn* c = slab_find_id(&loop.slab, loop.pressure.held[i])
    if (c == NULL or (c.state != CONN_OPEN and c.state != CONN_HANDSHAKE)
            or c.flags & (FLAG_PAUSED | FLAG_BLOCKED | FLAG_READY) != FLAG_PAUSED):
        return NULL
    c.flags &= <uint16_t>~FLAG_PAUSED
    return c


cdef inline void backpressure_drop(Loop* loop, uint32_t count) noexcept nogil:
    """Removes the first `count` connections from the list."""
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
    """Holds a KIND_VERDICT whose connection would join rooms, and takes ownership. auth-pending bounds their number."""
    packet.next = NULL
    loop.pressure.waits += 1
    if loop.pressure.verdicts == NULL:
        loop.pressure.verdicts = packet
    else:
        loop.pressure.verdicts_last.next = packet
    loop.pressure.verdicts_last = packet


cdef inline Packet* backpressure_next_verdict(Loop* loop) noexcept nogil:
    """Takes the verdict that was held longest; NULL if there is none."""
    cdef Packet* packet = loop.pressure.verdicts
    if packet != NULL:
        loop.pressure.verdicts = packet.next
        loop.pressure.waits -= 1
    return packet
