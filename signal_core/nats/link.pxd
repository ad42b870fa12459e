"""The NATS link: one connection of loop 0 to a NATS server.

Python decides which server to dial and what CONNECT says (KIND_DIAL, KIND_CONNECT). The rest is here: login
(connect.pxd), the check that no other node has this node's name, subscriptions for the rooms, messages both ways.
States: IDLE → DIALING → GREETING → ASKING (→ SECURING) → LOGIN → NAMING → UP. Every failure leads back to LINK_IDLE,
and EVENT_WANT asks Python for another address.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp
from signal_core.base.counters cimport C_NATS_BYTES_IN, C_NATS_BYTES_OUT, C_NATS_CONNECTS
from signal_core.base.limits cimport (
    BLOCKED_LOOK_TICKS, INSTANCE_SIZE, NATS_KEEPALIVE_TICKS, NATS_LOOK_TICKS, NATS_NAMING_TICKS, NATS_OPS_PER_TURN,
    NATS_PONGS, NATS_READS, NATS_ROUNDS, NATS_SILENCE_TICKS, PREFIX_SIZE,
)
from signal_core.base.span cimport Span, span_between, span_none, span_text
from signal_core.base.sys cimport EPOLL_CTL_MOD, SE_RARE, se_store_relaxed, se_store_release
from signal_core.base.text cimport text_put, text_put_span
from signal_core.delivery.nats_publish cimport nats_publish_refresh_ttls, nats_publish_write
from signal_core.delivery.outbox cimport outbox_event
from signal_core.delivery.write_queue cimport WROTE_ALL, WROTE_NONE, write_queue_expire, write_queue_to_heap
from signal_core.nats.connect cimport (
    connect_dialed, connect_end, connect_enter, connect_ping, connect_secure, connect_too_few_subs, connect_watch,
)
from signal_core.nats.errors cimport errors_take, errors_tick
from signal_core.nats.inbound cimport inbound_message
from signal_core.nats.read_buffer cimport (
    read_buffer_left, read_buffer_oversize, read_buffer_room, read_buffer_shrink, read_buffer_skip,
)
from signal_core.nats.server_info cimport server_info_take, server_info_tick
from signal_core.nats.sub_limit cimport (
    sub_limit_again, sub_limit_note_sent, sub_limit_pong, sub_limit_reserve_sent, sub_limit_write_fresh,
)
from signal_core.nats.subscriptions cimport SID_NAME, SID_PEER, SID_PROBE, subscriptions_confirm, subscriptions_resume
from signal_core.nats.tls cimport GOT_BLOCKED, GOT_NOTHING, tls_recv, tls_send_queued
from signal_core.presence.cluster cimport cluster_is_presence, cluster_message, cluster_patience, cluster_up
from signal_core.tables.codes cimport CLUSTER_UP, EVENT_TAKEN, EVENT_UP
from signal_core.tables.link_state cimport (
    LINK_ASKING, LINK_DIALING, LINK_IDLE, LINK_LOGIN, LINK_NAMING, LINK_SECURING, LINK_UP, Link,
    link_instance,
)
from signal_core.tables.state cimport Hub, Loop, hub_node, hub_prefix
from signal_core.tables.turns cimport turns_step_is_over
from signal_core.wire.ids cimport NODE_MAX
from signal_core.wire.nats_format cimport NATS_SUB_SIZE, nats_format_sub
from signal_core.wire.nats_proto cimport (
    NATS_ERR, NATS_HMSG, NATS_INFO, NATS_MSG, NATS_PING, NATS_PONG, NatsOp, nats_proto_parse,
)

cdef enum:
    NAMING_TEXT = 512             # more bytes than the question about the node's name has
    REPLY_MAX = 128               # bytes of the longest subject to which that question is answered
    NODE_SUBJECT_MAX = PREFIX_SIZE + 6 + NODE_MAX  # bytes of that subject
    NATS_MOST = 1 << 30           # bytes of a message: more than the parser takes digits for


cdef inline void _link_name(Loop* loop) noexcept nogil:
    """After login: asks on the subject of this node's name whether another node has it. A 503, or silence for
    NATS_NAMING_TICKS, means no."""
    cdef Span instance = link_instance(loop.linked)
    cdef char own[NODE_SUBJECT_MAX + 1 + INSTANCE_SIZE]
    cdef char* end = _put_node_subject(own, loop.hub)
    cdef Span node = span_between(own, end)
    cdef Span answer = span_between(own, text_put_span(text_put(end, b"."), instance))
    cdef char text[NAMING_TEXT]
    connect_enter(loop, LINK_NAMING, NATS_NAMING_TICKS)
    end = nats_format_sub(nats_format_sub(text, node, SID_NAME), answer, SID_PROBE)
    end = text_put_span(text_put(end, b"PUB "), node)
    end = text_put(text_put_span(text_put(end, b" "), answer), b" 16\r\n")
    end = text_put(text_put_span(end, instance), b"\r\n")
    nats_publish_write(loop, span_between(text, end))


cdef inline char* _put_node_subject(char* out, const Hub* hub) noexcept nogil:
    """Writes `<prefix>.node.<node>`; returns the address behind it."""
    return text_put_span(text_put(text_put_span(out, hub_prefix(hub)), b".node."), hub_node(hub))


cdef inline void _link_up(Loop* loop) noexcept nogil:
    """Subscribes to the subjects of this node and of the rooms with members, once no other node has its name."""
    cdef Hub* hub = loop.hub
    cdef Link* link = loop.linked
    cdef char subject[PREFIX_SIZE + 8 + NODE_MAX]
    cdef char text[PREFIX_SIZE + 8 + NODE_MAX + NATS_SUB_SIZE]
    cdef char* end = text_put_span(text_put(text_put_span(subject, hub_prefix(hub)), b".peer."), hub_node(hub))
    connect_enter(loop, LINK_UP, 0)
    link.number += 1
    loop.n[C_NATS_CONNECTS] += 1
    end = nats_format_sub(text, span_between(subject, text_put(end, b".>")), SID_PEER)
    if not sub_limit_reserve_sent(link) or not nats_publish_write(loop, span_between(text, end)):
        connect_end(loop, b"no memory for the node's own subscriptions")
        return
    sub_limit_note_sent(link, SID_PEER)  # and for those of presence, which follow it
    link.subs.syncing = True
    se_store_release(&hub.ndenied, 0)
    if not cluster_up(loop):
        connect_end(loop, b"no memory for presence")
        return
    link.subs.resume = 0
    subscriptions_resume(loop)
    se_store_release(&hub.link, CLUSTER_UP)


cdef inline void _link_on_name(Loop* loop, const NatsOp* op) noexcept nogil:
    """Handles a message about the node's name: on SID_NAME another node asks, on SID_PROBE one answers, or NATS says
    503 for it."""
    cdef Link* link = loop.linked
    cdef char text[REPLY_MAX + 16]
    cdef char* end
    if op.sid == SID_PROBE:
        if link.state != LINK_NAMING:
            return
        if op.headers.size:
            _link_up(loop)
        else:
            outbox_event(loop, EVENT_TAKEN, 0, hub_node(loop.hub))
            connect_end(loop, b"another node has this node's name")
        return
    if op.payload.at == NULL or op.payload.size != INSTANCE_SIZE or not 0 < op.reply.size <= REPLY_MAX:
        return
    if link.out.bytes > loop.set.nats_pending:  # a flood of requests
        return
    # Of two nodes that ask at the same time, the one with the smaller instance keeps the name.
    if link.state == LINK_UP or memcmp(link.presence.instance, op.payload.at, INSTANCE_SIZE) < 0:
        end = text_put(text_put_span(text_put(text, b"PUB "), op.reply), b" 5\r\ntaken\r\n")
        nats_publish_write(loop, span_between(text, end))


cdef inline void _link_pong(Loop* loop) noexcept nogil:
    """Handles a PONG: it ends the login, or confirms the SUBs before its PING."""
    cdef Link* link = loop.linked
    if link.ponged == link.pinged:
        return  # answers no PING
    link.ponged += 1
    link.asked = False
    if link.state == LINK_LOGIN:
        _link_name(loop)
    elif link.state == LINK_UP:
        if not sub_limit_pong(loop):
            connect_end(loop, connect_too_few_subs())
            return
        if SE_RARE(not link.announced):
            link.announced = True
            outbox_event(loop, EVENT_UP, 0, span_none())
        subscriptions_confirm(loop)
        if SE_RARE(link.leaving and link.ponged >= link.leaving):
            connect_end(loop, b"the NATS server is about to stop")


cdef inline void _link_operation(Loop* loop, const NatsOp* op) noexcept nogil:
    cdef Link* link = loop.linked
    if op.kind == NATS_MSG or op.kind == NATS_HMSG:
        if op.sid == SID_NAME or op.sid == SID_PROBE:
            _link_on_name(loop, op)
        elif link.state == LINK_UP and cluster_is_presence(op.sid):
            cluster_message(loop, op)
        elif link.state == LINK_UP:
            inbound_message(loop, op)
    elif op.kind == NATS_PING:
        if not link.blocked:
            nats_publish_write(loop, span_text(b"PONG\r\n"))
        elif link.owed < NATS_PONGS:
            link.owed += 1
    elif op.kind == NATS_PONG:
        _link_pong(loop)
    elif op.kind == NATS_INFO:
        server_info_take(loop, op)
    elif op.kind == NATS_ERR:
        errors_take(loop, op.text)


cdef inline int64_t _link_next(Loop* loop, NatsOp* op) noexcept nogil:
    """Parses the next operation in the buffer, or the head of a message that is too large to keep, whose rest is then
    skipped. Returns the bytes used; -2: more are needed; -1: a violation of the protocol."""
    cdef Link* link = loop.linked
    cdef Span left = read_buffer_left(link)
    cdef size_t need = 0
    cdef int64_t used = nats_proto_parse(left, NATS_MOST, op)
    if used != -2 or not read_buffer_oversize(loop, left, op, &need) or left.size < need:
        return used
    link.input.skip = op.headers.size + op.payload.size + 2 - (0 if op.headers.at == NULL else op.headers.size)
    return <int64_t>need


cdef inline bint _link_parse(Loop* loop, uint32_t* budget) noexcept nogil:
    """Handles whole operations, at most `budget`. False: some are left for the next iteration."""
    cdef Link* link = loop.linked
    cdef NatsOp op
    cdef int64_t used
    while link.input.start < link.input.used:
        if link.input.skip:
            read_buffer_skip(link)
            continue
        loop.turn.work += 1
        if budget[0] == 0 or turns_step_is_over(loop):
            return False
        used = _link_next(loop, &op)
        if used == -2:
            return True
        if used < 0:
            connect_end(loop, b"the NATS server violated the protocol")
            return True
        link.input.start += <uint32_t>used
        budget[0] -= 1
        _link_operation(loop, &op)
        if link.state == LINK_IDLE:
            return True
    link.input.start = link.input.used = 0
    return True


cdef inline void _link_got_none(Loop* loop, ssize_t got) noexcept nogil:
    """Handles a result of tls_recv that is no bytes."""
    cdef Link* link = loop.linked
    if got == GOT_BLOCKED:
        link.blocked = True
        connect_watch(loop, EPOLL_CTL_MOD)
    elif got != GOT_NOTHING:
        connect_end(loop, b"the NATS server closed the connection")


cdef inline ssize_t _link_recv(Loop* loop, size_t* room) noexcept nogil:
    """Reads what fits into the buffer, and sets `room` to the bytes that were free in it. Returns as tls_recv."""
    cdef Link* link = loop.linked
    cdef ssize_t got
    room[0] = link.input.size - link.input.used
    got = tls_recv(loop, link.input.data + link.input.used, room[0])
    if got > 0:
        loop.n[C_NATS_BYTES_IN] += <uint64_t>got
        link.heard = loop.tick
        link.input.used += <uint32_t>got
    return got


cdef inline void link_read(Loop* loop) noexcept nogil:
    """Reads from a readable socket, at most NATS_READS times, and handles at most NATS_OPS_PER_TURN operations."""
    cdef Link* link = loop.linked
    cdef uint32_t budget = NATS_OPS_PER_TURN, reads = NATS_READS
    cdef ssize_t got
    cdef size_t room
    if link.state == LINK_SECURING:
        connect_secure(loop)
        return
    while reads and link.state > LINK_DIALING:
        link.more = not _link_parse(loop, &budget)
        if link.more or link.state == LINK_IDLE:
            return
        if not read_buffer_room(loop):
            connect_end(loop, b"no memory for input from NATS")
            return
        reads -= 1
        got = _link_recv(loop, &room)
        if got <= 0:
            _link_got_none(loop, got)
            return
        if link.tls.session == NULL and <size_t>got < room:
            reads = 0
            link.more = not _link_parse(loop, &budget)
    if link.tls.session != NULL and reads == 0:  # OpenSSL may hold more, which epoll does not report
        link.more = True


cdef inline bint link_has_output(const Link* link) noexcept nogil:
    """Whether link_flush has anything to do."""
    return link.dirty | link.subs.syncing or link.subs.resume < link.subs.used


cdef inline void _pongs_write(Loop* loop) noexcept nogil:
    """Writes the PONGs that are owed to the server, as far as there is memory."""
    cdef Link* link = loop.linked
    while link.owed and nats_publish_write(loop, span_text(b"PONG\r\n")):
        link.owed -= 1


cdef inline void _subs_flush(Loop* loop) noexcept nogil:
    """Queues the SUBs of the iteration, and once no more wait, a PING behind them."""
    cdef Link* link = loop.linked
    if link.limit.fresh_used:
        sub_limit_write_fresh(loop)
    if link.limit.fresh_used == 0:
        link.subs.syncing = False
        connect_ping(loop)


cdef inline void _link_write(Loop* loop) noexcept nogil:
    """Writes the queue as far as the socket takes it."""
    cdef Link* link = loop.linked
    cdef uint32_t before = link.out.bytes
    cdef int wrote = tls_send_queued(loop, NATS_ROUNDS)
    loop.n[C_NATS_BYTES_OUT] += before - link.out.bytes
    if link.out.bytes <= loop.set.nats_pending // 2:
        se_store_relaxed(&loop.hub.clogged, 0)
    if wrote == WROTE_NONE:
        connect_end(loop, b"the NATS server closed the connection")
    elif wrote == WROTE_ALL:
        link.dirty = False
    elif not write_queue_to_heap(loop, &link.out):
        connect_end(loop, b"no memory for output to NATS")
    else:
        link.blocked = True
        connect_watch(loop, EPOLL_CTL_MOD)


cdef inline void link_flush(Loop* loop) noexcept nogil:
    """At the end of an iteration: queues new SUBs with a PING behind them, then writes the queue."""
    cdef Link* link = loop.linked
    if link.state <= LINK_DIALING or link.state == LINK_SECURING:
        return
    if link.subs.resume < link.subs.used and link.state == LINK_UP:
        subscriptions_resume(loop)
    if SE_RARE(link.subs.syncing):
        _subs_flush(loop)
    if link.dirty and not link.blocked:
        _link_write(loop)


cdef inline void link_writable(Loop* loop) noexcept nogil:
    """Handles a writable or broken socket: continues the connect, the TLS handshake, or the queue."""
    cdef Link* link = loop.linked
    if link.state == LINK_DIALING:
        connect_dialed(loop)
    elif link.state == LINK_SECURING:
        connect_secure(loop)
    elif link.blocked:
        link.blocked = False
        write_queue_expire(loop, &link.out)
        nats_publish_refresh_ttls(loop)
        _pongs_write(loop)
        link_flush(loop)
        if link.state != LINK_IDLE and not link.blocked:
            connect_watch(loop, EPOLL_CTL_MOD)
        if link.tls.session != NULL:
            link_read(loop)


cdef inline uint32_t _link_patience_busy(const Loop* loop) noexcept nogil:
    """link_patience while operations are left over, presence has work, or the link is blocked. A blocked link sleeps
    at most until the next check for expired messages."""
    cdef const Link* link = loop.linked
    cdef uint32_t gone = loop.tick - link.looked
    cdef uint32_t ticks = NATS_LOOK_TICKS
    if link.presence.again:
        ticks = 1
    elif link.state == LINK_UP:
        ticks = cluster_patience(link, loop.tick)
    if link.more or link.presence.asking:
        return 0
    if not link.blocked:
        return 0 if link.presence.walks or (link.state == LINK_UP and link.subs.resume < link.subs.used) else ticks
    if gone >= BLOCKED_LOOK_TICKS:
        return 1
    return ticks if ticks < BLOCKED_LOOK_TICKS - gone else BLOCKED_LOOK_TICKS - gone


cdef inline uint32_t link_patience(const Loop* loop) noexcept nogil:
    """Returns for how many ticks its loop may sleep: to the next heartbeat, at most NATS_LOOK_TICKS; 0: it has work."""
    cdef const Link* link = loop.linked
    if SE_RARE(link.more | link.blocked | link.presence.again | link.presence.asking | link.presence.walks):
        return _link_patience_busy(loop)
    if link.state != LINK_UP:
        return NATS_LOOK_TICKS
    if SE_RARE(link.subs.resume < link.subs.used):
        return 0
    return cluster_patience(link, loop.tick)


cdef inline void _link_timed_out(Loop* loop) noexcept nogil:
    """The state has lasted too long: no other node has the name, or the connection is given up."""
    cdef uint32_t state = loop.linked.state
    if state == LINK_NAMING:
        _link_up(loop)
    elif state == LINK_SECURING:
        connect_end(loop, b"the TLS handshake with the NATS server took too long")
    elif state == LINK_LOGIN or state == LINK_ASKING:
        connect_end(loop, b"the login at the NATS server took too long")
    else:
        connect_end(loop, b"the NATS server did not answer")


cdef inline void link_tick(Loop* loop) noexcept nogil:
    """Each tick: ends a state that lasted too long, keepalive, subscriptions that are tried again."""
    cdef Link* link = loop.linked
    if link.due and link.due <= loop.tick:
        _link_timed_out(loop)
    read_buffer_shrink(loop)
    server_info_tick(loop)
    errors_tick(loop)
    if link.state != LINK_UP:
        return
    sub_limit_again(loop)
    if link.blocked and loop.tick - link.looked >= BLOCKED_LOOK_TICKS:
        link.looked = loop.tick
        write_queue_expire(loop, &link.out)
    if loop.tick - link.heard >= NATS_KEEPALIVE_TICKS + NATS_SILENCE_TICKS:
        connect_end(loop, b"the NATS server fell silent")
    elif loop.tick - link.heard >= NATS_KEEPALIVE_TICKS and not link.asked:
        link.asked = True
        link.subs.syncing = True
