"""From an address to a login: how the link reaches a NATS server, and how it gives one up. L4. Loop 0 only."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen
from signal_core.counters cimport C_DROPPED_NATS, C_NATS_LOST
from signal_core.limits cimport CONTROL_LOOP
from signal_core.memory cimport KIND_NATS, Msg, msg_free, msg_new_heap
from signal_core.post cimport post_event
from signal_core.queue cimport queue_add, queue_clear
from signal_core.state cimport (
    CLUSTER_AWAY, CODE_UNAVAILABLE, EVENT_DOWN, EVENT_WANT, LINK_ASKING, LINK_DIALING, LINK_GREETING, LINK_IDLE,
    LINK_LOGIN, LINK_SECURING, LINK_UP, MARK_LINK, Link, Loop,
)
from signal_core.subs cimport subs_lost, waiters_release
from signal_core.sys cimport (
    EINPROGRESS, EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_MOD, IPPROTO_TCP, SE_COLD, SOCK_CLOEXEC, SOCK_NONBLOCK,
    SOCK_STREAM, SOL_SOCKET, SO_ERROR, TCP_NODELAY, close, connect, epoll_ctl, epoll_event, errno, getsockopt,
    se_store_relaxed, se_store_release, setsockopt, sockaddr, socket, socklen_t,
)
from signal_core.tls cimport (
    SE_TLS_WANTS_READ, SE_TLS_WANTS_WRITE, connect_free, se_tls_handshake, tls_begin, tls_end,
)

cdef enum:
    DIAL_TICKS = 50               # patience with connect(), INFO, TLS and login: 5 s each
    ASKING_TICKS = 100            # with Python


cdef inline const char* too_few_subs() noexcept nogil:
    return (b"it allows this node fewer subscriptions than a node needs for itself, which is 6: raise "
            b"max_subscriptions of the server, account or user")


cdef inline size_t put_bytes(char* out, size_t at, const char* text, size_t n) noexcept nogil:
    memcpy(out + at, text, n)
    return at + n


cdef inline size_t put_text(char* out, size_t at, const char* text) noexcept nogil:
    return put_bytes(out, at, text, strlen(text))


cdef inline void link_want(Loop* loop, const char* reason) noexcept nogil:
    post_event(loop, CONTROL_LOOP, EVENT_WANT, 0, 0, reason, strlen(reason))


cdef inline void link_watch(Loop* loop, int operation) noexcept nogil:
    cdef Link* link = loop.linked
    cdef epoll_event event
    event.events = EPOLLIN
    if link.blocked or link.state == LINK_DIALING:
        event.events |= EPOLLOUT
    event.data.u64 = <uint64_t>MARK_LINK << 32
    epoll_ctl(loop.epoll, operation, link.fd, &event)


cdef inline void link_enter(Loop* loop, uint32_t state, uint32_t patience) noexcept nogil:
    loop.linked.state = state
    loop.linked.due = loop.tick + patience if patience else 0


cdef inline SE_COLD link_end(Loop* loop, const char* reason) noexcept nogil:
    """Gives the connection up: what was not written is dropped, SUBs that waited are local now, Python is asked."""
    cdef Link* link = loop.linked
    cdef bint was_up = link.announced
    if link.state == LINK_IDLE:
        return
    if link.line != NULL:
        msg_free(&loop.mem, link.line)
        link.line = NULL
    if link.fd >= 0:
        tls_end(link)
        close(link.fd)
        link.fd = -1
        loop.n[C_NATS_LOST] += 1
    link_enter(loop, LINK_IDLE, 0)
    se_store_release(&loop.hub.link, CLUSTER_AWAY)
    se_store_relaxed(&loop.hub.clogged, 0)
    queue_clear(loop, &link.out, C_DROPPED_NATS, CODE_UNAVAILABLE)
    link.blocked = link.dirty = link.asked = link.more = link.announced = False
    link.pinged = link.ponged = link.leaving = 0
    link.buffer_used = link.buffer_start = 0
    link.skip = link.owed = 0
    link.max_payload = 0
    if link.info != NULL:
        msg_free(&loop.mem, link.info)
        link.info = NULL
    memset(link.asked_id, 0, sizeof(link.asked_id))
    subs_lost(loop)
    waiters_release(loop)
    if was_up:
        post_event(loop, CONTROL_LOOP, EVENT_DOWN, 0, 0, reason, strlen(reason))
    link_want(loop, reason)


cdef inline bint link_write(Loop* loop, const void* bytes, size_t n) noexcept nogil:
    """Queues bytes of the protocol itself. False without memory."""
    cdef Msg* msg = msg_new_heap(&loop.mem, n, KIND_NATS)
    if msg == NULL:
        return False
    memcpy(msg.data, bytes, n)
    msg.size = <uint32_t>n
    queue_add(loop, &loop.linked.out, msg)
    loop.linked.dirty = True
    return True


cdef inline void link_ping(Loop* loop) noexcept nogil:
    """One that there is no memory for follows in a later iteration: each is counted, and its PONG, too."""
    if link_write(loop, b"PING\r\n", 6):
        loop.linked.pinged += 1
    else:
        loop.linked.syncing = True


cdef inline void link_dial(Loop* loop, const void* address, size_t n) noexcept nogil:
    """Begins to connect to a sockaddr that Python has chosen."""
    cdef Link* link = loop.linked
    cdef int one = 1
    if link.state != LINK_IDLE:
        return
    link.fd = socket((<const sockaddr*>address).sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if link.fd < 0:
        link_want(loop, b"no descriptor is left for the connection to NATS")
        return
    setsockopt(link.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    link_enter(loop, LINK_DIALING, DIAL_TICKS)
    if connect(link.fd, <const sockaddr*>address, <socklen_t>n) != 0 and errno != EINPROGRESS:
        link_end(loop, b"the NATS server refuses the connection")
        return
    link_watch(loop, EPOLL_CTL_ADD)


cdef inline void link_dialed(Loop* loop) noexcept nogil:
    cdef int error = 0
    cdef socklen_t n = sizeof(error)
    getsockopt(loop.linked.fd, SOL_SOCKET, SO_ERROR, &error, &n)
    if error:
        link_end(loop, b"the NATS server refuses the connection")
        return
    loop.linked.heard = loop.tick
    link_enter(loop, LINK_GREETING, DIAL_TICKS)
    link_watch(loop, EPOLL_CTL_MOD)


cdef inline void link_leave(Loop* loop) noexcept nogil:
    """The server is about to end: what is queued goes out, and is taken, before the connection is given up. Nothing is
    published meanwhile."""
    cdef Link* link = loop.linked
    if link.state != LINK_UP or link.leaving:
        return
    se_store_release(&loop.hub.link, CLUSTER_AWAY)
    link.leaving = link.pinged + 1
    link.syncing = True
    link.due = loop.tick + DIAL_TICKS


cdef inline void link_connect(Loop* loop, Msg* msg) noexcept nogil:
    """A KIND_CONNECT, which it takes over: sends the CONNECT line that Python has made from INFO, through TLS where a
    session came with it."""
    cdef Link* link = loop.linked
    cdef void* session = msg.pointer
    if link.state != LINK_ASKING:
        connect_free(loop, msg)
        return
    if link.max_payload == 0:  # as INFO says it, unless that is spelt oddly
        link.max_payload = msg.hash
    se_store_relaxed(&loop.hub.max_payload, link.max_payload)
    link.line = msg
    if session == NULL:
        link_login(loop)
        return
    msg.pointer = NULL
    link_enter(loop, LINK_SECURING, DIAL_TICKS)
    if not tls_begin(link, session):
        link_end(loop, b"no memory for TLS")
    elif link.buffer_used or link.out.head != NULL:  # nothing is said in clear once TLS is wanted
        link_end(loop, b"the NATS server broke the protocol")
    else:
        link_secure(loop)


cdef inline void link_login(Loop* loop) noexcept nogil:
    cdef Link* link = loop.linked
    link_enter(loop, LINK_LOGIN, DIAL_TICKS)
    if not link_write(loop, link.line.data, link.line.size):
        link_end(loop, b"no memory to log in")
        return
    msg_free(&loop.mem, link.line)
    link.line = NULL
    link_ping(loop)


cdef inline void link_secure(Loop* loop) noexcept nogil:
    """A step of the TLS handshake."""
    cdef Link* link = loop.linked
    cdef char why[100]
    cdef size_t n
    cdef int step = se_tls_handshake(link.tls, why, sizeof(why))
    if step == SE_TLS_WANTS_READ or step == SE_TLS_WANTS_WRITE:
        link.blocked = step == SE_TLS_WANTS_WRITE
        link_watch(loop, EPOLL_CTL_MOD)
    elif step > 0:
        link.blocked = False
        link_watch(loop, EPOLL_CTL_MOD)
        link_login(loop)
    else:
        n = put_text(link.reason, 0, b"TLS with the NATS server failed: ")
        n = put_text(link.reason, n, why)
        link.reason[n] = 0
        link_end(loop, link.reason)
