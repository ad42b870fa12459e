"""Presence on one node: who comes and goes, who is there, and who is told. L3.

Text passes from the loop that knows to those that tell: lines `JOIN <peer>[ user=U]` and `LEAVE <peer>[ user=U]`, or a
line `<peer>[ user=U]` for each member. It is gathered during an iteration and told at its end, in one piece for a room:
as one message of many frames to each loop that has listeners, and as one publish to other nodes, where some listen.

What a loop tells of its own members takes one way to each listener (this loop, or inbox; or the link, NATS, the other
link, inbox), and so arrives in order: after the last word on a peer every listener knows what is true. That is why all
text for NATS goes through the link's inbox, also from its own loop.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memchr, memcmp, memcpy, strlen
from signal_core.address cimport LOCAL_TEXT, NODE_MAX, ROOM_MAX, USER_MAX, peer_run, put_uint, se_lower_run
from signal_core.answers cimport put, put_peer
from signal_core.conn cimport conn_deliver, conn_id
from signal_core.counters cimport (
    C_NATS_MALFORMED, C_PRESENCE_CHANGES, C_PRESENCE_DENIED, C_PRESENCE_LOST, C_PRESENCE_OUT, C_TAKEN,
)
from signal_core.frame cimport OP_TEXT, frame_head_size, frame_put_head
from signal_core.gaps cimport gap_note, listeners_key
from signal_core.identity cimport conn_user
from signal_core.inbox cimport inbox_taken
from signal_core.limits cimport NEWS_KEEP, NEWS_TEXT, MEMBERS_TEXT, SERVICE_LOOP, UNIT_SHIFT
from signal_core.memory cimport (
    KIND_FRAME, KIND_NATS, KIND_NEWS, MSG_COUNTED, MSG_PRESENCE, Msg, msg_copy, msg_free, msg_let_go, msg_share,
    msg_new_heap,
)
from signal_core.natsout cimport subject_denied
from signal_core.post cimport post, post_has_room
from signal_core.rooms cimport MARK_NONE, NO_ROOM, Member, members_of, rooms_find_serial
from signal_core.roomtable cimport Audience, RoomEntry, audience_of
from signal_core.slab cimport CONN_OPEN, Conn, slab_conn
from signal_core.state cimport CLUSTER_UP, Change, Hub, Loop, News, loop_bit
from signal_core.sys cimport se_add_relaxed, se_load_relaxed, se_load_seqcst, se_siphash13
from signal_core.turn cimport LANE_SPREAD

cdef enum:
    WHO_MAX = NODE_MAX + 1 + LOCAL_TEXT + 6 + USER_MAX    # bytes of `<peer> user=U`, of a peer of this node
    LINE_MAX = 6 + WHO_MAX + 1                            # of a line that tells of it
    SUBJECT_MAX = 64 + 16 + ROOM_MAX                      # of a subject of presence


# -- to NATS --

cdef inline bint is_heard_abroad(const Loop* loop) noexcept nogil:
    """Whether another node listens to any room. The room's subject tells NATS whether one listens to this."""
    return (se_load_seqcst(&loop.hub.abroad) > loop.tick
            and se_load_relaxed(&loop.hub.link) == CLUSTER_UP)


cdef inline size_t put_subject(char* out, const Hub* hub, const char* what, const char* tail, size_t n) noexcept nogil:
    """`<prefix>.<what>[.<tail>]`"""
    cdef uint8_t* at = put(<uint8_t*>out, hub.prefix, hub.prefix_len)
    at = put(put(at, b".", 1), what, strlen(what))
    if n:
        at = put(put(at, b".", 1), tail, n)
    return <size_t>(<char*>at - out)


cdef inline void news_lost(Loop* loop) noexcept nogil:
    """Something could not be told: other nodes are made to ask anew, by the number in our heartbeat."""
    loop.n[C_PRESENCE_LOST] += 1
    se_add_relaxed(&loop.hub.presence_epoch, 1)


cdef inline Msg* publish_new(Loop* loop, const char* what, const char* tail, size_t tail_n, const char* first,
                             size_t first_n, const char* rest, size_t rest_n) noexcept nogil:
    """A PUB of `first` and `rest`. NULL where it can't be told: without memory other nodes are made to ask anew; where
    NATS does not allow the subject asking would help nobody, and it is counted only."""
    cdef char subject[208]
    cdef size_t n = put_subject(subject, loop.hub, what, tail, tail_n)
    cdef uint8_t* at
    cdef Msg* msg
    if se_load_relaxed(&loop.hub.ndenied) and subject_denied(loop.hub, se_siphash13(loop.hub.rooms.key, subject, n)):
        loop.n[C_PRESENCE_DENIED] += 1
        return NULL
    msg = msg_new_heap(&loop.mem, n + first_n + rest_n + 32, KIND_NATS)
    if msg == NULL:
        news_lost(loop)
        return NULL
    at = put(put(put(msg.data, b"PUB ", 4), subject, n), b" ", 1)
    at += put_uint(<char*>at, first_n + rest_n)
    at = put(put(at, b"\r\n", 2), first, first_n)
    at = put(put(at, rest, rest_n), b"\r\n", 2)
    msg.size = <uint32_t>(at - msg.data)
    msg.flags = MSG_PRESENCE
    loop.n[C_PRESENCE_OUT] += 1
    return msg


cdef inline void presence_publish(Loop* loop, const char* what, const char* tail, size_t tail_n, const char* first,
                                  size_t first_n, const char* rest, size_t rest_n) noexcept nogil:
    """On its way to the link; where its loop's inbox has no room, other nodes are made to ask anew."""
    cdef Msg* msg
    if not post_has_room(loop, loop.hub.loops[0], first_n + rest_n):
        news_lost(loop)
        return
    msg = publish_new(loop, what, tail, tail_n, first, first_n, rest, rest_n)
    if msg != NULL:
        post(loop, 0, msg)


# -- to listeners --

cdef inline void fan_out_marked(Loop* loop, uint32_t room, Msg* msg) noexcept nogil:
    """To the listeners on this loop: all, or those who await the answer to one of the questions in `origin`."""
    cdef const Member* members = members_of(&loop.rooms, room)
    cdef uint32_t i, n = loop.rooms.rooms[room].count
    cdef uint16_t first = <uint16_t>msg.origin, last = <uint16_t>(msg.origin >> 16)
    cdef Conn* c
    loop.work += n >> UNIT_SHIFT
    for i in range(n):
        if members[i].mark == MARK_NONE or (first and not first <= members[i].mark <= last):
            continue
        c = slab_conn(&loop.slab, members[i].slot)
        if c.state == CONN_OPEN:
            conn_deliver(loop, c, msg, LANE_SPREAD)


cdef inline void take_news(Loop* loop, Msg* msg) noexcept nogil:
    """A KIND_NEWS from the inbox."""
    inbox_taken(&loop.inbox, msg)
    loop.n[C_TAKEN] += 1
    news_fan_out(loop, msg)


cdef inline void news_fan_out(Loop* loop, Msg* msg) noexcept nogil:
    """To the listeners on this loop; takes the message over."""
    cdef uint32_t room = rooms_find_serial(&loop.rooms, msg.hash, msg.target)
    msg.kind = KIND_FRAME
    msg_share(&loop.mem, msg)
    if room != NO_ROOM:
        fan_out_marked(loop, room, msg)
    msg_let_go(&loop.mem, msg)


cdef inline void news_distribute(Loop* loop, RoomEntry* entry, Msg* msg, uint32_t marks) noexcept nogil:
    """Hands frames to every loop that has listeners, and to the service; takes the message over. Where an inbox has no
    room the loop's listeners hear GAP, and ask anew."""
    cdef Audience* audience = audience_of(entry)
    cdef uint32_t i, index
    cdef Msg* copy
    msg.target = entry.serial
    msg.hash = entry.hash
    msg.origin = marks
    msg.flags = MSG_COUNTED
    if audience == NULL:
        msg_free(&loop.mem, msg)
        return
    for i in range(loop.hub.nloops + 1):
        index = i if i < loop.hub.nloops else SERVICE_LOOP
        if index == loop.index or se_load_seqcst(&audience.counts[i]) == 0:
            continue
        copy = NULL
        if post_has_room(loop, loop.hub.loops[index], msg.size):
            copy = msg_copy(&loop.mem, msg)
        if copy == NULL:
            loop.n[C_PRESENCE_LOST] += 1
            if index != SERVICE_LOOP:
                gap_note(loop, loop.hub.loops[index], listeners_key(entry.serial), entry.hash, msg.ttl_end + 1)
            continue
        copy.ttl_end = msg.ttl_end
        post(loop, index, copy)
    news_fan_out(loop, msg)


cdef inline size_t line_size(const char* text, size_t n) noexcept nogil:
    """Up to its LF, or all."""
    cdef const char* lf = <const char*>memchr(text, c"\n", n)
    return n if lf == NULL else <size_t>(lf - text)


cdef inline size_t who_node(const char* text, size_t n) noexcept nogil:
    """Bytes of the node in `<peer>[ user=U]`; 0: it is not that."""
    cdef size_t node = 0, i, peer = peer_run(text, n, &node)
    if peer == 0:
        return 0
    if peer < n and (n - peer > 6 + USER_MAX or n - peer <= 6 or memcmp(text + peer, b" user=", 6) != 0):
        return 0
    for i in range(peer + 1 if peer < n else n, n):
        if not c"!" <= text[i] <= c"~":
            return 0
    return node


cdef inline size_t change_verb(const char* text, size_t n) noexcept nogil:
    """Bytes of `JOIN ` or `LEAVE `; 0: neither."""
    if n > 5 and memcmp(text, b"JOIN ", 5) == 0:
        return 5
    return 6 if n > 6 and memcmp(text, b"LEAVE ", 6) == 0 else 0


cdef inline bint is_whole_node(const char* text, size_t n) noexcept nogil:
    """`<node>.*`"""
    cdef size_t node = se_lower_run(text, n if n < NODE_MAX else NODE_MAX)
    return node > 0 and n == node + 2 and memcmp(text + node, b".*", 2) == 0


cdef inline bint change_is_good(const char* text, size_t n) noexcept nogil:
    """Whether it is a change; `LEAVE <node>.*` is only told by ourselves, and good, too."""
    cdef size_t verb = change_verb(text, n)
    if verb == 0:
        return False
    return who_node(text + verb, n - verb) or (verb == 6 and is_whole_node(text + verb, n - verb))


cdef inline void changes_tell(Loop* loop, RoomEntry* entry, const char* text, size_t n) noexcept nogil:
    """Tells the listeners on this node of joins and leaves, in pieces of MEMBERS_TEXT bytes."""
    cdef size_t size
    while n:
        size = lines_up_to(text, n, MEMBERS_TEXT)
        changes_tell_piece(loop, entry, text, size)
        text += size
        n -= size


cdef inline void changes_tell_piece(Loop* loop, RoomEntry* entry, const char* text, size_t n) noexcept nogil:
    """A frame a line: fewer than 65,536, which Msg.ttl_end counts."""
    cdef size_t at = 0, lines = 0, size, verb, body
    cdef uint8_t* out
    cdef Msg* msg
    while at < n:
        at += line_size(text + at, n - at) + 1
        lines += 1
    msg = msg_new_heap(&loop.mem, n + lines * (entry.size + 5), KIND_NEWS)
    if msg == NULL:
        loop.n[C_PRESENCE_LOST] += lines
        return
    out = msg.data
    at = lines = 0
    while at < n:
        size = line_size(text + at, n - at)
        verb = change_verb(text + at, size)
        if change_is_good(text + at, size):
            body = size + entry.size + 1
            out += frame_put_head(out, OP_TEXT, body)
            out = put(put(put(out, text + at, verb), entry.name, entry.size), b" ", 1)
            out = put(out, text + at + verb, size - verb)
            lines += 1
        else:
            loop.n[C_NATS_MALFORMED] += 1
        at += size + 1
    msg.size = <uint32_t>(out - msg.data)
    if lines == 0:
        msg_free(&loop.mem, msg)
        return
    msg.ttl_end = <uint16_t>(lines - 1)
    news_distribute(loop, entry, msg, 0)


cdef inline size_t lines_up_to(const char* text, size_t n, size_t most) noexcept nogil:
    """Bytes of whole lines: as many as fit, at least one."""
    cdef size_t at = 0, size
    while at < n:
        size = line_size(text + at, n - at) + 1
        if at and at + size > most:
            return at
        at += size
    return n if at > n else at


cdef inline void members_tell(Loop* loop, RoomEntry* entry, uint32_t marks, const char* text, size_t n) noexcept nogil:
    """MEMBERS, in as many messages as it takes, to those listeners on this node who await one of the questions from
    `marks`' lower half to its upper one (0: to all)."""
    cdef size_t most = loop.hub.set.max_message, size, body, head = 9 + entry.size
    cdef uint8_t* out
    cdef Msg* msg
    if most > MEMBERS_TEXT:
        most = MEMBERS_TEXT
    most = most - head if most > head else 0
    while True:
        size = lines_up_to(text, n, most)
        body = head + (size - 1 if size and text[size - 1] == c"\n" else size)
        msg = msg_new_heap(&loop.mem, frame_head_size(body) + body, KIND_NEWS)
        if msg == NULL:
            loop.n[C_PRESENCE_LOST] += 1
            return
        out = msg.data + frame_put_head(msg.data, OP_TEXT, body)
        out = put(put(put(out, b"MEMBERS ", 8), entry.name, entry.size), b"\n", 1)
        out = put(out, text, body - head)
        msg.size = <uint32_t>(out - msg.data)
        news_distribute(loop, entry, msg, marks)
        text += size
        n -= size
        if n == 0:
            return


# -- joins and leaves of this loop --

cdef inline size_t put_who(Loop* loop, Conn* c, char* out) noexcept nogil:
    """A member of this loop, or the service (NULL), as presence names it; WHO_MAX bytes at most."""
    cdef uint32_t user_n = 0
    cdef const char* user = NULL if c == NULL else conn_user(loop, c, &user_n)
    cdef uint8_t* at = put_peer(<uint8_t*>out, loop.hub, loop.hub.service if c == NULL else conn_id(loop, c))
    if user_n:
        at = put(put(at, b" user=", 6), user, user_n)
    return <size_t>(<char*>at - out)


cdef inline bint news_reserve(News* news) noexcept nogil:
    """Place for one more change. False without memory."""
    cdef void* grown
    cdef uint32_t size
    if news.count == news.size:
        size = 2 * news.size + 64
        grown = realloc(news.changes, size * sizeof(Change))
        if grown == NULL:
            return False
        news.changes = <Change*>grown
        news.size = size
    if news.text_used + LINE_MAX > news.text_size:
        size = 2 * news.text_size + 4096
        grown = realloc(news.text, size)
        if grown == NULL:
            return False
        news.text = <char*>grown
        news.text_size = size
    return True


cdef inline void news_add(Loop* loop, RoomEntry* entry, Conn* c, bint joins) noexcept nogil:
    """A member of this loop, or the service (NULL), has come or gone; told at the iteration's end, if to anybody. A
    user's own room has no presence."""
    cdef News* news = &loop.news
    cdef Change* change
    cdef char* out
    cdef Audience* audience = audience_of(entry)
    if entry.name[0] == c"@" or (audience == NULL and not is_heard_abroad(loop)):
        return
    if not news_reserve(news):
        news_lost(loop)
        return
    change = &news.changes[news.count]
    change.entry = entry
    change.nth = news.count
    change.at = news.text_used
    out = news.text + news.text_used
    out = <char*>put(<uint8_t*>out, b"JOIN " if joins else b"LEAVE ", 5 if joins else 6)
    out += put_who(loop, c, out)
    out[0] = c"\n"
    news.text_used = <uint32_t>(out + 1 - news.text)
    change.size = news.text_used - change.at
    news.count += 1
    loop.n[C_PRESENCE_CHANGES] += 1
    loop.caused += 1
    if audience != NULL:
        loop.work += se_load_relaxed(&audience.counts[loop_bit(loop)]) >> UNIT_SHIFT


cdef inline int change_order(const void* a, const void* b) noexcept nogil:
    """By room, and in each as they came."""
    cdef const Change* one = <const Change*>a
    cdef const Change* other = <const Change*>b
    if one.entry != other.entry:
        return -1 if one.entry < other.entry else 1
    return -1 if one.nth < other.nth else 1


cdef inline void news_tell(Loop* loop, RoomEntry* entry, const char* text, size_t n) noexcept nogil:
    if audience_of(entry) != NULL:
        changes_tell(loop, entry, text, n)
    if is_heard_abroad(loop):
        presence_publish(loop, b"presence", entry.name, entry.size, text, n, b"", 0)


cdef inline void news_flush(Loop* loop) noexcept nogil:
    """Tells what has come together since: a room's changes in pieces of NEWS_TEXT bytes."""
    cdef News* news = &loop.news
    cdef char text[4096]
    cdef size_t used = 0, most = NEWS_TEXT
    cdef uint32_t i
    cdef Change* change
    if news.count == 0:
        return
    if se_load_relaxed(&loop.hub.max_payload) and se_load_relaxed(&loop.hub.max_payload) < most:
        most = <size_t>se_load_relaxed(&loop.hub.max_payload)
    if news.count > 1:
        qsort(news.changes, news.count, sizeof(Change), change_order)
    for i in range(news.count):
        change = &news.changes[i]
        if used and (news.changes[i - 1].entry != change.entry or used + change.size > most):
            news_tell(loop, news.changes[i - 1].entry, text, used)
            used = 0
        memcpy(text + used, news.text + change.at, change.size)
        used += change.size
    news_tell(loop, news.changes[news.count - 1].entry, text, used)
    news.count = news.text_used = 0
    if news.text_size > NEWS_KEEP:
        news_end(news)


cdef inline void news_end(News* news) noexcept nogil:
    """Frees its memory; it may be used again."""
    free(news.changes)
    free(news.text)
    news.changes = NULL
    news.text = NULL
    news.count = news.size = news.text_used = news.text_size = 0
