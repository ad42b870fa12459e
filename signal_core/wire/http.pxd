"""HTTP/1.1: the binding of picohttpparser, comma-separated lists, and reason phrases. Pure."""

from signal_core.base.span cimport Span, span_between
from signal_core.base.text cimport text_is_blank, text_matches

cdef extern from "picohttpparser.h" nogil:
    struct phr_header:
        const char* name       # NULL: the line continues the value before it (obsolete folding)
        size_t name_len
        const char* value      # without spaces around it
        size_t value_len

    int phr_parse_request(
        const char* buf, size_t n, const char** method, size_t* method_len, const char** path,
        size_t* path_len, int* minor_version, phr_header* headers, size_t* num_headers, size_t last_len,
    )


cdef inline Span http_list_next(Span* list) noexcept nogil:
    """Takes the next item off a comma-separated list (RFC 9110 §5.6.1). Returns no bytes at the end."""
    cdef const char* p = list.at
    cdef const char* end = p + list.size
    cdef const char* start
    cdef const char* stop
    while p < end and (text_is_blank(p[0]) or p[0] == c','):
        p += 1
    start = stop = p
    while p < end and p[0] != c',':
        if not text_is_blank(p[0]):
            stop = p + 1
        p += 1
    list[0] = span_between(p, end)
    return span_between(start, stop)


cdef inline bint http_list_has(Span list, const char* lower) noexcept nogil:
    """Whether an item of a list is `lower`, ignoring case (text_matches)."""
    cdef Span item = http_list_next(&list)
    while item.size > 0:
        if text_matches(item, lower):
            return True
        item = http_list_next(&list)
    return False


cdef inline const char* http_status_reason(int status) noexcept nogil:
    """Returns the reason phrase (RFC 9110 §15) of a status that the engine uses."""
    if status == 200:
        return b"OK"
    if status == 204:
        return b"No Content"
    if status == 400:
        return b"Bad Request"
    if status == 401:
        return b"Unauthorized"
    if status == 403:
        return b"Forbidden"
    if status == 404:
        return b"Not Found"
    if status == 405:
        return b"Method Not Allowed"
    if status == 408:
        return b"Request Timeout"
    if status == 414:
        return b"URI Too Long"
    if status == 426:
        return b"Upgrade Required"
    if status == 429:
        return b"Too Many Requests"
    if status == 431:
        return b"Request Header Fields Too Large"
    if status == 503:
        return b"Service Unavailable"
    if status == 505:
        return b"HTTP Version Not Supported"
    return b"Internal Server Error"
