"""Joining and leaving rooms, and watching their presence. A connection's own loop, or the local peer under the GIL."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from signal_core.base.counters cimport C_WATCHERS, C_MEMBERSHIPS, C_ROOMS, C_ROOMS_REFUSED
from signal_core.base.memory cimport Packet, packet_free
from signal_core.base.span cimport Span
from signal_core.delivery.outbox cimport outbox_sync, outbox_sync_new
from signal_core.presence.events cimport events_add
from signal_core.presence.roster cimport roster_ask
from signal_core.tables.codes cimport CODE_OK, CODE_TOO_MANY_ROOMS, CODE_UNAVAILABLE
from signal_core.tables.conn_acl cimport conn_acl_memberships
from signal_core.tables.conn_table cimport FLAG_LIMITED, FLAG_USER, Conn, Membership, slab_cold
from signal_core.tables.loop_rooms cimport (
    NO_ROOM, WATCH_CHANGES, WATCH_NONE, Member, room_join, room_leave, room_member, rooms_add, rooms_find,
    rooms_members_of, rooms_memberships_of, rooms_remove,
)
from signal_core.tables.room_table cimport (
    RoomEntry, room_table_enter, room_table_exit, room_table_hash, room_table_sync_failed, room_table_unwatch,
    room_table_watch,
)
from signal_core.tables.state cimport Loop, loop_bit


cdef inline void _sync_or_free(Loop* loop, RoomEntry* entry, Packet* sync_packet, bint sync) noexcept nogil:
    """Posts a packet of outbox_sync_new to the link if `sync`, else frees it."""
    if sync:
        outbox_sync(loop, entry, sync_packet)
    else:
        packet_free(&loop.mem, sync_packet)


cdef inline void _sync_if_possible(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Tells the link that a room has lost its last member or watcher. Without memory the next change tells it."""
    cdef Packet* sync_packet = outbox_sync_new(loop)
    if sync_packet == NULL:
        room_table_sync_failed(&loop.hub.rooms, entry)
    else:
        outbox_sync(loop, entry, sync_packet)


cdef inline RoomEntry* membership_enter(Loop* loop, Span name, uint64_t hash) noexcept nogil:
    """Notes that the loop, or the local peer, has a member in the room. NULL without memory.

    The packet for the link is allocated first: a loop that enters after this one relies on its being posted.
    """
    cdef bint sync = False
    cdef RoomEntry* entry
    cdef Packet* sync_packet = outbox_sync_new(loop)
    if sync_packet == NULL:
        return NULL
    entry = room_table_enter(&loop.hub.rooms, name, hash, loop_bit(loop), &sync)
    _sync_or_free(loop, entry, sync_packet, sync)
    return entry


cdef inline void membership_exit(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Notes that the loop has no member any more. Without memory to tell the link, the room stays subscribed until its
    next join or leave."""
    if room_table_exit(&loop.hub.rooms, entry, loop_bit(loop)):
        _sync_if_possible(loop, entry)


cdef inline uint8_t membership_join(Loop* loop, Conn* c, Span name, RoomEntry** entry) noexcept nogil:
    """Makes a connection a member, which every loop sees on return. A CODE_*; with CODE_OK `entry` is the room's."""
    cdef uint64_t hash = room_table_hash(&loop.hub.rooms, name)
    cdef uint32_t room = rooms_find(&loop.rooms, hash, name)
    if room != NO_ROOM and room_member(&loop.rooms, &loop.slab, c, room) != NULL:
        entry[0] = loop.rooms.rooms[room].entry
        return CODE_OK
    if c.nrooms >= (conn_acl_memberships(loop, c) if c.flags & (FLAG_LIMITED | FLAG_USER) else loop.set.max_rooms):
        loop.n[C_ROOMS_REFUSED] += 1
        return CODE_TOO_MANY_ROOMS
    if room == NO_ROOM:
        entry[0] = membership_enter(loop, name, hash)
        if entry[0] == NULL:
            return CODE_UNAVAILABLE
        room = rooms_add(&loop.rooms, entry[0])
        if room == NO_ROOM:
            membership_exit(loop, entry[0])
            return CODE_UNAVAILABLE
        loop.n[C_ROOMS] += 1
    entry[0] = loop.rooms.rooms[room].entry
    if not room_join(&loop.rooms, &loop.slab, c, room):
        _room_close(loop, room)
        return CODE_UNAVAILABLE
    loop.n[C_MEMBERSHIPS] += 1
    events_add(loop, entry[0], c, True)
    return CODE_OK


cdef inline bint membership_room_watch(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Counts one more watcher among the loop's members. False without memory."""
    cdef bint sync = False
    cdef Packet* sync_packet = outbox_sync_new(loop)
    cdef bint good
    if sync_packet == NULL:
        return False
    good = room_table_watch(&loop.hub.rooms, entry, loop.hub.nloops + 1, loop_bit(loop), &sync)
    _sync_or_free(loop, entry, sync_packet, sync)
    return good


cdef inline void membership_room_unwatch(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Counts one watcher less."""
    if room_table_unwatch(&loop.hub.rooms, entry, loop_bit(loop)):
        _sync_if_possible(loop, entry)


cdef inline uint8_t membership_watch(Loop* loop, Conn* c, Span name, uint32_t* room) noexcept nogil:
    """Makes a member a watcher of its room. A CODE_*; `room` is set to the room's index on this loop."""
    cdef Member* member
    room[0] = rooms_find(&loop.rooms, room_table_hash(&loop.hub.rooms, name), name)
    member = room_member(&loop.rooms, &loop.slab, c, room[0])
    if member.watch != WATCH_NONE:
        return CODE_OK
    if not membership_room_watch(loop, loop.rooms.rooms[room[0]].entry):
        return CODE_UNAVAILABLE
    member.watch = WATCH_CHANGES
    loop.n[C_WATCHERS] += 1
    return CODE_OK


cdef inline void membership_watch_ask(Loop* loop, Conn* c, uint32_t room) noexcept nogil:
    """Queries the roster for a watcher, after its SUB is answered. `c` may be NULL."""
    cdef Member* member = NULL if c == NULL else room_member(&loop.rooms, &loop.slab, c, room)
    cdef uint16_t number
    if member == NULL or member.watch == WATCH_NONE:
        return
    number = roster_ask(loop, loop.rooms.rooms[room].entry)
    if number != WATCH_NONE:
        member.watch = number


cdef inline void _room_close(Loop* loop, uint32_t room) noexcept nogil:
    """Removes a room that has no member left on this loop. No effect on any other."""
    cdef RoomEntry* entry = loop.rooms.rooms[room].entry
    if loop.rooms.rooms[room].count:
        return
    rooms_remove(&loop.rooms, room)
    loop.n[C_ROOMS] -= 1
    membership_exit(loop, entry)


cdef inline void membership_leave_one(Loop* loop, Conn* c, uint32_t i) noexcept nogil:
    """Ends the connection's membership `i`; its last membership takes that index."""
    cdef Membership membership = rooms_memberships_of(c, slab_cold(&loop.slab, c.slot))[i]
    cdef uint32_t room = membership.room
    cdef RoomEntry* entry = loop.rooms.rooms[room].entry
    cdef bint watches = rooms_members_of(&loop.rooms, room)[membership.position].watch != WATCH_NONE
    room_leave(&loop.rooms, &loop.slab, c, i)
    loop.n[C_MEMBERSHIPS] -= 1
    events_add(loop, entry, c, False)
    if watches:
        loop.n[C_WATCHERS] -= 1
        membership_room_unwatch(loop, entry)
    _room_close(loop, room)


cdef inline void membership_leave(Loop* loop, Conn* c, Span name) noexcept nogil:
    """Ends a membership; no effect on a connection that is not a member."""
    cdef uint64_t hash = room_table_hash(&loop.hub.rooms, name)
    cdef uint32_t i, room = rooms_find(&loop.rooms, hash, name)
    if room == NO_ROOM:
        return
    for i in range(c.nrooms):
        if rooms_memberships_of(c, slab_cold(&loop.slab, c.slot))[i].room == room:
            membership_leave_one(loop, c, i)
            return


cdef inline void membership_leave_last(Loop* loop, Conn* c) noexcept nogil:
    """Ends the connection's last membership. It must have one."""
    membership_leave_one(loop, c, c.nrooms - 1)


cdef inline void membership_leave_all(Loop* loop, Conn* c) noexcept nogil:
    while c.nrooms:
        membership_leave_last(loop, c)
