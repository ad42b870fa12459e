"""NATS subscriptions to the presence of rooms that have watchers on this node. Loop 0 only."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from signal_core.base.array cimport array_reserve
from signal_core.base.counters cimport C_PRESENCE_LOST
from signal_core.base.kinds cimport KIND_NATS
from signal_core.base.memory cimport Packet, packet_new_heap, packet_set_end
from signal_core.base.span cimport Span, span_between
from signal_core.base.sys cimport se_pointer_acquire
from signal_core.delivery.sub_queue cimport (
    SUB_FRESH, SUB_OVER, SUB_PLAIN, sub_queue_allowed, sub_queue_given_up, sub_queue_has_room, sub_queue_push,
    sub_queue_refused,
)
from signal_core.delivery.write_queue cimport write_queue_add
from signal_core.presence.events cimport SUBJECT_MAX, events_put_subject
from signal_core.tables.link_state cimport LINK_UP, Link
from signal_core.tables.room_table cimport PUT_OFF_SUB, Audience, RoomEntry, audience_of, room_entry_name
from signal_core.tables.state cimport Loop
from signal_core.wire.nats_format cimport nats_format_sub, nats_format_unsub

cdef enum:
    SID_AUDIENCE = 1 << 30    # and up, by Audience.index; the sids of rooms (subscriptions.pxd) are below
    AUDIENCES_AT_FIRST = 16   # initial capacity of LinkPresence.audiences
    HEARD_AT_FIRST = 2        # ... and of Audience.nodes


cdef inline void watches_sub(Loop* loop, Audience* audience) noexcept nogil:
    """Queues the SUB of a room with watchers, once for each connection to NATS. Without memory its watchers get nothing
    from other nodes until one queries again."""
    cdef Link* link = loop.linked
    if link.state != LINK_UP:
        return
    if audience.linked != link.number:
        audience.linked = link.number
        audience.ping = 0
        audience.sub_state = SUB_PLAIN
        audience.late = 0
    if audience.ping or audience.sub_state != SUB_PLAIN:
        return
    if not sub_queue_allowed(loop):
        _audience_refused(loop, audience)
    elif sub_queue_push(link, SID_AUDIENCE + audience.index - 1):
        audience.sub_state = SUB_FRESH
        audience.ping = link.pinged + 1
    else:
        loop.n[C_PRESENCE_LOST] += 1


cdef inline bint watches_write(Loop* loop, const Audience* audience) noexcept nogil:
    """Writes the SUB. False without memory."""
    cdef RoomEntry* entry = <RoomEntry*>audience.entry
    cdef char text[SUBJECT_MAX]
    cdef Span subject = span_between(text, events_put_subject(text, loop.hub, b"presence", room_entry_name(entry)))
    cdef Packet* packet = packet_new_heap(&loop.mem, SUBJECT_MAX + 64, KIND_NATS)
    if packet == NULL:
        return False
    packet_set_end(packet, nats_format_sub(<char*>packet.data, subject, SID_AUDIENCE + audience.index - 1))
    write_queue_add(loop, &loop.linked.out, packet)
    loop.linked.dirty = True
    return True


cdef inline void _audience_refused(Loop* loop, Audience* audience) noexcept nogil:
    """Postpones a room's SUB, because NATS takes no more. The watchers query again once NATS accepts it."""
    audience.sub_state = SUB_OVER
    audience.ping = 0
    if not audience.late:
        audience.late = 1
        loop.linked.limit.late += 1
    sub_queue_refused(loop)


cdef inline void watches_lapse(Loop* loop, Audience* audience, bint unsure) noexcept nogil:
    """Handles a SUB that NATS has refused, or may have refused (`unsure`): then it is unsubscribed first."""
    if unsure:
        watches_unsub_write(loop, SID_AUDIENCE + audience.index - 1)
    _audience_refused(loop, audience)


cdef inline void watches_unsub_write(Loop* loop, uint64_t sid) noexcept nogil:
    """Writes an UNSUB. Without memory, what still arrives is ignored."""
    cdef Packet* packet = packet_new_heap(&loop.mem, 64, KIND_NATS)
    if packet == NULL:
        return
    packet_set_end(packet, nats_format_unsub(<char*>packet.data, sid))
    write_queue_add(loop, &loop.linked.out, packet)
    loop.linked.dirty = True


cdef inline void _audience_unsub(Loop* loop, Audience* audience) noexcept nogil:
    cdef Link* link = loop.linked
    if link.state != LINK_UP or audience.linked != link.number:
        return
    if audience.late:
        link.limit.late -= 1
    if audience.sub_state == SUB_OVER:
        link.limit.refused -= 1
    elif audience.ping:
        if audience.sub_state == SUB_PLAIN:
            watches_unsub_write(loop, SID_AUDIENCE + audience.index - 1)
        sub_queue_given_up(link)
    audience.linked = 0


cdef inline bint _audiences_reserve(Link* link) noexcept nogil:
    """Makes sure that there is a free index. False without memory."""
    cdef uint32_t size = link.presence.audiences_size
    if link.presence.audiences_nfree:
        return True
    return (array_reserve(&link.presence.audiences, &size, link.presence.audiences_used + 1,
                          sizeof(Audience*), AUDIENCES_AT_FIRST)
            and array_reserve(&link.presence.audiences_free, &link.presence.audiences_size, size, sizeof(uint32_t),
                              AUDIENCES_AT_FIRST))


cdef inline void _audience_add(Loop* loop, Audience* audience) noexcept nogil:
    cdef Link* link = loop.linked
    cdef uint32_t index
    if not _audiences_reserve(link):
        loop.n[C_PRESENCE_LOST] += 1
        return
    if link.presence.audiences_nfree:
        link.presence.audiences_nfree -= 1
        index = link.presence.audiences_free[link.presence.audiences_nfree]
    else:
        index = link.presence.audiences_used
        link.presence.audiences_used += 1
    link.presence.audiences[index] = audience
    audience.index = index + 1
    if link.state == LINK_UP and not sub_queue_has_room(link):
        audience.put_off |= PUT_OFF_SUB
        link.presence.again = True
        return
    watches_sub(loop, audience)


cdef inline void _audience_remove(Loop* loop, Audience* audience) noexcept nogil:
    cdef Link* link = loop.linked
    _audience_forget(audience)  # may be set without an index: an answer can arrive before the first KIND_SYNC
    if audience.index == 0:
        return
    if not audience.put_off & PUT_OFF_SUB:
        _audience_unsub(loop, audience)
    audience.put_off = 0
    link.presence.audiences[audience.index - 1] = NULL
    link.presence.audiences_free[link.presence.audiences_nfree] = audience.index - 1
    link.presence.audiences_nfree += 1
    audience.index = 0


cdef inline void _audience_forget(Audience* audience) noexcept nogil:
    """Forgets which nodes are known to have members in the room."""
    free(audience.nodes)
    audience.nodes = NULL
    audience.nnodes = audience.nodes_size = 0


cdef inline void watches_settle(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Subscribes to the room's presence if it has watchers, and unsubscribes if it has none."""
    cdef Audience* audience = audience_of(entry)
    if audience == NULL:
        watches_end_one(loop, entry)
    elif audience.index == 0:
        _audience_add(loop, audience)


cdef inline void watches_end_one(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Unsubscribes: the room has no watchers, or is removed."""
    cdef Audience* audience = <Audience*>se_pointer_acquire(&entry.audience)
    if audience != NULL:
        _audience_remove(loop, audience)


cdef inline bint _audience_hears(const Audience* audience, uint16_t node) noexcept nogil:
    cdef uint32_t i
    for i in range(audience.nnodes):
        if audience.nodes[i] == node:
            return True
    return False


cdef inline void watches_note(Audience* audience, uint16_t node) noexcept nogil:
    """Notes that a node has members in the room. Without memory its loss will not be announced there."""
    if (_audience_hears(audience, node)
            or not array_reserve(&audience.nodes, &audience.nodes_size, audience.nnodes + 1,
                                 sizeof(uint16_t), HEARD_AT_FIRST)):
        return
    audience.nodes[audience.nnodes] = node
    audience.nnodes += 1


cdef inline bint watches_drop(Audience* audience, uint16_t node) noexcept nogil:
    """Forgets a node; returns whether it was noted."""
    cdef uint32_t i
    for i in range(audience.nnodes):
        if audience.nodes[i] == node:
            audience.nnodes -= 1
            audience.nodes[i] = audience.nodes[audience.nnodes]
            return True
    return False


cdef inline void watches_end(Link* link) noexcept nogil:
    """Frees the link's tables, after every thread has ended."""
    cdef uint32_t i
    for i in range(link.presence.audiences_used):
        if link.presence.audiences[i] != NULL:
            _audience_forget(link.presence.audiences[i])
    free(link.presence.audiences)
    free(link.presence.audiences_free)
    free(link.presence.nodes)
