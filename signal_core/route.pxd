"""Where a message goes: to one peer, to the members of a room, and who joins and leaves. L3.

Every function runs on the thread of its loop (or, for a pseudo-loop, under the GIL). Codes are CODE_*; CODE_OK means
that the message is with a queue, an inbox or the link, and that its fate will be told to whoever asked.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from signal_core.address cimport local_parse
from signal_core.answers cimport hello_new, ref_finish, say, say_err, say_goaway
from signal_core.conn cimport (
    BLOCKED_LOOK, conn_answer, conn_deliver, conn_of, conn_queued, conn_resume, conn_silence, is_late,
)
from signal_core.counters cimport (
    C_ATTEMPTED, C_DROPPED_INBOX, C_IN_FLIGHT, C_LISTENERS, C_MEMBERSHIPS, C_ROOMS, C_ROOMS_REFUSED, C_TAKEN,
)
from signal_core.gaps cimport gap_note
from signal_core.identity cimport conn_places
from signal_core.inbox cimport inbox_taken
from signal_core.limits cimport SERVICE_LOOP, UNIT_SHIFT
from signal_core.memory cimport (
    KIND_FRAME, KIND_NATS, KIND_ROOM, KIND_TO, TELL_SUBJECT, Msg, Out, msg_copy, msg_free, msg_let_go, msg_share,
    msg_text, place_new,
)
from signal_core.natsout cimport nats_publish, nats_receipt, nats_refuses
from signal_core.news cimport news_add
from signal_core.packet cimport Packet, packet_frame
from signal_core.post cimport loop_of, post, post_has_room, post_receipt, post_sync, sync_new
from signal_core.questions cimport ask_who
from signal_core.queue cimport queue_append
from signal_core.rooms cimport (
    MARK_LISTENS, MARK_NONE, NO_ROOM, Member, Place, members_of, places_of, room_join, room_leave, room_member,
    rooms_add, rooms_find, rooms_find_serial, rooms_remove,
)
from signal_core.roomtable cimport (
    WORD_LOOPS, RoomEntry, entry_loops, room_hash, table_enter, table_exit, table_find, table_listen,
    table_unlisten, table_unmark,
)
from signal_core.slab cimport (
    CONN_JOINING, CONN_OPEN, FLAG_BLOCKED, FLAG_LIMITED, FLAG_PAUSED, FLAG_USER, NO_SLOT, Brief, Conn, Joining,
    slab_cold, slab_conn, slab_find,
)
from signal_core.state cimport (
    CLUSTER_OFF, CODE_DENIED, CODE_NO_SUCH_PEER, CODE_OK, CODE_SLOW_PEER, CODE_TOO_MANY_ROOMS, CODE_UNAVAILABLE,
    Hub, Loop, loop_bit,
)
from signal_core.sys cimport SE_PREFETCH, SE_RARE, se_load16_seqcst, se_load_relaxed, se_load_seqcst
from signal_core.turn cimport LANE_DIRECT, LANE_SPREAD
from signal_core.wheel cimport wheel_arm, wheel_arm_by

cdef enum:
    AHEAD = 8                 # members of a fan-out fetched ahead of their turn


cdef inline bint is_own_node(const Hub* hub, const char* peer, size_t node_len) noexcept nogil:
    return node_len == hub.node_len and memcmp(peer, hub.node, node_len) == 0


cdef inline uint8_t route_id(Loop* loop, uint64_t id, const Packet* p) noexcept nogil:
    """To one connection of this node, or to its service."""
    cdef Loop* target = loop_of(loop.hub, id)
    cdef Conn* c
    cdef Msg* msg
    if target == loop and loop.index != SERVICE_LOOP:
        c = conn_of(loop, id)
        if c == NULL:
            return CODE_NO_SUCH_PEER
        msg = packet_frame(loop, p, NULL, 0, c.flags & FLAG_BLOCKED, KIND_FRAME)
        if msg == NULL:
            return CODE_UNAVAILABLE
        conn_deliver(loop, c, msg, LANE_DIRECT)
        return CODE_OK
    if target == NULL:
        return CODE_NO_SUCH_PEER
    if not post_has_room(loop, target, p.size):
        if target.index < loop.hub.nloops:
            gap_note(loop, target, id, 0, 1)
        return CODE_SLOW_PEER
    msg = packet_frame(loop, p, NULL, 0, True, KIND_TO)
    if msg == NULL:
        return CODE_UNAVAILABLE
    msg.target = id
    post(loop, target.index, msg)
    return CODE_OK


cdef inline uint8_t route_peer(Loop* loop, const char* peer, uint32_t n, uint32_t node_len,
                               const Packet* p) noexcept nogil:
    """To `<node>.<local>`, on whichever node it is; an answer (p.re) to another node goes to its ref's subject."""
    cdef uint64_t id
    cdef uint8_t code
    if is_own_node(loop.hub, peer, node_len):
        if local_parse(peer + node_len + 1, n - node_len - 1, &id) < 0:
            return CODE_NO_SUCH_PEER
        return route_id(loop, id, p)
    if p.remote or se_load_relaxed(&loop.hub.link) == CLUSTER_OFF:
        return CODE_NO_SUCH_PEER
    code = nats_refuses(loop, p, b"peer", peer, n, p.re, p.re_len)
    return code if code != CODE_OK else nats_publish(loop, p, b"peer", peer, n, p.re, p.re_len)


cdef inline void fan_out(Loop* loop, uint32_t index, Msg* msg) noexcept nogil:
    """To the members on this loop but the message's origin. The caller holds the message.

    What needs a second look goes the way of a single delivery; of the others all is counted at the end.
    """
    cdef const Member* members = members_of(&loop.rooms, index)
    cdef uint32_t i, slot, queued = 0, n = loop.rooms.rooms[index].count
    cdef uint32_t origin = <uint32_t>(msg.origin >> 32) & 0xffffff if msg.origin >> 56 == loop.index else NO_SLOT
    cdef uint32_t size = msg.size
    cdef bint late = is_late(loop, msg)
    cdef Out* place
    cdef Conn* c
    msg.refs += n
    for i in range(n):
        if i + AHEAD < n:
            SE_PREFETCH(slab_conn(&loop.slab, members[i + AHEAD].slot))
        slot = members[i].slot
        c = slab_conn(&loop.slab, slot)
        if SE_RARE(c.state != CONN_OPEN or (slot == origin and c.tag == <uint32_t>msg.origin)):
            continue
        place = NULL
        if not SE_RARE(c.flags & FLAG_BLOCKED or late):
            place = place_new(&loop.mem)
        if SE_RARE(place == NULL):
            conn_deliver(loop, c, msg, LANE_SPREAD)
            continue
        place.msg = msg
        queue_append(&c.out, place, size)
        queued += 1
        conn_queued(loop, c, size, LANE_SPREAD)
    msg.refs -= n - queued
    loop.n[C_ATTEMPTED] += queued
    loop.n[C_IN_FLIGHT] += queued
    loop.work += n >> UNIT_SHIFT
    loop.caused += queued


cdef inline void fan_out_held(Loop* loop, uint32_t index, Msg* msg) noexcept nogil:
    """As fan_out; takes the message over."""
    msg_share(&loop.mem, msg)
    if index != NO_ROOM:
        fan_out(loop, index, msg)
    msg_let_go(&loop.mem, msg)


cdef inline uint8_t post_room(Loop* loop, RoomEntry* entry, Msg* msg) noexcept nogil:
    """To the other loops that have members. CODE_SLOW_PEER where one of them takes no more."""
    cdef uint64_t bits
    cdef uint32_t index, bit, word
    cdef Msg* copy
    cdef uint8_t code = CODE_OK
    for word in range(<uint32_t>loop.hub.rooms.words):
        bits = se_load16_seqcst(&entry_loops(entry)[word])
        bit = word * WORD_LOOPS
        while bits:
            index = bit if bit < loop.hub.nloops else SERVICE_LOOP
            if bits & 1 and index != loop.index:
                copy = NULL
                if post_has_room(loop, loop.hub.loops[index], msg.size):
                    copy = msg_copy(&loop.mem, msg)
                if copy == NULL:
                    loop.n[C_ATTEMPTED] += 1
                    loop.n[C_DROPPED_INBOX] += 1
                    if index < loop.hub.nloops:
                        gap_note(loop, loop.hub.loops[index], entry.serial, entry.hash, 1)
                    code = CODE_SLOW_PEER
                else:
                    copy.kind = KIND_ROOM
                    copy.target = entry.serial
                    copy.hash = entry.hash
                    post(loop, index, copy)
            bits >>= 1
            bit += 1
    return code


cdef inline uint8_t route_room(Loop* loop, const char* name, uint32_t n, const Packet* p, bint as_from) noexcept nogil:
    """To every member but the origin, on every node. `as_from`: they hear FROM (a user's own connections)."""
    cdef uint64_t hash = room_hash(&loop.hub.rooms, name, n)
    cdef uint32_t room = rooms_find(&loop.rooms, hash, name, n)
    cdef RoomEntry* entry
    cdef Msg* msg
    cdef bint abroad = not p.remote and se_load_relaxed(&loop.hub.link) != CLUSTER_OFF
    cdef uint8_t far = nats_refuses(loop, p, b"room", name, n, NULL, 0) if abroad else CODE_OK
    cdef uint8_t code = CODE_OK
    if far != CODE_OK and far != CODE_UNAVAILABLE:
        return far
    if room != NO_ROOM:
        entry = loop.rooms.rooms[room].entry
    else:
        entry = table_find(&loop.hub.rooms, name, n, hash)
    if entry != NULL:
        msg = packet_frame(loop, p, name, 0 if as_from else n, True, KIND_FRAME)
        if msg == NULL:
            return CODE_UNAVAILABLE
        code = post_room(loop, entry, msg)
        fan_out_held(loop, room, msg)
    if abroad and far == CODE_OK:
        far = nats_publish(loop, p, b"room", name, n, NULL, 0)
    return far if far != CODE_OK else code


cdef inline void take_to(Loop* loop, Msg* msg) noexcept nogil:
    """A KIND_TO from the inbox."""
    inbox_taken(&loop.inbox, msg)
    loop.n[C_TAKEN] += 1
    msg.kind = KIND_FRAME
    conn_deliver(loop, conn_of(loop, msg.target), msg, LANE_DIRECT)


cdef inline void take_room(Loop* loop, Msg* msg) noexcept nogil:
    """A KIND_ROOM from the inbox."""
    cdef uint32_t room = rooms_find_serial(&loop.rooms, msg.hash, msg.target)
    inbox_taken(&loop.inbox, msg)
    loop.n[C_TAKEN] += 1
    msg.kind = KIND_FRAME
    fan_out_held(loop, room, msg)


cdef inline void joined(Loop* loop, Conn* c) noexcept nogil:
    """A room of its URL, or its user's, is confirmed, or denied: after the last, HELLO, and what was denied."""
    cdef Brief* brief
    cdef Joining rooms
    if c.phase.joining.waiting:
        c.phase.joining.waiting -= 1
    if c.phase.joining.waiting == 0 and c.state == CONN_JOINING:
        rooms = c.phase.joining
        c.state = CONN_OPEN
        wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + (
            BLOCKED_LOOK if c.flags & FLAG_BLOCKED else conn_silence(loop, c)))
        brief = slab_cold(&loop.slab, c.slot).brief
        if brief != NULL and brief.expires:
            wheel_arm_by(&loop.wheel, &loop.slab, c.slot, brief.expires)
        conn_answer(loop, c, hello_new(loop, c))
        if loop.farewell.on and c.slot < loop.farewell.told:  # else it is told in its turn
            say_goaway(loop, c)
        while rooms.denied and c.state == CONN_OPEN:
            rooms.denied -= 1
            say(loop, c, CODE_DENIED, NULL, 0)
        while rooms.over and c.state == CONN_OPEN:
            rooms.over -= 1
            say_err(loop, c, CODE_UNAVAILABLE, NULL, 0)
        if c.pending != NULL:
            c.pending.since = loop.tick
        if c.flags & FLAG_PAUSED:
            conn_resume(loop, c)


cdef inline void take_receipt(Loop* loop, uint64_t id, uint8_t code, const char* ref, size_t n) noexcept nogil:
    """For a connection of this loop; an empty ref stands for a room of its URL, or for what was answered before NATS
    denied it."""
    cdef Conn* c = conn_of(loop, id)
    cdef uint32_t room
    if n:
        room = ref_finish(loop, c, ref, n, code)
        if SE_RARE(room and code == CODE_OK):
            listen_ask(loop, conn_of(loop, id), room - 1)
        return
    c = slab_find(&loop.slab, <uint32_t>(id >> 32) & 0xffffff, <uint32_t>id)
    if c == NULL:
        return
    if c.state == CONN_JOINING:
        joined(loop, c)
    elif c.state == CONN_OPEN and code == CODE_DENIED:
        say(loop, c, code, NULL, 0)


cdef inline void tell_peer(Loop* loop, uint64_t id, uint8_t code, const char* ref, size_t n) noexcept nogil:
    """A receipt to a connection of any loop, or to the service."""
    if id >> 56 == loop.index and loop.index != SERVICE_LOOP:
        take_receipt(loop, id, code, ref, n)
    elif loop_of(loop.hub, id) != NULL:
        post_receipt(loop, id, code, ref, n)


cdef inline void loop_tell_all(Loop* loop) noexcept nogil:
    """Tells the fates that were gathered. What is written to NATS is not delivered yet: its receipt comes from
    there."""
    cdef Msg* msg
    while loop.told_head != NULL:
        msg = loop.told_head
        loop.told_head = msg.next
        if msg.tell == TELL_SUBJECT:
            nats_receipt(loop, msg_text(msg), msg.text_size, msg.code)
        elif msg.kind != KIND_NATS or msg.code != CODE_OK:
            tell_peer(loop, msg.origin, msg.code, msg_text(msg), msg.text_size)
        msg_free(&loop.mem, msg)
    loop.told_tail = NULL


cdef inline void sync_or_free(Loop* loop, RoomEntry* entry, Msg* word, bint sync) noexcept nogil:
    """Tells the link of a room's interest, if that changed, by a word made beforehand."""
    if sync:
        post_sync(loop, entry, word)
    else:
        msg_free(&loop.mem, word)


cdef inline void sync_if_possible(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Tells the link that a room's interest is gone; without memory for that the next change tells it."""
    cdef Msg* word = sync_new(loop)
    if word == NULL:
        table_unmark(&loop.hub.rooms, entry)
    else:
        post_sync(loop, entry, word)


cdef inline RoomEntry* room_enter(Loop* loop, const char* name, size_t n, uint64_t hash) noexcept nogil:
    """The loop (or the service) has a member from here on. NULL without memory.

    The word to the link is made before: whoever enters behind us relies on its being posted.
    """
    cdef bint sync = False
    cdef RoomEntry* entry
    cdef Msg* word = sync_new(loop)
    if word == NULL:
        return NULL
    entry = table_enter(&loop.hub.rooms, name, n, hash, loop_bit(loop), &sync)
    sync_or_free(loop, entry, word, sync)
    return entry


cdef inline void room_exit(Loop* loop, RoomEntry* entry) noexcept nogil:
    """It has no member any more. Without memory to tell the link the room stays subscribed to, until it is told of
    the next join or leave."""
    if table_exit(&loop.hub.rooms, entry, loop_bit(loop)):
        sync_if_possible(loop, entry)


cdef inline uint8_t join(Loop* loop, Conn* c, const char* name, uint32_t n, RoomEntry** entry) noexcept nogil:
    """Makes a connection a member, visible to every loop of the process on return."""
    cdef uint64_t hash = room_hash(&loop.hub.rooms, name, n)
    cdef uint32_t room = rooms_find(&loop.rooms, hash, name, n)
    if room != NO_ROOM and room_member(&loop.rooms, &loop.slab, c, room) != NULL:
        entry[0] = loop.rooms.rooms[room].entry
        return CODE_OK
    if c.nrooms >= (conn_places(loop, c) if c.flags & (FLAG_LIMITED | FLAG_USER) else loop.hub.set.max_rooms):
        loop.n[C_ROOMS_REFUSED] += 1
        return CODE_TOO_MANY_ROOMS
    if room == NO_ROOM:
        entry[0] = room_enter(loop, name, n, hash)
        if entry[0] == NULL:
            return CODE_UNAVAILABLE
        room = rooms_add(&loop.rooms, entry[0])
        if room == NO_ROOM:
            room_exit(loop, entry[0])
            return CODE_UNAVAILABLE
        loop.n[C_ROOMS] += 1
    entry[0] = loop.rooms.rooms[room].entry
    if not room_join(&loop.rooms, &loop.slab, c, room):
        room_close(loop, room)
        return CODE_UNAVAILABLE
    loop.n[C_MEMBERSHIPS] += 1
    news_add(loop, entry[0], c, True)
    return CODE_OK


cdef inline bint room_listen(Loop* loop, RoomEntry* entry) noexcept nogil:
    """One more of the loop's members hears who comes and goes. False without memory."""
    cdef bint sync = False
    cdef Msg* word = sync_new(loop)
    cdef bint good
    if word == NULL:
        return False
    good = table_listen(&loop.hub.rooms, entry, loop.hub.nloops + 1, loop_bit(loop), &sync)
    sync_or_free(loop, entry, word, sync)
    return good


cdef inline void room_unlisten(Loop* loop, RoomEntry* entry) noexcept nogil:
    if table_unlisten(&loop.hub.rooms, entry, loop_bit(loop)):
        sync_if_possible(loop, entry)


cdef inline uint8_t listen(Loop* loop, Conn* c, const char* name, uint32_t n, uint32_t* room) noexcept nogil:
    """A member hears who comes and goes from here on; `room`: its index on this loop."""
    cdef Member* member
    room[0] = rooms_find(&loop.rooms, room_hash(&loop.hub.rooms, name, n), name, n)
    member = room_member(&loop.rooms, &loop.slab, c, room[0])
    if member.mark != MARK_NONE:
        return CODE_OK
    if not room_listen(loop, loop.rooms.rooms[room[0]].entry):
        return CODE_UNAVAILABLE
    member.mark = MARK_LISTENS
    loop.n[C_LISTENERS] += 1
    return CODE_OK


cdef inline void listen_ask(Loop* loop, Conn* c, uint32_t room) noexcept nogil:
    """Its SUB is answered: now a listener asks who is there."""
    cdef Member* member = NULL if c == NULL else room_member(&loop.rooms, &loop.slab, c, room)
    cdef uint16_t mark
    if member == NULL or member.mark == MARK_NONE:
        return
    mark = ask_who(loop, loop.rooms.rooms[room].entry)
    if mark != MARK_NONE:
        member.mark = mark


cdef inline void room_close(Loop* loop, uint32_t room) noexcept nogil:
    """Of a room without members on this loop; no effect on one that has some."""
    cdef RoomEntry* entry = loop.rooms.rooms[room].entry
    if loop.rooms.rooms[room].count:
        return
    rooms_remove(&loop.rooms, room)
    loop.n[C_ROOMS] -= 1
    room_exit(loop, entry)


cdef inline void leave_place(Loop* loop, Conn* c, uint32_t i) noexcept nogil:
    cdef Place place = places_of(c, slab_cold(&loop.slab, c.slot))[i]
    cdef uint32_t room = place.room
    cdef RoomEntry* entry = loop.rooms.rooms[room].entry
    cdef bint listens = members_of(&loop.rooms, room)[place.position].mark != MARK_NONE
    room_leave(&loop.rooms, &loop.slab, c, i)
    loop.n[C_MEMBERSHIPS] -= 1
    news_add(loop, entry, c, False)
    if listens:
        loop.n[C_LISTENERS] -= 1
        room_unlisten(loop, entry)
    room_close(loop, room)


cdef inline void leave(Loop* loop, Conn* c, const char* name, uint32_t n) noexcept nogil:
    """No effect on one that is not a member."""
    cdef uint64_t hash = room_hash(&loop.hub.rooms, name, n)
    cdef uint32_t i, room = rooms_find(&loop.rooms, hash, name, n)
    if room == NO_ROOM:
        return
    for i in range(c.nrooms):
        if places_of(c, slab_cold(&loop.slab, c.slot))[i].room == room:
            leave_place(loop, c, i)
            return


cdef inline void leave_last(Loop* loop, Conn* c) noexcept nogil:
    """The room that it has joined last, or one that took its place. It is in one at least."""
    leave_place(loop, c, c.nrooms - 1)


cdef inline void leave_all(Loop* loop, Conn* c) noexcept nogil:
    while c.nrooms:
        leave_last(loop, c)
