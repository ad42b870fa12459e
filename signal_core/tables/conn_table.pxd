"""Connections: their two structs, and the slabs that hold them.

A slot is never moved. What every message reads is one cache line (Conn); what only timers, rooms and receipts need is
beside it (Cold). Owned by the loop; no other thread reads or writes either.
"""

from libc.stdint cimport uint16_t, uint32_t, uint8_t
from libc.string cimport memset
from signal_core.base.limits cimport CHUNK_CONNS, CHUNK_SHIFT, MAX_CHUNKS
from signal_core.base.memory cimport QueueNode
from signal_core.base.sys cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, SE_STATIC_ASSERT, mmap, munmap,
)
from signal_core.tables.acl cimport Rights
from signal_core.wire.ids cimport REF_MAX

cdef enum:
    # Conn.state
    CONN_FREE = 0
    CONN_HANDSHAKE = 1        # its HTTP head is not complete
    CONN_AUTHENTICATING = 2   # its head is kept while its token is judged; not read meanwhile
    CONN_JOINING = 3          # upgraded; the rooms of its URL are not confirmed, HELLO is to come
    CONN_OPEN = 4
    CONN_CLOSING = 5          # our Close frame is queued or sent: waits for theirs
    CONN_LINGER = 6           # nothing more to say: bytes are thrown away until the other end closes
    CONN_DEAD = 7             # closed; freed at the end of the iteration

    # Conn.flags
    FLAG_DIRTY = 1            # in the loop's list of queues to write
    FLAG_BLOCKED = 2          # the socket is full: EPOLLOUT is armed
    FLAG_READY = 4            # in the loop's list of connections with input left over
    FLAG_PAUSED = 8           # not read: it does not take its answers
    FLAG_LAST = 16            # what is queued is the last: then shut down the sending side
    FLAG_DONE = 32            # ... and close at once, the close handshake is complete
    FLAG_WEBSOCKET = 64       # upgraded: counted among the connections
    FLAG_DELAYED = 128        # not read: in the loop's list of connections that wait until what they caused is done
    FLAG_LEAVING = 256        # closed by a drain: counted in Drain.leaving
    FLAG_GAP = 512            # deliveries to it were dropped that it is to hear of with what is written next

    FLAG_WHOLE = 1024         # Cold.brief is a whole Extra
    FLAG_PARTS = 2048         # Extra.message holds the first frames of a message

    FLAG_USER = 4096          # it has a user: its first place is the room `@<user>`
    FLAG_LIMITED = 8192       # Extra.rights bound it
    FLAG_RENEWING = 16384     # an AUTH of its awaits the decision

    FLAG_QUOTA = 32768        # it counts against max-connections

    NO_SLOT = 0xffffffff

cdef struct Queue:            # what waits to be written to one socket
    QueueNode* head           # 8
    QueueNode* tail           # 8
    uint32_t bytes            # 4  of all its messages, less what is written of the head
    uint32_t offset           # 4  bytes of the head already written
    uint16_t count            # 2  messages
    uint16_t answers          # 2  of those, the engine's own (OK, ERR, PONG ...)
    uint32_t next             # 4  slot of the next in the loop's dirty list

cdef struct Buffer:           # bytes of a frame, message or head that is not complete
    uint32_t size             # 4  capacity
    uint32_t used             # 4
    uint32_t since            # 4  tick of the first of them
    uint8_t data[8]           # and on

cdef struct Arriving:         # of a connection up to CONN_HANDSHAKE
    uint8_t refusal           # 1  status to refuse it with once its head is there, less 400; 0: none

cdef struct Joining:          # ... up to CONN_JOINING: rooms of its URL
    uint8_t over              # 1  that NATS has no place for
    uint8_t waiting           # 1  not yet confirmed
    uint8_t denied            # 1  that NATS did not allow

cdef struct Gathering:        # ... from CONN_OPEN on: of a fragmented message
    uint8_t utf8              # 1  state of its text
    uint8_t binary            # 1

cdef union Phase:             # by Conn.state
    Arriving arriving
    Joining joining
    Gathering gathering

cdef struct Conn:
    int fd                    # 4
    uint32_t tag              # 4  random; part of the address
    uint32_t slot             # 4
    uint32_t heard            # 4  tick of the last byte received
    Queue out                 # 32
    Buffer* pending           # 8  input left over; NULL: none
    uint8_t state             # 1
    Phase phase               # 3
    uint16_t flags            # 2
    uint16_t nrooms           # 2  memberships

cdef enum:
    # Ref.watches
    WATCHES_NEW = 1           # it is a member by this SUB
    WATCHES_MEMBER = 2        # it was one before

cdef struct Ref:              # an answer that a connection is owed
    char text[REF_MAX]        # 16
    uint32_t deadline         # 4  tick
    uint8_t size              # 1
    uint8_t kind              # 1  REF_*
    uint8_t watches           # 1  WATCHES_*: a SUB with presence, which asks for the roster once it is OK
    uint8_t taken             # 1  a SUB: another token took the room away before it was answered
    uint32_t room             # 4  of a SUB: the room on its loop + 1; else 0

cdef struct Brief:            # what a connection with a token or with refs needs: one malloc of its smallest size
    Rights* rights            # 8  one hold of them; NULL: everything is allowed
    Ref* refs                 # 8
    uint32_t expires          # 4  tick at which its token has ended, the grace included; 0: never
    uint16_t nrefs            # 2
    uint16_t refs_size        # 2

cdef struct Extra:            # what most connections never need
    Brief brief               # 24 all that there is without FLAG_WHOLE
    Buffer* message           # 8  a fragmented message, unmasked so far
    uint32_t strikes_since    # 4  tick
    uint32_t progress         # 4  tick at which the other end of a blocked socket last took bytes
    uint16_t strikes          # 2  malformed messages since then
    uint16_t close_code       # 2  for the hooks
    uint32_t missed           # 4  deliveries dropped since its last GAP
    int unsent                # 4  bytes that the kernel still held for it at the last look
    uint32_t tokens           # 4  of its bucket (input_buffer.pxd), where max-rate is set
    uint32_t filled           # 4  tick at which they were counted; 0: never, it is full
    uint32_t acked            # 4  bytes that its end had acknowledged when it last owed a pong for too long

cdef struct Membership:       # one membership, the connection's side
    uint32_t room             # 4  index in the loop's rooms
    uint32_t position         # 4  in that room's members

cdef union Memberships:       # of a connection in one room: the membership itself; in more: an array
    Membership one
    Membership* many

cdef struct Cold:
    uint32_t next             # 4  slot of the next in the same list of the wheel
    uint32_t prev             # 4
    uint32_t due              # 4  tick; 0: not armed
    uint32_t asked            # 4  tick of the last ping, or of the last look that gave it more time; 0: none so far
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
    SE_STATIC_ASSERT(sizeof(Extra) <= 80)  # and malloc's head: BLOCKED_COST


cdef inline Conn* slab_conn(Slab* slab, uint32_t slot) noexcept nogil:
    """For a slot that was handed out."""
    return &slab.conns[slot >> CHUNK_SHIFT][slot & (CHUNK_CONNS - 1)]


cdef inline Cold* slab_cold(Slab* slab, uint32_t slot) noexcept nogil:
    return &slab.colds[slot >> CHUNK_SHIFT][slot & (CHUNK_CONNS - 1)]


cdef inline Extra* slab_extra(Slab* slab, const Conn* c) noexcept nogil:
    """NULL where it needed none so far."""
    return <Extra*>slab_cold(slab, c.slot).brief if c.flags & FLAG_WHOLE else NULL


cdef inline Extra* slab_whole(Slab* slab, const Conn* c) noexcept nogil:
    """Of one with FLAG_WHOLE, which is any that is FLAG_BLOCKED or has FLAG_GAP."""
    return <Extra*>slab_cold(slab, c.slot).brief


cdef inline Conn* slab_find(Slab* slab, uint32_t slot, uint32_t tag) noexcept nogil:
    """The connection of that slot and tag, dead or alive; NULL where there is none."""
    cdef Conn* c
    if slot >= slab.used:
        return NULL
    c = slab_conn(slab, slot)
    return c if c.tag == tag and c.state != CONN_FREE else NULL


cdef inline void* slab_pages_new(size_t n) noexcept nogil:
    """Zeroed pages, resident once touched; NULL without memory."""
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
    """A free slot, all zero but `slot`; NULL without memory."""
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
    """Gives the slot back; whatever hung on it has been freed."""
    cdef uint32_t slot = c.slot
    memset(c, 0, sizeof(Conn))
    memset(slab_cold(slab, slot), 0, sizeof(Cold))
    c.fd = -1
    c.slot = slot
    c.tag = slab.free_head
    slab.free_head = slot
    slab.live -= 1


cdef inline void slab_init(Slab* slab) noexcept nogil:
    """On zeroed memory."""
    slab.free_head = NO_SLOT


cdef inline void slab_end(Slab* slab) noexcept nogil:
    cdef uint32_t i
    for i in range(slab.chunks):
        munmap(slab.conns[i], CHUNK_CONNS * sizeof(Conn))
        munmap(slab.colds[i], CHUNK_CONNS * sizeof(Cold))
    slab.chunks = 0
