"""The embedding program as a peer: routing on its pseudo-loop. Runs under the GIL, on one thread at a time."""

from libc.stdint cimport UINT64_MAX, uint8_t
from signal_core.base.counters cimport C_ATTEMPTED, C_DROPPED_EXPIRED, C_DROPPED_GONE, C_WRITTEN
from signal_core.base.memory cimport Packet, packet_data
from signal_core.base.span cimport Span, span_from, span_of, span_until
from signal_core.base.sys cimport se_load_seqcst, se_store_seqcst
from signal_core.delivery.envelope cimport Message, message_expiry
from signal_core.delivery.outbox cimport outbox_post_all
from signal_core.delivery.write_queue cimport write_queue_tell
from signal_core.loop.loop cimport loop_clock
from signal_core.route.receipts cimport receipts_tell_all
from signal_core.tables.codes cimport CODE_EXPIRED, CODE_OK
from signal_core.tables.state cimport Loop

cdef struct LocalFrame:                # a frame that this engine encoded, parsed
    Span head
    Span payload
    bint binary


cdef inline void local_peer_begin(Loop* loop) noexcept nogil:
    """To be called before reading the room table or making messages. No entry is freed until local_peer_finish."""
    loop_clock(loop)
    se_store_seqcst(&loop.seen, se_load_seqcst(&loop.hub.rooms.epoch))


cdef inline void local_peer_finish(Loop* loop) noexcept nogil:
    """Ends what local_peer_begin began, and posts to the loops what was made."""
    receipts_tell_all(loop)
    outbox_post_all(loop)
    se_store_seqcst(&loop.seen, UINT64_MAX)


cdef inline void local_peer_stamp(Loop* loop, Message* p) noexcept nogil:
    """Makes a message one of the local peer, sent now. After local_peer_begin."""
    p.origin = loop.hub.local_peer
    p.expires = message_expiry(loop, p.ttl_ms)


cdef inline void local_frame_split(const Packet* packet, LocalFrame* out) noexcept nogil:
    """Splits a frame that this engine encoded into head and payload. `out` points into the packet."""
    cdef uint8_t length = packet.data[1]
    cdef Span message = span_from(packet_data(packet), 2 if length < 126 else (4 if length == 126 else 10))
    out.binary = (packet.data[0] & 0x0f) == 2
    out.head = span_of(message.at, span_until(message, c"\n"))
    out.payload = span_from(message, out.head.size + 1)


cdef inline void local_peer_fate(Loop* loop, Packet* packet, uint8_t code) noexcept nogil:
    """Ends a delivery to the local peer with CODE_OK, CODE_EXPIRED or CODE_NO_SUCH_PEER: counts it, sends the receipt,
    frees the packet."""
    loop.n[C_ATTEMPTED] += 1
    if code == CODE_OK:
        loop.n[C_WRITTEN] += 1
    elif code == CODE_EXPIRED:
        loop.n[C_DROPPED_EXPIRED] += 1
    else:
        loop.n[C_DROPPED_GONE] += 1
    write_queue_tell(loop, packet, code)
