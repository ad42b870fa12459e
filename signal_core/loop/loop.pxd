"""A loop: one thread, one epoll, everything that its connections need.

One iteration:
 1. Sleep in epoll_wait, unless work is left over.
 2. Handle events: accept (listener.pxd), read, write, the NATS link.
 3. Continue rosters (roster.pxd), take the mailbox, then connections that were held or delayed (backpressure.pxd,
    delayed.pxd), then connections with input left over.
 4. Fire timers (keepalive.pxd), handle drop notices (drop_notice.pxd), accept clients that waited for the pace. During
    a drain or a stop, close clients and listeners (shutdown.pxd).
 5. Write the queues, send receipts (which may fill queues again), write the link's queue.
 6. Free dead connections. Before and after, send joins and leaves to watchers (events.pxd).
 7. Post what was collected for other loops. Of some iterations, measure how long they took (latency.pxd).
Each step is bounded. The rest waits for the next iteration, which then does not sleep. Events, the NATS link, the
mailbox, leftover input and writes have a time limit each (turns.pxd), so that none starves another.
"""

from libc.stdint cimport UINT64_MAX, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from signal_core.base.counters cimport C_DROPPED_GONE, C_WAKES, C_WRITTEN
from signal_core.base.limits cimport (
    ACCEPT_WAIT_MS, EVENTS, EVENTS_NS, HELD_WAIT_MS, LEAVES_PER_TURN, LOCAL_PEER_LOOP, LOOK_UNITS, MAILBOX_PER_TURN,
    MEMBERS_PER_TURN, NS_PER_MS, RECLAIMS_PER_TURN, RECLAIMS_SHARE, SPREAD_NS, STEP_NS, TICK_MS, TICK_NS, WRITE_NS,
)
from signal_core.base.memory cimport Packet
from signal_core.base.sys cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, SE_RARE, epoll_event, epoll_wait, se_load_relaxed, se_load_seqcst, se_now_ns,
    se_store_seqcst, se_sub_relaxed,
)
from signal_core.client.handshake_input cimport handshake_input_any_over, handshake_input_tell_over
from signal_core.client.hooks cimport hooks_tell
from signal_core.client.input_buffer cimport input_buffer_free
from signal_core.client.keepalive cimport keepalive_hurry, keepalive_run
from signal_core.client.listener cimport listener_accept, listener_accept_paced, listener_look_again
from signal_core.client.listening cimport listening_step
from signal_core.client.remote_addr cimport remote_addr_uncount
from signal_core.client.session cimport session_continue, session_read
from signal_core.delivery.backpressure cimport (
    backpressure_drop, backpressure_input_waits, backpressure_joins_wait, backpressure_next, backpressure_next_verdict,
)
from signal_core.delivery.conn cimport conn_flush, conn_kill, conn_ready, conn_release_quota, conn_watch, conn_write
from signal_core.delivery.delayed cimport delayed_release
from signal_core.delivery.drop_notice cimport drop_notice_tell
from signal_core.delivery.outbox cimport outbox_post_all
from signal_core.delivery.write_queue cimport write_queue_clear
from signal_core.loop.dispatch cimport dispatch_packet, dispatch_verdict
from signal_core.loop.memory_return cimport memory_return_look, memory_return_patience
from signal_core.loop.shutdown cimport shutdown_has_work, shutdown_step
from signal_core.nats.link cimport link_flush, link_has_output, link_patience, link_read, link_tick, link_writable
from signal_core.nats.subscriptions cimport subscriptions_retry
from signal_core.presence.cluster cimport cluster_tick, cluster_walk
from signal_core.presence.events cimport events_flush
from signal_core.presence.remote_query cimport remote_query_walk
from signal_core.presence.roster cimport roster_walk
from signal_core.route.membership cimport membership_leave_all, membership_leave_last
from signal_core.route.receipts cimport receipts_tell_all
from signal_core.tables.acl cimport rights_release
from signal_core.tables.codes cimport CODE_NO_SUCH_PEER, EVENT_DISCONNECTED
from signal_core.tables.conn_acl cimport conn_acl_uncount_user
from signal_core.tables.conn_table cimport (
    CONN_DEAD, FLAG_BLOCKED, FLAG_DIRTY, FLAG_PAUSED, FLAG_READY, FLAG_WEBSOCKET, NO_SLOT, Cold, Conn, Extra, slab_cold,
    slab_conn, slab_extra, slab_find, slab_free,
)
from signal_core.tables.drop_table cimport missed_any
from signal_core.tables.latency cimport latency_begin, latency_end, latency_note_left, latency_note_taken
from signal_core.tables.mailbox cimport (
    mailbox_awake, mailbox_is_empty, mailbox_sleep, mailbox_take, mailbox_tasks_done,
)
from signal_core.tables.room_table cimport room_table_reclaim
from signal_core.tables.state cimport LANE_DIRECT, LANE_SPREAD, TAG_LINK, TAG_LISTENER, Hub, Loop
from signal_core.tables.timer_wheel cimport wheel_next
from signal_core.tables.turns cimport (
    turns_behind_note, turns_lane_put_back, turns_lane_take, turns_lanes_wait, turns_line_drop, turns_share,
    turns_step_begin, turns_step_is_over, turns_step_look,
)


cdef inline void _loop_mailbox(Loop* loop) noexcept nogil:
    """Handles packets of the mailbox, at most MAILBOX_PER_TURN."""
    cdef Packet* packet
    cdef int budget = MAILBOX_PER_TURN
    if loop.taken == NULL:
        loop.taken = mailbox_take(&loop.mailbox)
        if loop.taken == NULL:
            return
    latency_note_taken(loop, loop.taken)
    turns_step_begin(loop, STEP_NS)
    while loop.taken != NULL and budget and not turns_step_is_over(loop):
        packet = loop.taken
        loop.taken = packet.next
        loop.turn.work += 1
        dispatch_packet(loop, packet)
        budget -= 1
    if loop.pressure.tasks:
        mailbox_tasks_done(&loop.mailbox, loop.pressure.tasks)
        loop.pressure.tasks = 0


cdef inline void _loop_ready(Loop* loop) noexcept nogil:
    """Handles leftover input. A connection that has some left again queues behind those that had no turn."""
    cdef uint32_t done = 0, n = loop.turn.ready.used
    turns_step_begin(loop, STEP_NS)
    while done < n and not turns_step_is_over(loop):
        session_continue(loop, slab_conn(&loop.slab, loop.turn.ready.slots[done]))
        done += 1
    turns_line_drop(&loop.turn.ready, done)


cdef inline void _loop_held(Loop* loop) noexcept nogil:
    """Handles held verdicts and connections, each at most once, while the mailboxes that they fill have room."""
    cdef uint32_t done = 0, n = loop.pressure.held_used
    cdef Conn* c
    turns_step_begin(loop, STEP_NS)
    while loop.pressure.verdicts != NULL and not backpressure_joins_wait(loop):
        dispatch_verdict(loop, backpressure_next_verdict(loop))
    while done < n and not turns_step_is_over(loop) and not backpressure_input_waits(loop):
        c = backpressure_next(loop, done)
        done += 1
        if c == NULL:
            continue
        session_continue(loop, c)
        if c.state != CONN_DEAD and not c.flags & FLAG_PAUSED:
            conn_watch(loop, c)
    backpressure_drop(loop, done)


cdef inline void _loop_event(Loop* loop, const epoll_event* event) noexcept nogil:
    """Handles an epoll event of a listener, the link or a connection."""
    cdef uint32_t slot = <uint32_t>(event.data.u64 >> 32)
    cdef Conn* c
    if slot >= TAG_LISTENER:
        if slot == TAG_LINK:
            if event.events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
                link_writable(loop)
            if event.events & EPOLLIN:
                link_read(loop)
        elif slot - TAG_LISTENER < loop.accept.nlisteners and loop.accept.listeners[slot - TAG_LISTENER].fd >= 0:
            listener_accept(loop, slot - TAG_LISTENER)
            if SE_RARE(loop.accept.nclosing):
                listening_step(loop)
        return  # TAG_WAKE: every iteration takes the mailbox
    c = slab_find(&loop.slab, slot, <uint32_t>event.data.u64)
    if c == NULL or c.state == CONN_DEAD:
        return
    loop.turn.work += 1
    if turns_step_is_over(loop) and event.events & (EPOLLIN | EPOLLOUT):
        conn_ready(loop, c)
        return
    if event.events & EPOLLOUT and c.flags & FLAG_BLOCKED:
        conn_flush(loop, c)
    if event.events & EPOLLIN:
        session_read(loop, c)
    elif event.events & (EPOLLERR | EPOLLHUP):
        conn_kill(loop, c)


cdef inline void _loop_free(Loop* loop, Conn* c) noexcept nogil:
    """Frees everything that a dead connection owns, then its slot."""
    cdef Cold* cold = slab_cold(&loop.slab, c.slot)
    cdef Extra* extra = slab_extra(&loop.slab, c)
    cdef uint32_t code = extra.close_code if extra != NULL and extra.close_code else 1006
    write_queue_clear(loop, &c.out, C_DROPPED_GONE, CODE_NO_SUCH_PEER)
    conn_acl_uncount_user(loop, c)
    if c.flags & FLAG_WEBSOCKET and loop.set.hooks:
        hooks_tell(loop, c, EVENT_DISCONNECTED, code)
    membership_leave_all(loop, c)
    input_buffer_free(loop, c.pending)
    if extra != NULL:
        input_buffer_free(loop, extra.message)
    if cold.brief != NULL:
        free(cold.brief.refs)
        rights_release(cold.brief.rights)
        free(cold.brief)
    se_sub_relaxed(&loop.hub.connections, 1)
    conn_release_quota(loop, c)
    remote_addr_uncount(loop, c)
    slab_free(&loop.slab, c)


cdef inline bint _loop_leave_rooms(Loop* loop, Conn* c, uint64_t last) noexcept nogil:
    """Ends the memberships of a dead connection, except the first, which may be its user's room, until the loop's work
    reaches `last`. Returns whether the connection can be freed, which is one more unit."""
    while loop.turn.work < last and c.nrooms > 1:
        loop.turn.work += 1
        membership_leave_last(loop, c)
    if loop.turn.work >= last:
        return False
    loop.turn.work += 1
    return True


cdef inline void loop_reap(Loop* loop, uint32_t units) noexcept nogil:
    """Frees dead connections, for at most `units` of work: a membership is one, and telling watchers of its end costs
    more (events_add). Thousands of connections may die at one moment, each in hundreds of rooms. The rest waits for the
    next iteration, as does a connection that is still in a list; visiting one is a unit as well."""
    cdef uint64_t last = loop.turn.work + units
    cdef uint32_t* link = &loop.dead
    cdef Conn* c
    while link[0] != NO_SLOT and loop.turn.work < last:
        c = slab_conn(&loop.slab, link[0])
        if c.flags & (FLAG_DIRTY | FLAG_READY) or not _loop_leave_rooms(loop, c, last):
            loop.turn.work += 1
            link = &slab_cold(&loop.slab, c.slot).next
            continue
        link[0] = slab_cold(&loop.slab, c.slot).next
        _loop_free(loop, c)


cdef inline bint _loop_has_work(const Loop* loop) noexcept nogil:
    """Whether the next iteration has work already, so that it must not sleep. The link's work is in link_patience."""
    return (loop.taken != NULL or loop.roster.list != NULL or loop.roster.aside != NULL or loop.notices.used
            or loop.turn.ready.used or turns_lanes_wait(loop) or loop.told_head != NULL or loop.dead != NO_SLOT
            or loop.overdue or (loop.accept.shut and shutdown_has_work(loop)))


cdef inline int _loop_patience(Loop* loop) noexcept nogil:
    """Returns how many ms the loop may sleep: until the next tick that has something to do."""
    cdef uint32_t ticks, of_link
    if _loop_has_work(loop):
        return 0
    ticks = wheel_next(&loop.wheel)
    if loop.linked != NULL:
        of_link = link_patience(loop)
        if of_link == 0:
            return 0
        if of_link < ticks:
            ticks = of_link
    if ticks == 0:
        return 0 if keepalive_hurry(loop) else 1
    if SE_RARE(loop.pressure.waits):
        return HELD_WAIT_MS
    if SE_RARE(loop.accept.paced) and not loop.accept.looks_away:
        return ACCEPT_WAIT_MS
    if SE_RARE(loop.accept.shut or loop.accept.looks_away or loop.accept.nclosing) and ticks > 1:
        ticks = 1
    return <int>(memory_return_patience(loop, ticks) * TICK_MS - loop.late_ms)


cdef inline void loop_clock(Loop* loop) noexcept nogil:
    """Reads the clock: sets loop.tick, loop.late_ms, the ms since that tick began, and when this iteration began."""
    cdef uint64_t now = se_now_ns(), ms
    latency_begin(loop, now)
    if now - loop.tick_began >= TICK_NS:
        ms = now // NS_PER_MS - loop.hub.boot + loop.phase
        loop.tick = <uint32_t>(ms // TICK_MS)
        loop.tick_began = (now // NS_PER_MS - ms % TICK_MS) * NS_PER_MS
    loop.late_ms = <uint32_t>((now - loop.tick_began) // NS_PER_MS)


cdef inline int _loop_wait(Loop* loop) noexcept nogil:
    """Sleeps until there is something to do. Returns the number of epoll events."""
    cdef int patience = _loop_patience(loop)
    cdef int n
    if patience:
        mailbox_sleep(&loop.mailbox)
        se_store_seqcst(&loop.seen, UINT64_MAX)
        if not mailbox_is_empty(&loop.mailbox):
            patience = 0
        elif patience > TICK_MS and missed_any(&loop.missed):
            patience = TICK_MS
    n = epoll_wait(loop.epoll, loop.events, EVENTS, patience)
    mailbox_awake(&loop.mailbox)
    se_store_seqcst(&loop.seen, se_load_seqcst(&loop.hub.rooms.epoch))
    loop.n[C_WAKES] += 1
    loop_clock(loop)
    return n


cdef inline void _lane_flush(Loop* loop, int lane, uint64_t ns) noexcept nogil:
    """Writes the queues of a lane, for at most `ns`. Its units are added at each look at the clock and at the end."""
    cdef int units = 0
    cdef uint32_t* last = loop.turn.dirty_tail[lane]
    cdef uint32_t slot = turns_lane_take(loop, lane)
    cdef Conn* c
    if slot == NO_SLOT:
        return
    turns_step_begin(loop, ns)
    while slot != NO_SLOT:
        c = slab_conn(&loop.slab, slot)
        slot = c.out.next
        c.flags &= <uint16_t>~FLAG_DIRTY
        units += conn_write(loop, c)
        if SE_RARE(units >= LOOK_UNITS):
            loop.turn.work += <uint64_t>units
            units = 0
            if turns_step_look(loop):
                break
        if SE_RARE(slot == NO_SLOT):
            last = loop.turn.dirty_tail[lane]
            slot = turns_lane_take(loop, lane)
    if SE_RARE(slot != NO_SLOT):
        turns_lane_put_back(loop, lane, slot, last)
        latency_note_left(loop)
    loop.turn.work += <uint64_t>units


cdef inline void _loop_write(Loop* loop) noexcept nogil:
    """Writes the queues, sends receipts, and writes the queues that these filled. _lane_flush is called in one place
    only, so that the compiler inlines it."""
    cdef int lane = LANE_DIRECT
    cdef bint told = False
    while True:
        _lane_flush(loop, lane, WRITE_NS if lane == LANE_DIRECT else SPREAD_NS)
        if lane == LANE_SPREAD:
            turns_behind_note(loop)
        elif SE_RARE(loop.turn.dirty_head[LANE_SPREAD] != NO_SLOT or loop.behind) and not told:
            lane = LANE_SPREAD
            continue
        if told or loop.told_head == NULL:
            break
        told = True
        receipts_tell_all(loop)
        lane = LANE_DIRECT
    if loop.linked != NULL and link_has_output(loop.linked):
        link_flush(loop)


cdef inline void _loop_reclaim(Loop* loop) noexcept nogil:
    """On loop 0, each tick and while much is left: frees room entries that no thread can still be reading. Frees more
    the more there are, so that their number stays bounded however fast rooms come and go."""
    cdef Hub* hub = loop.hub
    cdef uint64_t oldest = UINT64_MAX, seen, most
    cdef uint32_t i
    for i in range(hub.nloops):
        seen = se_load_seqcst(&hub.loops[i].seen)
        if seen < oldest:
            oldest = seen
    seen = se_load_seqcst(&hub.loops[LOCAL_PEER_LOOP].seen)
    most = RECLAIMS_PER_TURN + se_load_relaxed(&hub.rooms.waiting) // RECLAIMS_SHARE
    loop.overdue = not room_table_reclaim(&hub.rooms, seen if seen < oldest else oldest, <uint32_t>most)


cdef inline void _loop_linked(Loop* loop, bint ticked) noexcept nogil:
    """On loop 0, in each iteration: the link's ticks, and presence work that is left over."""
    if ticked:
        link_tick(loop)
        cluster_tick(loop)
        subscriptions_retry(loop)
        _loop_reclaim(loop)
    elif SE_RARE(loop.overdue):
        _loop_reclaim(loop)
    if SE_RARE(loop.linked.presence.asking):
        remote_query_walk(loop)
    if SE_RARE(loop.linked.presence.walks):
        cluster_walk(loop)


cdef inline void _loop_events(Loop* loop, int n) noexcept nogil:
    """Handles n epoll events, and input from NATS that is left over."""
    cdef int i
    loop.turn.share = turns_share(<int>loop.turn.ready.used + n)
    turns_step_begin(loop, EVENTS_NS)
    for i in range(n):
        _loop_event(loop, &loop.events[i])
    if loop.linked != NULL and loop.linked.more:
        turns_step_begin(loop, STEP_NS)
        link_read(loop)


cdef inline void _loop_left_over(Loop* loop) noexcept nogil:
    """Continues rosters, takes the mailbox, then gives turns to connections that wait for one."""
    loop.roster.due = MEMBERS_PER_TURN
    if SE_RARE(loop.roster.list != NULL or loop.roster.aside != NULL):
        roster_walk(loop)
    _loop_mailbox(loop)
    if SE_RARE(loop.pressure.waits):
        delayed_release(loop)
        _loop_held(loop)
    if loop.turn.ready.used:
        _loop_ready(loop)


cdef inline void _loop_tick(Loop* loop) noexcept nogil:
    """Runs once a tick, in its first iteration: listeners, drop notices, log lines, free memory."""
    if loop.accept.looks_away:
        listener_look_again(loop)
    if loop.accept.nclosing:
        listening_step(loop)
    if missed_any(&loop.missed) and loop.notices.used == 0:
        drop_notice_tell(loop)
    if SE_RARE(handshake_input_any_over(loop.hub)):
        handshake_input_tell_over(loop)
    memory_return_look(loop)


cdef inline void loop_iterate(Loop* loop) noexcept nogil:
    """One iteration, in the order that the head of this file lists."""
    cdef uint32_t before = loop.tick
    cdef uint64_t written
    _loop_events(loop, _loop_wait(loop))
    _loop_left_over(loop)
    keepalive_run(loop)
    if SE_RARE(loop.notices.used):
        drop_notice_tell(loop)
    if loop.tick != before:
        _loop_tick(loop)
    if SE_RARE(loop.accept.paced) and not loop.accept.looks_away:
        listener_accept_paced(loop)
    if SE_RARE(loop.accept.shut):
        shutdown_step(loop)
    if loop.linked != NULL:
        _loop_linked(loop, loop.tick != before)
    if loop.news.count:
        events_flush(loop)
    written = loop.n[C_WRITTEN]
    _loop_write(loop)
    if loop.dead != NO_SLOT:
        loop_reap(loop, LEAVES_PER_TURN)
        events_flush(loop)
    if loop.post.nposted:
        outbox_post_all(loop)
    latency_end(loop, written)
