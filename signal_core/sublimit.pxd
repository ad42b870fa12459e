"""SUBs as they are written, and those that NATS refuses because there are too many. L4. Loop 0 only."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memmove, strlen
from signal_core.audience cimport SID_AUDIENCE, audience_lapse, audience_sub, audience_write
from signal_core.limits cimport BURST_MOST, CONTROL_LOOP, OVER_TICKS, OVER_TOLD_TICKS, RESUMES_PER_TURN
from signal_core.post cimport post_event
from signal_core.roomtable cimport PUT_OFF_NODES, Audience, RoomEntry
from signal_core.state cimport EVENT_LOG, Link, Loop, SentSub
from signal_core.subqueue cimport SUB_FRESH, SUB_OVER, SUB_PLAIN, sub_probe
from signal_core.subs cimport FIRST_SID, sub_lapse, sub_try, sub_write
from signal_core.sys cimport SE_RARE


# -- writing --

cdef inline bint sent_reserve(Link* link) noexcept nogil:
    """Place for one more that awaits its PONG. False without memory."""
    cdef SentSub* grown
    cdef uint32_t size
    if link.sent_head == link.sent_used:
        link.sent_head = link.sent_used = 0
    if link.sent_used < link.sent_size:
        return True
    if link.sent_head > link.sent_size // 2:
        link.sent_used -= link.sent_head
        memmove(link.sent, link.sent + link.sent_head, link.sent_used * sizeof(SentSub))
        link.sent_head = 0
        return True
    size = 2 * link.sent_size + 64
    grown = <SentSub*>realloc(link.sent, size * sizeof(SentSub))
    if grown == NULL:
        return False
    link.sent = grown
    link.sent_size = size
    return True


cdef inline void sent_note(Link* link, uint32_t sid) noexcept nogil:
    """It goes out before the next PING. There is place for it."""
    link.sent[link.sent_used].sid = sid
    link.sent[link.sent_used].ping = link.pinged + 1
    link.sent_used += 1


cdef inline RoomEntry* sid_entry(const Link* link, uint32_t sid) noexcept nogil:
    """The room of a subscription; NULL: none, or no room's."""
    return link.subs[sid - FIRST_SID] if FIRST_SID <= sid < FIRST_SID + link.subs_used else NULL


cdef inline Audience* sid_audience(const Link* link, uint32_t sid) noexcept nogil:
    """The room with listeners of a subscription; NULL: none."""
    cdef Audience* audience
    if not SID_AUDIENCE <= sid < SID_AUDIENCE + link.audiences_used:
        return NULL
    audience = link.audiences[sid - SID_AUDIENCE]
    return audience if audience != NULL and audience.linked == link.number else NULL


cdef inline bint fresh_one(Loop* loop, uint32_t sid) noexcept nogil:
    """Writes a SUB, unless nobody wants it any more. False without memory."""
    cdef Link* link = loop.linked
    cdef RoomEntry* entry = sid_entry(link, sid)
    cdef Audience* audience = sid_audience(link, sid)
    if entry != NULL and entry.sub_state == SUB_FRESH:
        if not sent_reserve(link) or not sub_write(loop, entry):
            return False
        entry.sub_state = SUB_PLAIN
        sent_note(link, sid)
    elif audience != NULL and audience.sub_state == SUB_FRESH:
        if not sent_reserve(link) or not audience_write(loop, audience):
            return False
        audience.sub_state = SUB_PLAIN
        sent_note(link, sid)
    return True


cdef inline void fresh_write(Loop* loop) noexcept nogil:
    """At the end of the iteration. What there is no memory for is written in a later one, and the PING with it."""
    cdef Link* link = loop.linked
    cdef uint32_t i = 0
    while i < link.fresh_used and fresh_one(loop, link.fresh[i]):
        i += 1
    link.fresh_used -= i
    memmove(link.fresh, link.fresh + i, link.fresh_used * sizeof(uint32_t))


# -- what NATS refused --

cdef inline void over_tell(Loop* loop) noexcept nogil:
    """The log says it when it begins, and not again soon."""
    cdef Link* link = loop.linked
    cdef const char* text = (b"NATS takes no more subscriptions of this node: joins are answered 'unavailable', and "
                             b"rooms that it has no subscription for hear this node only, until its limit "
                             b"(max_subscriptions) is raised or others are given up")
    if link.over_told == 0 or loop.tick - link.over_told >= OVER_TOLD_TICKS:
        link.over_told = loop.tick
        post_event(loop, CONTROL_LOOP, EVENT_LOG, 0, 0, text, strlen(text))


cdef inline bint over_one(Loop* loop, const SentSub* sent, bint unsure) noexcept nogil:
    """Takes note that a SUB was refused; False for one that was refused by its name, and so is none of these.
    `unsure`: it may have been taken, and is given up."""
    cdef Link* link = loop.linked
    cdef RoomEntry* entry = sid_entry(link, sent.sid)
    cdef Audience* audience = sid_audience(link, sent.sid)
    if entry != NULL and entry.ping == sent.ping and entry.sub_state == SUB_PLAIN:
        if entry.denied:
            return False
        sub_lapse(loop, entry, unsure)
    elif audience != NULL and audience.ping == sent.ping and audience.sub_state == SUB_PLAIN:
        audience_lapse(loop, audience, unsure)
    return True


cdef inline bint subs_over(Loop* loop, uint32_t end) noexcept nogil:
    """NATS had errors for some of the SUBs up to `end`: the last ones. Where a violation of permissions named none that
    is known, so many more are given up. False where the node's own are among them."""
    cdef Link* link = loop.linked
    cdef uint32_t left = link.over + link.unplaced, i = end
    link.full = True
    link.probing = False
    link.spare = 0
    link.burst = 1
    link.retry_due = loop.tick + OVER_TICKS
    while i > link.sent_head and left:
        i -= 1
        if link.sent[i].sid < FIRST_SID:
            if left > link.unplaced:
                return False
            left = 0
        elif over_one(loop, &link.sent[i], link.unplaced):
            left -= 1
    over_tell(loop)
    return True


cdef inline void subs_taken(Loop* loop, uint32_t end) noexcept nogil:
    """NATS took what was tried up to `end`: more are tried, and who listens where it was late asks who is there."""
    cdef Link* link = loop.linked
    cdef Audience* audience
    cdef uint32_t i
    for i in range(link.sent_head, end if link.late else link.sent_head):
        audience = sid_audience(link, link.sent[i].sid)
        if audience != NULL and audience.late and audience.ping == link.sent[i].ping:
            audience.late = 0
            link.late -= 1
            audience.put_off |= PUT_OFF_NODES
            link.again = True
    if link.probing and end > link.sent_head:
        link.probing = False
        link.burst = 2 * link.burst if link.burst < BURST_MOST else BURST_MOST
        link.retry_due = loop.tick + 1
        link.full = link.refused > 0


cdef inline bint subs_pong(Loop* loop) noexcept nogil:
    """On a PONG: what NATS took and what it refused of the SUBs before its PING. False where it refuses what the node
    needs for itself."""
    cdef Link* link = loop.linked
    cdef uint32_t end = link.sent_head
    cdef bint good = True
    while end < link.sent_used and link.sent[end].ping <= link.ponged:
        end += 1
    if SE_RARE(link.over):
        good = subs_over(loop, end)
    elif SE_RARE(link.full):
        subs_taken(loop, end)
    link.over = link.unplaced = 0
    link.sent_head = end
    return good


cdef inline void subs_again(Loop* loop) noexcept nogil:
    """Each tick: what NATS refused is tried again, as far as it has place, and some of it each second."""
    cdef Link* link = loop.linked
    cdef uint32_t looks = RESUMES_PER_TURN, at
    cdef RoomEntry* entry
    cdef Audience* audience
    if link.refused == 0 or not link.full:
        return
    if link.spare == 0 and link.retry_due <= loop.tick:
        sub_probe(loop)
    while link.spare and link.refused and looks:
        looks -= 1
        at = link.retry if link.retry < link.subs_used + link.audiences_used else 0
        link.retry = at + 1
        if at < link.subs_used:
            entry = link.subs[at]
            if entry != NULL and entry.sub_state == SUB_OVER:
                link.refused -= 1
                sub_try(loop, entry)
        else:
            audience = sid_audience(link, SID_AUDIENCE + at - link.subs_used)
            if audience != NULL and audience.sub_state == SUB_OVER:
                link.refused -= 1
                audience.sub_state = SUB_PLAIN
                audience_sub(loop, audience)
