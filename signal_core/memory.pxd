"""Messages on their way out, and where their bytes live. L1.

A Msg is one encoded outgoing unit (a WebSocket frame, or NATS protocol bytes) or one item of an inbox. It is
made by one
thread and at any moment owned by one: the maker, then (through an inbox) the loop that drained it. Only the owner
frees it. Bytes lie in the making loop's region while they are expected to leave within the iteration, else in the heap;
what goes to another thread, is shared by several receivers, or waits for a blocked socket, is always in the heap.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from signal_core.limits cimport REGION_BYTES
from signal_core.sys cimport SE_ASSERT, SE_STATIC_ASSERT

cdef enum:
    # What a Msg is. In an inbox:
    KIND_FRAME = 0        # a frame, already with its receiver (never in an inbox)
    KIND_TO = 1           # a frame for one connection, `target` its id
    KIND_ROOM = 2         # a frame for the members of a room, `target` its serial, `hash` its hash
    KIND_RECEIPT = 3      # `target` hears `code` for the ref in the text
    KIND_NATS = 4         # bytes for the NATS link
    KIND_SYNC = 5         # a room's interest changed: the link looks at `pointer`, a RoomEntry
    KIND_STOP = 6         # end the loop; `hash` not 0: drain it, over so many ticks
    KIND_KICK = 7         # close the connection `target` with close code `code`
    KIND_SNAPSHOT = 8     # copy the counters for a reader
    KIND_DIAL = 9         # the link connects to the address in the data; none: what `hash` says, DIAL_*
    KIND_CONNECT = 10     # CONNECT in the data, for the link; `hash` is NATS's max_payload, `pointer` a session of TLS
    KIND_EVENT = 11       # a word to Python: `code` says which, the text explains
    KIND_AWAIT = 12       # `target` wants the receipt for SUB of the room at `pointer`
    KIND_INQUIRY = 40     # an operator's question; its fields are in inquiry.pxd
    KIND_VERDICT = 30     # on the token of `target`; its fields are in auth.pxd

    KIND_NEWS = 20        # frames for the listeners of a room, named as in KIND_ROOM; `origin`: 0 or marks
    KIND_ASK = 21         # a listener wants to know who is in the room in the data; `target` numbers the question
    KIND_QUESTION = 22    # who is in the room, named as in KIND_ROOM? `origin` numbers it, the data is which node asks
    KIND_SERVICE = 23     # the service joins (`code` 1) or leaves the room in the data

    DIAL_GIVE_UP = 0      # the server can't be used
    DIAL_INFO_TAKEN = 1   # Python has handled an INFO
    DIAL_LEAVE = 2        # the server is about to end, and there is another

    # To whom a Msg's fate is told.
    TELL_NOBODY = 0
    TELL_PEER = 1         # the connection `origin`; the text is its ref
    TELL_SUBJECT = 2      # the text is a NATS subject

    MSG_SHARED = 1        # held by several queues, each through an Out of its own
    MSG_COUNTED = 2       # a delivery of the ledger (the engine's own answers are not)
    MSG_PRESENCE = 4      # for NATS: where it is lost, other nodes are made to ask anew

cdef struct Msg

cdef struct Out:          # a place in a queue
    Out* next             # 8
    Msg* msg              # 8

cdef struct Region:       # one stretch of encoded messages; owned by one loop
    Region* next          # 8  in the list of free regions
    uint32_t used         # 4  bytes given out
    uint32_t live         # 4  messages not yet freed

cdef struct Msg:
    Out self              # 16 its place in the queue of its one receiver
    Msg* next             # 8  the next in an inbox, an outbox or a list
    uint8_t* data         # 8  the bytes; the text follows them
    Region* region        # 8  where it lies; NULL: the heap
    uint32_t size         # 4  bytes to write
    uint32_t refs         # 4  of a shared one: queues that hold it, and its maker until msg_let_go
    uint32_t expires      # 4  tick after which it is not written; 0: never
    uint16_t text_size    # 2  bytes of the text
    uint8_t kind          # 1
    uint8_t tell          # 1
    uint8_t code          # 1
    uint8_t flags         # 1
    uint16_t ttl_end      # 2  for NATS: offset of the end of Signal-Ttl's digits, 0: it has none; else: frames but one
    uint64_t origin       # 8  id of the sending connection, 0 where it is none
    uint64_t target       # 8
    uint64_t hash         # 8
    void* pointer         # 8

cdef struct OutBlock:     # a block of the pool of places
    OutBlock* next        # 8

cdef struct Mem:          # a thread's memory for messages; nobody else touches it
    Region* current       # 8
    Region* regions       # 8  free ones
    Out* places           # 8  free ones
    OutBlock* blocks      # 8  all blocks of those, to free them
    OutBlock* old         # 8  blocks that nothing lies in any more, on their way out
    uint64_t shared       # 8  messages with MSG_SHARED: while there are none, all places are free
    uint64_t made         # 8  messages made here
    uint64_t freed        # 8  messages freed here, also others'

cdef enum:
    OUTS_A_BLOCK = 255        # places made at once


cdef inline void memory_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(Msg) == 96)
    SE_STATIC_ASSERT(sizeof(Region) == 16)


cdef inline Region* region_take(Mem* mem) noexcept nogil:
    """An empty region made current; NULL without memory."""
    cdef Region* region = mem.regions
    if region != NULL:
        mem.regions = region.next
    else:
        region = <Region*>malloc(sizeof(Region) + REGION_BYTES)
        if region == NULL:
            return NULL
    region.next = NULL
    region.used = 0
    region.live = 0
    mem.current = region
    return region


cdef inline void msg_init(Msg* msg, uint8_t kind) noexcept nogil:
    memset(msg, 0, sizeof(Msg))
    msg.self.msg = msg
    msg.kind = kind
    msg.data = <uint8_t*>msg + sizeof(Msg)


cdef inline Msg* msg_new_heap(Mem* mem, size_t room, uint8_t kind) noexcept nogil:
    """A message with place for `room` bytes of data and text, in the heap; NULL without memory."""
    cdef Msg* msg = <Msg*>malloc(sizeof(Msg) + room)
    if msg == NULL:
        return NULL
    msg_init(msg, kind)
    mem.made += 1
    return msg


cdef inline Msg* msg_new(Mem* mem, size_t room, uint8_t kind) noexcept nogil:
    """As msg_new_heap, but in the region where it fits and can be had; only for what stays on this thread."""
    cdef Region* region = mem.current
    cdef size_t need = (sizeof(Msg) + room + 15) & ~<size_t>15
    cdef Msg* msg
    if need > REGION_BYTES // 8:
        return msg_new_heap(mem, room, kind)
    if region == NULL or region.used + need > REGION_BYTES:
        region = region_take(mem)
        if region == NULL:
            return msg_new_heap(mem, room, kind)
    msg = <Msg*>(<uint8_t*>region + sizeof(Region) + region.used)
    region.used += <uint32_t>need
    region.live += 1
    msg_init(msg, kind)
    msg.region = region
    mem.made += 1
    return msg


cdef inline void msg_free(Mem* mem, Msg* msg) noexcept nogil:
    """By the owner, when no queue holds it any more."""
    cdef Region* region = msg.region
    mem.freed += 1
    if region == NULL:
        free(msg)
        return
    SE_ASSERT(region.live > 0)
    region.live -= 1
    if region.live == 0:
        region.used = 0
        if region != mem.current:
            region.next = mem.regions
            mem.regions = region


cdef inline Msg* msg_to_heap(Mem* mem, Msg* msg) noexcept nogil:
    """The same message in the heap, the old one freed; NULL (and the old one kept) without memory.

    Only for a message that one queue holds, as its own place: the caller links the new place instead.
    """
    cdef size_t bytes = <size_t>msg.size + msg.text_size
    cdef Msg* copy = <Msg*>malloc(sizeof(Msg) + bytes)
    if copy == NULL:
        return NULL
    memcpy(copy, msg, sizeof(Msg))
    copy.region = NULL
    copy.self.msg = copy
    copy.data = <uint8_t*>copy + sizeof(Msg)
    memcpy(copy.data, msg.data, bytes)
    mem.made += 1
    msg_free(mem, msg)
    return copy


cdef inline Msg* msg_copy(Mem* mem, const Msg* msg) noexcept nogil:
    """A copy in the heap, for another thread; NULL without memory."""
    cdef size_t bytes = <size_t>msg.size + msg.text_size
    cdef Msg* copy = msg_new_heap(mem, bytes, msg.kind)
    if copy == NULL:
        return NULL
    copy.size = msg.size
    copy.text_size = msg.text_size
    copy.expires = msg.expires
    copy.tell = msg.tell
    copy.flags = msg.flags
    copy.origin = msg.origin
    copy.target = msg.target
    copy.hash = msg.hash
    memcpy(copy.data, msg.data, bytes)
    return copy


cdef inline Msg* msg_shrunk(Msg* msg) noexcept nogil:
    """The same message, of the heap and in no queue or list, without the room that it does not use."""
    cdef Msg* smaller = <Msg*>realloc(msg, sizeof(Msg) + msg.size + msg.text_size)
    if smaller == NULL:
        return msg
    smaller.self.msg = smaller
    smaller.data = <uint8_t*>smaller + sizeof(Msg)
    return smaller


cdef inline void msg_set_text(Msg* msg, const char* text, size_t n) noexcept nogil:
    """After `size` is final; the room for it was asked for with the message."""
    if n:
        memcpy(msg.data + msg.size, text, n)
    msg.text_size = <uint16_t>n


cdef inline char* msg_text(Msg* msg) noexcept nogil:
    return <char*>msg.data + msg.size


cdef inline Out* place_new(Mem* mem) noexcept nogil:
    """A place in a queue for a shared message; NULL without memory."""
    cdef OutBlock* block
    cdef Out* place
    cdef int i
    if mem.places == NULL:
        block = <OutBlock*>malloc(sizeof(OutBlock) + OUTS_A_BLOCK * sizeof(Out))
        if block == NULL:
            return NULL
        block.next = mem.blocks
        mem.blocks = block
        place = <Out*>(<uint8_t*>block + sizeof(OutBlock))
        for i in range(OUTS_A_BLOCK):
            place[i].next = mem.places
            mem.places = &place[i]
    place = mem.places
    mem.places = place.next
    return place


cdef inline void place_free(Mem* mem, Out* place) noexcept nogil:
    place.next = mem.places
    mem.places = place


cdef inline void msg_share(Mem* mem, Msg* msg) noexcept nogil:
    """From here on it may lie in several queues. The caller holds it, too, until msg_let_go."""
    msg.flags |= MSG_SHARED
    msg.refs = 1
    mem.shared += 1


cdef inline void msg_let_go(Mem* mem, Msg* msg) noexcept nogil:
    """One holder of a shared message less; the last one frees it."""
    msg.refs -= 1
    if msg.refs == 0:
        mem.shared -= 1
        msg_free(mem, msg)


cdef inline void msg_unref(Mem* mem, Out* place) noexcept nogil:
    """A queue lets go of a message; the last one frees it. `place` is invalid afterwards."""
    cdef Msg* msg = place.msg
    if not msg.flags & MSG_SHARED:
        msg_free(mem, msg)
        return
    place_free(mem, place)
    msg_let_go(mem, msg)


cdef inline bint memory_shrink(Mem* mem, uint32_t most) noexcept nogil:
    """Frees what a burst has left: the free regions, and where no message is shared all blocks of places, at most so
    many blocks. False: there are more."""
    cdef Region* region
    cdef OutBlock* block
    while mem.regions != NULL:
        region = mem.regions
        mem.regions = region.next
        free(region)
    if mem.old == NULL and mem.shared == 0:
        mem.old = mem.blocks
        mem.blocks = NULL
        mem.places = NULL
    while mem.old != NULL and most:
        block = mem.old
        mem.old = block.next
        free(block)
        most -= 1
    return mem.old == NULL


cdef inline void memory_end(Mem* mem) noexcept nogil:
    """Frees the regions and blocks; every message must have been freed before."""
    cdef Region* region
    cdef OutBlock* block
    if mem.current != NULL:
        mem.current.next = mem.regions
        mem.regions = mem.current
        mem.current = NULL
    while mem.regions != NULL:
        region = mem.regions
        mem.regions = region.next
        free(region)
    while mem.old != NULL:
        block = mem.old
        mem.old = block.next
        free(block)
    while mem.blocks != NULL:
        block = mem.blocks
        mem.blocks = block.next
        free(block)
    mem.places = NULL
