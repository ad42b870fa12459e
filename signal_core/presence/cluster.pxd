"""Presence across nodes: heartbeats, queries from other nodes, and events of their members. Loop 0 only.

Other nodes' members are not stored. A room with watchers notes which nodes have members in it, so that the loss of a
node can be announced there. If this node may have missed events of another one (it is new, was away, or lost an event),
it walks the rooms with watchers: in each it declares that node's members gone (LEAVE <node>.*) and queries the node
again. Node.cursor is how far it has come.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset
from signal_core.base.counters cimport C_NATS_IN, C_NATS_MALFORMED, C_NODES_LOST
from signal_core.base.limits cimport AUDIENCES_PER_TURN, BEAT_TICKS, INSTANCE_SIZE, LOST_TICKS, NATS_LOOK_TICKS
from signal_core.base.memory cimport Packet, packet_data
from signal_core.base.span cimport Span, span_between, span_from, span_is, span_none, span_of, span_same
from signal_core.base.sys cimport se_add_relaxed, se_load_relaxed, se_store_relaxed, se_store_seqcst
from signal_core.base.text cimport UINT_TEXT, text_parse_uint, text_put, text_put_span, text_put_uint
from signal_core.delivery.nats_publish cimport nats_publish_queue, nats_publish_write
from signal_core.delivery.outbox cimport outbox_post
from signal_core.presence.events cimport (
    LINE_MAX, SUBJECT_MAX, events_add, events_after, events_change_verb, events_heard_abroad, events_line, events_lost,
    events_node_of, events_publish, events_publish_new, events_put_subject, events_put_who, events_tell_changes,
    events_tell_members,
)
from signal_core.presence.remote_query cimport (
    EVERY_NODE, remote_query_ask_nodes, remote_query_begin, remote_query_link_is_calm, remote_query_reserve_nodes,
)
from signal_core.presence.roster cimport roster_fits, roster_question
from signal_core.presence.watches cimport SID_AUDIENCE, watches_drop, watches_note, watches_sub
from signal_core.tables.link_state cimport LINK_UP, Link, Node, link_instance, node_name
from signal_core.tables.loop_rooms cimport WATCH_CHANGES
from signal_core.tables.room_table cimport Audience, RoomEntry, audience_of, room_table_find, room_table_hash
from signal_core.tables.state cimport Hub, Loop, hub_node
from signal_core.wire.ids cimport NODE_MAX, ids_node_run, ids_room_valid, se_token_run
from signal_core.wire.nats_format cimport NATS_SUB_SIZE, nats_format_sub
from signal_core.wire.nats_proto cimport NatsOp

cdef enum:
    SID_ALIVE = 4             # `<prefix>.presence-alive`: heartbeats
    SID_ASK = 5               # `<prefix>.presence-ask`: queries to all nodes
    SID_MEMBERS = 6           # `<prefix>.presence-members.<node>`: answers to ours
    BEAT_MAX = NODE_MAX + 1 + INSTANCE_SIZE + 1 + UINT_TEXT + 2  # bytes of a heartbeat

cdef struct Question:         # `<node> <number> <room>`, as a query or an answer begins. Points into its text
    Span node
    Span room
    Span rest                 # what follows
    uint64_t number

cdef struct Heartbeat:        # points into its text
    Span node
    const char* instance      # INSTANCE_SIZE bytes
    uint64_t epoch
    bint watches              # it has watchers
    bint bye                  # it stops; the other fields but `node` are not set


# -- nodes --

cdef inline uint16_t _node_find(Link* link, Span name) noexcept nogil:
    """Returns the node's index; 0 if it is unknown."""
    cdef uint32_t i
    for i in range(1, link.presence.nodes_used):
        if span_same(node_name(&link.presence.nodes[i]), name):
            return <uint16_t>i
    return 0


cdef inline uint16_t _node_note(Loop* loop, Span name) noexcept nogil:
    """Returns the index of a node, which is added if it is unknown; 0 without memory."""
    cdef Link* link = loop.linked
    cdef uint16_t index = _node_find(link, name)
    cdef uint32_t i
    if index:
        return index
    for i in range(1, link.presence.nodes_used):
        if link.presence.nodes[i].size == 0:
            index = <uint16_t>i
            break
    if index == 0:
        if not remote_query_reserve_nodes(link):
            return 0
        index = <uint16_t>link.presence.nodes_used
        link.presence.nodes_used += 1
    memset(&link.presence.nodes[index], 0, sizeof(Node))
    text_put_span(link.presence.nodes[index].name, name)
    link.presence.nodes[index].size = <uint8_t>name.size
    link.presence.nodes[index].heard = loop.tick
    return index


cdef inline void _node_walk(Link* link, uint16_t index, bint asks) noexcept nogil:
    """Starts a walk over the rooms with watchers that declares the node's members gone.

    `asks`: it is also queried again; else it is forgotten at the end."""
    cdef Node* node = &link.presence.nodes[index]
    if not node.walks:
        link.presence.walks += 1
    node.walks = True
    node.asks = asks
    node.cursor = 0


cdef inline void _node_lost(Loop* loop, uint16_t index) noexcept nogil:
    loop.n[C_NODES_LOST] += 1
    _node_walk(loop.linked, index, False)


cdef inline void _node_left(Loop* loop, Audience* audience, uint16_t index) noexcept nogil:
    """Announces `LEAVE <room> <node>.*` if the node is known to have members there."""
    cdef Node* node = &loop.linked.presence.nodes[index]
    cdef char line[6 + NODE_MAX + 3]
    cdef char* end
    if not watches_drop(audience, index):
        return
    end = text_put(text_put_span(text_put(line, b"LEAVE "), node_name(node)), b".*\n")
    events_tell_changes(loop, <RoomEntry*>audience.entry, span_between(line, end))


# -- queries from other nodes --

cdef inline bint _question_parse(Span text, Question* out) noexcept nogil:
    """Parses `<node> <number> <room>`, with which queries and answers begin. False if it is malformed."""
    cdef size_t size = ids_node_run(text)
    if size == 0 or size == text.size or text.at[size] != c" ":
        return False
    out.node = span_of(text.at, size)
    text = span_from(text, size + 1)
    size = se_token_run(text.at, text.size)
    if (size == text.size or text.at[size] != c" " or not text_parse_uint(span_of(text.at, size), &out.number)
            or out.number > WATCH_CHANGES):
        return False
    text = span_from(text, size + 1)
    out.room = span_of(text.at, se_token_run(text.at, text.size))
    out.rest = span_from(text, out.room.size)
    return ids_room_valid(out.room)


cdef inline RoomEntry* _room_named(Loop* loop, Span name) noexcept nogil:
    return room_table_find(&loop.hub.rooms, name, room_table_hash(&loop.hub.rooms, name))


cdef inline void _heard_abroad(Loop* loop, bint is_new) noexcept nogil:
    """Notes that another node has watchers. If it had them before and this node did not know, it may have missed
    events: the epoch makes it query again."""
    if not is_new and not events_heard_abroad(loop):
        se_add_relaxed(&loop.hub.presence_epoch, 1)
    se_store_seqcst(&loop.hub.abroad, loop.tick + LOST_TICKS)


cdef inline void _on_question(Loop* loop, Span text) noexcept nogil:
    cdef Question question
    cdef RoomEntry* entry
    cdef uint16_t index
    if not _question_parse(text, &question):
        loop.n[C_NATS_MALFORMED] += 1
        return
    if question.rest.size and not span_same(span_from(question.rest, 1), hub_node(loop.hub)):
        return
    index = _node_find(loop.linked, question.node)
    _heard_abroad(loop, index != 0 and not loop.linked.presence.nodes[index].watches)
    entry = _room_named(loop, question.room)
    if entry == NULL:
        return
    if roster_fits(loop, entry):
        roster_question(loop, entry, <uint16_t>question.number, question.node)
    else:
        events_lost(loop)


# -- messages from NATS --

cdef inline bint _members_are_good(Span text) noexcept nogil:
    """Whether each line is a member."""
    cdef Span line
    while text.size:
        line = events_line(text)
        if events_node_of(line) == 0:
            return False
        text = events_after(text, line)
    return True


cdef inline void _on_members(Loop* loop, Span text) noexcept nogil:
    """Handles an answer to a query: its head, then a line for each member."""
    cdef Span head = events_line(text), members = events_after(text, head)
    cdef Question answer
    cdef RoomEntry* entry
    cdef Audience* audience
    if (head.size == text.size or not _question_parse(head, &answer) or answer.rest.size
            or not _members_are_good(members)):
        loop.n[C_NATS_MALFORMED] += 1
        return
    entry = _room_named(loop, answer.room)
    audience = NULL if entry == NULL else audience_of(entry)
    if audience == NULL:
        return
    _node_heard(loop, audience, answer.node)
    events_tell_members(loop, entry, <uint32_t>(answer.number | (answer.number << 16)), members)


cdef inline void _node_heard(Loop* loop, Audience* audience, Span name) noexcept nogil:
    """Notes that a node has members in the room. If the walk that announces its loss has passed this room, it returns
    here."""
    cdef uint16_t index = _node_note(loop, name)
    cdef Node* node = &loop.linked.presence.nodes[index]
    if index == 0:
        return
    watches_note(audience, index)
    if node.walks and not node.asks and 0 < audience.index <= node.cursor:
        node.cursor = audience.index - 1


cdef inline void _on_changes(Loop* loop, const NatsOp* op) noexcept nogil:
    """Handles joins and leaves of one node, in the room that the subject names."""
    cdef size_t skip = loop.hub.prefix_len + 10, verb, node
    cdef RoomEntry* entry
    cdef Audience* audience
    cdef Span who
    if op.subject.size <= skip:
        return
    entry = _room_named(loop, span_from(op.subject, skip))
    audience = NULL if entry == NULL else audience_of(entry)
    if audience == NULL:
        return
    who = events_line(op.payload)
    verb = events_change_verb(who)
    if verb:
        who = span_from(who, verb)
        node = events_node_of(who)
        if node:
            _node_heard(loop, audience, span_of(who.at, node))
    events_tell_changes(loop, entry, op.payload)


cdef inline void _on_bye(Loop* loop, Span name) noexcept nogil:
    cdef uint16_t index = _node_find(loop.linked, name)
    if index:
        _node_lost(loop, index)


cdef inline bint _heartbeat_parse(Span text, Heartbeat* out) noexcept nogil:
    """Parses `<node> <instance> <epoch> <1 if it has watchers, else 0>`, or `<node> bye`."""
    cdef size_t size = ids_node_run(text)
    cdef Span rest = span_from(text, size)
    out.node = span_of(text.at, size)
    out.bye = size and span_is(rest, b" bye")
    if out.bye:
        return True
    if size == 0 or rest.size < 1 + INSTANCE_SIZE + 4 or rest.at[0] != c" " or rest.at[1 + INSTANCE_SIZE] != c" ":
        return False
    out.instance = rest.at + 1
    rest = span_from(rest, 1 + INSTANCE_SIZE + 1)
    size = se_token_run(rest.at, rest.size)
    out.watches = text.at[text.size - 1] == c"1"
    return rest.size == size + 2 and text_parse_uint(span_of(rest.at, size), &out.epoch)


cdef inline void _node_beats(Loop* loop, uint16_t index, const Heartbeat* beat) noexcept nogil:
    """Notes a heartbeat. A node that is new, or that may have missed presence, is queried about every room."""
    cdef Node* node = &loop.linked.presence.nodes[index]
    cdef bint is_new = memcmp(node.instance, beat.instance, INSTANCE_SIZE) != 0
    cdef bint known = node.epoch == beat.epoch and not is_new and not (node.walks and not node.asks)
    node.heard = loop.tick
    node.epoch = beat.epoch
    memcpy(node.instance, beat.instance, INSTANCE_SIZE)
    if beat.watches:
        _heard_abroad(loop, False)
    node.watches = beat.watches
    if not known:
        _node_walk(loop.linked, index, True)
    if is_new:  # it does not know this node either
        loop.linked.presence.beat_due = loop.tick


cdef inline void _on_heartbeat(Loop* loop, Span text) noexcept nogil:
    cdef Heartbeat beat
    cdef uint16_t index
    if not _heartbeat_parse(text, &beat):
        loop.n[C_NATS_MALFORMED] += 1
        return
    if beat.bye:
        _on_bye(loop, beat.node)
        return
    index = _node_note(loop, beat.node)
    if index:
        _node_beats(loop, index, &beat)


cdef inline bint cluster_is_presence(uint64_t sid) noexcept nogil:
    return sid in (SID_ALIVE, SID_ASK, SID_MEMBERS) or sid >= SID_AUDIENCE


cdef inline void cluster_message(Loop* loop, const NatsOp* op) noexcept nogil:
    """Handles a message on a presence subscription. Headers are ignored."""
    loop.n[C_NATS_IN] += 1
    if op.payload.at == NULL:  # too large to be kept, and so too large for presence
        loop.n[C_NATS_MALFORMED] += 1
    elif op.sid == SID_ALIVE:
        _on_heartbeat(loop, op.payload)
    elif op.sid == SID_ASK:
        _on_question(loop, op.payload)
    elif op.sid == SID_MEMBERS:
        _on_members(loop, op.payload)
    else:
        _on_changes(loop, op)


# -- walks, heartbeats --

cdef inline uint32_t _node_step(Loop* loop, uint16_t index) noexcept nogil:
    """Walks on by one room. Returns the work done; 0 at the end of the walk."""
    cdef Link* link = loop.linked
    cdef Node* node = &link.presence.nodes[index]
    cdef Audience* audience
    cdef uint32_t cost = 1
    if node.cursor >= link.presence.audiences_used:
        return 0
    audience = link.presence.audiences[node.cursor]
    node.cursor += 1
    if audience == NULL:
        return cost
    if index == EVERY_NODE:
        watches_sub(loop, audience)
        cost += audience.nnodes
        while audience.nnodes:
            _node_left(loop, audience, audience.nodes[0])
    else:
        _node_left(loop, audience, index)
    if node.asks:
        remote_query_ask_nodes(loop, audience, 0, node)
    return cost


cdef inline void cluster_walk(Loop* loop) noexcept nogil:
    """Continues the walks, in each iteration while there are any. One that queries waits until NATS keeps up."""
    cdef Link* link = loop.linked
    cdef uint32_t i, cost, used = 0
    for i in range(link.presence.nodes_used):
        while (link.presence.nodes[i].walks
               and not (link.presence.nodes[i].asks and not remote_query_link_is_calm(loop))):
            cost = _node_step(loop, <uint16_t>i)
            used += cost
            if used >= AUDIENCES_PER_TURN:
                return
            if cost:
                continue
            link.presence.nodes[i].walks = False
            link.presence.walks -= 1
            if not link.presence.nodes[i].asks and i != EVERY_NODE:
                link.presence.nodes[i].size = 0


cdef inline void _beat(Loop* loop) noexcept nogil:
    """Sends a heartbeat, after the events sent before. It ignores a full mailbox, since there is at most one a tick."""
    cdef Packet* packet
    cdef Link* link = loop.linked
    cdef char text[BEAT_MAX]
    cdef char* out = text_put(text_put_span(text, hub_node(loop.hub)), b" ")
    link.presence.told_epoch = se_load_relaxed(&loop.hub.presence_epoch)
    link.presence.beat_due = loop.tick + BEAT_TICKS
    out = text_put(text_put_span(out, link_instance(link)), b" ")
    out = text_put_uint(out, link.presence.told_epoch)
    out = text_put(out, b" 1" if link.presence.audiences_used > link.presence.audiences_nfree else b" 0")
    packet = events_publish_new(loop, b"presence-alive", span_none(), span_between(text, out), span_none())
    if packet != NULL:
        outbox_post(loop, 0, packet)


cdef inline void cluster_tick(Loop* loop) noexcept nogil:
    """Does what is due in a tick: postponed queries, the heartbeat, the loss of silent nodes."""
    cdef Link* link = loop.linked
    cdef uint64_t heard = 0
    cdef uint32_t i
    if link.presence.again:
        remote_query_begin(loop)
    if link.state != LINK_UP:
        return
    if link.presence.torn and link.out.bytes <= loop.set.nats_pending // 2:
        link.presence.torn = False
        se_add_relaxed(&loop.hub.presence_epoch, 1)
    if link.presence.beat_due <= loop.tick or (
            link.presence.told_epoch != se_load_relaxed(&loop.hub.presence_epoch) and not link.presence.torn):
        _beat(loop)
    for i in range(1, link.presence.nodes_used):
        if link.presence.nodes[i].size == 0 or (link.presence.nodes[i].walks and not link.presence.nodes[i].asks):
            continue
        if loop.tick - link.presence.nodes[i].heard <= LOST_TICKS:
            heard += 1
        elif not link.presence.nodes[i].walks:
            _node_lost(loop, <uint16_t>i)
    se_store_relaxed(&loop.hub.nodes, heard)


cdef inline uint32_t cluster_patience(const Link* link, uint32_t tick) noexcept nogil:
    """Returns the ticks until the next heartbeat is due on a link that is up, from 1 to NATS_LOOK_TICKS."""
    cdef uint32_t ticks = link.presence.beat_due - tick if link.presence.beat_due > tick else 1
    return ticks if ticks < NATS_LOOK_TICKS else NATS_LOOK_TICKS


cdef inline bint _sub(Loop* loop, const char* what, Span tail, uint64_t sid) noexcept nogil:
    cdef char text[SUBJECT_MAX]
    cdef char line[SUBJECT_MAX + NATS_SUB_SIZE]
    cdef Span subject = span_between(text, events_put_subject(text, loop.hub, what, tail))
    return nats_publish_write(loop, span_between(line, nats_format_sub(line, subject, sid)))


cdef inline bint cluster_up(Loop* loop) noexcept nogil:
    """Once NATS is connected: subscribes, sends a heartbeat, queries rooms with watchers. False without memory."""
    cdef Link* link = loop.linked
    cdef Hub* hub = loop.hub
    cdef uint32_t i
    if (not remote_query_reserve_nodes(link) or not _sub(loop, b"presence-alive", span_none(), SID_ALIVE)
            or not _sub(loop, b"presence-ask", span_none(), SID_ASK)
            or not _sub(loop, b"presence-members", hub_node(hub), SID_MEMBERS)):
        return False
    for i in range(1, link.presence.nodes_used):
        link.presence.nodes[i].heard = loop.tick
    _node_walk(link, EVERY_NODE, True)
    se_add_relaxed(&hub.presence_epoch, 1)
    link.presence.torn = False
    _beat(loop)
    return True


cdef inline void cluster_bye(Loop* loop) noexcept nogil:
    """Announces that this node stops, so that others do not wait for its heartbeats. The caller writes it."""
    cdef char text[NODE_MAX + 4]
    cdef Span bye = span_between(text, text_put(text_put_span(text, hub_node(loop.hub)), b" bye"))
    cdef Packet* packet
    if loop.linked.state != LINK_UP:
        return
    packet = events_publish_new(loop, b"presence-alive", span_none(), bye, span_none())
    if packet != NULL:
        nats_publish_queue(loop, packet)


# -- the local peer --

cdef inline void cluster_local_peer_came(Loop* loop, const Packet* packet) noexcept nogil:
    """Handles a KIND_LOCAL_PEER: the local peer has joined or left a room. If it was the last member, the room's entry
    may be gone; other nodes still get the LEAVE."""
    cdef RoomEntry* entry = room_table_find(&loop.hub.rooms, packet_data(packet), packet.hash)
    cdef char line[LINE_MAX]
    cdef char* end
    if entry != NULL:
        events_add(loop, entry, NULL, packet.code != 0)
    elif events_heard_abroad(loop) and packet.code == 0:
        end = text_put(events_put_who(text_put(line, b"LEAVE "), loop, NULL), b"\n")
        events_publish(loop, b"presence", packet_data(packet), span_between(line, end), span_none())
