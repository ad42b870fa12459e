"""Memory that clients have left, on its way back to the system.

malloc keeps what is freed, in the arena of the loop's thread. Once a tick a loop compares what its clients have, as the
gauges count it, with the most that they had. Where that is TRIM_BYTES less, it waits until it is quiet, and frees what
it keeps for messages itself. Then it takes as much as they had from malloc, in pieces, a few each tick, tells the
kernel that their pages are free, and frees them again. malloc_trim would do that in one go, with the arena locked (up
to half a second for 500 MB), and passes over the end of an arena. It is called afterwards, when little is left for it:
free pages between blocks that are in use. For that the loop posts EVENT_FREED where TRIM_ALL_BYTES were left: the
control thread has a thread of its own do it (signal_py/base/memory_return.py).
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from signal_core.base.counters cimport C_BACKLOG_BYTES, C_CONNECTIONS, C_INPUT_BYTES, C_MEMBERSHIPS, C_MEMORY_TRIMS
from signal_core.base.limits cimport (
    CONTROL_LOOP, TRIM_ALL_BYTES, TRIM_BLOCKS, TRIM_BYTES, TRIM_CONNECTION, TRIM_EVERY_TICKS, TRIM_LATEST_TICKS,
    TRIM_LOOK_TICKS, TRIM_MEMBERSHIP, TRIM_PIECE, TRIM_PIECES, TRIM_QUIET, TRIM_SHARE,
)
from signal_core.base.memory cimport memory_shrink
from signal_core.base.sys cimport SE_RARE, se_pages_free
from signal_core.delivery.outbox cimport outbox_event
from signal_core.tables.codes cimport EVENT_FREED
from signal_core.tables.state cimport Loop


cdef inline uint64_t _leftover_had(const Loop* loop) noexcept nogil:
    """Bytes of the heap that the loop's clients have now, about."""
    return (loop.n[C_BACKLOG_BYTES] + loop.n[C_INPUT_BYTES] + loop.n[C_CONNECTIONS] * TRIM_CONNECTION
            + loop.n[C_MEMBERSHIPS] * TRIM_MEMBERSHIP)


cdef inline bint _leftover_is_due(const Loop* loop) noexcept nogil:
    """Whether memory is being given back, or is to be when it is quiet."""
    return loop.trim.on or (loop.hub.set.memory_trim and _leftover_had(loop) + TRIM_BYTES <= loop.trim.kept)


cdef inline bint _leftover_take(Loop* loop) noexcept nogil:
    """Takes some free memory of this thread's arena, and tells the kernel that it may have it. False: there is more."""
    cdef uint64_t share = TRIM_PIECES + loop.trim.pieces_due // TRIM_SHARE
    cdef void** piece
    while loop.trim.pieces_due and share:
        piece = <void**>malloc(TRIM_PIECE)
        if piece == NULL:
            loop.trim.pieces_due = 0
            break
        se_pages_free(piece, TRIM_PIECE)
        piece[0] = loop.trim.pieces
        loop.trim.pieces = piece
        loop.trim.pieces_due -= 1
        share -= 1
    return loop.trim.pieces_due == 0


cdef inline bint memory_return_free(Loop* loop, uint64_t most) noexcept nogil:
    """Hands so many of those pieces back to malloc. False: there are more."""
    cdef void** piece
    while loop.trim.pieces != NULL and most:
        piece = <void**>loop.trim.pieces
        loop.trim.pieces = piece[0]
        free(piece)
        most -= 1
    return loop.trim.pieces == NULL


cdef inline bint _leftover_waits(Loop* loop) noexcept nogil:
    """Whether it is too early: the loop is busy, and not for TRIM_LATEST_TICKS yet, or it was done just now."""
    cdef uint64_t done = loop.turn.work - loop.trim.quiet_work
    if loop.trim.fell == 0:
        loop.trim.fell = loop.trim.looked_quiet = loop.tick
        loop.trim.quiet_work = loop.turn.work
        return True
    if loop.tick - loop.trim.looked_quiet < TRIM_LOOK_TICKS:
        return True
    loop.trim.looked_quiet = loop.tick
    loop.trim.quiet_work = loop.turn.work
    return loop.tick < loop.trim.next or (done > TRIM_QUIET and loop.tick - loop.trim.fell < TRIM_LATEST_TICKS)


cdef inline void _leftover_give(Loop* loop, uint64_t had) noexcept nogil:
    """Where much was left, and it is time, begins to give it back."""
    if had + TRIM_BYTES > loop.trim.kept:
        loop.trim.fell = 0
        return
    if loop.mem.old == NULL and _leftover_waits(loop):
        return
    if not memory_shrink(&loop.mem, TRIM_BLOCKS):
        return
    loop.trim.pieces_due = (loop.trim.kept - had) // TRIM_PIECE
    loop.trim.on = True
    loop.trim.all = loop.trim.kept - had >= TRIM_ALL_BYTES
    loop.trim.fell = 0
    loop.trim.next = loop.tick + TRIM_EVERY_TICKS


cdef inline void _leftover_go_on(Loop* loop) noexcept nogil:
    """A tick's part of what is being given back; at its end the control thread is told, where it was much."""
    cdef uint64_t had = _leftover_had(loop)
    if not _leftover_take(loop) or not memory_return_free(loop, TRIM_PIECES * 1000):
        return
    loop.trim.kept = TRIM_BYTES if had < TRIM_BYTES else had
    loop.trim.on = False
    loop.n[C_MEMORY_TRIMS] += 1
    if loop.trim.all:
        outbox_event(loop, CONTROL_LOOP, EVENT_FREED, 0, 0, NULL, 0)


cdef inline void memory_return_look(Loop* loop) noexcept nogil:
    """Once a tick."""
    cdef uint64_t had = _leftover_had(loop)
    if had > loop.trim.kept:
        loop.trim.kept = had
    if SE_RARE(loop.trim.on):
        _leftover_go_on(loop)
    elif SE_RARE(loop.trim.kept > TRIM_BYTES) and loop.hub.set.memory_trim:
        _leftover_give(loop, had)


cdef inline uint32_t memory_return_patience(const Loop* loop, uint32_t ticks) noexcept nogil:
    """Ticks to sleep at most, where it would be so many. Looked at anew before each sleep, so that a loop that has
    nothing to give back is not woken for it."""
    if SE_RARE(loop.trim.kept > TRIM_BYTES) and ticks > 1 and _leftover_is_due(loop):
        return 1
    return ticks
