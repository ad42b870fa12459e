"""Writes SUBs, and handles those that NATS refuses for its limit on subscriptions (sub_queue.pxd). Loop 0 only."""

from libc.stdint cimport uint32_t
from libc.string cimport memmove
from signal_core.base.array cimport array_reserve_last
from signal_core.base.limits cimport BURST_MOST, OVER_TICKS, OVER_TOLD_TICKS, RESUMES_PER_TURN
from signal_core.base.span cimport span_text
from signal_core.base.sys cimport SE_RARE
from signal_core.delivery.outbox cimport outbox_event
from signal_core.delivery.sub_queue cimport SUB_FRESH, SUB_OVER, SUB_PLAIN, SUBS_AT_FIRST, sub_queue_probe
from signal_core.nats.subscriptions cimport FIRST_SID, subscriptions_lapse, subscriptions_try, subscriptions_write
from signal_core.presence.watches cimport SID_AUDIENCE, watches_lapse, watches_sub, watches_write
from signal_core.tables.codes cimport EVENT_LOG
from signal_core.tables.link_state cimport Link, SentSub
from signal_core.tables.room_table cimport PUT_OFF_NODES, Audience, RoomEntry
from signal_core.tables.state cimport Loop


# -- writing --

cdef inline bint sub_limit_reserve_sent(Link* link) noexcept nogil:
    """Makes room for one more SUB that awaits its PONG. False: no memory."""
    return array_reserve_last(&link.limit.sent, &link.limit.sent_head, &link.limit.sent_used, &link.limit.sent_size,
                              sizeof(SentSub), SUBS_AT_FIRST)


cdef inline void sub_limit_note_sent(Link* link, uint32_t sid) noexcept nogil:
    """Notes a SUB written before the next PING, which NATS may refuse until the PONG. After sub_limit_reserve_sent."""
    link.limit.sent[link.limit.sent_used].sid = sid
    link.limit.sent[link.limit.sent_used].ping = link.pinged + 1
    link.limit.sent_used += 1


cdef inline RoomEntry* _sid_entry(const Link* link, uint32_t sid) noexcept nogil:
    """Returns the room with this sid; NULL: there is none."""
    return link.subs.rooms[sid - FIRST_SID] if FIRST_SID <= sid < FIRST_SID + link.subs.used else NULL


cdef inline Audience* _sid_audience(const Link* link, uint32_t sid) noexcept nogil:
    """Returns the audience with this sid on the present connection; NULL: there is none."""
    cdef Audience* audience
    if not SID_AUDIENCE <= sid < SID_AUDIENCE + link.presence.audiences_used:
        return NULL
    audience = link.presence.audiences[sid - SID_AUDIENCE]
    return audience if audience != NULL and audience.linked == link.number else NULL


cdef inline bint _fresh_one(Loop* loop, uint32_t sid) noexcept nogil:
    """Writes a SUB unless it is no longer wanted. False: no memory."""
    cdef Link* link = loop.linked
    cdef RoomEntry* entry = _sid_entry(link, sid)
    cdef Audience* audience = _sid_audience(link, sid)
    if entry != NULL and entry.sub_state == SUB_FRESH:
        if not sub_limit_reserve_sent(link) or not subscriptions_write(loop, entry):
            return False
        entry.sub_state = SUB_PLAIN
        sub_limit_note_sent(link, sid)
    elif audience != NULL and audience.sub_state == SUB_FRESH:
        if not sub_limit_reserve_sent(link) or not watches_write(loop, audience):
            return False
        audience.sub_state = SUB_PLAIN
        sub_limit_note_sent(link, sid)
    return True


cdef inline void sub_limit_write_fresh(Loop* loop) noexcept nogil:
    """Writes the queued SUBs, at the end of the iteration. Without memory the rest, and the PING behind them, wait for
    a later one."""
    cdef Link* link = loop.linked
    cdef uint32_t i = 0
    while i < link.limit.fresh_used and _fresh_one(loop, link.limit.fresh[i]):
        i += 1
    link.limit.fresh_used -= i
    memmove(link.limit.fresh, link.limit.fresh + i, link.limit.fresh_used * sizeof(uint32_t))


# -- what NATS refused --

cdef inline void _over_tell(Loop* loop) noexcept nogil:
    """Logs that NATS accepts no more subscriptions, once in OVER_TOLD_TICKS."""
    cdef Link* link = loop.linked
    cdef const char* text = (b"NATS accepts no more subscriptions of this node: joins are answered 'unavailable', and "
                             b"rooms without a subscription are local to this node, until its limit "
                             b"(max_subscriptions) is raised or other rooms are left")
    if link.limit.over_told == 0 or loop.tick - link.limit.over_told >= OVER_TOLD_TICKS:
        link.limit.over_told = loop.tick
        outbox_event(loop, EVENT_LOG, 0, span_text(text))


cdef inline bint _over_one(Loop* loop, const SentSub* sent, bint unsure) noexcept nogil:
    """Notes that a SUB was refused for the limit. False: NATS has denied it by name, so no error about the limit was
    for it. `unsure`: NATS may have accepted it, so it is unsubscribed."""
    cdef Link* link = loop.linked
    cdef RoomEntry* entry = _sid_entry(link, sent.sid)
    cdef Audience* audience = _sid_audience(link, sent.sid)
    if entry != NULL and entry.ping == sent.ping and entry.sub_state == SUB_PLAIN:
        if entry.denied:
            return False
        subscriptions_lapse(loop, entry, unsure)
    elif audience != NULL and audience.ping == sent.ping and audience.sub_state == SUB_PLAIN:
        watches_lapse(loop, audience, unsure)
    return True


cdef inline bint _subs_over(Loop* loop, uint32_t end) noexcept nogil:
    """Gives up the last of the SUBs before index `end` of limit.sent, one for each error about the limit, to be tried
    again later. For each permission violation that names no known room, one more. False: the node's own SUBs are among
    those refused."""
    cdef Link* link = loop.linked
    cdef uint32_t left = link.limit.over + link.limit.unidentified, i = end
    link.limit.full = True
    link.limit.probing = False
    link.limit.spare = 0
    link.limit.burst = 1
    link.limit.retry_due = loop.tick + OVER_TICKS
    while i > link.limit.sent_head and left:
        i -= 1
        if link.limit.sent[i].sid < FIRST_SID:
            if left > link.limit.unidentified:
                return False
            left = 0
        elif _over_one(loop, &link.limit.sent[i], link.limit.unidentified):
            left -= 1
    _over_tell(loop)
    return True


cdef inline void _subs_taken(Loop* loop, uint32_t end) noexcept nogil:
    """NATS accepted the SUBs before index `end` of limit.sent: more are tried, and watchers whose SUB was late query
    the members on other nodes."""
    cdef Link* link = loop.linked
    cdef Audience* audience
    cdef uint32_t i
    for i in range(link.limit.sent_head, end if link.limit.late else link.limit.sent_head):
        audience = _sid_audience(link, link.limit.sent[i].sid)
        if audience != NULL and audience.late and audience.ping == link.limit.sent[i].ping:
            audience.late = 0
            link.limit.late -= 1
            audience.put_off |= PUT_OFF_NODES
            link.presence.again = True
    if link.limit.probing and end > link.limit.sent_head:
        link.limit.probing = False
        link.limit.burst = 2 * link.limit.burst if link.limit.burst < BURST_MOST else BURST_MOST
        link.limit.retry_due = loop.tick + 1
        link.limit.full = link.limit.refused > 0


cdef inline bint sub_limit_pong(Loop* loop) noexcept nogil:
    """On a PONG: finds out which SUBs before its PING NATS accepted and refused. False: it refused the node's own."""
    cdef Link* link = loop.linked
    cdef uint32_t end = link.limit.sent_head
    cdef bint good = True
    while end < link.limit.sent_used and link.limit.sent[end].ping <= link.ponged:
        end += 1
    if SE_RARE(link.limit.over):
        good = _subs_over(loop, end)
    elif SE_RARE(link.limit.full):
        _subs_taken(loop, end)
    link.limit.over = link.limit.unidentified = 0
    link.limit.sent_head = end
    return good


cdef inline void sub_limit_again(Loop* loop) noexcept nogil:
    """Each tick: tries refused SUBs again, one for each that was given up since, and some each second."""
    cdef Link* link = loop.linked
    cdef uint32_t looks = RESUMES_PER_TURN, at
    cdef RoomEntry* entry
    cdef Audience* audience
    if link.limit.refused == 0 or not link.limit.full:
        return
    if link.limit.spare == 0 and link.limit.retry_due <= loop.tick:
        sub_queue_probe(loop)
    while link.limit.spare and link.limit.refused and looks:
        looks -= 1
        at = link.limit.retry if link.limit.retry < link.subs.used + link.presence.audiences_used else 0
        link.limit.retry = at + 1
        if at < link.subs.used:
            entry = link.subs.rooms[at]
            if entry != NULL and entry.sub_state == SUB_OVER:
                link.limit.refused -= 1
                subscriptions_try(loop, entry)
        else:
            audience = _sid_audience(link, SID_AUDIENCE + at - link.subs.used)
            if audience != NULL and audience.sub_state == SUB_OVER:
                link.limit.refused -= 1
                audience.sub_state = SUB_PLAIN
                watches_sub(loop, audience)
