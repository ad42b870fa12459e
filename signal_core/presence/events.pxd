"""Presence events: joins and leaves of this node's members, and rosters, on their way to watchers here and elsewhere.

An event is a line of text, `JOIN <peer>[ user=U]` or `LEAVE <peer>[ user=U]`; a roster has a line `<peer>[ user=U]` for
each member. Lines are collected during an iteration and sent at its end, all those of a room together: in one packet of
many frames to each loop that has watchers, and in one publish to other nodes, if some have watchers.

What a loop says of its own members takes one path to each watcher (this loop, or its mailbox; or the link, NATS, the
other link, a mailbox) and so arrives in order: the last line about a peer tells every watcher the truth. Therefore all
text for NATS goes through the mailbox of the link's loop, even if that loop sends it.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, qsort
from libc.string cimport memchr, memcmp, memcpy, strlen
from signal_core.base.array cimport array_reserve
from signal_core.base.counters cimport (
    C_NATS_MALFORMED, C_PRESENCE_CHANGES, C_PRESENCE_DENIED, C_PRESENCE_LOST, C_PRESENCE_OUT, C_TAKEN,
)
from signal_core.base.kinds cimport KIND_FRAME, KIND_NATS, KIND_NEWS
from signal_core.base.limits cimport LOCAL_PEER_LOOP, MEMBERS_TEXT, NEWS_KEEP, NEWS_TEXT, PREFIX_SIZE, UNIT_SHIFT
from signal_core.base.memory cimport (
    PACKET_COUNTED, PACKET_PRESENCE, Packet, packet_copy, packet_free, packet_let_go, packet_new_heap, packet_share,
)
from signal_core.base.sys cimport se_add_relaxed, se_load_relaxed, se_load_seqcst, se_siphash13
from signal_core.base.text cimport text_put_bytes, text_put_uint
from signal_core.delivery.conn cimport conn_deliver, conn_id
from signal_core.delivery.drop_notice cimport drop_notice_note, drop_notice_watchers_key
from signal_core.delivery.nats_publish cimport nats_publish_denied
from signal_core.delivery.outbox cimport outbox_has_room, outbox_post
from signal_core.delivery.replies cimport replies_put_peer
from signal_core.tables.codes cimport CLUSTER_UP
from signal_core.tables.conn_acl cimport conn_acl_user
from signal_core.tables.conn_table cimport CONN_OPEN, Conn, slab_conn
from signal_core.tables.loop_rooms cimport NO_ROOM, WATCH_NONE, Member, rooms_find_serial, rooms_members_of
from signal_core.tables.mailbox cimport mailbox_taken
from signal_core.tables.room_table cimport Audience, RoomEntry, audience_of
from signal_core.tables.state cimport LANE_SPREAD, Change, Hub, Loop, News, loop_bit
from signal_core.wire.frame cimport OP_TEXT, frame_head_size, frame_put_head
from signal_core.wire.ids cimport NODE_MAX, PEER_TEXT, ROOM_MAX, USER_MAX, ids_peer_run, se_lower_run

cdef enum:
    WHO_MAX = PEER_TEXT + 6 + USER_MAX                    # bytes of `<peer> user=U` for a peer of this node
    LINE_MAX = 6 + WHO_MAX + 1                            # bytes of an event about it
    SUBJECT_MAX = PREFIX_SIZE + 16 + ROOM_MAX             # bytes of a presence subject
    CHANGES_AT_FIRST = 64                                 # initial capacity of News.changes
    TEXT_AT_FIRST = 4096                                  # ... and of News.text


# -- to other nodes --

cdef inline bint events_heard_abroad(const Loop* loop) noexcept nogil:
    """Whether any other node has watchers. Which rooms they watch is known to NATS, by subject."""
    return (se_load_seqcst(&loop.hub.abroad) > loop.tick
            and se_load_relaxed(&loop.hub.link) == CLUSTER_UP)


cdef inline size_t events_put_subject(
    char* out, const Hub* hub, const char* what, const char* tail, size_t n,
) noexcept nogil:
    """`<prefix>.<what>[.<tail>]`"""
    cdef uint8_t* at = text_put_bytes(<uint8_t*>out, hub.prefix, hub.prefix_len)
    at = text_put_bytes(text_put_bytes(at, b".", 1), what, strlen(what))
    if n:
        at = text_put_bytes(text_put_bytes(at, b".", 1), tail, n)
    return <size_t>(<char*>at - out)


cdef inline void events_lost(Loop* loop) noexcept nogil:
    """An event is lost: the epoch in the next heartbeat makes other nodes query again."""
    loop.n[C_PRESENCE_LOST] += 1
    se_add_relaxed(&loop.hub.presence_epoch, 1)


cdef inline Packet* events_publish_new(Loop* loop, const char* what, const char* tail, size_t tail_n, const char* first,
                                       size_t first_n, const char* rest, size_t rest_n) noexcept nogil:
    """A PUB of `first` and `rest`. NULL without memory, which makes other nodes query again; NULL also if NATS denies
    the subject, which is only counted, because a query would not help."""
    cdef char subject[SUBJECT_MAX]
    cdef size_t n = events_put_subject(subject, loop.hub, what, tail, tail_n)
    cdef uint8_t* at
    cdef Packet* packet
    if (se_load_relaxed(&loop.hub.ndenied)
            and nats_publish_denied(loop.hub, se_siphash13(loop.hub.rooms.key, subject, n))):
        loop.n[C_PRESENCE_DENIED] += 1
        return NULL
    packet = packet_new_heap(&loop.mem, n + first_n + rest_n + 32, KIND_NATS)
    if packet == NULL:
        events_lost(loop)
        return NULL
    at = text_put_bytes(text_put_bytes(text_put_bytes(packet.data, b"PUB ", 4), subject, n), b" ", 1)
    at += text_put_uint(<char*>at, first_n + rest_n)
    at = text_put_bytes(text_put_bytes(at, b"\r\n", 2), first, first_n)
    at = text_put_bytes(text_put_bytes(at, rest, rest_n), b"\r\n", 2)
    packet.size = <uint32_t>(at - packet.data)
    packet.flags = PACKET_PRESENCE
    loop.n[C_PRESENCE_OUT] += 1
    return packet


cdef inline void events_publish(Loop* loop, const char* what, const char* tail, size_t tail_n, const char* first,
                                size_t first_n, const char* rest, size_t rest_n) noexcept nogil:
    """Posts a PUB to the link. If its loop's mailbox is full, other nodes are made to query again."""
    cdef Packet* packet
    if not outbox_has_room(loop, loop.hub.loops[0], first_n + rest_n):
        events_lost(loop)
        return
    packet = events_publish_new(loop, what, tail, tail_n, first, first_n, rest, rest_n)
    if packet != NULL:
        outbox_post(loop, 0, packet)


# -- to watchers on this node --

cdef inline void _fan_out_watchers(Loop* loop, uint32_t room, Packet* packet) noexcept nogil:
    """Delivers to the watchers on this loop: all, or those that await the answer to one of the queries in `origin`."""
    cdef const Member* members = rooms_members_of(&loop.rooms, room)
    cdef uint32_t i, n = loop.rooms.rooms[room].count
    cdef uint16_t first = <uint16_t>packet.origin, last = <uint16_t>(packet.origin >> 16)
    cdef Conn* c
    loop.turn.work += n >> UNIT_SHIFT
    for i in range(n):
        if members[i].watch == WATCH_NONE or (first and not first <= members[i].watch <= last):
            continue
        c = slab_conn(&loop.slab, members[i].slot)
        if c.state == CONN_OPEN:
            conn_deliver(loop, c, packet, LANE_SPREAD)


cdef inline void events_take(Loop* loop, Packet* packet) noexcept nogil:
    """Delivers a KIND_NEWS from the mailbox, and takes ownership."""
    mailbox_taken(&loop.mailbox, packet)
    loop.n[C_TAKEN] += 1
    _news_fan_out(loop, packet)


cdef inline void _news_fan_out(Loop* loop, Packet* packet) noexcept nogil:
    """Shares the packet among the watchers on this loop. Takes ownership."""
    cdef uint32_t room = rooms_find_serial(&loop.rooms, packet.hash, packet.target)
    packet.kind = KIND_FRAME
    packet_share(&loop.mem, packet)
    if room != NO_ROOM:
        _fan_out_watchers(loop, room, packet)
    packet_let_go(&loop.mem, packet)


cdef inline void _news_post(Loop* loop, RoomEntry* entry, const Packet* packet, uint32_t index) noexcept nogil:
    """Posts a copy to loop `index`. If that has no room, its watchers get a GAP, and query again."""
    cdef Packet* copy = NULL
    if outbox_has_room(loop, loop.hub.loops[index], packet.size):
        copy = packet_copy(&loop.mem, packet)
    if copy == NULL:
        loop.n[C_PRESENCE_LOST] += 1
        if index != LOCAL_PEER_LOOP:
            drop_notice_note(loop, loop.hub.loops[index], drop_notice_watchers_key(entry.serial), entry.hash,
                             packet.more_frames + 1)
        return
    copy.more_frames = packet.more_frames
    outbox_post(loop, index, copy)


cdef inline void _news_distribute(Loop* loop, RoomEntry* entry, Packet* packet, uint32_t numbers) noexcept nogil:
    """Sends frames to every loop that has watchers, and to the local peer. Takes ownership."""
    cdef Audience* audience = audience_of(entry)
    cdef uint32_t i, index
    packet.target = entry.serial
    packet.hash = entry.hash
    packet.origin = numbers
    packet.flags = PACKET_COUNTED
    if audience == NULL:
        packet_free(&loop.mem, packet)
        return
    for i in range(loop.hub.nloops + 1):
        index = i if i < loop.hub.nloops else LOCAL_PEER_LOOP
        if index != loop.index and se_load_seqcst(&audience.counts[i]):
            _news_post(loop, entry, packet, index)
    _news_fan_out(loop, packet)


cdef inline size_t events_line_size(const char* text, size_t n) noexcept nogil:
    """Bytes of the first line, without its LF."""
    cdef const char* lf = <const char*>memchr(text, c"\n", n)
    return n if lf == NULL else <size_t>(lf - text)


cdef inline size_t events_node_of(const char* text, size_t n) noexcept nogil:
    """Bytes of the node's name in `<peer>[ user=U]`; 0 if it is malformed."""
    cdef size_t node = 0, i, peer = ids_peer_run(text, n, &node)
    if peer == 0:
        return 0
    if peer < n and (n - peer > 6 + USER_MAX or n - peer <= 6 or memcmp(text + peer, b" user=", 6) != 0):
        return 0
    for i in range(peer + 1 if peer < n else n, n):
        if not c"!" <= text[i] <= c"~":
            return 0
    return node


cdef inline size_t events_change_verb(const char* text, size_t n) noexcept nogil:
    """Bytes of `JOIN ` or `LEAVE `, with the space; 0 if it is neither."""
    if n > 5 and memcmp(text, b"JOIN ", 5) == 0:
        return 5
    return 6 if n > 6 and memcmp(text, b"LEAVE ", 6) == 0 else 0


cdef inline bint _is_whole_node(const char* text, size_t n) noexcept nogil:
    """Whether it is `<node>.*`."""
    cdef size_t node = se_lower_run(text, n if n < NODE_MAX else NODE_MAX)
    return node > 0 and n == node + 2 and memcmp(text + node, b".*", 2) == 0


cdef inline bint _change_is_good(const char* text, size_t n) noexcept nogil:
    """Whether a line is an event. `LEAVE <node>.*` is one, too; only this node itself makes it (cluster.pxd)."""
    cdef size_t verb = events_change_verb(text, n)
    if verb == 0:
        return False
    return events_node_of(text + verb, n - verb) or (verb == 6 and _is_whole_node(text + verb, n - verb))


cdef inline void events_tell_changes(Loop* loop, RoomEntry* entry, const char* text, size_t n) noexcept nogil:
    """Sends events to the watchers on this node, in packets of up to MEMBERS_TEXT bytes of text."""
    cdef size_t size
    while n:
        size = _lines_up_to(text, n, MEMBERS_TEXT)
        _changes_tell_piece(loop, entry, text, size)
        text += size
        n -= size


cdef inline uint8_t* _change_put_frame(uint8_t* out, const RoomEntry* entry, const char* line, size_t n) noexcept nogil:
    """Writes the frame of one event: the line, with the room's name after its verb."""
    cdef size_t verb = events_change_verb(line, n)
    out += frame_put_head(out, OP_TEXT, n + entry.size + 1)
    out = text_put_bytes(text_put_bytes(text_put_bytes(out, line, verb), entry.name, entry.size), b" ", 1)
    return text_put_bytes(out, line + verb, n - verb)


cdef inline size_t _count_lines(const char* text, size_t n) noexcept nogil:
    cdef size_t at = 0, lines = 0
    while at < n:
        at += events_line_size(text + at, n - at) + 1
        lines += 1
    return lines


cdef inline void _changes_tell_piece(Loop* loop, RoomEntry* entry, const char* text, size_t n) noexcept nogil:
    """Sends one packet, a frame for each event. There are fewer than 65,536, so that Packet.more_frames counts them."""
    cdef size_t at = 0, size, frames = 0, lines = _count_lines(text, n)
    cdef Packet* packet = packet_new_heap(&loop.mem, n + lines * (entry.size + 5), KIND_NEWS)
    cdef uint8_t* out
    if packet == NULL:
        loop.n[C_PRESENCE_LOST] += lines
        return
    out = packet.data
    while at < n:
        size = events_line_size(text + at, n - at)
        if _change_is_good(text + at, size):
            out = _change_put_frame(out, entry, text + at, size)
            frames += 1
        else:
            loop.n[C_NATS_MALFORMED] += 1
        at += size + 1
    packet.size = <uint32_t>(out - packet.data)
    if frames == 0:
        packet_free(&loop.mem, packet)
        return
    packet.more_frames = <uint16_t>(frames - 1)
    _news_distribute(loop, entry, packet, 0)


cdef inline size_t _lines_up_to(const char* text, size_t n, size_t most) noexcept nogil:
    """Bytes of as many whole lines as fit into `most`, but of one at least."""
    cdef size_t at = 0, size
    while at < n:
        size = events_line_size(text + at, n - at) + 1
        if at and at + size > most:
            return at
        at += size
    return n if at > n else at


cdef inline void events_tell_members(
    Loop* loop, RoomEntry* entry, uint32_t numbers, const char* text, size_t n,
) noexcept nogil:
    """Sends a roster as MEMBERS messages to watchers on this node.

    `numbers` holds the first and last number of the queries that it answers, in its lower and upper half; watchers that
    await another one do not get it. 0: all watchers do."""
    cdef size_t most = loop.hub.set.max_message, size, body, head = 9 + entry.size
    cdef uint8_t* out
    cdef Packet* packet
    if most > MEMBERS_TEXT:
        most = MEMBERS_TEXT
    most = most - head if most > head else 0
    while True:
        size = _lines_up_to(text, n, most)
        body = head + (size - 1 if size and text[size - 1] == c"\n" else size)
        packet = packet_new_heap(&loop.mem, frame_head_size(body) + body, KIND_NEWS)
        if packet == NULL:
            loop.n[C_PRESENCE_LOST] += 1
            return
        out = packet.data + frame_put_head(packet.data, OP_TEXT, body)
        out = text_put_bytes(text_put_bytes(text_put_bytes(out, b"MEMBERS ", 8), entry.name, entry.size), b"\n", 1)
        out = text_put_bytes(out, text, body - head)
        packet.size = <uint32_t>(out - packet.data)
        _news_distribute(loop, entry, packet, numbers)
        text += size
        n -= size
        if n == 0:
            return


# -- joins and leaves of this loop --

cdef inline size_t events_put_who(Loop* loop, Conn* c, char* out) noexcept nogil:
    """Writes a member of this loop, or the local peer (NULL), as presence names it. At most WHO_MAX bytes."""
    cdef uint32_t user_n = 0
    cdef const char* user = NULL
    cdef uint8_t* at = replies_put_peer(<uint8_t*>out, loop.hub, loop.hub.local_peer if c == NULL else conn_id(loop, c))
    if c != NULL:
        user = conn_acl_user(loop, c, &user_n)
    if user_n:
        at = text_put_bytes(text_put_bytes(at, b" user=", 6), user, user_n)
    return <size_t>(<char*>at - out)


cdef inline bint _news_reserve(News* news) noexcept nogil:
    """Makes room for one more event. False without memory."""
    return (array_reserve(&news.changes, &news.size, news.count + 1, sizeof(Change), CHANGES_AT_FIRST)
            and array_reserve(&news.text, &news.text_size, <uint64_t>news.text_used + LINE_MAX, 1, TEXT_AT_FIRST))


cdef inline void _news_append(Loop* loop, RoomEntry* entry, Conn* c, bint joins) noexcept nogil:
    """Appends an event after _news_reserve has made room for it."""
    cdef News* news = &loop.news
    cdef Change* change = &news.changes[news.count]
    cdef char* out = news.text + news.text_used
    change.entry = entry
    change.nth = news.count
    change.at = news.text_used
    out = <char*>text_put_bytes(<uint8_t*>out, b"JOIN " if joins else b"LEAVE ", 5 if joins else 6)
    out += events_put_who(loop, c, out)
    out[0] = c"\n"
    news.text_used = <uint32_t>(out + 1 - news.text)
    change.size = news.text_used - change.at
    news.count += 1


cdef inline void events_add(Loop* loop, RoomEntry* entry, Conn* c, bint joins) noexcept nogil:
    """A member of this loop, or the local peer (NULL), has joined or left: sent at the end of the iteration, if some
    node watches. A user's own room has no presence."""
    cdef Audience* audience = audience_of(entry)
    if entry.name[0] == c"@" or (audience == NULL and not events_heard_abroad(loop)):
        return
    if not _news_reserve(&loop.news):
        events_lost(loop)
        return
    _news_append(loop, entry, c, joins)
    loop.n[C_PRESENCE_CHANGES] += 1
    loop.turn.caused += 1
    if audience != NULL:
        loop.turn.work += se_load_relaxed(&audience.counts[loop_bit(loop)]) >> UNIT_SHIFT


cdef inline int _change_order(const void* a, const void* b) noexcept nogil:
    """Orders events by room, and within a room by time."""
    cdef const Change* one = <const Change*>a
    cdef const Change* other = <const Change*>b
    if one.entry != other.entry:
        return -1 if one.entry < other.entry else 1
    return -1 if one.nth < other.nth else 1


cdef inline void _news_tell(Loop* loop, RoomEntry* entry, const char* text, size_t n) noexcept nogil:
    if audience_of(entry) != NULL:
        events_tell_changes(loop, entry, text, n)
    if events_heard_abroad(loop):
        events_publish(loop, b"presence", entry.name, entry.size, text, n, b"", 0)


cdef inline void events_flush(Loop* loop) noexcept nogil:
    """Sends the events that were collected, those of a room together, in pieces of up to NEWS_TEXT bytes."""
    cdef News* news = &loop.news
    cdef char text[NEWS_TEXT]
    cdef size_t used = 0, most = NEWS_TEXT
    cdef uint32_t i
    cdef Change* change
    if news.count == 0:
        return
    if se_load_relaxed(&loop.hub.max_payload) and se_load_relaxed(&loop.hub.max_payload) < most:
        most = <size_t>se_load_relaxed(&loop.hub.max_payload)
    if news.count > 1:
        qsort(news.changes, news.count, sizeof(Change), _change_order)
    for i in range(news.count):
        change = &news.changes[i]
        if used and (news.changes[i - 1].entry != change.entry or used + change.size > most):
            _news_tell(loop, news.changes[i - 1].entry, text, used)
            used = 0
        memcpy(text + used, news.text + change.at, change.size)
        used += change.size
    _news_tell(loop, news.changes[news.count - 1].entry, text, used)
    news.count = news.text_used = 0
    if news.text_size > NEWS_KEEP:
        events_end(news)


cdef inline void events_end(News* news) noexcept nogil:
    """Frees the memory of collected events; `news` can be used again."""
    free(news.changes)
    free(news.text)
    news.changes = NULL
    news.text = NULL
    news.count = news.size = news.text_used = news.text_size = 0
