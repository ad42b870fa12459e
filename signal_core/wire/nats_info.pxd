"""Reads a number from NATS's INFO, a JSON object. Pure.

Python reads the rest of INFO (signal_py/nats/info.py). max_payload cannot wait for Python: a larger message written
meanwhile would make NATS close the connection.
"""

from libc.stdint cimport int64_t
from signal_core.base.span cimport Span, span_is, span_of

cdef enum:
    INFO_DIGITS = 10              # of the longest number that is parsed


cdef inline bint _json_space(char c) noexcept nogil:
    return c == c" " or c == c"\t" or c == c"\r" or c == c"\n"


cdef inline size_t _json_spaces(Span json, size_t at) noexcept nogil:
    while at < json.size and _json_space(json.at[at]):
        at += 1
    return at


cdef inline size_t _json_string_end(Span json, size_t at) noexcept nogil:
    """Returns the index of the quotation mark that ends the string from `at` on; json.size: there is none."""
    while at < json.size and json.at[at] != c'"':
        at += 2 if json.at[at] == c"\\" else 1
    return at if at < json.size else json.size


cdef inline int64_t _json_number_after(Span json, size_t at) noexcept nogil:
    """Returns the whole number after the colon that comes next at `at`; -1: there is none."""
    cdef const char* p = json.at
    cdef int64_t value = 0
    cdef size_t first
    at = _json_spaces(json, at)
    if at >= json.size or p[at] != c":":
        return -1
    at = first = _json_spaces(json, at + 1)
    while at < json.size and c"0" <= p[at] <= c"9" and at - first < INFO_DIGITS:
        value = 10 * value + (p[at] - c"0")
        at += 1
    if at == first or (p[first] == c"0" and at - first > 1):
        return -1
    at = _json_spaces(json, at)
    return value if at < json.size and (p[at] == c"," or p[at] == c"}") else -1


cdef inline int64_t nats_info_number(Span json, const char* name) noexcept nogil:
    """Returns the whole number, of at most INFO_DIGITS digits, that a JSON object has under a name, the last one if
    there are several; -1: none. Text that is not JSON gives some number or -1."""
    cdef const char* p = json.at
    cdef size_t at = 0, end
    cdef int64_t found = -1, value
    cdef int64_t depth = 0
    while at < json.size:
        if p[at] == c'"':
            end = _json_string_end(json, at + 1)
            if depth == 1 and end < json.size and span_is(span_of(p + at + 1, end - at - 1), name):
                value = _json_number_after(json, end + 1)
                if value >= 0:
                    found = value
            at = end
        elif p[at] == c"{" or p[at] == c"[":
            depth += 1
        elif p[at] == c"}" or p[at] == c"]":
            depth -= 1
        at += 1
    return found
