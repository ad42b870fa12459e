"""Memory that clients have left, on its way back to the system. L3.

malloc keeps what is freed, in the arena of the loop's thread. Once a tick a loop compares what its clients have, as the
gauges count it, with the most that they had. Where that is TRIM_BYTES less, it waits until it is quiet, and frees what
it keeps for messages itself. Then it takes as much as they had from malloc, in pieces, a few each tick, tells the
kernel that their pages are free, and frees them again. malloc_trim would do that in one go, with the arena locked (up
to half a second for 500 MB), and passes over the end of an arena. It is called afterwards, when little is left for it:
free pages between blocks that are in use. For that the loop posts EVENT_FREED where TRIM_ALL_BYTES were left: the
deciding thread has a thread of its own do it (signal_py/trimming.py).
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from signal_core.counters cimport C_BACKLOG_BYTES, C_CONNECTIONS, C_INPUT_BYTES, C_MEMBERSHIPS, C_MEMORY_TRIMS
from signal_core.limits cimport (
    CONTROL_LOOP, TRIM_ALL_BYTES, TRIM_BLOCKS, TRIM_BYTES, TRIM_CONNECTION, TRIM_EVERY_TICKS, TRIM_LATEST_TICKS,
    TRIM_LOOK_TICKS, TRIM_MEMBERSHIP, TRIM_PIECE, TRIM_PIECES, TRIM_QUIET, TRIM_SHARE,
)
from signal_core.memory cimport memory_shrink
from signal_core.post cimport post_event
from signal_core.state cimport EVENT_FREED, Loop
from signal_core.sys cimport SE_RARE, se_pages_free


cdef inline uint64_t leftover_had(const Loop* loop) noexcept nogil:
    """Bytes of the heap that the loop's clients have now, about."""
    return (loop.n[C_BACKLOG_BYTES] + loop.n[C_INPUT_BYTES] + loop.n[C_CONNECTIONS] * TRIM_CONNECTION
            + loop.n[C_MEMBERSHIPS] * TRIM_MEMBERSHIP)


cdef inline bint leftover_is_due(const Loop* loop) noexcept nogil:
    """Whether memory is being given back, or is to be when it is quiet."""
    return loop.trimming or (loop.hub.set.memory_trim and leftover_had(loop) + TRIM_BYTES <= loop.kept)


cdef inline bint leftover_take(Loop* loop) noexcept nogil:
    """Takes some free memory of this thread's arena, and tells the kernel that it may have it. False: there is more."""
    cdef uint64_t share = TRIM_PIECES + loop.pieces_due // TRIM_SHARE
    cdef void** piece
    while loop.pieces_due and share:
        piece = <void**>malloc(TRIM_PIECE)
        if piece == NULL:
            loop.pieces_due = 0
            break
        se_pages_free(piece, TRIM_PIECE)
        piece[0] = loop.pieces
        loop.pieces = piece
        loop.pieces_due -= 1
        share -= 1
    return loop.pieces_due == 0


cdef inline bint leftover_free(Loop* loop, uint64_t most) noexcept nogil:
    """Hands so many of those pieces back to malloc. False: there are more."""
    cdef void** piece
    while loop.pieces != NULL and most:
        piece = <void**>loop.pieces
        loop.pieces = piece[0]
        free(piece)
        most -= 1
    return loop.pieces == NULL


cdef inline bint leftover_waits(Loop* loop) noexcept nogil:
    """Whether it is too early: the loop is busy, and not for TRIM_LATEST_TICKS yet, or it was done just now."""
    cdef uint64_t done = loop.work - loop.quiet_work
    if loop.fell == 0:
        loop.fell = loop.looked_quiet = loop.tick
        loop.quiet_work = loop.work
        return True
    if loop.tick - loop.looked_quiet < TRIM_LOOK_TICKS:
        return True
    loop.looked_quiet = loop.tick
    loop.quiet_work = loop.work
    return loop.tick < loop.trim_next or (done > TRIM_QUIET and loop.tick - loop.fell < TRIM_LATEST_TICKS)


cdef inline void leftover_give(Loop* loop, uint64_t had) noexcept nogil:
    """Where much was left, and it is time, begins to give it back."""
    if had + TRIM_BYTES > loop.kept:
        loop.fell = 0
        return
    if loop.mem.old == NULL and leftover_waits(loop):
        return
    if not memory_shrink(&loop.mem, TRIM_BLOCKS):
        return
    loop.pieces_due = (loop.kept - had) // TRIM_PIECE
    loop.trimming = True
    loop.trims_all = loop.kept - had >= TRIM_ALL_BYTES
    loop.fell = 0
    loop.trim_next = loop.tick + TRIM_EVERY_TICKS


cdef inline void leftover_go_on(Loop* loop) noexcept nogil:
    """A tick's part of what is being given back; at its end the deciding thread is told, where it was much."""
    cdef uint64_t had = leftover_had(loop)
    if not leftover_take(loop) or not leftover_free(loop, TRIM_PIECES * 1000):
        return
    loop.kept = TRIM_BYTES if had < TRIM_BYTES else had
    loop.trimming = False
    loop.n[C_MEMORY_TRIMS] += 1
    if loop.trims_all:
        post_event(loop, CONTROL_LOOP, EVENT_FREED, 0, 0, NULL, 0)


cdef inline void leftover_look(Loop* loop) noexcept nogil:
    """Once a tick."""
    cdef uint64_t had = leftover_had(loop)
    if had > loop.kept:
        loop.kept = had
    if SE_RARE(loop.trimming):
        leftover_go_on(loop)
    elif SE_RARE(loop.kept > TRIM_BYTES) and loop.hub.set.memory_trim:
        leftover_give(loop, had)


cdef inline uint32_t leftover_patience(const Loop* loop, uint32_t ticks) noexcept nogil:
    """Ticks to sleep at most, where it would be so many. Looked at anew before each sleep, so that a loop that has
    nothing to give back is not woken for it."""
    if SE_RARE(loop.kept > TRIM_BYTES) and ticks > 1 and leftover_is_due(loop):
        return 1
    return ticks
