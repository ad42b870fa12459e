# Python wrappers and micro benchmarks of the tables: slabs, mailboxes, rooms, timers. For probe.pyx, after
# probe_ws.pxi.

from zlib import crc32

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from signal_core.base.kinds cimport KIND_TO
from signal_core.base.memory cimport Mem, Packet, packet_free, packet_new_heap
from signal_core.base.span cimport Span, span_of
from signal_core.base.sys cimport se_now_ns
from signal_core.client.accept_pacing cimport accept_pacing_after
from signal_core.presence.roster cimport roster_numbers_joined
from signal_core.tables.conn_table cimport (
    CONN_OPEN, NO_SLOT, Conn, Membership, Slab, slab_cold, slab_conn, slab_end, slab_find, slab_init, slab_take,
)
from signal_core.tables.loop_rooms cimport (
    NO_ROOM, Rooms as c_Rooms, room_join, room_leave, room_member, rooms_add, rooms_end, rooms_find, rooms_init,
    rooms_members_of, rooms_memberships_of, rooms_remove,
)
from signal_core.tables.mailbox cimport Chain, Mailbox, chain_add, mailbox_push, mailbox_take, mailbox_taken
from signal_core.tables.room_table cimport (
    RoomEntry, RoomTable, room_table_end, room_table_enter, room_table_find, room_table_hash, room_table_init,
)
from signal_core.tables.timer_wheel cimport (
    Wheel as c_Wheel, wheel_arm, wheel_arm_by, wheel_disarm, wheel_init, wheel_is_late, wheel_next, wheel_pop,
)


cdef void* engine_zeroed(size_t count, size_t size) except NULL:
    cdef void* p = calloc(count, size)
    if p == NULL:
        raise MemoryError
    return p


cdef Slab* engine_slab(uint32_t conns) except NULL:
    """Returns open connections in the slots from 0, each with slot + 1 as its tag; slab_end and free end it."""
    cdef Slab* slab = <Slab*>engine_zeroed(1, sizeof(Slab))
    cdef Conn* c
    cdef uint32_t i
    slab_init(slab)
    for i in range(conns):
        c = slab_take(slab)
        if c == NULL:
            slab_end(slab)
            free(slab)
            raise MemoryError
        c.tag = i + 1
        c.state = CONN_OPEN
    return slab


cdef uint32_t* engine_order(uint32_t count) except NULL:
    """Returns the numbers below `count` in an order that looks random but is always the same; the caller frees it."""
    cdef uint32_t* order = <uint32_t*>engine_zeroed(count, sizeof(uint32_t))
    cdef uint64_t state = 88172645463325252
    cdef uint32_t i, j
    for i in range(count):
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        j = <uint32_t>(state % (i + 1))
        order[i] = order[j]
        order[j] = i
    return order


# -- timers --

cdef class Wheel:
    """A wheel with timers for the slots below `slots`."""
    cdef c_Wheel wheel
    cdef Slab* slab
    cdef uint32_t slots

    def __cinit__(self, uint32_t slots, uint32_t now=0):
        self.slab = engine_slab(slots)
        self.slots = slots
        wheel_init(&self.wheel, now)

    def __dealloc__(self):
        if self.slab != NULL:
            slab_end(self.slab)
            free(self.slab)

    cdef int check(self, uint32_t slot) except -1:
        if slot >= self.slots:
            raise IndexError(slot)
        return 0

    @property
    def now(self):
        return self.wheel.now

    @property
    def armed(self):
        return self.wheel.armed

    def due(self, uint32_t slot):
        """Returns the tick; 0: not armed."""
        self.check(slot)
        return slab_cold(self.slab, slot).due

    def arm(self, uint32_t slot, uint32_t due):
        self.check(slot)
        wheel_arm(&self.wheel, self.slab, slot, due)

    def arm_by(self, uint32_t slot, uint32_t due):
        self.check(slot)
        wheel_arm_by(&self.wheel, self.slab, slot, due)

    def disarm(self, uint32_t slot):
        self.check(slot)
        wheel_disarm(&self.wheel, self.slab, slot)

    def pop(self, uint32_t now, size_t most=1 << 30, uint32_t looks=1 << 30):
        """Returns the slots that are due by `now`, in the order of firing: at most `most`, and only those found within
        `looks` visits."""
        cdef uint32_t slot
        found = []
        while most:
            slot = wheel_pop(&self.wheel, self.slab, now, &looks)
            if slot == NO_SLOT:
                break
            found.append(slot)
            most -= 1
        return found

    def next(self):
        return wheel_next(&self.wheel)

    def late(self, uint32_t now):
        return wheel_is_late(&self.wheel, now)


def pace(uint64_t gap, uint64_t wait, uint64_t shortest, uint64_t longest):
    """Returns the ns between two new connections after a measurement: accept_pacing_after."""
    return accept_pacing_after(gap, wait, shortest, longest)


def questions_joined(uint32_t one, uint32_t other):
    """Returns the numbers of two queries answered as one: roster_numbers_joined."""
    return roster_numbers_joined(one, other)


# -- rooms of a loop --

cdef class Rooms:
    """The rooms of the connections in the slots below `conns`. A `hash_mask` of few bits makes names collide."""
    cdef c_Rooms rooms
    cdef Slab* slab
    cdef uint32_t conns
    cdef uint64_t hash_mask
    cdef dict entries         # name -> address of its RoomEntry, until the room is removed

    def __cinit__(self, uint32_t conns, uint64_t hash_mask=0xffffffff):
        self.slab = engine_slab(conns)
        self.conns = conns
        self.hash_mask = hash_mask
        self.entries = {}
        rooms_init(&self.rooms)

    def __dealloc__(self):
        cdef uint32_t slot
        if self.slab == NULL:
            return
        for slot in range(self.conns):
            if slab_conn(self.slab, slot).nrooms > 1:
                free(slab_cold(self.slab, slot).memberships.many)
        for entry in self.entries.values():
            free(<void*><size_t>entry)
        rooms_end(&self.rooms)
        slab_end(self.slab)
        free(self.slab)

    cdef Conn* conn(self, uint32_t slot) except NULL:
        if slot >= self.conns:
            raise IndexError(slot)
        return slab_conn(self.slab, slot)

    cdef uint32_t find(self, bytes name):
        return rooms_find(&self.rooms, crc32(name) & self.hash_mask, signal_span(name))

    cdef uint32_t add(self, bytes name) except? 0xffffffff:
        cdef RoomEntry* entry = <RoomEntry*>engine_zeroed(1, sizeof(RoomEntry) + len(name))
        entry.hash = crc32(name) & self.hash_mask
        entry.size = <uint8_t>len(name)
        memcpy(entry.name, <const char*>name, len(name))
        self.entries[name] = <size_t>entry
        return rooms_add(&self.rooms, entry)

    @property
    def count(self):
        return self.rooms.count

    def join(self, uint32_t slot, bytes name):
        """Returns whether it became a member; False: it was one."""
        cdef Conn* c = self.conn(slot)
        cdef uint32_t room = self.find(name)
        if room == NO_ROOM:
            room = self.add(name)
        if room_member(&self.rooms, self.slab, c, room) != NULL:
            return False
        if not room_join(&self.rooms, self.slab, c, room):
            raise MemoryError
        return True

    def leave(self, uint32_t slot, bytes name):
        """Returns whether it was a member; a room without members is removed."""
        cdef Conn* c = self.conn(slot)
        cdef uint32_t i, room = self.find(name)
        if room == NO_ROOM:
            return False
        for i in range(c.nrooms):
            if rooms_memberships_of(c, slab_cold(self.slab, slot))[i].room == room:
                room_leave(&self.rooms, self.slab, c, i)
                if self.rooms.rooms[room].count == 0:
                    rooms_remove(&self.rooms, room)
                    free(<void*><size_t>self.entries.pop(name))
                return True
        return False

    def members(self, bytes name):
        """Returns the members' slots, in the room's order; None: there is no such room."""
        cdef uint32_t i, room = self.find(name)
        if room == NO_ROOM:
            return None
        return [rooms_members_of(&self.rooms, room)[i].slot for i in range(self.rooms.rooms[room].count)]

    def rooms_of(self, uint32_t slot):
        """Returns the names of its rooms, in the order of its memberships."""
        cdef Conn* c = self.conn(slot)
        cdef Membership* memberships = rooms_memberships_of(c, slab_cold(self.slab, slot))
        cdef uint32_t i
        cdef RoomEntry* entry
        names = []
        for i in range(c.nrooms):
            entry = self.rooms.rooms[memberships[i].room].entry
            names.append(entry.name[:entry.size])
        return names

    def check(self):
        """Asserts that each membership and its member hold each other's index."""
        cdef uint32_t slot, i, room
        cdef Conn* c
        cdef Membership* membership
        for slot in range(self.conns):
            c = slab_conn(self.slab, slot)
            for i in range(c.nrooms):
                membership = &rooms_memberships_of(c, slab_cold(self.slab, slot))[i]
                assert membership.position < self.rooms.rooms[membership.room].count
                assert rooms_members_of(&self.rooms, membership.room)[membership.position].slot == slot
                assert rooms_members_of(&self.rooms, membership.room)[membership.position].membership == i
        for room in range(self.rooms.used):
            for i in range(self.rooms.rooms[room].count):
                c = self.conn(rooms_members_of(&self.rooms, room)[i].slot)
                assert rooms_members_of(&self.rooms, room)[i].membership < c.nrooms
                membership = &rooms_memberships_of(c, slab_cold(self.slab, c.slot))[
                    rooms_members_of(&self.rooms, room)[i].membership]
                assert membership.room == room and membership.position == i


# -- micro benchmarks: nanoseconds an operation --

def bench_slab_find(uint64_t iterations, uint32_t conns=100000):
    """Finds connections by slot and tag, in random order."""
    cdef Slab* slab = engine_slab(conns)
    cdef uint32_t* order = engine_order(conns)
    cdef uint32_t at = 0
    cdef uint64_t i, start, total = 0
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            total += slab_find(slab, order[at], order[at] + 1) != NULL
            at += 1
            if at == conns:
                at = 0
        start = se_now_ns() - start
    free(order)
    slab_end(slab)
    free(slab)
    assert total == iterations
    return start / <double>iterations


cdef Packet* engine_packets(Mem* mem, uint32_t count) except NULL:
    """A list of empty packets."""
    cdef Packet* packets = NULL
    cdef Packet* packet
    for _ in range(count):
        packet = packet_new_heap(mem, 0, KIND_TO)
        if packet == NULL:
            raise MemoryError
        packet.next = packets
        packets = packet
    return packets


cdef Packet* engine_post(Mailbox* mailbox, Chain* held, Packet* packets) noexcept nogil:
    """Posts a list of packets as one chain. Returns the list that the mailbox then gives."""
    cdef Packet* after
    while packets != NULL:
        after = packets.next
        chain_add(held, packets, True)
        packets = after
    mailbox_push(mailbox, held)
    return mailbox_take(mailbox)


def bench_inbox(uint64_t iterations, uint32_t chain=1):
    """Posts and takes messages in chains of `chain`, in one thread that never sleeps."""
    cdef Mailbox mailbox
    cdef Chain held
    cdef Mem mem
    cdef Packet* packet
    cdef Packet* taken
    cdef uint64_t i, start, rounds = iterations // chain + 1, total = 0
    memset(&mailbox, 0, sizeof(mailbox))
    memset(&held, 0, sizeof(held))
    memset(&mem, 0, sizeof(mem))
    taken = engine_packets(&mem, chain)
    with nogil:
        start = se_now_ns()
        for i in range(rounds):
            taken = engine_post(&mailbox, &held, taken)
            packet = taken
            while packet != NULL:
                mailbox_taken(&mailbox, packet)
                total += 1
                packet = packet.next
        start = se_now_ns() - start
    while taken != NULL:
        packet = taken
        taken = packet.next
        packet_free(&mem, packet)
    assert total == rounds * chain and mailbox.waiting == 0
    return start / <double>total


cdef RoomTable* engine_table(uint32_t rooms, char* names) except NULL:
    """Returns a table of `rooms` rooms. Their names, of 16 bytes each, are written to `names`."""
    cdef RoomTable* table = <RoomTable*>engine_zeroed(1, sizeof(RoomTable))
    cdef bint sync
    cdef Span name
    cdef uint32_t i
    if not room_table_init(table, 1):
        raise MemoryError
    for i in range(rooms):
        text = b"room-%011d" % i
        memcpy(names + 16 * <size_t>i, <const char*>text, 16)
        name = span_of(names + 16 * <size_t>i, 16)
        if room_table_enter(table, name, room_table_hash(table, name), 0, &sync) == NULL:
            raise MemoryError
    return table


def bench_table_find(uint64_t iterations, uint32_t rooms=10000):
    """Hashes and finds rooms of the room table by name, in random order."""
    cdef uint32_t* order = engine_order(rooms)
    cdef char* names = <char*>engine_zeroed(rooms, 16)
    cdef RoomTable* table = engine_table(rooms, names)
    cdef Span name
    cdef uint32_t at = 0
    cdef uint64_t i, start, total = 0
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            name = span_of(names + 16 * <size_t>order[at], 16)
            total += room_table_find(table, name, room_table_hash(table, name)) != NULL
            at += 1
            if at == rooms:
                at = 0
        start = se_now_ns() - start
    room_table_end(table)
    free(table)
    free(order)
    free(names)
    assert total == iterations
    return start / <double>iterations


def bench_wheel(uint64_t iterations, uint32_t conns=100000):
    """Disarms and arms one of `conns` armed timers, in random order."""
    cdef Slab* slab = engine_slab(conns)
    cdef uint32_t* order = engine_order(conns)
    cdef uint32_t at
    cdef c_Wheel wheel
    cdef uint64_t i, start
    wheel_init(&wheel, 1000)
    for at in range(conns):
        wheel_arm(&wheel, slab, order[at], 1001 + at % 250)
    at = 0
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            wheel_disarm(&wheel, slab, order[at])
            wheel_arm(&wheel, slab, order[at], 1001 + <uint32_t>(i % 250))
            at += 1
            if at == conns:
                at = 0
        start = se_now_ns() - start
    at = wheel.armed
    free(order)
    slab_end(slab)
    free(slab)
    assert at == conns
    return start / <double>iterations
