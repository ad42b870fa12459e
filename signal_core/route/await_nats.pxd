"""Joins that await the room's subscription on NATS. Any loop, and the local peer."""

from libc.stdint cimport uint64_t
from signal_core.base.kinds cimport KIND_AWAIT
from signal_core.base.memory cimport Packet, packet_new_heap, packet_set_data, packet_set_text
from signal_core.base.span cimport Span
from signal_core.base.sys cimport se_load8_acquire, se_load_relaxed
from signal_core.delivery.outbox cimport outbox_post
from signal_core.tables.codes cimport CLUSTER_UP
from signal_core.tables.room_table cimport RoomEntry, room_entry_name
from signal_core.tables.state cimport Loop

cdef enum:
    AWAIT_NOTHING = 0
    AWAIT_IT = 1
    AWAIT_FAILED = -1


cdef inline int await_nats(Loop* loop, uint64_t id, RoomEntry* entry, Span ref, bint presence) noexcept nogil:
    """Makes the link send a receipt to `id` once NATS has the room's subscription and, with `presence`, that of its
    presence. AWAIT_IT; AWAIT_NOTHING: NATS has it already, or is away; AWAIT_FAILED: no memory."""
    if se_load_relaxed(&loop.hub.link) != CLUSTER_UP or (not presence and se_load8_acquire(&entry.confirmed)):
        return AWAIT_NOTHING
    return _await_link(loop, id, entry, ref, presence)


cdef inline int _await_link(Loop* loop, uint64_t id, RoomEntry* entry, Span ref, bint presence) noexcept nogil:
    """As await_nats, if NATS does not have the subscription."""
    cdef Packet* packet = packet_new_heap(&loop.mem, entry.size + ref.size, KIND_AWAIT)
    if packet == NULL:
        return AWAIT_FAILED
    packet.target = id
    packet.hash = entry.hash
    packet.code = presence
    packet_set_data(packet, room_entry_name(entry))
    packet_set_text(packet, ref)
    outbox_post(loop, 0, packet)
    return AWAIT_IT
