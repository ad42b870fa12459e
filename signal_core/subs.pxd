"""The link's subscriptions, in step with the rooms, and the SUBs of clients that await NATS. L4. Loop 0 only."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcmp, memcpy, memmove
from signal_core.audience cimport audience_end, audience_settle, unsub_write
from signal_core.counters cimport C_AWAITS_REFUSED, C_NATS_SUBS
from signal_core.limits cimport RECLAIMS_PER_TURN, RESUMES_PER_TURN, WAITERS_MOST
from signal_core.memory cimport KIND_NATS, KIND_RECEIPT, Msg, msg_free, msg_new_heap, msg_set_text, msg_text
from signal_core.natswire cimport nats_put_sub
from signal_core.post cimport loop_of, post
from signal_core.queue cimport queue_add
from signal_core.roomtable cimport (
    Audience, RoomEntry, audience_of, entry_retire, room_hash, table_find, table_settle,
)
from signal_core.route cimport tell_peer
from signal_core.state cimport CLUSTER_OFF, CODE_DENIED, CODE_OK, CODE_UNAVAILABLE, LINK_UP, Hub, Link, Loop, Waiter
from signal_core.subqueue cimport (
    SUB_FRESH, SUB_OVER, SUB_PLAIN, sub_allowed, sub_given_up, sub_push, sub_refused, subs_have_room,
)
from signal_core.sys cimport SE_RARE, se_load_relaxed, se_store8_release

cdef enum:
    SID_NAME = 1              # `<prefix>.node.<node>`: others ask for our name
    SID_PROBE = 2             # the answer to our own question
    SID_PEER = 3              # `<prefix>.peer.<node>.>`
    FIRST_SID = 16            # of rooms; those between are presence.pxd's


cdef inline bint sub_write(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Queues the SUB of a room; its PING follows. False without memory."""
    cdef Link* link = loop.linked
    cdef Hub* hub = loop.hub
    cdef char prefix[80]
    cdef Msg* msg = msg_new_heap(&loop.mem, 512, KIND_NATS)
    if msg == NULL:
        return False
    memcpy(prefix, hub.prefix, hub.prefix_len)
    memcpy(&prefix[hub.prefix_len], b".room.", 6)
    msg.size = <uint32_t>nats_put_sub(<char*>msg.data, prefix, hub.prefix_len + 6, entry.name, entry.size,
                                      FIRST_SID + entry.sub - 1)
    queue_add(loop, &link.out, msg)
    link.dirty = True
    return True


cdef inline void sub_over(Loop* loop, RoomEntry* entry) noexcept nogil:
    """NATS takes no more subscriptions: it is tried again."""
    entry.sub_state = SUB_OVER
    entry.ping = 0
    sub_refused(loop)


cdef inline void sub_lapse(Loop* loop, RoomEntry* entry, bint unsure) noexcept nogil:
    """NATS has refused its SUB, or may have (`unsure`): then it is given up."""
    if unsure:
        unsub_write(loop, FIRST_SID + entry.sub - 1)
    se_store8_release(&entry.confirmed, 0)
    sub_over(loop, entry)


cdef inline void sub_try(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Has the SUB of a room written at the end of the iteration, unless NATS takes no more."""
    cdef Link* link = loop.linked
    entry.sub_state = SUB_PLAIN
    if not sub_allowed(loop):
        sub_over(loop, entry)
    elif sub_push(link, <uint32_t>FIRST_SID + entry.sub - 1):
        entry.sub_state = SUB_FRESH
        entry.ping = link.pinged + 1
    else:
        link.starved = True


cdef inline bint subs_reserve(Link* link) noexcept nogil:
    """Makes sure that there is a free place; False without memory."""
    cdef RoomEntry** subs
    cdef uint32_t* spare
    cdef uint32_t size
    if link.subs_nfree == 0 and link.subs_used == link.subs_size:
        size = 64 if link.subs_size == 0 else 2 * link.subs_size
        subs = <RoomEntry**>realloc(link.subs, size * sizeof(RoomEntry*))
        if subs == NULL:
            return False
        link.subs = subs
        spare = <uint32_t*>realloc(link.subs_free, size * sizeof(uint32_t))
        if spare == NULL:
            return False
        link.subs_free = spare
        link.subs_size = size
    return True


cdef inline bint sub_place(Link* link, uint32_t* place) noexcept nogil:
    """Takes a free place; False without memory."""
    if not subs_reserve(link):
        return False
    if link.subs_nfree:
        link.subs_nfree -= 1
        place[0] = link.subs_free[link.subs_nfree]
    else:
        place[0] = link.subs_used
        link.subs_used += 1
    return True


cdef inline void sub_add(Loop* loop, RoomEntry* entry) noexcept nogil:
    cdef Link* link = loop.linked
    cdef uint32_t place
    if entry.sub or se_load_relaxed(&loop.hub.link) == CLUSTER_OFF or not sub_place(link, &place):
        return
    link.subs[place] = entry
    entry.sub = place + 1
    loop.n[C_NATS_SUBS] += 1
    if link.state != LINK_UP:
        return
    if not subs_have_room(link):  # NATS reads too slowly: this one follows with those that are made again
        if place < link.resume:
            link.resume = place
        return
    if place == link.resume:
        link.resume += 1
    sub_try(loop, entry)


cdef inline void sub_remove(Loop* loop, RoomEntry* entry) noexcept nogil:
    cdef Link* link = loop.linked
    if entry.sub == 0:
        return
    if entry.sub_state == SUB_OVER:
        link.refused -= 1
    elif link.state == LINK_UP and entry.ping:
        if entry.sub_state == SUB_PLAIN:
            unsub_write(loop, FIRST_SID + entry.sub - 1)
        sub_given_up(link)
    link.subs[entry.sub - 1] = NULL
    link.subs_free[link.subs_nfree] = entry.sub - 1
    link.subs_nfree += 1
    loop.n[C_NATS_SUBS] -= 1


cdef inline void subs_settle(Loop* loop, Msg* msg) noexcept nogil:
    """On a KIND_SYNC: subscribes to a room that has members, lets go of one that has none. Takes the message over.

    Without memory it is kept until the next tick: until it is settled, the entry stays and nobody posts another one.
    """
    cdef Link* link = loop.linked
    cdef RoomEntry* entry = <RoomEntry*>msg.pointer
    if entry.sub == 0 and se_load_relaxed(&loop.hub.link) != CLUSTER_OFF and not subs_reserve(link):
        msg.next = link.unsettled
        link.unsettled = msg
        return
    msg_free(&loop.mem, msg)
    if table_settle(&loop.hub.rooms, entry):
        sub_add(loop, entry)
        audience_settle(loop, entry)
    else:
        sub_remove(loop, entry)
        audience_end(loop, entry)
        entry_retire(&loop.hub.rooms, entry)
        if se_load_relaxed(&loop.hub.rooms.waiting) > RECLAIMS_PER_TURN:
            loop.overdue = True


cdef inline bint waiter_add(Loop* loop, const Waiter* waiter) noexcept nogil:
    """False without memory, or where WAITERS_MOST wait."""
    cdef Link* link = loop.linked
    cdef Waiter* grown
    cdef uint32_t size
    if link.waiters_head and link.waiters_head == link.waiters_used:
        link.waiters_head = link.waiters_used = 0
    if link.waiters_used - link.waiters_head >= WAITERS_MOST:
        loop.n[C_AWAITS_REFUSED] += 1
        return False
    if link.waiters_used == link.waiters_size:
        if link.waiters_head > link.waiters_size // 2:
            link.waiters_used -= link.waiters_head
            memmove(link.waiters, link.waiters + link.waiters_head, link.waiters_used * sizeof(Waiter))
            link.waiters_head = 0
        else:
            size = 64 if link.waiters_size == 0 else 2 * link.waiters_size
            grown = <Waiter*>realloc(link.waiters, size * sizeof(Waiter))
            if grown == NULL:
                return False
            link.waiters = grown
            link.waiters_size = size
    link.waiters[link.waiters_used] = waiter[0]
    link.waiters_used += 1
    return True


cdef inline bint sub_is_over(const Link* link, RoomEntry* entry, bint presence) noexcept nogil:
    """Whether NATS has no place for the room, or for who comes and goes in it."""
    cdef Audience* audience = audience_of(entry) if presence else NULL
    return entry.sub_state == SUB_OVER or (
        audience != NULL and audience.linked == link.number and audience.sub_state == SUB_OVER)


cdef inline uint32_t sub_ping(const Link* link, RoomEntry* entry, bint presence) noexcept nogil:
    """The PING whose answer a SUB of the room awaits; 0: it is not known yet."""
    cdef Audience* audience = audience_of(entry) if presence and entry.ping else NULL
    if audience != NULL and audience.linked == link.number and audience.ping > entry.ping:
        return audience.ping
    return entry.ping


cdef inline void subs_await(Loop* loop, Msg* msg) noexcept nogil:
    """On a KIND_AWAIT: the receipt is sent when NATS has answered a PING behind the room's SUB, or is away."""
    cdef Link* link = loop.linked
    cdef RoomEntry* entry = table_find(&loop.hub.rooms, <char*>msg.data, msg.size, msg.hash)
    cdef bint presence = msg.code
    cdef Waiter waiter
    cdef uint8_t code = CODE_OK
    if entry != NULL and link.state == LINK_UP:
        sub_add(loop, entry)
        if presence:
            audience_settle(loop, entry)
        if entry.denied or sub_is_over(link, entry, presence):
            sub_refuse(loop, msg.target, entry, CODE_DENIED if entry.denied else CODE_UNAVAILABLE, msg_text(msg),
                       msg.text_size)
            return
        waiter.ping = sub_ping(link, entry, presence)
        if waiter.ping == 0 or waiter.ping > link.ponged:
            waiter.id = msg.target
            waiter.place = entry.sub - 1
            waiter.serial = entry.serial
            waiter.presence = presence
            waiter.size = <uint8_t>msg.text_size
            memcpy(waiter.ref, msg_text(msg), msg.text_size)
            if entry.sub and waiter_add(loop, &waiter):
                return
            code = CODE_UNAVAILABLE
        else:
            se_store8_release(&entry.confirmed, 1)
    tell_peer(loop, msg.target, code, msg_text(msg), msg.text_size)


cdef inline RoomEntry* waiter_entry(const Link* link, const Waiter* waiter) noexcept nogil:
    """The room that it waits for; NULL where that is no more."""
    cdef RoomEntry* entry = link.subs[waiter.place] if waiter.place < link.subs_used else NULL
    return entry if entry != NULL and entry.serial == waiter.serial else NULL


cdef inline void subs_confirm(Loop* loop) noexcept nogil:
    """On a PONG, after it is known which SUBs NATS refused."""
    cdef Link* link = loop.linked
    cdef Waiter* waiter
    cdef RoomEntry* entry
    while link.waiters_head < link.waiters_used:
        waiter = &link.waiters[link.waiters_head]
        if waiter.id and (waiter.ping == 0 or waiter.ping > link.ponged):
            return
        link.waiters_head += 1
        if waiter.id == 0:
            continue
        entry = waiter_entry(link, waiter)
        if SE_RARE(link.full) and entry != NULL and sub_is_over(link, entry, waiter.presence):
            sub_refuse(loop, waiter.id, entry, CODE_UNAVAILABLE, waiter.ref, waiter.size)
        else:
            tell_peer(loop, waiter.id, CODE_OK, waiter.ref, waiter.size)


cdef inline void waiters_release(Loop* loop) noexcept nogil:
    """NATS is away: what was joined is joined locally."""
    cdef Link* link = loop.linked
    cdef Waiter* waiter
    while link.waiters_head < link.waiters_used:
        waiter = &link.waiters[link.waiters_head]
        link.waiters_head += 1
        if waiter.id:
            tell_peer(loop, waiter.id, CODE_OK, waiter.ref, waiter.size)


cdef inline void subs_lost(Loop* loop) noexcept nogil:
    """The connection is gone, and its subscriptions with it."""
    cdef Link* link = loop.linked
    cdef uint32_t i
    for i in range(link.subs_used):
        if link.subs[i] != NULL:
            link.subs[i].ping = 0
            link.subs[i].denied = False
            link.subs[i].sub_state = SUB_PLAIN
            se_store8_release(&link.subs[i].confirmed, 0)
    link.resume = 0
    link.syncing = link.full = link.probing = False
    link.fresh_used = link.sent_head = link.sent_used = 0
    link.over = link.unplaced = link.refused = link.late = 0
    link.burst = 1


cdef inline bint sub_is_wanted(const RoomEntry* entry) noexcept nogil:
    """Whether its SUB was neither asked for nor refused on this connection."""
    return entry.ping == 0 and entry.sub_state == SUB_PLAIN


cdef inline void subs_resume(Loop* loop) noexcept nogil:
    """Makes the rooms' subscriptions again, as many as may be queued, or passed over, at once."""
    cdef Link* link = loop.linked
    cdef uint32_t i, budget = RESUMES_PER_TURN
    while link.resume < link.subs_used and subs_have_room(link) and budget:
        budget -= 1
        if link.subs[link.resume] != NULL and sub_is_wanted(link.subs[link.resume]):
            sub_try(loop, link.subs[link.resume])
        link.resume += 1
    if link.resume == link.subs_used and not link.starved:
        for i in range(link.waiters_head, link.waiters_used):
            if link.waiters[i].ping == 0:
                link.waiters[i].ping = link.pinged + 1
                link.syncing = True


cdef inline void subs_retry(Loop* loop) noexcept nogil:
    """Each tick: what could not be subscribed to for want of memory is tried again."""
    cdef Link* link = loop.linked
    cdef Msg* msg = link.unsettled
    cdef Msg* after
    link.unsettled = NULL
    while msg != NULL:
        after = msg.next
        subs_settle(loop, msg)
        msg = after
    if link.starved:
        link.starved = False
        link.resume = 0


cdef inline void sub_refuse(Loop* loop, uint64_t id, RoomEntry* entry, uint8_t code, const char* ref,
                            size_t n) noexcept nogil:
    """Tells one that asked to join that NATS does not allow it, or has no place for it; its loop ends the membership,
    or what of it is new."""
    cdef Msg* msg
    if loop_of(loop.hub, id) == NULL:
        return
    msg = msg_new_heap(&loop.mem, entry.size + n, KIND_RECEIPT)
    if msg == NULL:
        return
    msg.target = id
    msg.code = code
    msg.hash = entry.sub_state != SUB_OVER and not entry.denied  # the room itself is subscribed to
    msg.size = entry.size
    memcpy(msg.data, entry.name, entry.size)
    msg_set_text(msg, ref, n)
    post(loop, <uint32_t>(id >> 56), msg)


cdef inline RoomEntry* subject_entry(Loop* loop, const char* text, size_t n) noexcept nogil:
    """The room whose subject stands between the text's quotes; NULL where there is none."""
    cdef Hub* hub = loop.hub
    cdef size_t skip = hub.prefix_len + 6, at = 0, end
    while at < n and text[at] != c'"':
        at += 1
    at += 1
    end = at
    while end < n and text[end] != c'"':
        end += 1
    if end >= n or end - at <= skip or memcmp(text + at + hub.prefix_len, b".room.", 6) != 0:
        return NULL
    at += skip
    return table_find(&hub.rooms, text + at, end - at, room_hash(&hub.rooms, text + at, end - at))


cdef inline void subs_denied(Loop* loop, const char* text, size_t n) noexcept nogil:
    """`Permissions Violation for Subscription to "<subject>"`: those who await it, and who come later while this
    connection lasts, hear `denied` and are not members."""
    cdef Link* link = loop.linked
    cdef Waiter* waiter
    cdef RoomEntry* entry = subject_entry(loop, text, n)
    cdef uint32_t i
    if entry == NULL or entry.sub == 0:
        link.unplaced += 1
        return
    entry.denied = True
    se_store8_release(&entry.confirmed, 0)  # it may have been allowed before
    for i in range(link.waiters_head, link.waiters_used):
        waiter = &link.waiters[i]
        if waiter.id and waiter_entry(link, waiter) == entry:
            sub_refuse(loop, waiter.id, entry, CODE_DENIED, waiter.ref, waiter.size)
            waiter.id = 0
