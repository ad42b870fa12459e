"""A loop: one thread, one epoll, everything that its connections need. L4.

One iteration:
 1. sleep in epoll_wait, unless there is work left over;
 2. handle events: accept (accept.pxd), read, write, the NATS link;
 3. go on telling who is there (questions.pxd), take the inbox, then connections that were held or delayed
    (pressure.pxd, delayed.pxd), then those with input left over;
 4. fire timers (timers.pxd); at a drain or a stop, say goodbye and drain the listeners;
 5. write the queues, tell fates (which may fill queues again), write the link's;
 6. free what died, and tell who listens (news.pxd; also before 5);
 7. post what was held back for other loops.
Each step is bounded; what is left over waits for the next iteration, which then does not sleep. Events, the NATS link,
the inbox, the input left over and the writes have a time each (turn.pxd): what one of them has in plenty starves no
other.
"""

from libc.stdint cimport UINT64_MAX, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from signal_core.accept cimport loop_accept, loop_accept_paced, loop_look_again
from signal_core.asking cimport asks_walk
from signal_core.conn cimport conn_flush, conn_give_place, conn_kill, conn_ready, conn_watch, conn_write
from signal_core.counters cimport C_DROPPED_GONE, C_WAKES
from signal_core.delayed cimport delayed_release
from signal_core.dispatch cimport loop_message, loop_verdict
from signal_core.farewell cimport loop_leave, loop_leaves
from signal_core.gaps cimport gaps_tell
from signal_core.handshake cimport over_any, over_tell
from signal_core.hooks cimport hook_tell
from signal_core.identity cimport conn_uncount_user
from signal_core.inbox cimport inbox_awake, inbox_is_empty, inbox_sleep, inbox_take, inbox_words_taken
from signal_core.intake cimport buffer_free
from signal_core.limits cimport (
    ACCEPT_WAIT_MS, EVENTS, EVENTS_NS, HELD_WAIT_MS, INBOX_PER_TURN, LEAVES_PER_TURN, LOOK_UNITS,
    MEMBERS_PER_TURN, RECLAIMS_PER_TURN, RECLAIMS_SHARE, SERVICE_LOOP, SPREAD_NS, STEP_NS, TICK_MS, WRITE_NS,
)
from signal_core.leftover cimport leftover_look, leftover_patience
from signal_core.link cimport link_flush, link_has_output, link_patience, link_read, link_tick, link_writable
from signal_core.memory cimport Msg
from signal_core.missed cimport missed_any
from signal_core.news cimport news_flush
from signal_core.origins cimport uncount_address
from signal_core.post cimport post_all
from signal_core.presence cimport presence_tick, presence_walk
from signal_core.pressure cimport held_drop, held_next, input_waits, joins_wait, verdict_next
from signal_core.questions cimport questions_walk
from signal_core.queue cimport queue_clear
from signal_core.rights cimport rights_release
from signal_core.roomtable cimport table_reclaim
from signal_core.route cimport leave_all, leave_last, loop_tell_all
from signal_core.session cimport session_continue, session_read
from signal_core.slab cimport (
    CONN_DEAD, FLAG_BLOCKED, FLAG_DIRTY, FLAG_PAUSED, FLAG_READY, FLAG_WEBSOCKET, NO_SLOT, Cold, Conn, Extra,
    slab_cold, slab_conn, slab_extra, slab_find, slab_free,
)
from signal_core.state cimport CODE_NO_SUCH_PEER, EVENT_DISCONNECTED, MARK_LINK, MARK_LISTENER, Hub, Loop
from signal_core.subs cimport subs_retry
from signal_core.sys cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, SE_RARE, epoll_event, epoll_wait, se_load_relaxed, se_load_seqcst,
    se_now_ms, se_store_seqcst, se_sub_relaxed,
)
from signal_core.timers cimport loop_timers, timers_hurry
from signal_core.turn cimport (
    LANE_DIRECT, LANE_SPREAD, behind_note, lanes_wait, line_drop, step_begin, step_is_over, step_look, turn_share,
)
from signal_core.wheel cimport wheel_next


cdef inline void loop_inbox(Loop* loop) noexcept nogil:
    cdef Msg* msg
    cdef int budget = INBOX_PER_TURN
    if loop.taken == NULL:
        loop.taken = inbox_take(&loop.inbox)
        if loop.taken == NULL:
            return
    step_begin(loop, STEP_NS)
    while loop.taken != NULL and budget and not step_is_over(loop):
        msg = loop.taken
        loop.taken = msg.next
        loop.work += 1
        loop_message(loop, msg)
        budget -= 1
    if loop.words:
        inbox_words_taken(&loop.inbox, loop.words)
        loop.words = 0


# -- the iteration --

cdef inline void loop_ready(Loop* loop) noexcept nogil:
    """Connections with input left over; those that have some left again come after those that had no turn."""
    cdef uint32_t done = 0, n = loop.ready.used
    step_begin(loop, STEP_NS)
    while done < n and not step_is_over(loop):
        session_continue(loop, slab_conn(&loop.slab, loop.ready.slots[done]))
        done += 1
    line_drop(&loop.ready, done)


cdef inline void loop_held(Loop* loop) noexcept nogil:
    """Verdicts and connections that were held, each once at most, while what they cause has room."""
    cdef uint32_t done = 0, n = loop.held_used
    cdef Conn* c
    step_begin(loop, STEP_NS)
    while loop.verdicts != NULL and not joins_wait(loop):
        loop_verdict(loop, verdict_next(loop))
    while done < n and not step_is_over(loop) and not input_waits(loop):
        c = held_next(loop, done)
        done += 1
        if c == NULL:
            continue
        session_continue(loop, c)
        if c.state != CONN_DEAD and not c.flags & FLAG_PAUSED:
            conn_watch(loop, c)
    held_drop(loop, done)


cdef inline void loop_event(Loop* loop, const epoll_event* event) noexcept nogil:
    cdef uint32_t slot = <uint32_t>(event.data.u64 >> 32)
    cdef Conn* c
    if slot >= MARK_LISTENER:
        if slot == MARK_LINK:
            if event.events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
                link_writable(loop)
            if event.events & EPOLLIN:
                link_read(loop)
        elif slot - MARK_LISTENER < loop.nlisteners:
            loop_accept(loop, slot - MARK_LISTENER)
        return  # MARK_WAKE: the inbox is looked at in each iteration
    c = slab_find(&loop.slab, slot, <uint32_t>event.data.u64)
    if c == NULL or c.state == CONN_DEAD:
        return
    loop.work += 1
    if step_is_over(loop) and event.events & (EPOLLIN | EPOLLOUT):
        conn_ready(loop, c)
        return
    if event.events & EPOLLOUT and c.flags & FLAG_BLOCKED:
        conn_flush(loop, c)
    if event.events & EPOLLIN:
        session_read(loop, c)
    elif event.events & (EPOLLERR | EPOLLHUP):
        conn_kill(loop, c)


cdef inline void loop_free(Loop* loop, Conn* c) noexcept nogil:
    """Frees all that hangs on a dead connection, then its slot."""
    cdef Cold* cold = slab_cold(&loop.slab, c.slot)
    cdef Extra* extra = slab_extra(&loop.slab, c)
    cdef uint32_t code = extra.close_code if extra != NULL and extra.close_code else 1006
    queue_clear(loop, &c.out, C_DROPPED_GONE, CODE_NO_SUCH_PEER)
    conn_uncount_user(loop, c)
    if c.flags & FLAG_WEBSOCKET and loop.hub.set.hooks:
        hook_tell(loop, c, EVENT_DISCONNECTED, code)
    leave_all(loop, c)
    buffer_free(loop, c.pending)
    if extra != NULL:
        buffer_free(loop, extra.message)
    if cold.brief != NULL:
        free(cold.brief.refs)
        rights_release(cold.brief.rights)
        free(cold.brief)
    se_sub_relaxed(&loop.hub.connections, 1)
    conn_give_place(loop, c)
    uncount_address(loop, c)
    slab_free(&loop.slab, c)


cdef inline bint loop_is_left(Loop* loop, Conn* c, uint64_t last) noexcept nogil:
    """Ends a dead connection's memberships but the first, its user's, one by one up to the unit `last`, and counts one
    for the rest of its end. False: there is no more, some are left."""
    while loop.work < last and c.nrooms > 1:
        loop.work += 1
        leave_last(loop, c)
    if loop.work >= last:
        return False
    loop.work += 1
    return True


cdef inline void loop_reap(Loop* loop, uint32_t units) noexcept nogil:
    """Frees the dead, as far as the units of work go, of which each membership is one, and who hears of its end more
    (news_add): thousands may die at one moment, each in hundreds of rooms. The rest, and one that a list still names,
    waits for the next iteration."""
    cdef uint64_t last = loop.work + units
    cdef uint32_t* link = &loop.dead
    cdef Conn* c
    while link[0] != NO_SLOT and loop.work < last:
        c = slab_conn(&loop.slab, link[0])
        if c.flags & (FLAG_DIRTY | FLAG_READY) or not loop_is_left(loop, c, last):
            link = &slab_cold(&loop.slab, c.slot).next
            continue
        link[0] = slab_cold(&loop.slab, c.slot).next
        loop_free(loop, c)


cdef inline bint loop_has_work(const Loop* loop) noexcept nogil:
    """Whether there is work for the next iteration already; the link's is told by link_patience."""
    return (loop.taken != NULL or loop.questions != NULL or loop.aside != NULL or loop.gaps_used or loop.ready.used
            or lanes_wait(loop) or loop.told_head != NULL or loop.dead != NO_SLOT
            or loop.overdue or (loop.shut and loop_leaves(loop)))


cdef inline int loop_patience(Loop* loop) noexcept nogil:
    """Milliseconds to sleep at most: up to the beginning of the tick in which there is something to do."""
    cdef uint32_t ticks, of_link
    if loop_has_work(loop):
        return 0
    ticks = wheel_next(&loop.wheel)
    if loop.linked != NULL:
        of_link = link_patience(loop)
        if of_link == 0:
            return 0
        if of_link < ticks:
            ticks = of_link
    if ticks == 0:
        return 0 if timers_hurry(loop) else 1
    if SE_RARE(loop.waits):
        return HELD_WAIT_MS
    if SE_RARE(loop.paced) and not loop.looks_away:
        return ACCEPT_WAIT_MS
    if SE_RARE(loop.shut or loop.looks_away) and ticks > 1:
        ticks = 1
    return <int>(leftover_patience(loop, ticks) * TICK_MS - loop.late_ms)


cdef inline void loop_clock(Loop* loop) noexcept nogil:
    cdef uint64_t now = se_now_ms(), ms
    if now - loop.tick_began >= TICK_MS:
        ms = now - loop.hub.boot + loop.phase
        loop.tick = <uint32_t>(ms // TICK_MS)
        loop.tick_began = now - ms % TICK_MS
    loop.late_ms = <uint32_t>(now - loop.tick_began)


cdef inline int loop_wait(Loop* loop) noexcept nogil:
    """Sleeps until there is something to do. Returns the number of events."""
    cdef int patience = loop_patience(loop)
    cdef int n
    if patience:
        inbox_sleep(&loop.inbox)
        se_store_seqcst(&loop.seen, UINT64_MAX)
        if not inbox_is_empty(&loop.inbox):
            patience = 0
        elif patience > TICK_MS and missed_any(&loop.missed):
            patience = TICK_MS
    n = epoll_wait(loop.epoll, loop.events, EVENTS, patience)
    inbox_awake(&loop.inbox)
    se_store_seqcst(&loop.seen, se_load_seqcst(&loop.hub.rooms.epoch))
    loop.n[C_WAKES] += 1
    loop_clock(loop)
    return n


cdef inline void lane_flush(Loop* loop, int lane, uint64_t ns) noexcept nogil:
    """Writes the queues of a lane, as many as there is time for. Their units of work are counted at each look at the
    clock and at the end."""
    cdef int left = LOOK_UNITS
    cdef uint32_t slot
    cdef Conn* c
    if loop.dirty_head[lane] == NO_SLOT:
        return
    step_begin(loop, ns)
    while loop.dirty_head[lane] != NO_SLOT:
        slot = loop.dirty_head[lane]
        c = slab_conn(&loop.slab, slot)
        loop.dirty_head[lane] = c.out.next
        c.flags &= <uint16_t>~FLAG_DIRTY
        left -= 1 if c.flags & FLAG_BLOCKED else conn_write(loop, c)
        if SE_RARE(left <= 0):
            loop.work += <uint64_t>(LOOK_UNITS - left)
            left = LOOK_UNITS
            if step_look(loop):
                break
    loop.work += <uint64_t>(LOOK_UNITS - left)


cdef inline void loop_write(Loop* loop) noexcept nogil:
    """Writes, tells fates, and writes the answers that this made, in the same iteration. There is one call of
    lane_flush, so that it is compiled in line."""
    cdef int lane = LANE_DIRECT
    cdef bint told = False
    while True:
        lane_flush(loop, lane, WRITE_NS if lane == LANE_DIRECT else SPREAD_NS)
        if lane == LANE_SPREAD:
            behind_note(loop)
        elif SE_RARE(loop.dirty_head[LANE_SPREAD] != NO_SLOT or loop.behind) and not told:
            lane = LANE_SPREAD
            continue
        if told or loop.told_head == NULL:
            break
        told = True
        loop_tell_all(loop)
        lane = LANE_DIRECT
    if loop.linked != NULL and link_has_output(loop.linked):
        link_flush(loop)


cdef inline void loop_reclaim(Loop* loop) noexcept nogil:
    """On the link's loop, each tick and while there is much: frees what no thread can still be reading, more of it
    the more there is, so that however fast rooms come and go it does not grow for ever."""
    cdef Hub* hub = loop.hub
    cdef uint64_t oldest = UINT64_MAX, seen, most
    cdef uint32_t i
    for i in range(hub.nloops):
        seen = se_load_seqcst(&hub.loops[i].seen)
        if seen < oldest:
            oldest = seen
    seen = se_load_seqcst(&hub.loops[SERVICE_LOOP].seen)
    most = RECLAIMS_PER_TURN + se_load_relaxed(&hub.rooms.waiting) // RECLAIMS_SHARE
    loop.overdue = not table_reclaim(&hub.rooms, seen if seen < oldest else oldest, <uint32_t>most)


cdef inline void loop_linked(Loop* loop, bint ticked) noexcept nogil:
    """Of the link's loop, in each iteration: what is done each tick, and what is left over of that."""
    if ticked:
        link_tick(loop)
        presence_tick(loop)
        subs_retry(loop)
        loop_reclaim(loop)
    elif SE_RARE(loop.overdue):
        loop_reclaim(loop)
    if SE_RARE(loop.linked.asking):
        asks_walk(loop)
    if SE_RARE(loop.linked.walks):
        presence_walk(loop)


cdef inline void loop_iterate(Loop* loop) noexcept nogil:
    cdef uint32_t before = loop.tick
    cdef int i, n = loop_wait(loop)
    loop.share = turn_share(<int>loop.ready.used + n)
    step_begin(loop, EVENTS_NS)
    for i in range(n):
        loop_event(loop, &loop.events[i])
    if loop.linked != NULL and loop.linked.more:
        step_begin(loop, STEP_NS)
        link_read(loop)
    loop.members_due = MEMBERS_PER_TURN
    if SE_RARE(loop.questions != NULL or loop.aside != NULL):
        questions_walk(loop)
    loop_inbox(loop)
    if SE_RARE(loop.waits):
        delayed_release(loop)
        loop_held(loop)
    if loop.ready.used:
        loop_ready(loop)
    loop_timers(loop)
    if SE_RARE(loop.gaps_used):
        gaps_tell(loop)
    if loop.tick != before:
        if loop.looks_away:
            loop_look_again(loop)
        if missed_any(&loop.missed) and loop.gaps_used == 0:
            gaps_tell(loop)
        if SE_RARE(over_any(loop.hub)):
            over_tell(loop)
        leftover_look(loop)
    if SE_RARE(loop.paced) and not loop.looks_away:
        loop_accept_paced(loop)
    if SE_RARE(loop.shut):
        loop_leave(loop)
    if loop.linked != NULL:
        loop_linked(loop, loop.tick != before)
    if loop.news.count:
        news_flush(loop)
    loop_write(loop)
    if loop.dead != NO_SLOT:
        loop_reap(loop, LEAVES_PER_TURN)
        news_flush(loop)
    if loop.nposted:
        post_all(loop)


cdef inline bint loop_is_over(const Loop* loop) noexcept nogil:
    """Nobody is left, and what they said last is with NATS; or the close time is over."""
    if not loop.stopping:
        return False
    if loop.tick > loop.stop_by:
        return True
    return (loop.nlisteners == 0 and loop.slab.live == 0 and loop.stop_cursor >= loop.slab.used
            and (loop.linked == NULL or loop.linked.out.head == NULL))
