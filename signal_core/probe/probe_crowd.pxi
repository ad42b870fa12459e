# A process full of connections without sockets: the real loops, slabs, rooms, room table and wheels, filled and
# driven from Python, with the cost of each step. For probe.pyx, after probe_engine.pxi.

from libc.stdint cimport UINT32_MAX, uint16_t
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec
from signal_core.base.counters cimport C_DROPPED_GONE, C_MEMBERSHIPS, C_PINGS_SENT
from signal_core.base.kinds cimport KIND_FRAME
from signal_core.base.limits cimport LEAVES_PER_TURN, RECLAIMS_PER_TURN
from signal_core.base.memory cimport PACKET_COUNTED
from signal_core.base.span cimport Span, span_between, span_of
from signal_core.base.sys cimport munmap, se_malloc_steadily
from signal_core.client.keepalive cimport keepalive_run
from signal_core.delivery.conn cimport conn_brief, conn_id, conn_kill, conn_of
from signal_core.delivery.outbox cimport outbox_loop_of, outbox_post_all
from signal_core.delivery.write_queue cimport write_queue_clear
from signal_core.loop.loop cimport loop_reap
from signal_core.loop.thread cimport thread_end, thread_init
from signal_core.nats.subscriptions cimport subscriptions_lost, subscriptions_settle
from signal_core.route.membership cimport membership_join as c_join, membership_leave as c_leave, membership_watch
from signal_core.route.route cimport route_fan_out_held
from signal_core.tables.codes cimport CLUSTER_AWAY, CLUSTER_OFF, CODE_NO_SUCH_PEER, CODE_OK
from signal_core.tables.conn_table cimport FLAG_DIRTY, FLAG_USER, Brief, slab_pages_new
from signal_core.tables.link_state cimport Link
from signal_core.tables.room_table cimport room_table_reclaim
from signal_core.tables.settings cimport Settings
from signal_core.tables.state cimport Hub, Loop
from signal_core.tables.turns cimport turns_lane_take

cdef enum:
    CROWD_TICK = 1000         # the tick at which a crowd begins
    CROWD_NAME = 32           # bytes, more than the longest name of a room has
    USER_ROOM = 128           # bytes, more than the longest name of a user's room has

cdef struct Cost:             # of a step, done `count` times
    uint64_t count
    uint64_t total            # ns of processor time
    uint64_t worst            # ns of the longest one; 0: they were not timed one by one
    uint64_t stalls           # how many took a millisecond or more


cdef inline uint64_t crowd_cpu() noexcept nogil:
    """Returns the thread's processor time in ns, which other processes do not add to."""
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef inline void cost_one(Cost* cost, uint64_t took) noexcept nogil:
    if took > cost.worst:
        cost.worst = took
    cost.stalls += took >= 1000000


cdef object cost_of(const Cost* cost):
    mean = cost.total / <double>(cost.count if cost.count else 1)
    return {"count": cost.count, "ns": mean, "worst_ns": cost.worst, "stalls": cost.stalls}


cdef inline Span crowd_name(char* out, const char* kind, uint64_t number) noexcept nogil:
    """Writes the name of a room, a letter and nine digits, and returns it."""
    out[0] = kind[0]
    return span_between(out, c_put_uint(out + 1, 100000000 + number))


cdef inline void crowd_unqueue(Loop* loop, bint answered) noexcept nogil:
    """Drops what is queued for connections instead of writing it. `answered`: each has sent something just now."""
    cdef Conn* c
    cdef int lane
    cdef uint32_t slot
    for lane in range(2):
        slot = turns_lane_take(loop, lane)
        while slot != NO_SLOT:
            c = slab_conn(&loop.slab, slot)
            slot = c.out.next
            c.flags &= <uint16_t>~FLAG_DIRTY
            if answered:
                c.heard = loop.tick
            write_queue_clear(loop, &c.out, C_DROPPED_GONE, CODE_NO_SUCH_PEER)


cdef class Crowd:
    """`conns` connections, none of them open yet. Number k is on loop k % loops.

    With `nats`, loop 0 keeps the rooms' subscriptions as it does while NATS is away. A step returns how often it was
    done and its mean ns of processor time; with `each`, which adds about a microsecond, also the longest and stalls.
    """
    cdef Hub* hub
    cdef Settings set
    cdef uint32_t conns, opened
    cdef uint32_t* order

    def __cinit__(self, uint32_t conns, uint32_t loops=1, bint nats=False, uint32_t ping=250, uint32_t pong=100):
        cdef Loop* loop
        cdef uint32_t i
        if not 1 <= loops <= 250 or conns // loops >= 1 << 24:
            raise ValueError("1 to 250 loops, each of less than 2**24 connections")
        self.conns = conns
        se_malloc_steadily()
        self.hub = <Hub*>slab_pages_new(sizeof(Hub))
        if self.hub == NULL or not room_table_init(&self.hub.rooms, loops):
            raise MemoryError
        self.set.max_rooms = 1 << 10
        self.set.ping = ping
        self.set.pong = pong
        self.hub.link = CLUSTER_OFF
        for i in range(loops):
            loop = <Loop*>slab_pages_new(sizeof(Loop))
            if loop == NULL:
                raise MemoryError
            self.hub.loops[i] = loop
            thread_init(loop, self.hub, &self.set, i)  # without buffers and link, since hub.nloops is still 0
            loop.tick = CROWD_TICK
            wheel_init(&loop.wheel, CROWD_TICK)
        self.hub.nloops = loops
        if nats:
            self.hub.link = CLUSTER_AWAY
            self.hub.loops[0].linked = <Link*>engine_zeroed(1, sizeof(Link))

    def __dealloc__(self):
        cdef uint32_t i, slot
        cdef Loop* loop
        cdef Conn* c
        if self.hub == NULL:
            return
        for i in range(self.hub.nloops):
            loop = self.hub.loops[i]
            crowd_unqueue(loop, False)
            for slot in range(loop.slab.used):
                c = slab_conn(&loop.slab, slot)
                if c.nrooms > 1:
                    free(slab_cold(&loop.slab, slot).memberships.many)
        self.settle()
        self.reclaim()
        for i in range(self.hub.nloops):
            thread_end(self.hub.loops[i])
            munmap(self.hub.loops[i], sizeof(Loop))
        room_table_end(&self.hub.rooms)
        munmap(self.hub, sizeof(Hub))
        free(self.order)

    cdef Loop* loop_at(self, uint64_t k) noexcept nogil:
        return self.hub.loops[k % self.hub.nloops]

    cdef Conn* at(self, uint64_t k) noexcept nogil:
        return slab_conn(&self.loop_at(k).slab, <uint32_t>(k // self.hub.nloops))

    cdef int shuffle(self) except -1:
        if self.order == NULL:
            self.order = engine_order(self.conns)
        return 0

    def open(self, bint spread=True, bint each=False):
        """Opens all. Their timers are spread evenly over a ping interval or, without `spread`, due in the same tick."""
        cdef Cost cost = Cost(0, 0, 0, 0)
        cdef uint64_t k, start, before = 0
        if self.opened:
            raise ValueError("they are open")
        with nogil:
            start = crowd_cpu()
            for k in range(self.conns):
                if each:
                    before = crowd_cpu()
                if not self.open_one(k, spread):
                    break
                if each:
                    cost_one(&cost, crowd_cpu() - before)
                self.opened += 1
            cost.total = crowd_cpu() - start
        if self.opened < self.conns:
            raise MemoryError
        self.hub.connections = self.conns
        cost.count = self.conns
        return cost_of(&cost)

    cdef bint open_one(self, uint64_t k, bint spread) noexcept nogil:
        cdef Loop* loop = self.loop_at(k)
        cdef uint32_t early = <uint32_t>(k // self.hub.nloops % self.set.ping) if spread else 0
        cdef Conn* c = slab_take(&loop.slab)
        if c == NULL:
            return False
        c.fd = -1
        c.tag = <uint32_t>(k * <uint64_t>0x9e3779b1)
        c.state = CONN_OPEN
        c.heard = loop.tick - early
        wheel_arm(&loop.wheel, &loop.slab, c.slot, c.heard + self.set.ping)
        return True

    cdef uint8_t join_one(self, uint64_t k, const char* kind, uint64_t size, bint listens) noexcept nogil:
        cdef char text[CROWD_NAME]
        cdef RoomEntry* entry
        cdef uint32_t room
        cdef Span name = crowd_name(text, kind, k // size)
        cdef uint8_t code = c_join(self.loop_at(k), self.at(k), name, &entry)
        return membership_watch(self.loop_at(k), self.at(k), name, &room) if listens and code == CODE_OK else code

    def join(self, bytes kind, uint64_t size, bint each=False, bint listens=False):
        """Number k joins the room with letter `kind` and number k // size, so that each room has `size` members."""
        cdef Cost cost = Cost(0, 0, 0, 0)
        cdef uint64_t k, start, before = 0
        cdef const char* letter = kind
        with nogil:
            start = crowd_cpu()
            for k in range(self.opened):
                if each:
                    before = crowd_cpu()
                if self.join_one(k, letter, size, listens) != CODE_OK:
                    break
                if each:
                    cost_one(&cost, crowd_cpu() - before)
                cost.count += 1
            cost.total = crowd_cpu() - start
        if cost.count < self.opened:
            raise MemoryError
        return cost_of(&cost)

    def identify(self, uint32_t length, uint64_t first, uint64_t count):
        """Gives `count` connections from number `first`, which are in no room, a user each, with a name of `length`
        bytes, and a token that expires."""
        cdef Cost cost = Cost(0, 0, 0, 0)
        cdef char name[USER_ROOM]
        cdef Brief* brief
        cdef RoomEntry* entry
        cdef uint64_t k, start
        if not 9 <= length < USER_ROOM:
            raise ValueError(length)
        memset(name, c"u", sizeof(name))
        name[0] = c"@"
        with nogil:
            start = crowd_cpu()
            for k in range(first, min(first + count, self.opened)):
                brief = conn_brief(self.loop_at(k), self.at(k))
                if brief == NULL:
                    break
                brief.expires = CROWD_TICK * 1000
                c_put_uint(name + 1 + length - 9, 100000000 + k)
                if c_join(self.loop_at(k), self.at(k), span_of(name, length + 1), &entry) != CODE_OK:
                    break
                self.at(k).flags |= FLAG_USER
                cost.count += 1
            cost.total = crowd_cpu() - start
        if cost.count < count:
            raise MemoryError
        return cost_of(&cost)

    def rejoin(self, bytes kind, uint64_t size, uint32_t times, bint each=False):
        """Members, in random order, leave their room by its name and join it again."""
        cdef Cost cost = Cost(0, 0, 0, 0)
        cdef uint64_t k, start, before = 0
        cdef uint32_t i
        cdef const char* letter = kind
        cdef char name[CROWD_NAME]
        self.shuffle()
        with nogil:
            start = crowd_cpu()
            for i in range(times):
                k = self.order[i % self.opened]
                if each:
                    before = crowd_cpu()
                c_leave(self.loop_at(k), self.at(k), crowd_name(name, letter, k // size))
                self.join_one(k, letter, size, False)
                if each:
                    cost_one(&cost, crowd_cpu() - before)
            cost.total = crowd_cpu() - start
        cost.count = times
        return cost_of(&cost)

    def settle(self):
        """Handles the KIND_SYNCs of rooms that came or went, on the link's loop, timed one by one."""
        cdef Cost cost = Cost(0, 0, 0, 0)
        cdef Loop* loop = self.hub.loops[0]
        cdef Packet* packet
        cdef Packet* after
        cdef uint64_t before
        cdef uint32_t i
        for i in range(self.hub.nloops):
            outbox_post_all(self.hub.loops[i])
        with nogil:
            packet = mailbox_take(&loop.mailbox)
            while packet != NULL:
                after = packet.next
                before = crowd_cpu()
                subscriptions_settle(loop, packet)
                before = crowd_cpu() - before
                cost.total += before
                cost_one(&cost, before)
                packet = after
                cost.count += 1
        return cost_of(&cost)

    def reclaim(self):
        """Frees retired pieces of the room table, as in iterations of the link's loop, timed one by one."""
        cdef Cost cost = Cost(0, 0, 0, 0)
        cdef uint64_t took
        cdef bint done = False
        with nogil:
            while not done:
                took = crowd_cpu()
                done = room_table_reclaim(&self.hub.rooms, <uint64_t>-1, RECLAIMS_PER_TURN)
                took = crowd_cpu() - took
                cost.total += took
                cost_one(&cost, took)
                cost.count += 1
        return cost_of(&cost)

    def lose_nats(self):
        """Loses the subscriptions, as the link's loop does when NATS goes away."""
        cdef Cost cost = Cost(1, 0, 0, 0)
        if self.hub.loops[0].linked == NULL:
            raise ValueError("it has no link")
        with nogil:
            cost.total = crowd_cpu()
            subscriptions_lost(self.hub.loops[0])
            cost.total = crowd_cpu() - cost.total
            cost_one(&cost, cost.total)
        return cost_of(&cost)

    def allocate(self, size_t size):
        """Allocates one block, for which malloc may have to merge many freed ones first."""
        cdef Cost cost = Cost(1, 0, 0, 0)
        cost.total = crowd_cpu()
        free(engine_zeroed(1, size))
        cost.total = crowd_cpu() - cost.total
        cost_one(&cost, cost.total)
        return cost_of(&cost)

    def lookup(self, uint32_t times):
        """Finds connections by address, in random order: parses the text, and looks up loop, slot and tag."""
        cdef Cost cost = Cost(0, 0, 0, 0)
        cdef uint32_t i
        cdef uint64_t id, found = 0
        cdef Loop* loop
        cdef char* texts = <char*>engine_zeroed(times, LOCAL_TEXT)
        self.shuffle()
        for i in range(times):
            id = self.order[i % self.opened]
            c_local_put(texts + <size_t>i * LOCAL_TEXT, conn_id(self.loop_at(id), self.at(id)))
        with nogil:
            cost.total = crowd_cpu()
            for i in range(times):
                if c_local_parse(span_of(texts + <size_t>i * LOCAL_TEXT, LOCAL_TEXT), &id) == 1:
                    loop = outbox_loop_of(self.hub, id)
                    found += loop != NULL and conn_of(loop, id) != NULL
            cost.total = crowd_cpu() - cost.total
        free(texts)
        cost.count = times
        if found != times:
            raise AssertionError(f"{times - found} of {times} are not found")
        return cost_of(&cost)

    def publish(self, bytes kind, uint64_t number, size_t payload=128):
        """Queues a message for each member of a room, without writing it. `count` is the members."""
        cdef Cost cost = Cost(0, 0, 0, 0)
        cdef Loop* loop
        cdef Packet* packet
        cdef char text[CROWD_NAME]
        cdef Span name = crowd_name(text, kind, number)
        cdef uint64_t start, hash = room_table_hash(&self.hub.rooms, name)
        cdef uint32_t i, room
        for i in range(self.hub.nloops):
            loop = self.hub.loops[i]
            room = rooms_find(&loop.rooms, hash, name)
            if room == NO_ROOM:
                continue
            packet = packet_new_heap(&loop.mem, payload, KIND_FRAME)
            if packet == NULL:
                raise MemoryError
            packet.size = <uint32_t>payload
            packet.flags = PACKET_COUNTED
            cost.count += loop.rooms.rooms[room].count
            with nogil:
                start = crowd_cpu()
                route_fan_out_held(loop, room, packet)
                start = crowd_cpu() - start
            cost.total += start
            cost.worst = max(cost.worst, start)
            crowd_unqueue(loop, False)
        return cost_of(&cost)

    def tick(self, uint32_t loop_index=0, uint32_t ms=1):
        """Runs a loop's timers of one tick, in an iteration each `ms` milliseconds, until all that are due have fired.
        Pings are not written, but answered at once. `count` is the pings, `worst_ns` the longest iteration, `most` the
        most pings of an iteration."""
        cdef Cost cost = Cost(0, 0, 0, 0)
        cdef Loop* loop = self.hub.loops[loop_index]
        cdef uint64_t took, pinged, most = 0, before = loop.n[C_PINGS_SENT]
        cdef uint32_t turns = 0
        loop.tick += 1
        loop.late_ms = 0
        with nogil:
            while loop.wheel.now < loop.tick or loop.wheel.walk != NO_SLOT:
                pinged = loop.n[C_PINGS_SENT]
                took = crowd_cpu()
                keepalive_run(loop)
                took = crowd_cpu() - took
                most = max(most, loop.n[C_PINGS_SENT] - pinged)
                cost.total += took
                cost_one(&cost, took)
                turns += 1
                loop.late_ms += ms
                crowd_unqueue(loop, True)
        cost.count = loop.n[C_PINGS_SENT] - before
        return {**cost_of(&cost), "total_ns": cost.total, "turns": turns, "most": most}

    def close(self, uint32_t times, bint each=False):
        """Ends `times` connections, in random order: their timers, memberships, rooms and slots."""
        cdef Cost cost = Cost(0, 0, 0, 0)
        cdef uint64_t start, before = 0
        cdef uint32_t i
        self.shuffle()
        with nogil:
            start = crowd_cpu()
            for i in range(min(times, self.opened)):
                if each:
                    before = crowd_cpu()
                conn_kill(self.loop_at(self.order[i]), self.at(self.order[i]))
                loop_reap(self.loop_at(self.order[i]), UINT32_MAX)
                if each:
                    cost_one(&cost, crowd_cpu() - before)
                cost.count += 1
            cost.total = crowd_cpu() - start
        return cost_of(&cost)

    def die(self):
        """All connections die at once. Returns what each loop frees, by iteration: (memberships, connections)."""
        cdef Loop* loop
        cdef uint32_t i, live
        cdef uint64_t memberships
        cdef list turns = []
        for i in range(<uint32_t>self.opened):
            conn_kill(self.loop_at(i), self.at(i))
        for i in range(self.hub.nloops):
            loop = self.hub.loops[i]
            while loop.slab.live:
                live, memberships = loop.slab.live, loop.n[C_MEMBERSHIPS]
                loop_reap(loop, LEAVES_PER_TURN)
                turns.append((memberships - loop.n[C_MEMBERSHIPS], live - loop.slab.live))
        return turns

    @property
    def live(self):
        return sum(self.hub.loops[i].slab.live for i in range(self.hub.nloops))

    @property
    def rooms(self):
        """Rooms with members, counted on each loop that has some."""
        return sum(self.hub.loops[i].rooms.count for i in range(self.hub.nloops))

    @property
    def armed(self):
        return sum(self.hub.loops[i].wheel.armed for i in range(self.hub.nloops))
