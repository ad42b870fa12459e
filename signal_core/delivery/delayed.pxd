"""Connections that wait until what they caused is done: whoever floods waits, and its neighbours do not.

One that has input left over when its turn ends, and in it has published to a room, joined or left one with watchers,
or posted to a crowded loop, is delayed: it is not read until every such delivery of this loop is written and no loop
that this one crowded is crowded any more. While that goes on, the one that waited longest has a turn every DELAY_MS.

While processors are scarce, delayed connections then rest 1.5 times as long as their turns took; one whose turn was
cut by its share is delayed whatever it caused. A loop that never sleeps gets its fair share of a processor and no
more, so the scheduler makes all its clients wait for other threads, for a tick of the kernel (4 ms) or several at a
time. A loop that sleeps is let in when it wakes. Processors are scarce once a loop has waited for one for more than a
part of the time, as the kernel counts it in /proc/thread-self/schedstat; where that is missing, nobody rests.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from signal_core.base.counters cimport C_TURNS_DELAYED
from signal_core.base.limits cimport (
    DELAY_MS, REST_HALVES, REST_LEAST_NS, REST_MOST_NS, SCARCE_HOLD_MS, SCARCE_LOOK_MS, SCARCE_PART, SCARCE_STALE_MS,
)
from signal_core.base.sys cimport SE_COLD, se_now_ns, se_waited
from signal_core.delivery.conn cimport conn_kill, conn_ready, conn_watch
from signal_core.tables.conn_table cimport CONN_DEAD, FLAG_DELAYED, FLAG_READY, NO_SLOT, Conn, slab_conn
from signal_core.tables.state cimport LANE_SPREAD, Loop, loop_ms
from signal_core.tables.turns cimport turns_crowds_remain, turns_line_add, turns_line_drop, turns_line_room


cdef inline void _scarce_look(Loop* loop, uint32_t now) noexcept nogil:
    """Looks how long the loop waited for a processor since the last look; nothing is learned if that is long ago."""
    cdef uint64_t waited = loop.cpu.scarce_waited, turns
    cdef uint32_t passed = now - loop.cpu.scarce_looked
    loop.cpu.scarce_looked = now
    if not se_waited(loop.cpu.schedstat, &loop.cpu.scarce_waited, &turns) or passed > SCARCE_STALE_MS:
        return
    if (loop.cpu.scarce_waited - waited) * SCARCE_PART > <uint64_t>passed * 1000000:
        loop.cpu.scarce_by = (now + SCARCE_HOLD_MS) | 1


cdef inline bint delayed_is_scarce(Loop* loop) noexcept nogil:
    """Whether the loop had to wait for a processor lately. Called only when a turn is cut or a client is delayed."""
    cdef uint32_t now = loop_ms(loop)
    if now - loop.cpu.scarce_looked >= SCARCE_LOOK_MS:
        _scarce_look(loop, now)
    if loop.cpu.scarce_by - now > SCARCE_HOLD_MS + 1:  # it is over, however long ago
        loop.cpu.scarce_by = 0
    return loop.cpu.scarce_by != 0


cdef inline bint _rest_is_over(Loop* loop) noexcept nogil:
    """Of those that are delayed, once nothing is left of what they caused."""
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
    """Its input is left alone, also by epoll, which would report it again and again."""
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
    """Whether nothing is left of what they caused; while processors are scarce, also whether each had its turn."""
    return (loop.turn.dirty_head[LANE_SPREAD] == NO_SLOT and not turns_crowds_remain(loop)
            and (loop.turn.ready.used == 0 or not delayed_is_scarce(loop)))


cdef inline void delayed_release(Loop* loop) noexcept nogil:
    """In each iteration: those that are delayed have their turns where nothing is left of what they caused; else the
    first of them has, each DELAY_MS."""
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
        conn_ready(loop, c)
        if c.state != CONN_DEAD:
            conn_watch(loop, c)
    loop.turn.delayed_ms = loop_ms(loop)
    loop.pressure.waits -= n
    turns_line_drop(&loop.turn.delayed, n)
