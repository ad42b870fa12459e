"""Accepts connections, and refuses those for which there is no quota, memory or descriptor. Runs on each loop.

A client that can be given a reason is never just reset. Over a limit, without memory or descriptors, and during a
shutdown, it gets 503 or 429. Then our side is shut down, and its input is read before the socket is closed.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset
from signal_core.base.counters cimport (
    C_ACCEPTED_SOCKETS, C_ACCEPT_LEFT, C_ADDRESS_LIMITED, C_HANDSHAKES_REFUSED, C_LISTENERS_PAUSED, C_SHED,
)
from signal_core.base.kinds cimport LISTEN_OWN
from signal_core.base.limits cimport (
    ACCEPTS, ACCEPT_WAIT_MS, HEALTH_TICKS, PARK_LOOKS, READ_BUFFER, TAGS_KEPT, UPGRADE_ANSWER,
)
from signal_core.base.span cimport span_of
from signal_core.base.sys cimport (
    EAGAIN, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPOLLEXCLUSIVE, EPOLLIN, EPOLL_CTL_ADD, EPOLL_CTL_DEL,
    EPOLL_CTL_MOD, MSG_DONTWAIT, O_CLOEXEC, O_RDONLY, SE_COLD, SE_RARE, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, close,
    epoll_ctl, epoll_event, errno, getrandom, open, recv, se_add_relaxed, se_cas_relaxed, se_load_relaxed, se_peer_left,
)
from signal_core.client.accept_pacing cimport accept_pacing_allows, accept_pacing_look, accept_pacing_refund
from signal_core.client.input_buffer cimport input_buffer_free
from signal_core.client.parking cimport (
    ASKS_HEALTH, LOT_NONE, parking_accept, parking_health_allowed, parking_next, parking_pop, parking_socket_asks,
)
from signal_core.client.proxied cimport proxied_parse
from signal_core.client.remote_addr cimport remote_addr_count_peer
from signal_core.client.session cimport session_read
from signal_core.delivery.conn cimport conn_release_quota, conn_say_last, conn_socket_say_last, conn_watch
from signal_core.tables.conn_table cimport (
    CONN_DEAD, CONN_HANDSHAKE, FLAG_PAUSED, FLAG_QUOTA, Conn, slab_free, slab_take,
)
from signal_core.tables.latency cimport latency_handshake_begin, latency_handshake_end
from signal_core.tables.state cimport TAG_LISTENER, Listener, Loop, Lot, loop_ms
from signal_core.tables.timer_wheel cimport wheel_arm
from signal_core.wire.handshake cimport STATUS_HEALTH, STATUS_MOST, Upgrade
from signal_core.wire.response cimport response_refuse, response_upgrade

cdef enum:
    # Results of listener_accept and its parts: the state of the accept backlog.
    ACCEPT_MORE = 1           # there may be more
    ACCEPT_NONE = 0           # it is empty
    ACCEPT_CANNOT = -1        # there may be more, but no descriptor for it


cdef inline uint32_t _tag(Loop* loop) noexcept nogil:
    """Returns 32 random bits."""
    if loop.ntags == 0:
        while getrandom(loop.tags, sizeof(loop.tags), 0) != sizeof(loop.tags):
            pass
        loop.ntags = TAGS_KEPT
    loop.ntags -= 1
    return loop.tags[loop.ntags]


# -- refusing --

cdef inline void _shed(Loop* loop, int fd) noexcept nogil:
    """Answers a socket that can't be kept, with 503 or to its health check, and closes it. Reads its input before,
    because closing a socket with unread input resets the connection, and the answer is lost."""
    cdef char text[UPGRADE_ANSWER]
    cdef Upgrade u
    cdef ssize_t n = recv(fd, loop.input, READ_BUFFER, MSG_DONTWAIT)
    memset(&u, 0, sizeof(u))
    if n > 0:
        proxied_parse(loop.set, fd, span_of(loop.input, <size_t>n), 0, &loop.set.site, &u)
    if u.status != STATUS_HEALTH or loop.accept.shut:
        u.status = 503
        u.why = NULL
        loop.n[C_SHED] += 1
    conn_socket_say_last(loop, fd, span_of(text, response_upgrade(&u, text, UPGRADE_ANSWER)))
    recv(fd, loop.input, READ_BUFFER, MSG_DONTWAIT)
    close(fd)


cdef inline SE_COLD listener_turn_away(Loop* loop, Conn* c, int status) noexcept nogil:
    """Refuses a handshake with this status, UNHANDLED or UNDECIDED. The connection lingers until the client closes."""
    cdef char text[UPGRADE_ANSWER]
    if status % STATUS_MOST == 503:
        loop.n[C_SHED] += 1
    elif status == 429:
        loop.n[C_HANDSHAKES_REFUSED] += 1
    input_buffer_free(loop, c.pending)
    c.pending = NULL
    if status != 408:
        latency_handshake_end(loop, c)
    conn_say_last(loop, c, span_of(text, response_refuse(status, text, UPGRADE_ANSWER)))
    if c.flags & FLAG_PAUSED and c.state != CONN_DEAD:  # its input is read and discarded
        c.flags &= <uint16_t>~FLAG_PAUSED
        conn_watch(loop, c)


# -- out of descriptors --

cdef inline bint _is_shared(const Listener* listener) noexcept nogil:
    """Whether all loops accept from one and the same socket."""
    return listener.kind != LISTEN_OWN


cdef inline int listener_watch(Loop* loop, uint32_t which, int op) noexcept nogil:
    """Adds a listener to epoll (EPOLL_CTL_ADD), or switches its events off or on as `masked` says (EPOLL_CTL_MOD).
    Returns 0 or an errno. The kernel wakes one loop for a client of a shared listener; it refuses to modify such an
    entry (epoll_ctl(2), EPOLLEXCLUSIVE), so that is taken out and added."""
    cdef Listener* listener = &loop.accept.listeners[which]
    cdef epoll_event event
    event.events = 0 if loop.accept.masked else EPOLLIN
    event.data.u64 = <uint64_t>(TAG_LISTENER + which) << 32
    if _is_shared(listener):
        if op == EPOLL_CTL_MOD:
            epoll_ctl(loop.epoll, EPOLL_CTL_DEL, listener.fd, &event)
        if loop.accept.masked:
            return 0
        event.events = EPOLLIN | EPOLLEXCLUSIVE
        op = EPOLL_CTL_ADD
    return 0 if epoll_ctl(loop.epoll, op, listener.fd, &event) == 0 else errno


cdef inline void _mask(Loop* loop, bint mask) noexcept nogil:
    """Switches the listeners' epoll events off or on. They are off while clients must wait in the accept backlog,
    because level-triggered epoll would report them in every iteration."""
    cdef uint32_t i
    cdef bint failed = False
    if loop.accept.masked == mask:
        return
    loop.accept.masked = mask
    for i in range(loop.accept.nlisteners):
        if loop.accept.listeners[i].fd >= 0 and listener_watch(loop, i, EPOLL_CTL_MOD) != 0:
            failed = True
    if SE_RARE(failed):  # no memory to add a shared one: all are tried again in the next tick
        loop.accept.masked = loop.accept.looks_away = True


cdef inline void _look_away(Loop* loop) noexcept nogil:
    """Ignores the listeners until the next tick, because without a descriptor clients can't even be refused."""
    if not loop.accept.looks_away:
        loop.accept.looks_away = True
        loop.n[C_LISTENERS_PAUSED] += 1
        _mask(loop, True)


cdef inline void listener_look_again(Loop* loop) noexcept nogil:
    """Undoes _look_away, in the next tick. Opens the reserve first: without it the next client could not be refused."""
    listener_open_reserve(loop)
    loop.accept.looks_away = False
    _mask(loop, loop.accept.paced)


cdef inline bint listener_open_reserve(Loop* loop) noexcept nogil:
    """Opens the reserve descriptor if it is closed. False: no descriptor is available."""
    if loop.accept.reserve < 0:
        loop.accept.reserve = open(b"/dev/null", O_RDONLY | O_CLOEXEC)
    return loop.accept.reserve >= 0


cdef inline int _shed_with_reserve(Loop* loop, int listener) noexcept nogil:
    """Refuses one client with the reserve descriptor, because no other is free. Returns ACCEPT_*."""
    cdef int fd, failed
    if not listener_open_reserve(loop):
        return ACCEPT_CANNOT
    close(loop.accept.reserve)
    loop.accept.reserve = -1
    fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
    failed = errno
    if fd >= 0:
        _shed(loop, fd)
    listener_open_reserve(loop)
    if fd >= 0:
        return ACCEPT_MORE
    return ACCEPT_NONE if failed == EAGAIN else ACCEPT_CANNOT


# -- limits --

cdef inline bint _take_quota(Loop* loop) noexcept nogil:
    """Counts one more connection against max-connections, also without that limit, which a reload may set. False: the
    limit is reached."""
    cdef uint64_t most = loop.set.max_connections, taken
    if most == 0:
        se_add_relaxed(&loop.hub.quota_used, 1)
        return True
    taken = se_load_relaxed(&loop.hub.quota_used)
    while taken < most:
        if se_cas_relaxed(&loop.hub.quota_used, &taken, taken + 1):
            return True
    return False


cdef inline int _admit(Loop* loop, Conn* c) noexcept nogil:
    """Counts a new connection against its limits. Returns 0, or the HTTP status to refuse it with."""
    se_add_relaxed(&loop.hub.connections, 1)
    if not _take_quota(loop):
        return 503
    c.flags |= FLAG_QUOTA
    if loop.set.max_per_address and not remote_addr_count_peer(loop, c):
        loop.n[C_ADDRESS_LIMITED] += 1
        return 429
    return 0


# -- accepting --

cdef inline void _hesitate(Loop* loop, Conn* c, int status) noexcept nogil:
    """Refuses a new connection over a limit with this status, unless its head asks for a health check. If the head has
    not arrived, it may arrive within HEALTH_TICKS, for HEALTHS_PER_TICK connections per tick. Meanwhile the connection
    does not count against max-connections."""
    conn_release_quota(loop, c)
    c.phase.arriving.refusal = <uint8_t>(status - 400)
    wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + HEALTH_TICKS)
    session_read(loop, c)
    if c.state == CONN_HANDSHAKE and (loop.accept.shut or not parking_health_allowed(loop)):
        listener_turn_away(loop, c, status)


cdef inline void _adopt(Loop* loop, int fd) noexcept nogil:
    """Makes a connection of an accepted socket, and reads it at once, because the handshake has usually arrived."""
    cdef Conn* c
    cdef epoll_event event
    cdef int status
    c = slab_take(&loop.slab)
    if c == NULL:
        _shed(loop, fd)
        return
    c.fd = fd
    c.tag = _tag(loop)
    c.state = CONN_HANDSHAKE
    c.heard = loop.tick
    latency_handshake_begin(loop, c)
    event.events = EPOLLIN
    event.data.u64 = (<uint64_t>c.slot << 32) | c.tag
    if epoll_ctl(loop.epoll, EPOLL_CTL_ADD, fd, &event) != 0:
        slab_free(&loop.slab, c)
        _shed(loop, fd)
        return
    loop.n[C_ACCEPTED_SOCKETS] += 1
    status = _admit(loop, c)
    if status:
        _hesitate(loop, c, status)
        return
    wheel_arm(&loop.wheel, &loop.slab, c.slot,
              loop.stop.answer_by if loop.accept.shut else loop.tick + loop.set.handshake)
    session_read(loop, c)


cdef inline int _starved(Loop* loop, int listener) noexcept nogil:
    """Handles a listener with clients waiting and no descriptor for them. Returns ACCEPT_*.

    The first time it only waits ACCEPT_WAIT_MS: then the requests have arrived, and health checks can be answered.
    """
    cdef int found
    if not loop.accept.sheds and not loop.accept.shut:
        loop.accept.sheds = loop.accept.paced = True
        loop.accept.paced_ms = loop_ms(loop)
        _mask(loop, True)
        return ACCEPT_CANNOT
    found = _shed_with_reserve(loop, listener)
    if found == ACCEPT_CANNOT:
        _look_away(loop)
    return found


cdef inline int _take(Loop* loop, uint32_t which, uint64_t paid) noexcept nogil:
    """Accepts the connection that has waited longest at a listener; `paid` is from accept_pacing_allows. Returns
    ACCEPT_*."""
    cdef Listener* listener = &loop.accept.listeners[which]
    cdef int fd = parking_pop(&listener.lot), failed = 0
    if fd < 0:
        fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        failed = errno
    if fd >= 0 and paid and se_peer_left(fd):
        accept_pacing_refund(loop.hub, paid)
        if parking_socket_asks(loop, fd) == ASKS_HEALTH:  # a probe may shut down its side before it reads
            _adopt(loop, fd)
            return ACCEPT_MORE
        loop.n[C_ACCEPT_LEFT] += 1
        close(fd)
        return ACCEPT_MORE
    if fd >= 0:
        _adopt(loop, fd)
        return ACCEPT_MORE
    accept_pacing_refund(loop.hub, paid)
    if failed in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
        return _starved(loop, listener.fd)
    return ACCEPT_NONE if failed in (EAGAIN, EINVAL) else ACCEPT_MORE  # EINVAL: it was shut down, and is empty


cdef inline void _park(Loop* loop, uint32_t which) noexcept nogil:
    """While the pace allows no connection: answers health checks of a listener's parked clients, and parks up to
    ACCEPTS clients from the kernel's queue."""
    cdef uint32_t budget = PARK_LOOKS
    cdef int _i
    cdef Lot* lot = &loop.accept.listeners[which].lot
    cdef int fd = parking_next(loop, lot, &budget)
    while fd >= 0:
        _adopt(loop, fd)
        fd = parking_next(loop, lot, &budget)
    for _i in range(ACCEPTS):
        fd = parking_accept(loop, lot, loop.accept.listeners[which].fd)
        if fd >= 0:
            _adopt(loop, fd)
        elif fd == LOT_NONE:
            return


cdef inline void listener_adopt_parked(Loop* loop, uint32_t which) noexcept nogil:
    """Makes connections of all parked clients of a listener, whatever the pace: it is about to be closed."""
    cdef Lot* lot = &loop.accept.listeners[which].lot
    cdef int fd = parking_pop(lot)
    while fd >= 0:
        _adopt(loop, fd)
        fd = parking_pop(lot)


cdef inline int _accept(Loop* loop, uint32_t which, int most) noexcept nogil:
    """Accepts at most `most` waiting clients of a listener. Returns ACCEPT_*."""
    cdef uint64_t paid
    cdef int found, _i
    accept_pacing_look(loop)
    for _i in range(most):
        if not accept_pacing_allows(loop, &paid):
            _park(loop, which)
            _mask(loop, True)
            return ACCEPT_MORE
        found = _take(loop, which, paid)
        if found != ACCEPT_MORE:
            return found
    if loop.accept.listeners[which].lot.used:  # epoll does not report parked sockets
        loop.accept.paced = True
    return ACCEPT_MORE


cdef inline int listener_accept(Loop* loop, uint32_t which) noexcept nogil:
    """Accepts waiting clients of a listener, at most ACCEPTS. Returns ACCEPT_*.

    Of a shared one it accepts a single client, besides those that it has parked. Then it queues behind the other loops,
    because the kernel wakes the one that has been in its queue for longest, each time the same one otherwise.
    """
    cdef int found
    cdef uint32_t parked = loop.accept.listeners[which].lot.used
    if not _is_shared(&loop.accept.listeners[which]):
        return _accept(loop, which, ACCEPTS)
    found = _accept(loop, which, <int>parked if 0 < parked < ACCEPTS else ACCEPTS if parked else 1)
    if not loop.accept.masked and listener_watch(loop, which, EPOLL_CTL_MOD) != 0:
        _look_away(loop)
    return found


cdef inline void listener_accept_paced(Loop* loop) noexcept nogil:
    """While accepting is paced: accepts as many waiting clients as the pace allows. Another listener is the first each
    time.

    At most every ACCEPT_WAIT_MS, as often as a sleeping loop wakes for it: otherwise a busy loop would use up the pace.
    """
    cdef uint32_t i, which, ms = loop_ms(loop)
    cdef bint sheds = loop.accept.sheds
    if ms - loop.accept.paced_ms < ACCEPT_WAIT_MS and not loop.accept.shut:
        return
    loop.accept.paced = False
    loop.accept.paced_ms = ms
    loop.accept.paced_first += 1
    for i in range(loop.accept.nlisteners):
        which = (loop.accept.paced_first + i) % loop.accept.nlisteners
        if loop.accept.listeners[which].fd >= 0:
            listener_accept(loop, which)
    if sheds:  # not if descriptors ran out during this call: those clients still have their ACCEPT_WAIT_MS
        loop.accept.sheds = False
    _mask(loop, loop.accept.paced or loop.accept.looks_away)
