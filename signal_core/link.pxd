"""The NATS link: one connection of loop 0 to a NATS server. L4.

Python decides where to dial and what CONNECT says (KIND_DIAL, KIND_CONNECT); here is what happens in between and after:
login (dial.pxd), the question whether the node's name is taken, subscriptions in step with the rooms, messages both
ways.
LINK_IDLE → DIALING → GREETING → ASKING (→ SECURING) → LOGIN → NAMING → UP; every failure leads to LINK_IDLE and
EVENT_WANT.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp
from signal_core.address cimport put_uint
from signal_core.conn cimport BLOCKED_LOOK
from signal_core.counters cimport C_NATS_BYTES_IN, C_NATS_BYTES_OUT, C_NATS_CONNECTS
from signal_core.dial cimport (
    link_dialed, link_end, link_enter, link_ping, link_secure, link_watch, link_write, put_bytes, put_text,
    too_few_subs,
)
from signal_core.inbound cimport link_message
from signal_core.limits cimport CONTROL_LOOP, NATS_OPS_PER_TURN, NATS_PONGS
from signal_core.natsbuffer cimport buffer_oversize, buffer_room, buffer_shrink, buffer_skip
from signal_core.natserror cimport errors_tick, link_error
from signal_core.natswire cimport (
    NATS_ERR, NATS_HMSG, NATS_INFO, NATS_MSG, NATS_PING, NATS_PONG, NatsOp, nats_parse,
)
from signal_core.natsout cimport ttls_refresh
from signal_core.post cimport post_event
from signal_core.presence cimport LINK_LOOK, beat_patience, is_presence, presence_message, presence_up
from signal_core.queue cimport WROTE_ALL, WROTE_NONE, queue_expire, queue_to_heap
from signal_core.serverinfo cimport info_tick, link_info
from signal_core.state cimport (
    CLUSTER_UP, EVENT_TAKEN, EVENT_UP, LINK_ASKING, LINK_DIALING, LINK_IDLE, LINK_LOGIN, LINK_NAMING, LINK_SECURING,
    LINK_UP, Hub, Link, Loop,
)
from signal_core.sublimit cimport fresh_write, sent_note, sent_reserve, subs_again, subs_pong
from signal_core.subs cimport SID_NAME, SID_PEER, SID_PROBE, subs_confirm, subs_resume
from signal_core.sys cimport EPOLL_CTL_MOD, SE_RARE, se_store_relaxed, se_store_release
from signal_core.tls cimport GOT_BLOCKED, GOT_NOTHING, link_recv, link_send_queued
from signal_core.turn cimport step_is_over

cdef enum:
    NAMING_TICKS = 20             # patience with another node that might have our name
    KEEPALIVE_TICKS = 100         # silence after which NATS is pinged: 10 s
    SILENCE_TICKS = 50            # ... and then given up: 5 s
    LINK_ROUNDS = 32              # gathered writes an iteration
    NATS_READS = 4                # reads an iteration
    NATS_MOST = 1 << 30           # bytes of a message: more than its size has digits for


cdef inline void link_name(Loop* loop) noexcept nogil:
    """Logged in: asks, by name, whether another node is here already. Silence of 503 says no."""
    cdef Link* link = loop.linked
    cdef Hub* hub = loop.hub
    cdef char text[512]
    cdef size_t n = 0
    link_enter(loop, LINK_NAMING, NAMING_TICKS)
    n = put_text(text, n, b"SUB ")
    n = put_node_subject(text, n, hub)
    n = put_sid(text, n, SID_NAME)
    n = put_text(text, n, b"SUB ")
    n = put_node_subject(text, n, hub)
    n = put_text(text, n, b".")
    n = put_bytes(text, n, link.instance, 16)
    n = put_sid(text, n, SID_PROBE)
    n = put_text(text, n, b"PUB ")
    n = put_node_subject(text, n, hub)
    n = put_text(text, n, b" ")
    n = put_node_subject(text, n, hub)
    n = put_text(text, n, b".")
    n = put_bytes(text, n, link.instance, 16)
    n = put_text(text, n, b" 16\r\n")
    n = put_bytes(text, n, link.instance, 16)
    n = put_text(text, n, b"\r\n")
    link_write(loop, text, n)


cdef inline size_t put_sid(char* out, size_t at, uint64_t sid) noexcept nogil:
    """The end of a SUB's line."""
    out[at] = c" "
    at += 1 + put_uint(out + at + 1, sid)
    return put_text(out, at, b"\r\n")


cdef inline size_t put_node_subject(char* out, size_t at, const Hub* hub) noexcept nogil:
    """`<prefix>.node.<node>`"""
    at = put_bytes(out, at, hub.prefix, hub.prefix_len)
    at = put_text(out, at, b".node.")
    return put_bytes(out, at, hub.node, hub.node_len)


cdef inline void link_up(Loop* loop) noexcept nogil:
    """The name is ours: subscribes to what is addressed to this node, and to the rooms that have members."""
    cdef Hub* hub = loop.hub
    cdef Link* link = loop.linked
    cdef char text[128]
    cdef size_t n
    link_enter(loop, LINK_UP, 0)
    link.number += 1
    loop.n[C_NATS_CONNECTS] += 1
    n = put_text(text, 0, b"SUB ")
    n = put_bytes(text, n, hub.prefix, hub.prefix_len)
    n = put_text(text, n, b".peer.")
    n = put_bytes(text, n, hub.node, hub.node_len)
    n = put_text(text, n, b".>")
    n = put_sid(text, n, SID_PEER)
    if not sent_reserve(link) or not link_write(loop, text, n):
        link_end(loop, b"no memory to subscribe to what is for this node")
        return
    sent_note(link, SID_PEER)  # which stands for those of presence, too, that follow it
    link.syncing = True
    se_store_release(&hub.ndenied, 0)
    if not presence_up(loop):
        link_end(loop, b"no memory for presence")
        return
    link.resume = 0
    subs_resume(loop)
    se_store_release(&hub.link, CLUSTER_UP)


cdef inline void link_on_name(Loop* loop, const NatsOp* op) noexcept nogil:
    """A word about our name: on SID_NAME another node asks, on SID_PROBE one answers us (or NATS says that
    nobody does)."""
    cdef Link* link = loop.linked
    cdef char text[320]
    cdef size_t n
    if op.sid == SID_PROBE:
        if link.state != LINK_NAMING:
            return
        if op.headers_len:
            link_up(loop)
        else:
            post_event(loop, CONTROL_LOOP, EVENT_TAKEN, 0, 0, loop.hub.node, loop.hub.node_len)
            link_end(loop, b"another node has this node's name")
        return
    if op.payload == NULL or op.payload_len != 16 or op.reply_len == 0 or op.reply_len > 128:
        return
    # Of two that ask at once the one with the smaller instance stays.
    if link.out.bytes > loop.hub.set.nats_pending:  # of a flood of questions
        return
    if link.state == LINK_UP or memcmp(link.instance, op.payload, 16) < 0:
        n = put_text(text, 0, b"PUB ")
        n = put_bytes(text, n, op.reply, op.reply_len)
        n = put_text(text, n, b" 5\r\ntaken\r\n")
        link_write(loop, text, n)


cdef inline void link_pong(Loop* loop) noexcept nogil:
    cdef Link* link = loop.linked
    if link.ponged == link.pinged:
        return  # to nothing that was asked
    link.ponged += 1
    link.asked = False
    if link.state == LINK_LOGIN:
        link_name(loop)
    elif link.state == LINK_UP:
        if not subs_pong(loop):
            link_end(loop, too_few_subs())
            return
        if SE_RARE(not link.announced):
            link.announced = True
            post_event(loop, CONTROL_LOOP, EVENT_UP, 0, 0, NULL, 0)
        subs_confirm(loop)
        if SE_RARE(link.leaving and link.ponged >= link.leaving):
            link_end(loop, b"the NATS server is about to end")


cdef inline void link_operation(Loop* loop, const NatsOp* op) noexcept nogil:
    cdef Link* link = loop.linked
    if op.kind == NATS_MSG or op.kind == NATS_HMSG:
        if op.sid == SID_NAME or op.sid == SID_PROBE:
            link_on_name(loop, op)
        elif link.state == LINK_UP and is_presence(op.sid):
            presence_message(loop, op)
        elif link.state == LINK_UP:
            link_message(loop, op)
    elif op.kind == NATS_PING:
        if not link.blocked:
            link_write(loop, b"PONG\r\n", 6)
        elif link.owed < NATS_PONGS:
            link.owed += 1
    elif op.kind == NATS_PONG:
        link_pong(loop)
    elif op.kind == NATS_INFO:
        link_info(loop, op)
    elif op.kind == NATS_ERR:
        link_error(loop, op.text, op.text_len)


cdef inline bint link_parse(Loop* loop, uint32_t* budget) noexcept nogil:
    """Handles whole operations, and of what is too large to be kept the head. False where some are left that the budget
    does not cover."""
    cdef Link* link = loop.linked
    cdef NatsOp op
    cdef int64_t used
    cdef size_t need
    cdef uint32_t n
    while link.buffer_start < link.buffer_used:
        if link.skip:
            buffer_skip(link)
            continue
        loop.work += 1
        if budget[0] == 0 or step_is_over(loop):
            return False
        n = link.buffer_used - link.buffer_start
        used = nats_parse(<const char*>link.buffer + link.buffer_start, n, NATS_MOST, &op)
        if used == -2 and buffer_oversize(loop, <const char*>link.buffer + link.buffer_start, n, &op, &need):
            if n < need:
                return True
            used = <int64_t>need
            link.skip = op.headers_len + op.payload_len + 2 - (0 if op.headers == NULL else op.headers_len)
        if used == -2:
            return True
        if used < 0:
            link_end(loop, b"the NATS server broke the protocol")
            return True
        link.buffer_start += <uint32_t>used
        budget[0] -= 1
        link_operation(loop, &op)
        if link.state == LINK_IDLE:
            return True
    link.buffer_start = link.buffer_used = 0
    return True


cdef inline void link_got_none(Loop* loop, ssize_t got) noexcept nogil:
    cdef Link* link = loop.linked
    if got == GOT_BLOCKED:
        link.blocked = True
        link_watch(loop, EPOLL_CTL_MOD)
    elif got != GOT_NOTHING:
        link_end(loop, b"the NATS server closed the connection")


cdef inline void link_read(Loop* loop) noexcept nogil:
    cdef Link* link = loop.linked
    cdef uint32_t budget = NATS_OPS_PER_TURN, reads = NATS_READS
    cdef ssize_t got
    cdef size_t room
    if link.state == LINK_SECURING:
        link_secure(loop)
        return
    while reads and link.state > LINK_DIALING:
        link.more = not link_parse(loop, &budget)
        if link.more or link.state == LINK_IDLE:
            return
        if not buffer_room(loop):
            link_end(loop, b"no memory for what NATS sends")
            return
        reads -= 1
        room = link.buffer_size - link.buffer_used
        got = link_recv(loop, link.buffer + link.buffer_used, room)
        if got <= 0:
            link_got_none(loop, got)
            return
        loop.n[C_NATS_BYTES_IN] += <uint64_t>got
        link.heard = loop.tick
        link.buffer_used += <uint32_t>got
        if link.tls == NULL and <size_t>got < room:
            reads = 0
            link.more = not link_parse(loop, &budget)
    if link.tls != NULL and reads == 0:  # there may be more in the session, of which epoll knows nothing
        link.more = True


cdef inline bint link_has_output(const Link* link) noexcept nogil:
    """Whether link_flush has anything to do."""
    return link.dirty | link.syncing or link.resume < link.subs_used


cdef inline void pongs_write(Loop* loop) noexcept nogil:
    """What is owed to a server that pings, once it takes anything."""
    cdef Link* link = loop.linked
    while link.owed and link_write(loop, b"PONG\r\n", 6):
        link.owed -= 1


cdef inline void link_flush(Loop* loop) noexcept nogil:
    """At the end of an iteration: a PING behind new SUBs, then all that is queued, as far as the socket takes it."""
    cdef Link* link = loop.linked
    cdef uint32_t before
    cdef int wrote
    if link.state <= LINK_DIALING or link.state == LINK_SECURING:
        return
    if link.resume < link.subs_used and link.state == LINK_UP:
        subs_resume(loop)
    if SE_RARE(link.syncing):
        if link.fresh_used:
            fresh_write(loop)
        if link.fresh_used == 0:
            link.syncing = False
            link_ping(loop)
    if not link.dirty or link.blocked:
        return
    before = link.out.bytes
    wrote = link_send_queued(loop, LINK_ROUNDS)
    loop.n[C_NATS_BYTES_OUT] += before - link.out.bytes
    if link.out.bytes <= loop.hub.set.nats_pending // 2:
        se_store_relaxed(&loop.hub.clogged, 0)
    if wrote == WROTE_NONE:
        link_end(loop, b"the NATS server closed the connection")
    elif wrote == WROTE_ALL:
        link.dirty = False
    elif not queue_to_heap(loop, &link.out):
        link_end(loop, b"no memory for what waits for NATS")
    else:
        link.blocked = True
        link_watch(loop, EPOLL_CTL_MOD)


cdef inline void link_writable(Loop* loop) noexcept nogil:
    cdef Link* link = loop.linked
    if link.state == LINK_DIALING:
        link_dialed(loop)
    elif link.state == LINK_SECURING:
        link_secure(loop)
    elif link.blocked:
        link.blocked = False
        queue_expire(loop, &link.out)
        ttls_refresh(loop)
        pongs_write(loop)
        link_flush(loop)
        if link.state != LINK_IDLE and not link.blocked:
            link_watch(loop, EPOLL_CTL_MOD)
        if link.tls != NULL:
            link_read(loop)


cdef inline uint32_t link_patience_busy(const Loop* loop) noexcept nogil:
    """As link_patience: operations left over, a cursor on its way, subscriptions to be made again. Of a blocked link,
    up to the next look at what has waited too long."""
    cdef const Link* link = loop.linked
    cdef uint32_t gone = loop.tick - link.looked
    cdef uint32_t ticks = LINK_LOOK
    if link.again:
        ticks = 1
    elif link.state == LINK_UP:
        ticks = beat_patience(link, loop.tick)
    if link.more or link.asking:
        return 0
    if not link.blocked:
        return 0 if link.walks or (link.state == LINK_UP and link.resume < link.subs_used) else ticks
    if gone >= BLOCKED_LOOK:
        return 1
    return ticks if ticks < BLOCKED_LOOK - gone else BLOCKED_LOOK - gone


cdef inline uint32_t link_patience(const Loop* loop) noexcept nogil:
    """Ticks that the link's loop may sleep: up to the next heartbeat, LINK_LOOK at most; 0: there is work already."""
    cdef const Link* link = loop.linked
    if SE_RARE(link.more | link.blocked | link.again | link.asking | link.walks):
        return link_patience_busy(loop)
    if link.state != LINK_UP:
        return LINK_LOOK
    if SE_RARE(link.resume < link.subs_used):
        return 0
    return beat_patience(link, loop.tick)


cdef inline void link_tick(Loop* loop) noexcept nogil:
    """Each tick: patience of the state, keepalive, subscriptions still to be made again."""
    cdef Link* link = loop.linked
    if link.due and link.due <= loop.tick:
        if link.state == LINK_NAMING:
            link_up(loop)
        elif link.state == LINK_SECURING:
            link_end(loop, b"the TLS handshake with the NATS server took too long")
        elif link.state == LINK_LOGIN or link.state == LINK_ASKING:
            link_end(loop, b"the login at the NATS server took too long")
        else:
            link_end(loop, b"the NATS server does not answer")
    buffer_shrink(loop)
    info_tick(loop)
    errors_tick(loop)
    if link.state != LINK_UP:
        return
    subs_again(loop)
    if link.blocked and loop.tick - link.looked >= BLOCKED_LOOK:
        link.looked = loop.tick
        queue_expire(loop, &link.out)
    if loop.tick - link.heard >= KEEPALIVE_TICKS + SILENCE_TICKS:
        link_end(loop, b"the NATS server fell silent")
    elif loop.tick - link.heard >= KEEPALIVE_TICKS and not link.asked:
        link.asked = True
        link.syncing = True
