"""Opens and closes a loop's listeners, at any time (KIND_LISTEN). Runs on the loop's thread.

A listener has the same number on every loop, which is its place in epoll's data and in Accepting.listeners. Each loop
binds its own socket to a TCP address (SO_REUSEPORT). Other sockets exist once, and all loops accept from them: a unix
socket, and one that the process has inherited. Loops may have descriptor tables of their own, so Python sends each of
them the descriptor (Hub.passing).

Closing a TCP listener resets the connections that are queued on it. So the kernel drops new SYNs first; clients send
them again after a second, when the port is closed or belongs to another engine. What is queued or in progress is still
accepted. A unix socket is shut down, which refuses new clients and keeps those that are queued. An inherited socket is
only put down: what is queued on it is for the next program that gets it.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.kinds cimport LISTEN_CLOSE, LISTEN_INHERITED, LISTEN_OWN, LISTEN_SHARED
from signal_core.base.limits cimport DRAIN_TICKS, LISTEN_BACKLOG, MAX_LISTENERS
from signal_core.base.memory cimport Packet
from signal_core.base.sys cimport (
    AF_INET6, EBUSY, EPOLL_CTL_ADD, EPOLL_CTL_DEL, ESHUTDOWN, IPPROTO_IPV6, IPPROTO_TCP, IPV6_V6ONLY, SHUT_RD,
    SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SO_RCVBUF, SO_REUSEADDR, SO_REUSEPORT, SO_SNDBUF, TCP_NODELAY,
    bind, close, epoll_ctl, epoll_event, errno, listen, se_passed, se_refuse_syns, se_store_release, setsockopt,
    shutdown, sockaddr, socket,
)
from signal_core.client.listener cimport ACCEPT_NONE, listener_accept, listener_adopt_parked, listener_watch
from signal_core.client.parking cimport parking_close
from signal_core.tables.state cimport Listener, Loop


cdef inline void listening_init(Loop* loop) noexcept nogil:
    """Marks every listener of a new loop as closed."""
    cdef int i
    for i in range(MAX_LISTENERS):
        loop.accept.listeners[i].fd = -1


# -- opening --

cdef inline void _set(int fd, int level, int option, int value) noexcept nogil:
    setsockopt(fd, level, option, &value, sizeof(value))


cdef inline void _options(const Loop* loop, int fd) noexcept nogil:
    """Sets what accepted TCP sockets inherit from their listener. The kernel doubles the sizes of buffers
    (socket(7)); 0 means no limit."""
    _set(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    if loop.set.send_buffer:
        _set(fd, SOL_SOCKET, SO_SNDBUF, <int>(loop.set.send_buffer // 2))
    if loop.set.receive_buffer:
        _set(fd, SOL_SOCKET, SO_RCVBUF, <int>(loop.set.receive_buffer // 2))


cdef inline int _bound(const Loop* loop, const Packet* packet) noexcept nogil:
    """Opens a socket that listens on the address in a packet. Returns it, or a negative errno."""
    cdef const sockaddr* address = <const sockaddr*>packet.data
    cdef int fd = socket(address.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), failed
    if fd < 0:
        return -errno
    _set(fd, SOL_SOCKET, SO_REUSEADDR, 1)
    _set(fd, SOL_SOCKET, SO_REUSEPORT, 1)
    _options(loop, fd)
    if address.sa_family == AF_INET6:
        _set(fd, IPPROTO_IPV6, IPV6_V6ONLY, <int>packet.hash)
    if bind(fd, address, packet.size) != 0 or listen(fd, LISTEN_BACKLOG) != 0:
        failed = errno
        close(fd)
        return -failed
    return fd


cdef inline int _passed(const Loop* loop) noexcept nogil:
    """Receives a socket that listens already. Returns it, or a negative errno."""
    cdef int fd = se_passed(loop.hub.passing[0])
    if fd < 0:
        return -errno
    _options(loop, fd)
    return fd


cdef inline int _open(Loop* loop, const Packet* packet) noexcept nogil:
    """Opens the listener that a KIND_LISTEN describes. Returns 0 or an errno."""
    cdef uint32_t which = <uint32_t>packet.target
    cdef Listener* listener = &loop.accept.listeners[which]
    cdef int failed, fd = _bound(loop, packet) if packet.code == LISTEN_OWN else _passed(loop)
    if fd < 0:
        return -fd
    failed = ESHUTDOWN if loop.accept.shut else EBUSY if listener.fd >= 0 else 0
    if failed == 0:
        listener.fd = fd
        listener.kind = packet.code
        listener.closing = False
        failed = listener_watch(loop, which, EPOLL_CTL_ADD)
        if failed:
            listener.fd = -1
    if failed:
        close(fd)
        return failed
    if which >= loop.accept.nlisteners:
        loop.accept.nlisteners = which + 1
    return 0


# -- closing --

cdef inline void _close(Loop* loop, uint32_t which) noexcept nogil:
    """Closes a listener. Its entry in epoll is removed by name: other loops keep a shared socket open."""
    cdef Listener* listener = &loop.accept.listeners[which]
    cdef epoll_event unused
    epoll_ctl(loop.epoll, EPOLL_CTL_DEL, listener.fd, &unused)
    close(listener.fd)
    listener.fd = -1
    listener_adopt_parked(loop, which)
    parking_close(&listener.lot)
    if listener.closing:
        loop.accept.nclosing -= 1
    listener.closing = False
    while loop.accept.nlisteners and loop.accept.listeners[loop.accept.nlisteners - 1].fd < 0:
        loop.accept.nlisteners -= 1
    _tell(loop)


cdef inline void listening_refuse(Loop* loop, uint32_t which) noexcept nogil:
    """Begins to close a listener: no client can connect to it any more. No effect the second time."""
    cdef Listener* listener = &loop.accept.listeners[which]
    cdef uint32_t half = loop.set.close // 2
    if listener.fd < 0 or listener.closing:
        return
    if listener.kind == LISTEN_INHERITED:
        _close(loop, which)
        return
    listener.closing = True
    loop.accept.nclosing += 1
    listener.drain_by = loop.tick
    if listener.kind == LISTEN_SHARED:
        shutdown(listener.fd, SHUT_RD)
    elif se_refuse_syns(listener.fd) == 0:
        listener.drain_by += DRAIN_TICKS if DRAIN_TICKS < half else half


cdef inline void listening_step(Loop* loop) noexcept nogil:
    """Closes the listeners that are to be closed, once no connection is queued on them or can still arrive."""
    cdef uint32_t i
    cdef Listener* listener
    for i in range(loop.accept.nlisteners):
        listener = &loop.accept.listeners[i]
        if listener.fd < 0 or not listener.closing or loop.tick < listener.drain_by:
            continue
        if listener_accept(loop, i) == ACCEPT_NONE:
            _close(loop, i)


cdef inline void listening_end(Loop* loop) noexcept nogil:
    """Closes all listeners and what is parked, at the end of the loop's thread."""
    cdef uint32_t i
    for i in range(loop.accept.nlisteners):
        if loop.accept.listeners[i].fd >= 0:
            close(loop.accept.listeners[i].fd)
        parking_close(&loop.accept.listeners[i].lot)


# -- requests --

cdef inline void _tell(Loop* loop) noexcept nogil:
    """Tells other threads which listeners are open."""
    cdef uint64_t bits = 0
    cdef uint32_t i
    for i in range(loop.accept.nlisteners):
        bits |= <uint64_t>(loop.accept.listeners[i].fd >= 0) << i
    se_store_release(&loop.listens, bits)


cdef inline void listening_task(Loop* loop, const Packet* packet) noexcept nogil:
    """Handles a KIND_LISTEN, and tells the waiting thread its errno (Loop.listened)."""
    cdef int failed = 0
    if packet.code == LISTEN_CLOSE:
        listening_refuse(loop, <uint32_t>packet.target)
        listening_step(loop)
    else:
        failed = _open(loop, packet)
    _tell(loop)
    se_store_release(&loop.listened, packet.origin << 16 | <uint64_t>failed)
