"""A client's first bytes: the PROXY protocol header, where the setting `proxy-protocol` is on, then the handshake.

A trusted proxy must send a header, and nobody else may, so no client can forge an address. The header stays in the
connection's input until the head is complete; it is parsed again with each part that arrives.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset
from signal_core.base.limits cimport ADDRESS_BYTES
from signal_core.base.span cimport Span, span_from
from signal_core.base.sys cimport SE_RARE
from signal_core.client.remote_addr cimport remote_addr_is_gone, remote_addr_is_trusted
from signal_core.tables.settings cimport Settings
from signal_core.wire.handshake cimport (
    PROXIED_FROM, PROXIED_NOT, PROXIED_SILENT, PROXIED_WRONG, Upgrade, upgrade_parse,
)
from signal_core.wire.proxy_protocol cimport PROXY_NO_ADDRESS, ProxyHeader, proxy_header_parse
from signal_core.wire.request cimport Site


cdef inline int _wrong(Upgrade* out, const char* why) noexcept nogil:
    memset(out, 0, sizeof(Upgrade))
    out.status = 400
    out.proxied = PROXIED_WRONG
    out.why = why
    return -1


cdef inline int _parse(
    const Settings* set, int fd, Span input, size_t before, const Site* site, Upgrade* out,
) noexcept nogil:
    """proxied_parse with proxy-protocol on."""
    cdef ProxyHeader header
    cdef int head, size = proxy_header_parse(input, &header)
    if not remote_addr_is_trusted(set, fd):
        if size > 0:
            _wrong(out, b"a PROXY protocol header is accepted only from trusted-proxies.")
            if remote_addr_is_gone(fd):  # a proxy's health check ends with a reset: that is no stranger's header
                out.proxied = PROXIED_NOT
            return -1
        return upgrade_parse(input, before, site, out)
    if size == -2:
        memset(out, 0, sizeof(Upgrade))
        return -2
    if size < 0:
        return _wrong(out, b"a trusted proxy must begin each connection with a PROXY protocol header.")
    before = before - <size_t>size if before > <size_t>size else 0
    head = upgrade_parse(span_from(input, <size_t>size), before, site, out)
    out.proxied = PROXIED_SILENT if header.family == PROXY_NO_ADDRESS else PROXIED_FROM
    out.skipped = <uint32_t>size
    memcpy(out.source, header.source, ADDRESS_BYTES)
    return size + head if head > 0 else head


cdef inline int proxied_parse(
    const Settings* set, int fd, Span input, size_t before, const Site* site, Upgrade* out,
) noexcept nogil:
    """As upgrade_parse, for a connection's first bytes, which may begin with a header. The size of that is included in
    the result."""
    if SE_RARE(set.proxy_protocol):
        return _parse(set, fd, input, before, site, out)
    return upgrade_parse(input, before, site, out)
