"""Handles each verb of a client, on its loop. Each message is counted, and its ref answered exactly once, now or
later."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from signal_core.base.counters cimport C_AUTH_DENIED
from signal_core.base.kinds cimport TELL_PEER
from signal_core.base.limits cimport TICK_MS
from signal_core.base.span cimport span_between
from signal_core.base.sys cimport SE_COLD, SE_RARE
from signal_core.client.rate_limit cimport rate_limit_give
from signal_core.delivery.backpressure cimport backpressure_joins_wait, backpressure_tasks_full
from signal_core.delivery.conn cimport conn_id
from signal_core.delivery.envelope cimport Message, message_init
from signal_core.delivery.ledger cimport ledger_count
from signal_core.delivery.refs cimport refs_add, refs_check, refs_find, refs_remove
from signal_core.delivery.replies cimport REF_SUB, REF_TO, replies_put_peer, replies_say
from signal_core.route.await_nats cimport (
    AWAIT_FAILED, AWAIT_IT, AWAIT_NOTHING, await_nats_needed, await_nats_post,
)
from signal_core.route.membership cimport membership_join, membership_leave, membership_watch, membership_watch_ask
from signal_core.route.route cimport route_peer, route_room
from signal_core.tables.codes cimport CODE_BAD_REQUEST, CODE_DENIED, CODE_OK, CODE_UNAVAILABLE
from signal_core.tables.conn_acl cimport conn_acl_may_publish, conn_acl_may_send, conn_acl_may_sub, conn_acl_user
from signal_core.tables.conn_table cimport FLAG_LIMITED, FLAG_USER, REF_WAS_MEMBER, REF_WATCHES, Conn, Ref
from signal_core.tables.loop_rooms cimport rooms_find
from signal_core.tables.room_table cimport RoomEntry, room_entry_name
from signal_core.tables.state cimport Loop
from signal_core.wire.command cimport VERB_TO, Head
from signal_core.wire.ids cimport PEER_TEXT


cdef inline uint8_t _not_allowed(Loop* loop) noexcept nogil:
    """Counts a denial by the token; returns CODE_DENIED."""
    loop.n[C_AUTH_DENIED] += 1
    return CODE_DENIED


cdef inline void _message_fill(Loop* loop, Conn* c, const Head* head, bint binary, char* me,
                               Message* p) noexcept nogil:
    """Fills a Message from a parsed head. `me` is a buffer of PEER_TEXT bytes that must outlive it; the rest points
    into the client's input."""
    cdef uint64_t id = conn_id(loop, c)
    message_init(p, loop, span_between(me, replies_put_peer(me, loop.hub, id)), head.payload, head.ttl_ms)
    p.origin = id
    p.ref = head.ref
    p.re = head.re
    p.binary = binary
    if SE_RARE(c.flags & FLAG_USER):
        p.user = conn_acl_user(loop, c)


cdef inline uint32_t _ref_deadline(const Loop* loop, int64_t ttl_ms) noexcept nogil:
    """Returns the tick at which an outstanding ref times out: the last one within the message's ttl plus 1 s."""
    cdef int64_t ms = ttl_ms if ttl_ms >= 0 else loop.set.ttl_ms
    return loop.tick + <uint32_t>((ms + 1000) // TICK_MS) - 1


cdef inline SE_COLD _message_hold(Loop* loop, Conn* c) noexcept nogil:
    """Holds a message that would post a task to a loop for which too many wait, as if it had not arrived yet."""
    loop.pressure.holds = True
    rate_limit_give(loop, c)


cdef inline void verbs_to(Loop* loop, Conn* c, const Head* head, bint binary) noexcept nogil:
    """TO <peer>."""
    cdef char me[PEER_TEXT]
    cdef Message p
    cdef uint8_t code = CODE_OK
    _message_fill(loop, c, head, binary, me, &p)
    if SE_RARE(c.flags & FLAG_LIMITED) and not conn_acl_may_send(loop, c):
        code = _not_allowed(loop)
    elif head.ref.size:
        if SE_RARE(backpressure_tasks_full(loop, loop)):
            _message_hold(loop, c)
            return
        p.tell = TELL_PEER
        p.tell_text = head.ref
        code = refs_add(loop, c, head.ref, REF_TO, _ref_deadline(loop, head.ttl_ms))
    if code == CODE_OK:
        code = route_peer(loop, head.arg, head.node_len, &p)
        if code != CODE_OK and head.ref.size:
            refs_remove(loop, c, refs_find(loop, c, head.ref))
    ledger_count(loop, code)
    if code != CODE_OK:
        replies_say(loop, c, code, head.ref)


cdef inline void verbs_pub(Loop* loop, Conn* c, const Head* head, bint binary) noexcept nogil:
    """PUB <room> and TO @<user>."""
    cdef char me[PEER_TEXT]
    cdef Message p
    cdef uint8_t code = CODE_OK
    if head.ref.size and refs_find(loop, c, head.ref) != NULL:
        code = CODE_BAD_REQUEST
    elif c.flags & FLAG_LIMITED and not (conn_acl_may_send(loop, c) if head.verb == VERB_TO
                                         else conn_acl_may_publish(loop, c, head.arg)):
        code = _not_allowed(loop)
    else:
        _message_fill(loop, c, head, binary, me, &p)
        code = route_room(loop, head.arg, &p, head.verb == VERB_TO)
    ledger_count(loop, code)
    replies_say(loop, c, code, head.ref)


cdef inline uint8_t _sub_join(Loop* loop, Conn* c, const Head* head, RoomEntry** entry, uint32_t* room) noexcept nogil:
    """Joins the room, and with `presence` watches it: then `room` is its index on this loop. Returns a CODE_*."""
    cdef uint8_t code
    if not conn_acl_may_sub(loop, c, head.arg):
        return _not_allowed(loop)
    code = membership_join(loop, c, head.arg, entry)
    if code == CODE_OK and head.presence:
        code = membership_watch(loop, c, head.arg, room)
    return code


cdef inline int _sub_await(Loop* loop, Conn* c, const Head* head, RoomEntry* entry, bint is_new) noexcept nogil:
    """Has a SUB with a ref answered once NATS has confirmed the subscription. Returns AWAIT_*."""
    cdef Ref* ref
    if not await_nats_needed(loop, entry, head.presence):
        return AWAIT_NOTHING
    if refs_add(loop, c, head.ref, REF_SUB, _ref_deadline(loop, -1)) != CODE_OK:
        return AWAIT_FAILED
    ref = refs_find(loop, c, head.ref)
    if await_nats_post(loop, conn_id(loop, c), entry, head.ref, head.presence) == AWAIT_FAILED:
        refs_remove(loop, c, ref)
        return AWAIT_FAILED
    ref.room = rooms_find(&loop.rooms, entry.hash, room_entry_name(entry)) + 1
    ref.sub = (REF_WATCHES if head.presence else 0) | (0 if is_new else REF_WAS_MEMBER)
    return AWAIT_IT


cdef inline void _sub_answer(Loop* loop, Conn* c, const Head* head, uint8_t code, bint is_new) noexcept nogil:
    """Answers a SUB. If it failed, a membership that it began ends; an earlier one stays."""
    if code != CODE_OK and is_new:
        membership_leave(loop, c, head.arg)
    replies_say(loop, c, code, head.ref)


cdef inline void verbs_sub(Loop* loop, Conn* c, const Head* head) noexcept nogil:
    """SUB <room> [presence]. With a ref, the answer may wait until NATS has confirmed the subscription."""
    cdef RoomEntry* entry
    cdef uint32_t room = 0
    cdef uint16_t before = c.nrooms
    cdef uint8_t code = CODE_OK
    cdef int waits = AWAIT_NOTHING
    if SE_RARE(backpressure_joins_wait(loop)):
        _message_hold(loop, c)
        return
    if head.ref.size:
        code = refs_check(loop, c, head.ref)
        if code != CODE_OK:
            replies_say(loop, c, code, head.ref)
            return
    code = _sub_join(loop, c, head, &entry, &room)
    if code == CODE_OK and head.ref.size:
        waits = _sub_await(loop, c, head, entry, c.nrooms > before)
    if waits == AWAIT_IT:
        return
    if waits == AWAIT_FAILED:
        code = CODE_UNAVAILABLE
    _sub_answer(loop, c, head, code, c.nrooms > before)
    if code == CODE_OK and head.presence:
        membership_watch_ask(loop, c, room)


cdef inline void verbs_unsub(Loop* loop, Conn* c, const Head* head) noexcept nogil:
    """UNSUB <room>. OK also for a client that is not a member."""
    if head.ref.size and refs_find(loop, c, head.ref) != NULL:
        replies_say(loop, c, CODE_BAD_REQUEST, head.ref)
        return
    membership_leave(loop, c, head.arg)
    replies_say(loop, c, CODE_OK, head.ref)
