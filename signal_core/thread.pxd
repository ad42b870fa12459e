"""A loop's thread: what it opens, how it runs, what it leaves behind. L4."""

from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from signal_core.accept cimport loop_open_reserve
from signal_core.addresses cimport AddressBook, book_end
from signal_core.audience cimport audiences_end
from signal_core.conn cimport conn_kill
from signal_core.dial cimport link_end, link_want
from signal_core.inbox cimport inbox_take
from signal_core.limits cimport (
    CONTROL_LOOP, EVENTS, IOV_MAX_SEND, READ_BUFFER, RIGHTS_SHARED, SERVICE_LOOP, TICK_MS, TRIM_BYTES,
)
from signal_core.loop cimport loop_clock, loop_is_over, loop_iterate, loop_reap
from signal_core.leftover cimport leftover_free
from signal_core.link cimport link_flush
from signal_core.memory cimport Msg, memory_end
from signal_core.news cimport news_end
from signal_core.post cimport post_all, post_event
from signal_core.parking cimport lots_close
from signal_core.presence cimport presence_bye
from signal_core.questions cimport NOT_BEGUN
from signal_core.rights cimport rights_release
from signal_core.rooms cimport rooms_end, rooms_init
from signal_core.route cimport loop_tell_all
from signal_core.slab cimport (
    CONN_DEAD, CONN_FREE, FLAG_DIRTY, FLAG_READY, NO_SLOT, Conn, slab_conn, slab_end, slab_init,
)
from signal_core.state cimport CLUSTER_OFF, EVENT_LOG, Hub, Link, Loop, MARK_LISTENER, MARK_WAKE
from signal_core.sys cimport (
    AF_INET, AF_INET6, EPOLLET, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, IPPROTO_IPV6, IPPROTO_TCP, IPV6_V6ONLY,
    O_CLOEXEC, O_RDONLY, SE_COLD, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SO_RCVBUF, SO_REUSEADDR,
    SO_REUSEPORT, SO_SNDBUF, TCP_NODELAY, bind, close, epoll_create1, epoll_ctl, epoll_event, errno, iovec, listen,
    open, se_load_relaxed, se_own_descriptors, se_store_release, setsockopt, sockaddr, sockaddr_in, sockaddr_in6,
    socket,
)
from signal_core.tls cimport connect_free
from signal_core.wheel cimport wheel_init

cdef enum:
    LISTEN_BACKLOG = 4096
    LOOP_STARTING = 1
    LOOP_RUNNING = 2
    LOOP_ENDED = 3


cdef inline bint loop_init(Loop* loop, Hub* hub, uint32_t index) noexcept nogil:
    """On zeroed memory, by the thread that starts the engine. False without memory."""
    loop.hub = hub
    loop.index = index
    loop.epoll = loop.reserve = loop.schedstat = -1
    loop.question_left = NOT_BEGUN
    loop.dirty_head[0] = loop.dirty_head[1] = loop.dead = NO_SLOT
    loop.seen = UINT64_MAX
    loop.kept = TRIM_BYTES
    slab_init(&loop.slab)
    rooms_init(&loop.rooms)
    wheel_init(&loop.wheel, 0)
    if index >= hub.nloops:
        return True
    loop.phase = index * TICK_MS // hub.nloops
    if index == 0:
        loop.linked = <Link*>calloc(1, sizeof(Link))
        if loop.linked == NULL:
            return False
        loop.linked.fd = -1
    if hub.addresses != NULL:
        loop.book = <AddressBook*>calloc(1, sizeof(AddressBook))
        if loop.book == NULL:
            return False
    loop.input = <unsigned char*>malloc(READ_BUFFER)
    loop.events = <epoll_event*>malloc(EVENTS * sizeof(epoll_event))
    loop.iov = <iovec*>malloc(IOV_MAX_SEND * sizeof(iovec))
    return loop.input != NULL and loop.events != NULL and loop.iov != NULL


cdef inline int listen_v6only(const Hub* hub, uint32_t which) noexcept nogil:
    """Whether an IPv6 listener leaves IPv4 alone: `::` takes it, too, unless a listener for IPv4 has the same port."""
    cdef const sockaddr_in6* v6 = <const sockaddr_in6*>hub.listen[which].address
    cdef const sockaddr_in* v4
    cdef uint32_t i
    if memcmp(&v6.sin6_addr, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16) != 0:
        return 1
    for i in range(hub.nlisten):
        v4 = <const sockaddr_in*>hub.listen[i].address
        if v4.sin_family == AF_INET and v4.sin_port == v6.sin6_port:
            return 1
    return 0


cdef inline void listen_buffer(int fd, int option, uint32_t size) noexcept nogil:
    """Bounds the kernel's memory for the sockets that a listener accepts, which inherit it; the kernel doubles what it
    is asked for (socket(7))."""
    cdef int half = <int>(size // 2)
    if size:
        setsockopt(fd, SOL_SOCKET, option, &half, sizeof(half))


cdef inline int loop_listen(Loop* loop, uint32_t which) noexcept nogil:
    """Opens the loop's own listener on an address. 0, or an errno."""
    cdef const sockaddr* address = <const sockaddr*>loop.hub.listen[which].address
    cdef int fd = socket(address.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    cdef int one = 1, v6only = listen_v6only(loop.hub, which)
    cdef epoll_event event
    if fd < 0:
        return errno
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one))
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one))
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    listen_buffer(fd, SO_SNDBUF, loop.hub.set.send_buffer)
    listen_buffer(fd, SO_RCVBUF, loop.hub.set.receive_buffer)
    if address.sa_family == AF_INET6:
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only))
    event.events = EPOLLIN
    event.data.u64 = <uint64_t>(MARK_LISTENER + which) << 32
    if (bind(fd, address, loop.hub.listen[which].size) != 0 or listen(fd, LISTEN_BACKLOG) != 0
            or epoll_ctl(loop.epoll, EPOLL_CTL_ADD, fd, &event) != 0):
        close(fd)
        return errno
    loop.listeners[which] = fd
    loop.nlisteners += 1
    return 0


cdef inline int loop_isolate(Loop* loop) noexcept nogil:
    """Gives the loop's thread a descriptor table of its own with the engine's eventfds in it. 0, or why not."""
    cdef Hub* hub = loop.hub
    cdef int keep[256]
    cdef uint32_t i
    for i in range(hub.nloops):
        keep[i] = hub.loops[i].inbox.wake
    keep[hub.nloops] = hub.loops[CONTROL_LOOP].inbox.wake
    keep[hub.nloops + 1] = hub.loops[SERVICE_LOOP].inbox.wake
    return se_own_descriptors(keep, hub.nloops + 2)


cdef inline int loop_open(Loop* loop) noexcept nogil:
    """Everything that the loop's thread opens for itself. 0, or an errno."""
    cdef epoll_event event
    cdef uint32_t i
    cdef int failed
    cdef const char* text = b"one descriptor table serves all loops: this system does not let a thread have its own"
    loop.own_table = loop_isolate(loop) == 0
    if not loop.own_table and loop.index == 0:
        post_event(loop, CONTROL_LOOP, EVENT_LOG, 0, 0, text, 84)
    loop.epoll = epoll_create1(EPOLL_CLOEXEC)
    if loop.epoll < 0:
        return errno
    loop_open_reserve(loop)
    loop.schedstat = open(b"/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC)
    event.events = EPOLLIN | EPOLLET  # each write is an event, and nobody reads the counter
    event.data.u64 = <uint64_t>MARK_WAKE << 32
    if epoll_ctl(loop.epoll, EPOLL_CTL_ADD, loop.inbox.wake, &event) != 0:
        return errno
    for i in range(loop.hub.nlisten):
        failed = loop_listen(loop, i)
        if failed:
            return failed
    return 0


cdef inline SE_COLD loop_close(Loop* loop) noexcept nogil:
    """Closes every socket and frees what hung on them; the loop's memory stays until the engine's end."""
    cdef Conn* c
    cdef uint32_t i
    loop.ready.used = loop.delayed.used = loop.held_used = loop.waits = 0
    for i in range(loop.slab.used):
        c = slab_conn(&loop.slab, i)
        c.flags &= <unsigned short>~(FLAG_DIRTY | FLAG_READY)
        if c.state != CONN_FREE and c.state != CONN_DEAD:
            conn_kill(loop, c)
    loop.dirty_head[0] = loop.dirty_head[1] = NO_SLOT
    loop_reap(loop, UINT32_MAX)
    if loop.linked != NULL:
        presence_bye(loop)
        link_flush(loop)
        link_end(loop, b"")
    loop_tell_all(loop)
    post_all(loop)
    lots_close(loop)
    for i in range(loop.nlisteners):
        close(loop.listeners[i])
    if loop.reserve >= 0:
        close(loop.reserve)
    if loop.schedstat >= 0:
        close(loop.schedstat)
    if loop.epoll >= 0:
        close(loop.epoll)
    memcpy(loop.copy, loop.n, sizeof(loop.n))


cdef inline void* loop_main(void* argument) noexcept nogil:
    """Body of a loop's thread."""
    cdef Loop* loop = <Loop*>argument
    cdef int failed
    loop_clock(loop)
    wheel_init(&loop.wheel, loop.tick)
    failed = loop_open(loop)
    if failed:
        se_store_release(&loop.hub.failed, <uint64_t>failed)
    else:
        if loop.linked != NULL and se_load_relaxed(&loop.hub.link) != CLUSTER_OFF:
            link_want(loop, b"")
            post_all(loop)
        se_store_release(&loop.done, LOOP_RUNNING)
        while not loop_is_over(loop):
            loop_iterate(loop)
    loop_close(loop)
    se_store_release(&loop.seen, UINT64_MAX)
    se_store_release(&loop.copied, UINT64_MAX)
    se_store_release(&loop.done, LOOP_ENDED)
    return NULL


cdef inline void free_all(Loop* loop, Msg* msg) noexcept nogil:
    """Of an inbox, messages that nobody will handle."""
    cdef Msg* after
    while msg != NULL:
        after = msg.next
        connect_free(loop, msg)
        msg = after


cdef inline void loop_end(Loop* loop) noexcept nogil:
    """Frees the loop's memory, after every thread has ended."""
    cdef int i
    free_all(loop, loop.taken)
    free_all(loop, loop.questions)
    free_all(loop, loop.aside)
    free_all(loop, loop.verdicts)
    free_all(loop, inbox_take(&loop.inbox))
    if loop.linked != NULL:
        free_all(loop, loop.linked.unsettled)
        free(loop.linked.buffer)
        free(loop.linked.subs)
        free(loop.linked.subs_free)
        free(loop.linked.waiters)
        free(loop.linked.fresh)
        free(loop.linked.sent)
        audiences_end(loop.linked)
        free(loop.linked)
    if loop.book != NULL:
        book_end(loop.book)
    for i in range(RIGHTS_SHARED):
        rights_release(loop.rights[i])
    rooms_end(&loop.rooms)
    news_end(&loop.news)
    slab_end(&loop.slab)
    memory_end(&loop.mem)
    leftover_free(loop, UINT64_MAX)
    free(loop.ready.slots)
    free(loop.delayed.slots)
    free(loop.held)
    free(loop.input)
    free(loop.events)
    free(loop.iov)
