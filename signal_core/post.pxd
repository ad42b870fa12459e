"""What goes to another thread: held back during an iteration, posted in one piece at its end. L3."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from signal_core.counters cimport C_EVENTS_LOST, C_POSTED
from signal_core.inbox cimport chain_add, inbox_has_room, inbox_push
from signal_core.limits cimport SERVICE_LOOP
from signal_core.memory cimport (
    KIND_EVENT, KIND_NATS, KIND_NEWS, KIND_RECEIPT, KIND_ROOM, KIND_SYNC, KIND_TO, Msg, msg_new_heap, msg_set_text,
)
from signal_core.state cimport Hub, Loop
from signal_core.sys cimport SE_RARE
from signal_core.turn cimport crowd_note, is_crowded


cdef inline Loop* loop_of(Hub* hub, uint64_t id) noexcept nogil:
    """The loop, or the service's pseudo-loop, that an id names; NULL where there is none."""
    cdef uint32_t index = <uint32_t>(id >> 56)
    return hub.loops[index] if index < hub.nloops or index == SERVICE_LOOP else NULL


cdef inline bint is_payload(const Msg* msg) noexcept nogil:
    """Whether it counts against the bounds of an inbox."""
    return msg.kind in (KIND_TO, KIND_ROOM, KIND_NATS, KIND_EVENT, KIND_NEWS)


cdef inline void post(Loop* loop, uint32_t index, Msg* msg) noexcept nogil:
    """Holds a message in the heap back for another loop; it is that loop's from here on."""
    cdef bint payload = is_payload(msg)
    if loop.outbox[index].head == NULL:
        loop.posted[loop.nposted] = <uint8_t>index
        loop.nposted += 1
    chain_add(&loop.outbox[index], msg, payload)
    if payload:
        loop.n[C_POSTED] += 1
        if SE_RARE(is_crowded(loop.hub.loops[index], loop.outbox[index].count, msg.kind)):
            crowd_note(loop, index, msg.kind)


cdef inline bint post_has_room(Loop* loop, Loop* target, size_t bytes) noexcept nogil:
    return inbox_has_room(&target.inbox, &loop.outbox[target.index], bytes)


cdef inline void post_all(Loop* loop) noexcept nogil:
    """At the end of an iteration: posts all that was held back."""
    cdef uint32_t i
    for i in range(loop.nposted):
        inbox_push(&loop.hub.loops[loop.posted[i]].inbox, &loop.outbox[loop.posted[i]])
    loop.nposted = 0


cdef inline void post_receipt(Loop* loop, uint64_t id, uint8_t code, const char* ref, size_t n) noexcept nogil:
    cdef Msg* msg = msg_new_heap(&loop.mem, n, KIND_RECEIPT)
    if msg == NULL:
        return
    msg.target = id
    msg.code = code
    msg_set_text(msg, ref, n)
    post(loop, <uint32_t>(id >> 56), msg)


cdef inline Msg* sync_new(Loop* loop) noexcept nogil:
    """For post_sync; NULL without memory."""
    return msg_new_heap(&loop.mem, 0, KIND_SYNC)


cdef inline void post_sync(Loop* loop, void* entry, Msg* msg) noexcept nogil:
    """Tells the link, by a message of sync_new, that a room's interest came or went."""
    msg.pointer = entry
    post(loop, 0, msg)


cdef inline void post_event(Loop* loop, uint32_t index, uint8_t code, uint64_t id, uint64_t value,
                            const char* text, size_t n) noexcept nogil:
    """A word to Python that comes once, or answers one of Python's."""
    cdef Msg* msg = msg_new_heap(&loop.mem, n, KIND_EVENT)
    if msg == NULL:
        return
    msg.code = code
    msg.target = id
    msg.hash = value
    msg.size = <uint32_t>n
    if n:
        memcpy(msg.data, text, n)
    post(loop, index, msg)


cdef inline void post_event_if_room(Loop* loop, uint32_t index, uint8_t code, uint64_t id, uint64_t value,
                                    const char* text, size_t n) noexcept nogil:
    """A word to Python that clients, or NATS, can cause as often as they like."""
    if post_has_room(loop, loop.hub.loops[index], n):
        post_event(loop, index, code, id, value, text, n)
    else:
        loop.n[C_EVENTS_LOST] += 1
