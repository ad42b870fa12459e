"""Whether the Origin of a handshake is allowed (RFC 6454).

The list is the Hub's: written before the loops start, freed after they have ended.
"""

from libc.string cimport memchr
from signal_core.tables.state cimport Hub
from signal_core.wire.handshake cimport Upgrade


cdef inline char _lower(char c) noexcept nogil:
    return c | 0x20 if c'A' <= c <= c'Z' else c


cdef inline bint _same_lower(const char* p, const char* rule, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if _lower(p[i]) != rule[i]:
            return False
    return True


cdef inline bint _host_run(const char* p, size_t n) noexcept nogil:
    """Whether the text is not empty and has only characters of a host's name."""
    cdef size_t i
    cdef char c
    for i in range(n):
        c = _lower(p[i])
        if not (c'a' <= c <= c'z' or c'0' <= c <= c'9' or c == c'-' or c == c'.' or c == c'_'):
            return False
    return n > 0


cdef inline bint origin_matches(const char* rule, size_t rule_n, const char* p, size_t n) noexcept nogil:
    """Whether an origin matches a rule, which is in lower case. A `*` in it stands for one or more labels of a host."""
    cdef const char* star = <const char*>memchr(rule, c'*', rule_n)
    cdef size_t before, after
    if star == NULL:
        return n == rule_n and _same_lower(p, rule, n)
    before = star - rule
    after = rule_n - before - 1
    return (n > before + after and _same_lower(p, rule, before) and _same_lower(p + n - after, star + 1, after)
            and _host_run(p + before, n - before - after) and p[before] != c'.')


cdef inline bint origin_allowed(const Hub* hub, const Upgrade* u) noexcept nogil:
    """Whether the list allows this Origin. Without a list any is allowed. So is a request without Origin: only browsers
    have to send it, and other clients could send any."""
    cdef const char* rule = hub.origins
    cdef const char* end = rule + hub.origins_len
    cdef const char* stop
    if rule == NULL or u.origin == NULL:
        return True
    while rule < end:
        stop = <const char*>memchr(rule, c'\n', end - rule)
        if origin_matches(rule, stop - rule, u.origin, u.origin_len):
            return True
        rule = stop + 1
    return False
