"""Presence events: sends joins and leaves of this node's members, and rosters, to watchers here and on other nodes.

An event is a line of text, `JOIN <peer>[ user=U]` or `LEAVE <peer>[ user=U]`; a roster has a line `<peer>[ user=U]` for
each member. Lines are collected during an iteration and sent at its end, all those of a room together: in one packet of
many frames to each loop that has watchers, and in one publish to other nodes, if some have watchers.

What a loop says of its members takes one path to each watcher (this loop, or its mailbox; or the link, NATS, the other
link, a mailbox). So it arrives in order, and the last line about a peer is true for every watcher. Therefore all text
for NATS goes through the mailbox of the link's loop, even if that loop sends it.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcpy
from signal_core.base.array cimport array_reserve
from signal_core.base.counters cimport (
    C_NATS_MALFORMED, C_PRESENCE_CHANGES, C_PRESENCE_DENIED, C_PRESENCE_LOST, C_PRESENCE_OUT, C_TAKEN,
)
from signal_core.base.kinds cimport KIND_FRAME, KIND_NATS, KIND_NEWS
from signal_core.base.limits cimport LOCAL_PEER_LOOP, MEMBERS_TEXT, NEWS_KEEP, NEWS_TEXT, PREFIX_SIZE, UNIT_SHIFT
from signal_core.base.memory cimport (
    PACKET_COUNTED, PACKET_PRESENCE, Packet, packet_copy, packet_free, packet_let_go, packet_new_heap, packet_set_end,
    packet_share,
)
from signal_core.base.span cimport (
    Span, span_between, span_from, span_is, span_none, span_of, span_starts, span_until,
)
from signal_core.base.sys cimport se_add_relaxed, se_load_relaxed, se_load_seqcst, se_siphash13
from signal_core.base.text cimport text_put, text_put_span, text_put_uint
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
from signal_core.tables.room_table cimport Audience, RoomEntry, audience_of, room_entry_name
from signal_core.tables.state cimport LANE_SPREAD, Change, Hub, Loop, News, hub_prefix, loop_bit
from signal_core.wire.frame cimport OP_TEXT, frame_head_size, frame_put_head
from signal_core.wire.ids cimport PEER_TEXT, ROOM_MAX, USER_MAX, ids_node_run, ids_peer_run

cdef enum:
    WHO_MAX = PEER_TEXT + 6 + USER_MAX                    # bytes of `<peer> user=U` for a peer of this node
    LINE_MAX = 6 + WHO_MAX + 1                            # bytes of an event about it
    SUBJECT_MAX = PREFIX_SIZE + 16 + ROOM_MAX             # bytes of a presence subject
    CHANGES_AT_FIRST = 64                                 # initial capacity of News.changes
    TEXT_AT_FIRST = 4096                                  # ... and of News.text


# -- to other nodes --

cdef inline bint events_heard_abroad(const Loop* loop) noexcept nogil:
    """Whether any other node has watchers. NATS knows which rooms they watch, by subject."""
    return (se_load_seqcst(&loop.hub.abroad) > loop.tick
            and se_load_relaxed(&loop.hub.link) == CLUSTER_UP)


cdef inline char* events_put_subject(char* out, const Hub* hub, const char* what, Span tail) noexcept nogil:
    """Writes `<prefix>.<what>[.<tail>]`, at most SUBJECT_MAX bytes; returns its end."""
    out = text_put(text_put(text_put_span(out, hub_prefix(hub)), b"."), what)
    return text_put_span(text_put(out, b"."), tail) if tail.size else out


cdef inline void events_lost(Loop* loop) noexcept nogil:
    """Counts an event as lost. The epoch in the next heartbeat makes other nodes query again."""
    loop.n[C_PRESENCE_LOST] += 1
    se_add_relaxed(&loop.hub.presence_epoch, 1)


cdef inline Packet* events_publish_new(Loop* loop, const char* what, Span tail, Span first,
                                       Span rest) noexcept nogil:
    """Returns a PUB of `first` and `rest`. NULL without memory, which makes other nodes query again. NULL also if NATS
    denies the subject, which is only counted, because a query would not help."""
    cdef char text[SUBJECT_MAX]
    cdef Span subject = span_between(text, events_put_subject(text, loop.hub, what, tail))
    cdef size_t size = first.size + rest.size
    cdef Packet* packet
    cdef char* out
    if (se_load_relaxed(&loop.hub.ndenied)
            and nats_publish_denied(loop.hub, se_siphash13(loop.hub.rooms.key, subject.at, subject.size))):
        loop.n[C_PRESENCE_DENIED] += 1
        return NULL
    packet = packet_new_heap(&loop.mem, subject.size + size + 32, KIND_NATS)
    if packet == NULL:
        events_lost(loop)
        return NULL
    out = text_put(text_put_span(text_put(<char*>packet.data, b"PUB "), subject), b" ")
    out = text_put(text_put_uint(out, size), b"\r\n")
    out = text_put(text_put_span(text_put_span(out, first), rest), b"\r\n")
    packet_set_end(packet, out)
    packet.flags = PACKET_PRESENCE
    loop.n[C_PRESENCE_OUT] += 1
    return packet


cdef inline void events_publish(Loop* loop, const char* what, Span tail, Span first, Span rest) noexcept nogil:
    """Posts a PUB to the link. If its loop's mailbox is full, other nodes are made to query again."""
    cdef Packet* packet
    if not outbox_has_room(loop, loop.hub.loops[0], first.size + rest.size):
        events_lost(loop)
        return
    packet = events_publish_new(loop, what, tail, first, rest)
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


cdef inline Span events_line(Span text) noexcept nogil:
    """Returns the first line, without its LF."""
    return span_of(text.at, span_until(text, c"\n"))


cdef inline Span events_after(Span text, Span line) noexcept nogil:
    """Returns what follows a line of events_line and its LF."""
    return span_from(text, line.size + 1 if line.size < text.size else text.size)


cdef inline size_t events_node_of(Span who) noexcept nogil:
    """Returns the bytes of the node's name in `<peer>[ user=U]`; 0 if that is malformed."""
    cdef size_t node = 0, i, peer = ids_peer_run(who, &node)
    cdef Span rest
    if peer == 0:
        return 0
    rest = span_from(who, peer)
    if rest.size == 0:
        return node
    if rest.size > 6 + USER_MAX or rest.size <= 6 or not span_starts(rest, b" user="):
        return 0
    for i in range(1, rest.size):
        if not c"!" <= rest.at[i] <= c"~":
            return 0
    return node


cdef inline size_t events_change_verb(Span line) noexcept nogil:
    """Returns the bytes of `JOIN ` or `LEAVE ` that the text starts with; 0 if neither, or nothing follows."""
    if line.size > 5 and span_starts(line, b"JOIN "):
        return 5
    return 6 if line.size > 6 and span_starts(line, b"LEAVE ") else 0


cdef inline bint _is_whole_node(Span who) noexcept nogil:
    """Whether it is `<node>.*`."""
    cdef size_t node = ids_node_run(who)
    return node > 0 and span_is(span_from(who, node), b".*")


cdef inline bint _change_is_good(Span line) noexcept nogil:
    """Whether a line is an event. So is `LEAVE <node>.*`, which only this node makes (cluster.pxd)."""
    cdef size_t verb = events_change_verb(line)
    cdef Span who = span_from(line, verb)
    if verb == 0:
        return False
    return events_node_of(who) or (verb == 6 and _is_whole_node(who))


cdef inline void events_tell_changes(Loop* loop, RoomEntry* entry, Span text) noexcept nogil:
    """Sends events to the watchers on this node, in packets of up to MEMBERS_TEXT bytes of text."""
    cdef Span piece
    while text.size:
        piece = span_of(text.at, _lines_up_to(text, MEMBERS_TEXT))
        _changes_tell_piece(loop, entry, piece)
        text = span_from(text, piece.size)


cdef inline char* _change_put_frame(char* out, const RoomEntry* entry, Span line) noexcept nogil:
    """Writes the frame of one event: the line, with the room's name after its verb."""
    cdef size_t verb = events_change_verb(line)
    out += frame_put_head(<uint8_t*>out, OP_TEXT, line.size + entry.size + 1)
    out = text_put(text_put_span(text_put_span(out, span_of(line.at, verb)), room_entry_name(entry)), b" ")
    return text_put_span(out, span_from(line, verb))


cdef inline size_t _count_lines(Span text) noexcept nogil:
    cdef size_t lines = 0
    while text.size:
        text = events_after(text, events_line(text))
        lines += 1
    return lines


cdef inline void _changes_tell_piece(Loop* loop, RoomEntry* entry, Span text) noexcept nogil:
    """Sends one packet, a frame for each event. There are fewer than 65,536, so that Packet.more_frames counts them."""
    cdef size_t frames = 0, lines = _count_lines(text)
    cdef Packet* packet = packet_new_heap(&loop.mem, text.size + lines * (entry.size + 5), KIND_NEWS)
    cdef char* out
    cdef Span line
    if packet == NULL:
        loop.n[C_PRESENCE_LOST] += lines
        return
    out = <char*>packet.data
    while text.size:
        line = events_line(text)
        if _change_is_good(line):
            out = _change_put_frame(out, entry, line)
            frames += 1
        else:
            loop.n[C_NATS_MALFORMED] += 1
        text = events_after(text, line)
    packet_set_end(packet, out)
    if frames == 0:
        packet_free(&loop.mem, packet)
        return
    packet.more_frames = <uint16_t>(frames - 1)
    _news_distribute(loop, entry, packet, 0)


cdef inline size_t _lines_up_to(Span text, size_t most) noexcept nogil:
    """Returns the bytes of as many whole lines as fit into `most`, but at least of one."""
    cdef size_t at = 0, size
    while at < text.size:
        size = events_line(span_from(text, at)).size + 1
        if at and at + size > most:
            return at
        at += size
    return text.size if at > text.size else at


cdef inline void events_tell_members(Loop* loop, RoomEntry* entry, uint32_t numbers, Span text) noexcept nogil:
    """Sends a roster as MEMBERS messages to watchers on this node.

    `numbers` holds the first and last number of the queries that it answers, in its lower and upper half; watchers that
    await another one do not get it. 0: all watchers do."""
    cdef size_t most = loop.set.max_message, body, head = 9 + entry.size
    cdef Span lines
    cdef char* out
    cdef Packet* packet
    if most > MEMBERS_TEXT:
        most = MEMBERS_TEXT
    most = most - head if most > head else 0
    while True:
        lines = span_of(text.at, _lines_up_to(text, most))
        text = span_from(text, lines.size)
        if lines.size and lines.at[lines.size - 1] == c"\n":
            lines.size -= 1
        body = head + lines.size
        packet = packet_new_heap(&loop.mem, frame_head_size(body) + body, KIND_NEWS)
        if packet == NULL:
            loop.n[C_PRESENCE_LOST] += 1
            return
        out = <char*>packet.data + frame_put_head(packet.data, OP_TEXT, body)
        out = text_put(text_put_span(text_put(out, b"MEMBERS "), room_entry_name(entry)), b"\n")
        packet_set_end(packet, text_put_span(out, lines))
        _news_distribute(loop, entry, packet, numbers)
        if text.size == 0:
            return


# -- joins and leaves of this loop --

cdef inline char* events_put_who(char* out, Loop* loop, Conn* c) noexcept nogil:
    """Writes `<peer>[ user=U]` for a member of this loop, or for the local peer (NULL): at most WHO_MAX bytes. Returns
    its end."""
    cdef Span user = span_none()
    out = replies_put_peer(out, loop.hub, loop.hub.local_peer if c == NULL else conn_id(loop, c))
    if c != NULL:
        user = conn_acl_user(loop, c)
    return text_put_span(text_put(out, b" user="), user) if user.size else out


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
    out = events_put_who(text_put(out, b"JOIN ") if joins else text_put(out, b"LEAVE "), loop, c)
    news.text_used = <uint32_t>(text_put(out, b"\n") - news.text)
    change.size = news.text_used - change.at
    news.count += 1


cdef inline void events_add(Loop* loop, RoomEntry* entry, Conn* c, bint joins) noexcept nogil:
    """Queues the event that a member of this loop, or the local peer (NULL), has joined or left, if any node has
    watchers. A user's room has no presence."""
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


cdef inline void _news_tell(Loop* loop, RoomEntry* entry, Span text) noexcept nogil:
    if audience_of(entry) != NULL:
        events_tell_changes(loop, entry, text)
    if events_heard_abroad(loop):
        events_publish(loop, b"presence", room_entry_name(entry), text, span_none())


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
            _news_tell(loop, news.changes[i - 1].entry, span_of(text, used))
            used = 0
        memcpy(text + used, news.text + change.at, change.size)
        used += change.size
    _news_tell(loop, news.changes[news.count - 1].entry, span_of(text, used))
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
