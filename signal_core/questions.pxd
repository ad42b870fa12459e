"""Who is in a room: questions of this node's listeners and of other nodes, answered by each loop a piece at a time. L3.

A loop answers the oldest question first, MEMBERS_PER_TURN members an iteration, in order with what it tells of joins
and leaves (news.pxd).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from signal_core.address cimport put_uint
from signal_core.answers cimport put
from signal_core.counters cimport C_PRESENCE_LOST, C_QUESTIONS_FULL, C_QUESTIONS_HELD
from signal_core.limits cimport MEMBERS_TEXT, QUESTIONS_WAITING, UNIT_SHIFT
from signal_core.memory cimport KIND_ASK, KIND_QUESTION, Msg, msg_free, msg_new_heap
from signal_core.news cimport WHO_MAX, members_tell, news_lost, presence_publish, put_who
from signal_core.post cimport post
from signal_core.rooms cimport MARK_LISTENS, MARK_NONE, NO_ROOM, Member, members_of, rooms_find_serial
from signal_core.roomtable cimport Audience, WORD_LOOPS, WORD_SHIFT, RoomEntry, entry_loops
from signal_core.slab cimport slab_conn
from signal_core.state cimport Loop
from signal_core.sys cimport (
    SE_RARE, se_add_relaxed, se_load16_seqcst, se_load_relaxed, se_load_seqcst, se_sub_relaxed, se_swap_seqcst,
)

cdef enum:
    NOT_BEGUN = 0xffffffff    # Loop.question_left: every member


cdef inline void members_send(Loop* loop, RoomEntry* entry, uint32_t marks, const char* node, size_t node_n,
                              const char* text, size_t n) noexcept nogil:
    """A part of the answer to some questions: to this node's listeners (`node_n` 0), or to another node, which knows
    one number, or 0 for several."""
    cdef char head[192]
    cdef uint8_t* at
    if node_n == 0:
        members_tell(loop, entry, marks, text, n)
        return
    at = put(put(<uint8_t*>head, loop.hub.node, loop.hub.node_len), b" ", 1)
    at += put_uint(<char*>at, <uint16_t>marks if <uint16_t>marks == marks >> 16 else 0)
    at = put(put(put(at, b" ", 1), entry.name, entry.size), b"\n", 1)
    presence_publish(loop, b"presence-members", node, node_n, head, <size_t>(<char*>at - head), text, n)


cdef inline uint32_t room_answer(Loop* loop, uint32_t room, const Msg* asked, uint32_t left) noexcept nogil:
    """Tells a room's first `left` members, from the last of them on, while the iteration's share lasts. Returns how
    many are left: a gap is closed with the last, so none that stays is left out; who joins later is told by JOIN."""
    cdef RoomEntry* entry = loop.rooms.rooms[room].entry
    cdef const Member* members = members_of(&loop.rooms, room)
    cdef size_t used = 0, most = MEMBERS_TEXT
    cdef uint64_t payload = se_load_relaxed(&loop.hub.max_payload)
    cdef Msg* text = msg_new_heap(&loop.mem, MEMBERS_TEXT + WHO_MAX + 1, 0)
    if text == NULL:
        news_lost(loop)
        return 0
    if asked.size and payload < MEMBERS_TEXT + 192:
        most = <size_t>payload - 192 if payload > 192 else 0
    while left and loop.members_due:
        left -= 1
        loop.members_due -= 1
        used += put_who(loop, slab_conn(&loop.slab, members[left].slot), <char*>text.data + used)
        text.data[used] = c"\n"
        used += 1
        if used + WHO_MAX + 1 > most:
            members_send(loop, entry, <uint32_t>asked.origin, <char*>asked.data, asked.size, <char*>text.data, used)
            used = 0
    if used:
        members_send(loop, entry, <uint32_t>asked.origin, <char*>asked.data, asked.size, <char*>text.data, used)
    msg_free(&loop.mem, text)
    return left


cdef inline void question_end(Loop* loop, Msg* msg) noexcept nogil:
    """It is answered, or another one is for it, too: there is room for the next."""
    se_sub_relaxed(&loop.asked_of, 1)
    msg_free(&loop.mem, msg)


cdef inline bint question_waits(Loop* loop, Msg* msg) noexcept nogil:
    """Takes a question over among those that wait, where one of them serves it, too, or there is a place. One whose
    answer has not begun serves whatever its node asks of that room meanwhile: so there are two of a room and node at
    most."""
    cdef Msg** end = &loop.questions
    loop.work += loop.nquestions >> UNIT_SHIFT
    while end[0] != NULL:
        if (end != &loop.questions and end[0].target == msg.target and end[0].size == msg.size
                and memcmp(end[0].data, msg.data, msg.size) == 0):
            end[0].origin = marks_joined(<uint32_t>end[0].origin, <uint32_t>msg.origin)
            question_end(loop, msg)
            return True
        end = &end[0].next
    if loop.nquestions >= QUESTIONS_WAITING:
        return False
    msg.next = NULL
    end[0] = msg
    loop.nquestions += 1
    return True


cdef inline void questions_come(Loop* loop) noexcept nogil:
    """From those put aside, while there are places. Looking for one that serves costs as much as
    telling as many members as it may take units."""
    cdef Msg* msg
    cdef Msg* after
    cdef uint32_t cost
    while SE_RARE(loop.aside != NULL) and loop.nquestions < QUESTIONS_WAITING and loop.members_due:
        msg = loop.aside
        after = msg.next
        cost = 1 + (loop.nquestions >> UNIT_SHIFT)
        loop.members_due -= cost if cost < loop.members_due else loop.members_due
        question_waits(loop, msg)
        loop.aside = after


cdef inline void questions_walk(Loop* loop) noexcept nogil:
    """Answers the questions that wait, the oldest first, while the iteration's share lasts."""
    cdef Msg* asked
    cdef uint32_t room, count
    questions_come(loop)
    while loop.questions != NULL and loop.members_due:
        asked = loop.questions
        room = rooms_find_serial(&loop.rooms, asked.hash, asked.target)
        count = 0 if room == NO_ROOM else loop.rooms.rooms[room].count
        if loop.question_left < count:
            count = loop.question_left
        loop.members_due -= 1
        loop.question_left = room_answer(loop, room, asked, count) if count else 0
        if loop.question_left:
            return
        loop.question_left = NOT_BEGUN
        loop.questions = asked.next
        loop.nquestions -= 1
        question_end(loop, asked)
        questions_come(loop)


cdef inline uint32_t marks_joined(uint32_t one, uint32_t other) noexcept nogil:
    """Of two questions answered as one: from the first to the last; 0 (all) where one is, or numbers began anew."""
    if one == 0 or other == 0 or <uint16_t>other < <uint16_t>one:
        return 0
    return <uint16_t>one | (other >> 16 << 16)


cdef inline void take_question(Loop* loop, Msg* msg) noexcept nogil:
    """A KIND_QUESTION, taken over. Where many wait it is put aside, and what else is in the inbox goes on: who is there
    is read when it is told, so a question may be late."""
    msg.origin |= msg.origin << 16
    if not question_waits(loop, msg):
        loop.n[C_QUESTIONS_HELD] += 1
        msg.next = NULL
        if loop.aside == NULL:
            loop.aside = msg
        else:
            loop.aside_last.next = msg
        loop.aside_last = msg
    questions_walk(loop)


cdef inline bint questions_fit(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Whether every loop that has members takes another question: inbox-messages of them may wait there."""
    cdef uint32_t index
    cdef Loop* target
    for index in range(loop.hub.nloops):
        target = loop.hub.loops[index]
        if (se_load16_seqcst(&entry_loops(entry)[index >> WORD_SHIFT]) >> (index & (WORD_LOOPS - 1)) & 1
                and se_load_relaxed(&target.asked_of) >= target.inbox.limit):
            loop.n[C_QUESTIONS_FULL] += 1
            return False
    return True


cdef inline void room_question(Loop* loop, RoomEntry* entry, uint16_t mark, const char* node,
                               size_t node_n) noexcept nogil:
    """Asks every loop of this node that has members; on the link's loop. It answers for the service itself, whose joins
    and leaves are told by this loop, too."""
    cdef char who[176]
    cdef size_t n
    cdef uint64_t bits
    cdef uint32_t index
    cdef Msg* msg
    for index in range(loop.hub.nloops + 1):
        bits = se_load16_seqcst(&entry_loops(entry)[index >> WORD_SHIFT])
        if not bits >> (index & (WORD_LOOPS - 1)) & 1:
            continue
        if index == loop.hub.nloops:
            n = put_who(loop, NULL, who)
            who[n] = c"\n"
            members_send(loop, entry, mark | (<uint32_t>mark << 16), node, node_n, who, n + 1)
            continue
        msg = msg_new_heap(&loop.mem, node_n, KIND_QUESTION)
        if msg == NULL:
            news_lost(loop)
            continue
        msg.target = entry.serial
        msg.hash = entry.hash
        msg.origin = mark
        msg.size = <uint32_t>node_n
        memcpy(msg.data, node, node_n)
        se_add_relaxed(&loop.hub.loops[index].asked_of, 1)
        post(loop, index, msg)


cdef inline uint16_t ask_who(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Asks who is in a room with listeners; the mark of those who await the answer, MARK_NONE without memory.

    The number of the question is read before the link takes it up (asking.pxd): all who read the same one share the
    answer, and the first of them asks for all. Who asks is counted among the listeners before.
    """
    cdef Audience* audience = <Audience*>entry.audience
    cdef uint64_t number = se_load_seqcst(&audience.generation)
    cdef uint16_t mark = <uint16_t>(1 + number % (MARK_LISTENS - 1))
    cdef Msg* msg
    if se_load_seqcst(&audience.asking) == number + 1:
        return mark
    msg = msg_new_heap(&loop.mem, entry.size, KIND_ASK)
    if msg == NULL:
        loop.n[C_PRESENCE_LOST] += 1
        return MARK_NONE
    if se_swap_seqcst(&audience.asking, number + 1) == number + 1:
        msg_free(&loop.mem, msg)
        return mark
    msg.target = number
    msg.hash = entry.hash
    msg.size = entry.size
    memcpy(msg.data, entry.name, entry.size)
    post(loop, 0, msg)
    return mark
