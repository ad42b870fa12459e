"""The acl of a token: rooms by pattern, sending to peers, the number of rooms.

A loop owns its acls. Its connections with equal rights share one, and the last to release it frees it. Python encodes
rights (signal_py/auth/grants.py) as a head of RIGHTS_HEAD bytes, then the patterns, each after a byte with its size.
"""

from libc.stdint cimport uint16_t, uint32_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from signal_core.base.span cimport Span, span_from, span_of, span_same
from signal_core.base.sys cimport SE_STATIC_ASSERT

cdef enum:
    RIGHT_TO = 1              # may send to peers and users
    RIGHT_SUB_ALL = 2         # may join any room
    RIGHT_PUB_ALL = 4         # may publish to any room

    RIGHTS_HEAD = 9           # bytes before the patterns: flags 1, rooms 4, two counts of 2; big-endian

cdef struct Rights:
    uint32_t refs             # 4  connections that have them, and 1 if the loop's cache does
    uint32_t size             # 4  bytes of the patterns, sizes included
    uint32_t max_rooms        # 4  UINT32_MAX: as the engine's setting
    uint16_t nsub             # 2  patterns of rooms to join, which come first
    uint16_t npub             # 2  patterns of rooms to publish to
    uint8_t flags             # 1  RIGHT_*
    uint8_t data[7]           # and on: for each pattern its size in a byte, then its text


cdef inline void rights_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(Rights) == 24)


cdef inline bint _pattern_matches(Span pattern, Span name) noexcept nogil:
    """Matches as NATS subjects do: `*` is any one token, `>` at the end is one token or more."""
    cdef const char* p = pattern.at
    cdef size_t i = 0, j = 0, n = pattern.size
    while i < n and j < name.size:
        if p[i] == c">" and i + 1 == n:
            return True
        if p[i] == c"*" and (i + 1 == n or p[i + 1] == c"."):
            i += 1
            while j < name.size and name.at[j] != c".":
                j += 1
        else:
            while i < n and p[i] != c".":
                if j == name.size or name.at[j] != p[i]:
                    return False
                i += 1
                j += 1
            if j < name.size and name.at[j] != c".":
                return False
        if i == n or j == name.size:
            return i == n and j == name.size
        i += 1  # the dots
        j += 1
    return False


cdef inline bint _patterns_match(const uint8_t* at, uint32_t count, Span name) noexcept nogil:
    cdef uint32_t _i
    for _i in range(count):
        if _pattern_matches(span_of(at + 1, at[0]), name):
            return True
        at += 1 + at[0]
    return False


cdef inline const uint8_t* _rights_pub(const Rights* rights) noexcept nogil:
    """Returns the patterns of rooms to publish to."""
    cdef const uint8_t* at = &rights.data[0]
    cdef uint32_t _i
    for _i in range(rights.nsub):
        at += 1 + at[0]
    return at


cdef inline bint rights_sub(const Rights* rights, Span room) noexcept nogil:
    """Whether they allow to join a room."""
    return rights.flags & RIGHT_SUB_ALL or _patterns_match(rights.data, rights.nsub, room)


cdef inline bint rights_publish(const Rights* rights, Span room) noexcept nogil:
    """Whether they allow to publish to a room."""
    return rights.flags & RIGHT_PUB_ALL or _patterns_match(_rights_pub(rights), rights.npub, room)


cdef inline uint32_t _big_endian(const char* p, int n) noexcept nogil:
    cdef uint32_t value = 0
    cdef int i
    for i in range(n):
        value = value << 8 | <uint8_t>p[i]
    return value


cdef inline void _put_big_endian(uint8_t* p, uint32_t value, int n) noexcept nogil:
    while n > 0:
        n -= 1
        p[n] = <uint8_t>(value & 0xff)
        value >>= 8


cdef inline bint rights_are_whole(Span text) noexcept nogil:
    """Whether encoded rights have as many patterns as their head says, and end with the last."""
    cdef size_t at = RIGHTS_HEAD
    cdef uint32_t _i
    if text.size < RIGHTS_HEAD:
        return False
    for _i in range(_big_endian(text.at + 5, 2) + _big_endian(text.at + 7, 2)):
        if at >= text.size:
            return False
        at += 1 + <uint8_t>text.at[at]
    return at == text.size


cdef inline Rights* rights_new(Span text) noexcept nogil:
    """Decodes rights that are whole; the caller holds one reference. NULL without memory."""
    cdef Span patterns = span_from(text, RIGHTS_HEAD)
    cdef Rights* rights = <Rights*>malloc(sizeof(Rights) + patterns.size)
    if rights == NULL:
        return NULL
    rights.refs = 1
    rights.size = <uint32_t>patterns.size
    rights.flags = <uint8_t>text.at[0]
    rights.max_rooms = _big_endian(text.at + 1, 4)
    rights.nsub = <uint16_t>_big_endian(text.at + 5, 2)
    rights.npub = <uint16_t>_big_endian(text.at + 7, 2)
    memcpy(rights.data, patterns.at, patterns.size)
    return rights


cdef inline bint rights_are(const Rights* rights, Span text) noexcept nogil:
    """Whether the encoding of the rights is `text`."""
    return (rights.flags == <uint8_t>text.at[0] and rights.max_rooms == _big_endian(text.at + 1, 4)
            and rights.nsub == _big_endian(text.at + 5, 2) and rights.npub == _big_endian(text.at + 7, 2)
            and span_same(span_of(rights.data, rights.size), span_from(text, RIGHTS_HEAD)))


cdef inline size_t rights_size(const Rights* rights) noexcept nogil:
    """Returns the bytes of their encoding; 0 for NULL, which allows everything."""
    return RIGHTS_HEAD + rights.size if rights != NULL else 0


cdef inline void rights_put(const Rights* rights, uint8_t* out) noexcept nogil:
    """Writes their encoding, rights_size bytes."""
    out[0] = rights.flags
    _put_big_endian(out + 1, rights.max_rooms, 4)
    _put_big_endian(out + 5, rights.nsub, 2)
    _put_big_endian(out + 7, rights.npub, 2)
    memcpy(out + RIGHTS_HEAD, rights.data, rights.size)


cdef inline void rights_release(Rights* rights) noexcept nogil:
    """Gives up one reference; no effect on NULL."""
    if rights == NULL:
        return
    rights.refs -= 1
    if rights.refs == 0:
        free(rights)
