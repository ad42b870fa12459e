"""Validates UTF-8 piece by piece; a piece may end anywhere, also within a character. Pure.

The automaton and its table are in se_simd.h. A sequence that cannot become a character is rejected at its first wrong
byte (RFC 6455 §8.1): surrogates, overlong forms and code points above U+10FFFF included.
"""

from libc.stdint cimport uint32_t, uint8_t

cdef extern from "se_simd.h" nogil:
    enum:
        SE_UTF8_BAD
    size_t se_ascii_prefix(const uint8_t* p, size_t n)
    uint32_t se_utf8_step(uint32_t state, const uint8_t* p, size_t n)

cdef enum:
    # states; any other value is inside a character
    UTF8_ACCEPT = 0    # between two characters; also the state to start from
    UTF8_REJECT = 1    # not UTF-8, whatever follows

    UTF8_STRIDE = 32   # bytes that the automaton takes before ASCII is searched for again


cdef inline uint32_t utf8_feed(uint32_t state, const uint8_t* p, size_t n) noexcept nogil:
    """Returns the state after `n` more bytes, starting from `state`."""
    cdef size_t step
    if state == UTF8_REJECT:
        return UTF8_REJECT
    while True:
        if state == UTF8_ACCEPT:
            step = se_ascii_prefix(p, n)
            p += step
            n -= step
        if n == 0:
            return state
        step = n if n < UTF8_STRIDE else UTF8_STRIDE
        state = se_utf8_step(state, p, step)
        if state == SE_UTF8_BAD:
            return UTF8_REJECT
        p += step
        n -= step


cdef inline bint utf8_valid(const uint8_t* p, size_t n) noexcept nogil:
    """Whether the `n` bytes are whole, valid UTF-8."""
    return utf8_feed(UTF8_ACCEPT, p, n) == UTF8_ACCEPT
