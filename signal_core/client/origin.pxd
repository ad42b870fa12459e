"""Whether the Origin of a handshake is allowed (RFC 6454).

The list belongs to the Settings, and does not change.
"""

from signal_core.base.span cimport Span, span_from, span_of, span_until
from signal_core.tables.settings cimport Settings
from signal_core.wire.handshake cimport Upgrade


cdef inline char _lower(char c) noexcept nogil:
    return c | 0x20 if c'A' <= c <= c'Z' else c


cdef inline bint _same_lower(const char* p, const char* rule, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if _lower(p[i]) != rule[i]:
            return False
    return True


cdef inline bint _host_run(Span text) noexcept nogil:
    """Whether the text is not empty and has only characters of a host's name."""
    cdef size_t i
    cdef char c
    for i in range(text.size):
        c = _lower(text.at[i])
        if not (c'a' <= c <= c'z' or c'0' <= c <= c'9' or c == c'-' or c == c'.' or c == c'_'):
            return False
    return text.size > 0


cdef inline bint origin_matches(Span rule, Span origin) noexcept nogil:
    """Whether an origin matches a rule, which is in lower case. A `*` in it stands for one or more labels of a host."""
    cdef size_t before = span_until(rule, c'*'), after
    cdef Span labels
    if before == rule.size:
        return origin.size == rule.size and _same_lower(origin.at, rule.at, rule.size)
    after = rule.size - before - 1
    if origin.size <= before + after:
        return False
    labels = span_of(origin.at + before, origin.size - before - after)
    return (_same_lower(origin.at, rule.at, before)
            and _same_lower(labels.at + labels.size, rule.at + before + 1, after)
            and _host_run(labels) and labels.at[0] != c'.')


cdef inline bint origin_allowed(const Settings* set, const Upgrade* u) noexcept nogil:
    """Whether the list allows this Origin. Without a list any is allowed. So is a request without Origin: only browsers
    have to send it, and other clients could send any."""
    cdef Span rules = span_of(set.origins, set.origins_len), rule
    if set.origins == NULL or u.origin.at == NULL:
        return True
    while rules.size:
        rule = span_of(rules.at, span_until(rules, c'\n'))
        if origin_matches(rule, u.origin):
            return True
        rules = span_from(rules, rule.size + 1)
    return False
