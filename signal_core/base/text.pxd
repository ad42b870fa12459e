"""Compares, writes and parses text: numbers, percent-encoding, base64url. Pure.

A writer (text_put*) returns the end of what it wrote. The caller provides room for all of it.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, strlen
from signal_core.base.span cimport Span

cdef extern from "se_text.h" nogil:
    void se_copy_short(char* out, const char* p, size_t n)

cdef enum:
    UINT_TEXT = 20      # digits of 2**64 - 1


cdef inline bint text_starts(Span span, const char* lower) noexcept nogil:
    """Whether it starts with `lower` (lower-case letters and '-'), ignoring case. Not exact: CR equals '-'."""
    cdef size_t i = 0
    while i < span.size and lower[i] and (span.at[i] | 0x20) == lower[i]:
        i += 1
    return lower[i] == 0


cdef inline bint text_matches(Span span, const char* lower) noexcept nogil:
    """Whether all of it is `lower`, as text_starts compares."""
    return span.size == strlen(lower) and text_starts(span, lower)


cdef inline char* text_put(char* out, const char* text) noexcept nogil:
    """Copies a C string without its NUL."""
    cdef size_t n = strlen(text)
    memcpy(out, text, n)
    return out + n


cdef inline char* text_put_span(char* out, Span span) noexcept nogil:
    """Copies a span. Fast for at most 32 bytes."""
    se_copy_short(out, span.at, span.size)
    return out + span.size


cdef inline bint text_is_blank(char c) noexcept nogil:
    return c == c' ' or c == c'\t'


cdef inline int text_hex_value(char c) noexcept nogil:
    """Returns 0 to 15; -1: not a hex digit."""
    if c'0' <= c <= c'9':
        return c - c'0'
    if c'a' <= c <= c'f':
        return c - c'a' + 10
    if c'A' <= c <= c'F':
        return c - c'A' + 10
    return -1


cdef inline int text_percent_decode(Span span, char* out, size_t out_size) noexcept nogil:
    """Decodes %XX and '+'. Returns the bytes written; -1: a malformed escape, or more than `out_size` bytes."""
    cdef const char* p = span.at
    cdef size_t i = 0, size = 0
    cdef int high, low
    while i < span.size:
        if size == out_size:
            return -1
        if p[i] == c'%':
            if span.size - i < 3:
                return -1
            high = text_hex_value(p[i + 1])
            low = text_hex_value(p[i + 2])
            if high < 0 or low < 0:
                return -1
            out[size] = <char>(high << 4 | low)
            i += 3
        else:
            out[size] = c' ' if p[i] == c'+' else p[i]
            i += 1
        size += 1
    return <int>size


# -- decimal numbers --

cdef inline bint text_parse_uint(Span span, uint64_t* value) noexcept nogil:
    """Parses 1 to 19 digits, leading zeros allowed, so that any value fits. False: anything else."""
    cdef size_t i
    cdef uint64_t v = 0
    cdef uint8_t digit
    if span.size == 0 or span.size >= UINT_TEXT:
        return False
    for i in range(span.size):
        digit = <uint8_t>(span.at[i] - c"0")
        if digit > 9:
            return False
        v = v * 10 + digit
    value[0] = v
    return True


cdef inline size_t text_uint_size(uint64_t v) noexcept nogil:
    """Returns the digits of v, 1..UINT_TEXT."""
    cdef size_t n = 1
    while v > 9:
        v = v // 10
        n += 1
    return n


cdef inline char* text_put_uint(char* out, uint64_t v) noexcept nogil:
    """Writes v in decimal: text_uint_size(v) bytes."""
    cdef size_t n = text_uint_size(v), i = n
    while i:
        i -= 1
        out[i] = <char>(c"0" + v % 10)
        v = v // 10
    return out + n


cdef inline void text_uint_lower(char* end, uint64_t v) noexcept nogil:
    """Overwrites the number that ends before `end` with v, padded with zeros, if v is smaller. The number has at most
    19 digits, and the byte before it is no digit."""
    cdef char* digit = end - 1
    cdef uint64_t present = 0, unit = 1
    while c"0" <= digit[0] <= c"9":
        present += <uint64_t>(digit[0] - c"0") * unit
        unit *= 10
        digit -= 1
    while digit + 1 != end and v < present:
        digit += 1
        unit = unit // 10
        digit[0] = <char>(c"0" + v // unit % 10)


# -- base64url --

cdef inline int _base64url_value(char c) noexcept nogil:
    """Returns 0 to 63; -1: not a base64url character."""
    if c'A' <= c <= c'Z':
        return c - c'A'
    if c'a' <= c <= c'z':
        return c - c'a' + 26
    if c'0' <= c <= c'9':
        return c - c'0' + 52
    if c == c'-':
        return 62
    return 63 if c == c'_' else -1


cdef inline int text_base64url_decode(Span span, char* out) noexcept nogil:
    """Decodes base64url without padding (RFC 4648 §5). Returns the bytes written, at most span.size * 3 / 4; -1: it is
    malformed."""
    cdef uint32_t bits = 0
    cdef int have = 0, value
    cdef size_t i
    cdef int size = 0
    for i in range(span.size):
        value = _base64url_value(span.at[i])
        if value < 0:
            return -1
        bits = (bits << 6 | <uint32_t>value) & 0xffff
        have += 6
        if have >= 8:
            have -= 8
            out[size] = <char>(bits >> have & 0xff)
            size += 1
    return size if span.size % 4 != 1 else -1
