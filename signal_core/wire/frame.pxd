"""WebSocket frames (RFC 6455 §5): parses the heads of clients' frames, writes those of the engine's. Pure."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy
from signal_core.base.sys cimport SE_RARE, SE_STATIC_ASSERT
from signal_core.wire.utf8 cimport utf8_valid

cdef extern from "se_simd.h" nogil:
    void se_xor_mask(uint8_t* p, size_t n, const uint8_t* key)

cdef enum:
    OP_CONT = 0
    OP_TEXT = 1
    OP_BINARY = 2
    OP_CLOSE = 8
    OP_PING = 9
    OP_PONG = 10

    FRAME_MAX_HEAD = 14      # bytes of the longest head, masking key included
    FRAME_FIN = 0x80         # first byte: the last frame of its message
    FRAME_RESERVED = 0x70    # first byte: for extensions
    FRAME_DEFLATED = 0x40    # ... RSV1: the message is compressed (RFC 7692 §6)
    FRAME_CONTROL = 0x08     # first byte: close, ping, pong
    FRAME_OPCODES = 0x0707   # a bit for each known opcode
    FRAME_MASKED = 0x80      # second byte
    FRAME_16 = 126           # second byte: 16 bits of length follow
    FRAME_64 = 127           # second byte: 64 bits of length follow

    CLOSE_NORMAL = 1000
    CLOSE_PROTOCOL = 1002
    CLOSE_TOO_BIG = 1009

cdef struct Frame:           # the parsed head of a received frame
    uint64_t length          # 8  bytes of payload
    uint8_t key[4]           # 4  masking key
    uint16_t close_code      # 2  why the frame is bad; only set with -1
    uint8_t head             # 1  bytes of the head, masking key included
    uint8_t opcode           # 1  OP_*
    uint8_t first            # 1  the first byte: FRAME_FIN, and FRAME_DEFLATED in the first of a compressed message
    uint8_t spare[7]         # 7  to a multiple of 8


cdef inline void frame_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(Frame) == 24)


cdef inline bint frame_is_message(uint8_t first) noexcept nogil:
    """Whether a frame with this first byte is a whole message, not compressed: no control frame, and no part."""
    return <uint8_t>(first - (FRAME_FIN | OP_TEXT)) <= OP_BINARY - OP_TEXT


cdef inline int _frame_refuse(Frame* out, uint16_t close_code) noexcept nogil:
    out.close_code = close_code
    return -1


cdef inline bint _frame_first_is_bad(uint8_t first, uint8_t reserved) noexcept nogil:
    """Whether it has a reserved bit, an unknown opcode, or a fragmented control frame (RFC 6455 §5.2, §5.5). Text and
    binary frames may have the bit `reserved`."""
    if first & (FRAME_CONTROL | OP_TEXT | OP_BINARY) in (OP_TEXT, OP_BINARY):
        first &= <uint8_t>~reserved
    return (first & FRAME_RESERVED != 0
            or (FRAME_OPCODES >> (first & 15)) & 1 == 0
            or first & (FRAME_FIN | FRAME_CONTROL) == FRAME_CONTROL)


cdef inline int _frame_long_length(const uint8_t* p, size_t n, uint64_t* length) noexcept nogil:
    """Parses a length of 16 or 64 bits. >0: bytes of the head; -1: not the shortest form, or >= 2**63; -2: more bytes
    are needed."""
    cdef size_t i
    if p[1] & 127 == FRAME_16:
        if n < 4:
            return -2
        length[0] = (<uint32_t>p[2] << 8) | p[3]
        return 8 if length[0] >= FRAME_16 else -1
    if n > 2 and p[2] & 0x80:
        return -1
    if n < 10:
        return -2
    length[0] = 0
    for i in range(2, 10):
        length[0] = (length[0] << 8) | p[i]
    return FRAME_MAX_HEAD if length[0] > 0xffff else -1


cdef inline int frame_parse(const uint8_t* p, size_t n, uint64_t max_payload, uint8_t reserved,
                            Frame* out) noexcept nogil:
    """Parses the head of a client's frame. `reserved`: FRAME_DEFLATED if a message may be compressed, else 0.

    >0: bytes of the head, `out` is filled. -1: bad; out.close_code is 1002, or 1009 for a data frame of more than
    `max_payload` bytes. -2: more bytes are needed; a bad head is refused at the first byte that shows it.
    """
    cdef int head = 6
    cdef uint64_t length
    if n == 0:
        return -2
    if not frame_is_message(p[0]) and _frame_first_is_bad(p[0], reserved):
        return _frame_refuse(out, CLOSE_PROTOCOL)
    if n == 1:
        return -2
    length = p[1] & 127
    if SE_RARE(p[1] & FRAME_MASKED == 0):
        return _frame_refuse(out, CLOSE_PROTOCOL)
    if length >= FRAME_16:
        if SE_RARE(p[0] & FRAME_CONTROL):
            return _frame_refuse(out, CLOSE_PROTOCOL)
        head = _frame_long_length(p, n, &length)
        if head < 0:
            return _frame_refuse(out, CLOSE_PROTOCOL) if head == -1 else -2
    if SE_RARE(length > max_payload) and not p[0] & FRAME_CONTROL:
        return _frame_refuse(out, CLOSE_TOO_BIG)
    if n < <size_t>head:
        return -2
    out.length = length
    out.head = <uint8_t>head
    out.opcode = p[0] & 15
    out.first = p[0]
    memcpy(out.key, p + head - 4, 4)
    return head


cdef inline void frame_unmask(uint8_t* p, size_t n, const uint8_t* key) noexcept nogil:
    """Unmasks `n` bytes in place, the first of them with key[0] (RFC 6455 §5.3)."""
    se_xor_mask(p, n, key)


cdef inline size_t frame_head_size(size_t payload) noexcept nogil:
    """Returns the bytes of an unmasked head: 2, 4 or 10."""
    if payload < FRAME_16:
        return 2
    return 4 if payload <= 0xffff else 10


cdef inline size_t frame_put_head(uint8_t* out, uint8_t opcode, size_t payload) noexcept nogil:
    """Writes the unmasked head of a whole message; returns frame_head_size(payload)."""
    cdef size_t i
    out[0] = FRAME_FIN | opcode
    if payload < FRAME_16:
        out[1] = <uint8_t>payload
        return 2
    if payload <= 0xffff:
        out[1] = FRAME_16
        out[2] = <uint8_t>(payload >> 8)
        out[3] = <uint8_t>payload
        return 4
    out[1] = FRAME_64
    for i in range(8):
        out[2 + i] = <uint8_t>(payload >> (56 - 8 * i))
    return 10


cdef inline bint frame_close_code_valid(uint32_t code) noexcept nogil:
    """Whether a client may send this close code (RFC 6455 §7.4): defined and registered ones up to 1014, and 3000 to
    4999."""
    if 1000 <= code <= 1014:
        return code < 1004 or code > 1006
    return 3000 <= code <= 4999


cdef inline int frame_close_code(const uint8_t* p, size_t n) noexcept nogil:
    """Returns the code to answer a Close frame with, from its payload; 1000 if that is empty.

    -1: a protocol error, since the code is cut or may not be sent. -2: its reason is not UTF-8.
    """
    cdef uint32_t code
    if n == 0:
        return CLOSE_NORMAL
    if n == 1:
        return -1
    code = (<uint32_t>p[0] << 8) | p[1]
    if not frame_close_code_valid(code):
        return -1
    return <int>code if utf8_valid(p + 2, n - 2) else -2
