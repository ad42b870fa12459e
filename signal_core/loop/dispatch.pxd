"""Handles each packet of a loop's mailbox, by its kind. Runs on the loop's thread, which owns the packet."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from signal_core.base.counters cimport C_KICKED, C_WATCHERS
from signal_core.base.kinds cimport (
    DIAL_INFO_TAKEN, DIAL_LEAVE, KIND_ASK, KIND_AWAIT, KIND_CONNECT, KIND_DIAL, KIND_INQUIRY, KIND_KICK, KIND_LISTEN,
    KIND_LOCAL_PEER, KIND_NATS, KIND_NEWS, KIND_QUESTION, KIND_RECEIPT, KIND_RELOAD, KIND_ROOM, KIND_SNAPSHOT,
    KIND_STOP, KIND_SYNC, KIND_TO, KIND_VERDICT,
)
from signal_core.base.limits cimport KICKS_KEPT
from signal_core.base.memory cimport Packet, packet_data, packet_free, packet_text
from signal_core.base.span cimport Span
from signal_core.base.sys cimport SE_RARE, se_store_relaxed, se_store_release
from signal_core.client.auth cimport auth_verdict
from signal_core.client.listening cimport listening_task
from signal_core.delivery.backpressure cimport backpressure_hold_verdict, backpressure_joins_wait
from signal_core.delivery.conn cimport conn_of
from signal_core.delivery.conn_close cimport conn_close
from signal_core.delivery.nats_publish cimport nats_publish_take
from signal_core.delivery.outbox cimport outbox_is_payload
from signal_core.delivery.refs cimport refs_find
from signal_core.loop.admin_query cimport admin_query_answer
from signal_core.loop.shutdown cimport shutdown_begin_drain, shutdown_begin_stop
from signal_core.nats.connect cimport connect_dial, connect_end, connect_hello, connect_leave
from signal_core.nats.server_info cimport server_info_taken
from signal_core.nats.subscriptions cimport subscriptions_await, subscriptions_settle
from signal_core.presence.cluster cimport cluster_local_peer_came
from signal_core.presence.events cimport events_take
from signal_core.presence.remote_query cimport remote_query_ask
from signal_core.presence.roster cimport roster_take
from signal_core.route.membership cimport membership_leave, membership_room_unwatch
from signal_core.route.receipts cimport receipts_take
from signal_core.route.route cimport route_take_peer, route_take_room
from signal_core.tables.codes cimport CODE_DENIED
from signal_core.tables.conn_table cimport (
    CONN_DEAD, CONN_JOINING, REF_WAS_MEMBER, REF_WATCHES, Conn, Ref, slab_find_id,
)
from signal_core.tables.loop_rooms cimport NO_ROOM, WATCH_NONE, Member, room_member, rooms_find
from signal_core.tables.mailbox cimport mailbox_taken
from signal_core.tables.room_table cimport room_table_hash
from signal_core.tables.settings cimport Settings
from signal_core.tables.state cimport Loop


cdef inline void _unwatch(Loop* loop, Conn* c, Span name) noexcept nogil:
    """Ends a member's watching of presence in a room. No effect if it does not watch."""
    cdef uint32_t room = rooms_find(&loop.rooms, room_table_hash(&loop.hub.rooms, name), name)
    cdef Member* member = NULL if room == NO_ROOM else room_member(&loop.rooms, &loop.slab, c, room)
    if member != NULL and member.watch != WATCH_NONE:
        member.watch = WATCH_NONE
        loop.n[C_WATCHERS] -= 1
        membership_room_unwatch(loop, loop.rooms.rooms[room].entry)


cdef inline void _sub_undo(Loop* loop, Conn* c, Packet* packet) noexcept nogil:
    """Undoes a SUB that was refused: the connection leaves the room, or only stops watching it if it was a member
    before and the room itself is not refused. No connection leaves its user's room."""
    cdef Ref* ref = refs_find(loop, c, packet_text(packet)) if packet.text_size else NULL
    if packet.data[0] == c"@":
        return
    if packet.hash and ref != NULL and ref.sub & REF_WAS_MEMBER:
        if ref.sub & REF_WATCHES:
            _unwatch(loop, c, packet_data(packet))
    else:
        membership_leave(loop, c, packet_data(packet))
    if c.state != CONN_JOINING:
        return
    if packet.code == CODE_DENIED:  # sent after HELLO; at most UPGRADE_MAX_ROOMS in all
        c.phase.joining.denied += 1
    else:
        c.phase.joining.over += 1


cdef inline void _receipt(Loop* loop, Packet* packet) noexcept nogil:
    """Handles a KIND_RECEIPT. Its data is the room of a SUB that was refused, or empty."""
    cdef Conn* c
    if packet.size:
        c = slab_find_id(&loop.slab, packet.target)
        if c != NULL and c.state != CONN_DEAD:
            _sub_undo(loop, c, packet)
    receipts_take(loop, packet.target, packet.code, packet_text(packet))


cdef inline void _kick(Loop* loop, const Packet* packet) noexcept nogil:
    """Handles a KIND_KICK: closes a client, and reports to the waiting thread (Loop.kicked) whether it was here."""
    cdef Conn* c = conn_of(loop, packet.target)
    if c != NULL:
        loop.n[C_KICKED] += 1
        conn_close(loop, c, <unsigned short>packet.hash)
    se_store_release(&loop.kicked[packet.origin & (KICKS_KEPT - 1)], 2 * packet.origin + (c != NULL))


cdef inline void dispatch_verdict(Loop* loop, Packet* packet) noexcept nogil:
    """Applies a KIND_VERDICT that was held, and frees it."""
    auth_verdict(loop, packet)
    packet_free(&loop.mem, packet)


cdef inline void _dial(Loop* loop, const Packet* packet) noexcept nogil:
    """Handles a KIND_DIAL: dials the address in its data, or does what DIAL_* says."""
    if packet.size:
        connect_dial(loop, packet_data(packet))
    elif packet.hash == DIAL_INFO_TAKEN:
        server_info_taken(loop)
    elif packet.hash == DIAL_LEAVE:
        connect_leave(loop)
    else:
        connect_end(loop, b"the NATS server can't be used")


cdef inline void _reload(Loop* loop, const Settings* set) noexcept nogil:
    """Handles a KIND_RELOAD. From then on, the loop does not read its old settings."""
    loop.set = set
    if set.yield_longest == 0:  # the last loop to do so leaves no pace behind
        se_store_relaxed(&loop.hub.yield_interval, 0)
    se_store_release(&loop.reloaded, set.number)


cdef inline void _task(Loop* loop, Packet* packet) noexcept nogil:
    """Handles a task whose packet the caller frees afterwards."""
    if packet.kind == KIND_RECEIPT:
        _receipt(loop, packet)
    elif packet.kind == KIND_AWAIT:
        subscriptions_await(loop, packet)
    elif packet.kind == KIND_ASK:
        remote_query_ask(loop, packet)
    elif packet.kind == KIND_LOCAL_PEER:
        cluster_local_peer_came(loop, packet)
    elif packet.kind == KIND_STOP:
        if packet.hash:
            shutdown_begin_drain(loop, <uint32_t>packet.hash)
        else:
            shutdown_begin_stop(loop)
    elif packet.kind == KIND_VERDICT:
        auth_verdict(loop, packet)
    elif packet.kind == KIND_KICK:
        _kick(loop, packet)
    elif packet.kind == KIND_INQUIRY:
        admin_query_answer(loop, packet)
    elif packet.kind == KIND_SNAPSHOT:
        memcpy(loop.copy, loop.n, sizeof(loop.n))
        memcpy(loop.histograms, loop.latency.histograms, sizeof(loop.histograms))
        se_store_release(&loop.copied, packet.hash)
    elif packet.kind == KIND_RELOAD:
        _reload(loop, <const Settings*>packet.pointer)
    elif packet.kind == KIND_DIAL:
        _dial(loop, packet)
    elif packet.kind == KIND_LISTEN:
        listening_task(loop, packet)


cdef inline void dispatch_packet(Loop* loop, Packet* packet) noexcept nogil:
    """Handles one packet of the mailbox, and frees it or hands it on."""
    if packet.kind == KIND_TO:
        route_take_peer(loop, packet)
        return
    if packet.kind == KIND_ROOM:
        route_take_room(loop, packet)
        return
    if packet.kind == KIND_NEWS:
        events_take(loop, packet)
        return
    if packet.kind == KIND_NATS:
        if outbox_is_payload(packet):
            mailbox_taken(&loop.mailbox, packet)
        nats_publish_take(loop, packet)
        return
    loop.pressure.tasks += 1
    if packet.kind == KIND_QUESTION:
        roster_take(loop, packet)
        return
    if packet.kind == KIND_SYNC:
        subscriptions_settle(loop, packet)
        return
    if packet.kind == KIND_CONNECT:
        connect_hello(loop, packet)
        return
    if SE_RARE(packet.kind == KIND_VERDICT and backpressure_joins_wait(loop)):
        backpressure_hold_verdict(loop, packet)
        return
    _task(loop, packet)
    packet_free(&loop.mem, packet)
