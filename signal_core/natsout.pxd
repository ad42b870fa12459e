"""What goes out to NATS, from any loop to the link's. L3."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from signal_core.counters cimport C_ATTEMPTED, C_DROPPED_NATS, C_NATS_OUT
from signal_core.memory cimport KIND_NATS, MSG_COUNTED, TELL_PEER, Msg, msg_new_heap
from signal_core.natswire cimport NATS_OWN_HEADERS, nats_put_receipt
from signal_core.answers cimport code_text
from signal_core.packet cimport Packet, packet_hpub
from signal_core.post cimport post, post_has_room
from signal_core.queue cimport loop_tell, queue_add
from signal_core.state cimport (
    CLUSTER_UP, CODE_DENIED, CODE_OK, CODE_TOO_LARGE, CODE_UNAVAILABLE, LINK_UP, Hub, Link, Loop,
)
from signal_core.sys cimport se_load_acquire, se_load_relaxed, se_siphash13
from libc.string cimport strlen


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


cdef inline void link_queue(Loop* loop, Msg* msg) noexcept nogil:
    """On the link's loop: queues bytes for NATS, or drops them and says so. Takes the message over."""
    cdef Link* link = loop.linked
    if msg.flags & MSG_COUNTED:
        loop.n[C_ATTEMPTED] += 1
    if link.state != LINK_UP or link.out.bytes + msg.size > loop.hub.set.nats_pending:
        if msg.flags & MSG_COUNTED:
            loop.n[C_DROPPED_NATS] += 1
        loop_tell(loop, msg, CODE_UNAVAILABLE)
        return
    if msg.hash:
        link_remember(link, msg)
    queue_add(loop, &link.out, msg)
    link.dirty = True
    loop.n[C_NATS_OUT] += 1


cdef inline uint8_t link_send(Loop* loop, Msg* msg) noexcept nogil:
    """From any loop; the caller made the message in the heap unless this is the link's loop."""
    if loop.linked != NULL:
        link_queue(loop, msg)
    else:
        post(loop, 0, msg)
    return CODE_OK


cdef inline uint8_t nats_refuses(Loop* loop, const Packet* p, const char* kind, const char* target,
                                 uint32_t target_len) noexcept nogil:
    """Why a message can't go to NATS, CODE_OK where it can."""
    cdef Hub* hub = loop.hub
    if se_load_relaxed(&hub.link) != CLUSTER_UP:
        return CODE_UNAVAILABLE
    if p.size + NATS_OWN_HEADERS + p.sender_len + p.user_len > se_load_relaxed(&hub.max_payload):
        return CODE_TOO_LARGE
    if se_load_relaxed(&hub.ndenied) and subject_denied(hub, subject_hash(hub, kind, target, target_len, NULL, 0)):
        return CODE_DENIED
    return CODE_OK


cdef inline uint8_t nats_publish(Loop* loop, const Packet* p, const char* kind, const char* target,
                                 uint32_t target_len, const char* suffix, uint32_t suffix_len) noexcept nogil:
    """CODE_OK: on its way to NATS; else why not."""
    cdef Hub* hub = loop.hub
    cdef Msg* msg
    cdef uint64_t hash = 0
    if se_load_relaxed(&hub.link) != CLUSTER_UP:
        return CODE_UNAVAILABLE
    if p.size + NATS_OWN_HEADERS + p.sender_len + p.user_len > se_load_relaxed(&hub.max_payload):
        return CODE_TOO_LARGE
    if p.ref_len or se_load_relaxed(&hub.ndenied):
        hash = subject_hash(hub, kind, target, target_len, suffix, suffix_len)
        if subject_denied(hub, hash):
            return CODE_DENIED
    if loop.linked == NULL and not post_has_room(loop, hub.loops[0], p.size):
        return CODE_UNAVAILABLE
    msg = packet_hpub(loop, p, kind, target, target_len, suffix, suffix_len, loop.linked == NULL
                      or loop.linked.blocked)
    if msg == NULL:
        return CODE_UNAVAILABLE
    msg.hash = hash if p.ref_len else 0
    return link_send(loop, msg)


cdef inline void nats_receipt(Loop* loop, const char* subject, uint32_t n, uint8_t code) noexcept nogil:
    """Tells a sender elsewhere; lost where NATS is, as then nobody could hear it."""
    cdef const char* text = code_text(code)
    cdef uint32_t text_n = <uint32_t>strlen(text)
    cdef Msg* msg
    if se_load_relaxed(&loop.hub.link) != CLUSTER_UP:
        return
    msg = msg_new_heap(&loop.mem, n + text_n + 96, KIND_NATS)
    if msg == NULL:
        return
    msg.size = <uint32_t>nats_put_receipt(<char*>msg.data, subject, n, text, text_n)
    link_send(loop, msg)
