"""SUBs that are not written yet: whether one may be sent, and in what order. Loop 0 only.

`-ERR 'maximum subscriptions exceeded'` names no subscription. So the SUBs of an iteration are written at its end, after
its UNSUBs and before its PING. Of the SUBs between two PINGs NATS accepts the first ones, and refuses as many of the
last as it sends errors (nats/sub_limit.pxd). Once it refuses some, one is tried for each that is given up, and a few
more each second.
"""

from libc.stdint cimport uint32_t
from signal_core.base.array cimport array_reserve
from signal_core.base.counters cimport C_NATS_SUBS_REFUSED
from signal_core.base.limits cimport OVER_TICKS, RESUME_BYTES
from signal_core.tables.link_state cimport Link
from signal_core.tables.state cimport Loop

cdef enum:
    SUB_BYTES = 256               # bytes assumed for a SUB that is not written yet
    SUBS_AT_FIRST = 64            # initial capacity of the lists of SUBs

    # RoomEntry.sub_state, Audience.sub_state
    SUB_PLAIN = 0                 # the SUB is written if `ping` is set, else it is not needed
    SUB_FRESH = 1                 # the SUB is written at the end of the iteration
    SUB_OVER = 2                  # NATS has refused the SUB, or would: it is tried again later


cdef inline uint32_t sub_queue_size(const Link* link) noexcept nogil:
    """Returns the bytes that wait for NATS, SUBs that are not written yet included."""
    return link.out.bytes + SUB_BYTES * link.limit.fresh_used


cdef inline bint sub_queue_has_room(const Link* link) noexcept nogil:
    """Whether NATS keeps up, so that more SUBs may be sent."""
    return sub_queue_size(link) < RESUME_BYTES


cdef inline void sub_queue_probe(Loop* loop) noexcept nogil:
    """Allows the next attempt at more subscriptions than NATS accepted last."""
    cdef Link* link = loop.linked
    link.limit.spare = link.limit.burst
    link.limit.probing = True
    link.limit.retry_due = loop.tick + OVER_TICKS


cdef inline bint sub_queue_allowed(Loop* loop) noexcept nogil:
    """Whether another SUB may be sent. If so, the caller must send it."""
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
    """Allows another SUB in place of one that is given up."""
    if link.limit.full:
        link.limit.spare += 1


cdef inline void sub_queue_refused(Loop* loop) noexcept nogil:
    """Counts a room or an audience that is in state SUB_OVER from now on."""
    loop.linked.limit.refused += 1
    loop.n[C_NATS_SUBS_REFUSED] += 1


cdef inline bint sub_queue_push(Link* link, uint32_t sid) noexcept nogil:
    """Queues a SUB for the end of the iteration. False without memory."""
    if not array_reserve(&link.limit.fresh, &link.limit.fresh_size, link.limit.fresh_used + 1,
                         sizeof(uint32_t), SUBS_AT_FIRST):
        return False
    link.limit.fresh[link.limit.fresh_used] = sid
    link.limit.fresh_used += 1
    link.subs.syncing = True
    return True
