"""Routes messages from NATS to rooms and peers of this node (docs/protocol.md §6). Loop 0 only."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp
from signal_core.base.counters cimport C_NATS_IN, C_NATS_MALFORMED, C_RECEIPTS_LOST
from signal_core.base.kinds cimport TELL_SUBJECT
from signal_core.base.span cimport Span, span_from, span_none, span_of, span_same, span_starts, span_text, span_until
from signal_core.base.sys cimport se_load16_seqcst, se_load_relaxed
from signal_core.delivery.drop_notice cimport drop_notice_note
from signal_core.delivery.envelope cimport Message, message_init
from signal_core.delivery.ledger cimport ledger_count
from signal_core.delivery.nats_publish cimport nats_publish_receipt
from signal_core.delivery.outbox cimport outbox_loop_of
from signal_core.delivery.replies cimport replies_code_parse
from signal_core.nats.subscriptions cimport FIRST_SID
from signal_core.route.receipts cimport receipts_tell_peer
from signal_core.route.route cimport route_id, route_room
from signal_core.tables.codes cimport CODE_NO_SUCH_PEER, CODE_OK, CODE_TOO_LARGE
from signal_core.tables.link_state cimport Link
from signal_core.tables.room_table cimport WORD_LOOPS, WORD_SHIFT, RoomEntry, room_entry_loops, room_entry_name
from signal_core.tables.state cimport Hub, Loop, hub_prefix
from signal_core.wire.ids cimport LOCAL_TEXT, ids_parse_local, ids_ref_valid
from signal_core.wire.nats_format cimport NATS_KIND_SIZE
from signal_core.wire.nats_proto cimport NatsHeaders, NatsOp, nats_headers_parse
from signal_core.wire.utf8 cimport utf8_valid

cdef enum:
    REPLY_MAX = 512           # bytes of a reply subject; a longer one is not answered


cdef inline Span _inbound_ref(const Hub* hub, const NatsOp* op, Span sender) noexcept nogil:
    """The ref, if the reply subject is `<prefix>.peer.<sender>.<ref>`; else NULL."""
    cdef Span prefix = hub_prefix(hub), rest, ref
    if sender.size == 0 or op.reply.size <= prefix.size + NATS_KIND_SIZE + sender.size + 1:
        return span_none()
    rest = span_from(op.reply, prefix.size)
    ref = span_from(rest, NATS_KIND_SIZE + sender.size + 1)
    if ((ref.at - 1)[0] == c"." and memcmp(op.reply.at, prefix.at, prefix.size) == 0
            and memcmp(rest.at, b".peer.", NATS_KIND_SIZE) == 0
            and memcmp(rest.at + NATS_KIND_SIZE, sender.at, sender.size) == 0 and ids_ref_valid(ref)):
        return ref
    return span_none()


cdef inline void _inbound_fill(Loop* loop, const NatsOp* op, const NatsHeaders* h, Message* p) noexcept nogil:
    """Fills a Message, which points into `op`."""
    message_init(p, loop, h.sender if h.sender.size else span_text(b"-"), op.payload, h.ttl_ms)
    p.ttl_ms = -1
    p.user = h.user
    p.ref = _inbound_ref(loop.hub, op, h.sender)
    p.binary = h.binary or not utf8_valid(<const uint8_t*>op.payload.at, op.payload.size)
    p.remote = True


cdef inline void _room_missed(Loop* loop, RoomEntry* entry) noexcept nogil:
    """Notes that a room's members on every loop have missed a message: they get GAP."""
    cdef uint32_t index
    for index in range(loop.hub.nloops):
        if se_load16_seqcst(&room_entry_loops(entry)[index >> WORD_SHIFT]) >> (index & (WORD_LOOPS - 1)) & 1:
            drop_notice_note(loop, loop.hub.loops[index], entry.serial, entry.hash, 1)


cdef inline void _inbound_room(Loop* loop, const NatsOp* op, const NatsHeaders* h) noexcept nogil:
    """Routes a message on `<prefix>.room.<room>`. One over max-message is a drop on every loop with members."""
    cdef Link* link = loop.linked
    cdef uint64_t index = op.sid - FIRST_SID
    cdef RoomEntry* entry = link.subs.rooms[index] if index < link.subs.used else NULL
    cdef size_t skip = loop.hub.prefix_len + NATS_KIND_SIZE
    cdef Message p
    cdef uint8_t code
    if entry == NULL or op.subject.size < skip or not span_same(span_from(op.subject, skip), room_entry_name(entry)):
        return
    if h.status:
        return
    if op.payload.size > loop.set.max_message:
        ledger_count(loop, CODE_TOO_LARGE)
        _room_missed(loop, entry)
        return
    _inbound_fill(loop, op, h, &p)
    code = route_room(loop, room_entry_name(entry), &p, entry.name[0] == c"@")
    ledger_count(loop, code)


cdef inline void _inbound_answer(Loop* loop, uint64_t id, const NatsHeaders* h, Span ref) noexcept nogil:
    """Handles a receipt, or NATS's status that nothing has subscribed to a subject: for a TO that means that the peer's
    node is gone, for a PUB nothing. Any NATS client can send one. If the loop's mailbox is full it is lost, and its ref
    gets `timeout`."""
    cdef Hub* hub = loop.hub
    cdef Loop* target = outbox_loop_of(hub, id)
    if target == NULL:
        return
    if (target != loop and se_load_relaxed(&target.mailbox.tasks) + loop.post.chains[target.index].tasks
            >= se_load_relaxed(&target.mailbox.limit)):
        loop.n[C_RECEIPTS_LOST] += 1
    elif h.receipt.at != NULL:
        receipts_tell_peer(loop, id, replies_code_parse(h.receipt), ref)
    elif h.status == 503 and not (h.subject.size > hub.prefix_len + NATS_KIND_SIZE
                                  and span_starts(span_from(h.subject, hub.prefix_len), b".room.")):
        receipts_tell_peer(loop, id, CODE_NO_SUCH_PEER, ref)


cdef inline void _inbound_settle(Loop* loop, const NatsOp* op, uint8_t code) noexcept nogil:
    """Counts a message to a peer. If it was not routed and the sender wants a receipt, sends it."""
    ledger_count(loop, code)
    if code != CODE_OK and op.reply.size and op.reply.size <= REPLY_MAX:
        nats_publish_receipt(loop, op.reply, code)


cdef inline bint _inbound_target(const Hub* hub, const NatsOp* op, uint64_t* id, Span* ref) noexcept nogil:
    """Parses the subject: the peer's id, and the ref behind it if there is one. False: it is malformed."""
    cdef Span rest = span_from(op.subject, hub.prefix_len + NATS_KIND_SIZE + hub.node_len + 1)
    cdef Span local = span_of(rest.at, span_until(rest, c"."))
    ref[0] = span_none() if local.size == rest.size else span_from(rest, local.size + 1)
    return ids_parse_local(local, id) > 0 and (ref.at == NULL or ids_ref_valid(ref[0]))


cdef inline bint _is_from_itself(const Hub* hub, const NatsOp* op, const NatsHeaders* h) noexcept nogil:
    """Whether the headers name the receiver as the sender."""
    return span_same(h.sender, span_of(op.subject.at + hub.prefix_len + NATS_KIND_SIZE, hub.node_len + 1 + LOCAL_TEXT))


cdef inline void _inbound_peer(Loop* loop, const NatsOp* op, const NatsHeaders* h) noexcept nogil:
    """Routes a message on `<prefix>.peer.<node>.<local>[.<ref>]`."""
    cdef Span ref
    cdef uint64_t id
    cdef Message p
    if not _inbound_target(loop.hub, op, &id, &ref):
        _inbound_settle(loop, op, CODE_NO_SUCH_PEER)
    elif h.receipt.at != NULL or h.status:
        if ref.size:
            _inbound_answer(loop, id, h, ref)
    elif op.payload.size > loop.set.max_message:  # its payload may have been skipped
        _inbound_settle(loop, op, CODE_TOO_LARGE)
    else:
        _inbound_fill(loop, op, h, &p)
        p.re = ref
        if ref.size and _is_from_itself(loop.hub, op, h):  # NATS clients copy a request's headers to the answer
            p.sender = span_text(b"-")
        if op.reply.size and op.reply.size <= REPLY_MAX:
            p.tell = TELL_SUBJECT
            p.tell_text = op.reply
        _inbound_settle(loop, op, route_id(loop, id, &p))


cdef inline void inbound_message(Loop* loop, const NatsOp* op) noexcept nogil:
    """Handles a MSG or HMSG on the subscription for this node's peers, or for a room."""
    cdef NatsHeaders h
    loop.n[C_NATS_IN] += 1
    if op.headers.size and op.headers.at == NULL:  # too large, so skipped
        loop.n[C_NATS_MALFORMED] += 1
        return
    if nats_headers_parse(op.headers, &h) < 0 and op.headers.size:
        loop.n[C_NATS_MALFORMED] += 1
    elif op.sid >= FIRST_SID:
        _inbound_room(loop, op, &h)
    elif op.subject.size > loop.hub.prefix_len + NATS_KIND_SIZE + loop.hub.node_len + 1:
        _inbound_peer(loop, op, &h)
