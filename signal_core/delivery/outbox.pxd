"""Packets for other threads: collected during an iteration, posted at its end, one chain for each receiver."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.counters cimport C_EVENTS_LOST, C_POSTED
from signal_core.base.kinds cimport KIND_EVENT, KIND_NATS, KIND_NEWS, KIND_RECEIPT, KIND_ROOM, KIND_SYNC, KIND_TO
from signal_core.base.limits cimport CONTROL_LOOP, LOCAL_PEER_LOOP
from signal_core.base.memory cimport Packet, packet_new_heap, packet_set_data, packet_set_text
from signal_core.base.span cimport Span
from signal_core.base.sys cimport SE_RARE
from signal_core.tables.mailbox cimport chain_add, mailbox_has_room, mailbox_push
from signal_core.tables.state cimport Hub, Loop
from signal_core.tables.turns cimport turns_crowd_note, turns_is_crowded
from signal_core.wire.ids cimport ids_loop


cdef inline Loop* outbox_loop_of(Hub* hub, uint64_t id) noexcept nogil:
    """Returns the loop of an id, or the local peer's pseudo-loop; NULL if there is none."""
    cdef uint32_t index = ids_loop(id)
    return hub.loops[index] if index < hub.nloops or index == LOCAL_PEER_LOOP else NULL


cdef inline bint outbox_is_payload(const Packet* packet) noexcept nogil:
    """Whether the packet counts against inbox-messages. Everything else is a task (backpressure.pxd)."""
    return packet.kind in (KIND_TO, KIND_ROOM, KIND_NATS, KIND_EVENT, KIND_NEWS)


cdef inline void outbox_post(Loop* loop, uint32_t index, Packet* packet) noexcept nogil:
    """Collects a packet for loop `index`, which owns it from then on. It must lie on the heap."""
    cdef bint payload = outbox_is_payload(packet)
    if loop.post.chains[index].head == NULL:
        loop.post.posted[loop.post.nposted] = <uint8_t>index
        loop.post.nposted += 1
    chain_add(&loop.post.chains[index], packet, payload)
    if payload:
        loop.n[C_POSTED] += 1
        if SE_RARE(turns_is_crowded(loop.hub.loops[index], loop.post.chains[index].count, packet.kind)):
            turns_crowd_note(loop, index, packet.kind)


cdef inline bint outbox_has_room(Loop* loop, Loop* target, size_t bytes) noexcept nogil:
    """Whether a payload message of `bytes` fits the mailbox of `target`."""
    return mailbox_has_room(&target.mailbox, &loop.post.chains[target.index], bytes)


cdef inline void outbox_post_all(Loop* loop) noexcept nogil:
    """Posts everything that was collected, at the end of the iteration."""
    cdef uint32_t i
    for i in range(loop.post.nposted):
        mailbox_push(&loop.hub.loops[loop.post.posted[i]].mailbox, &loop.post.chains[loop.post.posted[i]])
    loop.post.nposted = 0


cdef inline void outbox_receipt(Loop* loop, uint64_t id, uint8_t code, Span ref) noexcept nogil:
    """Sends a receipt to the loop of connection `id`. It is lost without memory; the ref then times out."""
    cdef Packet* packet = packet_new_heap(&loop.mem, ref.size, KIND_RECEIPT)
    if packet == NULL:
        return
    packet.target = id
    packet.code = code
    packet_set_text(packet, ref)
    outbox_post(loop, ids_loop(id), packet)


cdef inline Packet* outbox_sync_new(Loop* loop) noexcept nogil:
    """Returns a packet for outbox_sync, allocated in advance so that the sync cannot fail. NULL without memory."""
    return packet_new_heap(&loop.mem, 0, KIND_SYNC)


cdef inline void outbox_sync(Loop* loop, void* entry, Packet* packet) noexcept nogil:
    """Tells the link that a room needs its subscription, or no longer does. Takes a packet of outbox_sync_new."""
    packet.pointer = entry
    outbox_post(loop, 0, packet)


cdef inline void outbox_event(Loop* loop, uint8_t code, uint64_t value, Span text) noexcept nogil:
    """Posts an event to Python whose number is bounded: it happens once, or answers a request from Python."""
    cdef Packet* packet = packet_new_heap(&loop.mem, text.size, KIND_EVENT)
    if packet == NULL:
        return
    packet.code = code
    packet.hash = value
    packet_set_data(packet, text)
    outbox_post(loop, CONTROL_LOOP, packet)


cdef inline void outbox_event_if_room(Loop* loop, uint8_t code, uint64_t value, Span text) noexcept nogil:
    """Posts an event to Python that clients or NATS can cause at will: dropped, and counted, if the mailbox is full."""
    if outbox_has_room(loop, loop.hub.loops[CONTROL_LOOP], text.size):
        outbox_event(loop, code, value, text)
    else:
        loop.n[C_EVENTS_LOST] += 1
