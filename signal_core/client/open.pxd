"""Ends a handshake: joins its rooms and sends 101 and HELLO, or refuses it. Runs on the connection's loop."""

from libc.stdint cimport UINT32_MAX, uint32_t, uint8_t
from signal_core.base.counters cimport (
    C_ADDRESS_LIMITED, C_AUTH_DENIED, C_CONNECTIONS, C_HANDSHAKES_REFUSED, C_OPENED, C_ORIGINS_REFUSED, C_SHED,
    C_USER_LIMITED,
)
from signal_core.base.limits cimport UPGRADE_ANSWER, UPGRADE_MAX_ROOMS
from signal_core.base.memory cimport Packet, packet_new
from signal_core.base.span cimport Span, span_between, span_none, span_of
from signal_core.base.sys cimport se_count_below
from signal_core.base.text cimport text_put, text_put_span
from signal_core.client.hooks cimport hooks_tell
from signal_core.client.origin cimport origin_allowed
from signal_core.client.remote_addr cimport remote_addr_count_forwarded
from signal_core.delivery.conn cimport conn_answer, conn_extra, conn_id, conn_say_last, conn_watch
from signal_core.delivery.joining cimport joining_open
from signal_core.route.await_nats cimport AWAIT_FAILED, AWAIT_IT, await_nats
from signal_core.route.membership cimport membership_join, membership_leave_one
from signal_core.tables.codes cimport CODE_OK, CODE_TOO_MANY_ROOMS, CODE_UNAVAILABLE, EVENT_CONNECTED
from signal_core.tables.conn_acl cimport conn_acl_may_sub
from signal_core.tables.conn_table cimport (
    CONN_DEAD, CONN_JOINING, FLAG_DEFLATE, FLAG_PAUSED, FLAG_USER, FLAG_WEBSOCKET, Conn, Extra,
)
from signal_core.tables.latency cimport latency_handshake_end
from signal_core.tables.room_table cimport RoomEntry
from signal_core.tables.state cimport Loop
from signal_core.wire.deflate_offer cimport DEFLATE_MOST
from signal_core.wire.handshake cimport STATUS_HEALTH, STATUS_MOST, STATUS_OPTIONS, Upgrade
from signal_core.wire.ids cimport ROOM_MAX, ids_room_valid
from signal_core.wire.request cimport request_query_next_room
from signal_core.wire.response cimport response_accept_key, response_upgrade


cdef inline void open_answer_http(Loop* loop, Conn* c, const Upgrade* u) noexcept nogil:
    """Sends the answer to a health check or OPTIONS, or a refusal; the connection then lingers until it is closed."""
    cdef char text[UPGRADE_ANSWER]
    if u.status % STATUS_MOST == 503:
        loop.n[C_SHED] += 1
    elif u.status != STATUS_HEALTH and u.status != STATUS_OPTIONS:
        loop.n[C_HANDSHAKES_REFUSED] += 1
    if u.status != STATUS_HEALTH and u.status != STATUS_OPTIONS:
        latency_handshake_end(loop, c)
    conn_say_last(loop, c, span_of(text, response_upgrade(u, text, UPGRADE_ANSWER)))


cdef inline int open_origin(Loop* loop, const Conn* c, const Upgrade* u) noexcept nogil:
    """Checks a handshake's Origin, and the client's address behind a proxy. Returns 0, or the HTTP status to refuse it
    with."""
    if not origin_allowed(loop.set, u):
        loop.n[C_ORIGINS_REFUSED] += 1
        return 403
    if loop.set.max_per_address and not remote_addr_count_forwarded(loop, c, u):
        loop.n[C_ADDRESS_LIMITED] += 1
        return 429
    return 0


cdef inline int open_user(Loop* loop, Conn* c, Span user) noexcept nogil:
    """Joins a connection that is in no room yet to the room of its user; an empty name: it has none.
    Returns 0, or the HTTP status to refuse it with."""
    cdef char text[ROOM_MAX]
    cdef Span name
    cdef RoomEntry* entry
    cdef int waits
    if user.size == 0:
        return 0
    if user.size >= ROOM_MAX:
        return 401
    name = span_between(text, text_put_span(text_put(text, b"@"), user))
    if not ids_room_valid(name) or not ids_room_valid(user):
        return 401
    if membership_join(loop, c, name, &entry) != CODE_OK:
        return 503
    if not se_count_below(&entry.users, loop.set.max_per_user if loop.set.max_per_user else UINT32_MAX):
        membership_leave_one(loop, c, 0)
        loop.n[C_USER_LIMITED] += 1
        return 429
    c.flags |= FLAG_USER
    waits = await_nats(loop, conn_id(loop, c), entry, span_none(), False)
    if waits == AWAIT_IT:
        c.phase.joining.waiting += 1
    return 503 if waits == AWAIT_FAILED else 0


cdef inline int _room_denied(Loop* loop, Upgrade* u) noexcept nogil:
    """Counts a room that the token does not allow. Returns the HTTP status."""
    loop.n[C_AUTH_DENIED] += 1
    u.why = b"the token does not allow it."
    return 403


cdef inline int _rooms(Loop* loop, Conn* c, Upgrade* u) noexcept nogil:
    """Joins the rooms of the URL; c.phase.joining.waiting counts those that NATS has yet to confirm. Returns 0, or the
    HTTP status to refuse it with; then `u` has the room and the reason."""
    cdef char text[ROOM_MAX + 1]
    cdef Span query = u.query, name
    cdef RoomEntry* entry
    cdef uint8_t code
    cdef int waits, n, count = 0
    while True:
        n = request_query_next_room(&query, text, sizeof(text), &u.room)
        if n == 0:
            u.room = span_none()
            return 0
        count += 1
        name = span_of(text, <size_t>n)
        if n < 0 or not ids_room_valid(name) or text[0] == c"$" or text[0] == c"@":
            u.why = (b"a name is 1 to 128 visible ASCII characters without * and >, does not begin with $ or @, and "
                     b"has no empty token between dots.")
            return 400
        if not conn_acl_may_sub(loop, c, name):
            return _room_denied(loop, u)
        code = membership_join(loop, c, name, &entry) if count <= UPGRADE_MAX_ROOMS else CODE_TOO_MANY_ROOMS
        if code != CODE_OK:
            u.why = (b"there is no memory for it." if code == CODE_UNAVAILABLE else
                     b"a URL may name 64 rooms, and a connection may be in max-rooms.")
            return 503 if code == CODE_UNAVAILABLE else 400
        waits = await_nats(loop, conn_id(loop, c), entry, span_none(), False)
        if waits == AWAIT_FAILED:
            return 503
        if waits == AWAIT_IT:
            c.phase.joining.waiting += 1


cdef inline void _open_deflate(Loop* loop, Conn* c, Upgrade* u) noexcept nogil:
    """Accepts the offer of permessage-deflate, or declines it without memory for the client's window."""
    cdef Extra* extra
    if u.deflate < DEFLATE_MOST:
        extra = conn_extra(loop, c)
        if extra == NULL:
            u.deflate = 0
            return
        extra.window = u.deflate
    c.flags |= FLAG_DEFLATE


cdef inline void _open(Loop* loop, Conn* c, Upgrade* u, Packet* packet) noexcept nogil:
    """Switches to WebSocket: queues 101, in `packet`, and HELLO once the rooms are confirmed."""
    if u.deflate:
        _open_deflate(loop, c, u)
    packet.size = <uint32_t>response_accept_key(u, <char*>packet.data)
    latency_handshake_end(loop, c)
    c.flags |= FLAG_WEBSOCKET
    loop.n[C_CONNECTIONS] += 1
    loop.n[C_OPENED] += 1
    conn_answer(loop, c, packet)
    if c.state == CONN_DEAD:
        return
    if loop.set.hooks:
        hooks_tell(loop, c, EVENT_CONNECTED, 0)
    c.state = CONN_JOINING
    if c.phase.joining.waiting == 0:
        joining_open(loop, c)
        return
    c.flags |= FLAG_PAUSED
    conn_watch(loop, c)


cdef inline bint open_finish(Loop* loop, Conn* c, Upgrade* u) noexcept nogil:
    """Opens a connection, or refuses it with u.status. Everything but the rooms of the URL has been checked. Returns
    whether it was upgraded."""
    cdef Packet* packet = NULL
    if u.status == 0:
        u.status = _rooms(loop, c, u)
    if u.status == 0:
        packet = packet_new(&loop.mem, UPGRADE_ANSWER, 0)
    if packet == NULL:
        u.status = u.status if u.status else 503
        open_answer_http(loop, c, u)
        return False
    _open(loop, c, u, packet)
    return True
