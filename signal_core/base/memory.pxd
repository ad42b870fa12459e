"""Messages on their way out, and where their bytes live.

A Packet is one encoded outgoing unit (a WebSocket frame, or NATS protocol bytes) or one item of an inbox. It is
made by one
thread and at any moment owned by one: the maker, then (through an inbox) the loop that drained it. Only the owner
frees it. Bytes lie in the making loop's region while they are expected to leave within the iteration, else in the heap;
what goes to another thread, is shared by several receivers, or waits for a blocked socket, is always in the heap.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from signal_core.base.limits cimport REGION_BYTES
from signal_core.base.sys cimport SE_ASSERT, SE_STATIC_ASSERT

cdef enum:
    # Packet.flags
    PACKET_SHARED = 1        # held by several queues, each through an Out of its own
    PACKET_COUNTED = 2       # a delivery of the ledger (the engine's own answers are not)
    PACKET_PRESENCE = 4      # for NATS: where it is lost, other nodes are made to ask anew

cdef struct Packet

cdef struct QueueNode:          # of one message in one queue
    QueueNode* next             # 8
    Packet* packet              # 8

cdef struct Region:       # one stretch of encoded messages; owned by one loop
    Region* next          # 8  in the list of free regions
    uint32_t used         # 4  bytes given out
    uint32_t live         # 4  messages not yet freed

cdef struct Packet:
    QueueNode self        # 16 its node in the queue of its one receiver
    Packet* next          # 8  the next in an inbox, an outbox or a list
    uint8_t* data         # 8  the bytes; the text follows them
    Region* region        # 8  where it lies; NULL: the heap
    uint32_t size         # 4  bytes to write
    uint32_t refs         # 4  of a shared one: queues that hold it, and its maker until packet_let_go
    uint32_t expires      # 4  tick after which it is not written; 0: never
    uint16_t text_size    # 2  bytes of the text
    uint8_t kind          # 1
    uint8_t tell          # 1
    uint8_t code          # 1
    uint8_t flags         # 1
    uint16_t ttl_end      # 2  KIND_NATS: offset of the end of Signal-Ttl's digits in the data; 0: no such header
    uint16_t more_frames  # 2  frames in the data after the first; only presence puts several into one packet
    uint16_t spare        # 2
    uint64_t origin       # 8  id of the sending connection, 0 where it is none
    uint64_t target       # 8
    uint64_t hash         # 8
    void* pointer         # 8

cdef struct QueueNodeBlock:     # a block of the pool of queue nodes
    QueueNodeBlock* next        # 8

cdef struct Mem:            # a thread's memory for messages; nobody else touches it
    Region* current         # 8
    Region* regions         # 8  free ones
    QueueNode* nodes        # 8  free ones
    QueueNodeBlock* blocks  # 8  all blocks of those, to free them
    QueueNodeBlock* old     # 8  blocks that nothing lies in any more, on their way out
    uint64_t shared         # 8  messages with PACKET_SHARED: while there are none, all nodes are free
    uint64_t made           # 8  messages made here
    uint64_t freed          # 8  messages freed here, also others'

cdef enum:
    QUEUE_NODES_A_BLOCK = 255        # made at once


cdef inline void memory_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(Packet) == 96)
    SE_STATIC_ASSERT(sizeof(Region) == 16)


cdef inline Region* _region_take(Mem* mem) noexcept nogil:
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


cdef inline void _packet_init(Packet* packet, uint8_t kind) noexcept nogil:
    memset(packet, 0, sizeof(Packet))
    packet.self.packet = packet
    packet.kind = kind
    packet.data = <uint8_t*>packet + sizeof(Packet)


cdef inline Packet* packet_new_heap(Mem* mem, size_t room, uint8_t kind) noexcept nogil:
    """A message with room for `room` bytes of data and text, in the heap; NULL without memory."""
    cdef Packet* packet = <Packet*>malloc(sizeof(Packet) + room)
    if packet == NULL:
        return NULL
    _packet_init(packet, kind)
    mem.made += 1
    return packet


cdef inline Packet* packet_new(Mem* mem, size_t room, uint8_t kind) noexcept nogil:
    """As packet_new_heap, but in the region where it fits and can be had; only for what stays on this thread."""
    cdef Region* region = mem.current
    cdef size_t need = (sizeof(Packet) + room + 15) & ~<size_t>15
    cdef Packet* packet
    if need > REGION_BYTES // 8:
        return packet_new_heap(mem, room, kind)
    if region == NULL or region.used + need > REGION_BYTES:
        region = _region_take(mem)
        if region == NULL:
            return packet_new_heap(mem, room, kind)
    packet = <Packet*>(<uint8_t*>region + sizeof(Region) + region.used)
    region.used += <uint32_t>need
    region.live += 1
    _packet_init(packet, kind)
    packet.region = region
    mem.made += 1
    return packet


cdef inline void packet_free(Mem* mem, Packet* packet) noexcept nogil:
    """By the owner, when no queue holds it any more."""
    cdef Region* region = packet.region
    mem.freed += 1
    if region == NULL:
        free(packet)
        return
    SE_ASSERT(region.live > 0)
    region.live -= 1
    if region.live == 0:
        region.used = 0
        if region != mem.current:
            region.next = mem.regions
            mem.regions = region


cdef inline Packet* packet_to_heap(Mem* mem, Packet* packet) noexcept nogil:
    """The same message in the heap, the old one freed; NULL (and the old one kept) without memory.

    Only for a message that one queue holds, by its own node: the caller links the new node instead.
    """
    cdef size_t bytes = <size_t>packet.size + packet.text_size
    cdef Packet* copy = <Packet*>malloc(sizeof(Packet) + bytes)
    if copy == NULL:
        return NULL
    memcpy(copy, packet, sizeof(Packet))
    copy.region = NULL
    copy.self.packet = copy
    copy.data = <uint8_t*>copy + sizeof(Packet)
    memcpy(copy.data, packet.data, bytes)
    mem.made += 1
    packet_free(mem, packet)
    return copy


cdef inline Packet* packet_copy(Mem* mem, const Packet* packet) noexcept nogil:
    """A copy in the heap, for another thread; NULL without memory."""
    cdef size_t bytes = <size_t>packet.size + packet.text_size
    cdef Packet* copy = packet_new_heap(mem, bytes, packet.kind)
    if copy == NULL:
        return NULL
    copy.size = packet.size
    copy.text_size = packet.text_size
    copy.expires = packet.expires
    copy.tell = packet.tell
    copy.flags = packet.flags
    copy.origin = packet.origin
    copy.target = packet.target
    copy.hash = packet.hash
    memcpy(copy.data, packet.data, bytes)
    return copy


cdef inline Packet* packet_shrunk(Packet* packet) noexcept nogil:
    """The same message, of the heap and in no queue or list, without the room that it does not use."""
    cdef Packet* smaller = <Packet*>realloc(packet, sizeof(Packet) + packet.size + packet.text_size)
    if smaller == NULL:
        return packet
    smaller.self.packet = smaller
    smaller.data = <uint8_t*>smaller + sizeof(Packet)
    return smaller


cdef inline void packet_set_text(Packet* packet, const char* text, size_t n) noexcept nogil:
    """After `size` is final; the room for it was asked for with the message."""
    if n:
        memcpy(packet.data + packet.size, text, n)
    packet.text_size = <uint16_t>n


cdef inline char* packet_text(Packet* packet) noexcept nogil:
    return <char*>packet.data + packet.size


cdef inline QueueNode* queue_node_new(Mem* mem) noexcept nogil:
    """A queue node for a shared message; NULL without memory."""
    cdef QueueNodeBlock* block
    cdef QueueNode* node
    cdef int i
    if mem.nodes == NULL:
        block = <QueueNodeBlock*>malloc(sizeof(QueueNodeBlock) + QUEUE_NODES_A_BLOCK * sizeof(QueueNode))
        if block == NULL:
            return NULL
        block.next = mem.blocks
        mem.blocks = block
        node = <QueueNode*>(<uint8_t*>block + sizeof(QueueNodeBlock))
        for i in range(QUEUE_NODES_A_BLOCK):
            node[i].next = mem.nodes
            mem.nodes = &node[i]
    node = mem.nodes
    mem.nodes = node.next
    return node


cdef inline void _queue_node_free(Mem* mem, QueueNode* node) noexcept nogil:
    node.next = mem.nodes
    mem.nodes = node


cdef inline void packet_share(Mem* mem, Packet* packet) noexcept nogil:
    """From here on it may lie in several queues. The caller holds it, too, until packet_let_go."""
    packet.flags |= PACKET_SHARED
    packet.refs = 1
    mem.shared += 1


cdef inline void packet_let_go(Mem* mem, Packet* packet) noexcept nogil:
    """One holder of a shared message less; the last one frees it."""
    packet.refs -= 1
    if packet.refs == 0:
        mem.shared -= 1
        packet_free(mem, packet)


cdef inline void packet_unref(Mem* mem, QueueNode* node) noexcept nogil:
    """A queue lets go of a message; the last one frees it. `node` is invalid afterwards."""
    cdef Packet* packet = node.packet
    if not packet.flags & PACKET_SHARED:
        packet_free(mem, packet)
        return
    _queue_node_free(mem, node)
    packet_let_go(mem, packet)


cdef inline bint memory_shrink(Mem* mem, uint32_t most) noexcept nogil:
    """Frees what a burst has left: the free regions, and where no message is shared all blocks of nodes, at most so
    many blocks. False: there are more."""
    cdef Region* region
    cdef QueueNodeBlock* block
    while mem.regions != NULL:
        region = mem.regions
        mem.regions = region.next
        free(region)
    if mem.old == NULL and mem.shared == 0:
        mem.old = mem.blocks
        mem.blocks = NULL
        mem.nodes = NULL
    while mem.old != NULL and most:
        block = mem.old
        mem.old = block.next
        free(block)
        most -= 1
    return mem.old == NULL


cdef inline void memory_end(Mem* mem) noexcept nogil:
    """Frees the regions and blocks; every message must have been freed before."""
    cdef Region* region
    cdef QueueNodeBlock* block
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
    mem.nodes = NULL
