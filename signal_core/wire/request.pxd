"""Parses the request line of HTTP (RFC 9112 §3), its target and query, and hosts. Pure."""

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memchr, memcmp, memcpy, strlen
from signal_core.base.span cimport (
    Span, span_between, span_first, span_from, span_is, span_of, span_starts, span_text, span_until,
)
from signal_core.base.limits cimport ADDRESS_BYTES, ADDRESS_TEXT, SITE_PATH_SIZE
from signal_core.base.sys cimport AF_INET6, inet_pton
from signal_core.base.text cimport text_hex_value, text_percent_decode, text_starts

cdef extern from "se_text.h" nogil:
    size_t se_host_run(const char* p, size_t n)
    size_t se_method_run(const char* p, size_t n)
    size_t se_target_run(const char* p, size_t n)

cdef enum:
    LINE_GOOD = 0             # the request line is whole and well-formed, maybe since an earlier call
    LINE_MORE = -2            # it is incomplete, with nothing wrong so far

    PARAMETER_MAX = 8         # bytes; the names of the parameters that the engine knows are shorter

cdef struct Site:             # the limits of requests, and the path of the endpoint
    uint32_t max_line         # 4  bytes of a request line without its CRLF
    uint32_t max_head         # 4  bytes of a whole head
    uint32_t path_len         # 4  0: the root
    bint deflate              # 4  permessage-deflate is accepted
    char path[SITE_PATH_SIZE]  # 128  without a slash at its end


# -- the request line --

cdef inline size_t _line_words(Span text) noexcept nogil:
    """Returns the bytes of `METHOD target HTTP/1.x` that a text starts with; 0: none. The target is visible ASCII
    without '#'."""
    cdef const char* p = text.at
    cdef size_t n = text.size, start
    cdef size_t at = 3 if n > 3 and memcmp(p, b"GET ", 4) == 0 else se_method_run(p, n)
    if at == 0 or at == n or p[at] != c' ':
        return 0
    start = at + 1
    at = start + se_target_run(p + start, n - start)
    if at == start or n - at < 9 or memcmp(p + at, b" HTTP/1.", 8) != 0 or not c'0' <= p[at + 8] <= c'9':
        return 0
    return at + 9


cdef inline bint _line_part_is_good(Span part) noexcept nogil:
    """Whether bytes of an incomplete line are allowed: visible ASCII, spaces, and a CR at the end."""
    cdef size_t i
    for i in range(part.size):
        if part.at[i] < c' ' or part.at[i] > c'~':
            return part.at[i] == c'\r' and i == part.size - 1
    return True


cdef inline size_t _line_start(Span text) noexcept nogil:
    """Returns the bytes of the empty line that may come before a request (RFC 9112 §2.2)."""
    return 2 if text.size >= 2 and text.at[0] == c'\r' and text.at[1] == c'\n' else 0


cdef inline int request_line_check(Span text, size_t last_len, uint32_t most) noexcept nogil:
    """Validates the request line, from a connection's first byte; the last call had the first `last_len` bytes.

    Returns LINE_GOOD, LINE_MORE, or the HTTP status of the refusal: 400, or 414 for more than `most` bytes. Each byte
    is validated once; only the search for the line's end starts over.
    """
    cdef const char* p = text.at
    cdef size_t start, n = text.size, size = 0 if last_len else _line_words(text)
    cdef const char* end
    if size and size <= most and n - size > 1 and p[size] == c'\r' and p[size + 1] == c'\n':
        return LINE_GOOD
    start = _line_start(text)
    if n - start == 0 or (start == 0 and n == 1 and p[0] == c'\r'):
        return LINE_MORE
    size = n - start
    end = <const char*>memchr(p + start, c'\n', size if size < most + 2 else most + 2)
    if end == NULL:
        if size - (p[n - 1] == c'\r') > most:
            return 414
        last_len = last_len - 1 if last_len > start else start  # its last byte may be a CR, which no LF follows
        return LINE_MORE if _line_part_is_good(span_from(text, last_len)) else 400
    if last_len > <size_t>(end - p):
        return LINE_GOOD
    size = end - p - start
    if size == 0 or (end - 1)[0] != c'\r':
        return 400
    return LINE_GOOD if _line_words(span_of(p + start, size - 1)) == size - 1 else 400


cdef inline const char* request_line_complaint(Span text) noexcept nogil:
    """Returns the explanation for people of a request line that is refused with 400."""
    cdef Span line = span_from(text, _line_start(text))
    if line.size and line.at[0] == 0x16:
        return b"This port speaks HTTP without TLS: connect with ws://, or through a proxy that terminates TLS."
    if span_starts(line, b"PRI * HTTP/2"):
        return b"This port speaks HTTP/1.1, and not HTTP/2."
    return (b"The request line is malformed: write a method, a target without '#' and unescaped bytes, and HTTP/1.1, "
            b"separated by single spaces.")


# -- hosts --

cdef inline bint _port_valid(Span text) noexcept nogil:
    """Whether it is a number up to 65535, or empty (RFC 3986 §3.2.3)."""
    cdef uint32_t port = 0
    cdef size_t i
    for i in range(text.size):
        if not c'0' <= text.at[i] <= c'9':
            return False
        port = port * 10 + (text.at[i] - c'0')
        if port > 65535:
            return False
    return True


cdef inline bint _ipv6_valid(Span host) noexcept nogil:
    """Whether the text between the brackets of a host is an IPv6 address, maybe with a zone after a '%'."""
    cdef char text[ADDRESS_TEXT]
    cdef uint8_t address[ADDRESS_BYTES]
    cdef size_t size = span_until(host, c'%')
    cdef Span zone
    if size < host.size:
        zone = span_from(host, size + 1)
        if zone.size == 0 or se_host_run(zone.at, zone.size) != zone.size:
            return False
    if size >= ADDRESS_TEXT:
        return False
    memcpy(text, host.at, size)
    text[size] = 0
    return inet_pton(AF_INET6, text, address) == 1


cdef inline bint request_host_valid(Span host) noexcept nogil:
    """Whether it is a host that is not empty, with a port or without (RFC 3986 §3.2.2, §3.2.3)."""
    cdef const char* p = host.at
    cdef size_t n = host.size, size
    if n == 0:
        return False
    if p[0] == c'[':
        size = span_until(host, c']')
        if size == n or not _ipv6_valid(span_of(p + 1, size - 1)):
            return False
        size += 1
    else:
        size = se_host_run(p, n)
        while (n - size > 2 and p[size] == c'%' and text_hex_value(p[size + 1]) >= 0
               and text_hex_value(p[size + 2]) >= 0):
            size += 3
            size += se_host_run(p + size, n - size)
    if size == n:
        return True
    return size > 0 and p[size] == c':' and _port_valid(span_from(host, size + 1))


# -- the target --

cdef inline size_t _target_scheme(Span target) noexcept nogil:
    """Returns the bytes of the http:// or https:// of an absolute target; 0: it is not absolute."""
    cdef size_t scheme = 5 if text_starts(target, b"https") else 4
    if not text_starts(target, b"http") or not span_starts(span_from(target, scheme), b"://"):
        return 0
    return scheme + 3


cdef inline bint request_split_target(Span target, Span* path, Span* query) noexcept nogil:
    """Splits a target in origin or absolute form (RFC 9112 §3.2) into path and query. Without a query its outputs stay
    as they are. False: the host of an absolute target is missing or malformed."""
    cdef const char* p = target.at
    cdef const char* end = p + target.size
    cdef const char* host = p + _target_scheme(target)
    cdef bint absolute = host != p
    if absolute:
        p = host
        while p < end and p[0] != c'/' and p[0] != c'?':
            p += 1
        if not request_host_valid(span_between(host, p)):
            return False
    target = span_between(p, end)
    path[0] = span_first(target, span_until(target, c'?'))
    if path.size < target.size:
        query[0] = span_from(target, path.size + 1)
    if path.size == 0 and absolute:
        path[0] = span_text(b"/")
    return True


cdef inline bint site_has(const Site* site, Span path, const char* name) noexcept nogil:
    """Whether a path is the endpoint's, followed by `name`."""
    return (path.size >= site.path_len and memcmp(path.at, site.path, site.path_len) == 0
            and span_is(span_from(path, site.path_len), name))


cdef inline bint site_is_root(const Site* site, Span path) noexcept nogil:
    """Whether a path is the endpoint's, maybe with a slash at its end; the root must have one."""
    return site_has(site, path, b"/") or (site.path_len > 0 and site_has(site, path, b""))


# -- the query --

cdef inline bint _parameter_is(Span sent, const char* name) noexcept nogil:
    """Whether a parameter's name, maybe percent-encoded, is `name`, which has fewer than PARAMETER_MAX bytes."""
    cdef char text[PARAMETER_MAX]
    cdef size_t size = strlen(name)
    if sent.size == size:
        return memcmp(sent.at, name, size) == 0
    if sent.size < size or memchr(sent.at, c'%', sent.size) == NULL:
        return False
    return text_percent_decode(sent, text, sizeof(text)) == <int>size and memcmp(text, name, size) == 0


cdef inline bint request_query_find(Span* query, const char* name, Span* value) noexcept nogil:
    """Skips a query up to and with its next `name` parameter, and sets `value` to its raw value. False: there is none.
    """
    cdef const char* p = query.at
    cdef const char* end = p + query.size
    cdef const char* pair
    cdef const char* equals
    while p < end:
        pair = p
        equals = NULL
        while p < end and p[0] != c'&':
            if p[0] == c'=' and equals == NULL:
                equals = p
            p += 1
        if equals == NULL:
            equals = p
        if _parameter_is(span_between(pair, equals), name):
            equals += equals < p
            value[0] = span_between(equals, p)
            p += p < end
            query[0] = span_between(p, end)
            return True
        p += p < end
    query[0] = span_of(end, 0)
    return False


cdef inline int request_query_next_room(Span* query, char* out, size_t out_size, Span* sent) noexcept nogil:
    """Skips a raw query up to and with its next room=…, and writes that name, decoded, without a NUL.

    Returns its length; 0: no room is left; -1: the name is empty, has a malformed escape, or more than `out_size`
    bytes. Sets `sent` to the name as it was sent.
    """
    cdef int size
    sent.size = 0
    if not request_query_find(query, b"room", sent):
        return 0
    size = text_percent_decode(sent[0], out, out_size)
    return size if size > 0 else -1
