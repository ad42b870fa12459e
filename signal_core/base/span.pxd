"""Borrowed bytes: a pointer and a length that travel together. Pure.

A Span owns nothing. Whoever hands one over says how long its bytes stay, by default until the callee returns. It is
passed by value: two registers, like a pointer and a length apart.
"""

from libc.string cimport memchr, memcmp, strlen

cdef struct Span:
    const char* at            # 8  NULL: there is none; one of no bytes may have any pointer
    size_t size               # 8


cdef inline Span span_of(const void* at, size_t size) noexcept nogil:
    cdef Span span
    span.at = <const char*>at
    span.size = size
    return span


cdef inline Span span_between(const char* start, const char* end) noexcept nogil:
    """The bytes from `start` up to `end`."""
    return span_of(start, <size_t>(end - start))


cdef inline Span span_none() noexcept nogil:
    return span_of(NULL, 0)


cdef inline Span span_text(const char* text) noexcept nogil:
    """A C string, without its NUL. The compiler knows the length of a literal."""
    return span_of(text, strlen(text))


cdef inline Span span_from(Span span, size_t start) noexcept nogil:
    """All from byte `start` on, which is at most span.size."""
    return span_of(span.at + start, span.size - start)


cdef inline Span span_first(Span span, size_t most) noexcept nogil:
    """The first `most` bytes, or all."""
    return span_of(span.at, span.size if span.size < most else most)


cdef inline bint span_same(Span one, Span other) noexcept nogil:
    """Neither is NULL, unless their sizes differ."""
    return one.size == other.size and memcmp(one.at, other.at, one.size) == 0


cdef inline bint span_is(Span span, const char* text) noexcept nogil:
    """Whether it is that C string."""
    cdef size_t size = strlen(text)
    return span.size == size and memcmp(span.at, text, size) == 0


cdef inline bint span_starts(Span span, const char* text) noexcept nogil:
    cdef size_t size = strlen(text)
    return span.size >= size and memcmp(span.at, text, size) == 0


cdef inline size_t span_until(Span span, char c) noexcept nogil:
    """Bytes before the first `c`, or all."""
    cdef const char* found = <const char*>memchr(span.at, c, span.size)
    return span.size if found == NULL else <size_t>(found - span.at)
