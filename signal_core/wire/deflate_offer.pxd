"""Negotiates permessage-deflate (RFC 7692 §5.1, §7.1): reads what a client offers. Pure.

A client may make several offers, in its order of preference. The first one that is valid is accepted. Both sides then
compress each message on its own (no context takeover), so a connection needs no memory for it.
"""

from libc.stdint cimport uint8_t
from signal_core.base.span cimport Span, span_first, span_from, span_is, span_of
from signal_core.base.text cimport text_is_blank

cdef enum:
    DEFLATE_ANY = 16          # an accepted offer without server_max_window_bits
    DEFLATE_MOST = 15         # bits of the largest window, and of the engine's own
    DEFLATE_LEAST = 8

    # parameters of an offer
    _SERVER_RESETS = 1        # server_no_context_takeover
    _CLIENT_RESETS = 2        # client_no_context_takeover
    _SERVER_WINDOW = 4        # server_max_window_bits=8…15
    _CLIENT_WINDOW = 8        # client_max_window_bits, or with =8…15

cdef struct _Parameter:
    Span name
    Span value                # without quotes, with backslashes; NULL: none


cdef inline bint _is_token(char c) noexcept nogil:
    """Whether a character may be in a token (RFC 9110 §5.6.2)."""
    return (c'0' <= c <= c'9' or c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c in (
        c'!', c'#', c'$', c'%', c'&', c"'", c'*', c'+', c'-', c'.', c'^', c'_', c'`', c'|', c'~'))


cdef inline void _skip_blanks(Span* rest) noexcept nogil:
    while rest.size and text_is_blank(rest.at[0]):
        rest[0] = span_from(rest[0], 1)


cdef inline bint _take(Span* rest, char c) noexcept nogil:
    """Takes a separator and the blanks around it. False: something else follows."""
    _skip_blanks(rest)
    if rest.size == 0 or rest.at[0] != c:
        return False
    rest[0] = span_from(rest[0], 1)
    _skip_blanks(rest)
    return True


cdef inline Span _take_token(Span* rest) noexcept nogil:
    """Takes a token; no bytes: there is none."""
    cdef Span token
    cdef size_t n = 0
    while n < rest.size and _is_token(rest.at[n]):
        n += 1
    token = span_first(rest[0], n)
    rest[0] = span_from(rest[0], n)
    return token


cdef inline bint _take_quoted(Span* rest, Span* value) noexcept nogil:
    """Takes a quoted string, whose first quote is known to be there. False: it does not end."""
    cdef size_t n = 1
    while n < rest.size and rest.at[n] != c'"':
        n += 2 if rest.at[n] == c'\\' else 1
    if n >= rest.size:
        return False
    value[0] = span_of(rest.at + 1, n - 1)
    rest[0] = span_from(rest[0], n + 1)
    return True


cdef inline bint _take_parameter(Span* rest, _Parameter* p) noexcept nogil:
    """Takes a parameter. False: it is malformed."""
    p.name = _take_token(rest)
    p.value = span_of(NULL, 0)
    if p.name.size == 0:
        return False
    if not _take(rest, c'='):
        return True
    if rest.size and rest.at[0] == c'"':
        return _take_quoted(rest, &p.value)
    p.value = _take_token(rest)
    return p.value.size > 0


cdef inline uint8_t _window_bits(Span value) noexcept nogil:
    """Returns the number that a value is, 8 to 15 without a leading zero; 0: it is something else."""
    cdef uint8_t bits = 0
    cdef size_t i = 0
    while i < value.size:
        if value.at[i] == c'\\':
            i += 1
        if i == value.size or not c'0' <= value.at[i] <= c'9' or bits == 0 and value.at[i] == c'0':
            return 0
        bits = <uint8_t>(bits * 10 + (value.at[i] - c'0'))
        if bits > DEFLATE_MOST:
            return 0
        i += 1
    return bits if bits >= DEFLATE_LEAST else 0


cdef inline int _parameter_of(const _Parameter* p, uint8_t* window) noexcept nogil:
    """Returns which parameter it is; 0: it makes its offer invalid. `window` gets that of the engine."""
    if span_is(p.name, b"server_no_context_takeover"):
        return _SERVER_RESETS if p.value.at == NULL else 0
    if span_is(p.name, b"client_no_context_takeover"):
        return _CLIENT_RESETS if p.value.at == NULL else 0
    if span_is(p.name, b"client_max_window_bits"):
        return _CLIENT_WINDOW if p.value.at == NULL or _window_bits(p.value) else 0
    if span_is(p.name, b"server_max_window_bits"):
        window[0] = _window_bits(p.value)
        return _SERVER_WINDOW if window[0] else 0
    return 0


cdef inline int _take_extension(Span* rest) noexcept nogil:
    """Takes one extension with its parameters. >0: what deflate_offer returns; 0: another one, or invalid; -1:
    malformed."""
    cdef Span name = _take_token(rest)
    cdef bint valid = span_is(name, b"permessage-deflate")
    cdef uint8_t window = DEFLATE_ANY
    cdef int seen = 0, which
    cdef _Parameter p
    if name.size == 0:
        return -1
    while _take(rest, c';'):
        if not _take_parameter(rest, &p):
            return -1
        which = _parameter_of(&p, &window) if valid else 0
        valid = which != 0 and seen & which == 0
        seen |= which
    return window if valid else 0


cdef inline uint8_t deflate_offer(Span list) noexcept nogil:
    """Returns the window of the first valid offer in a Sec-WebSocket-Extensions header: the bits of its
    server_max_window_bits, 8 to 15, or DEFLATE_ANY. 0: there is none before the list's end or its first syntax error.
    """
    cdef int window
    while True:
        while _take(&list, c','):
            pass
        if list.size == 0:
            return 0
        window = _take_extension(&list)
        if window < 0 or list.size and list.at[0] != c',':
            return 0
        if window > 0:
            return <uint8_t>window
