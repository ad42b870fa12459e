"""Tokens: the loop asks, Python judges, the loop goes on. L4.

A connection whose token is to be judged is CONN_JUDGED: its head stays in `pending`, nothing more is read, and the
timer bounds the wait. The question goes to the deciding thread (EVENT_ASK); the answer is a KIND_VERDICT: `target` the
connection, `origin` 0 or the HTTP status to refuse with, `hash` the milliseconds until the token ends (0: never) and
`code` the size of the user's name; the data is that name and then the rights (rights.pxd), which may be absent.
Each question is answered once, so `judging` bounds those that wait, however slow Python is.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset
from signal_core.answers cimport REF_AUTH, REF_SUB, ref_add, ref_find, ref_remove, say
from signal_core.conn cimport conn_brief, conn_close, conn_id, conn_watch
from signal_core.counters cimport C_AUTH_DENIED, C_AUTH_EXPIRED, C_AUTH_FAILED, C_AUTH_GRANTED, C_AUTH_REFUSED
from signal_core.head cimport Head
from signal_core.http cimport percent_decode
from signal_core.identity cimport conn_user, may_sub
from signal_core.intake cimport buffer_free
from signal_core.limits cimport CONTROL_LOOP, RIGHTS_SHARED, TICK_MS
from signal_core.memory cimport KIND_EVENT, Msg, msg_free, msg_new_heap
from signal_core.opening cimport session_answer_http, session_finish, session_user
from signal_core.origins cimport ADDRESS_TEXT, address_put, remote_address
from signal_core.post cimport post
from signal_core.rights cimport Rights, rights_are, rights_new, rights_release
from signal_core.roomtable cimport RoomEntry, room_hash
from signal_core.rooms cimport places_of
from signal_core.route cimport leave_place
from signal_core.slab cimport (
    CONN_DEAD, CONN_JUDGED, CONN_OPEN, FLAG_LIMITED, FLAG_PAUSED, FLAG_RENEWING, FLAG_USER, Brief, Buffer, Conn, Ref,
    slab_cold, slab_find,
)
from signal_core.state cimport (
    AUTH_ANY, AUTH_OFF, AUTH_TOKEN, CODE_BAD_REQUEST, CODE_DENIED, CODE_OK, CODE_RATE, CODE_UNAVAILABLE, EVENT_ASK,
    Loop,
)
from signal_core.sys cimport SE_COLD
from signal_core.upgrade cimport (
    STATUS_MOST, TOKEN_BEARER, TOKEN_NONE, TOKEN_PROTOCOL, TOKEN_QUERY, UNJUDGED, Upgrade, upgrade_parse,
)
from signal_core.wheel cimport wheel_arm, wheel_arm_by

cdef enum:
    LIFE_MOST = 0x7fffffff     # ticks, 6.8 years: a token that lasts longer never ends
    REF_PATIENCE = 10         # ticks beyond those of a decision until its ref is answered with a timeout


# -- the question --

cdef inline int base64url_value(char c) noexcept nogil:
    """0 to 63; -1: not a digit."""
    if c'A' <= c <= c'Z':
        return c - c'A'
    if c'a' <= c <= c'z':
        return c - c'a' + 26
    if c'0' <= c <= c'9':
        return c - c'0' + 52
    if c == c'-':
        return 62
    return 63 if c == c'_' else -1


cdef inline int base64url_decode(const char* p, size_t n, char* out) noexcept nogil:
    """Without padding (RFC 4648 §5); bytes written, at most n * 3 / 4. -1: malformed."""
    cdef uint32_t bits = 0
    cdef int have = 0, value
    cdef size_t i
    cdef int size = 0
    for i in range(n):
        value = base64url_value(p[i])
        if value < 0:
            return -1
        bits = (bits << 6 | <uint32_t>value) & 0xffff
        have += 6
        if have >= 8:
            have -= 8
            out[size] = <char>(bits >> have & 0xff)
            size += 1
    return size if n % 4 != 1 else -1


cdef inline int token_decode(uint8_t source, const char* p, size_t n, char* out) noexcept nogil:
    """The token as it was made, at most `n` bytes; its length. -1: malformed, or not of visible ASCII."""
    cdef int size = <int>n, i
    if source == TOKEN_QUERY:
        size = percent_decode(p, n, out, n)
    elif source == TOKEN_PROTOCOL:
        size = base64url_decode(p, n, out)
    elif n:
        memcpy(out, p, n)
    for i in range(size):
        if out[i] <= c' ' or out[i] > c'~':
            return -1
    return size


cdef inline char* put_line(char* out, const char* p, size_t n) noexcept nogil:
    if n:
        memcpy(out, p, n)
    out[n] = c'\n'
    return out + n + 1


cdef inline Msg* question_new(Loop* loop, Conn* c, const Upgrade* u, const char* token, size_t token_len,
                              uint8_t source, const char* head, size_t head_len) noexcept nogil:
    """Lines: address, Origin, path, query, user (of a renewal, which has no `u`), token, and the head as it came, where
    it is given. Of no size where the token is malformed; NULL without memory."""
    cdef uint8_t address[16]
    cdef uint32_t user_n = 0
    cdef const char* user = conn_user(loop, c, &user_n)
    cdef size_t bound = ADDRESS_TEXT + user_n + token_len + 5 + (1 + head_len if head_len else 0)
    cdef Msg* msg
    cdef char* p
    cdef int size
    if u != NULL:
        bound += u.origin_len + u.path_len + u.query_len
    msg = msg_new_heap(&loop.mem, bound, KIND_EVENT)
    if msg == NULL:
        return NULL
    msg.code = EVENT_ASK
    msg.target = conn_id(loop, c)
    msg.hash = u == NULL
    p = <char*>msg.data
    remote_address(loop.hub, c.fd, u, address)
    p += address_put(address, p)
    p = put_line(p, NULL, 0)
    if u != NULL:
        p = put_line(put_line(put_line(p, u.origin, u.origin_len), u.path, u.path_len), u.query, u.query_len)
    else:
        p = put_line(put_line(put_line(p, NULL, 0), NULL, 0), NULL, 0)
    p = put_line(p, user, user_n)
    size = token_decode(source, token, token_len, p)
    if size >= 0:
        p += size
        if head_len:
            p[0] = c'\n'
            memcpy(p + 1, head, head_len)
            p += 1 + head_len
        msg.size = <uint32_t>(p - <char*>msg.data)
    return msg


cdef inline int auth_refused(Loop* loop, int status) noexcept nogil:
    """Counts a refusal; returns its status."""
    loop.n[C_AUTH_FAILED if status % STATUS_MOST == 503 else C_AUTH_REFUSED] += 1
    return status


cdef inline int auth_ask(Loop* loop, Conn* c, const Upgrade* u, const char* head, size_t head_len) noexcept nogil:
    """Parks a connection until its token is judged; the caller keeps its input. 0: it is parked; else the HTTP status
    to refuse it with at once. A program that decides (AUTH_ANY) sees the head, too."""
    cdef Msg* msg
    if u.token_from == TOKEN_NONE and loop.hub.set.auth == AUTH_TOKEN:
        return auth_refused(loop, 401)
    if loop.judging >= loop.hub.set.auth_pending:
        return auth_refused(loop, UNJUDGED)
    msg = question_new(loop, c, u, u.token, u.token_len, u.token_from, head,
                       head_len if loop.hub.set.auth == AUTH_ANY else 0)
    if msg == NULL:
        return auth_refused(loop, UNJUDGED)
    if msg.size == 0:
        msg_free(&loop.mem, msg)
        return auth_refused(loop, 401)
    loop.judging += 1
    post(loop, CONTROL_LOOP, msg)
    c.state = CONN_JUDGED
    c.flags |= FLAG_PAUSED
    conn_watch(loop, c)
    wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + loop.hub.set.auth_patience)
    return 0


cdef inline void do_auth(Loop* loop, Conn* c, const Head* head) noexcept nogil:
    """AUTH <token>: has another token judged, while the one before goes on."""
    cdef uint8_t code = CODE_OK
    cdef Msg* msg = NULL
    if head.ref_len and ref_find(loop, c, head.ref, head.ref_len) != NULL:
        code = CODE_BAD_REQUEST
    elif loop.hub.set.auth == AUTH_OFF:
        code = CODE_DENIED
    elif c.flags & FLAG_RENEWING:
        code = CODE_RATE
    else:
        if loop.judging < loop.hub.set.auth_pending:
            msg = question_new(loop, c, NULL, head.arg, head.arg_len, TOKEN_BEARER, NULL, 0)
        if msg == NULL:
            code = CODE_UNAVAILABLE
            auth_refused(loop, 503)
        elif head.ref_len:
            code = ref_add(loop, c, head.ref, head.ref_len, REF_AUTH,
                           loop.tick + loop.hub.set.auth_patience + REF_PATIENCE)
    if code == CODE_OK:
        c.flags |= FLAG_RENEWING
        loop.judging += 1
        post(loop, CONTROL_LOOP, msg)
        return
    if msg != NULL:
        msg_free(&loop.mem, msg)
    say(loop, c, code, head.ref, head.ref_len)


# -- the answer --

cdef inline Rights* rights_shared(Loop* loop, const uint8_t* text, size_t n) noexcept nogil:
    """A hold of these rights: those that a connection of this loop was given before, where they are still known."""
    cdef uint32_t i = <uint32_t>room_hash(&loop.hub.rooms, <const char*>text, n) % RIGHTS_SHARED
    cdef Rights* rights = loop.rights[i]
    if rights == NULL or not rights_are(rights, text, n):
        rights = rights_new(text, n)
        if rights == NULL:
            return NULL
        rights_release(loop.rights[i])
        loop.rights[i] = rights
    rights.refs += 1
    return rights


cdef inline bint auth_apply(Loop* loop, Conn* c, const Msg* msg) noexcept nogil:
    """Gives a connection the rights and the end of a token. False without memory: all is as it was."""
    cdef size_t n = msg.size - msg.code
    cdef uint64_t life = msg.hash // TICK_MS + 1 + loop.hub.set.auth_grace
    cdef Rights* rights = NULL
    cdef Brief* brief
    if n == 0 and msg.hash == 0 and slab_cold(&loop.slab, c.slot).brief == NULL:
        return True
    brief = conn_brief(loop, c)
    if brief == NULL:
        return False
    if n:
        rights = rights_shared(loop, msg.data + msg.code, n)
        if rights == NULL:
            return False
    rights_release(brief.rights)
    brief.rights = rights
    c.flags = <uint16_t>(c.flags | FLAG_LIMITED if n else c.flags & ~FLAG_LIMITED)
    brief.expires = loop.tick + <uint32_t>life if msg.hash and life < LIFE_MOST else 0
    return True


cdef inline void auth_take_back(Loop* loop, Conn* c) noexcept nogil:
    """Of one that was refused: what it said is forgotten, what it says is read and thrown away."""
    buffer_free(loop, c.pending)
    c.pending = NULL
    c.flags &= <uint16_t>~FLAG_PAUSED
    if c.state != CONN_DEAD:
        conn_watch(loop, c)


cdef inline SE_COLD auth_refuse(Loop* loop, Conn* c, int status) noexcept nogil:
    """Of a parked connection."""
    cdef Upgrade u
    memset(&u, 0, sizeof(u))
    u.status = auth_refused(loop, status)
    session_answer_http(loop, c, &u)
    auth_take_back(loop, c)


cdef inline void auth_open(Loop* loop, Conn* c, const Msg* msg) noexcept nogil:
    """A parked connection is granted: its handshake goes on where it was."""
    cdef Buffer* kept = c.pending
    cdef Upgrade u
    cdef int head = upgrade_parse(<const char*>kept.data, kept.used, 0, &loop.hub.set.site, &u)
    loop.n[C_AUTH_GRANTED] += 1
    wheel_arm(&loop.wheel, &loop.slab, c.slot, loop.tick + loop.hub.set.handshake)
    u.status = 503 if loop.shut else session_user(loop, c, msg.data, msg.code)
    if u.status == 0 and not auth_apply(loop, c, msg):
        u.status = 503
    if not session_finish(loop, c, &u):
        auth_take_back(loop, c)
        return
    kept.used -= <uint32_t>head
    if kept.used:
        memmove(kept.data, kept.data + head, kept.used)
        kept.since = loop.tick
    else:
        buffer_free(loop, kept)
        c.pending = NULL


cdef inline uint8_t renewal_code(Loop* loop, Conn* c, const Msg* msg) noexcept nogil:
    """What an AUTH is answered with; on CODE_OK the token is applied."""
    cdef uint32_t n = 0
    cdef const char* user = conn_user(loop, c, &n)
    if msg.origin:
        return CODE_UNAVAILABLE if auth_refused(loop, <int>msg.origin) == 503 else CODE_DENIED
    if n != msg.code or (n and memcmp(user, msg.data, n) != 0):
        auth_refused(loop, 403)
        return CODE_DENIED
    if not auth_apply(loop, c, msg):
        auth_refused(loop, 503)
        return CODE_UNAVAILABLE
    loop.n[C_AUTH_GRANTED] += 1
    return CODE_OK


cdef inline void refs_taken(Loop* loop, Conn* c, uint32_t room) noexcept nogil:
    """A room is taken away: SUBs of it that still wait for NATS are denied when it answers, and not sooner, as their
    refs are not free before."""
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    cdef uint32_t i
    for i in range(brief.nrefs if brief != NULL else 0):
        if brief.refs[i].kind == REF_SUB and brief.refs[i].room == room + 1:
            brief.refs[i].taken = True
            loop.n[C_AUTH_DENIED] += 1


cdef inline void auth_leave(Loop* loop, Conn* c) noexcept nogil:
    """Leaves the rooms that the connection may be in no more."""
    cdef uint32_t i = c.nrooms, first = 1 if c.flags & FLAG_USER else 0, room
    cdef RoomEntry* entry
    while i > first:
        i -= 1
        room = places_of(c, slab_cold(&loop.slab, c.slot))[i].room
        entry = loop.rooms.rooms[room].entry
        if not may_sub(loop, c, entry.name, entry.size):
            refs_taken(loop, c, room)
            leave_place(loop, c, i)


cdef inline void auth_renew(Loop* loop, Conn* c, const Msg* msg) noexcept nogil:
    """An AUTH is judged: answered, and where its token was refused the connection ends."""
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    cdef uint32_t i
    cdef Ref ref
    cdef uint8_t code
    c.flags &= <uint16_t>~FLAG_RENEWING
    if c.state != CONN_OPEN:
        return
    code = renewal_code(loop, c, msg)
    ref.size = 0
    for i in range(brief.nrefs if brief != NULL else 0):
        if brief.refs[i].kind == REF_AUTH:
            ref = brief.refs[i]
            ref_remove(loop, c, &brief.refs[i])
            break
    say(loop, c, code, ref.text, ref.size)
    if c.state != CONN_OPEN:  # its socket was broken, or there was no memory
        return
    if code == CODE_OK:
        auth_leave(loop, c)
        brief = slab_cold(&loop.slab, c.slot).brief
        if brief != NULL and brief.expires:
            wheel_arm_by(&loop.wheel, &loop.slab, c.slot, brief.expires)
    elif msg.origin and code == CODE_DENIED:
        conn_close(loop, c, 4001)


cdef inline void auth_verdict(Loop* loop, const Msg* msg) noexcept nogil:
    """A KIND_VERDICT; its connection may be gone, or may not have waited for it."""
    cdef Conn* c = slab_find(&loop.slab, <uint32_t>(msg.target >> 32) & 0xffffff, <uint32_t>msg.target)
    loop.judging -= 1
    if c == NULL or c.state == CONN_DEAD:
        return
    if c.state == CONN_JUDGED:
        if msg.origin:
            auth_refuse(loop, c, UNJUDGED if msg.origin == 503 else <int>msg.origin)
        else:
            auth_open(loop, c, msg)
    elif c.flags & FLAG_RENEWING:
        auth_renew(loop, c, msg)


# -- time --

cdef inline uint32_t auth_due(Loop* loop, Conn* c) noexcept nogil:
    """Closes an open connection whose token has ended. The tick at which it will; 0: never, or it has."""
    cdef Brief* brief = slab_cold(&loop.slab, c.slot).brief
    if brief == NULL or brief.expires == 0:
        return 0
    if loop.tick < brief.expires:
        return brief.expires
    brief.expires = 0
    loop.n[C_AUTH_EXPIRED] += 1
    conn_close(loop, c, 1008)
    return 0
