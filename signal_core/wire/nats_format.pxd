"""Writes the NATS client protocol: HPUB, SUB, UNSUB, and receipts. Pure. Writers return the end of what they wrote."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from signal_core.base.span cimport Span
from signal_core.base.text cimport UINT_TEXT, text_put, text_put_span, text_put_uint, text_uint_size
from signal_core.wire.nats_proto cimport NATS_OWN_HEADERS, NATS_TO_ROOM, NatsPub, NatsTarget

cdef enum:
    NATS_KIND_SIZE = 6            # bytes of the second token of a subject, between its dots
    NATS_SUB_SIZE = 4 + 1 + UINT_TEXT + 2  # bytes of a SUB besides its subject


cdef inline size_t _hpub_headers_size(const NatsPub* m) noexcept nogil:
    """Returns the bytes of the headers, at most NATS_OWN_HEADERS + m.me.size + m.user.size."""
    cdef size_t n = 10 + 13 + m.me.size + 2 + 2
    if m.binary:
        n += 21
    if m.user.size:
        n += 13 + m.user.size + 2
    if m.ttl_ms >= 0:
        n += 12 + text_uint_size(<uint64_t>m.ttl_ms) + 2
    return n


cdef inline char* nats_format_put_subject(char* out, Span prefix, const NatsTarget* target) noexcept nogil:
    """Writes `<prefix>.<kind>.<name>[.<ref>]`."""
    out = text_put_span(out, prefix)
    memcpy(out, b".room." if target.kind == NATS_TO_ROOM else b".peer.", NATS_KIND_SIZE)
    out = text_put_span(out + NATS_KIND_SIZE, target.name)
    if target.ref.size == 0:
        return out
    out[0] = c"."
    return text_put_span(out + 1, target.ref)


cdef inline char* _put_reply(char* out, const NatsPub* m) noexcept nogil:
    """Writes `<prefix>.peer.<me>.<ref>`."""
    out = text_put_span(text_put(text_put_span(out, m.prefix), b".peer."), m.me)
    return text_put_span(text_put(out, b"."), m.ref)


cdef inline char* _put_headers(char* out, const NatsPub* m) noexcept nogil:
    """Writes _hpub_headers_size(m) bytes."""
    out = text_put_span(text_put(out, b"NATS/1.0\r\nSignal-From: "), m.me)
    if m.binary:
        out = text_put(out, b"\r\nSignal-Type: binary")
    if m.user.size:
        out = text_put_span(text_put(out, b"\r\nSignal-User: "), m.user)
    if m.ttl_ms >= 0:
        out = text_put_uint(text_put(out, b"\r\nSignal-Ttl: "), <uint64_t>m.ttl_ms)
    return text_put(out, b"\r\n\r\n")


cdef inline size_t nats_format_hpub_bound(const NatsPub* m) noexcept nogil:
    """Returns an upper bound of what nats_format_hpub_head writes."""
    # `HPUB `; dots and kind of the subject; those of the reply and a space; a space; the sizes; CRLF; the headers
    return (2 * m.prefix.size + m.target.name.size + m.target.ref.size + 2 * m.me.size + m.ref.size + m.user.size
            + 5 + 7 + 8 + 1 + (2 * UINT_TEXT + 1) + 2 + NATS_OWN_HEADERS)


cdef inline char* nats_format_hpub_head(char* out, const NatsPub* m) noexcept nogil:
    """Writes `HPUB subject [reply] sizes CRLF` and the headers. The caller appends the payload and CRLF."""
    cdef size_t headers = _hpub_headers_size(m)
    out = text_put(nats_format_put_subject(text_put(out, b"HPUB "), m.prefix, m.target), b" ")
    if m.ref.size:
        out = text_put(_put_reply(out, m), b" ")
    out = text_put(text_put_uint(out, headers), b" ")
    out = text_put(text_put_uint(out, headers + m.payload_size), b"\r\n")
    return _put_headers(out, m)


cdef inline char* nats_format_receipt(char* out, Span reply, Span code) noexcept nogil:
    """Writes a whole HPUB with `Signal-Receipt: <code>` and no payload, at most reply.size + code.size + 96 bytes."""
    cdef size_t headers = 10 + 16 + code.size + 4
    out = text_put(text_put_span(text_put(out, b"HPUB "), reply), b" ")
    out = text_put(text_put_uint(out, headers), b" ")
    out = text_put(text_put_uint(out, headers), b"\r\nNATS/1.0\r\nSignal-Receipt: ")
    return text_put(text_put_span(out, code), b"\r\n\r\n\r\n")


cdef inline char* nats_format_sub(char* out, Span subject, uint64_t sid) noexcept nogil:
    """Writes `SUB <subject> <sid>` CRLF, at most subject.size + NATS_SUB_SIZE bytes."""
    out = text_put(text_put_span(text_put(out, b"SUB "), subject), b" ")
    return text_put(text_put_uint(out, sid), b"\r\n")


cdef inline char* nats_format_unsub(char* out, uint64_t sid) noexcept nogil:
    """Writes `UNSUB <sid>` CRLF, at most 28 bytes."""
    return text_put(text_put_uint(text_put(out, b"UNSUB "), sid), b"\r\n")
