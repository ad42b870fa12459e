"""Returns memory that clients no longer use to the system. Each loop returns its own, on its thread.

malloc keeps freed memory in the arena of the loop's thread. Once a tick a loop compares the memory in use for its
clients, as the gauges count it, with its peak. If it is TRIM_BYTES below that, the loop waits until it is quiet, and
shrinks its own pools of packets. Then it allocates the difference again, in pieces over many ticks, tells the kernel
that their pages are free, and frees them.

malloc_trim would do that in one go, with the arena locked (up to half a second for 500 MB), and would skip the end of
an arena. It is called only afterwards, for free pages between blocks in use: if TRIM_ALL_BYTES were freed, the loop
posts EVENT_FREED, and the control thread starts a thread for it (signal_py/base/memory_return.py).
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from signal_core.base.counters cimport C_BACKLOG_BYTES, C_CONNECTIONS, C_INPUT_BYTES, C_MEMBERSHIPS, C_MEMORY_TRIMS
from signal_core.base.limits cimport (
    TRIM_ALL_BYTES, TRIM_BLOCKS, TRIM_BYTES, TRIM_CONNECTION, TRIM_EVERY_TICKS, TRIM_LATEST_TICKS,
    TRIM_LOOK_TICKS, TRIM_MEMBERSHIP, TRIM_PIECE, TRIM_PIECES, TRIM_QUIET, TRIM_SHARE,
)
from signal_core.base.memory cimport memory_shrink
from signal_core.base.span cimport span_none
from signal_core.base.sys cimport SE_RARE, se_pages_free
from signal_core.delivery.outbox cimport outbox_event
from signal_core.tables.codes cimport EVENT_FREED
from signal_core.tables.state cimport Loop


cdef inline uint64_t _memory_in_use(const Loop* loop) noexcept nogil:
    """Estimates how many bytes of the heap are in use for the loop's clients."""
    return (loop.n[C_BACKLOG_BYTES] + loop.n[C_INPUT_BYTES] + loop.n[C_CONNECTIONS] * TRIM_CONNECTION
            + loop.n[C_MEMBERSHIPS] * TRIM_MEMBERSHIP)


cdef inline bint _trim_is_due(const Loop* loop) noexcept nogil:
    """Whether memory is being returned, or will be when the loop is quiet."""
    return loop.trim.on or (loop.set.memory_trim and _memory_in_use(loop) + TRIM_BYTES <= loop.trim.kept)


cdef inline bint _trim_take(Loop* loop) noexcept nogil:
    """Allocates a tick's share of pieces from the free memory of this thread's arena, and tells the kernel that their
    pages are free. False: more are due."""
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
    """Frees at most `most` of the allocated pieces. False: there are more."""
    cdef void** piece
    while loop.trim.pieces != NULL and most:
        piece = <void**>loop.trim.pieces
        loop.trim.pieces = piece[0]
        free(piece)
        most -= 1
    return loop.trim.pieces == NULL


cdef inline bint _trim_waits(Loop* loop) noexcept nogil:
    """Whether it is too early to return memory: the loop is busy and TRIM_LATEST_TICKS have not passed, or memory was
    returned less than TRIM_EVERY_TICKS ago."""
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


cdef inline void _trim_begin(Loop* loop, uint64_t used) noexcept nogil:
    """Begins to return memory if enough of it is free and it is time. `used` is _memory_in_use."""
    if used + TRIM_BYTES > loop.trim.kept:
        loop.trim.fell = 0
        return
    if loop.mem.old == NULL and _trim_waits(loop):
        return
    if not memory_shrink(&loop.mem, TRIM_BLOCKS):
        return
    loop.trim.pieces_due = (loop.trim.kept - used) // TRIM_PIECE
    loop.trim.on = True
    loop.trim.all = loop.trim.kept - used >= TRIM_ALL_BYTES
    loop.trim.fell = 0
    loop.trim.next = loop.tick + TRIM_EVERY_TICKS


cdef inline void _trim_continue(Loop* loop) noexcept nogil:
    """Does one tick's part of returning memory. At the end, notifies the control thread if it was much."""
    cdef uint64_t used = _memory_in_use(loop)
    if not _trim_take(loop) or not memory_return_free(loop, TRIM_PIECES * 1000):
        return
    loop.trim.kept = TRIM_BYTES if used < TRIM_BYTES else used
    loop.trim.on = False
    loop.n[C_MEMORY_TRIMS] += 1
    if loop.trim.all:
        outbox_event(loop, EVENT_FREED, 0, span_none())


cdef inline void memory_return_look(Loop* loop) noexcept nogil:
    """Runs once a tick: updates the peak, and begins or continues to return memory."""
    cdef uint64_t used = _memory_in_use(loop)
    if used > loop.trim.kept:
        loop.trim.kept = used
    if SE_RARE(loop.trim.on):
        _trim_continue(loop)
    elif SE_RARE(loop.trim.kept > TRIM_BYTES) and loop.set.memory_trim:
        _trim_begin(loop, used)


cdef inline uint32_t memory_return_patience(const Loop* loop, uint32_t ticks) noexcept nogil:
    """Returns how many ticks the loop may sleep, at most `ticks`: 1 while memory is to be returned. Called before each
    sleep, so that a loop with nothing to return is not woken for it."""
    if SE_RARE(loop.trim.kept > TRIM_BYTES) and ticks > 1 and _trim_is_due(loop):
        return 1
    return ticks
