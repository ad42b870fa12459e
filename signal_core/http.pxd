"""HTTP/1.1 heads: the binding of picohttpparser, and the text of headers and status lines. L0."""

from libc.string cimport memcmp, memcpy, strlen

cdef extern from "picohttpparser.h" nogil:
    struct phr_header:
        const char* name       # NULL: the value goes on from the line before (obsolete folding)
        size_t name_len
        const char* value      # without the spaces around it
        size_t value_len

    int phr_parse_request(
        const char* buf, size_t n, const char** method, size_t* method_len, const char** path,
        size_t* path_len, int* minor_version, phr_header* headers, size_t* num_headers, size_t last_len,
    )


cdef inline bint text_is(const char* p, size_t n, const char* text) noexcept nogil:
    return n == strlen(text) and memcmp(p, text, n) == 0


cdef inline bint text_starts(const char* p, size_t n, const char* lower) noexcept nogil:
    """Whether p starts with `lower`, letters in either case; `lower` has lower-case letters and '-' only."""
    cdef size_t i = 0
    while i < n and lower[i] and (p[i] | 0x20) == lower[i]:
        i += 1
    return lower[i] == 0


cdef inline bint text_matches(const char* p, size_t n, const char* lower) noexcept nogil:
    """As text_starts, for the whole of p."""
    return n == strlen(lower) and text_starts(p, n, lower)


cdef inline size_t text_put(char* out, const char* text) noexcept nogil:
    cdef size_t n = strlen(text)
    memcpy(out, text, n)
    return n


cdef inline size_t number_put(char* out, int value) noexcept nogil:
    """Decimal, up to 999; returns its digits."""
    cdef size_t digits = 3 if value > 99 else 2 if value > 9 else 1
    cdef size_t i = digits
    while i > 0:
        i -= 1
        out[i] = <char>(48 + value % 10)
        value = value // 10
    return digits


cdef inline bint is_blank(char c) noexcept nogil:
    return c == c' ' or c == c'\t'


cdef inline size_t list_next(const char** list, size_t* left, const char** item) noexcept nogil:
    """Takes the next item of a comma-separated list (RFC 9110 §5.6.1); its length, 0 at the end."""
    cdef const char* p = list[0]
    cdef const char* end = p + left[0]
    cdef const char* stop
    while p < end and (is_blank(p[0]) or p[0] == c','):
        p += 1
    item[0] = stop = p
    while p < end and p[0] != c',':
        if not is_blank(p[0]):
            stop = p + 1
        p += 1
    list[0] = p
    left[0] = end - p
    return stop - item[0]


cdef inline bint list_has(const char* list, size_t left, const char* lower) noexcept nogil:
    """Whether an item is `lower`, in either case."""
    cdef const char* item = NULL
    cdef size_t n = list_next(&list, &left, &item)
    while n > 0:
        if text_matches(item, n, lower):
            return True
        n = list_next(&list, &left, &item)
    return False


cdef inline int hex_value(char c) noexcept nogil:
    """0 to 15; -1: not a digit."""
    if c'0' <= c <= c'9':
        return c - c'0'
    if c'a' <= c <= c'f':
        return c - c'a' + 10
    if c'A' <= c <= c'F':
        return c - c'A' + 10
    return -1


cdef inline int percent_decode(const char* p, size_t n, char* out, size_t out_size) noexcept nogil:
    """Decodes %XX and '+'. Bytes written; -1: half an escape, or more than `out_size` bytes."""
    cdef size_t i = 0, size = 0
    cdef int high, low
    while i < n:
        if size == out_size:
            return -1
        if p[i] == c'%':
            if n - i < 3:
                return -1
            high = hex_value(p[i + 1])
            low = hex_value(p[i + 2])
            if high < 0 or low < 0:
                return -1
            out[size] = <char>(high << 4 | low)
            i += 3
        else:
            out[size] = c' ' if p[i] == c'+' else p[i]
            i += 1
        size += 1
    return <int>size


cdef inline const char* status_reason(int status) noexcept nogil:
    """The reason phrase (RFC 9110 §15) of a status that the engine uses."""
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
