"""What a NATS server says of itself while it is connected: INFO. L4. Loop 0 only.

The bound of a payload holds at once; the rest is Python's. Of many INFOs only the newest matters: one is with Python,
one waits, and Python is given at most one a tick.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy
from signal_core.counters cimport C_DROPPED_NATS
from signal_core.dial cimport ASKING_TICKS, link_enter
from signal_core.limits cimport CONTROL_LOOP
from signal_core.memory cimport KIND_EVENT, MSG_COUNTED, MSG_PRESENCE, Msg, Out, msg_free, msg_new_heap
from signal_core.natsinfo cimport info_number
from signal_core.natsout cimport is_over_limit, presence_dropped
from signal_core.natswire cimport NatsOp
from signal_core.post cimport post
from signal_core.queue cimport queue_cut
from signal_core.state cimport CODE_TOO_LARGE, EVENT_INFO, LINK_ASKING, LINK_GREETING, Link, Loop
from signal_core.sys cimport se_store_relaxed


cdef inline void queue_cut_over(Loop* loop) noexcept nogil:
    """Drops what waits for NATS and is over its present bound, which would cost the connection. A head that is partly
    written stays: NATS has judged it by the bound that was."""
    cdef Link* link = loop.linked
    cdef Out** place = &link.out.head
    cdef Out* last = NULL
    if link.out.head != NULL and link.out.offset:
        last = link.out.head
        place = &link.out.head.next
    while place[0] != NULL:
        if not is_over_limit(link, place[0].msg):
            last = place[0]
            place = &last.next
            continue
        if place[0].msg.flags & MSG_PRESENCE:
            presence_dropped(loop, place[0].msg)
        queue_cut(loop, &link.out, place, C_DROPPED_NATS, CODE_TOO_LARGE)
    link.out.tail = last


cdef inline void link_limit(Loop* loop, uint64_t most) noexcept nogil:
    """The server, or this node's account, takes payloads up to `most` bytes from now on."""
    cdef Link* link = loop.linked
    cdef bint lowered = most < link.max_payload
    link.max_payload = most
    if link.state <= LINK_ASKING:
        return
    se_store_relaxed(&loop.hub.max_payload, most)
    if lowered:
        queue_cut_over(loop)


cdef inline void info_tell(Loop* loop) noexcept nogil:
    """Hands the newest INFO to Python."""
    cdef Link* link = loop.linked
    post(loop, CONTROL_LOOP, link.info)
    link.info = NULL
    link.info_out = True
    link.info_told = loop.tick


cdef inline void link_info(Loop* loop, const NatsOp* op) noexcept nogil:
    """An INFO. Without memory the one before stays the newest; a server that greets waits until its patience ends."""
    cdef Link* link = loop.linked
    cdef int64_t most = info_number(op.text, op.text_len, b"max_payload")
    cdef Msg* msg = msg_new_heap(&loop.mem, op.text_len, KIND_EVENT)
    if most > 0:
        link_limit(loop, <uint64_t>most)
    if msg != NULL:
        msg.code = EVENT_INFO
        msg.size = <unsigned int>op.text_len
        memcpy(msg.data, op.text, op.text_len)
        if link.info != NULL:
            msg_free(&loop.mem, link.info)
        link.info = msg
        if not link.info_out and (link.state == LINK_GREETING or link.info_told != loop.tick):
            info_tell(loop)
    if link.state == LINK_GREETING:
        link_enter(loop, LINK_ASKING, ASKING_TICKS)


cdef inline void info_taken(Loop* loop) noexcept nogil:
    """Python has handled one. What waits for it waits for the next tick, but for a greeting."""
    cdef Link* link = loop.linked
    link.info_out = False
    if link.info != NULL and link.state == LINK_ASKING:
        info_tell(loop)


cdef inline void info_tick(Loop* loop) noexcept nogil:
    """Each tick."""
    cdef Link* link = loop.linked
    if link.info != NULL and not link.info_out:
        info_tell(loop)
