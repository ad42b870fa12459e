"""Compresses messages for the connections that negotiated permessage-deflate (RFC 7692). Runs on their loop.

Mailboxes and NATS carry plain messages. A message is compressed when it is queued for a connection, once for all
members of a room on a loop (route.pxd). One that is shorter than deflate-threshold, or would not get shorter, goes
plain.
"""

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memmove
from signal_core.base.counters cimport C_DEFLATE_SAVED, C_MESSAGES_DEFLATED, C_ZLIB_BYTES
from signal_core.base.limits cimport DEFLATE_UNIT_SHIFT
from signal_core.base.memory cimport (
    PACKET_COUNTED, Packet, packet_free, packet_new, packet_new_heap, packet_set_text, packet_shrunk, packet_text,
)
from signal_core.base.sys cimport SE_COLD, SE_RARE
from signal_core.tables.conn_table cimport FLAG_BLOCKED, FLAG_DEFLATE, FLAG_WHOLE, Conn, slab_whole
from signal_core.tables.state cimport Loop
from signal_core.tables.zlib_state cimport SE_DEFLATE_SPARE, se_deflate, se_zstream, zlib_state_deflater
from signal_core.wire.deflate_offer cimport DEFLATE_MOST
from signal_core.wire.frame cimport FRAME_16, FRAME_DEFLATED, frame_head_size, frame_put_head


cdef inline uint8_t deflate_window(Loop* loop, const Conn* c) noexcept nogil:
    """Returns the bits of the window that a client which negotiated compression has."""
    cdef uint8_t window = slab_whole(&loop.slab, c).window if c.flags & FLAG_WHOLE else 0
    return window if window else DEFLATE_MOST


cdef inline size_t _frame_head(const Packet* packet) noexcept nogil:
    """Returns the bytes of the head of an unmasked frame."""
    if packet.data[1] < FRAME_16:
        return 2
    return 4 if packet.data[1] == FRAME_16 else 10


cdef inline Packet* _room_for(Loop* loop, const Packet* plain, bint heap) noexcept nogil:
    """Returns a packet with all that `plain` has but its data, and with as much room. NULL without memory."""
    cdef size_t size = <size_t>plain.size + plain.text_size
    cdef Packet* packet = packet_new_heap(&loop.mem, size, plain.kind) if heap else packet_new(
        &loop.mem, size, plain.kind)
    if packet != NULL:
        packet.expires = plain.expires
        packet.tell = plain.tell
        packet.flags = plain.flags & PACKET_COUNTED
        packet.origin = plain.origin
        packet.target = plain.target
        packet.hash = plain.hash
    return packet


cdef inline size_t _deflate(Loop* loop, const Packet* plain, uint8_t window, Packet* packet) noexcept nogil:
    """Writes the compressed frame into `packet`. Returns its size; 0: it would not be smaller, or there is no memory.
    """
    cdef size_t head = _frame_head(plain), body = plain.size - head, size
    cdef se_zstream* z = zlib_state_deflater(&loop.zlib, loop.set.deflate_level)
    if z == NULL:
        return 0
    loop.n[C_ZLIB_BYTES] = loop.zlib.bytes
    loop.turn.work += body >> DEFLATE_UNIT_SHIFT
    size = se_deflate(z, plain.data + head, body, <size_t>1 << window, packet.data + head, body)
    if size == 0 or size + SE_DEFLATE_SPARE > body:
        return 0
    if frame_head_size(size) != head:
        memmove(packet.data + frame_head_size(size), packet.data + head, size)
    head = frame_put_head(packet.data, plain.data[0] & 15, size)
    packet.data[0] |= FRAME_DEFLATED
    return head + size


cdef inline Packet* deflate_copy(Loop* loop, const Packet* plain, uint8_t window, bint heap) noexcept nogil:
    """Returns a packet like `plain`, a frame with a whole message, that has it compressed for a window of as many bits.
    NULL: it would not be smaller, or there is no memory."""
    cdef Packet* packet = _room_for(loop, plain, heap)
    cdef size_t size
    if packet == NULL:
        return NULL
    size = _deflate(loop, plain, window, packet)
    if size == 0:
        packet_free(&loop.mem, packet)
        return NULL
    packet.size = <uint32_t>size
    packet_set_text(packet, packet_text(plain))
    loop.n[C_MESSAGES_DEFLATED] += 1
    loop.n[C_DEFLATE_SAVED] += plain.size - size
    return packet if packet.region != NULL else packet_shrunk(packet)


cdef inline bint deflate_is_due(const Loop* loop, const Packet* packet) noexcept nogil:
    """Whether the message is at least deflate-threshold bytes long; never with deflate off."""
    return (packet.size > loop.set.deflate_least and packet.more_frames == 0
            and packet.size - _frame_head(packet) >= loop.set.deflate_least)


cdef inline SE_COLD _deflate_swap(Loop* loop, const Conn* c, Packet** packet) noexcept nogil:
    """deflate_for, for a client that negotiated compression; apart from the code of those that did not."""
    cdef Packet* copy = NULL
    if deflate_is_due(loop, packet[0]):
        copy = deflate_copy(loop, packet[0], deflate_window(loop, c), c.flags & FLAG_BLOCKED)
    if copy != NULL:
        packet_free(&loop.mem, packet[0])
        packet[0] = copy


cdef inline Packet* deflate_for(Loop* loop, const Conn* c, Packet* packet) noexcept nogil:
    """Returns the packet to queue for a connection, or NULL for none: a frame that no queue holds, or another one with
    its message compressed, in which case the first is freed."""
    cdef Packet* swapped = packet
    if SE_RARE(c != NULL and c.flags & FLAG_DEFLATE):
        _deflate_swap(loop, c, &swapped)
        return swapped
    return packet
