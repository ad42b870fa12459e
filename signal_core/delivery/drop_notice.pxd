"""Drop notices (GAP) for messages that did not fit a loop's mailbox (tables/drop_table.pxd)."""

from libc.stdint cimport uint32_t, uint64_t
from signal_core.base.counters cimport C_GAPS_UNTOLD
from signal_core.base.limits cimport GAPS_PER_TURN
from signal_core.delivery.conn cimport conn_missed, conn_of
from signal_core.tables.conn_table cimport CONN_OPEN, Conn, slab_conn
from signal_core.tables.drop_table cimport Missing, missed_add, missed_take
from signal_core.tables.loop_rooms cimport NO_ROOM, WATCH_NONE, Member, rooms_find_serial, rooms_members_of
from signal_core.tables.mailbox cimport mailbox_wake
from signal_core.tables.state cimport Loop
from signal_core.tables.turns cimport turns_spread_work

cdef enum:
    NOT_BEGUN = 0xffffffff    # DropNotices.left: all members


cdef inline uint64_t drop_notice_watchers_key(uint64_t serial) noexcept nogil:
    """Returns the key for drop_notice_note that stands for the watchers of a room only."""
    return serial | <uint64_t>1 << 63


cdef inline void drop_notice_note(Loop* loop, Loop* target, uint64_t key, uint64_t hash, uint64_t count) noexcept nogil:
    """Notes that `count` messages did not fit the mailbox of `target`: for the room with serial `key` and `hash`, or,
    if `hash` is 0, for the peer with id `key`."""
    if missed_add(&target.missed, key, hash, count):
        mailbox_wake(&target.mailbox)
    else:
        loop.n[C_GAPS_UNTOLD] += count


cdef inline void _tell_one(Loop* loop, Conn* c, uint64_t count) noexcept nogil:
    """Makes a GAP due with the connection's next write."""
    if c != NULL and c.state == CONN_OPEN:
        conn_missed(loop, c, count)


cdef inline uint32_t _tell_room(Loop* loop, const Missing* missing, uint32_t left, uint32_t* budget) noexcept nogil:
    """Tells a room's first `left` members on this loop, or the watchers among them, from the last on, while the budget
    lasts. Returns how many are left. A leave moves the last member into the free index, so no member is left out."""
    cdef uint64_t serial = missing.key & ~drop_notice_watchers_key(0)
    cdef uint32_t room = rooms_find_serial(&loop.rooms, missing.hash, serial)
    cdef const Member* members
    if room == NO_ROOM:
        return 0
    members = rooms_members_of(&loop.rooms, room)
    if left > loop.rooms.rooms[room].count:
        left = loop.rooms.rooms[room].count
    while left and budget[0]:
        left -= 1
        budget[0] -= 1
        if serial == missing.key or members[left].watch != WATCH_NONE:
            _tell_one(loop, slab_conn(&loop.slab, members[left].slot), missing.count)
    return left


cdef inline void drop_notice_tell(Loop* loop) noexcept nogil:
    """Tells this loop's clients of their missed messages, GAPS_PER_TURN in an iteration. What is missed meanwhile is
    taken from the table when all have been told."""
    cdef uint32_t budget = GAPS_PER_TURN
    cdef const Missing* missing
    if loop.notices.used == 0:
        loop.notices.used = missed_take(&loop.missed, loop.notices.taken)
        loop.notices.left = NOT_BEGUN
    while loop.notices.used and budget:
        missing = &loop.notices.taken[loop.notices.used - 1]
        budget -= 1
        if missing.hash == 0:
            _tell_one(loop, conn_of(loop, missing.key), missing.count)
            loop.notices.left = 0
        else:
            loop.notices.left = _tell_room(loop, missing, loop.notices.left, &budget)
        if loop.notices.left == 0:
            loop.notices.used -= 1
            loop.notices.left = NOT_BEGUN
    turns_spread_work(loop, GAPS_PER_TURN - budget)
