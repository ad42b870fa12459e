"""The rooms whose comings and goings NATS tells us of, in step with their listeners. L4. Loop 0 only."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from signal_core.counters cimport C_PRESENCE_LOST
from signal_core.memory cimport KIND_NATS, Msg, msg_new_heap
from signal_core.natswire cimport nats_put_sub, nats_put_unsub
from signal_core.news cimport SUBJECT_MAX, put_subject
from signal_core.queue cimport queue_add
from signal_core.roomtable cimport PUT_OFF_SUB, Audience, RoomEntry, audience_of
from signal_core.state cimport LINK_UP, Link, Loop
from signal_core.subqueue cimport (
    SUB_FRESH, SUB_OVER, SUB_PLAIN, sub_allowed, sub_given_up, sub_push, sub_refused, subs_have_room,
)
from signal_core.sys cimport se_pointer_acquire

cdef enum:
    SID_AUDIENCE = 1 << 30    # and up: of rooms with listeners, by place; those of rooms (subs.pxd) are below


cdef inline void audience_sub(Loop* loop, Audience* audience) noexcept nogil:
    """Asks for the SUB of a room with listeners, once a connection. Without memory nothing is heard of other nodes,
    until one asks anew."""
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
    if not sub_allowed(loop):
        audience_refused(loop, audience)
    elif sub_push(link, SID_AUDIENCE + audience.place - 1):
        audience.sub_state = SUB_FRESH
        audience.ping = link.pinged + 1
    else:
        loop.n[C_PRESENCE_LOST] += 1


cdef inline bint audience_write(Loop* loop, const Audience* audience) noexcept nogil:
    """Queues the SUB. False without memory."""
    cdef RoomEntry* entry = <RoomEntry*>audience.entry
    cdef char subject[208]
    cdef size_t n = put_subject(subject, loop.hub, b"presence", entry.name, entry.size)
    cdef Msg* msg = msg_new_heap(&loop.mem, SUBJECT_MAX + 64, KIND_NATS)
    if msg == NULL:
        return False
    msg.size = <uint32_t>nats_put_sub(<char*>msg.data, subject, <uint32_t>n, b"", 0, SID_AUDIENCE + audience.place - 1)
    queue_add(loop, &loop.linked.out, msg)
    loop.linked.dirty = True
    return True


cdef inline void audience_refused(Loop* loop, Audience* audience) noexcept nogil:
    """NATS takes no more subscriptions: it is tried again, and who listens then asks anew."""
    audience.sub_state = SUB_OVER
    audience.ping = 0
    if not audience.late:
        audience.late = 1
        loop.linked.late += 1
    sub_refused(loop)


cdef inline void audience_lapse(Loop* loop, Audience* audience, bint unsure) noexcept nogil:
    """NATS has refused its SUB, or may have (`unsure`): then it is given up."""
    if unsure:
        unsub_write(loop, SID_AUDIENCE + audience.place - 1)
    audience_refused(loop, audience)


cdef inline void unsub_write(Loop* loop, uint64_t sid) noexcept nogil:
    """Without memory what comes is ignored until the connection's end."""
    cdef Msg* msg = msg_new_heap(&loop.mem, 64, KIND_NATS)
    if msg == NULL:
        return
    msg.size = <uint32_t>nats_put_unsub(<char*>msg.data, sid)
    queue_add(loop, &loop.linked.out, msg)
    loop.linked.dirty = True


cdef inline void audience_unsub(Loop* loop, Audience* audience) noexcept nogil:
    cdef Link* link = loop.linked
    if link.state != LINK_UP or audience.linked != link.number:
        return
    if audience.late:
        link.late -= 1
    if audience.sub_state == SUB_OVER:
        link.refused -= 1
    elif audience.ping:
        if audience.sub_state == SUB_PLAIN:
            unsub_write(loop, SID_AUDIENCE + audience.place - 1)
        sub_given_up(link)
    audience.linked = 0


cdef inline bint audiences_reserve(Link* link) noexcept nogil:
    """Makes sure that there is a free place; False without memory."""
    cdef void* grown
    cdef uint32_t size
    if link.audiences_nfree or link.audiences_used < link.audiences_size:
        return True
    size = 2 * link.audiences_size + 16
    grown = realloc(link.audiences, size * sizeof(Audience*))
    if grown == NULL:
        return False
    link.audiences = <Audience**>grown
    grown = realloc(link.audiences_free, size * sizeof(uint32_t))
    if grown == NULL:
        return False
    link.audiences_free = <uint32_t*>grown
    link.audiences_size = size
    return True


cdef inline void audience_add(Loop* loop, Audience* audience) noexcept nogil:
    cdef Link* link = loop.linked
    cdef uint32_t place
    if not audiences_reserve(link):
        loop.n[C_PRESENCE_LOST] += 1
        return
    if link.audiences_nfree:
        link.audiences_nfree -= 1
        place = link.audiences_free[link.audiences_nfree]
    else:
        place = link.audiences_used
        link.audiences_used += 1
    link.audiences[place] = audience
    audience.place = place + 1
    if link.state == LINK_UP and not subs_have_room(link):
        audience.put_off |= PUT_OFF_SUB
        link.again = True
        return
    audience_sub(loop, audience)


cdef inline void audience_remove(Loop* loop, Audience* audience) noexcept nogil:
    cdef Link* link = loop.linked
    audience_forget(audience)  # there may be some without a place: an answer can be before the first listener's word
    if audience.place == 0:
        return
    if not audience.put_off & PUT_OFF_SUB:
        audience_unsub(loop, audience)
    audience.put_off = 0
    link.audiences[audience.place - 1] = NULL
    link.audiences_free[link.audiences_nfree] = audience.place - 1
    link.audiences_nfree += 1
    audience.place = 0


cdef inline void audience_forget(Audience* audience) noexcept nogil:
    """All nodes that were heard to have members."""
    free(audience.nodes)
    audience.nodes = NULL
    audience.nnodes = audience.nodes_size = 0


cdef inline void audience_settle(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Listens on NATS exactly while somebody here does."""
    cdef Audience* audience = audience_of(entry)
    if audience == NULL:
        audience_end(loop, entry)
    elif audience.place == 0:
        audience_add(loop, audience)


cdef inline void audience_end(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Nobody listens, or the room is no more."""
    cdef Audience* audience = <Audience*>se_pointer_acquire(&entry.audience)
    if audience != NULL:
        audience_remove(loop, audience)


cdef inline bint audience_hears(const Audience* audience, uint16_t node) noexcept nogil:
    cdef uint32_t i
    for i in range(audience.nnodes):
        if audience.nodes[i] == node:
            return True
    return False


cdef inline void audience_note(Audience* audience, uint16_t node) noexcept nogil:
    """Members of that node were heard of. Without memory its loss is not told in this room."""
    cdef void* grown
    cdef uint16_t size
    if audience_hears(audience, node):
        return
    if audience.nnodes == audience.nodes_size:
        size = <uint16_t>(2 * audience.nodes_size + 2)
        grown = realloc(audience.nodes, size * sizeof(uint16_t))
        if grown == NULL:
            return
        audience.nodes = <uint16_t*>grown
        audience.nodes_size = size
    audience.nodes[audience.nnodes] = node
    audience.nnodes += 1


cdef inline bint audience_drop(Audience* audience, uint16_t node) noexcept nogil:
    """Whether it was noted."""
    cdef uint32_t i
    for i in range(audience.nnodes):
        if audience.nodes[i] == node:
            audience.nnodes -= 1
            audience.nodes[i] = audience.nodes[audience.nnodes]
            return True
    return False


cdef inline void audiences_end(Link* link) noexcept nogil:
    """Frees what the link holds of them, after every thread has ended."""
    cdef uint32_t i
    for i in range(link.audiences_used):
        if link.audiences[i] != NULL:
            audience_forget(link.audiences[i])
    free(link.audiences)
    free(link.audiences_free)
    free(link.nodes)
