"""Receipts: reports the fate of a message to its sender."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.kinds cimport KIND_NATS, TELL_SUBJECT
from signal_core.base.limits cimport LOCAL_PEER_LOOP
from signal_core.base.memory cimport Packet, packet_free, packet_text
from signal_core.base.span cimport Span, span_none
from signal_core.base.sys cimport SE_RARE
from signal_core.delivery.conn cimport conn_of
from signal_core.delivery.joining cimport joining_room_settled
from signal_core.delivery.nats_publish cimport nats_publish_receipt
from signal_core.delivery.outbox cimport outbox_loop_of, outbox_receipt
from signal_core.delivery.refs cimport refs_finish
from signal_core.delivery.replies cimport replies_say
from signal_core.route.membership cimport membership_watch_ask
from signal_core.tables.codes cimport CODE_DENIED, CODE_OK
from signal_core.tables.conn_table cimport CONN_JOINING, CONN_OPEN, Conn, slab_find_id
from signal_core.tables.state cimport Loop
from signal_core.wire.ids cimport ids_loop


cdef inline void receipts_take(Loop* loop, uint64_t id, uint8_t code, Span ref) noexcept nogil:
    """Handles a receipt for a connection of this loop. An empty ref stands for a room of its URL, or for a message that
    NATS denied after it was answered."""
    cdef Conn* c = conn_of(loop, id)
    cdef uint32_t room
    if ref.size:
        room = refs_finish(loop, c, ref, code)
        if SE_RARE(room and code == CODE_OK):
            membership_watch_ask(loop, conn_of(loop, id), room - 1)
        return
    c = slab_find_id(&loop.slab, id)
    if c == NULL:
        return
    if c.state == CONN_JOINING:
        joining_room_settled(loop, c)
    elif c.state == CONN_OPEN and code == CODE_DENIED:
        replies_say(loop, c, code, span_none())


cdef inline void receipts_tell_peer(Loop* loop, uint64_t id, uint8_t code, Span ref) noexcept nogil:
    """Sends a receipt to a connection of any loop, or to the local peer."""
    if ids_loop(id) == loop.index and loop.index != LOCAL_PEER_LOOP:
        receipts_take(loop, id, code, ref)
    elif outbox_loop_of(loop.hub, id) != NULL:
        outbox_receipt(loop, id, code, ref)


cdef inline void receipts_tell_all(Loop* loop) noexcept nogil:
    """Reports the fates of the packets in Loop.told_head. A packet written to NATS is not delivered yet: its receipt
    comes from the other node."""
    cdef Packet* packet
    while loop.told_head != NULL:
        packet = loop.told_head
        loop.told_head = packet.next
        if packet.tell == TELL_SUBJECT:
            nats_publish_receipt(loop, packet_text(packet), packet.code)
        elif packet.kind != KIND_NATS or packet.code != CODE_OK:
            receipts_tell_peer(loop, packet.origin, packet.code, packet_text(packet))
        packet_free(&loop.mem, packet)
    loop.told_tail = NULL
