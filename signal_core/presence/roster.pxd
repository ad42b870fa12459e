"""Rosters: answers presence queries of this node's watchers and of other nodes; each loop lists its members.

A loop answers the oldest query first, MEMBERS_PER_TURN members an iteration, in order with the events that it sends
(events.pxd). Everything here runs on the loop that owns the members, except roster_fits and roster_question.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from signal_core.base.counters cimport C_PRESENCE_LOST, C_QUESTIONS_FULL, C_QUESTIONS_HELD
from signal_core.base.kinds cimport KIND_ASK, KIND_QUESTION
from signal_core.base.limits cimport MEMBERS_TEXT, QUESTIONS_WAITING, UNIT_SHIFT
from signal_core.base.memory cimport (
    Packet, packet_data, packet_free, packet_new_heap, packet_set_data, packet_set_end,
)
from signal_core.base.span cimport Span, span_between, span_same
from signal_core.base.sys cimport (
    SE_RARE, se_add_relaxed, se_load16_seqcst, se_load_relaxed, se_load_seqcst, se_sub_relaxed, se_swap_seqcst,
)
from signal_core.base.text cimport UINT_TEXT, text_put, text_put_span, text_put_uint
from signal_core.delivery.outbox cimport outbox_post
from signal_core.presence.events cimport WHO_MAX, events_lost, events_publish, events_put_who, events_tell_members
from signal_core.tables.conn_table cimport slab_conn
from signal_core.tables.loop_rooms cimport (
    NO_ROOM, WATCH_CHANGES, WATCH_NONE, Member, rooms_find_serial, rooms_members_of,
)
from signal_core.tables.room_table cimport (
    WORD_LOOPS, WORD_SHIFT, Audience, RoomEntry, room_entry_loops, room_entry_name,
)
from signal_core.tables.state cimport Loop, hub_node
from signal_core.wire.ids cimport NODE_MAX, ROOM_MAX

cdef enum:
    NOT_BEGUN = 0xffffffff    # Roster.left: every member
    MEMBERS_HEAD_MAX = NODE_MAX + 1 + UINT_TEXT + 1 + ROOM_MAX + 1  # bytes of the first line of an answer


cdef inline void _members_send(Loop* loop, RoomEntry* entry, uint32_t numbers, Span node, Span text) noexcept nogil:
    """Sends part of a roster to this node's watchers (empty `node`) or to another node. The other node gets the number
    of its query if there is a single one, else 0."""
    cdef char head[MEMBERS_HEAD_MAX]
    cdef char* out
    if node.size == 0:
        events_tell_members(loop, entry, numbers, text)
        return
    out = text_put(text_put_span(head, hub_node(loop.hub)), b" ")
    out = text_put_uint(out, <uint16_t>numbers if <uint16_t>numbers == numbers >> 16 else 0)
    out = text_put(text_put_span(text_put(out, b" "), room_entry_name(entry)), b"\n")
    events_publish(loop, b"presence-members", node, span_between(head, out), text)


cdef inline uint32_t _room_answer(Loop* loop, uint32_t room, const Packet* asked, uint32_t left) noexcept nogil:
    """Sends a room's first `left` members, from the last one down, while the iteration's budget lasts. Returns how many
    are left. A member that leaves is replaced by the last one, so none that stays is missed; one that joins later is
    announced by JOIN."""
    cdef RoomEntry* entry = loop.rooms.rooms[room].entry
    cdef const Member* members = rooms_members_of(&loop.rooms, room)
    cdef size_t most = MEMBERS_TEXT
    cdef char* out
    cdef uint64_t payload = se_load_relaxed(&loop.hub.max_payload)
    cdef Packet* text = packet_new_heap(&loop.mem, MEMBERS_TEXT + WHO_MAX + 1, 0)
    if text == NULL:
        events_lost(loop)
        return 0
    if asked.size and payload < MEMBERS_TEXT + 192:
        most = <size_t>payload - 192 if payload > 192 else 0
    out = <char*>text.data
    while left and loop.roster.due:
        left -= 1
        loop.roster.due -= 1
        out = text_put(events_put_who(out, loop, slab_conn(&loop.slab, members[left].slot)), b"\n")
        packet_set_end(text, out)
        if text.size + WHO_MAX + 1 > most:
            _members_send(loop, entry, <uint32_t>asked.origin, packet_data(asked), packet_data(text))
            out = <char*>text.data
            text.size = 0
    if text.size:
        _members_send(loop, entry, <uint32_t>asked.origin, packet_data(asked), packet_data(text))
    packet_free(&loop.mem, text)
    return left


cdef inline void _question_end(Loop* loop, Packet* packet) noexcept nogil:
    """Frees a query that is answered, or merged into another one, which makes room for the next."""
    se_sub_relaxed(&loop.asked_of, 1)
    packet_free(&loop.mem, packet)


cdef inline bint _question_waits(Loop* loop, Packet* packet) noexcept nogil:
    """Takes ownership of a query if an equal one waits, to be merged into, or if there is room for it; else False.

    Only a query whose answer has not begun can be merged into, so at most two wait for a room and node."""
    cdef Packet** end = &loop.roster.list
    loop.turn.work += loop.roster.count >> UNIT_SHIFT
    while end[0] != NULL:
        if (end != &loop.roster.list and end[0].target == packet.target
                and span_same(packet_data(end[0]), packet_data(packet))):
            end[0].origin = roster_numbers_joined(<uint32_t>end[0].origin, <uint32_t>packet.origin)
            _question_end(loop, packet)
            return True
        end = &end[0].next
    if loop.roster.count >= QUESTIONS_WAITING:
        return False
    packet.next = NULL
    end[0] = packet
    loop.roster.count += 1
    return True


cdef inline void _questions_come(Loop* loop) noexcept nogil:
    """Moves queries that were set aside into the list while there is room. The search for an equal one is charged to
    the iteration's budget of members, at a member a unit of work."""
    cdef Packet* packet
    cdef Packet* after
    cdef uint32_t cost
    while SE_RARE(loop.roster.aside != NULL) and loop.roster.count < QUESTIONS_WAITING and loop.roster.due:
        packet = loop.roster.aside
        after = packet.next
        cost = 1 + (loop.roster.count >> UNIT_SHIFT)
        loop.roster.due -= cost if cost < loop.roster.due else loop.roster.due
        _question_waits(loop, packet)
        loop.roster.aside = after


cdef inline void roster_walk(Loop* loop) noexcept nogil:
    """Answers waiting queries, the oldest first, while the iteration's budget lasts."""
    cdef Packet* asked
    cdef uint32_t room, count
    _questions_come(loop)
    while loop.roster.list != NULL and loop.roster.due:
        asked = loop.roster.list
        room = rooms_find_serial(&loop.rooms, asked.hash, asked.target)
        count = 0 if room == NO_ROOM else loop.rooms.rooms[room].count
        if loop.roster.left < count:
            count = loop.roster.left
        loop.roster.due -= 1
        loop.roster.left = _room_answer(loop, room, asked, count) if count else 0
        if loop.roster.left:
            return
        loop.roster.left = NOT_BEGUN
        loop.roster.list = asked.next
        loop.roster.count -= 1
        _question_end(loop, asked)
        _questions_come(loop)


cdef inline uint32_t roster_numbers_joined(uint32_t one, uint32_t other) noexcept nogil:
    """Returns the first and last number that two merged queries answer, in the lower and upper half; 0 (all) if one of
    them is 0, or the numbers wrapped."""
    if one == 0 or other == 0 or <uint16_t>other < <uint16_t>one:
        return 0
    return <uint16_t>one | (other >> 16 << 16)


cdef inline void roster_take(Loop* loop, Packet* packet) noexcept nogil:
    """Takes ownership of a KIND_QUESTION. If too many wait it is set aside, so that the mailbox is not held up; a query
    may be answered late, because a roster is read when it is sent."""
    packet.origin |= packet.origin << 16
    if not _question_waits(loop, packet):
        loop.n[C_QUESTIONS_HELD] += 1
        packet.next = NULL
        if loop.roster.aside == NULL:
            loop.roster.aside = packet
        else:
            loop.roster.aside_last.next = packet
        loop.roster.aside_last = packet
    roster_walk(loop)


cdef inline bint roster_fits(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Whether every loop that has members takes another query: at most inbox-messages of them wait there."""
    cdef uint32_t index
    cdef Loop* target
    for index in range(loop.hub.nloops):
        target = loop.hub.loops[index]
        if (se_load16_seqcst(&room_entry_loops(entry)[index >> WORD_SHIFT]) >> (index & (WORD_LOOPS - 1)) & 1
                and se_load_relaxed(&target.asked_of) >= se_load_relaxed(&target.mailbox.limit)):
            loop.n[C_QUESTIONS_FULL] += 1
            return False
    return True


cdef inline void _question_post(Loop* loop, RoomEntry* entry, uint16_t number, Span node,
                                uint32_t index) noexcept nogil:
    """Posts a query to loop `index`, which has members."""
    cdef Packet* packet = packet_new_heap(&loop.mem, node.size, KIND_QUESTION)
    if packet == NULL:
        events_lost(loop)
        return
    packet.target = entry.serial
    packet.hash = entry.hash
    packet.origin = number
    packet_set_data(packet, node)
    se_add_relaxed(&loop.hub.loops[index].asked_of, 1)
    outbox_post(loop, index, packet)


cdef inline void roster_question(Loop* loop, RoomEntry* entry, uint16_t number, Span node) noexcept nogil:
    """Posts a query to every loop of this node that has members. The link's loop only: it answers for the local peer
    itself, whose events it sends, too."""
    cdef char who[WHO_MAX + 1]
    cdef char* end
    cdef uint64_t bits
    cdef uint32_t index
    for index in range(loop.hub.nloops + 1):
        bits = se_load16_seqcst(&room_entry_loops(entry)[index >> WORD_SHIFT])
        if not bits >> (index & (WORD_LOOPS - 1)) & 1:
            continue
        if index == loop.hub.nloops:
            end = text_put(events_put_who(who, loop, NULL), b"\n")
            _members_send(loop, entry, number | (<uint32_t>number << 16), node, span_between(who, end))
        else:
            _question_post(loop, entry, number, node, index)


cdef inline uint16_t roster_ask(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Queries a room's roster for a watcher, which the caller has counted already. Returns the number of the query, for
    Member.watch; WATCH_NONE without memory.

    The number is read before the link takes the query up (remote_query.pxd). Watchers that read the same number share
    one answer, and the first of them sends the query for all."""
    cdef Audience* audience = <Audience*>entry.audience
    cdef uint64_t generation = se_load_seqcst(&audience.generation)
    cdef uint16_t number = <uint16_t>(1 + generation % (WATCH_CHANGES - 1))
    cdef Packet* packet
    if se_load_seqcst(&audience.asking) == generation + 1:
        return number
    packet = packet_new_heap(&loop.mem, entry.size, KIND_ASK)
    if packet == NULL:
        loop.n[C_PRESENCE_LOST] += 1
        return WATCH_NONE
    if se_swap_seqcst(&audience.asking, generation + 1) == generation + 1:
        packet_free(&loop.mem, packet)
        return number
    packet.target = generation
    packet.hash = entry.hash
    packet_set_data(packet, room_entry_name(entry))
    outbox_post(loop, 0, packet)
    return number
