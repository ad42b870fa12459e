"""Routing: sends a message to a peer or to a room's members, on this loop, another loop or another node.

Every function runs on the thread of its loop, or for a pseudo-loop under the GIL. Functions return a CODE_*. CODE_OK
means that the message is in a write queue, a mailbox or on its way to NATS, and that a receipt follows if wanted.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.counters cimport C_ATTEMPTED, C_DROPPED_INBOX, C_IN_FLIGHT, C_TAKEN
from signal_core.base.kinds cimport KIND_FRAME, KIND_ROOM, KIND_TO, TELL_PEER
from signal_core.base.limits cimport LOCAL_PEER_LOOP, UNIT_SHIFT
from signal_core.base.memory cimport Packet, QueueNode, packet_copy, packet_let_go, packet_share, queue_node_new
from signal_core.base.span cimport Span, span_from, span_none, span_of, span_same
from signal_core.base.sys cimport SE_COLD, SE_PREFETCH, SE_RARE, se_load16_seqcst, se_load_relaxed
from signal_core.delivery.conn cimport conn_deliver, conn_id, conn_is_late, conn_of, conn_queued
from signal_core.delivery.deflate cimport deflate_copy, deflate_for, deflate_is_due, deflate_window
from signal_core.delivery.drop_notice cimport drop_notice_note
from signal_core.delivery.envelope cimport Message, message_frame
from signal_core.delivery.nats_publish cimport nats_publish, nats_publish_refuses
from signal_core.delivery.outbox cimport outbox_has_room, outbox_loop_of, outbox_post
from signal_core.delivery.refs cimport refs_sent
from signal_core.delivery.write_queue cimport write_queue_append
from signal_core.tables.codes cimport (
    CLUSTER_OFF, CODE_NO_SUCH_PEER, CODE_OK, CODE_SLOW_PEER, CODE_UNAVAILABLE,
)
from signal_core.tables.conn_table cimport CONN_OPEN, FLAG_BLOCKED, FLAG_DEFLATE, NO_SLOT, Conn, slab_conn
from signal_core.tables.latency cimport latency_stamp
from signal_core.tables.loop_rooms cimport NO_ROOM, Member, rooms_find, rooms_find_serial, rooms_members_of
from signal_core.tables.mailbox cimport mailbox_taken
from signal_core.tables.room_table cimport WORD_LOOPS, RoomEntry, room_entry_loops, room_table_find, room_table_hash
from signal_core.tables.state cimport LANE_DIRECT, LANE_SPREAD, Hub, Loop, hub_node
from signal_core.wire.deflate_offer cimport DEFLATE_MOST
from signal_core.wire.ids cimport ids_loop, ids_parse_local, ids_slot, ids_tag
from signal_core.wire.nats_proto cimport NATS_TO_PEER, NATS_TO_ROOM, NatsTarget, nats_target

cdef enum:
    AHEAD = 8                 # members by which a fan-out prefetches connections


cdef inline bint _is_own_node(const Hub* hub, Span node) noexcept nogil:
    return span_same(node, hub_node(hub))


cdef inline uint8_t route_id(Loop* loop, uint64_t id, const Message* p) noexcept nogil:
    """Sends to one connection of this node, or to its local peer."""
    cdef Loop* target = outbox_loop_of(loop.hub, id)
    cdef Conn* c
    cdef Packet* packet
    if target == loop and loop.index != LOCAL_PEER_LOOP:
        c = conn_of(loop, id)
        if c == NULL:
            return CODE_NO_SUCH_PEER
        packet = message_frame(loop, p, span_none(), c.flags & FLAG_BLOCKED, KIND_FRAME)
        if packet == NULL:
            return CODE_UNAVAILABLE
        conn_deliver(loop, c, deflate_for(loop, c, packet), LANE_DIRECT)
        return CODE_OK
    if target == NULL:
        return CODE_NO_SUCH_PEER
    if not outbox_has_room(loop, target, p.payload.size):
        if target.index < loop.hub.nloops:
            drop_notice_note(loop, target, id, 0, 1)
        return CODE_SLOW_PEER
    packet = message_frame(loop, p, span_none(), True, KIND_TO)
    if packet == NULL:
        return CODE_UNAVAILABLE
    packet.target = id
    latency_stamp(loop, packet)
    outbox_post(loop, target.index, packet)
    return CODE_OK


cdef inline uint8_t route_peer(Loop* loop, Span peer, uint32_t node_len, const Message* p) noexcept nogil:
    """Sends to `<node>.<local>` on any node. An answer (p.re) to another node goes to the subject of its ref."""
    cdef NatsTarget target
    cdef uint64_t id
    cdef uint8_t code
    if _is_own_node(loop.hub, span_of(peer.at, node_len)):
        if ids_parse_local(span_from(peer, node_len + 1), &id) < 0:
            return CODE_NO_SUCH_PEER
        return route_id(loop, id, p)
    if p.remote or se_load_relaxed(&loop.hub.link) == CLUSTER_OFF:
        return CODE_NO_SUCH_PEER
    target = nats_target(peer, p.re, NATS_TO_PEER)
    code = nats_publish_refuses(loop, p, &target)
    if code == CODE_OK:
        code = nats_publish(loop, p, &target)
    if code == CODE_OK and p.tell == TELL_PEER:
        refs_sent(loop, p.origin)
    return code


cdef inline void _fan_out(Loop* loop, uint32_t index, Packet* packet) noexcept nogil:
    """Queues a shared packet for the room's members on this loop, except its sender. The caller holds a reference.

    The usual case is inlined, and counted once at the end. A blocked member, a late message or want of memory goes
    through conn_deliver.
    """
    cdef const Member* members = rooms_members_of(&loop.rooms, index)
    cdef uint32_t i, slot, queued = 0, n = loop.rooms.rooms[index].count
    cdef uint32_t origin = ids_slot(packet.origin) if ids_loop(packet.origin) == loop.index else NO_SLOT
    cdef uint32_t size = packet.size
    cdef bint late = conn_is_late(loop, packet)
    cdef QueueNode* node
    cdef Conn* c
    packet.refs += n
    for i in range(n):
        if i + AHEAD < n:
            SE_PREFETCH(slab_conn(&loop.slab, members[i + AHEAD].slot))
        slot = members[i].slot
        c = slab_conn(&loop.slab, slot)
        if SE_RARE(c.state != CONN_OPEN or (slot == origin and c.tag == ids_tag(packet.origin))):
            continue
        node = NULL
        if not SE_RARE(c.flags & FLAG_BLOCKED or late):
            node = queue_node_new(&loop.mem)
        if SE_RARE(node == NULL):
            conn_deliver(loop, c, packet, LANE_SPREAD)
            continue
        node.packet = packet
        write_queue_append(&c.out, node, size)
        queued += 1
        conn_queued(loop, c, size, LANE_SPREAD)
    packet.refs -= n - queued
    loop.n[C_ATTEMPTED] += queued
    loop.n[C_IN_FLIGHT] += queued
    loop.turn.work += n >> UNIT_SHIFT
    loop.turn.caused += queued


cdef inline Packet* _deflated_for(Loop* loop, Conn* c, Packet* plain, Packet* deflated) noexcept nogil:
    """Returns which of a room's two packets a member gets. One with a small window gets long messages plain."""
    if deflated != NULL and c.flags & FLAG_DEFLATE and plain.size <= <size_t>1 << deflate_window(loop, c):
        return deflated
    return plain


cdef inline SE_COLD _fan_out_deflated(Loop* loop, uint32_t index, Packet* packet) noexcept nogil:
    """As _fan_out, with a second packet for the members that negotiated compression, made for the first of them."""
    cdef const Member* members = rooms_members_of(&loop.rooms, index)
    cdef uint32_t i, n = loop.rooms.rooms[index].count
    cdef Packet* deflated = NULL
    cdef bint tried = False
    cdef Conn* c
    for i in range(n):
        c = slab_conn(&loop.slab, members[i].slot)
        if c.state != CONN_OPEN or conn_id(loop, c) == packet.origin:
            continue
        if c.flags & FLAG_DEFLATE and not tried:
            tried = True
            deflated = deflate_copy(loop, packet, DEFLATE_MOST, True)
            if deflated != NULL:
                packet_share(&loop.mem, deflated)
        conn_deliver(loop, c, _deflated_for(loop, c, packet, deflated), LANE_SPREAD)
        loop.turn.caused += 1
    if deflated != NULL:
        packet_let_go(&loop.mem, deflated)
    loop.turn.work += n >> UNIT_SHIFT


cdef inline void route_fan_out_held(Loop* loop, uint32_t index, Packet* packet) noexcept nogil:
    """Shares the packet among the members of room `index` on this loop, which may be NO_ROOM. Takes ownership."""
    packet_share(&loop.mem, packet)
    if index != NO_ROOM and SE_RARE(deflate_is_due(loop, packet)):
        _fan_out_deflated(loop, index, packet)
    elif index != NO_ROOM:
        _fan_out(loop, index, packet)
    packet_let_go(&loop.mem, packet)


cdef inline uint8_t _post_room_to(Loop* loop, RoomEntry* entry, const Packet* packet, uint32_t index) noexcept nogil:
    """Posts a copy to loop `index`. If that has no room, its members get a GAP, and the code is CODE_SLOW_PEER."""
    cdef Loop* target = loop.hub.loops[index]
    cdef Packet* copy = NULL
    if outbox_has_room(loop, target, packet.size):
        copy = packet_copy(&loop.mem, packet)
    if copy == NULL:
        loop.n[C_ATTEMPTED] += 1
        loop.n[C_DROPPED_INBOX] += 1
        if index < loop.hub.nloops:
            drop_notice_note(loop, target, entry.serial, entry.hash, 1)
        return CODE_SLOW_PEER
    copy.kind = KIND_ROOM
    copy.target = entry.serial
    copy.hash = entry.hash
    latency_stamp(loop, copy)
    outbox_post(loop, index, copy)
    return CODE_OK


cdef inline uint8_t _post_room(Loop* loop, RoomEntry* entry, const Packet* packet) noexcept nogil:
    """Posts copies to the other loops that have members. CODE_SLOW_PEER if one of them has no room."""
    cdef uint64_t bits
    cdef uint32_t index, bit, word
    cdef uint8_t code = CODE_OK
    for word in range(<uint32_t>loop.hub.rooms.words):
        bits = se_load16_seqcst(&room_entry_loops(entry)[word])
        bit = word * WORD_LOOPS
        while bits:
            index = bit if bit < loop.hub.nloops else LOCAL_PEER_LOOP
            if bits & 1 and index != loop.index and _post_room_to(loop, entry, packet, index) != CODE_OK:
                code = CODE_SLOW_PEER
            bits >>= 1
            bit += 1
    return code


cdef inline uint8_t route_room(Loop* loop, Span name, const Message* p, bint as_from) noexcept nogil:
    """Sends to every member except the sender, on every node. `as_from`: as FROM, to the connections of a user."""
    cdef NatsTarget target = nats_target(name, span_none(), NATS_TO_ROOM)
    cdef uint64_t hash = room_table_hash(&loop.hub.rooms, name)
    cdef uint32_t room = rooms_find(&loop.rooms, hash, name)
    cdef RoomEntry* entry
    cdef Packet* packet
    cdef bint abroad = not p.remote and se_load_relaxed(&loop.hub.link) != CLUSTER_OFF
    cdef uint8_t far = nats_publish_refuses(loop, p, &target) if abroad else CODE_OK
    cdef uint8_t code = CODE_OK
    if far != CODE_OK and far != CODE_UNAVAILABLE:
        return far
    if room != NO_ROOM:
        entry = loop.rooms.rooms[room].entry
    else:
        entry = room_table_find(&loop.hub.rooms, name, hash)
    if entry != NULL:
        packet = message_frame(loop, p, span_none() if as_from else name, True, KIND_FRAME)
        if packet == NULL:
            return CODE_UNAVAILABLE
        code = _post_room(loop, entry, packet)
        route_fan_out_held(loop, room, packet)
    if abroad and far == CODE_OK:
        far = nats_publish(loop, p, &target)
    return far if far != CODE_OK else code


cdef inline void route_take_peer(Loop* loop, Packet* packet) noexcept nogil:
    """Delivers a KIND_TO from the mailbox, and takes ownership."""
    cdef Conn* c
    mailbox_taken(&loop.mailbox, packet)
    loop.n[C_TAKEN] += 1
    packet.kind = KIND_FRAME
    c = conn_of(loop, packet.target)
    conn_deliver(loop, c, deflate_for(loop, c, packet), LANE_DIRECT)


cdef inline void route_take_room(Loop* loop, Packet* packet) noexcept nogil:
    """Delivers a KIND_ROOM from the mailbox, and takes ownership."""
    cdef uint32_t room = rooms_find_serial(&loop.rooms, packet.hash, packet.target)
    mailbox_taken(&loop.mailbox, packet)
    loop.n[C_TAKEN] += 1
    packet.kind = KIND_FRAME
    route_fan_out_held(loop, room, packet)
