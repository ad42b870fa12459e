"""The header of the PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): a proxy's first bytes, which tell
the address of its client."""

from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memchr, memcmp, memcpy, memset
from signal_core.base.limits cimport ADDRESS_BYTES, ADDRESS_TEXT, PROXY_V1_MOST, PROXY_V2_MOST
from signal_core.base.span cimport Span, span_first, span_from, span_is, span_of, span_until
from signal_core.base.sys cimport AF_INET, AF_INET6, inet_pton
from signal_core.base.text cimport text_parse_uint, text_put_span

cdef enum:
    PROXY_SIGNATURE = 12      # bytes of version 2's signature
    PROXY_HEAD = 16           # ... of its fixed part
    PROXY_V2_LOCAL = 0x20     # version and command: the proxy's own connection, such as a health check
    PROXY_V2_PROXY = 0x21
    PROXY_V2_INET = 1         # the upper half of the byte of family and protocol
    PROXY_V2_INET6 = 2
    PROXY_V2_MOST_FAMILY = 3  # AF_UNIX
    PROXY_V2_STREAM = 1       # the lower half
    PROXY_V2_DATAGRAM = 2

    # ProxyHeader.family
    PROXY_NO_ADDRESS = 0      # LOCAL, UNKNOWN, UNSPEC, or a unix socket
    PROXY_IPV4 = 4
    PROXY_IPV6 = 6

cdef struct ProxyHeader:
    uint8_t source[ADDRESS_BYTES]  # the client's address; IPv4 is mapped (RFC 4291 §2.5.5.2)
    uint64_t port             # its port
    int family                # PROXY_*


cdef inline void _map(uint8_t* out, const void* v4) noexcept nogil:
    memset(out, 0, 10)
    out[10] = out[11] = 0xff
    memcpy(out + 12, v4, 4)


# -- version 2 --

cdef inline const char* _signature() noexcept nogil:
    return b"\r\n\r\n\0\r\nQUIT\n"


cdef inline size_t _addresses(size_t family) noexcept nogil:
    """Bytes of the addresses and ports of a family."""
    return 12 if family == PROXY_V2_INET else 36 if family == PROXY_V2_INET6 else 216 if family else 0


cdef inline int _v2(Span input, ProxyHeader* out) noexcept nogil:
    """Parses a header whose signature is right."""
    cdef const uint8_t* p = <const uint8_t*>input.at
    cdef size_t size, family
    if input.size < PROXY_HEAD:
        return -2
    size = PROXY_HEAD + (<size_t>p[14] << 8 | p[15])
    family = p[13] >> 4
    if p[12] != PROXY_V2_LOCAL and p[12] != PROXY_V2_PROXY or size > PROXY_V2_MOST:
        return -1
    if p[12] == PROXY_V2_PROXY and (family > PROXY_V2_MOST_FAMILY or p[13] & 15 > PROXY_V2_DATAGRAM):
        return -1
    if p[12] == PROXY_V2_PROXY and p[13] & 15 == PROXY_V2_STREAM:
        if size < PROXY_HEAD + _addresses(family):
            return -1
        out.family = PROXY_IPV4 if family == PROXY_V2_INET else PROXY_IPV6 if family == PROXY_V2_INET6 else 0
    if input.size < size:
        return -2
    if out.family == PROXY_IPV4:
        _map(out.source, p + PROXY_HEAD)
        out.port = <uint64_t>p[PROXY_HEAD + 8] << 8 | p[PROXY_HEAD + 9]
    elif out.family == PROXY_IPV6:
        memcpy(out.source, p + PROXY_HEAD, ADDRESS_BYTES)
        out.port = <uint64_t>p[PROXY_HEAD + 32] << 8 | p[PROXY_HEAD + 33]
    return <int>size


# -- version 1 --

cdef inline Span _word(Span* rest) noexcept nogil:
    """Cuts the next word off, with the space behind it."""
    cdef Span word = span_first(rest[0], span_until(rest[0], c' '))
    rest[0] = span_from(rest[0], word.size + 1 if word.size < rest.size else word.size)
    return word


cdef inline bint _address(Span word, int family, uint8_t* out) noexcept nogil:
    """Reads an address of this family, as 16 bytes."""
    cdef char text[ADDRESS_TEXT]
    cdef uint8_t v4[4]
    if word.size == 0 or word.size >= ADDRESS_TEXT or memchr(word.at, 0, word.size) != NULL:
        return False
    text_put_span(text, word)[0] = 0
    if family == PROXY_IPV6:
        return inet_pton(AF_INET6, text, out) == 1
    if inet_pton(AF_INET, text, v4) != 1:
        return False
    _map(out, v4)
    return True


cdef inline bint _port(Span word, uint64_t* out) noexcept nogil:
    return (0 < word.size <= 5 and (word.at[0] != c'0' or word.size == 1) and text_parse_uint(word, out)
            and out[0] <= 0xffff)


cdef inline bint _v1_line(Span line, ProxyHeader* out) noexcept nogil:
    """Parses what follows `PROXY `, without CRLF."""
    cdef uint8_t target[ADDRESS_BYTES]
    cdef uint64_t port
    cdef Span name = _word(&line), source, destination
    if span_is(name, b"UNKNOWN"):
        return True
    out.family = PROXY_IPV4 if span_is(name, b"TCP4") else PROXY_IPV6 if span_is(name, b"TCP6") else 0
    source = _word(&line)
    destination = _word(&line)
    return (out.family != PROXY_NO_ADDRESS and _address(source, out.family, out.source)
            and _address(destination, out.family, target) and _port(_word(&line), &out.port)
            and _port(line, &port))


cdef inline int _v1(Span input, ProxyHeader* out) noexcept nogil:
    """Parses a header that begins with `PROXY `."""
    cdef Span most = span_first(input, PROXY_V1_MOST)
    cdef size_t end = span_until(most, c'\n')
    if end == most.size:
        return -1 if most.size == PROXY_V1_MOST else -2
    if most.at[end - 1] != c'\r' or not _v1_line(span_of(most.at + 6, end - 7), out):
        return -1
    return <int>end + 1


cdef inline int proxy_header_parse(Span input, ProxyHeader* out) noexcept nogil:
    """Parses a header at the beginning of `input`: > 0 its bytes, -1 there is none or it is bad, -2 more bytes are
    needed."""
    memset(out, 0, sizeof(ProxyHeader))
    if input.size == 0:
        return -2
    if memcmp(input.at, _signature(), min(input.size, <size_t>PROXY_SIGNATURE)) == 0:
        return -2 if input.size < PROXY_SIGNATURE else _v2(input, out)
    if memcmp(input.at, b"PROXY ", min(input.size, <size_t>6)) == 0:
        return -2 if input.size < 6 else _v1(input, out)
    return -1
