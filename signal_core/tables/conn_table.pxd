"""The structs of a connection, and the slab of a loop that holds them.

A slot never moves. Conn is one cache line with what every message reads; Cold has what only timers, rooms and receipts
need. No thread but the owning loop's reads or writes either, nor what they point to. conn_brief and conn_extra
(conn.pxd) allocate a Brief or an Extra, and loop_reap (loop.pxd) frees it with its connection. input_buffer.pxd
allocates and frees Buffers.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset
from signal_core.base.limits cimport CHUNK_CONNS, CHUNK_SHIFT, MAX_CHUNKS
from signal_core.base.memory cimport QueueNode
from signal_core.base.span cimport Span, span_of
from signal_core.base.sys cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, SE_STATIC_ASSERT, mmap, munmap,
)
from signal_core.tables.acl cimport Rights
from signal_core.wire.ids cimport REF_MAX, ids_slot, ids_tag

cdef enum:
    # Conn.state
    CONN_FREE = 0
    CONN_HANDSHAKE = 1        # its HTTP head is not complete
    CONN_AUTHENTICATING = 2   # its token awaits the verdict: its head is kept, and it is not read
    CONN_JOINING = 3          # upgraded; HELLO waits until the rooms of its URL are confirmed
    CONN_OPEN = 4
    CONN_CLOSING = 5          # our Close frame is queued or sent; waits for the client's
    CONN_LINGER = 6           # nothing more will be queued; input is discarded until the client closes
    CONN_DEAD = 7             # closed; freed at the end of the iteration

    # Conn.flags
    FLAG_DIRTY = 1            # in a list of queues to write
    FLAG_BLOCKED = 2          # the socket is full: EPOLLOUT is armed
    FLAG_READY = 4            # in Turn.ready or Turn.delayed
    FLAG_PAUSED = 8           # not read: it is held, awaits HELLO or a verdict, or does not take the engine's answers
    FLAG_LAST = 16            # nothing more will be queued: once the queue is written, our side is shut down
    FLAG_DONE = 32            # ... and the socket closed, because the close handshake is complete
    FLAG_WEBSOCKET = 64       # upgraded: counted among the connections
    FLAG_DELAYED = 128        # in Turn.delayed: not read until what it caused is done
    FLAG_LEAVING = 256        # closed by a drain: counted in Drain.leaving
    FLAG_GAP = 512            # deliveries to it were dropped: GAP is due with the next write

    FLAG_WHOLE = 1024         # Cold.brief is a whole Extra

    FLAG_USER = 4096          # it has a user: its first membership is in the room `@<user>`
    FLAG_LIMITED = 8192       # Brief.rights limits it

    FLAG_DEFLATE = 16384      # it negotiated permessage-deflate
    FLAG_QUOTA = 32768        # it counts against max-connections

    # Gathering.marks
    MARK_PARTS = 1            # Extra.message holds the first frames of a message
    MARK_PINGED = 2           # the pong of a sampled ping is outstanding (tables/latency.pxd)
    MARK_RENEWING = 4         # its AUTH awaits the verdict
    MARK_DEFLATED = 8         # the message in Extra.message is compressed

    NO_SLOT = 0xffffffff

cdef struct Queue:            # a write queue: the packets for one socket
    QueueNode* head           # 8
    QueueNode* tail           # 8
    uint32_t bytes            # 4  still to be written
    uint32_t offset           # 4  bytes of the head that are written
    uint16_t count            # 2  packets
    uint16_t answers          # 2  ... that are the engine's own answers (OK, ERR, PONG ...)
    uint32_t next             # 4  slot of the next in the loop's dirty list

cdef struct Buffer:           # bytes of an incomplete frame, message or head (client/input_buffer.pxd)
    uint32_t size             # 4  capacity
    uint32_t used             # 4
    uint32_t since            # 4  tick of the first of them
    uint8_t data[8]           # and on

cdef struct Arriving:         # in CONN_HANDSHAKE
    uint8_t refusal           # 1  status, less 400, of the refusal that awaits its head; 0: none

cdef struct Joining:          # in CONN_JOINING: numbers of rooms of its URL
    uint8_t over              # 1  for which NATS accepts no subscription
    uint8_t waiting           # 1  not confirmed yet
    uint8_t denied            # 1  denied by NATS

cdef struct Gathering:        # from CONN_OPEN on: a fragmented message, and what is awaited
    uint8_t utf8              # 1  UTF8_* state of its text
    uint8_t binary            # 1
    uint8_t marks             # 1  MARK_*; undefined before CONN_OPEN and CONN_CLOSING

cdef union Phase:             # by Conn.state
    Arriving arriving
    Joining joining
    Gathering gathering

cdef struct Conn:
    int fd                    # 4
    uint32_t tag              # 4  random part of the address; the next free slot in a free one
    uint32_t slot             # 4
    uint32_t heard            # 4  tick of the last byte received
    Queue out                 # 32
    Buffer* pending           # 8  input left over; NULL: none
    uint8_t state             # 1
    Phase phase               # 3
    uint16_t flags            # 2
    uint16_t nrooms           # 2  memberships

cdef enum:
    # Ref.sub
    REF_WATCHES = 1           # with presence: queries the room once it is OK
    REF_WAS_MEMBER = 2        # the connection was a member before

cdef struct Ref:              # an outstanding ref: the client is owed an answer
    char text[REF_MAX]        # 16
    uint32_t deadline         # 4  tick
    uint8_t size              # 1
    uint8_t kind              # 1  REF_*
    uint8_t sub               # 1  REF_* of a SUB
    uint8_t taken             # 1  of a SUB: a new token took the room away before the answer
    uint32_t room             # 4  of a SUB: the room on its loop + 1; of a TO: when it went to NATS (latency.pxd); or 0

cdef struct Brief:            # what a connection with a token or with refs needs: malloc's smallest block
    Rights* rights            # 8  one reference; NULL: everything is allowed
    Ref* refs                 # 8
    uint32_t expires          # 4  tick at which its token and auth-grace end; 0: never
    uint16_t nrefs            # 2
    uint16_t refs_size        # 2

cdef struct Extra:            # what most connections never need
    Brief brief               # 24 allocated alone without FLAG_WHOLE
    Buffer* message           # 8  a fragmented message, unmasked so far
    uint32_t strikes_since    # 4  tick
    uint32_t progress         # 4  tick at which the client of a blocked socket last took bytes
    uint16_t strikes          # 2  malformed messages since strikes_since
    uint16_t close_code       # 2  for the hooks
    uint32_t missed           # 4  deliveries dropped since its last GAP
    int unsent                # 4  bytes in the kernel's send queue at the last check
    uint32_t tokens           # 4  in its bucket (rate_limit.pxd), where max-rate is set
    uint32_t filled           # 4  tick as of which they are counted; 0: never, the bucket is full
    uint32_t acked            # 4  bytes acknowledged in all when its pong was last overdue
    uint8_t window            # 1  bits of the window for compressed messages to it; 0: DEFLATE_MOST

cdef struct Membership:       # a membership as its connection stores it
    uint32_t room             # 4  index in the loop's rooms
    uint32_t position         # 4  in that room's members

cdef union Memberships:       # in one room: the membership itself; in more: an array
    Membership one
    Membership* many

cdef struct Cold:
    uint32_t next             # 4  slot of the next in its list of the wheel; of a dead one: in Loop.dead
    uint32_t prev             # 4
    uint32_t due              # 4  tick of its timer; 0: not armed
    # Tick of the last ping, or of the last check that gave it more time; 0: none. Until it is CONN_JOINING, when it was
    # accepted (tables/latency.pxd).
    uint32_t asked            # 4
    Memberships memberships   # 8
    Brief* brief              # 8  with FLAG_WHOLE that of an Extra; NULL: none

cdef struct Slab:
    Conn* conns[MAX_CHUNKS]   # 32768
    Cold* colds[MAX_CHUNKS]   # 32768
    uint32_t used             # 4  slots ever handed out
    uint32_t free_head        # 4  slot of the newest free one, linked by `tag`
    uint32_t live             # 4
    uint32_t chunks           # 4


cdef inline void slab_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(Queue) == 32)
    SE_STATIC_ASSERT(sizeof(Conn) == 64)
    SE_STATIC_ASSERT(sizeof(Cold) == 32)
    SE_STATIC_ASSERT(sizeof(Membership) == 8)
    SE_STATIC_ASSERT(sizeof(Ref) == 28)
    SE_STATIC_ASSERT(sizeof(Brief) == 24)
    SE_STATIC_ASSERT(sizeof(Extra) <= 80)  # with malloc's head: BLOCKED_COST


cdef inline Conn* slab_conn(Slab* slab, uint32_t slot) noexcept nogil:
    """Returns the connection of a slot below `used`; the pointer stays valid."""
    return &slab.conns[slot >> CHUNK_SHIFT][slot & (CHUNK_CONNS - 1)]


cdef inline Cold* slab_cold(Slab* slab, uint32_t slot) noexcept nogil:
    return &slab.colds[slot >> CHUNK_SHIFT][slot & (CHUNK_CONNS - 1)]


cdef inline Extra* slab_extra(Slab* slab, const Conn* c) noexcept nogil:
    """Returns its Extra; NULL if it has none yet."""
    return <Extra*>slab_cold(slab, c.slot).brief if c.flags & FLAG_WHOLE else NULL


cdef inline Extra* slab_whole(Slab* slab, const Conn* c) noexcept nogil:
    """Returns the Extra of a connection with FLAG_WHOLE; FLAG_BLOCKED and FLAG_GAP imply that."""
    return <Extra*>slab_cold(slab, c.slot).brief


cdef inline Conn* slab_find(Slab* slab, uint32_t slot, uint32_t tag) noexcept nogil:
    """Returns the connection of that slot and tag, CONN_DEAD included; NULL if there is none."""
    cdef Conn* c
    if slot >= slab.used:
        return NULL
    c = slab_conn(slab, slot)
    return c if c.tag == tag and c.state != CONN_FREE else NULL


cdef inline Conn* slab_find_id(Slab* slab, uint64_t id) noexcept nogil:
    """As slab_find, by an id of this loop."""
    return slab_find(slab, ids_slot(id), ids_tag(id))


cdef inline Span ref_text(const Ref* ref) noexcept nogil:
    """Returns the text; valid until a ref of the connection is added or removed."""
    return span_of(ref.text, ref.size)


cdef inline void* slab_pages_new(size_t n) noexcept nogil:
    """Maps zeroed pages, resident once touched; munmap frees them. NULL without memory."""
    cdef void* p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if p == MAP_FAILED else p


cdef inline bint _slab_grow(Slab* slab) noexcept nogil:
    cdef uint32_t chunk = slab.chunks
    if chunk == MAX_CHUNKS:
        return False
    slab.conns[chunk] = <Conn*>slab_pages_new(CHUNK_CONNS * sizeof(Conn))
    slab.colds[chunk] = <Cold*>slab_pages_new(CHUNK_CONNS * sizeof(Cold))
    if slab.conns[chunk] == NULL or slab.colds[chunk] == NULL:
        if slab.conns[chunk] != NULL:
            munmap(slab.conns[chunk], CHUNK_CONNS * sizeof(Conn))
        if slab.colds[chunk] != NULL:
            munmap(slab.colds[chunk], CHUNK_CONNS * sizeof(Cold))
        return False
    slab.chunks += 1
    return True


cdef inline Conn* slab_take(Slab* slab) noexcept nogil:
    """Takes a free slot: all zero but `slot` and `fd`, which the caller sets. NULL without memory."""
    cdef Conn* c
    cdef uint32_t slot = slab.free_head
    if slot != NO_SLOT:
        c = slab_conn(slab, slot)
        slab.free_head = c.tag
    else:
        if slab.used == slab.chunks * CHUNK_CONNS and not _slab_grow(slab):
            return NULL
        slot = slab.used
        slab.used += 1
        c = slab_conn(slab, slot)
    slab.live += 1
    c.slot = slot
    c.tag = 0
    return c


cdef inline void slab_free(Slab* slab, Conn* c) noexcept nogil:
    """Frees the slot. What its pointers owned must be freed already."""
    cdef uint32_t slot = c.slot
    memset(c, 0, sizeof(Conn))
    memset(slab_cold(slab, slot), 0, sizeof(Cold))
    c.fd = -1
    c.slot = slot
    c.tag = slab.free_head
    slab.free_head = slot
    slab.live -= 1


cdef inline void slab_init(Slab* slab) noexcept nogil:
    """Initializes zeroed memory."""
    slab.free_head = NO_SLOT


cdef inline void slab_end(Slab* slab) noexcept nogil:
    cdef uint32_t i
    for i in range(slab.chunks):
        munmap(slab.conns[i], CHUNK_CONNS * sizeof(Conn))
        munmap(slab.colds[i], CHUNK_CONNS * sizeof(Cold))
    slab.chunks = 0
