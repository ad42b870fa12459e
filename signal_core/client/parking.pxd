"""Parks connections that wait for the accept pace: accepts them, so that health checks are answered meanwhile.

A health check is recognized by its request, which can only be read from an accepted socket. So while accepting is
paced, up to PARKED connections per listener are taken from the accept backlog, and their first bytes are peeked at, but
left in the socket. A health check is answered at once. The others wait until the pace allows them, the oldest first. A
parked socket takes a descriptor and 8 bytes; it has no Conn, and is not in epoll. Each loop parks those it accepted.
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from signal_core.base.counters cimport C_HEALTH_LIMITED
from signal_core.base.limits cimport HEALTHS_PER_TICK, HEALTH_HEAD, PARKED, PARK_SPARE
from signal_core.base.span cimport span_of
from signal_core.base.sys cimport (
    MSG_DONTWAIT, MSG_PEEK, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, close, recv, se_descriptors,
)
from signal_core.client.proxied cimport proxied_parse
from signal_core.tables.state cimport Loop, Lot, Parked
from signal_core.wire.handshake cimport STATUS_HEALTH, Upgrade

cdef enum:
    # What the request on a socket asks for.
    ASKS_UNKNOWN = 0          # its head is incomplete
    ASKS_HEALTH = 1
    ASKS_OTHER = 2

    # What parking_accept returns besides a socket.
    LOT_PARKED = -1
    LOT_NONE = -2             # nothing is queued, or there is no room


cdef inline bint parking_health_allowed(Loop* loop) noexcept nogil:
    """Counts a client over a limit or the pace that is served for its health check. False: this tick has had
    HEALTHS_PER_TICK of them."""
    if loop.accept.healths_tick != loop.tick:
        loop.accept.healths_tick = loop.tick
        loop.accept.healths = 0
    if loop.accept.healths == HEALTHS_PER_TICK:
        loop.n[C_HEALTH_LIMITED] += 1
        return False
    loop.accept.healths += 1
    return True


cdef inline int parking_socket_asks(Loop* loop, int fd) noexcept nogil:
    """Peeks at a socket's input. Returns what it asks for: ASKS_*."""
    cdef Upgrade u
    cdef ssize_t n = recv(fd, loop.input, HEALTH_HEAD, MSG_PEEK | MSG_DONTWAIT)
    cdef int head
    if n <= 0:
        return ASKS_UNKNOWN
    head = proxied_parse(loop.set, fd, span_of(loop.input, <size_t>n), 0, &loop.set.site, &u)
    if head == -2 and n < HEALTH_HEAD:
        return ASKS_UNKNOWN
    return ASKS_HEALTH if head > 0 and u.status == STATUS_HEALTH else ASKS_OTHER


cdef inline int parking_pop(Lot* lot) noexcept nogil:
    """Removes and returns the socket that has waited longest; -1: there is none."""
    cdef int fd = -1
    while lot.used and fd < 0:
        fd = lot.ring[lot.first].fd  # -1: it was answered meanwhile
        lot.first = (lot.first + 1) % PARKED
        lot.used -= 1
    return fd


cdef inline bint _lot_has_room(Lot* lot) noexcept nogil:
    """Whether one more may be parked. The kernel gives the lowest free descriptor, so the newest one tells how many are
    in use; PARK_SPARE must stay free for others."""
    if lot.ring == NULL:
        lot.ring = <Parked*>malloc(PARKED * sizeof(Parked))
    if lot.ring == NULL or lot.used == PARKED:
        return False
    return lot.used == 0 or lot.ring[(lot.first + lot.used - 1) % PARKED].fd + PARK_SPARE < se_descriptors()


cdef inline void _lot_push(Lot* lot, int fd, int asks) noexcept nogil:
    """Parks a socket; the caller has checked _lot_has_room."""
    cdef Parked* parked = &lot.ring[(lot.first + lot.used) % PARKED]
    parked.fd = fd
    parked.asks = asks
    lot.used += 1


cdef inline int parking_next(Loop* loop, Lot* lot, uint32_t* budget) noexcept nogil:
    """Looks at parked sockets in turn, at most `budget` of them, for a health check that may be answered. Removes and
    returns that socket; -1: there is none."""
    cdef Parked* parked
    cdef int fd
    if budget[0] > lot.used:
        budget[0] = lot.used
    while budget[0]:
        budget[0] -= 1
        lot.cursor = (lot.cursor + 1) % lot.used
        parked = &lot.ring[(lot.first + lot.cursor) % PARKED]
        if parked.fd < 0:
            continue
        if parked.asks == ASKS_UNKNOWN:
            parked.asks = parking_socket_asks(loop, parked.fd)
        if parked.asks == ASKS_HEALTH and parking_health_allowed(loop):
            fd = parked.fd
            parked.fd = -1
            return fd
    return -1


cdef inline int parking_accept(Loop* loop, Lot* lot, int listener) noexcept nogil:
    """Accepts the next connection and parks it: LOT_PARKED, or LOT_NONE. A socket whose health check may be answered is
    returned instead."""
    cdef int fd, asks
    if not _lot_has_room(lot):
        return LOT_NONE
    fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        return LOT_NONE
    asks = parking_socket_asks(loop, fd)
    if asks == ASKS_HEALTH and parking_health_allowed(loop):
        return fd
    _lot_push(lot, fd, asks)
    return LOT_PARKED


cdef inline void parking_close(Lot* lot) noexcept nogil:
    """Closes the sockets that are still parked, and frees the lot's memory."""
    cdef int fd = parking_pop(lot)
    while fd >= 0:
        close(fd)
        fd = parking_pop(lot)
    free(lot.ring)
    memset(lot, 0, sizeof(Lot))
