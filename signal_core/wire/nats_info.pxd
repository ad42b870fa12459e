"""INFO, as far as the loop reads it by itself. Pure: bytes in, a number out.

Python reads the rest (signal_py/nats/info.py). The bound of a payload can't wait for it: what is written in between
would cost the connection.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcmp, strlen

cdef enum:
    INFO_DIGITS = 10              # of a number that is looked at


cdef inline bint _json_space(char c) noexcept nogil:
    return c == c" " or c == c"\t" or c == c"\r" or c == c"\n"


cdef inline size_t _json_spaces(const char* p, size_t n, size_t at) noexcept nogil:
    while at < n and _json_space(p[at]):
        at += 1
    return at


cdef inline size_t _json_string_end(const char* p, size_t n, size_t at) noexcept nogil:
    """The place of the quotation mark that ends the string whose first byte is at `at`; n: there is none."""
    while at < n and p[at] != c'"':
        at += 2 if p[at] == c"\\" else 1
    return at if at < n else n


cdef inline int64_t _json_number_after(const char* p, size_t n, size_t at) noexcept nogil:
    """The whole number behind a colon that is next at `at`; -1: there is none."""
    cdef int64_t value = 0
    cdef size_t first
    at = _json_spaces(p, n, at)
    if at >= n or p[at] != c":":
        return -1
    at = first = _json_spaces(p, n, at + 1)
    while at < n and c"0" <= p[at] <= c"9" and at - first < INFO_DIGITS:
        value = 10 * value + (p[at] - c"0")
        at += 1
    if at == first or (p[first] == c"0" and at - first > 1):
        return -1
    at = _json_spaces(p, n, at)
    return value if at < n and (p[at] == c"," or p[at] == c"}") else -1


cdef inline int64_t nats_info_number(const char* p, size_t n, const char* name) noexcept nogil:
    """The whole number, of at most INFO_DIGITS digits, that a JSON object has under a name: the last where it stands
    twice. -1: there is none. What is no JSON gives some number or none."""
    cdef size_t at = 0, end, size = strlen(name)
    cdef int64_t found = -1, value
    cdef int64_t depth = 0
    while at < n:
        if p[at] == c'"':
            end = _json_string_end(p, n, at + 1)
            if depth == 1 and end < n and end - at - 1 == size and memcmp(p + at + 1, name, size) == 0:
                value = _json_number_after(p, n, end + 1)
                if value >= 0:
                    found = value
            at = end
        elif p[at] == c"{" or p[at] == c"[":
            depth += 1
        elif p[at] == c"}" or p[at] == c"]":
            depth -= 1
        at += 1
    return found
