"""Routes messages from NATS to rooms and peers of this node (docs/protocol.md §6). Loop 0 only."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memchr, memcmp
from signal_core.base.counters cimport C_NATS_IN, C_NATS_MALFORMED, C_RECEIPTS_LOST
from signal_core.base.kinds cimport TELL_NOBODY, TELL_SUBJECT
from signal_core.base.sys cimport se_load16_seqcst, se_load_relaxed
from signal_core.delivery.drop_notice cimport drop_notice_note
from signal_core.delivery.envelope cimport Message, message_expiry
from signal_core.delivery.ledger cimport ledger_count
from signal_core.delivery.nats_publish cimport nats_publish_receipt
from signal_core.delivery.outbox cimport outbox_loop_of
from signal_core.delivery.replies cimport replies_code_parse
from signal_core.nats.subscriptions cimport FIRST_SID
from signal_core.route.receipts cimport receipts_tell_peer
from signal_core.route.route cimport route_id, route_room
from signal_core.tables.codes cimport CODE_NO_SUCH_PEER, CODE_OK, CODE_TOO_LARGE
from signal_core.tables.link_state cimport Link
from signal_core.tables.room_table cimport WORD_LOOPS, WORD_SHIFT, RoomEntry, room_entry_loops
from signal_core.tables.state cimport Hub, Loop
from signal_core.wire.ids cimport ids_parse_local, ids_ref_valid
from signal_core.wire.nats_proto cimport NatsHeaders, NatsOp, nats_headers_parse
from signal_core.wire.utf8 cimport utf8_valid

cdef enum:
    REPLY_MAX = 512           # bytes of a reply subject; a longer one is not answered


cdef inline void _inbound_packet(Loop* loop, const NatsOp* op, const NatsHeaders* h, Message* p) noexcept nogil:
    """Makes a Message, which points into `op`. It has a ref if the reply subject is `<prefix>.peer.<sender>.<ref>`."""
    cdef Hub* hub = loop.hub
    cdef uint32_t skip = hub.prefix_len + 6 + h.sender_len
    p[0] = Message(
        origin=0, sender=h.sender, sender_len=h.sender_len,
        ref=NULL, ref_len=0, re=NULL, re_len=0, user=h.user, user_len=h.user_len,
        payload=<const uint8_t*>op.payload, size=op.payload_len, binary=False, remote=True,
        expires=message_expiry(loop, h.ttl_ms), ttl_ms=-1, tell=TELL_NOBODY, tell_text=NULL, tell_len=0)
    if h.sender_len == 0:
        p.sender = b"-"
        p.sender_len = 1
    p.binary = h.binary or not utf8_valid(p.payload, p.size)
    if (h.sender_len and op.reply_len > skip + 1 and op.reply[skip] == c"."
            and memcmp(op.reply, hub.prefix, hub.prefix_len) == 0
            and memcmp(op.reply + hub.prefix_len, b".peer.", 6) == 0
            and memcmp(op.reply + hub.prefix_len + 6, h.sender, h.sender_len) == 0
            and ids_ref_valid(op.reply + skip + 1, op.reply_len - skip - 1)):
        p.ref = op.reply + skip + 1
        p.ref_len = op.reply_len - skip - 1


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
    cdef uint32_t skip = loop.hub.prefix_len + 6
    cdef Message p
    cdef uint8_t code
    if entry == NULL or op.subject_len != skip + entry.size or memcmp(op.subject + skip, entry.name, entry.size) != 0:
        return
    if h.status:
        return
    if op.payload_len > loop.hub.set.max_message:
        ledger_count(loop, CODE_TOO_LARGE)
        _room_missed(loop, entry)
        return
    _inbound_packet(loop, op, h, &p)
    code = route_room(loop, entry.name, entry.size, &p, entry.name[0] == c"@")
    ledger_count(loop, code)


cdef inline void _inbound_answer(Loop* loop, uint64_t id, const NatsHeaders* h, const char* ref,
                                 uint32_t n) noexcept nogil:
    """Handles a receipt, or a 503 from NATS (no responders): it fails a TO, and is ignored for a PUB. Anybody on NATS
    can send either. If the mailbox of the sender's loop is full it is lost, and its ref gets `timeout`."""
    cdef Hub* hub = loop.hub
    cdef Loop* target = outbox_loop_of(hub, id)
    if target == NULL:
        return
    if (target != loop and se_load_relaxed(&target.mailbox.tasks) + loop.post.chains[target.index].tasks
            >= target.mailbox.limit):
        loop.n[C_RECEIPTS_LOST] += 1
    elif h.receipt != NULL:
        receipts_tell_peer(loop, id, replies_code_parse(h.receipt, h.receipt_len), ref, n)
    elif h.status == 503 and not (h.subject_len > hub.prefix_len + 6
                                  and memcmp(h.subject + hub.prefix_len, b".room.", 6) == 0):
        receipts_tell_peer(loop, id, CODE_NO_SUCH_PEER, ref, n)


cdef inline void _inbound_settle(Loop* loop, const NatsOp* op, uint8_t code) noexcept nogil:
    """Counts a message to a peer. If it was not routed and the sender wants a receipt, sends it."""
    ledger_count(loop, code)
    if code != CODE_OK and op.reply_len and op.reply_len <= REPLY_MAX:
        nats_publish_receipt(loop, op.reply, op.reply_len, code)


cdef inline bint _inbound_target(const Hub* hub, const NatsOp* op, uint64_t* id, const char** ref,
                                 uint32_t* ref_n) noexcept nogil:
    """Parses the subject: the peer's id, and the ref behind it, `ref_n` 0 if there is none. False: it is malformed."""
    cdef uint32_t skip = hub.prefix_len + 6 + hub.node_len + 1
    cdef const char* local = op.subject + skip
    cdef uint32_t n = op.subject_len - skip
    cdef const char* dot = <const char*>memchr(local, c".", n)
    ref_n[0] = 0
    if dot != NULL:
        ref[0] = dot + 1
        ref_n[0] = <uint32_t>(local + n - dot) - 1
        n = <uint32_t>(dot - local)
    return ids_parse_local(local, n, id) > 0 and (dot == NULL or ids_ref_valid(dot + 1, ref_n[0]))


cdef inline bint _is_from_itself(const Hub* hub, const NatsOp* op, const NatsHeaders* h,
                                 const char* ref) noexcept nogil:
    """Whether the receiver, whose name ends before `ref` in the subject, is the sender in the headers as well."""
    cdef const char* peer = op.subject + hub.prefix_len + 6
    return h.sender_len == <size_t>(ref - 1 - peer) and memcmp(h.sender, peer, h.sender_len) == 0


cdef inline void _inbound_peer(Loop* loop, const NatsOp* op, const NatsHeaders* h) noexcept nogil:
    """Routes a message on `<prefix>.peer.<node>.<local>[.<ref>]`."""
    cdef const char* ref = NULL
    cdef uint32_t ref_n
    cdef uint64_t id
    cdef Message p
    if not _inbound_target(loop.hub, op, &id, &ref, &ref_n):
        _inbound_settle(loop, op, CODE_NO_SUCH_PEER)
    elif h.receipt != NULL or h.status:
        if ref_n:
            _inbound_answer(loop, id, h, ref, ref_n)
    elif op.payload_len > loop.hub.set.max_message:  # its payload may have been skipped
        _inbound_settle(loop, op, CODE_TOO_LARGE)
    else:
        _inbound_packet(loop, op, h, &p)
        if ref_n:
            p.re = ref
            p.re_len = ref_n
            if _is_from_itself(loop.hub, op, h, ref):  # NATS clients copy a request's headers to the answer
                p.sender = b"-"
                p.sender_len = 1
        if op.reply_len and op.reply_len <= REPLY_MAX:
            p.tell = TELL_SUBJECT
            p.tell_text = op.reply
            p.tell_len = op.reply_len
        _inbound_settle(loop, op, route_id(loop, id, &p))


cdef inline void inbound_message(Loop* loop, const NatsOp* op) noexcept nogil:
    """Handles a MSG or HMSG on the subscription for this node's peers, or for a room."""
    cdef NatsHeaders h
    loop.n[C_NATS_IN] += 1
    if op.headers_len and op.headers == NULL:  # too large, so skipped
        loop.n[C_NATS_MALFORMED] += 1
        return
    if nats_headers_parse(op.headers, op.headers_len, &h) < 0 and op.headers_len:
        loop.n[C_NATS_MALFORMED] += 1
    elif op.sid >= FIRST_SID:
        _inbound_room(loop, op, &h)
    elif op.subject_len > loop.hub.prefix_len + 6 + loop.hub.node_len + 1:
        _inbound_peer(loop, op, &h)
