"""The link's subscriptions to rooms, and the clients whose SUB waits until NATS confirms one. Loop 0 only."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.array cimport array_reserve, array_reserve_last
from signal_core.base.counters cimport C_AWAITS_REFUSED, C_NATS_SUBS
from signal_core.base.kinds cimport KIND_NATS, KIND_RECEIPT
from signal_core.base.limits cimport PREFIX_SIZE, RECLAIMS_PER_TURN, RESUMES_PER_TURN, WAITERS_MOST
from signal_core.base.memory cimport (
    Packet, packet_data, packet_free, packet_new_heap, packet_set_data, packet_set_end, packet_set_text, packet_text,
)
from signal_core.base.span cimport Span, span_between, span_from, span_none, span_of, span_starts, span_until
from signal_core.base.sys cimport SE_RARE, se_load_relaxed, se_store8_release
from signal_core.base.text cimport text_put_span
from signal_core.delivery.outbox cimport outbox_loop_of, outbox_post
from signal_core.delivery.sub_queue cimport (
    SUB_FRESH, SUB_OVER, SUB_PLAIN, SUBS_AT_FIRST, sub_queue_allowed, sub_queue_given_up, sub_queue_has_room,
    sub_queue_push, sub_queue_refused,
)
from signal_core.delivery.write_queue cimport write_queue_add
from signal_core.presence.watches cimport watches_end_one, watches_settle, watches_unsub_write
from signal_core.route.receipts cimport receipts_tell_peer
from signal_core.tables.codes cimport CLUSTER_OFF, CODE_DENIED, CODE_OK, CODE_UNAVAILABLE
from signal_core.tables.link_state cimport LINK_UP, Link, Waiter, waiter_ref
from signal_core.tables.room_table cimport (
    Audience, RoomEntry, audience_of, room_entry_name, room_entry_retire, room_table_find, room_table_hash,
    room_table_settle,
)
from signal_core.tables.state cimport Loop, hub_prefix
from signal_core.wire.ids cimport ROOM_MAX, ids_loop
from signal_core.wire.nats_format cimport NATS_KIND_SIZE, NATS_SUB_SIZE, nats_format_put_subject, nats_format_sub
from signal_core.wire.nats_proto cimport NATS_TO_ROOM, NatsTarget, nats_target

cdef enum:
    SID_NAME = 1              # `<prefix>.node.<node>`: other nodes ask for our name
    SID_PROBE = 2             # `<prefix>.node.<node>.<instance>`: the answer to our own request
    SID_PEER = 3              # `<prefix>.peer.<node>.>`
    FIRST_SID = 16            # rooms have sids from here on; cluster.pxd has those between


cdef inline bint subscriptions_write(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Queues the SUB of a room; the caller queues a PING behind it. False: no memory."""
    cdef Link* link = loop.linked
    cdef NatsTarget room = nats_target(room_entry_name(entry), span_none(), NATS_TO_ROOM)
    cdef char text[PREFIX_SIZE + NATS_KIND_SIZE + ROOM_MAX]
    cdef Span subject = span_between(text, nats_format_put_subject(text, hub_prefix(loop.hub), &room))
    cdef Packet* packet = packet_new_heap(&loop.mem, subject.size + NATS_SUB_SIZE, KIND_NATS)
    if packet == NULL:
        return False
    packet_set_end(packet, nats_format_sub(<char*>packet.data, subject, FIRST_SID + entry.sub - 1))
    write_queue_add(loop, &link.out, packet)
    link.dirty = True
    return True


cdef inline void _sub_over(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Notes that NATS refuses a SUB for its limit, so that it is tried again later."""
    entry.sub_state = SUB_OVER
    entry.ping = 0
    sub_queue_refused(loop)


cdef inline void subscriptions_lapse(Loop* loop, RoomEntry* entry, bint unsure) noexcept nogil:
    """Notes that NATS has refused the SUB of a room for its limit. `unsure`: it may have accepted it, so the room is
    unsubscribed."""
    if unsure:
        watches_unsub_write(loop, FIRST_SID + entry.sub - 1)
    se_store8_release(&entry.confirmed, 0)
    _sub_over(loop, entry)


cdef inline void subscriptions_try(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Queues a room to be subscribed at the end of the iteration, unless NATS takes no more subscriptions."""
    cdef Link* link = loop.linked
    entry.sub_state = SUB_PLAIN
    if not sub_queue_allowed(loop):
        _sub_over(loop, entry)
    elif sub_queue_push(link, <uint32_t>FIRST_SID + entry.sub - 1):
        entry.sub_state = SUB_FRESH
        entry.ping = link.pinged + 1
    else:
        link.subs.starved = True


cdef inline bint _subs_reserve(Link* link) noexcept nogil:
    """Makes sure that a free index exists. False: no memory."""
    cdef uint32_t size = link.subs.size
    if link.subs.nfree:
        return True
    return (array_reserve(&link.subs.rooms, &size, link.subs.used + 1, sizeof(RoomEntry*), SUBS_AT_FIRST)
            and array_reserve(&link.subs.free, &link.subs.size, size, sizeof(uint32_t), SUBS_AT_FIRST))


cdef inline bint _sub_index(Link* link, uint32_t* index) noexcept nogil:
    """Takes a free index of subs.rooms. False: no memory."""
    if not _subs_reserve(link):
        return False
    if link.subs.nfree:
        link.subs.nfree -= 1
        index[0] = link.subs.free[link.subs.nfree]
    else:
        index[0] = link.subs.used
        link.subs.used += 1
    return True


cdef inline void _sub_add(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Gives a room a sid, and subscribes to it if the link is up. No effect if it has one, or without memory."""
    cdef Link* link = loop.linked
    cdef uint32_t index
    if entry.sub or se_load_relaxed(&loop.hub.link) == CLUSTER_OFF or not _sub_index(link, &index):
        return
    link.subs.rooms[index] = entry
    entry.sub = index + 1
    loop.n[C_NATS_SUBS] += 1
    if link.state != LINK_UP:
        return
    if not sub_queue_has_room(link):  # NATS reads too slowly: subscriptions_resume does it
        if index < link.subs.resume:
            link.subs.resume = index
        return
    if index == link.subs.resume:
        link.subs.resume += 1
    subscriptions_try(loop, entry)


cdef inline void _sub_remove(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Unsubscribes from a room, and frees its sid."""
    cdef Link* link = loop.linked
    if entry.sub == 0:
        return
    if entry.sub_state == SUB_OVER:
        link.limit.refused -= 1
    elif link.state == LINK_UP and entry.ping:
        if entry.sub_state == SUB_PLAIN:
            watches_unsub_write(loop, FIRST_SID + entry.sub - 1)
        sub_queue_given_up(link)
    link.subs.rooms[entry.sub - 1] = NULL
    link.subs.free[link.subs.nfree] = entry.sub - 1
    link.subs.nfree += 1
    loop.n[C_NATS_SUBS] -= 1


cdef inline void subscriptions_settle(Loop* loop, Packet* packet) noexcept nogil:
    """Handles and takes over a KIND_SYNC: subscribes to a room with members; else unsubscribes, and retires its entry.

    Without memory it keeps the packet until the next tick. Until the room is settled its entry stays, and no thread
    posts another KIND_SYNC for it.
    """
    cdef Link* link = loop.linked
    cdef RoomEntry* entry = <RoomEntry*>packet.pointer
    if entry.sub == 0 and se_load_relaxed(&loop.hub.link) != CLUSTER_OFF and not _subs_reserve(link):
        packet.next = link.subs.unsettled
        link.subs.unsettled = packet
        return
    packet_free(&loop.mem, packet)
    if room_table_settle(&loop.hub.rooms, entry):
        _sub_add(loop, entry)
        watches_settle(loop, entry)
    else:
        _sub_remove(loop, entry)
        watches_end_one(loop, entry)
        room_entry_retire(&loop.hub.rooms, entry)
        if se_load_relaxed(&loop.hub.rooms.waiting) > RECLAIMS_PER_TURN:
            loop.overdue = True


cdef inline bint _waiter_add(Loop* loop, const Waiter* waiter) noexcept nogil:
    """Adds a waiter. False: no memory, or WAITERS_MOST wait already."""
    cdef Link* link = loop.linked
    if link.waiters.used - link.waiters.head >= WAITERS_MOST:
        loop.n[C_AWAITS_REFUSED] += 1
        return False
    if not array_reserve_last(&link.waiters.list, &link.waiters.head, &link.waiters.used, &link.waiters.size,
                              sizeof(Waiter), SUBS_AT_FIRST):
        return False
    link.waiters.list[link.waiters.used] = waiter[0]
    link.waiters.used += 1
    return True


cdef inline bint _sub_is_over(const Link* link, RoomEntry* entry, bint presence) noexcept nogil:
    """Whether NATS refused the subscription of the room, or with `presence` that of its presence, for its limit."""
    cdef Audience* audience = audience_of(entry) if presence else NULL
    return entry.sub_state == SUB_OVER or (
        audience != NULL and audience.linked == link.number and audience.sub_state == SUB_OVER)


cdef inline uint32_t _sub_ping(const Link* link, RoomEntry* entry, bint presence) noexcept nogil:
    """Returns the number of the PING whose PONG confirms the room's SUB; 0: it is not known yet."""
    cdef Audience* audience = audience_of(entry) if presence and entry.ping else NULL
    if audience != NULL and audience.linked == link.number and audience.ping > entry.ping:
        return audience.ping
    return entry.ping


cdef inline void _waiter_fill(Waiter* waiter, Packet* packet, const RoomEntry* entry) noexcept nogil:
    """Fills a waiter from a KIND_AWAIT and its room, except `ping`."""
    waiter.id = packet.target
    waiter.index = entry.sub - 1
    waiter.serial = entry.serial
    waiter.presence = packet.code
    waiter.size = <uint8_t>packet.text_size
    text_put_span(waiter.ref, packet_text(packet))


cdef inline void subscriptions_await(Loop* loop, Packet* packet) noexcept nogil:
    """Handles a KIND_AWAIT: sends its receipt once NATS has answered the PING behind the room's SUB, or is away.
    Refuses the SUB without memory, or if WAITERS_MOST wait already."""
    cdef Link* link = loop.linked
    cdef RoomEntry* entry = room_table_find(&loop.hub.rooms, packet_data(packet), packet.hash)
    cdef bint presence = packet.code
    cdef Waiter waiter
    if entry != NULL and link.state == LINK_UP:
        _sub_add(loop, entry)
        if presence:
            watches_settle(loop, entry)
        if entry.denied or _sub_is_over(link, entry, presence):
            _sub_refuse(loop, packet.target, entry, CODE_DENIED if entry.denied else CODE_UNAVAILABLE,
                        packet_text(packet))
            return
        waiter.ping = _sub_ping(link, entry, presence)
        if waiter.ping == 0 or waiter.ping > link.ponged:
            _waiter_fill(&waiter, packet, entry)
            if entry.sub == 0 or not _waiter_add(loop, &waiter):
                _sub_refuse(loop, packet.target, entry, CODE_UNAVAILABLE, packet_text(packet))
            return
        se_store8_release(&entry.confirmed, 1)
    receipts_tell_peer(loop, packet.target, CODE_OK, packet_text(packet))


cdef inline RoomEntry* _waiter_entry(const Link* link, const Waiter* waiter) noexcept nogil:
    """Returns the room that it waits for; NULL: the room is gone."""
    cdef RoomEntry* entry = link.subs.rooms[waiter.index] if waiter.index < link.subs.used else NULL
    return entry if entry != NULL and entry.serial == waiter.serial else NULL


cdef inline void subscriptions_confirm(Loop* loop) noexcept nogil:
    """On a PONG, after sub_limit_pong: sends the receipts of the SUBs that it confirms."""
    cdef Link* link = loop.linked
    cdef Waiter* waiter
    cdef RoomEntry* entry
    while link.waiters.head < link.waiters.used:
        waiter = &link.waiters.list[link.waiters.head]
        if waiter.id and (waiter.ping == 0 or waiter.ping > link.ponged):
            return
        link.waiters.head += 1
        if waiter.id == 0:
            continue
        entry = _waiter_entry(link, waiter)
        if SE_RARE(link.limit.full) and entry != NULL and _sub_is_over(link, entry, waiter.presence):
            _sub_refuse(loop, waiter.id, entry, CODE_UNAVAILABLE, waiter_ref(waiter))
        else:
            receipts_tell_peer(loop, waiter.id, CODE_OK, waiter_ref(waiter))


cdef inline void subscriptions_release_waiters(Loop* loop) noexcept nogil:
    """Sends OK to every waiter when NATS is away, since its room is joined on this node."""
    cdef Link* link = loop.linked
    cdef Waiter* waiter
    while link.waiters.head < link.waiters.used:
        waiter = &link.waiters.list[link.waiters.head]
        link.waiters.head += 1
        if waiter.id:
            receipts_tell_peer(loop, waiter.id, CODE_OK, waiter_ref(waiter))


cdef inline void subscriptions_lost(Loop* loop) noexcept nogil:
    """Forgets the subscriptions of a connection that has ended: no room is confirmed any more."""
    cdef Link* link = loop.linked
    cdef uint32_t i
    for i in range(link.subs.used):
        if link.subs.rooms[i] != NULL:
            link.subs.rooms[i].ping = 0
            link.subs.rooms[i].denied = False
            link.subs.rooms[i].sub_state = SUB_PLAIN
            se_store8_release(&link.subs.rooms[i].confirmed, 0)
    link.subs.resume = 0
    link.subs.syncing = link.limit.full = link.limit.probing = False
    link.limit.fresh_used = link.limit.sent_head = link.limit.sent_used = 0
    link.limit.over = link.limit.unidentified = link.limit.refused = link.limit.late = 0
    link.limit.burst = 1


cdef inline bint _sub_is_wanted(const RoomEntry* entry) noexcept nogil:
    """Whether its SUB was neither queued nor refused on this connection."""
    return entry.ping == 0 and entry.sub_state == SUB_PLAIN


cdef inline void subscriptions_resume(Loop* loop) noexcept nogil:
    """Subscribes to rooms again after a reconnect: at most RESUMES_PER_TURN, and as many as may be queued."""
    cdef Link* link = loop.linked
    cdef uint32_t i, budget = RESUMES_PER_TURN
    while link.subs.resume < link.subs.used and sub_queue_has_room(link) and budget:
        budget -= 1
        if link.subs.rooms[link.subs.resume] != NULL and _sub_is_wanted(link.subs.rooms[link.subs.resume]):
            subscriptions_try(loop, link.subs.rooms[link.subs.resume])
        link.subs.resume += 1
    if link.subs.resume == link.subs.used and not link.subs.starved:
        for i in range(link.waiters.head, link.waiters.used):
            if link.waiters.list[i].ping == 0:
                link.waiters.list[i].ping = link.pinged + 1
                link.subs.syncing = True


cdef inline void subscriptions_retry(Loop* loop) noexcept nogil:
    """Each tick: tries again what failed for want of memory."""
    cdef Link* link = loop.linked
    cdef Packet* packet = link.subs.unsettled
    cdef Packet* after
    link.subs.unsettled = NULL
    while packet != NULL:
        after = packet.next
        subscriptions_settle(loop, packet)
        packet = after
    if link.subs.starved:
        link.subs.starved = False
        link.subs.resume = 0


cdef inline void _sub_refuse(Loop* loop, uint64_t id, RoomEntry* entry, uint8_t code, Span ref) noexcept nogil:
    """Tells a client's loop that its SUB is refused: CODE_DENIED or CODE_UNAVAILABLE. The loop undoes what the SUB has
    changed: the membership, or only its watching of presence."""
    cdef Packet* packet
    if outbox_loop_of(loop.hub, id) == NULL:
        return
    packet = packet_new_heap(&loop.mem, entry.size + ref.size, KIND_RECEIPT)
    if packet == NULL:
        return
    packet.target = id
    packet.code = code
    packet.hash = entry.sub_state != SUB_OVER and not entry.denied  # the room itself is subscribed to
    packet_set_data(packet, room_entry_name(entry))
    packet_set_text(packet, ref)
    outbox_post(loop, ids_loop(id), packet)


cdef inline Span subscriptions_quoted(Span text) noexcept nogil:
    """Returns the text between the first two double quotes; span_none: there are fewer."""
    cdef size_t size = span_until(text, c'"')
    if size == text.size:
        return span_none()
    text = span_from(text, size + 1)
    size = span_until(text, c'"')
    return span_of(text.at, size) if size < text.size else span_none()


cdef inline RoomEntry* _subject_entry(Loop* loop, Span text) noexcept nogil:
    """Returns the room whose subject is quoted in the text; NULL: there is none."""
    cdef Span subject = subscriptions_quoted(text)
    cdef uint32_t prefix = loop.hub.prefix_len
    if subject.size <= prefix + NATS_KIND_SIZE or not span_starts(span_from(subject, prefix), b".room."):
        return NULL
    subject = span_from(subject, prefix + NATS_KIND_SIZE)
    return room_table_find(&loop.hub.rooms, subject, room_table_hash(&loop.hub.rooms, subject))


cdef inline void subscriptions_denied(Loop* loop, Span text) noexcept nogil:
    """Handles `Permissions Violation for Subscription to "<subject>"`. Every SUB of that room, waiting or to come on
    this connection, is answered `denied`, and its client is not a member."""
    cdef Link* link = loop.linked
    cdef Waiter* waiter
    cdef RoomEntry* entry = _subject_entry(loop, text)
    cdef uint32_t i
    if entry == NULL or entry.sub == 0:
        link.limit.unidentified += 1
        return
    entry.denied = True
    se_store8_release(&entry.confirmed, 0)  # it may have been allowed before
    for i in range(link.waiters.head, link.waiters.used):
        waiter = &link.waiters.list[i]
        if waiter.id and _waiter_entry(link, waiter) == entry:
            _sub_refuse(loop, waiter.id, entry, CODE_DENIED, waiter_ref(waiter))
            waiter.id = 0
