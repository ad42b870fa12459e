"""Answers operators' queries about a loop's rooms: part of a list, or closing a user's connections. Runs on the loop.

A query (KIND_INQUIRY) is one bounded step. Its answer (EVENT_LISTED) has the cursor of the next query, so the asking
thread sets the pace and the loop keeps no state. Fields of a query: `target` is its number, `hash` the cursor, `origin`
INQUIRE_* and a value; the data is a room's name, or several, one per line. Without memory there is no answer.
"""

from libc.stdint cimport uint32_t, uint64_t
from signal_core.base.counters cimport C_INQUIRIES, C_KICKED
from signal_core.base.kinds cimport KIND_EVENT
from signal_core.base.limits cimport CONTROL_LOOP, INQUIRY_CLOSES, INQUIRY_ROOMS, INQUIRY_TEXT
from signal_core.base.memory cimport Packet, packet_data, packet_new_heap, packet_set_end, packet_shrunk
from signal_core.base.span cimport Span
from signal_core.base.sys cimport se_load16_seqcst
from signal_core.base.text cimport text_put, text_put_span, text_put_uint
from signal_core.delivery.conn_close cimport conn_close
from signal_core.delivery.outbox cimport outbox_post
from signal_core.presence.events cimport WHO_MAX, events_after, events_line, events_put_who
from signal_core.tables.codes cimport EVENT_LISTED
from signal_core.tables.conn_table cimport CONN_JOINING, CONN_OPEN, Conn, slab_conn
from signal_core.tables.loop_rooms cimport NO_ROOM, Member, rooms_find, rooms_members_of
from signal_core.tables.room_table cimport (
    WORD_LOOPS, WORD_SHIFT, RoomEntry, room_entry_loops, room_entry_name, room_table_hash,
)
from signal_core.tables.state cimport Loop

cdef enum:
    # The upper half of `origin`. The lower half is a close code, or for lists the maximum of items (upper 16 bits) and
    # of bytes (lower 16 bits).
    INQUIRE_ROOMS = 1         # list rooms of which this is the first loop with members; `hash`: index of the next room
    INQUIRE_COUNTS = 2        # count the members on this loop of each room in the data
    INQUIRE_MEMBERS = 3       # list members of the room in the data; `hash`: how many, from the first, are left
    INQUIRE_CLOSE = 4         # close those members, and count them; `hash` as before
    NUMBER_MAX = 11           # bytes of a count and its LF
    LEAST_TEXT = 256          # bytes that every answer may have: a whole line


cdef inline char* _told_end(Packet* told) noexcept nogil:
    """Returns the end of the answer so far, where more is written."""
    return <char*>told.data + told.size


cdef inline bint _is_first_loop(RoomEntry* entry, uint32_t index) noexcept nogil:
    """Whether no loop with a lower index has members of the room, so that it is listed only once."""
    cdef uint32_t word
    for word in range(index >> WORD_SHIFT):
        if se_load16_seqcst(&room_entry_loops(entry)[word]):
            return False
    cdef uint32_t below = (<uint32_t>1 << (index & (WORD_LOOPS - 1))) - 1
    return se_load16_seqcst(&room_entry_loops(entry)[index >> WORD_SHIFT]) & below == 0


cdef inline void _list_rooms(
    Loop* loop, const Packet* asked, uint32_t count, uint32_t most, Packet* told,
) noexcept nogil:
    """Lists names of rooms other than users' rooms: at most `count`, in at most `most` bytes."""
    cdef uint64_t at = asked.hash, end = asked.hash + INQUIRY_ROOMS
    cdef uint64_t used = loop.rooms.used
    cdef RoomEntry* entry
    while at < end and at < used:
        entry = loop.rooms.rooms[at].entry
        if entry != NULL and entry.name[0] != c"@" and _is_first_loop(entry, loop.index):
            if count == 0 or told.size + entry.size + 1 > most:
                break
            count -= 1
            packet_set_end(told, text_put(text_put_span(_told_end(told), room_entry_name(entry)), b"\n"))
        at += 1
    told.hash = at if at < used else 0


cdef inline void _count_members(Loop* loop, const Packet* asked, Packet* told) noexcept nogil:
    """Counts the members of each room in the data, for as many rooms as fit into the answer."""
    cdef Span names = packet_data(asked), name
    cdef uint32_t room, count
    while names.size and told.size + NUMBER_MAX <= INQUIRY_TEXT:
        name = events_line(names)
        room = rooms_find(&loop.rooms, room_table_hash(&loop.hub.rooms, name), name)
        count = 0 if room == NO_ROOM else loop.rooms.rooms[room].count
        packet_set_end(told, text_put(text_put_uint(_told_end(told), count), b"\n"))
        names = events_after(names, name)


cdef inline uint64_t _members_left(Loop* loop, const Packet* asked, Member** members) noexcept nogil:
    """Sets `members` to those of the room in the data. Returns how many of them, counted from the first, are left to
    handle."""
    cdef Span name = packet_data(asked)
    cdef uint32_t room = rooms_find(&loop.rooms, room_table_hash(&loop.hub.rooms, name), name)
    cdef uint64_t count
    if room == NO_ROOM:
        return 0
    members[0] = rooms_members_of(&loop.rooms, room)
    count = loop.rooms.rooms[room].count
    return asked.hash if asked.hash < count else count


cdef inline void _list_members(
    Loop* loop, const Packet* asked, uint32_t count, uint32_t most, Packet* told,
) noexcept nogil:
    """Lists members from the last to the first. When one leaves, the last takes its index, so a member that stays is
    not missed between two steps."""
    cdef Member* members = NULL
    cdef uint64_t left = _members_left(loop, asked, &members)
    while left and count and told.size + WHO_MAX + 1 <= most:
        left -= 1
        count -= 1
        packet_set_end(told, text_put(
            events_put_who(_told_end(told), loop, slab_conn(&loop.slab, members[left].slot)), b"\n"))
    told.hash = left


cdef inline void _close_members(Loop* loop, const Packet* asked, uint32_t code, Packet* told) noexcept nogil:
    """Closes members, from the last to the first. A closed one stays a member until it is freed; the cursor has passed
    it by then."""
    cdef Member* members = NULL
    cdef uint64_t left = _members_left(loop, asked, &members)
    cdef uint32_t closed = 0, budget = INQUIRY_CLOSES
    cdef Conn* c
    while left and budget:
        left -= 1
        budget -= 1
        c = slab_conn(&loop.slab, members[left].slot)
        if c.state == CONN_OPEN or c.state == CONN_JOINING:
            conn_close(loop, c, <unsigned short>code)
            closed += 1
    loop.n[C_KICKED] += closed
    packet_set_end(told, text_put_uint(<char*>told.data, closed))
    told.hash = left


cdef inline void admin_query_answer(Loop* loop, const Packet* asked) noexcept nogil:
    """Answers a KIND_INQUIRY, which the caller frees. The answer has at most INQUIRY_TEXT bytes."""
    cdef uint32_t what = <uint32_t>(asked.origin >> 32), value = <uint32_t>asked.origin
    cdef uint32_t most = value & 0xffff, count = value >> 16
    cdef Packet* told = packet_new_heap(&loop.mem, INQUIRY_TEXT, KIND_EVENT)
    if told == NULL:
        return
    if most > INQUIRY_TEXT:
        most = INQUIRY_TEXT
    elif most < LEAST_TEXT:
        most = LEAST_TEXT
    if count == 0:
        count = 1
    if what == INQUIRE_ROOMS:
        _list_rooms(loop, asked, count, most, told)
    elif what == INQUIRE_COUNTS:
        _count_members(loop, asked, told)
    elif what == INQUIRE_MEMBERS:
        _list_members(loop, asked, count, most, told)
    else:
        _close_members(loop, asked, value, told)
    loop.n[C_INQUIRIES] += 1
    told.code = EVENT_LISTED
    told.target = asked.target
    outbox_post(loop, CONTROL_LOOP, packet_shrunk(told))
