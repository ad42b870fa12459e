"""Messages that come from NATS. L4. Source: the protocol, §6."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp
from signal_core.address cimport local_parse, ref_valid
from signal_core.answers cimport code_parse
from signal_core.counters cimport C_NATS_IN, C_NATS_MALFORMED, C_RECEIPTS_LOST
from signal_core.gaps cimport gap_note
from signal_core.ledger cimport count_message
from signal_core.memory cimport TELL_NOBODY, TELL_SUBJECT
from signal_core.natsout cimport nats_receipt
from signal_core.natswire cimport NatsHeaders, NatsOp, nats_headers_parse
from signal_core.packet cimport Packet, expiry
from signal_core.post cimport loop_of
from signal_core.roomtable cimport WORD_LOOPS, WORD_SHIFT, RoomEntry, entry_loops
from signal_core.route cimport route_id, route_room, tell_peer
from signal_core.state cimport CODE_NO_SUCH_PEER, CODE_OK, CODE_TOO_LARGE, Hub, Link, Loop
from signal_core.subs cimport FIRST_SID
from signal_core.sys cimport se_load16_seqcst, se_load_relaxed
from signal_core.utf8 cimport utf8_valid

cdef enum:
    REPLY_MAX = 512           # bytes of a reply subject that we would answer


cdef inline void inbound_packet(Loop* loop, const NatsOp* op, const NatsHeaders* h, Packet* p) noexcept nogil:
    """`ref` is the sender's where the reply subject is `<prefix>.peer.<sender>.<ref>`."""
    cdef Hub* hub = loop.hub
    cdef uint32_t skip = hub.prefix_len + 6 + h.sender_len
    p[0] = Packet(
        origin=0, sender=h.sender, sender_len=h.sender_len,
        ref=NULL, ref_len=0, re=NULL, re_len=0, user=h.user, user_len=h.user_len,
        payload=<const uint8_t*>op.payload, size=op.payload_len, binary=False, remote=True,
        expires=expiry(loop, h.ttl_ms), ttl_ms=-1, tell=TELL_NOBODY, tell_text=NULL, tell_len=0)
    if h.sender_len == 0:
        p.sender = b"-"
        p.sender_len = 1
    p.binary = h.binary or not utf8_valid(p.payload, p.size)
    if (h.sender_len and op.reply_len > skip + 1 and op.reply[skip] == c"."
            and memcmp(op.reply, hub.prefix, hub.prefix_len) == 0
            and memcmp(op.reply + hub.prefix_len, b".peer.", 6) == 0
            and memcmp(op.reply + hub.prefix_len + 6, h.sender, h.sender_len) == 0
            and ref_valid(op.reply + skip + 1, op.reply_len - skip - 1)):
        p.ref = op.reply + skip + 1
        p.ref_len = op.reply_len - skip - 1


cdef inline void room_missed(Loop* loop, RoomEntry* entry) noexcept nogil:
    """A message to a room that goes no further than here: its members on each loop hear GAP."""
    cdef uint32_t index
    for index in range(loop.hub.nloops):
        if se_load16_seqcst(&entry_loops(entry)[index >> WORD_SHIFT]) >> (index & (WORD_LOOPS - 1)) & 1:
            gap_note(loop, loop.hub.loops[index], entry.serial, entry.hash, 1)


cdef inline void inbound_room(Loop* loop, const NatsOp* op, const NatsHeaders* h) noexcept nogil:
    cdef Link* link = loop.linked
    cdef uint64_t place = op.sid - FIRST_SID
    cdef RoomEntry* entry = link.subs[place] if place < link.subs_used else NULL
    cdef uint32_t skip = loop.hub.prefix_len + 6
    cdef Packet p
    cdef uint8_t code
    if entry == NULL or op.subject_len != skip + entry.size or memcmp(op.subject + skip, entry.name, entry.size) != 0:
        return
    if h.status:
        return
    if op.payload_len > loop.hub.set.max_message:
        count_message(loop, CODE_TOO_LARGE)
        room_missed(loop, entry)
        return
    inbound_packet(loop, op, h, &p)
    code = route_room(loop, entry.name, entry.size, &p, entry.name[0] == c"@")
    count_message(loop, code)


cdef inline void inbound_answer(Loop* loop, uint64_t id, const NatsHeaders* h, const char* ref,
                                uint32_t n) noexcept nogil:
    """A receipt, or NATS's word that nobody listens: for a TO the peer's node is gone, for a PUB it means nothing.
    Anybody on NATS can send one. Where the loop's inbox has no room it is lost, and its ref hears `timeout`."""
    cdef Hub* hub = loop.hub
    cdef Loop* target = loop_of(hub, id)
    if target == NULL:
        return
    if target != loop and se_load_relaxed(&target.inbox.words) + loop.outbox[target.index].words >= target.inbox.limit:
        loop.n[C_RECEIPTS_LOST] += 1
    elif h.receipt != NULL:
        tell_peer(loop, id, code_parse(h.receipt, h.receipt_len), ref, n)
    elif h.status == 503 and not (h.subject_len > hub.prefix_len + 6
                                  and memcmp(h.subject + hub.prefix_len, b".room.", 6) == 0):
        tell_peer(loop, id, CODE_NO_SUCH_PEER, ref, n)


cdef inline void inbound_peer(Loop* loop, const NatsOp* op, const NatsHeaders* h) noexcept nogil:
    """On `<prefix>.peer.<node>.<local>[.<ref>]`."""
    cdef uint32_t skip = loop.hub.prefix_len + 6 + loop.hub.node_len + 1
    cdef const char* local = op.subject + skip
    cdef uint32_t n = op.subject_len - skip, ref_n = 0
    cdef const char* dot = <const char*>memchr(local, c".", n)
    cdef uint64_t id
    cdef Packet p
    cdef uint8_t code = CODE_NO_SUCH_PEER
    if dot != NULL:
        ref_n = <uint32_t>(local + n - dot) - 1
        n = <uint32_t>(dot - local)
    if local_parse(local, n, &id) > 0 and (dot == NULL or ref_valid(dot + 1, ref_n)):
        if ref_n and (h.receipt != NULL or h.status):
            inbound_answer(loop, id, h, dot + 1, ref_n)
            return
        if h.receipt != NULL or h.status:
            return
        if op.payload_len > loop.hub.set.max_message:  # of which the payload may not even be here
            count_message(loop, CODE_TOO_LARGE)
            if op.reply_len and op.reply_len <= REPLY_MAX:
                nats_receipt(loop, op.reply, op.reply_len, CODE_TOO_LARGE)
            return
        inbound_packet(loop, op, h, &p)
        if ref_n:
            p.re = dot + 1
            p.re_len = ref_n
            # Clients of NATS send a request's headers back with the answer: that is not the peer's own word.
            if h.sender_len == loop.hub.node_len + 1 + n and memcmp(h.sender, local - loop.hub.node_len - 1,
                                                                    h.sender_len) == 0:
                p.sender = b"-"
                p.sender_len = 1
        if op.reply_len and op.reply_len <= REPLY_MAX:
            p.tell = TELL_SUBJECT
            p.tell_text = op.reply
            p.tell_len = op.reply_len
        code = route_id(loop, id, &p)
    count_message(loop, code)
    if code != CODE_OK and op.reply_len and op.reply_len <= REPLY_MAX:
        nats_receipt(loop, op.reply, op.reply_len, code)


cdef inline void link_message(Loop* loop, const NatsOp* op) noexcept nogil:
    """A MSG or HMSG on the peers' subscription or a room's."""
    cdef NatsHeaders h
    loop.n[C_NATS_IN] += 1
    if op.headers_len and op.headers == NULL:  # too many bytes of them to be kept
        loop.n[C_NATS_MALFORMED] += 1
        return
    if nats_headers_parse(op.headers, op.headers_len, &h) < 0 and op.headers_len:
        loop.n[C_NATS_MALFORMED] += 1
    elif op.sid >= FIRST_SID:
        inbound_room(loop, op, &h)
    elif op.subject_len > loop.hub.prefix_len + 6 + loop.hub.node_len + 1:
        inbound_peer(loop, op, &h)
