"""Handles INFO, what a NATS server says of itself. Loop 0 only.

Its max_payload takes effect at once; Python handles the rest. Only the newest INFO matters: Python has at most one, one
more waits, and Python gets at most one a tick.
"""

from libc.stdint cimport int64_t, uint64_t
from signal_core.base.counters cimport C_DROPPED_NATS
from signal_core.base.kinds cimport KIND_EVENT
from signal_core.base.limits cimport CONTROL_LOOP, NATS_ASKING_TICKS
from signal_core.base.memory cimport PACKET_PRESENCE, Packet, QueueNode, packet_free, packet_new_heap, packet_set_data
from signal_core.base.sys cimport se_store_relaxed
from signal_core.delivery.nats_publish cimport nats_publish_is_over_limit, nats_publish_presence_dropped
from signal_core.delivery.outbox cimport outbox_post
from signal_core.delivery.write_queue cimport write_queue_cut
from signal_core.nats.connect cimport connect_enter
from signal_core.tables.codes cimport CODE_TOO_LARGE, EVENT_INFO
from signal_core.tables.link_state cimport LINK_ASKING, LINK_GREETING, Link
from signal_core.tables.state cimport Loop
from signal_core.wire.nats_info cimport nats_info_number
from signal_core.wire.nats_proto cimport NatsOp


cdef inline void _queue_cut_over(Loop* loop) noexcept nogil:
    """Drops queued messages over the present max_payload, for which NATS would close the connection. One that is partly
    written stays: NATS has accepted its size already."""
    cdef Link* link = loop.linked
    cdef QueueNode** at = &link.out.head
    cdef QueueNode* last = NULL
    if link.out.head != NULL and link.out.offset:
        last = link.out.head
        at = &link.out.head.next
    while at[0] != NULL:
        if not nats_publish_is_over_limit(link, at[0].packet):
            last = at[0]
            at = &last.next
            continue
        if at[0].packet.flags & PACKET_PRESENCE:
            nats_publish_presence_dropped(loop, at[0].packet)
        write_queue_cut(loop, &link.out, at, C_DROPPED_NATS, CODE_TOO_LARGE)
    link.out.tail = last


cdef inline void _limit(Loop* loop, uint64_t most) noexcept nogil:
    """Sets the size of the largest payload that the server, or the node's account, accepts from now on."""
    cdef Link* link = loop.linked
    cdef bint lowered = most < link.max_payload
    link.max_payload = most
    if link.state <= LINK_ASKING:
        return
    se_store_relaxed(&loop.hub.max_payload, most)
    if lowered:
        _queue_cut_over(loop)


cdef inline void _info_tell(Loop* loop) noexcept nogil:
    """Hands the newest INFO to Python."""
    cdef Link* link = loop.linked
    outbox_post(loop, CONTROL_LOOP, link.info.newest)
    link.info.newest = NULL
    link.info.out = True
    link.info.told = loop.tick


cdef inline void server_info_take(Loop* loop, const NatsOp* op) noexcept nogil:
    """Handles an INFO. Without memory Python does not get it; if it is a greeting, LINK_ASKING times out."""
    cdef Link* link = loop.linked
    cdef int64_t most = nats_info_number(op.text, b"max_payload")
    cdef Packet* packet = packet_new_heap(&loop.mem, op.text.size, KIND_EVENT)
    if most > 0:
        _limit(loop, <uint64_t>most)
    if packet != NULL:
        packet.code = EVENT_INFO
        packet_set_data(packet, op.text)
        if link.info.newest != NULL:
            packet_free(&loop.mem, link.info.newest)
        link.info.newest = packet
        if not link.info.out and (link.state == LINK_GREETING or link.info.told != loop.tick):
            _info_tell(loop)
    if link.state == LINK_GREETING:
        connect_enter(loop, LINK_ASKING, NATS_ASKING_TICKS)


cdef inline void server_info_taken(Loop* loop) noexcept nogil:
    """Notes that Python has handled an INFO. One that waits follows with the next tick, a greeting at once."""
    cdef Link* link = loop.linked
    link.info.out = False
    if link.info.newest != NULL and link.state == LINK_ASKING:
        _info_tell(loop)


cdef inline void server_info_tick(Loop* loop) noexcept nogil:
    """Each tick: hands the waiting INFO to Python if it has handled the last one."""
    cdef Link* link = loop.linked
    if link.info.newest != NULL and not link.info.out:
        _info_tell(loop)
