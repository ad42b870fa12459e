"""The opening handshake (RFC 6455 §4.2) without I/O: judges a client's HTTP head and writes the answer. L2.

Pointers in Upgrade point into the caller's buffer and are good as long as that is.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset, strlen
from signal_core.http cimport (
    is_blank, list_has, list_next, number_put, percent_decode, phr_header, phr_parse_request, status_reason,
    text_is, text_matches, text_put, text_starts,
)
from signal_core.limits cimport (
    FORWARDED_LINES, UPGRADE_ANSWER, UPGRADE_MAX_HEAD, UPGRADE_MAX_HEADERS, UPGRADE_MAX_URI,
)
from signal_core.sys cimport SE_STATIC_ASSERT

cdef extern from "se_sha1.h" nogil:
    enum:
        SE_SHA1_SIZE
    void se_sha1(const uint8_t* p, size_t n, uint8_t* out)
    size_t se_base64_put(const uint8_t* p, size_t n, char* out)

cdef enum:
    KEY_SIZE = 24        # characters of Sec-WebSocket-Key: 16 bytes in base64
    GUID_SIZE = 36       # characters of the GUID that is hashed with it
    UPGRADE_ACCEPT_MAX = 256

    TOKEN_NONE = 0
    TOKEN_BEARER = 1     # Authorization: Bearer <token>
    TOKEN_PROTOCOL = 2   # the subprotocol token.<base64url>
    TOKEN_QUERY = 3      # ?token=<token>, percent-encoded

    UNJUDGED = 1503      # 503 with another text: nobody could decide whether it may connect
    STATUS_MOST = 1000   # above all of HTTP's: what is added to one for another text

cdef struct Upgrade:         # what a handshake asks for
    const char* key          # 8  Sec-WebSocket-Key, KEY_SIZE characters
    const char* token        # 8  as it was sent, nothing decoded; NULL: none
    size_t token_len         # 8
    const char* origin       # 8  NULL: none
    size_t origin_len        # 8
    const char* query        # 8  what follows '?', as it was sent
    size_t query_len         # 8
    const char* path         # 8
    size_t path_len          # 8
    const char* forwarded[4]  # 32 the last FORWARDED_LINES of X-Forwarded-For, number i at i % FORWARDED_LINES
    size_t forwarded_len[4]  # 32
    uint32_t nforwarded      # 4  how many there were
    uint32_t spare           # 4
    int status               # 4  0: upgrade; 200: a health check; else the HTTP status to refuse with, or UNJUDGED
    uint8_t token_from       # 1  TOKEN_*
    uint8_t protocol         # 1  signal.v1 was offered
    uint8_t other_protocol   # 1  only others were offered
    uint8_t bodiless         # 1  the method was HEAD: an answer has no body

cdef struct Seen:            # what the headers of one request say, as far as it takes no pointer
    int hosts                # 4  headers of that name
    int keys                 # 4
    int versions             # 4
    int tokens               # 4  Authorization
    int origins              # 4
    bint websocket           # 4  Upgrade names websocket
    bint connection          # 4  Connection names upgrade
    bint version_13          # 4
    bint bad                 # 4  folded, has a body, an empty Host, or a bad key
    bint others              # 4  subprotocols other than signal.v1 were offered


cdef inline void upgrade_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(Upgrade) == 152)
    SE_STATIC_ASSERT(FORWARDED_LINES == 4)
    SE_STATIC_ASSERT(UPGRADE_MAX_HEADERS == 100)
    SE_STATIC_ASSERT(KEY_SIZE + GUID_SIZE == 60)
    SE_STATIC_ASSERT(SE_SHA1_SIZE == 20)


# -- the query --

cdef inline bint query_find(const char** query, size_t* left, const char* name, const char** value,
                            size_t* value_len) noexcept nogil:
    """Takes pairs off the query up to the next of that name, and gives its raw value; False: none."""
    cdef const char* p = query[0]
    cdef const char* end = p + left[0]
    cdef const char* pair
    cdef size_t n = strlen(name), size
    while p < end:
        pair = p
        while p < end and p[0] != c'&':
            p += 1
        size = p - pair
        if p < end:
            p += 1
        if size >= n and memcmp(pair, name, n) == 0 and (size == n or pair[n] == c'='):
            value[0] = pair + n if size == n else pair + n + 1
            value_len[0] = 0 if size == n else size - n - 1
            query[0] = p
            left[0] = end - p
            return True
    query[0] = end
    left[0] = 0
    return False


cdef inline int query_next_room(const char** query, size_t* left, char* out, size_t out_size) noexcept nogil:
    """Takes the raw query up to and with its next room=…, and writes that name, decoded, without a NUL.

    Its length, 0 when no room is left; -1: an empty name, half an escape, or more than `out_size` bytes.
    """
    cdef const char* value = NULL
    cdef size_t n = 0
    cdef int size
    if not query_find(query, left, b"room", &value, &n):
        return 0
    size = percent_decode(value, n, out, out_size)
    return size if size > 0 else -1


# -- the request's headers --

cdef inline bint key_is_valid(const char* p, size_t n) noexcept nogil:
    """Whether it is the base64 of 16 bytes."""
    cdef size_t i
    if n != KEY_SIZE or p[22] != c'=' or p[23] != c'=':
        return False
    for i in range(22):
        if not (c'a' <= p[i] <= c'z' or c'A' <= p[i] <= c'Z' or c'/' <= p[i] <= c'9' or p[i] == c'+'):
            return False
    return True


cdef inline void upgrade_take_token(Upgrade* out, uint8_t source, const char* p, size_t n) noexcept nogil:
    """The first token that is not empty counts, Authorization's before any."""
    if n > 0 and (out.token_from == TOKEN_NONE or source < out.token_from):
        out.token = p
        out.token_len = n
        out.token_from = source


cdef inline void upgrade_authorization(Upgrade* out, const char* p, size_t n) noexcept nogil:
    """Takes a Bearer token; other schemes are none of ours."""
    if not text_starts(p, n, b"bearer") or n == 6 or not is_blank(p[6]):
        return
    p += 6
    n -= 6
    while n > 0 and is_blank(p[0]):
        p += 1
        n -= 1
    upgrade_take_token(out, TOKEN_BEARER, p, n)


cdef inline void upgrade_protocols(Upgrade* out, Seen* seen, const char* list, size_t left) noexcept nogil:
    """Subprotocols, whose names are case-sensitive; a token counts where it follows signal.v1."""
    cdef const char* item = NULL
    cdef size_t n = list_next(&list, &left, &item)
    while n > 0:
        if text_is(item, n, b"signal.v1"):
            out.protocol = 1
        else:
            seen.others = True
            if out.protocol and n > 6 and memcmp(item, b"token.", 6) == 0:
                upgrade_take_token(out, TOKEN_PROTOCOL, item + 6, n - 6)
        n = list_next(&list, &left, &item)


cdef inline bint is_zero(const char* p, size_t n) noexcept nogil:
    """A Content-Length of nothing."""
    cdef size_t i
    for i in range(n):
        if p[i] != c'0':
            return False
    return n > 0


cdef inline void upgrade_websocket_header(const phr_header* header, Seen* seen, Upgrade* out) noexcept nogil:
    """A header whose name starts with Sec-WebSocket-."""
    cdef const char* name = header.name + 14
    cdef size_t n = header.name_len - 14
    if text_matches(name, n, b"key"):
        seen.keys += 1
        out.key = header.value
        if not key_is_valid(header.value, header.value_len):
            seen.bad = True
    elif text_matches(name, n, b"version"):
        seen.versions += 1
        seen.version_13 = text_is(header.value, header.value_len, b"13")
    elif text_matches(name, n, b"protocol"):
        upgrade_protocols(out, seen, header.value, header.value_len)


cdef inline void upgrade_header(const phr_header* header, Seen* seen, Upgrade* out) noexcept nogil:
    """Notes what one header says."""
    cdef const char* name = header.name
    cdef size_t n = header.name_len
    cdef const char* value = header.value
    cdef size_t value_len = header.value_len
    if n == 0:
        seen.bad = True
    elif text_starts(name, n, b"sec-websocket-"):
        upgrade_websocket_header(header, seen, out)
    elif text_matches(name, n, b"host"):
        seen.hosts += 1
        seen.bad = seen.bad or value_len == 0
    elif text_matches(name, n, b"upgrade"):
        seen.websocket = seen.websocket or list_has(value, value_len, b"websocket")
    elif text_matches(name, n, b"connection"):
        seen.connection = seen.connection or list_has(value, value_len, b"upgrade")
    elif text_matches(name, n, b"origin"):
        seen.origins += 1
        out.origin = value
        out.origin_len = value_len
    elif text_matches(name, n, b"authorization"):
        seen.tokens += 1
        upgrade_authorization(out, value, value_len)
    elif text_matches(name, n, b"x-forwarded-for"):
        out.forwarded[out.nforwarded % FORWARDED_LINES] = value
        out.forwarded_len[out.nforwarded % FORWARDED_LINES] = value_len
        out.nforwarded += 1
    elif text_matches(name, n, b"content-length"):
        seen.bad = seen.bad or not is_zero(value, value_len)
    elif text_matches(name, n, b"transfer-encoding"):
        seen.bad = True


cdef inline void upgrade_query_token(Upgrade* out) noexcept nogil:
    """Takes ?token=… where no header brought a token."""
    cdef const char* query = out.query
    cdef size_t left = out.query_len
    cdef const char* value = NULL
    cdef size_t n = 0
    if query_find(&query, &left, b"token", &value, &n):
        upgrade_take_token(out, TOKEN_QUERY, value, n)


# -- the verdict --

cdef inline size_t upgrade_target(const char* p, size_t n, Upgrade* out, const char** path) noexcept nogil:
    """Splits a target, in origin or absolute form (RFC 9112 §3.2), into path and query; the path's length."""
    cdef const char* end = p + n
    cdef size_t scheme = 7 if text_starts(p, n, b"http") and n > 7 and memcmp(p + 4, b"://", 3) == 0 else 0
    if text_starts(p, n, b"https") and n > 8 and memcmp(p + 5, b"://", 3) == 0:
        scheme = 8
    if scheme > 0:
        p += scheme
        while p < end and p[0] != c'/' and p[0] != c'?':
            p += 1
    path[0] = p
    while p < end and p[0] != c'?':
        p += 1
    n = p - path[0]
    if n == 0 and scheme > 0:
        path[0] = b"/"
        n = 1
    if p < end:
        out.query = p + 1
        out.query_len = end - p - 1
    return n


cdef inline int upgrade_judge_websocket(const Seen* seen) noexcept nogil:
    """The status for a well-formed GET of "/" (RFC 6455 §4.2.1): 0 where it is to be upgraded."""
    if not seen.websocket and not seen.connection:
        return 426
    if not seen.websocket or not seen.connection or seen.versions > 1:
        return 400
    if not seen.version_13:
        return 426
    return 0 if seen.keys == 1 else 400


cdef inline int upgrade_judge(const Seen* seen, bint get, bint head, int minor, const char* path,
                              size_t path_len) noexcept nogil:
    """The status for a whole head: 0 upgrade, 200 a health check, else a refusal."""
    cdef bint health = text_is(path, path_len, b"/healthz")
    if not get and not (head and health):
        return 405
    if seen.websocket and health or not health and not text_is(path, path_len, b"/"):
        return 404
    if seen.websocket and minor == 0:
        return 505
    if seen.bad or seen.hosts > 1 or seen.hosts == 0 and minor > 0 or seen.tokens > 1 or seen.origins > 1:
        return 400
    return 200 if health else upgrade_judge_websocket(seen)


cdef inline bint uri_is_long(const char* p, size_t n) noexcept nogil:
    """Whether the target, be it complete or not, exceeds UPGRADE_MAX_URI."""
    cdef const uint8_t* at = <const uint8_t*>p
    cdef const uint8_t* end = at + n
    cdef const uint8_t* target
    if n <= UPGRADE_MAX_URI:
        return False
    while at < end and (at[0] == 13 or at[0] == 10):
        at += 1
    while at < end and at[0] > 32:
        at += 1
    while at < end and at[0] == 32:
        at += 1
    target = at
    while at < end and at[0] > 32:
        at += 1
    return at - target > UPGRADE_MAX_URI


cdef inline int upgrade_refused(Upgrade* out, int status) noexcept nogil:
    out.status = status
    return -1


cdef inline int upgrade_parse(const char* buf, size_t n, size_t last_len, Upgrade* out) noexcept nogil:
    """Judges a handshake, from a connection's first byte; `last_len` of the `n` bytes were there a call ago.

    >0: bytes of the head, out.status is 0 (upgrade) or 200 (health check). -1: refuse with out.status, look
    at nothing that follows. -2: not complete. Bounds: UPGRADE_MAX_HEAD and UPGRADE_MAX_HEADERS (431),
    UPGRADE_MAX_URI (414).
    """
    cdef phr_header headers[100]
    cdef Seen seen
    cdef const char* method = NULL
    cdef const char* target = NULL
    cdef const char* path = NULL
    cdef size_t count = UPGRADE_MAX_HEADERS, method_len = 0, target_len = 0, path_len, i
    cdef int minor = 0, used
    cdef bint get
    memset(out, 0, sizeof(Upgrade))
    memset(&seen, 0, sizeof(Seen))
    n = n if n < UPGRADE_MAX_HEAD else UPGRADE_MAX_HEAD
    last_len = last_len if last_len < n else n
    if uri_is_long(buf, n):
        return upgrade_refused(out, 414)
    used = phr_parse_request(
        buf, n, &method, &method_len, &target, &target_len, &minor, headers, &count, last_len)
    if used == -1:
        return upgrade_refused(out, 431 if count == UPGRADE_MAX_HEADERS else 400)
    if used == -2:
        return upgrade_refused(out, 431) if n == UPGRADE_MAX_HEAD else -2
    for i in range(count):
        upgrade_header(&headers[i], &seen, out)
    path_len = upgrade_target(target, target_len, out, &path)
    out.path = path
    out.path_len = path_len
    upgrade_query_token(out)
    out.other_protocol = seen.others and not out.protocol
    out.bodiless = text_is(method, method_len, b"HEAD")
    get = text_is(method, method_len, b"GET")
    out.status = upgrade_judge(&seen, get, out.bodiless, minor, path, path_len)
    return used if out.status == 0 or out.status == 200 else -1


# -- the answers --

cdef inline size_t upgrade_accept(const Upgrade* upgrade, char* out) noexcept nogil:
    """Writes the whole 101 (RFC 6455 §4.2.2), at most UPGRADE_ACCEPT_MAX bytes; returns its length."""
    cdef char text[60]
    cdef uint8_t digest[20]
    cdef char* p = out
    memcpy(text, upgrade.key, KEY_SIZE)
    memcpy(text + KEY_SIZE, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", GUID_SIZE)
    se_sha1(<const uint8_t*>text, KEY_SIZE + GUID_SIZE, digest)
    p += text_put(p, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    p += text_put(p, b"Sec-WebSocket-Accept: ")
    p += se_base64_put(digest, SE_SHA1_SIZE, p)
    if upgrade.protocol:
        p += text_put(p, b"\r\nSec-WebSocket-Protocol: signal.v1")
    p += text_put(p, b"\r\n\r\n")
    return p - out


cdef inline const char* status_text(int status) noexcept nogil:
    """What the body tells a person."""
    if status == 200:
        return b"ok\n"
    if status == 400:
        return b"This is not a well-formed WebSocket handshake.\n"
    if status == 401:
        return b"A valid token is needed.\n"
    if status == 403:
        return b"This origin or token is not allowed here.\n"
    if status == 404:
        return b"There is nothing here: WebSockets are at /.\n"
    if status == 405:
        return b"Only GET is understood here.\n"
    if status == 408:
        return b"The handshake took too long.\n"
    if status == 414:
        return b"The URL is too long.\n"
    if status == 426:
        return b"This is a WebSocket endpoint: connect with ws:// or wss://, version 13.\n"
    if status == 429:
        return b"Too many connections, or in a short time: try again later.\n"
    if status == 431:
        return b"The head of the handshake is too large.\n"
    if status == 503:
        return b"This node is full or draining: try again, or another one.\n"
    if status == UNJUDGED:
        return b"It could not be decided whether this client may connect: try again.\n"
    if status == 505:
        return b"A WebSocket needs HTTP/1.1.\n"
    return b"Something went wrong inside the engine.\n"


cdef inline const char* status_headers(int status) noexcept nogil:
    """The headers that belong to one status, Connection included."""
    if status == 401:
        return b"WWW-Authenticate: Bearer\r\nConnection: close\r\n"
    if status == 405:
        return b"Allow: GET\r\nConnection: close\r\n"
    if status == 426:
        return b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade, close\r\n"
    if status in (429, 503, UNJUDGED):
        return b"Retry-After: 1\r\nConnection: close\r\n"
    return b"Connection: close\r\n"


cdef inline size_t upgrade_refuse(int status, char* out, size_t size) noexcept nogil:
    """Writes the whole HTTP answer, a health check's too; its length, 0 where `size` < UPGRADE_ANSWER."""
    cdef const char* text = status_text(status)
    cdef char* p = out
    if size < UPGRADE_ANSWER:
        return 0
    p += text_put(p, b"HTTP/1.1 ")
    p += number_put(p, status % STATUS_MOST)
    p += text_put(p, b" ")
    p += text_put(p, status_reason(status % STATUS_MOST))
    p += text_put(p, b"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ")
    p += number_put(p, <int>strlen(text))
    p += text_put(p, b"\r\n")
    p += text_put(p, status_headers(status))
    p += text_put(p, b"\r\n")
    p += text_put(p, text)
    return p - out


cdef inline size_t upgrade_answer(const Upgrade* upgrade, char* out, size_t size) noexcept nogil:
    """As upgrade_refuse, with upgrade.status, and no body where the method was HEAD (RFC 9110 §9.3.2)."""
    cdef size_t n = upgrade_refuse(upgrade.status, out, size)
    if n > 0 and upgrade.bodiless:
        n -= strlen(status_text(upgrade.status))
    return n
