# A loop without a thread, for tests of the lanes of queues, delayed connections and incomplete messages. For probe.pyx,
# after probe_crowd.pxi.

from signal_core.base.limits cimport FRAMES_PER_TURN
from signal_core.client.input_buffer cimport input_buffer_free, input_buffer_grow
from signal_core.client.partial cimport partial_due
from signal_core.client.session cimport session_continue
from signal_core.delivery.conn cimport conn_kill, conn_ready
from signal_core.delivery.delayed cimport delayed_add, delayed_release
from signal_core.loop.loop cimport loop_reap
from signal_core.tables.conn_table cimport FLAG_READY
from signal_core.tables.turns cimport turns_lane_add, turns_lane_put_back


cdef class OneLoop:
    """A loop with `conns` open connections without sockets, in the slots from 0."""
    cdef Hub* hub
    cdef Settings set
    cdef Loop* loop

    def __cinit__(self, uint32_t conns):
        cdef Conn* c
        self.hub = <Hub*>slab_pages_new(sizeof(Hub))
        self.loop = <Loop*>slab_pages_new(sizeof(Loop))
        if self.hub == NULL or self.loop == NULL:
            raise MemoryError
        self.hub.nloops = 1
        self.hub.loops[0] = self.loop
        if not thread_init(self.loop, self.hub, &self.set, 0):
            raise MemoryError
        self.set.input_loop = 1 << 20
        self.set.max_frame = 1 << 16
        for _ in range(conns):
            c = slab_take(&self.loop.slab)
            c.state = CONN_OPEN
            c.fd = -1

    def __dealloc__(self):
        cdef uint32_t slot
        if self.loop != NULL:
            for slot in range(self.loop.slab.used):
                write_queue_clear(self.loop, &slab_conn(&self.loop.slab, slot).out, C_DROPPED_GONE, CODE_NO_SUCH_PEER)
                input_buffer_free(self.loop, slab_conn(&self.loop.slab, slot).pending)
                free(slab_cold(&self.loop.slab, slot).brief)
            thread_end(self.loop)
            munmap(self.loop, sizeof(Loop))
        if self.hub != NULL:
            munmap(self.hub, sizeof(Hub))

    def add(self, uint32_t slot, int lane):
        turns_lane_add(self.loop, slab_conn(&self.loop.slab, slot), lane)

    def flush(self, int lane, uint32_t most, set again, set other):
        """Takes the lane, removes up to `most` slots as if they were written, and puts the rest back. Returns those
        removed. One in `again` is added to the lane again, one in `other` to the other lane."""
        cdef uint32_t* last = self.loop.turn.dirty_tail[lane]
        cdef uint32_t slot = turns_lane_take(self.loop, lane)
        cdef Conn* c
        written = []
        while slot != NO_SLOT and len(written) < most:
            c = slab_conn(&self.loop.slab, slot)
            written.append(slot)
            slot = c.out.next
            c.flags &= <uint16_t>~FLAG_DIRTY
            if c.slot in again:
                turns_lane_add(self.loop, c, lane)
            elif c.slot in other:
                turns_lane_add(self.loop, c, 1 - lane)
        if slot != NO_SLOT:
            turns_lane_put_back(self.loop, lane, slot, last)
        return written

    def lane(self, int lane):
        """Returns the slots in the lane, in order."""
        cdef uint32_t slot = self.loop.turn.dirty_head[lane]
        cdef uint32_t* last = &self.loop.turn.dirty_head[lane]
        slots = []
        while slot != NO_SLOT:
            slots.append(slot)
            last = &slab_conn(&self.loop.slab, slot).out.next
            slot = last[0]
        assert self.loop.turn.dirty_tail[lane] == last
        assert all(slab_conn(&self.loop.slab, s).flags & FLAG_DIRTY for s in slots)
        return slots

    def part(self, uint32_t tick, uint32_t since, uint32_t patience):
        """Gives the first connection an incomplete message since tick `since`. message-timeout: `patience` ticks."""
        cdef Conn* c = slab_conn(&self.loop.slab, 0)
        self.loop.tick = tick
        wheel_init(&self.loop.wheel, tick)
        self.set.message = patience
        c.pending = input_buffer_grow(self.loop, c.pending, 16, 16)
        c.pending.since = since

    def part_due(self, uint32_t tick, bint waits):
        """Returns the tick of the message's next check; 0: it was closed. `waits`: the connection waits for a turn."""
        cdef Conn* c = slab_conn(&self.loop.slab, 0)
        self.loop.tick = tick
        c.flags = <uint16_t>(c.flags | FLAG_READY if waits else c.flags & ~FLAG_READY)
        return partial_due(self.loop, c)

    def turn(self, int fd, bytes kept):
        """Gives the first connection this socket, part of a message and a turn. Returns what it then keeps."""
        cdef Conn* c = slab_conn(&self.loop.slab, 0)
        c.fd = fd
        c.pending = input_buffer_grow(self.loop, c.pending, len(kept), len(kept))
        memcpy(c.pending.data, <char*>kept, len(kept))
        c.pending.used = <uint32_t>len(kept)
        self.loop.turn.share = FRAMES_PER_TURN
        conn_ready(self.loop, c)
        session_continue(self.loop, c)
        c.fd = -1
        return (<char*>c.pending.data)[:c.pending.used]

    def delay(self, uint32_t slot):
        delayed_add(self.loop, slab_conn(&self.loop.slab, slot))

    def release(self):
        """Releases the delayed connections, whose work is done."""
        delayed_release(self.loop)

    def kill(self, uint32_t slot):
        conn_kill(self.loop, slab_conn(&self.loop.slab, slot))

    def dead(self):
        """Returns the slots to free, which keep the loop awake."""
        cdef uint32_t slot = self.loop.dead
        slots = []
        while slot != NO_SLOT:
            slots.append(slot)
            slot = slab_cold(&self.loop.slab, slot).next
        return slots

    def reap(self, uint32_t units):
        """Returns the units of work that it took."""
        cdef uint64_t before = self.loop.turn.work
        loop_reap(self.loop, units)
        return self.loop.turn.work - before
