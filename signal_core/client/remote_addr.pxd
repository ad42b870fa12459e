"""The address of a client, also behind trusted proxies, and its count of connections (max-connections-per-address).

The list of proxies belongs to the Settings, and does not change. Any loop may count: tables/ip_table.pxd has locks.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memchr, memcmp, memcpy, memset, strlen
from signal_core.base.limits cimport ADDRESS_BYTES, ADDRESS_TEXT, FORWARDED_LINES
from signal_core.base.span cimport Span, span_of, span_until
from signal_core.base.sys cimport (
    AF_INET, AF_INET6, AF_UNIX, getpeername, inet_ntop, inet_pton, sockaddr, sockaddr_in, sockaddr_in6,
    sockaddr_storage, socklen_t,
)
from signal_core.base.text cimport text_is_blank, text_put, text_put_span
from signal_core.tables.conn_table cimport Conn
from signal_core.tables.ip_table cimport (
    address_book_erase, address_book_write, addresses_enter, addresses_leave, ip_table_has_ipv4, ip_table_hash,
    ip_table_is_mapped,
)
from signal_core.tables.settings cimport Network, Settings
from signal_core.tables.state cimport Loop
from signal_core.wire.handshake cimport PROXIED_FROM, Upgrade

cdef enum:
    # Results of _peer_address
    OTHER_END_GONE = 0
    OTHER_END_IP = 1
    OTHER_END_UNIX = 2


# -- addresses --

cdef inline bint remote_addr_parse(Span sent, uint8_t* out) noexcept nogil:
    """Parses a numeric address, in brackets or not, with a port or not, to 16 bytes; IPv4 is mapped (RFC 4291
    §2.5.5.2). False: it is none."""
    cdef char text[ADDRESS_TEXT]
    cdef size_t size
    if sent.size > 0 and sent.at[0] == c'[':
        size = span_until(sent, c']')
        if size == sent.size:
            return False
        sent = span_of(sent.at + 1, size - 1)
    else:
        size = span_until(sent, c':')
        if size < sent.size and memchr(sent.at + size + 1, c':', sent.size - size - 1) == NULL:
            sent.size = size
    if sent.size == 0 or sent.size >= ADDRESS_TEXT:
        return False
    text_put_span(text, sent)[0] = 0
    memset(out, 0, 10)
    out[10] = out[11] = 0xff
    return inet_pton(AF_INET, text, out + 12) == 1 or inet_pton(AF_INET6, text, out) == 1


cdef inline bint _network_has(const Network* network, const uint8_t* address) noexcept nogil:
    cdef uint32_t whole = network.bits // 8, rest = network.bits % 8
    if memcmp(network.address, address, whole) != 0:
        return False
    return rest == 0 or (network.address[whole] ^ address[whole]) >> (8 - rest) == 0


cdef inline bint _is_proxy(const Settings* set, const uint8_t* address) noexcept nogil:
    """Whether an address, or the IPv4 address in one that a translator made, is a trusted proxy's."""
    cdef uint8_t v4[ADDRESS_BYTES]
    cdef uint32_t i
    memset(v4, 0, 10)
    v4[10] = v4[11] = 0xff
    memcpy(v4 + 12, address + 12, 4)
    for i in range(set.nproxies):
        if _network_has(&set.proxies[i], address) or (ip_table_has_ipv4(address) and _network_has(&set.proxies[i], v4)):
            return True
    return False


cdef inline bint _walk_line(const Settings* set, Span line, uint8_t* address, bint* told) noexcept nogil:
    """Reads one X-Forwarded-For from its end, up to the first address that is no trusted proxy's. Returns whether to
    continue with the line before: all were trusted.

    `address` is set to the last one found, and `told` if there is one.
    """
    cdef uint8_t found[ADDRESS_BYTES]
    cdef const char* p = line.at
    cdef size_t start, end, stop = line.size
    while True:
        start = stop
        while start > 0 and p[start - 1] != c',':
            start -= 1
        end = stop
        stop = start
        while start < end and text_is_blank(p[start]):
            start += 1
        while end > start and text_is_blank(p[end - 1]):
            end -= 1
        if not remote_addr_parse(span_of(p + start, end - start), found):
            return False
        memcpy(address, found, ADDRESS_BYTES)
        told[0] = True
        if not _is_proxy(set, found):
            return False
        if stop == 0:
            return True
        stop -= 1


cdef inline int _peer_address(int fd, uint8_t* out) noexcept nogil:
    """Gets the address of a socket's other end, as 16 bytes; zeros if it has none. Returns OTHER_END_*."""
    cdef sockaddr_storage storage
    cdef socklen_t size = sizeof(storage)
    cdef sockaddr_in* v4 = <sockaddr_in*>&storage
    cdef sockaddr_in6* v6 = <sockaddr_in6*>&storage
    memset(out, 0, ADDRESS_BYTES)
    memset(&storage, 0, sizeof(storage))
    if getpeername(fd, <sockaddr*>&storage, &size) != 0:
        return OTHER_END_GONE
    if v4.sin_family == AF_UNIX:
        return OTHER_END_UNIX
    if v4.sin_family == AF_INET:
        out[10] = out[11] = 0xff
        memcpy(out + 12, &v4.sin_addr, 4)
    elif v4.sin_family == AF_INET6:
        memcpy(out, &v6.sin6_addr, ADDRESS_BYTES)
    return OTHER_END_IP


cdef inline bint _is_trusted(const Settings* set, int end, const uint8_t* address) noexcept nogil:
    """Whether the other end is a trusted proxy. Who may connect to a unix socket, as its file's mode says, is one."""
    return end == OTHER_END_UNIX or (end == OTHER_END_IP and _is_proxy(set, address))


cdef inline bint remote_addr_is_trusted(const Settings* set, int fd) noexcept nogil:
    """Whether a socket's other end is a trusted proxy."""
    cdef uint8_t address[ADDRESS_BYTES]
    return _is_trusted(set, _peer_address(fd, address), address)


cdef inline bint remote_addr_is_gone(int fd) noexcept nogil:
    """Whether a socket's other end is not known, because it has reset the connection."""
    cdef uint8_t address[ADDRESS_BYTES]
    return _peer_address(fd, address) == OTHER_END_GONE


cdef inline bint remote_addr_of(const Settings* set, int fd, const Upgrade* u, uint8_t* out) noexcept nogil:
    """Gets the client's address, as 16 bytes: the one that trusted proxies report, else the socket's. `u` may be NULL.
    Returns whether a proxy reported it."""
    cdef uint32_t i = 0
    cdef uint32_t lines
    cdef bint told = False
    if u != NULL and u.proxied == PROXIED_FROM:
        memcpy(out, u.source, ADDRESS_BYTES)
        return True
    if not _is_trusted(set, _peer_address(fd, out), out) or u == NULL or u.proxied:
        return False
    lines = u.nforwarded if u.nforwarded < FORWARDED_LINES else FORWARDED_LINES
    for i in range(1, lines + 1):
        if not _walk_line(set, u.forwarded[(u.nforwarded - i) % FORWARDED_LINES], out, &told):
            break
    return told


# -- connections per address --

cdef inline bint _address_enter(Loop* loop, const Conn* c, const uint8_t* address) noexcept nogil:
    """Counts one more connection of an address. False: it has max-connections-per-address, or no memory."""
    cdef uint64_t hash = ip_table_hash(loop.hub.addresses, address)
    remote_addr_uncount(loop, c)  # counted for its socket, if a reload has made that a trusted proxy since
    if not addresses_enter(loop.hub.addresses, hash, loop.set.max_per_address):
        return False
    if not address_book_write(loop.book, c.slot, hash):
        addresses_leave(loop.hub.addresses, hash)
        return False
    return True


cdef inline bint remote_addr_count_peer(Loop* loop, const Conn* c) noexcept nogil:
    """Counts a new connection for its socket's address, unless that is a trusted proxy's. False: over the limit."""
    cdef uint8_t address[ADDRESS_BYTES]
    cdef int end = _peer_address(c.fd, address)
    return end == OTHER_END_GONE or _is_trusted(loop.set, end, address) or _address_enter(loop, c, address)


cdef inline bint remote_addr_count_forwarded(Loop* loop, const Conn* c, const Upgrade* u) noexcept nogil:
    """Counts a connection, whose head has arrived, for the address that a trusted proxy reports. A proxy's own requests
    are not counted. False: over the limit."""
    cdef uint8_t address[ADDRESS_BYTES]
    return not remote_addr_of(loop.set, c.fd, u, address) or _address_enter(loop, c, address)


cdef inline void remote_addr_uncount(Loop* loop, const Conn* c) noexcept nogil:
    """Ends the counting of a connection that has ended. No effect if it was not counted."""
    cdef uint64_t hash = address_book_erase(loop.book, c.slot) if loop.book != NULL else 0
    if hash:
        addresses_leave(loop.hub.addresses, hash)


cdef inline char* remote_addr_put(char* out, const uint8_t* address) noexcept nogil:
    """Writes an address as text, at most ADDRESS_TEXT bytes with its NUL. Returns the pointer to the NUL."""
    cdef uint8_t none[ADDRESS_BYTES]
    memset(none, 0, ADDRESS_BYTES)
    if memcmp(address, none, ADDRESS_BYTES) == 0:  # of a unix socket, without a proxy that reports one
        return text_put(out, b"unix")
    if ip_table_is_mapped(address):
        inet_ntop(AF_INET, address + 12, out, ADDRESS_TEXT)
    else:
        inet_ntop(AF_INET6, address, out, ADDRESS_TEXT)
    return out + strlen(out)
