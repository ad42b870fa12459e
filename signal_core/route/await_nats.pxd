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


cdef inline bint await_nats_needed(const Loop* loop, const RoomEntry* entry, bint presence) noexcept nogil:
    """False: NATS has the room's subscription already, or is away. That of its presence is always awaited."""
    return se_load_relaxed(&loop.hub.link) == CLUSTER_UP and (presence or not se_load8_acquire(&entry.confirmed))


cdef inline int await_nats(Loop* loop, uint64_t id, RoomEntry* entry, Span ref, bint presence) noexcept nogil:
    """Makes the link send a receipt to `id` once NATS has the room's subscription and, with `presence`, that of its
    presence. AWAIT_IT; AWAIT_NOTHING: NATS has it already, or is away; AWAIT_FAILED: no memory."""
    if not await_nats_needed(loop, entry, presence):
        return AWAIT_NOTHING
    return await_nats_post(loop, id, entry, ref, presence)


cdef inline int await_nats_post(Loop* loop, uint64_t id, RoomEntry* entry, Span ref, bint presence) noexcept nogil:
    """As await_nats, once await_nats_needed has said so."""
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
