"""Packets, queue nodes, and their memory.

A Packet is an encoded unit on its way out (WebSocket frames or NATS protocol bytes), or an item of a mailbox. One
thread owns it at any time: the one that made it, then the loop that took it from its mailbox. Only the owner frees it.

A packet that should leave within the iteration lies in a region of the loop that made it. A packet that goes to another
thread, that several queues share, or that waits for a blocked socket lies on the heap.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from signal_core.base.limits cimport REGION_BYTES
from signal_core.base.span cimport Span, span_of
from signal_core.base.sys cimport SE_ASSERT, SE_STATIC_ASSERT
from signal_core.base.text cimport text_put_span

cdef enum:
    # Packet.flags
    PACKET_SHARED = 1        # in several queues, through a QueueNode for each
    PACKET_COUNTED = 2       # a delivery of the ledger; answers of the engine are not
    PACKET_PRESENCE = 4      # for NATS: if it is lost, other nodes must ask again

cdef struct Packet

cdef struct QueueNode:          # an entry of a write queue
    QueueNode* next             # 8
    Packet* packet              # 8

cdef struct Region:       # a block that packets are carved from; owned by one loop
    Region* next          # 8  the next free one
    uint32_t used         # 4  bytes handed out
    uint32_t live         # 4  packets in it that are not freed yet

cdef struct Packet:
    QueueNode self        # 16 its entry in the queue of its only receiver; unused if shared
    Packet* next          # 8  the next in a mailbox, an outbox or a list
    uint8_t* data         # 8  `size` bytes to write, followed by `text_size` bytes of text
    Region* region        # 8  the region it lies in; NULL: on the heap
    uint32_t size         # 4
    uint32_t refs         # 4  if shared: queues that hold it, plus 1 until packet_let_go
    uint32_t expires      # 4  tick after which it is no longer written; 0: never
    uint16_t text_size    # 2
    uint8_t kind          # 1  KIND_*
    uint8_t tell          # 1  TELL_*
    uint8_t code          # 1  kinds.pxd says what it means, and the last four fields
    uint8_t flags         # 1  PACKET_*
    uint16_t ttl_end      # 2  KIND_NATS: offset of the end of Signal-Ttl's digits in the data; 0: no such header
    uint16_t more_frames  # 2  frames in the data after the first; only presence puts several into one packet
    uint16_t spare        # 2
    uint64_t origin       # 8  id of the sending connection, if any
    uint64_t target       # 8
    uint64_t hash         # 8
    void* pointer         # 8

cdef struct QueueNodeBlock:     # the head of a block of queue nodes
    QueueNodeBlock* next        # 8

cdef struct Mem:            # a thread's packets and queue nodes; no other thread touches it
    Region* current         # 8
    Region* regions         # 8  free ones
    QueueNode* nodes        # 8  free ones
    QueueNodeBlock* blocks  # 8  the blocks that queue nodes come from
    QueueNodeBlock* old     # 8  blocks without a node in use, which memory_shrink frees
    uint64_t shared         # 8  packets with PACKET_SHARED; while there are none, every node is free
    uint64_t made           # 8  packets made here
    uint64_t freed          # 8  packets freed here, wherever they were made

cdef enum:
    QUEUE_NODES_A_BLOCK = 255        # nodes in a block


cdef inline void memory_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(Packet) == 96)
    SE_STATIC_ASSERT(sizeof(Region) == 16)


cdef inline Region* _region_take(Mem* mem) noexcept nogil:
    """Makes an empty region the current one; NULL without memory."""
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
    """Returns a zeroed packet on the heap with room for `room` bytes of data and text; NULL without memory."""
    cdef Packet* packet = <Packet*>malloc(sizeof(Packet) + room)
    if packet == NULL:
        return NULL
    _packet_init(packet, kind)
    mem.made += 1
    return packet


cdef inline Packet* packet_new(Mem* mem, size_t room, uint8_t kind) noexcept nogil:
    """As packet_new_heap, but in a region if possible. For packets that stay on this thread."""
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
    """Frees a packet that no queue holds. The owner calls it."""
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
    """Copies a packet to the heap, frees the original and returns the copy. NULL without memory: the original stays.

    The packet must not be shared. If it is in a queue, the caller replaces its node.
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
    """Returns a copy on the heap for another thread, without `code`, `pointer`, `ttl_end` and `more_frames`; NULL
    without memory."""
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
    """Frees the unused room of a packet on the heap that no queue or list holds. Returns its new address."""
    cdef Packet* smaller = <Packet*>realloc(packet, sizeof(Packet) + packet.size + packet.text_size)
    if smaller == NULL:
        return packet
    smaller.self.packet = smaller
    smaller.data = <uint8_t*>smaller + sizeof(Packet)
    return smaller


cdef inline void packet_set_data(Packet* packet, Span data) noexcept nogil:
    """Copies the data; the packet was made with room for it."""
    if data.size:
        memcpy(packet.data, data.at, data.size)
    packet.size = <uint32_t>data.size


cdef inline void packet_set_end(Packet* packet, const char* end) noexcept nogil:
    """Sets the size by where the data ends."""
    packet.size = <uint32_t>(end - <const char*>packet.data)


cdef inline Span packet_data(const Packet* packet) noexcept nogil:
    """Returns the data; valid as long as the packet."""
    return span_of(packet.data, packet.size)


cdef inline void packet_set_text(Packet* packet, Span text) noexcept nogil:
    """Appends the text. `size` must be final, and the packet made with room for the text."""
    text_put_span(<char*>packet.data + packet.size, text)
    packet.text_size = <uint16_t>text.size


cdef inline Span packet_text(const Packet* packet) noexcept nogil:
    """Returns the text; valid as long as the packet."""
    return span_of(packet.data + packet.size, packet.text_size)


cdef inline QueueNode* queue_node_new(Mem* mem) noexcept nogil:
    """Returns a queue node for a shared packet; NULL without memory."""
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
    """Allows several queues to hold a packet. The caller holds it until packet_let_go."""
    packet.flags |= PACKET_SHARED
    packet.refs = 1
    mem.shared += 1


cdef inline void packet_let_go(Mem* mem, Packet* packet) noexcept nogil:
    """Releases a shared packet; the last holder frees it."""
    packet.refs -= 1
    if packet.refs == 0:
        mem.shared -= 1
        packet_free(mem, packet)


cdef inline void packet_unref(Mem* mem, QueueNode* node) noexcept nogil:
    """Releases the packet of a node that has left its queue; the last holder frees it. `node` is invalid afterwards."""
    cdef Packet* packet = node.packet
    if not packet.flags & PACKET_SHARED:
        packet_free(mem, packet)
        return
    _queue_node_free(mem, node)
    packet_let_go(mem, packet)


cdef inline bint memory_shrink(Mem* mem, uint32_t most) noexcept nogil:
    """Frees what a burst left behind: free regions and, while no packet is shared, up to `most` blocks of queue nodes.
    False: more blocks are to be freed."""
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
    """Frees the regions and blocks. Every packet must have been freed."""
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
