"""The rooms that have members on one loop. Owned by the loop.

A membership is stored twice: as a Member in its room and as a Membership with its connection. Each holds the other's
index, so that joining and leaving cost the same in a room of ten thousand as in a room of two.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from signal_core.base.array cimport array_reserve
from signal_core.base.span cimport Span, span_none, span_same
from signal_core.base.sys cimport SE_ASSERT, munmap
from signal_core.tables.conn_table cimport Cold, Conn, Membership, Slab, slab_cold, slab_conn, slab_pages_new
from signal_core.tables.room_table cimport RoomEntry, room_entry_name

cdef enum:
    NO_ROOM = 0xffffffff
    ROOMS_AT_FIRST = 16       # initial capacity of Rooms.rooms
    ROOM_GONE = 0xffffffff    # in Rooms.former: the room was removed
    INDEX_STEP = 8            # slots of a former index moved whenever a room is added or removed
    INDEX_PAGES = 1 << 14     # slots from which an index is mapped: its pages are zeroed when they are first touched

    # Member.watch; between the two: joins and leaves, and it awaits the answer to the query with this number
    WATCH_NONE = 0            # no watcher
    WATCH_CHANGES = 0xffff    # joins and leaves

cdef struct Member:
    uint32_t slot             # 4
    uint16_t membership       # 2  its index in the connection's memberships
    uint16_t watch            # 2  WATCH_*

cdef union Members:           # with a capacity of 1 the member itself, with more an array
    Member one
    Member* many

cdef struct Room:
    RoomEntry* entry          # 8  NULL: free
    Members members           # 8
    uint32_t count            # 4
    uint32_t size             # 4  capacity; of a free one: the next free one

cdef struct Index:            # open addressing by hash
    uint32_t* slots           # 8  room + 1; 0: empty
    uint32_t mask             # 4
    uint32_t moved            # 4  in Rooms.former: the slots below this are in Rooms.index, too

cdef struct Rooms:
    Room* rooms               # 8
    Index index               # 16
    Index former              # 16 the index before it grew, while slots are moved a few at a time; no slots: none
    uint32_t count            # 4  rooms with members
    uint32_t used             # 4  rooms ever in use
    uint32_t size             # 4  capacity of `rooms`
    uint32_t free_head        # 4


cdef inline void rooms_init(Rooms* rooms) noexcept nogil:
    """Initializes zeroed memory."""
    rooms.free_head = NO_ROOM


cdef inline bint _entry_is(const RoomEntry* entry, uint64_t hash, Span name, uint64_t serial) noexcept nogil:
    """Whether an entry has this hash, and this name or, if `name` is NULL, this serial."""
    if name.at == NULL:
        return entry.serial == serial and entry.hash == hash
    return entry.hash == hash and span_same(room_entry_name(entry), name)


cdef inline uint32_t _index_find(const Rooms* rooms, const Index* index, uint64_t hash, Span name,
                                 uint64_t serial) noexcept nogil:
    cdef uint32_t i, found
    if index.slots == NULL:
        return NO_ROOM
    i = <uint32_t>hash & index.mask
    while index.slots[i]:
        found = index.slots[i] - 1
        if index.slots[i] != ROOM_GONE and _entry_is(rooms.rooms[found].entry, hash, name, serial):
            return found
        i = (i + 1) & index.mask
    return NO_ROOM


cdef inline uint32_t rooms_find(const Rooms* rooms, uint64_t hash, Span name) noexcept nogil:
    """Returns the room of that name; NO_ROOM: it has no member on this loop."""
    cdef uint32_t found = _index_find(rooms, &rooms.index, hash, name, 0)
    return found if found != NO_ROOM else _index_find(rooms, &rooms.former, hash, name, 0)


cdef inline uint32_t rooms_find_serial(const Rooms* rooms, uint64_t hash, uint64_t serial) noexcept nogil:
    """As rooms_find, by the room's hash and serial."""
    cdef uint32_t found = _index_find(rooms, &rooms.index, hash, span_none(), serial)
    return found if found != NO_ROOM else _index_find(rooms, &rooms.former, hash, span_none(), serial)


cdef inline void _index_put(Rooms* rooms, uint32_t room) noexcept nogil:
    cdef Index* index = &rooms.index
    cdef uint32_t i = <uint32_t>rooms.rooms[room].entry.hash & index.mask
    while index.slots[i]:
        i = (i + 1) & index.mask
    index.slots[i] = room + 1


cdef inline bint _former_remove(Rooms* rooms, uint32_t room) noexcept nogil:
    """Removes a room from the former index. True: the present index does not have it."""
    cdef Index* former = &rooms.former
    cdef uint32_t i
    if former.slots == NULL:
        return False
    i = <uint32_t>rooms.rooms[room].entry.hash & former.mask
    while former.slots[i] and former.slots[i] != room + 1:
        i = (i + 1) & former.mask
    if former.slots[i] == 0:
        return False
    former.slots[i] = ROOM_GONE
    return i >= former.moved


cdef inline void _index_remove(Rooms* rooms, uint32_t room) noexcept nogil:
    """Removes a room and moves later entries of its run back (Knuth 6.4, algorithm R)."""
    cdef Index* index = &rooms.index
    cdef uint32_t i = <uint32_t>rooms.rooms[room].entry.hash & index.mask
    cdef uint32_t j, home
    if _former_remove(rooms, room):
        return
    while index.slots[i] != room + 1:
        i = (i + 1) & index.mask
    j = i
    while True:
        index.slots[i] = 0
        while True:
            j = (j + 1) & index.mask
            if index.slots[j] == 0:
                return
            home = <uint32_t>rooms.rooms[index.slots[j] - 1].entry.hash & index.mask
            if ((j - home) & index.mask) >= ((j - i) & index.mask):
                break
        index.slots[i] = index.slots[j]
        i = j


cdef inline void _index_free(Index* index) noexcept nogil:
    if index.slots != NULL and index.mask >= INDEX_PAGES - 1:
        munmap(index.slots, (<size_t>index.mask + 1) * sizeof(uint32_t))
    else:
        free(index.slots)
    index.slots = NULL


cdef inline bint _index_grow(Rooms* rooms) noexcept nogil:
    """Doubles the index. Its entries are moved later, a few at a time, so that the loop does not stand still. False
    without memory."""
    cdef uint32_t size = 16 if rooms.index.slots == NULL else 2 * (rooms.index.mask + 1)
    cdef uint32_t* fresh
    SE_ASSERT(rooms.former.slots == NULL)
    if size >= INDEX_PAGES:
        fresh = <uint32_t*>slab_pages_new(size * sizeof(uint32_t))
    else:
        fresh = <uint32_t*>calloc(size, sizeof(uint32_t))
    if fresh == NULL:
        return False
    rooms.former = rooms.index
    rooms.index = Index(slots=fresh, mask=size - 1, moved=0)
    return True


cdef inline void _index_move(Rooms* rooms) noexcept nogil:
    """Moves INDEX_STEP slots of the former index. All are moved long before the present one is full."""
    cdef Index* former = &rooms.former
    cdef uint32_t room
    cdef int _i
    if former.slots == NULL:
        return
    for _i in range(INDEX_STEP):
        room = former.slots[former.moved]
        former.moved += 1
        if room and room != ROOM_GONE:
            _index_put(rooms, room - 1)
        if former.moved > former.mask:
            _index_free(former)
            return


cdef inline uint32_t rooms_add(Rooms* rooms, RoomEntry* entry) noexcept nogil:
    """Adds an empty room; NO_ROOM without memory."""
    cdef uint32_t room
    if rooms.index.slots == NULL or 2 * (rooms.count + 1) > rooms.index.mask:
        if not _index_grow(rooms):
            return NO_ROOM
    if rooms.free_head != NO_ROOM:
        room = rooms.free_head
        rooms.free_head = rooms.rooms[room].size
    else:
        if not array_reserve(&rooms.rooms, &rooms.size, rooms.used + 1, sizeof(Room), ROOMS_AT_FIRST):
            return NO_ROOM
        room = rooms.used
        rooms.used += 1
    rooms.rooms[room].entry = entry
    rooms.rooms[room].count = 0
    rooms.rooms[room].size = 1
    rooms.count += 1
    _index_put(rooms, room)
    _index_move(rooms)
    return room


cdef inline void rooms_remove(Rooms* rooms, uint32_t room) noexcept nogil:
    """Removes an empty room."""
    SE_ASSERT(rooms.rooms[room].count == 0)
    _index_remove(rooms, room)
    if rooms.rooms[room].size > 1:
        free(rooms.rooms[room].members.many)
    rooms.rooms[room].entry = NULL
    rooms.rooms[room].size = rooms.free_head
    rooms.free_head = room
    rooms.count -= 1
    _index_move(rooms)


cdef inline uint32_t _memberships_size(uint32_t count) noexcept nogil:
    """Returns the capacity for so many memberships: 1 in place of the pointer, or an array of 3, 7, 15 ..., which fill
    malloc's blocks."""
    cdef uint32_t size = 3
    if count <= 1:
        return 1
    while size < count:
        size = 2 * size + 1
    return size


cdef inline Membership* rooms_memberships_of(const Conn* c, Cold* cold) noexcept nogil:
    """Returns the connection's c.nrooms memberships; valid until it joins or leaves."""
    return &cold.memberships.one if c.nrooms <= 1 else cold.memberships.many


cdef inline bint _memberships_resize(Conn* c, Cold* cold, uint32_t count) noexcept nogil:
    """Gives the memberships a capacity for `count`; c.nrooms is still the old count. False without memory."""
    cdef uint32_t old = _memberships_size(c.nrooms), size = _memberships_size(count)
    cdef Membership* moved
    cdef Membership only
    if old == size:
        return True
    if size == 1:
        only = cold.memberships.many[0]
        free(cold.memberships.many)
        cold.memberships.one = only
        return True
    moved = <Membership*>realloc(NULL if old == 1 else cold.memberships.many, size * sizeof(Membership))
    if moved == NULL:
        return False
    if old == 1:
        moved[0] = cold.memberships.one
    cold.memberships.many = moved
    return True


cdef inline Member* rooms_members_of(Rooms* rooms, uint32_t room) noexcept nogil:
    """Returns a room's members; valid until one joins or leaves, or a room is added."""
    cdef Room* found = &rooms.rooms[room]
    return &found.members.one if found.size == 1 else found.members.many


cdef inline bint _members_grow(Room* room) noexcept nogil:
    """Makes room for another member: 3, 5, 7, 11 ..., which fill malloc's blocks. False without memory."""
    cdef uint32_t size = 3 if room.size == 1 else (room.size + (room.size >> 1)) | 1
    cdef Member* grown = <Member*>realloc(NULL if room.size == 1 else room.members.many, size * sizeof(Member))
    if grown == NULL:
        return False
    if room.size == 1:
        grown[0] = room.members.one
    room.members.many = grown
    room.size = size
    return True


cdef inline Member* room_member(Rooms* rooms, Slab* slab, const Conn* c, uint32_t room) noexcept nogil:
    """Returns the Member of a connection in a room, NULL if it is none; valid as rooms_members_of is."""
    cdef Membership* memberships = rooms_memberships_of(c, slab_cold(slab, c.slot))
    cdef uint32_t i
    for i in range(c.nrooms):
        if memberships[i].room == room:
            return &rooms_members_of(rooms, room)[memberships[i].position]
    return NULL


cdef inline bint room_join(Rooms* rooms, Slab* slab, Conn* c, uint32_t index) noexcept nogil:
    """Makes a connection that is not a member one. False without memory."""
    cdef Room* room = &rooms.rooms[index]
    cdef Cold* cold = slab_cold(slab, c.slot)
    cdef Member* member
    cdef Membership* membership
    if room.count == room.size and not _members_grow(room):
        return False
    if not _memberships_resize(c, cold, c.nrooms + 1):
        return False
    c.nrooms += 1
    membership = &rooms_memberships_of(c, cold)[c.nrooms - 1]
    membership.room = index
    membership.position = room.count
    member = &rooms_members_of(rooms, index)[room.count]
    member.slot = c.slot
    member.membership = <uint16_t>(c.nrooms - 1)
    member.watch = WATCH_NONE
    room.count += 1
    return True


cdef inline void _member_drop(Rooms* rooms, Slab* slab, uint32_t index, uint32_t position) noexcept nogil:
    """Removes a member; the last one takes its index."""
    cdef Room* room = &rooms.rooms[index]
    cdef Member* members = rooms_members_of(rooms, index)
    cdef Member moved
    cdef Conn* c
    cdef Member* shrunk
    room.count -= 1
    if position != room.count:
        moved = members[room.count]
        members[position] = moved
        c = slab_conn(slab, moved.slot)
        rooms_memberships_of(c, slab_cold(slab, moved.slot))[moved.membership].position = position
    if room.size > 16 and room.count < room.size // 4:
        shrunk = <Member*>realloc(members, (room.size // 2) * sizeof(Member))
        if shrunk != NULL:
            room.members.many = shrunk
            room.size //= 2


cdef inline void room_leave(Rooms* rooms, Slab* slab, Conn* c, uint32_t i) noexcept nogil:
    """Ends the connection's membership `i`; its last membership takes that index."""
    cdef Cold* cold = slab_cold(slab, c.slot)
    cdef Membership* memberships = rooms_memberships_of(c, cold)
    cdef Membership gone = memberships[i]
    cdef uint32_t last = c.nrooms - 1
    _member_drop(rooms, slab, gone.room, gone.position)
    if i != last:
        memberships[i] = memberships[last]
        rooms_members_of(rooms, memberships[i].room)[memberships[i].position].membership = <uint16_t>i
    if _memberships_size(last) != _memberships_size(c.nrooms):
        _memberships_resize(c, cold, last)
    c.nrooms = last


cdef inline void rooms_end(Rooms* rooms) noexcept nogil:
    """Frees everything."""
    cdef uint32_t i
    for i in range(rooms.used):
        if rooms.rooms[i].entry != NULL and rooms.rooms[i].size > 1:
            free(rooms.rooms[i].members.many)
    free(rooms.rooms)
    _index_free(&rooms.index)
    _index_free(&rooms.former)
    rooms.rooms = NULL
    rooms.used = rooms.size = rooms.count = 0
