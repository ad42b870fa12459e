"""Borrowed bytes: a pointer and a length that travel together. Pure.

A Span owns nothing. Its bytes stay valid until the callee returns, unless a function or struct says otherwise. It is
passed by value, in two registers, like a separate pointer and length.
"""

from libc.string cimport memchr, memcmp, strlen

cdef struct Span:
    const char* at            # 8  NULL: absent; an empty one may have any pointer
    size_t size               # 8


cdef inline Span span_of(const void* at, size_t size) noexcept nogil:
    cdef Span span
    span.at = <const char*>at
    span.size = size
    return span


cdef inline Span span_between(const char* start, const char* end) noexcept nogil:
    """Returns the bytes from `start` up to `end`."""
    return span_of(start, <size_t>(end - start))


cdef inline Span span_none() noexcept nogil:
    return span_of(NULL, 0)


cdef inline Span span_text(const char* text) noexcept nogil:
    """Returns a C string without its NUL. The compiler knows the length of a literal."""
    return span_of(text, strlen(text))


cdef inline Span span_from(Span span, size_t start) noexcept nogil:
    """Returns all from byte `start` on, which is at most span.size."""
    return span_of(span.at + start, span.size - start)


cdef inline Span span_first(Span span, size_t most) noexcept nogil:
    """Returns the first `most` bytes, or all."""
    return span_of(span.at, span.size if span.size < most else most)


cdef inline bint span_same(Span one, Span other) noexcept nogil:
    """Whether both have the same bytes. If their sizes are equal, neither may be NULL."""
    return one.size == other.size and memcmp(one.at, other.at, one.size) == 0


cdef inline bint span_is(Span span, const char* text) noexcept nogil:
    """Whether it is that C string."""
    cdef size_t size = strlen(text)
    return span.size == size and memcmp(span.at, text, size) == 0


cdef inline bint span_starts(Span span, const char* text) noexcept nogil:
    cdef size_t size = strlen(text)
    return span.size >= size and memcmp(span.at, text, size) == 0


cdef inline size_t span_until(Span span, char c) noexcept nogil:
    """Returns the number of bytes before the first `c`, or of all."""
    cdef const char* found = <const char*>memchr(span.at, c, span.size)
    return span.size if found == NULL else <size_t>(found - span.at)
