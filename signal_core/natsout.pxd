"""What goes out to NATS, from any loop to the link's. L3."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, strlen
from signal_core.counters cimport (
    C_ATTEMPTED, C_DROPPED_EXPIRED, C_DROPPED_NATS, C_NATS_OUT, C_PRESENCE_LOST, C_RECEIPTS_LOST,
)
from signal_core.limits cimport TICK_MS
from signal_core.memory cimport KIND_NATS, MSG_COUNTED, MSG_PRESENCE, TELL_PEER, Msg, Out, msg_new_heap
from signal_core.natswire cimport NATS_OWN_HEADERS, nats_put_receipt
from signal_core.address cimport uint_lower
from signal_core.answers cimport code_text
from signal_core.packet cimport Packet, packet_hpub
from signal_core.post cimport post, post_has_room
from signal_core.queue cimport loop_tell, queue_add
from signal_core.roomtable cimport PUT_OFF_NODES
from signal_core.state cimport (
    CLUSTER_UP, CODE_DENIED, CODE_EXPIRED, CODE_OK, CODE_TOO_LARGE, CODE_UNAVAILABLE, LINK_UP, Hub, Link, Loop,
)
from signal_core.sys cimport (
    SE_COLD, SE_INLINE, SE_RARE, se_load_acquire, se_load_relaxed, se_siphash13, se_store_relaxed,
)


cdef enum:
    HPUB_HEAD_MAX = 1024      # more than any HPUB has besides its payload


cdef inline uint64_t subject_hash(const Hub* hub, const char* kind, const char* target, uint32_t target_len,
                                  const char* suffix, uint32_t suffix_len) noexcept nogil:
    """Of `<prefix>.<kind>.<target>[.<suffix>]`."""
    cdef char text[512]
    cdef uint32_t n = hub.prefix_len
    memcpy(text, hub.prefix, n)
    text[n] = c"."
    memcpy(&text[n + 1], kind, 4)
    text[n + 5] = c"."
    memcpy(&text[n + 6], target, target_len)
    n += 6 + target_len
    if suffix_len:
        text[n] = c"."
        memcpy(&text[n + 1], suffix, suffix_len)
        n += 1 + suffix_len
    return se_siphash13(hub.rooms.key, text, n)


cdef inline bint subject_denied(Hub* hub, uint64_t hash) noexcept nogil:
    cdef uint64_t i, n = se_load_acquire(&hub.ndenied)
    for i in range(n):
        if se_load_relaxed(&hub.denied[i]) == hash:
            return True
    return False


cdef inline void link_remember(Link* link, const Msg* msg) noexcept nogil:
    """So that a permission violation, which names the subject only, finds who asked."""
    cdef uint32_t i = link.asked_next
    link.asked_next = (i + 1) % 256
    link.asked_subject[i] = msg.hash
    link.asked_id[i] = msg.origin
    link.asked_size[i] = 0
    if msg.tell == TELL_PEER:
        link.asked_size[i] = <uint8_t>msg.text_size
        memcpy(link.asked_ref[i], msg.data + msg.size, msg.text_size)


cdef inline bint link_has_room(const Loop* loop, size_t size) noexcept nogil:
    """On the link's loop: whether so many bytes more may wait for NATS."""
    return loop.linked.state == LINK_UP and loop.linked.out.bytes + size <= loop.hub.set.nats_pending


cdef inline bint is_over_limit(const Link* link, const Msg* msg) noexcept nogil:
    """Whether NATS would end the connection for a message: its headers and payload are over the present bound. There is
    no bound without a connection."""
    cdef const char* end
    cdef size_t line
    if link.state != LINK_UP or msg.size <= link.max_payload or not msg.flags & (MSG_COUNTED | MSG_PRESENCE):
        return False
    end = <const char*>memchr(msg.data, c"\r", msg.size)
    line = <size_t>(end - <const char*>msg.data) + 2
    return msg.size - line - 2 > link.max_payload


cdef inline SE_COLD presence_dropped(Loop* loop, const Msg* msg) noexcept nogil:
    """NATS takes no more of presence: a question, which names its room's place, is asked again, for the rest other
    nodes are made to ask anew."""
    cdef Link* link = loop.linked
    loop.n[C_PRESENCE_LOST] += 1
    if msg.target == 0:
        link.torn = True
    elif msg.target <= link.audiences_used and link.audiences[msg.target - 1] != NULL:
        link.audiences[msg.target - 1].put_off |= PUT_OFF_NODES
        link.again = True


cdef inline SE_COLD link_refuse_over(Loop* loop, Msg* msg) noexcept nogil:
    """Of a message that was made before NATS lowered its bound. Takes it over."""
    if msg.flags & MSG_COUNTED:
        loop.n[C_DROPPED_NATS] += 1
    else:
        presence_dropped(loop, msg)
    loop_tell(loop, msg, CODE_TOO_LARGE)


cdef inline SE_COLD link_drop(Loop* loop, Msg* msg) noexcept nogil:
    """Of a message that NATS, or the memory, has no room for. Takes it over."""
    if msg.flags & MSG_COUNTED:
        loop.n[C_DROPPED_NATS] += 1
    if msg.flags & MSG_PRESENCE:
        presence_dropped(loop, msg)
    elif not msg.flags & MSG_COUNTED:
        loop.n[C_RECEIPTS_LOST] += 1
    se_store_relaxed(&loop.hub.clogged, loop.linked.out.bytes > 0)
    loop_tell(loop, msg, CODE_UNAVAILABLE)


cdef inline SE_INLINE link_queue(Loop* loop, Msg* msg) noexcept nogil:
    """On the link's loop: queues bytes for NATS, or drops them and says so. Takes the message over."""
    cdef Link* link = loop.linked
    if msg.flags & MSG_COUNTED:
        loop.n[C_ATTEMPTED] += 1
    if SE_RARE(msg.expires < loop.tick and msg.expires):
        loop.n[C_DROPPED_EXPIRED] += 1
        loop_tell(loop, msg, CODE_EXPIRED)
        return
    if SE_RARE(not link_has_room(loop, msg.size)) or SE_RARE(not queue_add(loop, &link.out, msg)):
        link_drop(loop, msg)
        return
    if msg.hash:
        link_remember(link, msg)
    link.dirty = True
    loop.n[C_NATS_OUT] += 1


cdef inline void link_take(Loop* loop, Msg* msg) noexcept nogil:
    """link_queue of what another loop has made, perhaps before NATS lowered its bound."""
    if SE_RARE(msg.size > loop.linked.max_payload) and is_over_limit(loop.linked, msg):
        if msg.flags & MSG_COUNTED:
            loop.n[C_ATTEMPTED] += 1
        link_refuse_over(loop, msg)
        return
    link_queue(loop, msg)


cdef inline void ttl_refresh(const Loop* loop, Msg* msg) noexcept nogil:
    """After a wait, Signal-Ttl is written again, in place: it says what is left. What another loop wrote, whose clock
    may be a tick ahead, may be less: that stays."""
    cdef uint64_t left = (msg.expires - loop.tick - 1) * TICK_MS if msg.expires > loop.tick + 1 else 0
    uint_lower(<char*>msg.data + msg.ttl_end, left)


cdef inline void ttls_refresh(Loop* loop) noexcept nogil:
    """Of all that waits for NATS, but for a message that is partly written."""
    cdef Out* place = loop.linked.out.head
    if place != NULL and loop.linked.out.offset:
        place = place.next
    while place != NULL:
        if place.msg.ttl_end:
            ttl_refresh(loop, place.msg)
        place = place.next


cdef inline uint8_t nats_refuses(Loop* loop, const Packet* p, const char* kind, const char* target,
                                 uint32_t target_len, const char* suffix, uint32_t suffix_len) noexcept nogil:
    """Why a message can't go to NATS now, CODE_OK where it can."""
    cdef Hub* hub = loop.hub
    if se_load_relaxed(&hub.link) != CLUSTER_UP or se_load_relaxed(&hub.clogged):
        return CODE_UNAVAILABLE
    if p.size + NATS_OWN_HEADERS + p.sender_len + p.user_len > se_load_relaxed(&hub.max_payload):
        return CODE_TOO_LARGE
    if se_load_relaxed(&hub.ndenied) and subject_denied(
            hub, subject_hash(hub, kind, target, target_len, suffix, suffix_len)):
        return CODE_DENIED
    if loop.linked == NULL:
        return CODE_OK if post_has_room(loop, hub.loops[0], p.size) else CODE_UNAVAILABLE
    return CODE_OK if link_has_room(loop, p.size + HPUB_HEAD_MAX) else CODE_UNAVAILABLE


cdef inline uint8_t nats_publish(Loop* loop, const Packet* p, const char* kind, const char* target,
                                 uint32_t target_len, const char* suffix, uint32_t suffix_len) noexcept nogil:
    """Of what NATS does not refuse. CODE_OK: on its way to NATS; else why not."""
    cdef bint heap = loop.linked == NULL or loop.linked.blocked
    cdef Msg* msg = packet_hpub(loop, p, kind, target, target_len, suffix, suffix_len, heap)
    if msg == NULL:
        return CODE_UNAVAILABLE
    if p.ref_len:
        msg.hash = subject_hash(loop.hub, kind, target, target_len, suffix, suffix_len)
    if loop.linked != NULL:
        link_queue(loop, msg)
    else:
        post(loop, 0, msg)
    return CODE_OK


cdef inline void nats_receipt(Loop* loop, const char* subject, uint32_t n, uint8_t code) noexcept nogil:
    """Tells a sender elsewhere; lost where NATS is, as then nobody could hear it, or takes no more."""
    cdef const char* text = code_text(code)
    cdef uint32_t text_n = <uint32_t>strlen(text)
    cdef Msg* msg
    if se_load_relaxed(&loop.hub.link) != CLUSTER_UP:
        return
    msg = NULL
    if post_has_room(loop, loop.hub.loops[0], n + text_n):
        msg = msg_new_heap(&loop.mem, n + text_n + 96, KIND_NATS)
    if msg == NULL:
        loop.n[C_RECEIPTS_LOST] += 1
        return
    msg.size = <uint32_t>nats_put_receipt(<char*>msg.data, subject, n, text, text_n)
    if loop.linked != NULL:
        link_queue(loop, msg)
    else:
        post(loop, 0, msg)
