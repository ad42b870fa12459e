"""Connects the link to a NATS server, from an address to the login, and gives connections up. Loop 0 only."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from signal_core.base.counters cimport C_DROPPED_NATS, C_NATS_LOST
from signal_core.base.limits cimport NATS_DIAL_TICKS, TLS_REASON_SIZE
from signal_core.base.memory cimport Packet, packet_data, packet_free
from signal_core.base.span cimport Span, span_text
from signal_core.base.sys cimport (
    EINPROGRESS, EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_MOD, IPPROTO_TCP, SE_COLD, SOCK_CLOEXEC, SOCK_NONBLOCK,
    SOCK_STREAM, SOL_SOCKET, SO_ERROR, TCP_NODELAY, close, connect, epoll_ctl, epoll_event, errno, getsockopt,
    se_store_relaxed, se_store_release, setsockopt, sockaddr, socket, socklen_t,
)
from signal_core.base.text cimport text_put
from signal_core.delivery.nats_publish cimport nats_publish_write
from signal_core.delivery.outbox cimport outbox_event
from signal_core.delivery.write_queue cimport write_queue_clear
from signal_core.nats.subscriptions cimport subscriptions_lost, subscriptions_release_waiters
from signal_core.nats.tls cimport (
    SE_TLS_WANTS_READ, SE_TLS_WANTS_WRITE, se_tls_handshake, tls_begin, tls_end, tls_free_connect,
)
from signal_core.tables.codes cimport CLUSTER_AWAY, CODE_UNAVAILABLE, EVENT_DOWN, EVENT_WANT
from signal_core.tables.link_state cimport (
    LINK_ASKING, LINK_DIALING, LINK_GREETING, LINK_IDLE, LINK_LOGIN, LINK_SECURING, LINK_UP, Link,
)
from signal_core.tables.state cimport TAG_LINK, Loop


cdef inline const char* connect_too_few_subs() noexcept nogil:
    """Returns the reason to give up a server that refuses the node's own subscriptions."""
    return (b"it allows fewer than the 6 subscriptions that a node needs for itself: raise "
            b"max_subscriptions of the server, account or user")


cdef inline void connect_want(Loop* loop, const char* reason) noexcept nogil:
    """Asks Python for an address; `reason` is why the previous connection ended."""
    outbox_event(loop, EVENT_WANT, 0, span_text(reason))


cdef inline void connect_watch(Loop* loop, int operation) noexcept nogil:
    """Sets the socket's epoll events to what the link waits for. `operation`: EPOLL_CTL_*."""
    cdef Link* link = loop.linked
    cdef epoll_event event
    event.events = EPOLLIN
    if link.blocked or link.state == LINK_DIALING:
        event.events |= EPOLLOUT
    event.data.u64 = <uint64_t>TAG_LINK << 32
    epoll_ctl(loop.epoll, operation, link.fd, &event)


cdef inline void connect_enter(Loop* loop, uint32_t state, uint32_t patience) noexcept nogil:
    """Enters a state, which may last `patience` ticks (link_tick); 0: no limit."""
    loop.linked.state = state
    loop.linked.due = loop.tick + patience if patience else 0


cdef inline void _link_close(Loop* loop) noexcept nogil:
    """Closes the socket and the TLS session, if there are any."""
    cdef Link* link = loop.linked
    if link.tls.line != NULL:
        packet_free(&loop.mem, link.tls.line)
        link.tls.line = NULL
    if link.fd >= 0:
        tls_end(link)
        close(link.fd)
        link.fd = -1
        loop.n[C_NATS_LOST] += 1


cdef inline void _link_forget(Loop* loop) noexcept nogil:
    """Drops what is queued, and resets everything that belongs to one connection."""
    cdef Link* link = loop.linked
    write_queue_clear(loop, &link.out, C_DROPPED_NATS, CODE_UNAVAILABLE)
    link.blocked = link.dirty = link.asked = link.more = link.announced = False
    link.pinged = link.ponged = link.leaving = 0
    link.input.used = link.input.start = 0
    link.input.skip = link.owed = 0
    link.max_payload = 0
    if link.info.newest != NULL:
        packet_free(&loop.mem, link.info.newest)
        link.info.newest = NULL
    memset(link.receipts.id, 0, sizeof(link.receipts.id))


cdef inline SE_COLD connect_end(Loop* loop, const char* reason) noexcept nogil:
    """Gives the connection up: drops what is queued, confirms waiting SUBs as local, and asks Python for an address."""
    cdef bint was_up = loop.linked.announced
    if loop.linked.state == LINK_IDLE:
        return
    _link_close(loop)
    connect_enter(loop, LINK_IDLE, 0)
    se_store_release(&loop.hub.link, CLUSTER_AWAY)
    se_store_relaxed(&loop.hub.clogged, 0)
    _link_forget(loop)
    subscriptions_lost(loop)
    subscriptions_release_waiters(loop)
    if was_up:
        outbox_event(loop, EVENT_DOWN, 0, span_text(reason))
    connect_want(loop, reason)


cdef inline void connect_ping(Loop* loop) noexcept nogil:
    """Queues a PING, and counts it, so that PONGs can be matched. Without memory the next iteration tries again."""
    if nats_publish_write(loop, span_text(b"PING\r\n")):
        loop.linked.pinged += 1
    else:
        loop.linked.subs.syncing = True


cdef inline void connect_dial(Loop* loop, Span address) noexcept nogil:
    """Begins to connect to the sockaddr that Python has chosen (KIND_DIAL). No effect unless the link is idle."""
    cdef Link* link = loop.linked
    cdef const sockaddr* server = <const sockaddr*>address.at
    cdef int one = 1
    if link.state != LINK_IDLE:
        return
    link.fd = socket(server.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if link.fd < 0:
        connect_want(loop, b"there is no descriptor left for the connection to NATS")
        return
    setsockopt(link.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    connect_enter(loop, LINK_DIALING, NATS_DIAL_TICKS)
    if connect(link.fd, server, <socklen_t>address.size) != 0 and errno != EINPROGRESS:
        connect_end(loop, b"the NATS server refuses the connection")
        return
    connect_watch(loop, EPOLL_CTL_ADD)


cdef inline void connect_dialed(Loop* loop) noexcept nogil:
    """Handles the end of connect(): waits for INFO, or gives up."""
    cdef int error = 0
    cdef socklen_t n = sizeof(error)
    getsockopt(loop.linked.fd, SOL_SOCKET, SO_ERROR, &error, &n)
    if error:
        connect_end(loop, b"the NATS server refuses the connection")
        return
    loop.linked.heard = loop.tick
    connect_enter(loop, LINK_GREETING, NATS_DIAL_TICKS)
    connect_watch(loop, EPOLL_CTL_MOD)


cdef inline void connect_leave(Loop* loop) noexcept nogil:
    """Leaves a server that is about to shut down: the connection ends when a PONG confirms what is queued. Nothing more
    is published meanwhile."""
    cdef Link* link = loop.linked
    if link.state != LINK_UP or link.leaving:
        return
    se_store_release(&loop.hub.link, CLUSTER_AWAY)
    link.leaving = link.pinged + 1
    link.subs.syncing = True
    link.due = loop.tick + NATS_DIAL_TICKS


cdef inline void connect_hello(Loop* loop, Packet* packet) noexcept nogil:
    """Sends the CONNECT line that Python has made from INFO (KIND_CONNECT); takes over the packet. If it has a TLS
    session, the TLS handshake comes first."""
    cdef Link* link = loop.linked
    cdef void* session = packet.pointer
    if link.state != LINK_ASKING:
        tls_free_connect(loop, packet)
        return
    if link.max_payload == 0:  # server_info.pxd could not read it from INFO
        link.max_payload = packet.hash
    se_store_relaxed(&loop.hub.max_payload, link.max_payload)
    link.tls.line = packet
    if session == NULL:
        _login(loop)
        return
    packet.pointer = NULL
    connect_enter(loop, LINK_SECURING, NATS_DIAL_TICKS)
    if not tls_begin(link, session):
        connect_end(loop, b"no memory for TLS")
    elif link.input.used or link.out.head != NULL:  # cleartext behind INFO, though TLS begins
        connect_end(loop, b"the NATS server violated the protocol")
    else:
        connect_secure(loop)


cdef inline void _login(Loop* loop) noexcept nogil:
    """Sends CONNECT and PING."""
    cdef Link* link = loop.linked
    connect_enter(loop, LINK_LOGIN, NATS_DIAL_TICKS)
    if not nats_publish_write(loop, packet_data(link.tls.line)):
        connect_end(loop, b"no memory to log in")
        return
    packet_free(&loop.mem, link.tls.line)
    link.tls.line = NULL
    connect_ping(loop)


cdef inline void connect_secure(Loop* loop) noexcept nogil:
    """Continues the TLS handshake."""
    cdef Link* link = loop.linked
    cdef char why[TLS_REASON_SIZE]
    cdef int step = se_tls_handshake(link.tls.session, why, sizeof(why))
    if step == SE_TLS_WANTS_READ or step == SE_TLS_WANTS_WRITE:
        link.blocked = step == SE_TLS_WANTS_WRITE
        connect_watch(loop, EPOLL_CTL_MOD)
    elif step > 0:
        link.blocked = False
        connect_watch(loop, EPOLL_CTL_MOD)
        _login(loop)
    else:
        text_put(text_put(link.reason, b"TLS with the NATS server failed: "), why)[0] = 0
        connect_end(loop, link.reason)
