"""Publishes to NATS, from any loop, through the link's loop (index 0), which owns the socket's write queue."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memchr
from signal_core.base.counters cimport (
    C_ATTEMPTED, C_DROPPED_EXPIRED, C_DROPPED_NATS, C_NATS_OUT, C_PRESENCE_LOST, C_RECEIPTS_LOST,
)
from signal_core.base.kinds cimport KIND_NATS, TELL_PEER
from signal_core.base.limits cimport PREFIX_SIZE, RECEIPTS_OWED, TICK_MS
from signal_core.base.memory cimport (
    PACKET_COUNTED, PACKET_PRESENCE, Packet, QueueNode, packet_new_heap, packet_set_data, packet_set_end, packet_text,
)
from signal_core.base.span cimport Span, span_text
from signal_core.base.sys cimport (
    SE_COLD, SE_INLINE, SE_RARE, se_load_acquire, se_load_relaxed, se_siphash13, se_store_relaxed,
)
from signal_core.base.text cimport text_put_span, text_uint_lower
from signal_core.delivery.envelope cimport Message, message_hpub
from signal_core.delivery.outbox cimport outbox_has_room, outbox_post
from signal_core.delivery.replies cimport replies_code_text
from signal_core.delivery.write_queue cimport write_queue_add, write_queue_tell
from signal_core.tables.codes cimport CLUSTER_UP, CODE_DENIED, CODE_EXPIRED, CODE_OK, CODE_TOO_LARGE, CODE_UNAVAILABLE
from signal_core.tables.link_state cimport LINK_UP, Link
from signal_core.tables.room_table cimport PUT_OFF_NODES
from signal_core.tables.state cimport Hub, Loop, hub_prefix
from signal_core.wire.ids cimport REF_MAX, ROOM_MAX
from signal_core.wire.nats_format cimport NATS_KIND_SIZE, nats_format_put_subject, nats_format_receipt
from signal_core.wire.nats_proto cimport NATS_OWN_HEADERS, NatsTarget

cdef enum:
    HASHED_SUBJECT_MAX = PREFIX_SIZE + NATS_KIND_SIZE + ROOM_MAX + 1 + REF_MAX
    HPUB_HEAD_MAX = 1024      # bytes; no HPUB has more without its payload


cdef inline uint64_t _subject_hash(const Hub* hub, const NatsTarget* target) noexcept nogil:
    """Returns the hash of the subject `<prefix>.<kind>.<name>[.<ref>]`."""
    cdef char text[HASHED_SUBJECT_MAX]
    cdef char* end = nats_format_put_subject(text, hub_prefix(hub), target)
    return se_siphash13(hub.rooms.key, text, <size_t>(end - text))


cdef inline bint nats_publish_denied(Hub* hub, uint64_t hash) noexcept nogil:
    """Whether NATS has refused publishes to the subject with this hash. Any thread."""
    cdef uint64_t i, n = se_load_acquire(&hub.ndenied)
    for i in range(n):
        if se_load_relaxed(&hub.denied[i]) == hash:
            return True
    return False


cdef inline void _remember(Link* link, const Packet* packet) noexcept nogil:
    """Remembers the sender of a publish: a permission violation from NATS names the subject only."""
    cdef uint32_t i = link.receipts.next
    link.receipts.next = (i + 1) & (RECEIPTS_OWED - 1)
    link.receipts.subject[i] = packet.hash
    link.receipts.id[i] = packet.origin
    link.receipts.size[i] = 0
    if packet.tell == TELL_PEER:
        link.receipts.size[i] = <uint8_t>packet.text_size
        text_put_span(link.receipts.ref[i], packet_text(packet))


cdef inline bint _has_room(const Loop* loop, size_t size) noexcept nogil:
    """Whether `size` bytes more may wait for NATS. The link's loop only."""
    return loop.linked.state == LINK_UP and loop.linked.out.bytes + size <= loop.set.nats_pending


cdef inline bint nats_publish_is_over_limit(const Link* link, const Packet* packet) noexcept nogil:
    """Whether headers and payload exceed the server's present max_payload, for which it would close the connection.
    There is no limit while the link is down."""
    cdef const char* end
    cdef size_t line
    if (link.state != LINK_UP or packet.size <= link.max_payload
            or not packet.flags & (PACKET_COUNTED | PACKET_PRESENCE)):
        return False
    end = <const char*>memchr(packet.data, c"\r", packet.size)
    line = <size_t>(end - <const char*>packet.data) + 2
    return packet.size - line - 2 > link.max_payload


cdef inline SE_COLD nats_publish_presence_dropped(Loop* loop, const Packet* packet) noexcept nogil:
    """Counts a presence packet as lost. A query, whose `target` is Audience.index, is sent again later; for anything
    else LinkPresence.torn makes other nodes query again."""
    cdef Link* link = loop.linked
    loop.n[C_PRESENCE_LOST] += 1
    if packet.target == 0:
        link.presence.torn = True
    elif packet.target <= link.presence.audiences_used and link.presence.audiences[packet.target - 1] != NULL:
        link.presence.audiences[packet.target - 1].put_off |= PUT_OFF_NODES
        link.presence.again = True


cdef inline SE_COLD _refuse_over(Loop* loop, Packet* packet) noexcept nogil:
    """Drops a packet that was made before the server lowered max_payload. Takes ownership."""
    if packet.flags & PACKET_COUNTED:
        loop.n[C_DROPPED_NATS] += 1
    else:
        nats_publish_presence_dropped(loop, packet)
    write_queue_tell(loop, packet, CODE_TOO_LARGE)


cdef inline SE_COLD _link_drop(Loop* loop, Packet* packet) noexcept nogil:
    """Drops a packet for which nats-pending, or memory, is exhausted. Takes ownership."""
    if packet.flags & PACKET_COUNTED:
        loop.n[C_DROPPED_NATS] += 1
    if packet.flags & PACKET_PRESENCE:
        nats_publish_presence_dropped(loop, packet)
    elif not packet.flags & PACKET_COUNTED:
        loop.n[C_RECEIPTS_LOST] += 1
    se_store_relaxed(&loop.hub.clogged, loop.linked.out.bytes > 0)
    write_queue_tell(loop, packet, CODE_UNAVAILABLE)


cdef inline SE_INLINE nats_publish_queue(Loop* loop, Packet* packet) noexcept nogil:
    """Queues a packet for NATS, or drops it and reports that. Takes ownership. The link's loop only."""
    cdef Link* link = loop.linked
    if packet.flags & PACKET_COUNTED:
        loop.n[C_ATTEMPTED] += 1
    if SE_RARE(packet.expires < loop.tick and packet.expires):
        loop.n[C_DROPPED_EXPIRED] += 1
        write_queue_tell(loop, packet, CODE_EXPIRED)
        return
    if SE_RARE(not _has_room(loop, packet.size)) or SE_RARE(not write_queue_add(loop, &link.out, packet)):
        _link_drop(loop, packet)
        return
    if packet.hash:
        _remember(link, packet)
    link.dirty = True
    loop.n[C_NATS_OUT] += 1


cdef inline void nats_publish_take(Loop* loop, Packet* packet) noexcept nogil:
    """As nats_publish_queue, for a packet of another loop, which may predate a lowered max_payload."""
    if SE_RARE(packet.size > loop.linked.max_payload) and nats_publish_is_over_limit(loop.linked, packet):
        if packet.flags & PACKET_COUNTED:
            loop.n[C_ATTEMPTED] += 1
        _refuse_over(loop, packet)
        return
    nats_publish_queue(loop, packet)


cdef inline void _ttl_refresh(const Loop* loop, Packet* packet) noexcept nogil:
    """Overwrites Signal-Ttl in place with the time that is left. A smaller value stays: the loop that wrote it may have
    been a tick ahead."""
    cdef uint64_t left = (packet.expires - loop.tick - 1) * TICK_MS if packet.expires > loop.tick + 1 else 0
    text_uint_lower(<char*>packet.data + packet.ttl_end, left)


cdef inline void nats_publish_refresh_ttls(Loop* loop) noexcept nogil:
    """Updates Signal-Ttl in everything that waits for NATS, but for a packet that is partly written."""
    cdef QueueNode* node = loop.linked.out.head
    if node != NULL and loop.linked.out.offset:
        node = node.next
    while node != NULL:
        if node.packet.ttl_end:
            _ttl_refresh(loop, node.packet)
        node = node.next


cdef inline uint8_t nats_publish_refuses(Loop* loop, const Message* p, const NatsTarget* target) noexcept nogil:
    """Returns CODE_OK if a message can be published now, else the code that says why not. Any loop."""
    cdef Hub* hub = loop.hub
    if se_load_relaxed(&hub.link) != CLUSTER_UP or se_load_relaxed(&hub.clogged):
        return CODE_UNAVAILABLE
    if p.payload.size + NATS_OWN_HEADERS + p.sender.size + p.user.size > se_load_relaxed(&hub.max_payload):
        return CODE_TOO_LARGE
    if se_load_relaxed(&hub.ndenied) and nats_publish_denied(hub, _subject_hash(hub, target)):
        return CODE_DENIED
    if loop.linked == NULL:
        return CODE_OK if outbox_has_room(loop, hub.loops[0], p.payload.size) else CODE_UNAVAILABLE
    return CODE_OK if _has_room(loop, p.payload.size + HPUB_HEAD_MAX) else CODE_UNAVAILABLE


cdef inline uint8_t nats_publish(Loop* loop, const Message* p, const NatsTarget* target) noexcept nogil:
    """Publishes a message that nats_publish_refuses has allowed. CODE_OK: it is on its way. Any loop."""
    cdef bint heap = loop.linked == NULL or loop.linked.blocked
    cdef Packet* packet = message_hpub(loop, p, target, heap)
    if packet == NULL:
        return CODE_UNAVAILABLE
    if p.ref.size:
        packet.hash = _subject_hash(loop.hub, target)
    if loop.linked != NULL:
        nats_publish_queue(loop, packet)
    else:
        outbox_post(loop, 0, packet)
    return CODE_OK


cdef inline void nats_publish_receipt(Loop* loop, Span subject, uint8_t code) noexcept nogil:
    """Publishes a receipt to a sender on another node. It is lost if the link is down or full; the sender times out."""
    cdef Span text = span_text(replies_code_text(code))
    cdef Packet* packet = NULL
    if se_load_relaxed(&loop.hub.link) != CLUSTER_UP:
        return
    if outbox_has_room(loop, loop.hub.loops[0], subject.size + text.size):
        packet = packet_new_heap(&loop.mem, subject.size + text.size + 96, KIND_NATS)
    if packet == NULL:
        loop.n[C_RECEIPTS_LOST] += 1
        return
    packet_set_end(packet, nats_format_receipt(<char*>packet.data, subject, text))
    if loop.linked != NULL:
        nats_publish_queue(loop, packet)
    else:
        outbox_post(loop, 0, packet)


cdef inline bint nats_publish_write(Loop* loop, Span text) noexcept nogil:
    """Queues bytes of the NATS protocol itself, such as a SUB. False without memory. The link's loop only."""
    cdef Packet* packet = packet_new_heap(&loop.mem, text.size, KIND_NATS)
    if packet == NULL:
        return False
    packet_set_data(packet, text)
    write_queue_add(loop, &loop.linked.out, packet)
    loop.linked.dirty = True
    return True
