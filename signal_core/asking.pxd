"""Questions to other nodes who is in a room, and those put off: each is asked in the end. L4. Loop 0 only."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset
from signal_core.address cimport put_uint
from signal_core.answers cimport put
from signal_core.audience cimport audience_settle, audience_sub
from signal_core.counters cimport C_PRESENCE_ASKED, C_PRESENCE_LOST
from signal_core.limits cimport AUDIENCES_PER_TURN, QUESTIONS_PER_TICK, RESUME_BYTES
from signal_core.memory cimport Msg
from signal_core.news cimport publish_new
from signal_core.post cimport post, post_has_room
from signal_core.questions cimport questions_fit, room_question
from signal_core.rooms cimport MARK_LISTENS
from signal_core.roomtable cimport (
    PUT_OFF_NODES, PUT_OFF_QUESTION, PUT_OFF_SUB, Audience, RoomEntry, table_find,
)
from signal_core.state cimport LINK_UP, Link, Loop, Node
from signal_core.subqueue cimport subs_queued
from signal_core.sys cimport se_load_seqcst, se_pointer_acquire, se_store_seqcst

cdef enum:
    EVERY_NODE = 0            # place in Link.nodes
    NODES_AT_FIRST = 8
    NODES_MOST = 65535        # other nodes noted


cdef inline bint nodes_reserve(Link* link) noexcept nogil:
    """Place for one more, and for the one that stands for all. False without memory."""
    cdef void* grown
    cdef uint32_t size
    if link.nodes_used < link.nodes_size:
        return True
    if link.nodes_used >= NODES_MOST:
        return False
    size = 2 * link.nodes_size if link.nodes_size else NODES_AT_FIRST
    grown = realloc(link.nodes, size * sizeof(Node))
    if grown == NULL:
        return False
    link.nodes = <Node*>grown
    memset(link.nodes + link.nodes_size, 0, (size - link.nodes_size) * sizeof(Node))
    link.nodes_size = size
    if link.nodes_used == 0:
        link.nodes_used = 1
    return True


cdef inline bint link_is_calm(const Loop* loop) noexcept nogil:
    """Whether NATS takes what is queued, so that questions may be, whose number only rooms and nodes bound. Those of
    this iteration count, too, which are not yet with the link."""
    cdef uint64_t waiting = subs_queued(loop.linked) + loop.outbox[loop.index].bytes
    return waiting < RESUME_BYTES and waiting <= loop.hub.set.nats_pending // 2


cdef inline void ask_nodes(Loop* loop, Audience* audience, uint16_t mark, const Node* node) noexcept nogil:
    """`<own node> <number> <room> [<node>]`: one node, or all, are to say who of theirs is in a room. What the link
    has no room for is put off by it, what there is no memory for here."""
    cdef RoomEntry* entry = <RoomEntry*>audience.entry
    cdef uint64_t lost = loop.n[C_PRESENCE_LOST]
    cdef char text[224]
    cdef uint8_t* at
    cdef Msg* msg
    if loop.linked.state != LINK_UP:
        return
    if not post_has_room(loop, loop, sizeof(text)):
        loop.n[C_PRESENCE_LOST] += 1
        audience.put_off |= PUT_OFF_NODES
        loop.linked.again = True
        return
    at = put(put(<uint8_t*>text, loop.hub.node, loop.hub.node_len), b" ", 1)
    at += put_uint(<char*>at, mark)
    at = put(put(at, b" ", 1), entry.name, entry.size)
    if node.size:
        at = put(put(at, b" ", 1), node.name, node.size)
    msg = publish_new(loop, b"presence-ask", b"", 0, text, <size_t>(<char*>at - text), b"", 0)
    if msg != NULL:
        msg.target = audience.place
        post(loop, 0, msg)
    elif loop.n[C_PRESENCE_LOST] != lost:
        audience.put_off |= PUT_OFF_NODES
        loop.linked.again = True


cdef inline void ask(Loop* loop, Audience* audience) noexcept nogil:
    """The next question of a room, to this node's loops and all nodes, or in the next tick, where it was often asked.

    The number goes up first: who reads the old one after that is already counted among the listeners.
    """
    cdef uint64_t number = audience.generation
    cdef uint16_t mark = <uint16_t>(1 + number % (MARK_LISTENS - 1))
    if audience.asked != loop.tick:
        audience.asked = loop.tick
        audience.asks = 0
    if audience.asks >= QUESTIONS_PER_TICK or not questions_fit(loop, <RoomEntry*>audience.entry):
        audience.put_off |= PUT_OFF_QUESTION
        loop.linked.again = True
        return
    audience.asks += 1
    audience.put_off &= PUT_OFF_SUB | PUT_OFF_NODES
    loop.n[C_PRESENCE_ASKED] += 1
    se_store_seqcst(&audience.generation, number + 1)
    room_question(loop, <RoomEntry*>audience.entry, mark, b"", 0)
    if nodes_reserve(loop.linked):
        ask_nodes(loop, audience, mark, &loop.linked.nodes[EVERY_NODE])


cdef inline void presence_ask(Loop* loop, const Msg* msg) noexcept nogil:
    """A KIND_ASK. One whose number was asked since is answered by that. From here on the next to ask posts another:
    who relied on this one is counted among the listeners already."""
    cdef RoomEntry* entry = table_find(&loop.hub.rooms, <char*>msg.data, msg.size, msg.hash)
    cdef Audience* audience = NULL if entry == NULL else <Audience*>se_pointer_acquire(&entry.audience)
    if audience == NULL:
        return
    se_store_seqcst(&audience.asking, 0)
    if se_load_seqcst(&audience.listening) == 0 or audience.generation != msg.target:
        return
    audience_settle(loop, entry)
    ask(loop, audience)


cdef inline void ask_again(Loop* loop, Audience* audience) noexcept nogil:
    """A question that was put off: who reads a number waits for just that. And, as far as NATS takes them, a SUB that
    waited and a question that NATS did not take. Whoever listens is told the answer: nodes tell of no joins before
    they have the SUB, and whose question was lost is not known."""
    if audience.put_off & (PUT_OFF_SUB | PUT_OFF_NODES) and link_is_calm(loop) and nodes_reserve(loop.linked):
        if audience.put_off & PUT_OFF_SUB:
            audience_sub(loop, audience)
        audience.put_off &= PUT_OFF_QUESTION
        ask_nodes(loop, audience, 0, &loop.linked.nodes[EVERY_NODE])
    if audience.put_off & PUT_OFF_QUESTION:
        ask(loop, audience)


cdef inline void asks_begin(Loop* loop) noexcept nogil:
    """In a new tick: what was put off is looked for, from the first room with listeners on."""
    cdef Link* link = loop.linked
    if not link.asking:
        link.again = False
        link.asking = True
        link.asks_at = 0


cdef inline void asks_walk(Loop* loop) noexcept nogil:
    """Each iteration while it is looked for. What is put off again, or behind it, waits for the next tick."""
    cdef Link* link = loop.linked
    cdef Audience* audience
    cdef uint32_t budget = AUDIENCES_PER_TURN
    while link.asks_at < link.audiences_used and budget:
        audience = link.audiences[link.asks_at]
        link.asks_at += 1
        budget -= 1
        if audience != NULL and audience.put_off:
            ask_again(loop, audience)
            link.again = link.again or audience.put_off
    link.asking = link.asks_at < link.audiences_used
