"""Parses and validates the HTTP head of a client's opening handshake (RFC 6455 §4.2). Pure.

Spans in Upgrade point into the caller's buffer and are valid as long as it is.
"""

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy, memset
from signal_core.base.limits cimport ADDRESS_BYTES, FORWARDED_LINES, UPGRADE_MAX_HEADERS
from signal_core.base.span cimport Span, span_first, span_from, span_is, span_none, span_of, span_starts
from signal_core.base.sys cimport SE_STATIC_ASSERT
from signal_core.base.text cimport (
    text_base64url_decode, text_is_blank, text_matches, text_percent_decode, text_starts,
)
from signal_core.wire.deflate_offer cimport deflate_offer
from signal_core.wire.http cimport http_list_has, http_list_next, phr_header, phr_parse_request
from signal_core.wire.request cimport (
    LINE_MORE, Site, request_host_valid, request_line_check, request_line_complaint, request_query_find,
    request_split_target, site_has, site_is_root,
)

cdef extern from "se_text.h" nogil:
    bint se_same_name(const char* p, const char* lower, size_t n)
    size_t se_base64_run(const char* p, size_t n)

cdef enum:
    KEY_SIZE = 24         # characters of Sec-WebSocket-Key: 16 bytes in base64

    # Upgrade.proxied
    PROXIED_NOT = 0       # there was no header
    PROXIED_SILENT = 1    # it has no address: the proxy's own connection, such as its health check
    PROXIED_FROM = 2      # it has the client's address
    PROXIED_WRONG = 3     # it is missing, malformed, or not from a trusted proxy

    METHOD_OTHER = 0
    METHOD_GET = 1
    METHOD_HEAD = 2
    METHOD_OPTIONS = 3

    # Upgrade.status: 0, an HTTP status, or one plus a multiple of STATUS_MOST, which has another text
    STATUS_MOST = 1000
    UNDECIDED = 1503      # 503: its token got no verdict
    UNHANDLED = 2503      # 503: the loop did not handle the complete handshake in time
    STATUS_HEALTH = 200   # a health check
    STATUS_OPTIONS = 204  # OPTIONS

    # Upgrade.token_from, in order of precedence
    TOKEN_NONE = 0
    TOKEN_BEARER = 1      # Authorization: Bearer <token>
    TOKEN_PROTOCOL = 2    # the subprotocol token.<base64url>
    TOKEN_QUERY = 3       # ?token=<token>, percent-encoded

cdef struct Upgrade:          # a parsed handshake
    const char* key           # 8  Sec-WebSocket-Key, KEY_SIZE characters
    Span token                # 16  not decoded; NULL: none
    Span origin               # 16  NULL: none
    Span query                # 16  what follows '?', not decoded
    Span path                 # 16
    Span forwarded[FORWARDED_LINES]  # 64  the last X-Forwarded-For headers, number i at i % FORWARDED_LINES
    const char* why           # 8  what is wrong, for people; NULL: the status says it
    Span room                 # 16  the room of the query that is wrong, not decoded; NULL: none is
    uint32_t nforwarded       # 4  X-Forwarded-For headers in all
    uint32_t over             # 4  414, 431: bytes of the line or head so far
    int status                # 4  0: upgrade; STATUS_HEALTH, STATUS_OPTIONS; else that of the refusal
    uint8_t token_from        # 1  TOKEN_*
    uint8_t protocol          # 1  signal.v1 was offered
    uint8_t other_protocol    # 1  only others were offered
    uint8_t bodiless          # 1  the method was HEAD: an answer has no body
    uint8_t deflate           # 1  the accepted offer of permessage-deflate (deflate_offer); 0: none
    uint8_t proxied           # 1  PROXIED_*: what a PROXY protocol header before it said (client/proxied.pxd)
    uint8_t source[ADDRESS_BYTES]  # 16  the client's address in that header
    uint32_t skipped          # 4  bytes of that header

cdef struct Seen:            # what the headers of a request say, besides the texts in Upgrade
    int hosts                # 4  Host headers
    int keys                 # 4
    int versions             # 4
    int tokens               # 4  Authorization
    int origins              # 4
    bint websocket           # 4  Upgrade names websocket
    bint connection          # 4  Connection names upgrade
    bint version_13          # 4
    bint others              # 4  subprotocols other than signal.v1 were offered
    bint deflate             # 4  Site.deflate
    const char* bad          # 8  what is wrong with a header, for people; NULL: nothing


cdef inline void upgrade_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(Upgrade) == 200)


# -- the request's headers --

cdef inline bint _key_is_valid(Span key) noexcept nogil:
    """Whether a Sec-WebSocket-Key is the base64 of 16 bytes."""
    return (key.size == KEY_SIZE and se_base64_run(key.at, KEY_SIZE) == KEY_SIZE - 2
            and key.at[22] == c'=' and key.at[23] == c'=')


cdef inline void _upgrade_take_token(Upgrade* out, uint8_t source, Span token) noexcept nogil:
    """Takes a token that is not empty, unless there is one from the same or a preferred source."""
    if token.size > 0 and (out.token_from == TOKEN_NONE or source < out.token_from):
        out.token = token
        out.token_from = source


cdef inline void _upgrade_authorization(Upgrade* out, Span value) noexcept nogil:
    """Takes a Bearer token; other schemes are ignored."""
    if not text_starts(value, b"bearer") or value.size == 6 or not text_is_blank(value.at[6]):
        return
    value = span_from(value, 6)
    while value.size > 0 and text_is_blank(value.at[0]):
        value = span_from(value, 1)
    _upgrade_take_token(out, TOKEN_BEARER, value)


cdef inline void _upgrade_protocols(Upgrade* out, Seen* seen, Span list) noexcept nogil:
    """Handles the offered subprotocols, whose names are case-sensitive. _upgrade_tokens drops a token among them if
    signal.v1 is not."""
    cdef Span item = http_list_next(&list)
    while item.size > 0:
        if span_is(item, b"signal.v1"):
            out.protocol = 1
        else:
            seen.others = True
            if span_starts(item, b"token."):
                _upgrade_take_token(out, TOKEN_PROTOCOL, span_from(item, 6))
        item = http_list_next(&list)


cdef inline bint _is_zero(Span value) noexcept nogil:
    """Whether a Content-Length is 0."""
    cdef size_t i
    for i in range(value.size):
        if value.at[i] != c'0':
            return False
    return value.size > 0


cdef inline void _upgrade_websocket_header(Span name, Span value, Seen* seen, Upgrade* out) noexcept nogil:
    """Handles a header whose name is Sec-WebSocket- and `name`."""
    if text_matches(name, b"key"):
        seen.keys += 1
        out.key = value.at
        if not _key_is_valid(value):
            seen.bad = b"Sec-WebSocket-Key is not the base64 of 16 bytes."
    elif text_matches(name, b"version"):
        seen.versions += 1
        seen.version_13 = span_is(value, b"13")
    elif text_matches(name, b"protocol"):
        _upgrade_protocols(out, seen, value)
    elif seen.deflate and out.deflate == 0 and text_matches(name, b"extensions"):
        out.deflate = deflate_offer(value)


cdef inline void _upgrade_long_header(Span name, Span value, Seen* seen, Upgrade* out) noexcept nogil:
    """Handles a header whose name has more than 10 bytes."""
    if name.size > 14 and se_same_name(name.at, b"sec-webs", 8) and se_same_name(name.at + 8, b"ocket-", 6):
        _upgrade_websocket_header(span_from(name, 14), value, seen, out)
    elif text_matches(name, b"authorization"):
        seen.tokens += 1
        _upgrade_authorization(out, value)
    elif text_matches(name, b"x-forwarded-for"):
        out.forwarded[out.nforwarded % FORWARDED_LINES] = value
        out.nforwarded += 1
    elif text_matches(name, b"transfer-encoding") or text_matches(name, b"content-length") and not _is_zero(value):
        seen.bad = b"The request has a body, which is not accepted here."


cdef inline void _upgrade_header(const phr_header* header, Seen* seen, Upgrade* out) noexcept nogil:
    """Handles one header."""
    cdef const char* name = header.name
    cdef size_t n = header.name_len
    cdef Span value = span_of(header.value, header.value_len)
    if n > 10:
        _upgrade_long_header(span_of(name, n), value, seen, out)
    elif n == 4 and se_same_name(name, b"host", 4):
        seen.hosts += 1
        if not request_host_valid(value):
            seen.bad = b"Host is not a host name or address, with or without a port."
    elif n == 7 and se_same_name(name, b"upgrade", 7):
        seen.websocket = seen.websocket or http_list_has(value, b"websocket")
    elif n == 10 and se_same_name(name, b"connecti", 8) and se_same_name(name + 6, b"tion", 4):
        seen.connection = seen.connection or http_list_has(value, b"upgrade")
    elif n == 6 and se_same_name(name, b"origin", 6):
        seen.origins += 1
        out.origin = value
    elif n == 0:
        seen.bad = b"A header continues on the next line, which is obsolete."


cdef inline void _upgrade_tokens(Upgrade* out) noexcept nogil:
    """Called after all headers: drops a token among subprotocols without signal.v1, and takes ?token=… if no header had
    a token."""
    cdef Span query = out.query
    cdef Span value
    if out.token_from == TOKEN_PROTOCOL and not out.protocol:
        out.token_from = TOKEN_NONE
        out.token = span_none()
    if request_query_find(&query, b"token", &value):
        _upgrade_take_token(out, TOKEN_QUERY, value)


# -- validation --

cdef inline int upgrade_token_decode(uint8_t source, Span token, char* out) noexcept nogil:
    """Writes the decoded token to `out`, at most token.size bytes. Returns its length; -1: malformed, or not visible
    ASCII. `source` is TOKEN_*."""
    cdef int size = <int>token.size, i
    if source == TOKEN_QUERY:
        size = text_percent_decode(token, out, token.size)
    elif source == TOKEN_PROTOCOL:
        size = text_base64url_decode(token, out)
    elif token.size:
        memcpy(out, token.at, token.size)
    for i in range(size):
        if out[i] <= c' ' or out[i] > c'~':
            return -1
    return size


cdef inline uint8_t _upgrade_method(Span method) noexcept nogil:
    if span_is(method, b"GET"):
        return METHOD_GET
    if span_is(method, b"HEAD"):
        return METHOD_HEAD
    return METHOD_OPTIONS if span_is(method, b"OPTIONS") else METHOD_OTHER


cdef inline const char* _upgrade_complaint(const Seen* seen, int minor) noexcept nogil:
    """Returns what is wrong with the headers of any request, for people; NULL: nothing."""
    if seen.hosts > 1 or seen.hosts == 0 and minor > 0:
        return b"The request has no Host, or more than one."
    if seen.tokens > 1:
        return b"The request has more than one Authorization."
    if seen.origins > 1:
        return b"The request has more than one Origin."
    return seen.bad


cdef inline int _upgrade_validate_websocket(const Seen* seen, Upgrade* out) noexcept nogil:
    """Returns the status for a well-formed GET of the endpoint (RFC 6455 §4.2.1); 0: upgrade."""
    if not seen.websocket and not seen.connection:
        return 426
    if not seen.websocket or not seen.connection:
        out.why = (b"WebSocket requires both 'Upgrade: websocket' and 'Connection: Upgrade': a proxy may "
                   b"have removed one.")
        return 400
    if seen.versions > 1:
        out.why = b"The request has more than one Sec-WebSocket-Version."
        return 400
    if not seen.version_13:
        return 426
    if seen.keys != 1:
        out.why = b"The request has no Sec-WebSocket-Key, or more than one."
        return 400
    return 0


cdef inline int _upgrade_validate(const Seen* seen, uint8_t method, int minor, const Site* site,
                                  Upgrade* out) noexcept nogil:
    """Returns Upgrade.status for a whole head with a well-formed target. An Upgrade in a request other than GET is
    ignored (RFC 9110 §7.8)."""
    cdef bint root = site_is_root(site, out.path)
    cdef bint health = not root and (site_has(site, out.path, b"/healthz") or span_is(out.path, b"/healthz"))
    cdef bint all_of_it = method == METHOD_OPTIONS and span_is(out.path, b"*")
    if method == METHOD_OTHER:
        return 405
    if not root and not health and not all_of_it or method == METHOD_GET and seen.websocket and health:
        return 404
    if seen.websocket and minor == 0 and method == METHOD_GET:
        return 505
    out.why = _upgrade_complaint(seen, minor)
    if out.why != NULL:
        return 400
    if method == METHOD_OPTIONS:
        return STATUS_OPTIONS
    if health:
        return STATUS_HEALTH
    return _upgrade_validate_websocket(seen, out) if method == METHOD_GET else 426


cdef inline int _upgrade_refused(Upgrade* out, int status, const char* why) noexcept nogil:
    out.status = status
    out.why = why
    return -1


cdef inline int _upgrade_no_head(Upgrade* out, int result, size_t count, bint full) noexcept nogil:
    """Returns the result of upgrade_parse if phr_parse_request gave `result`, -1 or -2. `full`: max-head is reached."""
    if result == -2:
        return _upgrade_refused(out, 431, NULL) if full else -2
    if count == UPGRADE_MAX_HEADERS:
        return _upgrade_refused(out, 431, b"The head has more than 100 headers.")
    return _upgrade_refused(out, 400, b"A header is malformed: write a name, a colon, a value, and CR LF.")


cdef inline int upgrade_parse(Span input, size_t last_len, const Site* site, Upgrade* out) noexcept nogil:
    """Parses a handshake, from a connection's first byte; the last call had the first `last_len` bytes.

    >0: bytes of the head; out.status is 0 (upgrade), STATUS_HEALTH or STATUS_OPTIONS. -1: refuse with out.status, and
    ignore all further input. -2: more bytes are needed. Limits: those of the site, and UPGRADE_MAX_HEADERS (431).
    """
    cdef phr_header headers[UPGRADE_MAX_HEADERS]
    cdef Seen seen
    cdef Span method, target
    cdef size_t count = UPGRADE_MAX_HEADERS, i
    cdef int minor = 0, used, line
    cdef uint8_t which
    memset(out, 0, sizeof(Upgrade))
    memset(&seen, 0, sizeof(Seen))
    seen.deflate = site.deflate
    out.over = <uint32_t>input.size
    input = span_first(input, site.max_head)
    last_len = last_len if last_len < input.size else input.size
    line = request_line_check(input, last_len, site.max_line)
    if line > 0:
        return _upgrade_refused(out, line, request_line_complaint(input) if line == 400 else NULL)
    used = -2 if line == LINE_MORE else phr_parse_request(
        input.at, input.size, &method.at, &method.size, &target.at, &target.size, &minor, headers, &count, last_len)
    if used < 0:
        return _upgrade_no_head(out, used, count, input.size == site.max_head)
    for i in range(count):
        _upgrade_header(&headers[i], &seen, out)
    which = _upgrade_method(method)
    out.bodiless = which == METHOD_HEAD
    if not request_split_target(target, &out.path, &out.query):
        return _upgrade_refused(out, 400, b"The target has no valid host.")
    _upgrade_tokens(out)
    out.other_protocol = seen.others and not out.protocol
    out.status = _upgrade_validate(&seen, which, minor, site, out)
    return used if out.status == 0 or out.status == STATUS_HEALTH or out.status == STATUS_OPTIONS else -1
