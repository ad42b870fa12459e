"""Envelopes: a message between being read and being encoded, and its encodings: FROM or MSG in a frame, HPUB for NATS.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy
from signal_core.base.kinds cimport KIND_NATS, TELL_NOBODY, TELL_PEER
from signal_core.base.limits cimport TICK_MS
from signal_core.base.memory cimport (
    PACKET_COUNTED, Packet, packet_new, packet_new_heap, packet_set_end, packet_set_text,
)
from signal_core.base.span cimport Span, span_none
from signal_core.base.text cimport text_put, text_put_span
from signal_core.tables.state cimport Loop, hub_prefix
from signal_core.wire.frame cimport OP_BINARY, OP_TEXT, frame_head_size, frame_put_head
from signal_core.wire.nats_format cimport nats_format_hpub_bound, nats_format_hpub_head
from signal_core.wire.nats_proto cimport NatsPub, NatsTarget

cdef struct Message:          # an envelope; its spans point into the reader's buffer, or where its maker says
    uint64_t origin           # id of the sending connection of this node; 0: it is on another node, or there is none
    Span sender               # `<node>.<local>`, or `-`
    Span ref                  # as the receiver gets it; no bytes: none
    Span re                   # no bytes: none
    Span user                 # no bytes: none
    Span payload
    Span tell_text            # a ref, or a NATS subject
    int64_t ttl_ms            # as the sender gave it; -1: none
    uint32_t expires          # last tick at which it may be written
    bint binary
    bint remote               # came from NATS: is not published there again
    uint8_t tell              # who gets its fate: TELL_*


cdef inline uint32_t message_expiry(const Loop* loop, int64_t ttl_ms) noexcept nogil:
    """Returns the last tick at which a message may be written. The engine's ttl counts if `ttl_ms` is -1."""
    cdef uint32_t ms = <uint32_t>ttl_ms if ttl_ms >= 0 else loop.set.ttl_ms
    return loop.tick + ms // TICK_MS + 1


cdef inline void message_init(Message* p, const Loop* loop, Span sender, Span payload, int64_t ttl_ms) noexcept nogil:
    """Initializes a text message from no connection of this node, whose fate nobody gets."""
    p.origin = 0
    p.sender = sender
    p.ref = p.re = p.user = p.tell_text = span_none()
    p.payload = payload
    p.ttl_ms = ttl_ms
    p.expires = message_expiry(loop, ttl_ms)
    p.binary = p.remote = False
    p.tell = TELL_NOBODY


cdef inline Packet* _packet_new(Loop* loop, size_t room, uint8_t kind, bint heap) noexcept nogil:
    return packet_new_heap(&loop.mem, room, kind) if heap else packet_new(&loop.mem, room, kind)


cdef inline char* _put_option(char* out, const char* name, Span value) noexcept nogil:
    return text_put_span(text_put(out, name), value) if value.size else out


cdef inline size_t _head_size(const Message* p, Span room) noexcept nogil:
    """Returns the bytes of `FROM <peer>…LF`, or with a room of `MSG <room> <peer>…LF`."""
    return ((5 + room.size if room.size else 5) + p.sender.size + (5 + p.ref.size if p.ref.size else 0)
            + (4 + p.re.size if p.re.size else 0) + (6 + p.user.size if p.user.size else 0) + 1)


cdef inline char* _put_head(char* out, const Message* p, Span room) noexcept nogil:
    """Writes _head_size bytes; returns their end."""
    if room.size:
        out = text_put(text_put_span(text_put(out, b"MSG "), room), b" ")
    else:
        out = text_put(out, b"FROM ")
    out = _put_option(text_put_span(out, p.sender), b" ref=", p.ref)
    out = _put_option(_put_option(out, b" re=", p.re), b" user=", p.user)
    return text_put(out, b"\n")


cdef inline Packet* message_frame(Loop* loop, const Message* p, Span room, bint heap, uint8_t kind) noexcept nogil:
    """Returns a packet with the frame for receivers: FROM without a room, else MSG. NULL without memory."""
    cdef size_t body = _head_size(p, room) + p.payload.size
    cdef size_t size = frame_head_size(body) + body
    cdef Packet* packet = _packet_new(loop, size + p.tell_text.size, kind, heap)
    cdef char* out
    if packet == NULL:
        return NULL
    out = <char*>packet.data + frame_put_head(packet.data, OP_BINARY if p.binary else OP_TEXT, body)
    memcpy(_put_head(out, p, room), p.payload.at, p.payload.size)
    packet.size = <uint32_t>size
    packet.flags = PACKET_COUNTED
    packet.expires = p.expires
    packet.origin = p.origin
    if p.tell != TELL_NOBODY:
        packet.tell = p.tell
        packet_set_text(packet, p.tell_text)
    return packet


cdef inline Packet* message_hpub(Loop* loop, const Message* p, const NatsTarget* target, bint heap) noexcept nogil:
    """Returns a packet with the HPUB for NATS. The caller has checked max_payload. NULL without memory."""
    cdef NatsPub pub
    cdef Packet* packet
    cdef char* out
    pub.target = target
    pub.prefix = hub_prefix(loop.hub)
    pub.me = p.sender
    pub.ref = p.ref
    pub.user = p.user
    pub.ttl_ms = p.ttl_ms
    pub.payload_size = p.payload.size
    pub.binary = p.binary
    packet = _packet_new(loop, nats_format_hpub_bound(&pub) + p.payload.size + 2 + p.tell_text.size, KIND_NATS, heap)
    if packet == NULL:
        return NULL
    out = nats_format_hpub_head(<char*>packet.data, &pub)
    if p.ttl_ms >= 0:
        packet.ttl_end = <uint16_t>(out - 4 - <char*>packet.data)  # Signal-Ttl is the last header
    memcpy(out, p.payload.at, p.payload.size)
    out = text_put(out + p.payload.size, b"\r\n")
    packet_set_end(packet, out)
    packet.flags = PACKET_COUNTED
    packet.expires = p.expires
    packet.origin = p.origin
    if p.tell == TELL_PEER:
        packet.tell = TELL_PEER
        packet_set_text(packet, p.tell_text)
    return packet
