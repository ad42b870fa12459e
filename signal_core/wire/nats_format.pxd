"""The NATS client protocol as the link writes it. Pure."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy
from signal_core.base.text cimport UINT_TEXT, text_put_uint, text_uint_size
from signal_core.wire.nats_proto cimport NATS_OWN_HEADERS, NATS_TO_ROOM, NatsPub, se_copy_short

cdef enum:
    NATS_KIND_SIZE = 6            # bytes that nats_format_put_kind writes
    NATS_SUB_SIZE = 4 + 1 + UINT_TEXT + 2  # bytes of a SUB besides its subject


cdef inline void nats_format_put_kind(char* out, uint8_t kind) noexcept nogil:
    """Writes the second token of a subject, between its dots: `.peer.` or `.room.`."""
    memcpy(out, b".room." if kind == NATS_TO_ROOM else b".peer.", NATS_KIND_SIZE)

cdef inline char* _put_text(char* out, const char* text, size_t n) noexcept nogil:
    se_copy_short(out, text, n)
    return out + n


cdef inline size_t _hpub_headers_size(const NatsPub* m) noexcept nogil:
    """NATS_OWN_HEADERS + me_len + user_len at most."""
    cdef size_t n = 10 + 13 + m.me_len + 2 + 2
    if m.binary:
        n += 21
    if m.user_len:
        n += 13 + m.user_len + 2
    if m.ttl_ms >= 0:
        n += 12 + text_uint_size(<uint64_t>m.ttl_ms) + 2
    return n


cdef inline char* _put_subject(char* out, const NatsPub* m) noexcept nogil:
    """`<prefix>.<kind>.<target>[.<suffix_ref>]`"""
    out = _put_text(out, m.prefix, m.prefix_len)
    nats_format_put_kind(out, m.kind)
    out = _put_text(out + NATS_KIND_SIZE, m.target, m.target_len)
    if m.suffix_ref_len == 0:
        return out
    out[0] = c"."
    return _put_text(out + 1, m.suffix_ref, m.suffix_ref_len)


cdef inline char* _put_reply(char* out, const NatsPub* m) noexcept nogil:
    """`<prefix>.peer.<me>.<ref>`"""
    out = _put_text(out, m.prefix, m.prefix_len)
    memcpy(out, b".peer.", 6)
    out = _put_text(out + 6, m.me, m.me_len)
    out[0] = c"."
    return _put_text(out + 1, m.ref, m.ref_len)


cdef inline char* _put_headers(char* out, const NatsPub* m) noexcept nogil:
    """_hpub_headers_size(m) bytes."""
    memcpy(out, b"NATS/1.0\r\nSignal-From: ", 23)
    out = _put_text(out + 23, m.me, m.me_len)
    if m.binary:
        memcpy(out, b"\r\nSignal-Type: binary", 21)
        out += 21
    if m.user_len:
        memcpy(out, b"\r\nSignal-User: ", 15)
        out = _put_text(out + 15, m.user, m.user_len)
    if m.ttl_ms >= 0:
        memcpy(out, b"\r\nSignal-Ttl: ", 14)
        out += 14 + text_put_uint(out + 14, <uint64_t>m.ttl_ms)
    memcpy(out, b"\r\n\r\n", 4)
    return out + 4


cdef inline size_t nats_format_hpub_bound(const NatsPub* m) noexcept nogil:
    """At least what nats_format_hpub_head writes: all but the payload and its CRLF."""
    # `HPUB `; dots and kind of the subject; of the reply, with a space; a space; the sizes; CRLF; the headers
    return (2 * m.prefix_len + m.target_len + m.suffix_ref_len + 2 * m.me_len + m.ref_len + m.user_len
            + 5 + 7 + 8 + 1 + (2 * UINT_TEXT + 1) + 2 + NATS_OWN_HEADERS)


cdef inline size_t nats_format_hpub_head(char* out, const NatsPub* m) noexcept nogil:
    """Writes `HPUB subject [reply] sizes CRLF` and the headers; the caller appends the payload and CRLF."""
    cdef size_t headers = _hpub_headers_size(m)
    cdef char* p = out
    memcpy(p, b"HPUB ", 5)
    p = _put_subject(p + 5, m)
    p[0] = c" "
    p += 1
    if m.ref_len:
        p = _put_reply(p, m)
        p[0] = c" "
        p += 1
    p += text_put_uint(p, headers)
    p[0] = c" "
    p += 1 + text_put_uint(p + 1, headers + m.payload_len)
    memcpy(p, b"\r\n", 2)
    p = _put_headers(p + 2, m)
    return <size_t>(p - out)


cdef inline size_t nats_format_receipt(char* out, const char* reply, uint32_t reply_len, const char* code,
                                       uint32_t code_len) noexcept nogil:
    """Writes an HPUB, whole and empty, with `Signal-Receipt: <code>`: reply_len + code_len + 96 at most."""
    cdef size_t headers = 10 + 16 + code_len + 4
    cdef char* p = out
    memcpy(p, b"HPUB ", 5)
    p = _put_text(p + 5, reply, reply_len)
    p[0] = c" "
    p += 1 + text_put_uint(p + 1, headers)
    p[0] = c" "
    p += 1 + text_put_uint(p + 1, headers)
    memcpy(p, b"\r\nNATS/1.0\r\nSignal-Receipt: ", 28)
    p = _put_text(p + 28, code, code_len)
    memcpy(p, b"\r\n\r\n\r\n", 6)
    return <size_t>(p + 6 - out)


cdef inline size_t nats_format_sub(char* out, const char* subject_prefix, uint32_t n1, const char* name,
                                   uint32_t n2, uint64_t sid) noexcept nogil:
    """Writes `SUB <subject_prefix><name> <sid>` CRLF: at most n1 + n2 + NATS_SUB_SIZE bytes."""
    cdef char* p = out
    memcpy(p, b"SUB ", 4)
    p = _put_text(p + 4, subject_prefix, n1)
    p = _put_text(p, name, n2)
    p[0] = c" "
    p += 1 + text_put_uint(p + 1, sid)
    memcpy(p, b"\r\n", 2)
    return <size_t>(p + 2 - out)


cdef inline size_t nats_format_unsub(char* out, uint64_t sid) noexcept nogil:
    """Writes `UNSUB <sid>` CRLF: at most 28 bytes."""
    cdef char* p = out
    memcpy(p, b"UNSUB ", 6)
    p += 6 + text_put_uint(p + 6, sid)
    memcpy(p, b"\r\n", 2)
    return <size_t>(p + 2 - out)
