"""The NATS link's socket, read and written as it is or through TLS. L3. Loop 0 only.

With TLS, plaintext is gathered from the queue into one record's worth of bytes and handed to OpenSSL, which may take it
in several steps. What is in that record counts as written, as what is in the kernel's buffer does.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from signal_core.counters cimport C_BYTES_OUT, C_WRITES
from signal_core.limits cimport TLS_RECORD
from signal_core.memory cimport KIND_CONNECT, Msg, msg_free
from signal_core.queue cimport WROTE_ALL, WROTE_NONE, WROTE_PART, queue_advance, queue_expire, queue_write
from signal_core.state cimport Link, Loop
from signal_core.sys cimport EAGAIN, EINTR, errno, recv

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
    """Takes the session over. False without memory (it is freed)."""
    link.record = <uint8_t*>malloc(TLS_RECORD)
    if link.record == NULL:
        se_tls_free(session)
        return False
    link.record_used = link.record_start = 0
    link.tls = session
    se_tls_attach(session, link.fd)
    return True


cdef inline void tls_end(Link* link) noexcept nogil:
    """Before the socket is closed; no effect without TLS."""
    if link.tls == NULL:
        return
    se_tls_free(link.tls)
    free(link.record)
    link.tls = link.record = NULL


cdef inline void connect_free(Loop* loop, Msg* msg) noexcept nogil:
    """Of a KIND_CONNECT that was not used: with its session."""
    if msg.kind == KIND_CONNECT and msg.pointer != NULL:
        se_tls_free(msg.pointer)
    msg_free(&loop.mem, msg)


cdef inline ssize_t link_recv(Loop* loop, void* out, size_t n) noexcept nogil:
    """Bytes read, 0 or GOT_*. With TLS only GOT_NOTHING says that epoll will tell of more."""
    cdef Link* link = loop.linked
    cdef ssize_t got
    if link.tls == NULL:
        got = recv(link.fd, out, n, 0)
        return GOT_NOTHING if got < 0 and (errno == EAGAIN or errno == EINTR) else got
    got = se_tls_read(link.tls, out, n)
    if got > 0 or got == SE_TLS_CLOSED:
        return got
    if got == SE_TLS_WANTS_WRITE:
        return GOT_BLOCKED
    return GOT_NOTHING if got == SE_TLS_WANTS_READ else GOT_BROKEN


cdef inline void record_fill(Loop* loop) noexcept nogil:
    """Moves bytes from the queue into the empty record."""
    cdef Link* link = loop.linked
    cdef uint32_t n
    link.record_used = link.record_start = 0
    if link.out.head != NULL and link.out.head.msg.expires and link.out.head.msg.expires < loop.tick:
        queue_expire(loop, &link.out)
    while link.out.head != NULL and link.record_used < TLS_RECORD:
        n = link.out.head.msg.size - link.out.offset
        if n > TLS_RECORD - link.record_used:
            n = TLS_RECORD - link.record_used
        memcpy(link.record + link.record_used, link.out.head.msg.data + link.out.offset, n)
        link.record_used += n
        queue_advance(loop, &link.out, n)
    if link.out.head == NULL:
        link.out.tail = NULL


cdef inline int record_write(Loop* loop) noexcept nogil:
    """Hands the record to OpenSSL: WROTE_ALL, WROTE_PART (the socket is full) or WROTE_NONE (it is broken)."""
    cdef Link* link = loop.linked
    cdef int took
    while link.record_start < link.record_used:
        took = se_tls_write(link.tls, link.record + link.record_start, link.record_used - link.record_start)
        loop.n[C_WRITES] += 1
        if took > 0:
            link.record_start += <uint32_t>took
            loop.n[C_BYTES_OUT] += <uint64_t>took
        else:
            return WROTE_PART if took == SE_TLS_WANTS_WRITE or took == SE_TLS_WANTS_READ else WROTE_NONE
    return WROTE_ALL


cdef inline int link_send_queued(Loop* loop, uint32_t rounds) noexcept nogil:
    """Writes what is queued, in `rounds` writes at most: WROTE_ALL, WROTE_PART or WROTE_NONE, as queue_write does."""
    cdef Link* link = loop.linked
    cdef int wrote
    if link.tls == NULL:
        return queue_write(loop, link.fd, &link.out, rounds)
    while True:
        wrote = record_write(loop)
        if wrote != WROTE_ALL:
            return wrote
        if link.out.head == NULL:
            return WROTE_ALL
        if rounds == 0:
            return WROTE_PART
        rounds -= 1
        record_fill(loop)
