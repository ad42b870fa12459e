"""A message between being read and being encoded, and its two encodings: FROM or MSG in a frame, HPUB for NATS."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy
from signal_core.base.kinds cimport KIND_NATS, TELL_NOBODY, TELL_PEER
from signal_core.base.limits cimport TICK_MS
from signal_core.base.memory cimport PACKET_COUNTED, Packet, packet_new, packet_new_heap, packet_set_text
from signal_core.base.text cimport text_put_bytes
from signal_core.tables.state cimport Loop
from signal_core.wire.frame cimport OP_BINARY, OP_TEXT, frame_head_size, frame_put_head
from signal_core.wire.nats_format cimport nats_format_hpub_bound, nats_format_hpub_head
from signal_core.wire.nats_proto cimport NatsPub

cdef struct Message:          # points into the reader's buffer; valid while that is
    uint64_t origin           # id of the sending connection of this node; 0: another node's or none
    const char* sender        # `<node>.<local>`, or `-`
    uint32_t sender_len
    const char* ref           # what the receiver is shown
    uint32_t ref_len
    const char* re
    uint32_t re_len
    const char* user
    uint32_t user_len
    const uint8_t* payload
    size_t size
    bint binary
    bint remote               # came from NATS: does not go there again
    uint32_t expires          # tick
    int64_t ttl_ms            # as the client gave it; -1: it gave none
    uint8_t tell              # who is told its fate: TELL_*
    const char* tell_text     # a ref, or a NATS subject
    uint32_t tell_len


cdef inline uint32_t message_expiry(const Loop* loop, int64_t ttl_ms) noexcept nogil:
    """The last tick at which a message may be written; the engine's ttl where none was given (-1)."""
    cdef uint32_t ms = <uint32_t>ttl_ms if ttl_ms >= 0 else loop.hub.set.ttl_ms
    return loop.tick + ms // TICK_MS + 1


cdef inline uint8_t* _put_option(uint8_t* out, const char* name, size_t name_n, const char* value,
                                 uint32_t n) noexcept nogil:
    if n == 0:
        return out
    return text_put_bytes(text_put_bytes(out, name, name_n), value, n)


cdef inline size_t _head_size(const Message* p, uint32_t room_len) noexcept nogil:
    """Of `FROM <peer>…LF`, or `MSG <room> <peer>…LF` where there is a room."""
    return ((5 + room_len if room_len else 5) + p.sender_len + (5 + p.ref_len if p.ref_len else 0)
            + (4 + p.re_len if p.re_len else 0) + (6 + p.user_len if p.user_len else 0) + 1)


cdef inline Packet* message_frame(Loop* loop, const Message* p, const char* room, uint32_t room_len, bint heap,
                                  uint8_t kind) noexcept nogil:
    """The frame that receivers get: `room_len` 0 makes it FROM. NULL without memory."""
    cdef size_t body = _head_size(p, room_len) + p.size
    cdef size_t head = frame_head_size(body)
    cdef size_t need = head + body + p.tell_len
    cdef Packet* packet = packet_new_heap(&loop.mem, need, kind) if heap else packet_new(&loop.mem, need, kind)
    cdef uint8_t* out
    if packet == NULL:
        return NULL
    out = packet.data + frame_put_head(packet.data, OP_BINARY if p.binary else OP_TEXT, body)
    if room_len:
        out = text_put_bytes(text_put_bytes(text_put_bytes(out, b"MSG ", 4), room, room_len), b" ", 1)
    else:
        out = text_put_bytes(out, b"FROM ", 5)
    out = text_put_bytes(out, p.sender, p.sender_len)
    out = _put_option(out, b" ref=", 5, p.ref, p.ref_len)
    out = _put_option(out, b" re=", 4, p.re, p.re_len)
    out = _put_option(out, b" user=", 6, p.user, p.user_len)
    out = text_put_bytes(out, b"\n", 1)
    memcpy(out, p.payload, p.size)
    packet.size = <uint32_t>(head + body)
    packet.flags = PACKET_COUNTED
    packet.expires = p.expires
    packet.origin = p.origin
    if p.tell != TELL_NOBODY:
        packet.tell = p.tell
        packet_set_text(packet, p.tell_text, p.tell_len)
    return packet


cdef inline Packet* message_hpub(
    Loop* loop, const Message* p, uint8_t kind, const char* target, uint32_t target_len,
    const char* suffix, uint32_t suffix_len, bint heap,
) noexcept nogil:
    """The bytes for NATS; `kind` is NATS_TO_*. The caller has checked max_payload. NULL without memory."""
    cdef NatsPub pub
    cdef size_t head
    cdef Packet* packet
    pub.prefix = loop.hub.prefix
    pub.prefix_len = loop.hub.prefix_len
    pub.kind = kind
    pub.target = target
    pub.target_len = target_len
    pub.suffix_ref = suffix
    pub.suffix_ref_len = suffix_len
    pub.me = p.sender
    pub.me_len = p.sender_len
    pub.ref = p.ref
    pub.ref_len = p.ref_len
    pub.user = p.user
    pub.user_len = p.user_len
    pub.binary = p.binary
    pub.ttl_ms = p.ttl_ms
    pub.payload_len = p.size
    head = nats_format_hpub_bound(&pub) + p.size + 2 + p.tell_len
    packet = packet_new_heap(&loop.mem, head, KIND_NATS) if heap else packet_new(&loop.mem, head, KIND_NATS)
    if packet == NULL:
        return NULL
    head = nats_format_hpub_head(<char*>packet.data, &pub)
    if p.ttl_ms >= 0:
        packet.ttl_end = <uint16_t>(head - 4)  # it is the last header
    memcpy(packet.data + head, p.payload, p.size)
    memcpy(packet.data + head + p.size, b"\r\n", 2)
    packet.size = <uint32_t>(head + p.size + 2)
    packet.flags = PACKET_COUNTED
    packet.expires = p.expires
    packet.origin = p.origin
    if p.tell == TELL_PEER:
        packet.tell = TELL_PEER
        packet_set_text(packet, p.tell_text, p.tell_len)
    return packet
