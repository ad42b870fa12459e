"""Authenticates tokens: the loop asks, Python decides, the loop continues. Runs on the connection's loop.

Meanwhile a connection is CONN_AUTHENTICATING: its head stays in `pending`, nothing more is read, and the timer limits
the wait. An EVENT_ASK goes to the control thread. The answer is a KIND_VERDICT: `target` is the connection, `origin` 0
or the HTTP status to refuse it with, `hash` the milliseconds until the token expires (0: never), `code` the size of the
user's name. The data is that name, then the rights (acl.pxd), if any. Each EVENT_ASK gets exactly one verdict, so
`authenticating` limits how many wait, however slow Python is.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memmove, memset
from signal_core.base.counters cimport C_AUTH_DENIED, C_AUTH_EXPIRED, C_AUTH_FAILED, C_AUTH_GRANTED, C_AUTH_REFUSED
from signal_core.base.kinds cimport KIND_EVENT
from signal_core.base.limits cimport ADDRESS_BYTES, ADDRESS_TEXT, AUTH_REF_TICKS, CONTROL_LOOP, RIGHTS_SHARED, TICK_MS
from signal_core.base.memory cimport Packet, packet_data, packet_free, packet_new_heap, packet_set_end
from signal_core.base.span cimport Span, span_from, span_none, span_of
from signal_core.base.sys cimport SE_COLD, SE_RARE
from signal_core.base.text cimport text_put
from signal_core.client.input_buffer cimport input_buffer_free
from signal_core.client.open cimport open_answer_http, open_finish, open_user
from signal_core.client.proxied cimport proxied_parse
from signal_core.client.remote_addr cimport remote_addr_of, remote_addr_put
from signal_core.delivery.conn cimport conn_brief, conn_id, conn_watch
from signal_core.delivery.conn_close cimport conn_close
from signal_core.delivery.outbox cimport outbox_post
from signal_core.delivery.refs cimport refs_add, refs_find, refs_remove
from signal_core.delivery.replies cimport REF_AUTH, REF_SUB, replies_say
from signal_core.route.membership cimport membership_leave_one
from signal_core.tables.acl cimport Rights, rights_are, rights_new, rights_release
from signal_core.tables.codes cimport (
    AUTH_ANY, AUTH_OFF, AUTH_TOKEN, CODE_BAD_REQUEST, CODE_DENIED, CODE_OK, CODE_RATE, CODE_UNAVAILABLE, EVENT_ASK,
)
from signal_core.tables.conn_acl cimport conn_acl_may_sub, conn_acl_user
from signal_core.tables.conn_table cimport (
    CONN_AUTHENTICATING, CONN_DEAD, CONN_OPEN, FLAG_LIMITED, FLAG_PAUSED, FLAG_USER, MARK_RENEWING, Brief, Buffer, Conn,
    Ref, ref_text, slab_cold, slab_find_id,
)
from signal_core.tables.loop_rooms cimport rooms_memberships_of
from signal_core.tables.room_table cimport RoomEntry, room_entry_name, room_table_hash
from signal_core.tables.state cimport Loop
from signal_core.tables.timer_wheel cimport wheel_arm, wheel_arm_by
from signal_core.wire.command cimport Head
from signal_core.wire.handshake cimport (
    STATUS_MOST, TOKEN_BEARER, TOKEN_NONE, UNDECIDED, Upgrade, upgrade_parse, upgrade_token_decode,
)
from signal_core.wire.request cimport Site

cdef enum:
    LIFE_MOST = 0x7fffffff     # ticks, 6.8 years: a token with a longer life never expires


# -- asking --

cdef inline char* _put_line(char* out, Span line) noexcept nogil:
    """Writes a line; returns the address behind its LF."""
    if line.size:
        memcpy(out, line.at, line.size)
    return text_put(out + line.size, b"\n")


cdef inline char* _put_request(char* out, const Upgrade* u) noexcept nogil:
    """Writes the lines Origin, path and query; empty ones without `u`."""
    if u == NULL:
        return text_put(out, b"\n\n\n")
    return _put_line(_put_line(_put_line(out, u.origin), u.path), u.query)


cdef inline char* _put_token(char* out, uint8_t source, Span token, Span head) noexcept nogil:
    """Writes the decoded token and, if there is a head, LF and the head. NULL: the token is malformed."""
    cdef int size = upgrade_token_decode(source, token, out)
    if size < 0:
        return NULL
    out += size
    if head.size:
        out = text_put(out, b"\n")
        memcpy(out, head.at, head.size)
    return out + head.size


cdef inline Packet* _ask_new(Loop* loop, Conn* c, const Upgrade* u, uint8_t source, Span token,
                             Span head) noexcept nogil:
    """Makes an EVENT_ASK. Its lines: address, Origin, path, query, user, token, and the head if it is given. A renewal
    has no `u`; only a renewal has a user. Returns a packet of size 0 if the token is malformed; NULL: no memory."""
    cdef uint8_t address[ADDRESS_BYTES]
    cdef Span user = conn_acl_user(loop, c)
    cdef size_t bound = ADDRESS_TEXT + user.size + token.size + 5 + (1 + head.size if head.size else 0)
    cdef Packet* packet
    cdef char* p
    if u != NULL:
        bound += u.origin.size + u.path.size + u.query.size
    packet = packet_new_heap(&loop.mem, bound, KIND_EVENT)
    if packet == NULL:
        return NULL
    packet.code = EVENT_ASK
    packet.target = conn_id(loop, c)
    packet.hash = u == NULL
    remote_addr_of(loop.set, c.fd, u, address)
    p = text_put(remote_addr_put(<char*>packet.data, address), b"\n")
    p = _put_line(_put_request(p, u), user)
    p = _put_token(p, source, token, head)
    if p != NULL:
        packet_set_end(packet, p)
    return packet


cdef inline int _auth_refused(Loop* loop, int status) noexcept nogil:
    """Counts a refusal; returns its status."""
    loop.n[C_AUTH_FAILED if status % STATUS_MOST == 503 else C_AUTH_REFUSED] += 1
    return status


cdef inline int auth_ask(Loop* loop, Conn* c, const Upgrade* u, Span head) noexcept nogil:
    """Begins to authenticate a connection; the caller keeps its input meanwhile. Returns 0, or an HTTP status to refuse
    it with at once. With an authorizer (AUTH_ANY), Python gets the head, too."""
    cdef Packet* packet
    if u.token_from == TOKEN_NONE and loop.set.auth == AUTH_TOKEN:
        return _auth_refused(loop, 401)
    if loop.authenticating >= loop.set.auth_pending:
        return _auth_refused(loop, UNDECIDED)
    packet = _ask_new(loop, c, u, u.token_from, u.token, head if loop.set.auth == AUTH_ANY else span_none())
    if packet == NULL:
        return _auth_refused(loop, UNDECIDED)
    if packet.size == 0:
        packet_free(&loop.mem, packet)
        return _auth_refused(loop, 401)
    loop.authenticating += 1
    outbox_post(loop, CONTROL_LOOP, packet)
    c.state = CONN_AUTHENTICATING
    c.flags |= FLAG_PAUSED
    conn_watch(loop, c)
    wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + loop.set.auth_patience)
    return 0


cdef inline void auth_verb(Loop* loop, Conn* c, const Head* head) noexcept nogil:
    """AUTH <token>: begins a renewal. The previous token stays in force meanwhile."""
    cdef uint8_t code = CODE_OK
    cdef Packet* packet = NULL
    if head.ref.size and refs_find(loop, c, head.ref) != NULL:
        code = CODE_BAD_REQUEST
    elif loop.set.auth == AUTH_OFF:
        code = CODE_DENIED
    elif c.phase.gathering.marks & MARK_RENEWING:
        code = CODE_RATE
    else:
        if loop.authenticating < loop.set.auth_pending:
            packet = _ask_new(loop, c, NULL, TOKEN_BEARER, head.arg, span_none())
        if packet == NULL:
            code = CODE_UNAVAILABLE
            _auth_refused(loop, 503)
        elif head.ref.size:
            code = refs_add(loop, c, head.ref, REF_AUTH, loop.tick + loop.set.auth_patience + AUTH_REF_TICKS)
    if code == CODE_OK:
        c.phase.gathering.marks |= MARK_RENEWING
        loop.authenticating += 1
        outbox_post(loop, CONTROL_LOOP, packet)
        return
    if packet != NULL:
        packet_free(&loop.mem, packet)
    replies_say(loop, c, code, head.ref)


# -- the verdict --

cdef inline Rights* _rights_shared(Loop* loop, Span text) noexcept nogil:
    """Returns a reference to these rights, shared with other connections of this loop if they are in its cache. NULL:
    no memory."""
    cdef uint32_t i = <uint32_t>room_table_hash(&loop.hub.rooms, text) % RIGHTS_SHARED
    cdef Rights* rights = loop.rights[i]
    if rights == NULL or not rights_are(rights, text):
        rights = rights_new(text)
        if rights == NULL:
            return NULL
        rights_release(loop.rights[i])
        loop.rights[i] = rights
    rights.refs += 1
    return rights


cdef inline bint _auth_apply(Loop* loop, Conn* c, const Packet* packet) noexcept nogil:
    """Applies a verdict's rights and lifetime to a connection. False: no memory, and nothing is changed."""
    cdef Span text = span_from(packet_data(packet), packet.code)
    cdef uint64_t life = packet.hash // TICK_MS + 1 + loop.set.auth_grace
    cdef Rights* rights = NULL
    cdef Brief* brief
    if text.size == 0 and packet.hash == 0 and slab_cold(&loop.slab, c.slot).brief == NULL:
        return True
    brief = conn_brief(loop, c)
    if brief == NULL:
        return False
    if text.size:
        rights = _rights_shared(loop, text)
        if rights == NULL:
            return False
    rights_release(brief.rights)
    brief.rights = rights
    c.flags = <uint16_t>(c.flags | FLAG_LIMITED if text.size else c.flags & ~FLAG_LIMITED)
    brief.expires = loop.tick + <uint32_t>life if packet.hash and life < LIFE_MOST else 0
    return True


cdef inline void _auth_take_back(Loop* loop, Conn* c) noexcept nogil:
    """Ends the wait of a refused connection: frees its input, and lets what follows be read and discarded."""
    input_buffer_free(loop, c.pending)
    c.pending = NULL
    c.flags &= <uint16_t>~FLAG_PAUSED
    if c.state != CONN_DEAD:
        conn_watch(loop, c)


cdef inline SE_COLD auth_refuse(Loop* loop, Conn* c, int status) noexcept nogil:
    """Refuses a connection that is being authenticated, with this HTTP status or UNDECIDED."""
    cdef Upgrade u
    memset(&u, 0, sizeof(u))
    u.status = _auth_refused(loop, status)
    open_answer_http(loop, c, &u)
    _auth_take_back(loop, c)


cdef inline void _auth_open(Loop* loop, Conn* c, const Packet* packet) noexcept nogil:
    """Continues a handshake whose token was granted."""
    cdef Buffer* kept = c.pending
    cdef Upgrade u
    cdef Site site = loop.set.site
    cdef int head
    site.max_line = site.max_head = kept.used  # the limits of when it came, which a reload may have lowered since
    head = proxied_parse(loop.set, c.fd, span_of(kept.data, kept.used), 0, &site, &u)
    if SE_RARE(u.status):  # or has changed the path
        auth_refuse(loop, c, u.status)
        return
    loop.n[C_AUTH_GRANTED] += 1
    wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + loop.set.handshake)
    u.status = 503 if loop.accept.shut else open_user(loop, c, span_of(packet.data, packet.code))
    if u.status == 0 and not _auth_apply(loop, c, packet):
        u.status = 503
    if not open_finish(loop, c, &u):
        _auth_take_back(loop, c)
        return
    kept.used -= <uint32_t>head
    if kept.used:
        memmove(kept.data, kept.data + head, kept.used)
        kept.since = loop.tick
    else:
        input_buffer_free(loop, kept)
        c.pending = NULL


cdef inline uint8_t _renewal_code(Loop* loop, Conn* c, const Packet* packet) noexcept nogil:
    """Returns the code to answer an AUTH with; for CODE_OK the new token is in force."""
    cdef Span user = conn_acl_user(loop, c)
    if packet.origin:
        return CODE_UNAVAILABLE if _auth_refused(loop, <int>packet.origin) == 503 else CODE_DENIED
    if user.size != packet.code or (user.size and memcmp(user.at, packet.data, user.size) != 0):
        _auth_refused(loop, 403)
        return CODE_DENIED
    if not _auth_apply(loop, c, packet):
        _auth_refused(loop, 503)
        return CODE_UNAVAILABLE
    loop.n[C_AUTH_GRANTED] += 1
    return CODE_OK


cdef inline void _refs_taken(Loop* loop, Conn* c, uint32_t room) noexcept nogil:
    """Notes that a new token does not allow a room: SUBs of it that wait for NATS are denied when NATS answers, because
    their refs stay outstanding until then."""
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    cdef uint32_t i
    for i in range(brief.nrefs if brief != NULL else 0):
        if brief.refs[i].kind == REF_SUB and brief.refs[i].room == room + 1:
            brief.refs[i].taken = True
            loop.n[C_AUTH_DENIED] += 1


cdef inline void _auth_leave(Loop* loop, Conn* c) noexcept nogil:
    """Leaves every room that the new token does not allow."""
    cdef uint32_t i = c.nrooms, first = 1 if c.flags & FLAG_USER else 0, room
    cdef RoomEntry* entry
    while i > first:
        i -= 1
        room = rooms_memberships_of(c, slab_cold(&loop.slab, c.slot))[i].room
        entry = loop.rooms.rooms[room].entry
        if not conn_acl_may_sub(loop, c, room_entry_name(entry)):
            _refs_taken(loop, c, room)
            membership_leave_one(loop, c, i)


cdef inline void _auth_renew(Loop* loop, Conn* c, const Packet* packet) noexcept nogil:
    """Answers an AUTH. If its token was refused, the connection is closed with 4001."""
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    cdef uint32_t i
    cdef Ref ref
    cdef uint8_t code
    c.phase.gathering.marks &= <uint8_t>~MARK_RENEWING
    code = _renewal_code(loop, c, packet)
    ref.size = 0
    for i in range(brief.nrefs if brief != NULL else 0):
        if brief.refs[i].kind == REF_AUTH:
            ref = brief.refs[i]
            refs_remove(loop, c, &brief.refs[i])
            break
    replies_say(loop, c, code, ref_text(&ref))
    if c.state != CONN_OPEN:  # the answer failed: a broken socket, or no memory
        return
    if code == CODE_OK:
        _auth_leave(loop, c)
        brief = slab_cold(&loop.slab, c.slot).brief
        if brief != NULL and brief.expires:
            wheel_arm_by(&loop.wheel, &loop.slab, c.slot, brief.expires)
    elif packet.origin and code == CODE_DENIED:
        conn_close(loop, c, 4001)


cdef inline void auth_verdict(Loop* loop, const Packet* packet) noexcept nogil:
    """Applies a KIND_VERDICT. Its connection may be gone, or may have stopped waiting."""
    cdef Conn* c = slab_find_id(&loop.slab, packet.target)
    loop.authenticating -= 1
    if c == NULL or c.state == CONN_DEAD:
        return
    if c.state == CONN_AUTHENTICATING:
        if packet.origin:
            auth_refuse(loop, c, UNDECIDED if packet.origin == 503 else <int>packet.origin)
        else:
            _auth_open(loop, c, packet)
    elif c.state == CONN_OPEN and c.phase.gathering.marks & MARK_RENEWING:
        _auth_renew(loop, c, packet)


# -- expiry --

cdef inline uint32_t auth_due(Loop* loop, Conn* c) noexcept nogil:
    """Closes an open connection whose token has expired. Returns the tick at which it expires; 0: never, or it has."""
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    if brief == NULL or brief.expires == 0:
        return 0
    if loop.tick < brief.expires:
        return brief.expires
    brief.expires = 0
    loop.n[C_AUTH_EXPIRED] += 1
    conn_close(loop, c, 1008)
    return 0
