"""Sends presence queries to other nodes, and postpones those that cannot be sent now. Loop 0 only."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from signal_core.base.array cimport array_reserve
from signal_core.base.counters cimport C_PRESENCE_ASKED, C_PRESENCE_LOST
from signal_core.base.limits cimport AUDIENCES_PER_TURN, NODES_MOST, QUESTIONS_PER_TICK, RESUME_BYTES
from signal_core.base.memory cimport Packet, packet_data
from signal_core.base.span cimport span_between, span_none
from signal_core.base.sys cimport se_load_seqcst, se_pointer_acquire, se_store_seqcst
from signal_core.base.text cimport UINT_TEXT, text_put, text_put_span, text_put_uint
from signal_core.delivery.outbox cimport outbox_has_room, outbox_post
from signal_core.delivery.sub_queue cimport sub_queue_size
from signal_core.presence.events cimport events_publish_new
from signal_core.presence.roster cimport roster_fits, roster_question
from signal_core.presence.watches cimport watches_settle, watches_sub
from signal_core.tables.link_state cimport LINK_UP, Link, Node, node_name
from signal_core.tables.loop_rooms cimport WATCH_CHANGES
from signal_core.tables.room_table cimport (
    PUT_OFF_NODES, PUT_OFF_QUESTION, PUT_OFF_SUB, Audience, RoomEntry, room_entry_name, room_table_find,
)
from signal_core.tables.state cimport Loop, hub_node
from signal_core.wire.ids cimport NODE_MAX, ROOM_MAX

cdef enum:
    EVERY_NODE = 0            # index in LinkPresence.nodes of the entry that stands for all nodes
    NODES_AT_FIRST = 8        # initial capacity of LinkPresence.nodes
    ASK_MAX = NODE_MAX + 1 + UINT_TEXT + 1 + ROOM_MAX + 1 + NODE_MAX  # bytes of a query to other nodes


cdef inline bint remote_query_reserve_nodes(Link* link) noexcept nogil:
    """Makes room for one more node, besides the entry that stands for all nodes. False without memory."""
    cdef uint32_t size = link.presence.nodes_size
    if link.presence.nodes_used < size:
        return True
    if (link.presence.nodes_used >= NODES_MOST
            or not array_reserve(&link.presence.nodes, &link.presence.nodes_size, size + 1, sizeof(Node),
                                 NODES_AT_FIRST)):
        return False
    memset(link.presence.nodes + size, 0, (link.presence.nodes_size - size) * sizeof(Node))
    if link.presence.nodes_used == 0:
        link.presence.nodes_used = 1
    return True


cdef inline bint remote_query_link_is_calm(const Loop* loop) noexcept nogil:
    """Whether NATS keeps up with what is queued, so that queries may be sent: nothing but rooms and nodes bounds their
    number. Those of this iteration, which have not reached the link, count as well."""
    cdef uint64_t waiting = sub_queue_size(loop.linked) + loop.post.chains[loop.index].bytes
    return waiting < RESUME_BYTES and waiting <= loop.set.nats_pending // 2


cdef inline void remote_query_ask_nodes(Loop* loop, Audience* audience, uint16_t number,
                                        const Node* node) noexcept nogil:
    """Sends `<own node> <number> <room> [<node>]`, which makes one node, or all, send their part of the roster.

    Without memory or room in the mailbox it is postponed; for what the link drops nats_publish.pxd does that."""
    cdef RoomEntry* entry = <RoomEntry*>audience.entry
    cdef uint64_t lost = loop.n[C_PRESENCE_LOST]
    cdef char text[ASK_MAX]
    cdef char* out
    cdef Packet* packet
    if loop.linked.state != LINK_UP:
        return
    if not outbox_has_room(loop, loop, sizeof(text)):
        loop.n[C_PRESENCE_LOST] += 1
        audience.put_off |= PUT_OFF_NODES
        loop.linked.presence.again = True
        return
    out = text_put_uint(text_put(text_put_span(text, hub_node(loop.hub)), b" "), number)
    out = text_put_span(text_put(out, b" "), room_entry_name(entry))
    if node.size:
        out = text_put_span(text_put(out, b" "), node_name(node))
    packet = events_publish_new(loop, b"presence-ask", span_none(), span_between(text, out), span_none())
    if packet != NULL:
        packet.target = audience.index
        outbox_post(loop, 0, packet)
    elif loop.n[C_PRESENCE_LOST] != lost:
        audience.put_off |= PUT_OFF_NODES
        loop.linked.presence.again = True


cdef inline void _ask(Loop* loop, Audience* audience) noexcept nogil:
    """Sends the next query of a room, to this node's loops and to all nodes. After QUESTIONS_PER_TICK of them, or if
    a loop has no room, it is postponed to the next tick.

    The number is increased first: a watcher that has read the old one is counted among the watchers already."""
    cdef uint64_t generation = audience.generation
    cdef uint16_t number = <uint16_t>(1 + generation % (WATCH_CHANGES - 1))
    if audience.asked != loop.tick:
        audience.asked = loop.tick
        audience.asks = 0
    if audience.asks >= QUESTIONS_PER_TICK or not roster_fits(loop, <RoomEntry*>audience.entry):
        audience.put_off |= PUT_OFF_QUESTION
        loop.linked.presence.again = True
        return
    audience.asks += 1
    audience.put_off &= PUT_OFF_SUB | PUT_OFF_NODES
    loop.n[C_PRESENCE_ASKED] += 1
    se_store_seqcst(&audience.generation, generation + 1)
    roster_question(loop, <RoomEntry*>audience.entry, number, span_none())
    if remote_query_reserve_nodes(loop.linked):
        remote_query_ask_nodes(loop, audience, number, &loop.linked.presence.nodes[EVERY_NODE])


cdef inline void remote_query_ask(Loop* loop, const Packet* packet) noexcept nogil:
    """Handles a KIND_ASK. One whose number was sent meanwhile is answered by that query.

    From here on the next watcher posts another KIND_ASK; those that relied on this one are counted already."""
    cdef RoomEntry* entry = room_table_find(&loop.hub.rooms, packet_data(packet), packet.hash)
    cdef Audience* audience = NULL if entry == NULL else <Audience*>se_pointer_acquire(&entry.audience)
    if audience == NULL:
        return
    se_store_seqcst(&audience.asking, 0)
    if se_load_seqcst(&audience.watching) == 0 or audience.generation != packet.target:
        return
    watches_settle(loop, entry)
    _ask(loop, audience)


cdef inline void _ask_again(Loop* loop, Audience* audience) noexcept nogil:
    """Sends what was postponed. As far as NATS keeps up: a SUB, and a query to other nodes whose answer goes to every
    watcher. Then the query whose number some watchers await.

    All watchers get the answer because nodes announce no joins before NATS has the SUB, and because a lost query does
    not say which watchers awaited it."""
    if (audience.put_off & (PUT_OFF_SUB | PUT_OFF_NODES) and remote_query_link_is_calm(loop)
            and remote_query_reserve_nodes(loop.linked)):
        if audience.put_off & PUT_OFF_SUB:
            watches_sub(loop, audience)
        audience.put_off &= PUT_OFF_QUESTION
        remote_query_ask_nodes(loop, audience, 0, &loop.linked.presence.nodes[EVERY_NODE])
    if audience.put_off & PUT_OFF_QUESTION:
        _ask(loop, audience)


cdef inline void remote_query_begin(Loop* loop) noexcept nogil:
    """Starts a walk over the rooms with watchers, in a new tick, that sends what was postponed."""
    cdef Link* link = loop.linked
    if not link.presence.asking:
        link.presence.again = False
        link.presence.asking = True
        link.presence.asks_at = 0


cdef inline void remote_query_walk(Loop* loop) noexcept nogil:
    """Continues that walk in each iteration. What is postponed again waits for the next tick."""
    cdef Link* link = loop.linked
    cdef Audience* audience
    cdef uint32_t budget = AUDIENCES_PER_TURN
    while link.presence.asks_at < link.presence.audiences_used and budget:
        audience = link.presence.audiences[link.presence.asks_at]
        link.presence.asks_at += 1
        budget -= 1
        if audience != NULL and audience.put_off:
            _ask_again(loop, audience)
            link.presence.again = link.presence.again or audience.put_off
    link.presence.asking = link.presence.asks_at < link.presence.audiences_used
