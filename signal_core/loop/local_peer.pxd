"""The embedding program as a peer: routing on its pseudo-loop. Runs under the GIL, on one thread at a time."""

from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint8_t
from libc.string cimport memchr
from signal_core.base.counters cimport C_ATTEMPTED, C_DROPPED_EXPIRED, C_DROPPED_GONE, C_WRITTEN
from signal_core.base.kinds cimport TELL_NOBODY
from signal_core.base.memory cimport Packet
from signal_core.base.sys cimport se_load_seqcst, se_store_seqcst
from signal_core.delivery.envelope cimport Message, message_expiry
from signal_core.delivery.outbox cimport outbox_post_all
from signal_core.delivery.write_queue cimport write_queue_tell
from signal_core.loop.loop cimport loop_clock
from signal_core.route.receipts cimport receipts_tell_all
from signal_core.tables.codes cimport CODE_EXPIRED, CODE_OK
from signal_core.tables.state cimport Loop

cdef struct LocalFrame:                # a frame that this engine encoded, parsed
    const char* head
    size_t head_len
    const char* payload
    size_t payload_len
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


cdef inline void local_peer_message(Loop* loop, const char* me, uint32_t me_len, const char* ref, uint32_t ref_len,
                                    const char* payload, size_t size, bint binary, int64_t ttl_ms,
                                    Message* p) noexcept nogil:
    """Fills a message of the local peer. `me`, `ref` and `payload` are borrowed and must outlive it."""
    p[0] = Message(
        origin=loop.hub.local_peer, sender=me, sender_len=me_len, ref=ref, ref_len=ref_len, re=NULL, re_len=0,
        user=NULL, user_len=0, payload=<const uint8_t*>payload, size=size, binary=binary, remote=False,
        expires=message_expiry(loop, ttl_ms), ttl_ms=ttl_ms, tell=TELL_NOBODY, tell_text=NULL, tell_len=0)


cdef inline void local_frame_split(const Packet* packet, LocalFrame* out) noexcept nogil:
    """Splits a frame that this engine encoded into head and payload. `out` points into the packet."""
    cdef uint8_t length = packet.data[1]
    cdef size_t skip = 2 if length < 126 else (4 if length == 126 else 10)
    cdef const char* lf
    out.binary = (packet.data[0] & 0x0f) == 2
    out.head = <const char*>packet.data + skip
    lf = <const char*>memchr(out.head, c"\n", packet.size - skip)
    out.head_len = <size_t>(lf - out.head)
    out.payload = lf + 1
    out.payload_len = packet.size - skip - out.head_len - 1


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
