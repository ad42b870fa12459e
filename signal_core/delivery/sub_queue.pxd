"""SUBs before they are written: which may be, and in what order. Loop 0 only.

`-ERR 'maximum subscriptions exceeded'` names no subscription. So the SUBs of an iteration are written at its end,
behind its UNSUBs and before its PING: of those between two PINGs NATS takes the first and refuses the last, as many as
it has errors for (sub_limit.pxd). Once it refuses some, one more is tried for each that was given up, and some each
second.
"""

from libc.stdint cimport uint32_t
from signal_core.base.array cimport array_reserve
from signal_core.base.counters cimport C_NATS_SUBS_REFUSED
from signal_core.base.limits cimport OVER_TICKS, RESUME_BYTES
from signal_core.tables.link_state cimport Link
from signal_core.tables.state cimport Loop

cdef enum:
    SUB_BYTES = 256               # of a SUB that is not written yet, at most but for the longest prefixes
    SUBS_AT_FIRST = 64            # initial capacity of the lists of SUBs

    # Of a room or an audience
    SUB_PLAIN = 0                 # the SUB is written, where it has a PING, or was not asked for
    SUB_FRESH = 1                 # it is written at the end of the iteration
    SUB_OVER = 2                  # NATS has refused it, or would: it is tried again


cdef inline uint32_t sub_queue_size(const Link* link) noexcept nogil:
    """Bytes that wait for NATS, with those of SUBs not yet written."""
    return link.out.bytes + SUB_BYTES * link.limit.fresh_used


cdef inline bint sub_queue_has_room(const Link* link) noexcept nogil:
    return sub_queue_size(link) < RESUME_BYTES


cdef inline void sub_queue_probe(Loop* loop) noexcept nogil:
    """Whether NATS takes more by now is tried with some."""
    cdef Link* link = loop.linked
    link.limit.spare = link.limit.burst
    link.limit.probing = True
    link.limit.retry_due = loop.tick + OVER_TICKS


cdef inline bint sub_queue_allowed(Loop* loop) noexcept nogil:
    """Whether another SUB is worth the try. It must be made then."""
    cdef Link* link = loop.linked
    if not link.limit.full:
        return True
    if link.limit.spare == 0 and link.limit.retry_due <= loop.tick:
        sub_queue_probe(loop)
    if link.limit.spare == 0:
        return False
    link.limit.spare -= 1
    return True


cdef inline void sub_queue_given_up(Link* link) noexcept nogil:
    """NATS has place for another."""
    if link.limit.full:
        link.limit.spare += 1


cdef inline void sub_queue_refused(Loop* loop) noexcept nogil:
    loop.linked.limit.refused += 1
    loop.n[C_NATS_SUBS_REFUSED] += 1


cdef inline bint sub_queue_push(Link* link, uint32_t sid) noexcept nogil:
    """To be written at the end of the iteration. False without memory."""
    if not array_reserve(&link.limit.fresh, &link.limit.fresh_size, link.limit.fresh_used + 1,
                         sizeof(uint32_t), SUBS_AT_FIRST):
        return False
    link.limit.fresh[link.limit.fresh_used] = sid
    link.limit.fresh_used += 1
    link.subs.syncing = True
    return True
