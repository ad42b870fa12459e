"""GAP to those for whom this loop's inbox had no place. L3."""

from libc.stdint cimport uint32_t, uint64_t
from signal_core.conn cimport conn_missed, conn_of
from signal_core.counters cimport C_GAPS_UNTOLD
from signal_core.inbox cimport inbox_wake
from signal_core.missed cimport Missing, missed_add, missed_take
from signal_core.rooms cimport MARK_NONE, NO_ROOM, Member, members_of, rooms_find_serial
from signal_core.slab cimport CONN_OPEN, Conn, slab_conn
from signal_core.state cimport Loop


cdef inline uint64_t listeners_key(uint64_t serial) noexcept nogil:
    """For gap_note: of a room's members only those are meant who hear who comes and goes."""
    return serial | <uint64_t>1 << 63


cdef inline void gap_note(Loop* loop, Loop* target, uint64_t key, uint64_t hash, uint64_t count) noexcept nogil:
    """Messages for a room (by serial and hash) or a peer (by id, hash 0) of another loop did not fit its inbox."""
    if missed_add(&target.missed, key, hash, count):
        inbox_wake(&target.inbox)
    else:
        loop.n[C_GAPS_UNTOLD] += count


cdef inline void gap_tell(Loop* loop, Conn* c, uint64_t count) noexcept nogil:
    """With this iteration's writes, or as soon as its socket takes something."""
    if c != NULL and c.state == CONN_OPEN:
        conn_missed(loop, c, count)


cdef inline void gap_tell_room(Loop* loop, const Missing* missing) noexcept nogil:
    """To all members on this loop, or those who listen."""
    cdef uint64_t serial = missing.key & ~listeners_key(0)
    cdef uint32_t i, room = rooms_find_serial(&loop.rooms, missing.hash, serial)
    cdef const Member* members
    if room == NO_ROOM:
        return
    members = members_of(&loop.rooms, room)
    for i in range(loop.rooms.rooms[room].count):
        if serial == missing.key or members[i].mark != MARK_NONE:
            gap_tell(loop, slab_conn(&loop.slab, members[i].slot), missing.count)


cdef inline void gaps_tell(Loop* loop) noexcept nogil:
    """Once a tick, where there are any: to the peers, and to the members of the rooms on this loop."""
    cdef Missing taken[768]
    cdef uint32_t i, n = missed_take(&loop.missed, taken)
    for i in range(n):
        if taken[i].hash == 0:
            gap_tell(loop, conn_of(loop, taken[i].key), taken[i].count)
        else:
            gap_tell_room(loop, &taken[i])
