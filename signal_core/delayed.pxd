"""Connections that wait until what they caused is done: whoever floods waits, and its neighbours do not. L2.

One that has input left over when its turn ends, and in it has published to a room, joined or left one with listeners,
or posted to a crowded loop, is delayed: it is not read until every such delivery of this loop is written and no loop
that this one crowded is crowded any more. While that goes on, the one that waited longest has a turn every DELAY_MS.
"""

from libc.stdint cimport uint16_t, uint32_t
from signal_core.conn cimport conn_kill, conn_ready, conn_watch
from signal_core.counters cimport C_TURNS_DELAYED
from signal_core.limits cimport DELAY_MS
from signal_core.slab cimport CONN_DEAD, FLAG_DELAYED, FLAG_READY, NO_SLOT, Conn, slab_conn
from signal_core.state cimport Loop, loop_ms
from signal_core.turn cimport LANE_SPREAD, crowds_remain, line_add, line_drop, line_room


cdef inline void conn_delay(Loop* loop, Conn* c) noexcept nogil:
    """Its input is left alone, also by epoll, which would report it again and again."""
    if loop.delayed.used == 0:
        loop.delayed_ms = loop_ms(loop)
    if not line_add(&loop.delayed, c):
        conn_kill(loop, c)
        return
    loop.waits += 1
    loop.n[C_TURNS_DELAYED] += 1
    c.flags |= FLAG_DELAYED
    conn_watch(loop, c)


cdef inline void delayed_release(Loop* loop) noexcept nogil:
    """In each iteration: those that are delayed have their turns where nothing is left of what they caused; else the
    first of them has, each DELAY_MS."""
    cdef uint32_t i, n = 0
    cdef Conn* c
    if loop.delayed.used == 0:
        return
    if loop.dirty_head[LANE_SPREAD] == NO_SLOT and not crowds_remain(loop):
        n = loop.delayed.used
    elif loop_ms(loop) - loop.delayed_ms >= DELAY_MS:
        n = 1
    if n == 0 or not line_room(&loop.ready, n):
        return
    for i in range(n):
        c = slab_conn(&loop.slab, loop.delayed.slots[i])
        c.flags &= <uint16_t>~(FLAG_READY | FLAG_DELAYED)
        conn_ready(loop, c)
        if c.state != CONN_DEAD:
            conn_watch(loop, c)
    loop.delayed_ms = loop_ms(loop)
    loop.waits -= n
    line_drop(&loop.delayed, n)
