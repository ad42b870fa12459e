"""Joins that wait until NATS has the room's subscription. L3. Any loop, and the service."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from signal_core.memory cimport KIND_AWAIT, Msg, msg_new_heap, msg_set_text
from signal_core.post cimport post
from signal_core.roomtable cimport RoomEntry
from signal_core.state cimport CLUSTER_UP, Loop
from signal_core.sys cimport se_load8_acquire, se_load_relaxed

cdef enum:
    AWAIT_NOTHING = 0
    AWAIT_IT = 1
    AWAIT_FAILED = -1


cdef inline int await_nats(Loop* loop, uint64_t id, RoomEntry* entry, const char* ref, uint32_t ref_len,
                           bint presence) noexcept nogil:
    """Asks the link for a receipt to `id` once NATS has the subscription, and that of who comes and goes where that is
    wanted, too: AWAIT_IT, AWAIT_NOTHING where it has it or there is none, AWAIT_FAILED without memory."""
    if se_load_relaxed(&loop.hub.link) != CLUSTER_UP or (not presence and se_load8_acquire(&entry.confirmed)):
        return AWAIT_NOTHING
    return await_link(loop, id, entry, ref, ref_len, presence)


cdef inline int await_link(Loop* loop, uint64_t id, RoomEntry* entry, const char* ref, uint32_t ref_len,
                           bint presence) noexcept nogil:
    """As await_nats, where NATS has it not."""
    cdef Msg* msg = msg_new_heap(&loop.mem, entry.size + ref_len, KIND_AWAIT)
    if msg == NULL:
        return AWAIT_FAILED
    msg.target = id
    msg.hash = entry.hash
    msg.code = presence
    msg.size = entry.size
    memcpy(msg.data, entry.name, entry.size)
    msg_set_text(msg, ref, ref_len)
    post(loop, 0, msg)
    return AWAIT_IT
