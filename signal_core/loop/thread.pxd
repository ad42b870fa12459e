"""A loop's thread: its main function, the descriptors that it opens, the memory that it allocates and frees."""

from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from signal_core.base.limits cimport (
    CONTROL_LOOP, EVENTS, IOV_MAX_SEND, LOCAL_PEER_LOOP, LOOP_INDEXES, READ_BUFFER, RIGHTS_SHARED,
    TICK_MS, TRIM_BYTES,
)
from signal_core.base.memory cimport Packet, memory_end
from signal_core.base.span cimport span_text
from signal_core.base.sys cimport (
    EPOLLET, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, O_CLOEXEC, O_RDONLY, SE_COLD, close, epoll_create1, epoll_ctl,
    epoll_event, errno, iovec, open, se_load_relaxed, se_own_descriptors, se_store_release,
)
from signal_core.client.listener cimport listener_open_reserve
from signal_core.client.listening cimport listening_end, listening_init
from signal_core.delivery.conn cimport conn_bury, conn_kill
from signal_core.delivery.outbox cimport outbox_event, outbox_post_all
from signal_core.loop.loop cimport loop_clock, loop_iterate, loop_reap
from signal_core.loop.memory_return cimport memory_return_free
from signal_core.loop.shutdown cimport shutdown_is_over
from signal_core.nats.connect cimport connect_end, connect_want
from signal_core.nats.link cimport link_flush
from signal_core.nats.tls cimport tls_free_connect
from signal_core.presence.cluster cimport cluster_bye
from signal_core.presence.events cimport events_end
from signal_core.presence.roster cimport NOT_BEGUN
from signal_core.presence.watches cimport watches_end
from signal_core.route.receipts cimport receipts_tell_all
from signal_core.tables.acl cimport rights_release
from signal_core.tables.codes cimport CLUSTER_OFF, EVENT_LOG
from signal_core.tables.conn_table cimport (
    CONN_DEAD, CONN_FREE, FLAG_DELAYED, FLAG_DIRTY, FLAG_READY, NO_SLOT, Conn, slab_conn, slab_end, slab_init,
    slab_pages_new,
)
from signal_core.tables.ip_table cimport AddressBook, address_book_end
from signal_core.tables.link_state cimport Link
from signal_core.tables.loop_rooms cimport rooms_end, rooms_init
from signal_core.tables.mailbox cimport mailbox_take
from signal_core.tables.settings cimport Settings
from signal_core.tables.state cimport LANE_DIRECT, LANE_SPREAD, TAG_WAKE, Hub, Loop
from signal_core.tables.timer_wheel cimport wheel_init
from signal_core.tables.turns cimport turns_lane_take
from signal_core.tables.zlib_state cimport zlib_state_end

cdef enum:
    LOOP_STARTING = 1
    LOOP_RUNNING = 2
    LOOP_ENDED = 3


cdef inline bint _allocate(Loop* loop) noexcept nogil:
    """Allocates what a loop needs and a pseudo-loop does not. False: no memory; thread_end frees."""
    if loop.index == 0:
        loop.linked = <Link*>calloc(1, sizeof(Link))
        if loop.linked == NULL:
            return False
        loop.linked.fd = -1
    loop.book = <AddressBook*>slab_pages_new(sizeof(AddressBook))
    if loop.book == NULL:
        return False
    loop.input = <unsigned char*>malloc(READ_BUFFER)
    loop.events = <epoll_event*>malloc(EVENTS * sizeof(epoll_event))
    loop.iov = <iovec*>malloc(IOV_MAX_SEND * sizeof(iovec))
    return loop.input != NULL and loop.events != NULL and loop.iov != NULL


cdef inline bint thread_init(Loop* loop, Hub* hub, const Settings* set, uint32_t index) noexcept nogil:
    """Initializes a zeroed loop. Runs on the thread that creates the engine. False: no memory; thread_end frees."""
    loop.hub = hub
    loop.set = set
    loop.reloaded = set.number
    loop.index = index
    loop.epoll = loop.accept.reserve = loop.cpu.schedstat = -1
    listening_init(loop)
    loop.roster.left = NOT_BEGUN
    turns_lane_take(loop, LANE_DIRECT)
    turns_lane_take(loop, LANE_SPREAD)
    loop.dead = NO_SLOT
    loop.seen = UINT64_MAX
    loop.trim.kept = TRIM_BYTES
    slab_init(&loop.slab)
    rooms_init(&loop.rooms)
    wheel_init(&loop.wheel, 0)
    if index >= hub.nloops:
        return True
    loop.phase = index * TICK_MS // hub.nloops
    return _allocate(loop)


cdef inline int _isolate(Loop* loop) noexcept nogil:
    """Gives the loop's thread a private descriptor table, with only the engine's eventfds and the socket
    over which listeners come. Returns 0 or an errno."""
    cdef Hub* hub = loop.hub
    cdef int keep[LOOP_INDEXES]
    cdef uint32_t i
    for i in range(hub.nloops):
        keep[i] = hub.loops[i].mailbox.wake
    keep[hub.nloops] = hub.loops[CONTROL_LOOP].mailbox.wake
    keep[hub.nloops + 1] = hub.loops[LOCAL_PEER_LOOP].mailbox.wake
    keep[hub.nloops + 2] = hub.passing[0]
    return se_own_descriptors(keep, hub.nloops + 3)


cdef inline int _open(Loop* loop) noexcept nogil:
    """Opens the loop's descriptors, on its own thread. Returns 0 or an errno."""
    cdef epoll_event event
    cdef const char* text = b"all loops share one descriptor table: this system does not allow one for each thread"
    loop.accept.own_table = _isolate(loop) == 0
    if not loop.accept.own_table and loop.index == 0:
        outbox_event(loop, EVENT_LOG, 0, span_text(text))
    loop.epoll = epoll_create1(EPOLL_CLOEXEC)
    if loop.epoll < 0:
        return errno
    listener_open_reserve(loop)
    loop.cpu.schedstat = open(b"/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC)
    event.events = EPOLLIN | EPOLLET  # edge-triggered: each write is an event, and the counter is never read
    event.data.u64 = <uint64_t>TAG_WAKE << 32
    if epoll_ctl(loop.epoll, EPOLL_CTL_ADD, loop.mailbox.wake, &event) != 0:
        return errno
    return 0


cdef inline SE_COLD _close(Loop* loop) noexcept nogil:
    """The last step of the loop's thread: kills what is left, closes every descriptor, and copies the counters and
    histograms. The loop's memory is freed by thread_end."""
    cdef Conn* c
    cdef uint32_t i
    loop.turn.ready.used = loop.turn.delayed.used = loop.pressure.held_used = loop.pressure.waits = 0
    for i in range(loop.slab.used):
        c = slab_conn(&loop.slab, i)
        if c.state == CONN_DEAD and c.flags & FLAG_DELAYED:
            conn_bury(loop, c)
        c.flags &= <unsigned short>~(FLAG_DIRTY | FLAG_READY | FLAG_DELAYED)
        if c.state != CONN_FREE and c.state != CONN_DEAD:
            conn_kill(loop, c)
    turns_lane_take(loop, LANE_DIRECT)
    turns_lane_take(loop, LANE_SPREAD)
    loop_reap(loop, UINT32_MAX)
    if loop.linked != NULL:
        cluster_bye(loop)
        link_flush(loop)
        connect_end(loop, b"")
    receipts_tell_all(loop)
    outbox_post_all(loop)
    listening_end(loop)
    if loop.accept.reserve >= 0:
        close(loop.accept.reserve)
    if loop.cpu.schedstat >= 0:
        close(loop.cpu.schedstat)
    if loop.epoll >= 0:
        close(loop.epoll)
    memcpy(loop.copy, loop.n, sizeof(loop.n))
    memcpy(loop.histograms, loop.latency.histograms, sizeof(loop.histograms))


cdef inline void* thread_main(void* argument) noexcept nogil:
    """The main function of a loop's thread; `argument` is the Loop."""
    cdef Loop* loop = <Loop*>argument
    cdef int failed
    loop_clock(loop)
    wheel_init(&loop.wheel, loop.tick)
    failed = _open(loop)
    if failed:
        se_store_release(&loop.hub.failed, <uint64_t>failed)
    else:
        if loop.linked != NULL and se_load_relaxed(&loop.hub.link) != CLUSTER_OFF:
            connect_want(loop, b"")
            outbox_post_all(loop)
        se_store_release(&loop.done, LOOP_RUNNING)
        while not shutdown_is_over(loop):
            loop_iterate(loop)
    _close(loop)
    se_store_release(&loop.seen, UINT64_MAX)
    se_store_release(&loop.copied, UINT64_MAX)
    se_store_release(&loop.reloaded, UINT64_MAX)
    se_store_release(&loop.done, LOOP_ENDED)
    return NULL


cdef inline void _free_all(Loop* loop, Packet* packet) noexcept nogil:
    """Frees a list of packets that were not handled."""
    cdef Packet* after
    while packet != NULL:
        after = packet.next
        tls_free_connect(loop, packet)
        packet = after


cdef inline void _free_link(Loop* loop) noexcept nogil:
    """Frees the NATS link and what it owns."""
    _free_all(loop, loop.linked.subs.unsettled)
    free(loop.linked.input.data)
    free(loop.linked.subs.rooms)
    free(loop.linked.subs.free)
    free(loop.linked.waiters.list)
    free(loop.linked.limit.fresh)
    free(loop.linked.limit.sent)
    watches_end(loop.linked)
    free(loop.linked)


cdef inline void thread_end(Loop* loop) noexcept nogil:
    """Frees what the loop owns, not the Loop itself. Runs under the GIL, after every loop's thread has ended."""
    cdef int i
    _free_all(loop, loop.taken)
    _free_all(loop, loop.roster.list)
    _free_all(loop, loop.roster.aside)
    _free_all(loop, loop.pressure.verdicts)
    _free_all(loop, mailbox_take(&loop.mailbox))
    if loop.linked != NULL:
        _free_link(loop)
    if loop.book != NULL:
        address_book_end(loop.book)
    for i in range(RIGHTS_SHARED):
        rights_release(loop.rights[i])
    rooms_end(&loop.rooms)
    events_end(&loop.news)
    slab_end(&loop.slab)
    memory_end(&loop.mem)
    memory_return_free(loop, UINT64_MAX)
    free(loop.turn.ready.slots)
    free(loop.turn.delayed.slots)
    free(loop.pressure.held)
    zlib_state_end(loop.zlib)
    free(loop.input)
    free(loop.events)
    free(loop.iov)
