"""Delays connections until the work that they caused is done, so that a flood slows its sender and not its neighbours.

A connection is delayed if it has input left over when its turn ends, and in that turn published to a room, joined or
left a room with watchers, or posted to a crowded loop. It is not read until this loop has written all such deliveries
and no loop that this one crowded is crowded. Meanwhile the one delayed longest gets a turn every DELAY_MS.

While processors are scarce, delayed connections then rest 1.5 times as long as their turns took, and one whose turn was
cut by its share is delayed whatever it caused. The reason: the scheduler makes a loop that never sleeps wait for other
threads, 4 ms or more each time, and all its clients with it; it runs a loop that sleeps as soon as it wakes. Processors
are scarce once a loop has waited for one for more than 1/SCARCE_PART of the time (/proc/thread-self/schedstat). Where
the kernel does not count that, no connection rests.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from signal_core.base.counters cimport C_TURNS_DELAYED
from signal_core.base.limits cimport (
    DELAY_MS, REST_HALVES, REST_LEAST_NS, REST_MOST_NS, SCARCE_HOLD_MS, SCARCE_LOOK_MS, SCARCE_PART, SCARCE_STALE_MS,
)
from signal_core.base.sys cimport SE_COLD, se_now_ns, se_waited
from signal_core.delivery.conn cimport conn_bury, conn_kill, conn_ready, conn_watch
from signal_core.tables.conn_table cimport CONN_DEAD, FLAG_DELAYED, FLAG_READY, NO_SLOT, Conn, slab_conn
from signal_core.tables.state cimport LANE_SPREAD, Loop, loop_ms
from signal_core.tables.turns cimport turns_crowds_remain, turns_line_add, turns_line_drop, turns_line_room


cdef inline void _scarce_look(Loop* loop, uint32_t now) noexcept nogil:
    """Measures how long the loop waited for a processor since the last measurement, unless that is too long ago."""
    cdef uint64_t waited = loop.cpu.scarce_waited, turns
    cdef uint32_t passed = now - loop.cpu.scarce_looked
    loop.cpu.scarce_looked = now
    if not se_waited(loop.cpu.schedstat, &loop.cpu.scarce_waited, &turns) or passed > SCARCE_STALE_MS:
        return
    if (loop.cpu.scarce_waited - waited) * SCARCE_PART > <uint64_t>passed * 1000000:
        loop.cpu.scarce_by = (now + SCARCE_HOLD_MS) | 1


cdef inline bint delayed_is_scarce(Loop* loop) noexcept nogil:
    """Whether processors are scarce. Called only when a turn is cut or a connection is delayed."""
    cdef uint32_t now = loop_ms(loop)
    if now - loop.cpu.scarce_looked >= SCARCE_LOOK_MS:
        _scarce_look(loop, now)
    if loop.cpu.scarce_by - now > SCARCE_HOLD_MS + 1:  # the time has passed, however long ago
        loop.cpu.scarce_by = 0
    return loop.cpu.scarce_by != 0


cdef inline bint _rest_is_over(Loop* loop) noexcept nogil:
    """Whether the delayed connections have rested enough; the first call, once their work is done, begins the rest."""
    cdef uint64_t now, took
    if not delayed_is_scarce(loop):
        return True
    now = se_now_ns()
    if loop.turn.rest_end == 0:
        took = (now - loop.turn.turns_began) * REST_HALVES >> 1
        took = REST_LEAST_NS if took < REST_LEAST_NS else REST_MOST_NS if took > REST_MOST_NS else took
        loop.turn.rest_end = now + took
    return now >= loop.turn.rest_end


cdef inline SE_COLD delayed_add(Loop* loop, Conn* c) noexcept nogil:
    """Delays a connection. epoll does not report its input meanwhile."""
    if loop.turn.delayed.used == 0:
        loop.turn.delayed_ms = loop_ms(loop)
        loop.turn.turns_began = se_now_ns()
        loop.turn.rest_end = 0
    if not turns_line_add(&loop.turn.delayed, c):
        conn_kill(loop, c)
        return
    loop.pressure.waits += 1
    loop.n[C_TURNS_DELAYED] += 1
    c.flags |= FLAG_DELAYED
    conn_watch(loop, c)


cdef inline bint _delayed_are_done(Loop* loop) noexcept nogil:
    """Whether the work of the delayed connections is done; while processors are scarce, `ready` must be empty, too."""
    return (loop.turn.dirty_head[LANE_SPREAD] == NO_SLOT and not turns_crowds_remain(loop)
            and (loop.turn.ready.used == 0 or not delayed_is_scarce(loop)))


cdef inline void delayed_release(Loop* loop) noexcept nogil:
    """Called in each iteration. Makes all delayed connections ready if their work is done and they have rested; before
    that, the oldest one each DELAY_MS."""
    cdef uint32_t i, n = 0
    cdef Conn* c
    if loop.turn.delayed.used == 0:
        return
    if _delayed_are_done(loop):
        n = loop.turn.delayed.used if _rest_is_over(loop) else 0
    elif loop_ms(loop) - loop.turn.delayed_ms >= DELAY_MS:
        n = 1
    if n == 0 or not turns_line_room(&loop.turn.ready, n):
        return
    for i in range(n):
        c = slab_conn(&loop.slab, loop.turn.delayed.slots[i])
        c.flags &= <uint16_t>~(FLAG_READY | FLAG_DELAYED)
        if c.state == CONN_DEAD:
            conn_bury(loop, c)
            continue
        conn_ready(loop, c)
        if c.state != CONN_DEAD:
            conn_watch(loop, c)
    loop.turn.delayed_ms = loop_ms(loop)
    loop.pressure.waits -= n
    turns_line_drop(&loop.turn.delayed, n)
