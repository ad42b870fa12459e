"""Reads and writes the NATS link's socket, with or without TLS. Loop 0 only.

With TLS, up to one record of plaintext is gathered from the queue and handed to OpenSSL, which may take it in several
steps. Bytes in that record count as written, like those in the kernel's buffer.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from signal_core.base.counters cimport C_BYTES_OUT, C_WRITES
from signal_core.base.kinds cimport KIND_CONNECT
from signal_core.base.limits cimport TLS_RECORD
from signal_core.base.memory cimport Packet, packet_free
from signal_core.base.sys cimport EAGAIN, EINTR, errno, recv
from signal_core.delivery.write_queue cimport (
    WROTE_ALL, WROTE_NONE, WROTE_PART, write_queue_advance, write_queue_expire, write_queue_write,
)
from signal_core.tables.link_state cimport Link
from signal_core.tables.state cimport Loop

cdef extern from "se_tls.h" nogil:
    enum:
        SE_TLS_CLOSED
        SE_TLS_WANTS_READ
        SE_TLS_WANTS_WRITE
    bint se_tls_load()
    void* se_tls_context(const char* ca, const char* cert, const char* key, const char** wrong, char* reason,
                         size_t room)
    void se_tls_context_free(void* context)
    void* se_tls_session(void* context, const char* name, bint is_ip)
    void se_tls_attach(void* session, int fd)
    int se_tls_handshake(void* session, char* reason, size_t room)
    int se_tls_read(void* session, void* out, size_t n)
    int se_tls_write(void* session, const void* data, size_t n)
    void se_tls_free(void* session)

cdef enum:
    GOT_BROKEN = -1           # the connection is broken; 0: it was closed
    GOT_NOTHING = -2          # nothing is there now
    GOT_BLOCKED = -3          # TLS has to write before it can read on


cdef inline bint tls_begin(Link* link, void* session) noexcept nogil:
    """Takes over a session, and attaches it to the link's socket. False: no memory, and the session is freed."""
    link.tls.record = <uint8_t*>malloc(TLS_RECORD)
    if link.tls.record == NULL:
        se_tls_free(session)
        return False
    link.tls.record_used = link.tls.record_start = 0
    link.tls.session = session
    se_tls_attach(session, link.fd)
    return True


cdef inline void tls_end(Link* link) noexcept nogil:
    """Frees the session, before the socket is closed. No effect without TLS."""
    if link.tls.session == NULL:
        return
    se_tls_free(link.tls.session)
    free(link.tls.record)
    link.tls.session = link.tls.record = NULL


cdef inline void tls_free_connect(Loop* loop, Packet* packet) noexcept nogil:
    """Frees a packet that was not handled, and the session of a KIND_CONNECT."""
    if packet.kind == KIND_CONNECT and packet.pointer != NULL:
        se_tls_free(packet.pointer)
    packet_free(&loop.mem, packet)


cdef inline ssize_t tls_recv(Loop* loop, void* out, size_t n) noexcept nogil:
    """Reads at most `n` bytes. Returns their number, 0 (closed) or GOT_*. With TLS, epoll reports more input only after
    GOT_NOTHING."""
    cdef Link* link = loop.linked
    cdef ssize_t got
    if link.tls.session == NULL:
        got = recv(link.fd, out, n, 0)
        return GOT_NOTHING if got < 0 and (errno == EAGAIN or errno == EINTR) else got
    got = se_tls_read(link.tls.session, out, n)
    if got > 0 or got == SE_TLS_CLOSED:
        return got
    if got == SE_TLS_WANTS_WRITE:
        return GOT_BLOCKED
    return GOT_NOTHING if got == SE_TLS_WANTS_READ else GOT_BROKEN


cdef inline void _record_fill(Loop* loop) noexcept nogil:
    """Moves bytes from the queue into the empty record."""
    cdef Link* link = loop.linked
    cdef uint32_t n
    link.tls.record_used = link.tls.record_start = 0
    if link.out.head != NULL and link.out.head.packet.expires and link.out.head.packet.expires < loop.tick:
        write_queue_expire(loop, &link.out)
    while link.out.head != NULL and link.tls.record_used < TLS_RECORD:
        n = link.out.head.packet.size - link.out.offset
        if n > TLS_RECORD - link.tls.record_used:
            n = TLS_RECORD - link.tls.record_used
        memcpy(link.tls.record + link.tls.record_used, link.out.head.packet.data + link.out.offset, n)
        link.tls.record_used += n
        write_queue_advance(loop, &link.out, n)
    if link.out.head == NULL:
        link.out.tail = NULL


cdef inline int _record_write(Loop* loop) noexcept nogil:
    """Hands the record to OpenSSL. Returns WROTE_ALL, WROTE_PART (the socket is full) or WROTE_NONE (it is broken)."""
    cdef Link* link = loop.linked
    cdef int took
    while link.tls.record_start < link.tls.record_used:
        took = se_tls_write(link.tls.session, link.tls.record + link.tls.record_start,
                            link.tls.record_used - link.tls.record_start)
        loop.n[C_WRITES] += 1
        if took > 0:
            link.tls.record_start += <uint32_t>took
            loop.n[C_BYTES_OUT] += <uint64_t>took
        else:
            return WROTE_PART if took == SE_TLS_WANTS_WRITE or took == SE_TLS_WANTS_READ else WROTE_NONE
    return WROTE_ALL


cdef inline int tls_send_queued(Loop* loop, uint32_t rounds) noexcept nogil:
    """Writes what is queued, in `rounds` writes at most. Returns WROTE_*, as write_queue_write does."""
    cdef Link* link = loop.linked
    cdef int wrote
    if link.tls.session == NULL:
        return write_queue_write(loop, link.fd, &link.out, rounds)
    while True:
        wrote = _record_write(loop)
        if wrote != WROTE_ALL:
            return wrote
        if link.out.head == NULL:
            return WROTE_ALL
        if rounds == 0:
            return WROTE_PART
        rounds -= 1
        _record_fill(loop)
