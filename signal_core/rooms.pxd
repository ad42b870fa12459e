"""The rooms that have members on one loop. L2. Owned by the loop.

A room's members are an array of slots; a membership is a Member here and a Place with the connection, each naming the
other's position, so that joining and leaving cost the same in a room of ten thousand as in one of two.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp
from signal_core.roomtable cimport RoomEntry
from signal_core.slab cimport Cold, Conn, Place, Slab, slab_cold, slab_conn
from signal_core.sys cimport SE_ASSERT

cdef enum:
    NO_ROOM = 0xffffffff

cdef struct Member:
    uint32_t slot             # 4
    uint32_t place            # 4  index among the connection's places

cdef struct Room:
    RoomEntry* entry          # 8  NULL: free
    Member* members           # 8
    uint32_t count            # 4
    uint32_t size             # 4  capacity; of a free one: the next free

cdef struct Rooms:
    Room* rooms               # 8
    uint32_t* index           # 8  open addressing by hash: room + 1; 0: empty
    uint32_t count            # 4  rooms with members
    uint32_t used             # 4  rooms ever in use
    uint32_t size             # 4  capacity of `rooms`
    uint32_t mask             # 4  of the index
    uint32_t free_head        # 4
    uint32_t spare            # 4


cdef inline void rooms_init(Rooms* rooms) noexcept nogil:
    """On zeroed memory."""
    rooms.free_head = NO_ROOM


cdef inline uint32_t rooms_find(const Rooms* rooms, uint64_t hash, const char* name, size_t n) noexcept nogil:
    """The room of that name; NO_ROOM where it has no member here."""
    cdef uint32_t i, found
    cdef const RoomEntry* entry
    if rooms.index == NULL:
        return NO_ROOM
    i = <uint32_t>hash & rooms.mask
    while rooms.index[i]:
        found = rooms.index[i] - 1
        entry = rooms.rooms[found].entry
        if entry.hash == hash and entry.size == n and memcmp(entry.name, name, n) == 0:
            return found
        i = (i + 1) & rooms.mask
    return NO_ROOM


cdef inline uint32_t rooms_find_serial(const Rooms* rooms, uint64_t hash, uint64_t serial) noexcept nogil:
    cdef uint32_t i
    if rooms.index == NULL:
        return NO_ROOM
    i = <uint32_t>hash & rooms.mask
    while rooms.index[i]:
        if rooms.rooms[rooms.index[i] - 1].entry.serial == serial:
            return rooms.index[i] - 1
        i = (i + 1) & rooms.mask
    return NO_ROOM


cdef inline void index_put(Rooms* rooms, uint32_t room) noexcept nogil:
    cdef uint32_t i = <uint32_t>rooms.rooms[room].entry.hash & rooms.mask
    while rooms.index[i]:
        i = (i + 1) & rooms.mask
    rooms.index[i] = room + 1


cdef inline void index_remove(Rooms* rooms, uint32_t room) noexcept nogil:
    """Closes the gap by moving later entries of the run back (Knuth 6.4, algorithm R)."""
    cdef uint32_t i = <uint32_t>rooms.rooms[room].entry.hash & rooms.mask
    cdef uint32_t j, home
    while rooms.index[i] != room + 1:
        i = (i + 1) & rooms.mask
    j = i
    while True:
        rooms.index[i] = 0
        while True:
            j = (j + 1) & rooms.mask
            if rooms.index[j] == 0:
                return
            home = <uint32_t>rooms.rooms[rooms.index[j] - 1].entry.hash & rooms.mask
            if ((j - home) & rooms.mask) >= ((j - i) & rooms.mask):
                break
        rooms.index[i] = rooms.index[j]
        i = j


cdef inline bint index_grow(Rooms* rooms) noexcept nogil:
    cdef uint32_t i, size = 16 if rooms.index == NULL else 2 * (rooms.mask + 1)
    cdef uint32_t* fresh = <uint32_t*>calloc(size, sizeof(uint32_t))
    if fresh == NULL:
        return False
    free(rooms.index)
    rooms.index = fresh
    rooms.mask = size - 1
    for i in range(rooms.used):
        if rooms.rooms[i].entry != NULL:
            index_put(rooms, i)
    return True


cdef inline uint32_t rooms_add(Rooms* rooms, RoomEntry* entry) noexcept nogil:
    """A new empty room; NO_ROOM without memory."""
    cdef uint32_t room, size
    cdef Room* grown
    if rooms.index == NULL or 2 * (rooms.count + 1) > rooms.mask:
        if not index_grow(rooms):
            return NO_ROOM
    if rooms.free_head != NO_ROOM:
        room = rooms.free_head
        rooms.free_head = rooms.rooms[room].size
    else:
        if rooms.used == rooms.size:
            size = 16 if rooms.size == 0 else 2 * rooms.size
            grown = <Room*>realloc(rooms.rooms, size * sizeof(Room))
            if grown == NULL:
                return NO_ROOM
            rooms.rooms = grown
            rooms.size = size
        room = rooms.used
        rooms.used += 1
    rooms.rooms[room] = Room(entry=entry, members=NULL, count=0, size=0)
    rooms.count += 1
    index_put(rooms, room)
    return room


cdef inline void rooms_remove(Rooms* rooms, uint32_t room) noexcept nogil:
    """Of an empty room."""
    SE_ASSERT(rooms.rooms[room].count == 0)
    index_remove(rooms, room)
    free(rooms.rooms[room].members)
    rooms.rooms[room] = Room(entry=NULL, members=NULL, count=0, size=rooms.free_head)
    rooms.free_head = room
    rooms.count -= 1


cdef inline uint32_t places_size(uint32_t count) noexcept nogil:
    """Capacity of the array for so many places: 3, 7, 15 ..., each a whole malloc size; 1 lies in the pointer
    itself."""
    cdef uint32_t size = 3
    if count <= 1:
        return 1
    while size < count:
        size = 2 * size + 1
    return size


cdef inline Place* places_of(const Conn* c, Cold* cold) noexcept nogil:
    return &cold.places.one if c.nrooms <= 1 else cold.places.many


cdef inline bint places_resize(Conn* c, Cold* cold, uint32_t count) noexcept nogil:
    """Moves the places between the pointer and arrays so that `count` fit; c.nrooms is still the old count."""
    cdef uint32_t old = places_size(c.nrooms), size = places_size(count)
    cdef Place* moved
    cdef Place only
    if old == size:
        return True
    if size == 1:
        only = cold.places.many[0]
        free(cold.places.many)
        cold.places.one = only
        return True
    moved = <Place*>realloc(NULL if old == 1 else cold.places.many, size * sizeof(Place))
    if moved == NULL:
        return False
    if old == 1:
        moved[0] = cold.places.one
    cold.places.many = moved
    return True


cdef inline bint room_is_member(Rooms* rooms, Slab* slab, const Conn* c, uint32_t room) noexcept nogil:
    cdef Place* places = places_of(c, slab_cold(slab, c.slot))
    cdef uint32_t i
    for i in range(c.nrooms):
        if places[i].room == room:
            return True
    return False


cdef inline bint room_join(Rooms* rooms, Slab* slab, Conn* c, uint32_t index) noexcept nogil:
    """Of one that is not a member. False without memory."""
    cdef Room* room = &rooms.rooms[index]
    cdef Cold* cold = slab_cold(slab, c.slot)
    cdef Member* grown
    cdef uint32_t size
    cdef Place* place
    if room.count == room.size:
        size = room.size + (room.size >> 1) + 1
        grown = <Member*>realloc(room.members, size * sizeof(Member))
        if grown == NULL:
            return False
        room.members = grown
        room.size = size
    if not places_resize(c, cold, c.nrooms + 1):
        return False
    c.nrooms += 1
    place = &places_of(c, cold)[c.nrooms - 1]
    place.room = index
    place.position = room.count
    room.members[room.count].slot = c.slot
    room.members[room.count].place = c.nrooms - 1
    room.count += 1
    return True


cdef inline void member_drop(Rooms* rooms, Slab* slab, uint32_t index, uint32_t position) noexcept nogil:
    """Closes the gap with the last member."""
    cdef Room* room = &rooms.rooms[index]
    cdef Member moved
    cdef Conn* c
    cdef Member* shrunk
    room.count -= 1
    if position != room.count:
        moved = room.members[room.count]
        room.members[position] = moved
        c = slab_conn(slab, moved.slot)
        places_of(c, slab_cold(slab, moved.slot))[moved.place].position = position
    if room.size > 16 and room.count < room.size // 4:
        shrunk = <Member*>realloc(room.members, (room.size // 2) * sizeof(Member))
        if shrunk != NULL:
            room.members = shrunk
            room.size //= 2


cdef inline void room_leave(Rooms* rooms, Slab* slab, Conn* c, uint32_t i) noexcept nogil:
    """Ends the connection's membership number `i`."""
    cdef Cold* cold = slab_cold(slab, c.slot)
    cdef Place* places = places_of(c, cold)
    cdef Place gone = places[i]
    cdef uint32_t last = c.nrooms - 1
    member_drop(rooms, slab, gone.room, gone.position)
    if i != last:
        places[i] = places[last]
        rooms.rooms[places[i].room].members[places[i].position].place = i
    if places_size(last) != places_size(c.nrooms):
        places_resize(c, cold, last)
    c.nrooms = last


cdef inline void rooms_end(Rooms* rooms) noexcept nogil:
    cdef uint32_t i
    for i in range(rooms.used):
        free(rooms.rooms[i].members)
    free(rooms.rooms)
    free(rooms.index)
    rooms.rooms = NULL
    rooms.index = NULL
    rooms.used = rooms.size = rooms.count = 0
