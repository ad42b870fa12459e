"""Presence across nodes: heartbeats, questions, and what other nodes tell of their members. L4. Loop 0 only.

Nothing is kept but which nodes were heard of in a room with listeners, so that their loss can be told there. Where this
node may have missed something of another one (it is new, was away, has dropped something), its members are forgotten
in every room with listeners (LEAVE <node>.*) and it is asked anew. A cursor of that node's walks over these rooms.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from signal_core.address cimport NODE_MAX, put_uint, room_valid, se_lower_run, se_token_run, uint_parse
from signal_core.answers cimport put
from signal_core.asking cimport EVERY_NODE, ask_nodes, asks_begin, link_is_calm, nodes_reserve
from signal_core.audience cimport SID_AUDIENCE, audience_drop, audience_note, audience_sub
from signal_core.counters cimport C_NATS_IN, C_NATS_MALFORMED, C_NODES_LOST
from signal_core.limits cimport AUDIENCES_PER_TURN, BEAT_TICKS, LOST_TICKS
from signal_core.memory cimport Msg
from signal_core.natsout cimport link_queue
from signal_core.natswire cimport NatsOp, nats_put_sub
from signal_core.news cimport (
    change_verb, changes_tell, line_size, members_tell, news_add, news_lost, presence_publish, publish_new, put_subject,
    put_who, who_node, is_heard_abroad,
)
from signal_core.dial cimport link_write
from signal_core.post cimport post
from signal_core.questions cimport questions_fit, room_question
from signal_core.rooms cimport MARK_LISTENS
from signal_core.roomtable cimport Audience, RoomEntry, audience_of, room_hash, table_find
from signal_core.state cimport LINK_UP, Hub, Link, Loop, Node
from signal_core.sys cimport se_add_relaxed, se_load_relaxed, se_store_relaxed, se_store_seqcst

cdef enum:
    SID_ALIVE = 4             # `<prefix>.presence-alive`: heartbeats
    SID_ASK = 5               # `<prefix>.presence-ask`: questions to all nodes
    SID_MEMBERS = 6           # `<prefix>.presence-members.<node>`: answers to ours
    LINK_LOOK = 10            # ticks between looks at the link


# -- nodes --

cdef inline uint16_t node_find(Link* link, const char* name, size_t n) noexcept nogil:
    """Its place; 0: not noted."""
    cdef uint32_t i
    for i in range(1, link.nodes_used):
        if link.nodes[i].size == n and memcmp(link.nodes[i].name, name, n) == 0:
            return <uint16_t>i
    return 0


cdef inline uint16_t node_note(Loop* loop, const char* name, size_t n) noexcept nogil:
    """The place of a node that was heard of; 0 without memory."""
    cdef Link* link = loop.linked
    cdef uint16_t place = node_find(link, name, n)
    cdef uint32_t i
    if place:
        return place
    for i in range(1, link.nodes_used):
        if link.nodes[i].size == 0:
            place = <uint16_t>i
            break
    if place == 0:
        if not nodes_reserve(link):
            return 0
        place = <uint16_t>link.nodes_used
        link.nodes_used += 1
    memset(&link.nodes[place], 0, sizeof(Node))
    memcpy(link.nodes[place].name, name, n)
    link.nodes[place].size = <uint8_t>n
    link.nodes[place].heard = loop.tick
    return place


cdef inline void node_walk(Link* link, uint16_t place, bint asks) noexcept nogil:
    """Its members are told to have left wherever they were heard of; it is asked anew, or else forgotten."""
    cdef Node* node = &link.nodes[place]
    if not node.walks:
        link.walks += 1
    node.walks = True
    node.asks = asks
    node.cursor = 0


cdef inline void node_lost(Loop* loop, uint16_t place) noexcept nogil:
    loop.n[C_NODES_LOST] += 1
    node_walk(loop.linked, place, False)


cdef inline void node_left(Loop* loop, Audience* audience, uint16_t place) noexcept nogil:
    """`LEAVE <room> <node>.*`, where it was heard to have members."""
    cdef Node* node = &loop.linked.nodes[place]
    cdef char line[32]
    cdef uint8_t* at
    if not audience_drop(audience, place):
        return
    at = put(put(put(<uint8_t*>line, b"LEAVE ", 6), node.name, node.size), b".*\n", 3)
    changes_tell(loop, <RoomEntry*>audience.entry, line, <size_t>(<char*>at - line))


# -- questions of other nodes --

cdef inline bint question_head(const char* text, size_t n, size_t* node, uint64_t* number, size_t* room,
                               size_t* room_n) noexcept nogil:
    """`<node> <number> <room>`, with which questions and answers begin. Whether it is that."""
    cdef size_t at = se_lower_run(text, n if n < NODE_MAX else NODE_MAX), size
    if at == 0 or at == n or text[at] != c" ":
        return False
    node[0] = at
    at += 1
    size = se_token_run(text + at, n - at)
    if at + size >= n or text[at + size] != c" " or not uint_parse(text + at, size, number) or number[0] > MARK_LISTENS:
        return False
    room[0] = at + size + 1
    room_n[0] = se_token_run(text + room[0], n - room[0])
    return room_valid(text + room[0], room_n[0])


cdef inline RoomEntry* room_named(Loop* loop, const char* name, size_t n) noexcept nogil:
    return table_find(&loop.hub.rooms, name, n, room_hash(&loop.hub.rooms, name, n))


cdef inline void heard_abroad(Loop* loop, bint is_new) noexcept nogil:
    """Another node has listeners. Where that was not known, and it had some before, it may have missed something."""
    if not is_new and not is_heard_abroad(loop):
        se_add_relaxed(&loop.hub.presence_epoch, 1)
    se_store_seqcst(&loop.hub.abroad, loop.tick + LOST_TICKS)


cdef inline void on_question(Loop* loop, const char* text, size_t n) noexcept nogil:
    cdef Hub* hub = loop.hub
    cdef size_t node, room, room_n, at
    cdef uint64_t number
    cdef RoomEntry* entry
    cdef uint16_t place
    if not question_head(text, n, &node, &number, &room, &room_n):
        loop.n[C_NATS_MALFORMED] += 1
        return
    at = room + room_n
    if at < n and (n - at - 1 != hub.node_len or memcmp(text + at + 1, hub.node, hub.node_len) != 0):
        return
    place = node_find(loop.linked, text, node)
    heard_abroad(loop, place != 0 and not loop.linked.nodes[place].listens)
    entry = room_named(loop, text + room, room_n)
    if entry == NULL:
        return
    if questions_fit(loop, entry):
        room_question(loop, entry, <uint16_t>number, text, node)
    else:
        news_lost(loop)


# -- what comes from NATS --

cdef inline void on_members(Loop* loop, const char* text, size_t n) noexcept nogil:
    """An answer: its head, then members."""
    cdef size_t head = line_size(text, n), node, room, room_n, at, size
    cdef uint64_t number
    cdef RoomEntry* entry
    cdef Audience* audience
    if head == n or not question_head(text, head, &node, &number, &room, &room_n) or room + room_n != head:
        loop.n[C_NATS_MALFORMED] += 1
        return
    at = head + 1
    while at < n:
        size = line_size(text + at, n - at)
        if who_node(text + at, size) == 0:
            loop.n[C_NATS_MALFORMED] += 1
            return
        at += size + 1
    entry = room_named(loop, text + room, room_n)
    audience = NULL if entry == NULL else audience_of(entry)
    if audience == NULL:
        return
    node_heard(loop, audience, text, node)
    members_tell(loop, entry, <uint32_t>(number | (number << 16)), text + head + 1, n - head - 1)


cdef inline void node_heard(Loop* loop, Audience* audience, const char* name, size_t n) noexcept nogil:
    """That it has members in a room. Of one that is lost this may be its last word: then its cursor comes by again."""
    cdef uint16_t place = node_note(loop, name, n)
    cdef Node* node = &loop.linked.nodes[place]
    if place == 0:
        return
    audience_note(audience, place)
    if node.walks and not node.asks and 0 < audience.place <= node.cursor:
        node.cursor = audience.place - 1


cdef inline void on_changes(Loop* loop, const NatsOp* op) noexcept nogil:
    """Joins and leaves of one node in the room that the subject names."""
    cdef size_t skip = loop.hub.prefix_len + 10, verb, node
    cdef RoomEntry* entry
    cdef Audience* audience
    if op.subject_len <= skip:
        return
    entry = room_named(loop, op.subject + skip, op.subject_len - skip)
    audience = NULL if entry == NULL else audience_of(entry)
    if audience == NULL:
        return
    verb = change_verb(op.payload, line_size(op.payload, op.payload_len))
    if verb:
        node = who_node(op.payload + verb, line_size(op.payload, op.payload_len) - verb)
        if node:
            node_heard(loop, audience, op.payload + verb, node)
    changes_tell(loop, entry, op.payload, op.payload_len)


cdef inline void on_heartbeat(Loop* loop, const char* text, size_t n) noexcept nogil:
    """`<node> <instance> <epoch> <1 where it has listeners, else 0>`, or `<node> bye`."""
    cdef Link* link = loop.linked
    cdef size_t name = se_lower_run(text, n if n < NODE_MAX else NODE_MAX), at = name + 1, size
    cdef uint64_t epoch
    cdef uint16_t place
    cdef Node* node
    cdef bint known, is_new
    if name and n == name + 4 and memcmp(text + name, b" bye", 4) == 0:
        place = node_find(link, text, name)
        if place:
            node_lost(loop, place)
        return
    if name == 0 or n < at + 20 or text[name] != c" " or text[at + 16] != c" ":
        loop.n[C_NATS_MALFORMED] += 1
        return
    size = se_token_run(text + at + 17, n - at - 17)
    if n != at + 17 + size + 2 or not uint_parse(text + at + 17, size, &epoch):
        loop.n[C_NATS_MALFORMED] += 1
        return
    place = node_note(loop, text, name)
    if place == 0:
        return
    node = &link.nodes[place]
    known = node.epoch == epoch and memcmp(node.instance, text + at, 16) == 0 and not (node.walks and not node.asks)
    is_new = memcmp(node.instance, text + at, 16) != 0
    node.heard = loop.tick
    node.epoch = epoch
    memcpy(node.instance, text + at, 16)
    if text[n - 1] == c"1":
        heard_abroad(loop, False)
    node.listens = text[n - 1] == c"1"
    if not known:
        node_walk(link, place, True)
    if is_new:  # nor does it know us
        link.beat_due = loop.tick


cdef inline bint is_presence(uint64_t sid) noexcept nogil:
    return sid in (SID_ALIVE, SID_ASK, SID_MEMBERS) or sid >= SID_AUDIENCE


cdef inline void presence_message(Loop* loop, const NatsOp* op) noexcept nogil:
    """A message on one of our subscriptions. Headers are ignored."""
    loop.n[C_NATS_IN] += 1
    if op.payload == NULL:  # too large to be kept, and so for presence
        loop.n[C_NATS_MALFORMED] += 1
    elif op.sid == SID_ALIVE:
        on_heartbeat(loop, op.payload, op.payload_len)
    elif op.sid == SID_ASK:
        on_question(loop, op.payload, op.payload_len)
    elif op.sid == SID_MEMBERS:
        on_members(loop, op.payload, op.payload_len)
    else:
        on_changes(loop, op)


# -- what is due --

cdef inline uint32_t node_step(Loop* loop, uint16_t place) noexcept nogil:
    """One room of its cursor's way: what is looked at and told there. 0 at the end of it."""
    cdef Link* link = loop.linked
    cdef Node* node = &link.nodes[place]
    cdef Audience* audience
    cdef uint32_t cost = 1
    if node.cursor >= link.audiences_used:
        return 0
    audience = link.audiences[node.cursor]
    node.cursor += 1
    if audience == NULL:
        return cost
    if place == EVERY_NODE:
        audience_sub(loop, audience)
        cost += audience.nnodes
        while audience.nnodes:
            node_left(loop, audience, audience.nodes[0])
    else:
        node_left(loop, audience, place)
    if node.asks:
        ask_nodes(loop, audience, 0, node)
    return cost


cdef inline void presence_walk(Loop* loop) noexcept nogil:
    """Each iteration while a cursor is on its way. One that asks waits while NATS does not take what it asks."""
    cdef Link* link = loop.linked
    cdef uint32_t i, cost, used = 0
    for i in range(link.nodes_used):
        while link.nodes[i].walks and not (link.nodes[i].asks and not link_is_calm(loop)):
            cost = node_step(loop, <uint16_t>i)
            used += cost
            if used >= AUDIENCES_PER_TURN:
                return
            if cost:
                continue
            link.nodes[i].walks = False
            link.walks -= 1
            if not link.nodes[i].asks and i != EVERY_NODE:
                link.nodes[i].size = 0


cdef inline void presence_beat(Loop* loop) noexcept nogil:
    """A heartbeat, one a tick at most: behind what is told before, and never for want of room in the inbox lost."""
    cdef Msg* msg
    cdef Link* link = loop.linked
    cdef char text[96]
    cdef uint8_t* at = put(put(<uint8_t*>text, loop.hub.node, loop.hub.node_len), b" ", 1)
    link.told_epoch = se_load_relaxed(&loop.hub.presence_epoch)
    link.beat_due = loop.tick + BEAT_TICKS
    at = put(put(at, link.instance, 16), b" ", 1)
    at += put_uint(<char*>at, link.told_epoch)
    at = put(at, b" 1" if link.audiences_used > link.audiences_nfree else b" 0", 2)
    msg = publish_new(loop, b"presence-alive", b"", 0, text, <size_t>(<char*>at - text), b"", 0)
    if msg != NULL:
        post(loop, 0, msg)


cdef inline void presence_tick(Loop* loop) noexcept nogil:
    """Each tick."""
    cdef Link* link = loop.linked
    cdef uint64_t heard = 0
    cdef uint32_t i
    if link.again:
        asks_begin(loop)
    if link.state != LINK_UP:
        return
    if link.torn and link.out.bytes <= loop.hub.set.nats_pending // 2:
        link.torn = False
        se_add_relaxed(&loop.hub.presence_epoch, 1)
    if link.beat_due <= loop.tick or (link.told_epoch != se_load_relaxed(&loop.hub.presence_epoch) and not link.torn):
        presence_beat(loop)
    for i in range(1, link.nodes_used):
        if link.nodes[i].size == 0 or (link.nodes[i].walks and not link.nodes[i].asks):
            continue
        if loop.tick - link.nodes[i].heard <= LOST_TICKS:
            heard += 1
        elif not link.nodes[i].walks:
            node_lost(loop, <uint16_t>i)
    se_store_relaxed(&loop.hub.nodes, heard)


cdef inline uint32_t beat_patience(const Link* link, uint32_t tick) noexcept nogil:
    """Of a link that is up, ticks to the next heartbeat: 1 at least, LINK_LOOK at most."""
    cdef uint32_t ticks = link.beat_due - tick if link.beat_due > tick else 1
    return ticks if ticks < LINK_LOOK else LINK_LOOK


cdef inline bint presence_sub(Loop* loop, const char* what, const char* tail, size_t n, uint64_t sid) noexcept nogil:
    cdef char subject[208]
    cdef char line[256]
    cdef size_t size = put_subject(subject, loop.hub, what, tail, n)
    return link_write(loop, line, nats_put_sub(line, subject, <uint32_t>size, b"", 0, sid))


cdef inline bint presence_up(Loop* loop) noexcept nogil:
    """NATS is connected: listens, says that this node is there, and asks anew. False without memory."""
    cdef Link* link = loop.linked
    cdef Hub* hub = loop.hub
    cdef uint32_t i
    if (not nodes_reserve(link) or not presence_sub(loop, b"presence-alive", b"", 0, SID_ALIVE)
            or not presence_sub(loop, b"presence-ask", b"", 0, SID_ASK)
            or not presence_sub(loop, b"presence-members", hub.node, hub.node_len, SID_MEMBERS)):
        return False
    for i in range(1, link.nodes_used):
        link.nodes[i].heard = loop.tick
    node_walk(link, EVERY_NODE, True)
    se_add_relaxed(&hub.presence_epoch, 1)
    link.torn = False
    presence_beat(loop)
    return True


cdef inline void presence_bye(Loop* loop) noexcept nogil:
    """This node stops: others need not wait for heartbeats. The caller writes it."""
    cdef char text[24]
    cdef uint8_t* at = put(put(<uint8_t*>text, loop.hub.node, loop.hub.node_len), b" bye", 4)
    cdef Msg* msg
    if loop.linked.state != LINK_UP:
        return
    msg = publish_new(loop, b"presence-alive", b"", 0, text, <size_t>(<char*>at - text), b"", 0)
    if msg != NULL:
        link_queue(loop, msg)


# -- the service --

cdef inline void service_came(Loop* loop, const Msg* msg) noexcept nogil:
    """A KIND_SERVICE: the embedding service has joined, or has left. The last to leave may have taken the room's entry
    with it; other nodes hear it all the same."""
    cdef RoomEntry* entry = table_find(&loop.hub.rooms, <char*>msg.data, msg.size, msg.hash)
    cdef char line[176]
    cdef size_t n
    if entry != NULL:
        news_add(loop, entry, NULL, msg.code != 0)
    elif is_heard_abroad(loop) and msg.code == 0:
        memcpy(line, b"LEAVE ", 6)
        n = 6 + put_who(loop, NULL, line + 6)
        line[n] = c"\n"
        presence_publish(loop, b"presence", <char*>msg.data, msg.size, line, n + 1, b"", 0)
