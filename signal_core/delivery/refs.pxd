"""The outstanding refs of a client: those that await an answer. Also counts its malformed messages."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from signal_core.base.array cimport array_reserve
from signal_core.base.counters cimport C_ABUSERS, C_RECEIPTS_LATE, C_REFS_TIMED_OUT
from signal_core.base.limits cimport LOCAL_PEER_LOOP, STRIKES, STRIKE_WINDOW_TICKS
from signal_core.base.span cimport Span, span_same
from signal_core.base.sys cimport SE_COLD
from signal_core.base.text cimport text_put_span
from signal_core.delivery.conn cimport conn_brief, conn_extra
from signal_core.delivery.conn_close cimport conn_close_failed
from signal_core.delivery.replies cimport REFS_AT_FIRST, REF_TO, replies_err, replies_say
from signal_core.tables.codes cimport CODE_BAD_REQUEST, CODE_DENIED, CODE_OK, CODE_RATE, CODE_TIMEOUT, CODE_UNAVAILABLE
from signal_core.tables.conn_table cimport REF_WATCHES, Brief, Cold, Conn, Extra, Ref, ref_text, slab_cold, slab_find_id
from signal_core.tables.latency cimport latency_nats_begin, latency_nats_end
from signal_core.tables.state cimport Loop
from signal_core.tables.timer_wheel cimport wheel_arm_by


cdef inline SE_COLD refs_strike(Loop* loop, Conn* c) noexcept nogil:
    """Counts a malformed message; too many in a short time fail the connection."""
    cdef Extra* extra = conn_extra(loop, c)
    if extra == NULL:
        return
    if extra.strikes == 0 or loop.tick - extra.strikes_since >= STRIKE_WINDOW_TICKS:
        extra.strikes_since = loop.tick
        extra.strikes = 0
    extra.strikes += 1
    if extra.strikes >= STRIKES:
        loop.n[C_ABUSERS] += 1
        conn_close_failed(loop, c, 1008)


cdef inline Ref* refs_find(Loop* loop, const Conn* c, Span text) noexcept nogil:
    """Returns an outstanding ref, valid until one is added or removed; NULL: it is not outstanding."""
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    cdef uint32_t i
    if brief == NULL:
        return NULL
    for i in range(brief.nrefs):
        if span_same(ref_text(&brief.refs[i]), text):
            return &brief.refs[i]
    return NULL


cdef inline uint8_t refs_check(Loop* loop, const Conn* c, Span text) noexcept nogil:
    """Returns CODE_OK if the ref may be added; CODE_BAD_REQUEST: it is outstanding already; CODE_RATE: max-refs are."""
    cdef const Brief* brief = slab_cold(&loop.slab, c.slot).brief
    if brief == NULL:
        return CODE_OK
    if refs_find(loop, c, text) != NULL:
        return CODE_BAD_REQUEST
    return CODE_RATE if brief.nrefs >= loop.set.max_refs else CODE_OK


cdef inline uint8_t refs_add(Loop* loop, Conn* c, Span text, uint8_t kind, uint32_t deadline) noexcept nogil:
    """Adds an outstanding ref. Returns a CODE_* as refs_check, or CODE_UNAVAILABLE: no memory."""
    cdef Brief* brief = conn_brief(loop, c)
    cdef Ref* ref
    cdef uint32_t size
    cdef uint8_t code
    if brief == NULL:
        return CODE_UNAVAILABLE
    code = refs_check(loop, c, text)
    if code != CODE_OK:
        return code
    size = brief.refs_size
    if not array_reserve(&brief.refs, &size, brief.nrefs + 1, sizeof(Ref), REFS_AT_FIRST):
        return CODE_UNAVAILABLE
    brief.refs_size = <uint16_t>size
    ref = &brief.refs[brief.nrefs]
    brief.nrefs += 1
    text_put_span(ref.text, text)
    ref.size = <uint8_t>text.size
    ref.kind = kind
    ref.deadline = deadline
    ref.sub = ref.taken = 0
    ref.room = 0
    wheel_arm_by(&loop.wheel, &loop.slab, c.slot, deadline)
    return CODE_OK


cdef inline void refs_sent(Loop* loop, uint64_t id) noexcept nogil:
    """Notes that the message of the ref that was added last went to NATS. No effect for the local peer, which has none
    here."""
    cdef Conn* c = NULL if loop.index == LOCAL_PEER_LOOP else slab_find_id(&loop.slab, id)
    cdef Brief* brief = NULL if c == NULL else slab_cold(&loop.slab, c.slot).brief
    if brief != NULL and brief.nrefs:
        brief.refs[brief.nrefs - 1].room = latency_nats_begin(loop)


cdef inline void refs_remove(Loop* loop, const Conn* c, Ref* ref) noexcept nogil:
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    brief.nrefs -= 1
    ref[0] = brief.refs[brief.nrefs]


cdef inline uint32_t refs_finish(Loop* loop, Conn* c, Span text, uint8_t code) noexcept nogil:
    """Answers an outstanding ref; counts an answer that comes too late. `c` may be NULL. Returns Ref.room of a SUB with
    presence, else 0. If the client's new token has taken the room away, OK becomes ERR denied."""
    cdef Ref* ref = NULL if c == NULL else refs_find(loop, c, text)
    cdef uint32_t room
    if ref == NULL:
        loop.n[C_RECEIPTS_LATE] += 1
        return 0
    room = ref.room if ref.sub & REF_WATCHES and not ref.taken else 0
    if ref.taken and code == CODE_OK:
        code = CODE_DENIED
    if ref.kind == REF_TO and ref.room and code == CODE_OK:
        latency_nats_end(loop, ref.room)
    refs_remove(loop, c, ref)
    replies_say(loop, c, code, text)
    return room


cdef inline uint32_t refs_due(Loop* loop, Conn* c) noexcept nogil:
    """Answers overdue refs with `timeout`; returns the tick of the next deadline, 0 if there is none."""
    cdef Cold* cold = slab_cold(&loop.slab, c.slot)
    cdef uint32_t i = 0, next_due = 0
    cdef Ref late
    if cold.brief == NULL:
        return 0
    while i < cold.brief.nrefs:
        if cold.brief.refs[i].deadline <= loop.tick:
            late = cold.brief.refs[i]
            refs_remove(loop, c, &cold.brief.refs[i])
            loop.n[C_REFS_TIMED_OUT] += 1
            replies_err(loop, c, CODE_TIMEOUT, ref_text(&late))  # this may move the Brief
            continue
        if next_due == 0 or cold.brief.refs[i].deadline < next_due:
            next_due = cold.brief.refs[i].deadline
        i += 1
    if cold.brief.nrefs == 0 and cold.brief.refs != NULL:
        free(cold.brief.refs)
        cold.brief.refs = NULL
        cold.brief.refs_size = 0
    return next_due
