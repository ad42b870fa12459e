# Python wrappers and micro benchmarks of the pure layers of signal.v1: addresses, heads, the NATS wire.
# Included by probe.pyx. Input goes into a buffer of exactly its size, so that AddressSanitizer sees a byte
# read past it; output likewise, of the size that the encoder documents.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from signal_core.base.span cimport Span, span_none, span_of, span_text
from signal_core.base.sys cimport se_now_ns
from signal_core.base.text cimport (
    UINT_TEXT, text_parse_uint as c_uint_parse, text_put_uint as c_put_uint, text_uint_lower as c_uint_lower,
)
from signal_core.wire.command cimport Head, head_check_layout, head_parse as c_head_parse
from signal_core.wire.ids cimport (
    LOCAL_TEXT, ids_make as c_id_make, ids_parse_local as c_local_parse, ids_put_local as c_local_put,
    ids_ref_valid as c_ref_valid, ids_room_valid as c_room_valid, ids_split_peer as c_peer_split,
)
from signal_core.wire.nats_format cimport (
    NATS_SUB_SIZE, nats_format_hpub_bound as c_nats_hpub_bound, nats_format_hpub_head as c_nats_put_hpub_head,
    nats_format_receipt as c_nats_put_receipt, nats_format_sub as c_nats_put_sub, nats_format_unsub as c_nats_put_unsub,
)
from signal_core.wire.nats_info cimport nats_info_number as c_info_number
from signal_core.wire.nats_proto cimport (
    NATS_TO_PEER, NATS_TO_ROOM, NatsHeaders, NatsOp, NatsPub, NatsTarget, nats_headers_parse as c_nats_headers_parse,
    nats_proto_check_layout, nats_proto_need as c_nats_need, nats_proto_parse as c_nats_parse, nats_target,
)

cdef extern from *:
    """
    /* Makes the compiler assume that p is read and written here, so that it keeps a measured loop. */
    #define SIGNAL_KEEP(p) __asm__ volatile("" : : "r"(p) : "memory")
    """
    void SIGNAL_KEEP(const void* p) nogil


cdef char* signal_copy(bytes data) except NULL:
    """Copies bytes to a heap block of exactly their size; the caller frees it."""
    cdef char* copy = <char*>malloc(len(data))
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char*>data, len(data))
    return copy


cdef inline Span signal_span(bytes data) noexcept:
    """Returns a span of a bytes object, valid as long as that. A NUL follows, so a byte read too far goes unnoticed."""
    return span_of(<const char*>data, <size_t>len(data))


cdef bytes signal_bytes(Span span):
    """Returns the bytes of a span; None for NULL, so that absent differs from empty."""
    return None if span.at == NULL else span.at[:span.size]


cdef bytes signal_taken(char* out, const char* end):
    """Returns the bytes up to `end`, and frees `out`."""
    result = out[:end - out]
    free(out)
    return result


def signal_check_layout() -> None:
    """Instantiates the compile-time assertions."""
    head_check_layout()
    nats_proto_check_layout()


# -- addresses and names --

def id_make(uint32_t loop, uint32_t slot, uint32_t tag):
    return c_id_make(loop, slot, tag)


def local_put(uint64_t id):
    cdef char* out = <char*>malloc(LOCAL_TEXT)
    return signal_taken(out, c_local_put(out, id))


def local_parse(bytes data):
    """Returns the id; None if the text is not canonical."""
    cdef uint64_t id = 0
    cdef char* p = signal_copy(data)
    cdef int verdict = c_local_parse(span_of(p, len(data)), &id)
    free(p)
    return id if verdict == 1 else None


def peer_split(bytes data):
    """Returns the length of the node; None if it is no peer."""
    cdef size_t node_len = 0
    cdef char* p = signal_copy(data)
    cdef int verdict = c_peer_split(span_of(p, len(data)), &node_len)
    free(p)
    return node_len if verdict == 1 else None


def room_valid(bytes data):
    cdef char* p = signal_copy(data)
    cdef bint valid = c_room_valid(span_of(p, len(data)))
    free(p)
    return bool(valid)


def ref_valid(bytes data):
    cdef char* p = signal_copy(data)
    cdef bint valid = c_ref_valid(span_of(p, len(data)))
    free(p)
    return bool(valid)


def put_uint(uint64_t value):
    cdef char* out = <char*>malloc(UINT_TEXT)
    return signal_taken(out, c_put_uint(out, value))


def uint_lower(bytes data, uint64_t value):
    """Returns the bytes after text_uint_lower has lowered the number at their end."""
    cdef char* p = signal_copy(data)
    c_uint_lower(p + len(data), value)
    return signal_taken(p, p + len(data))


def uint_parse(bytes data):
    """Returns the number; None if it is none."""
    cdef uint64_t value = 0
    cdef char* p = signal_copy(data)
    cdef bint valid = c_uint_parse(span_of(p, len(data)), &value)
    free(p)
    return value if valid else None


# -- heads --

def head_parse(bytes data):
    """(verdict, fields)"""
    cdef Head head
    cdef char* p = signal_copy(data)
    cdef int verdict = c_head_parse(span_of(p, len(data)), &head)
    fields = {
        "verb": head.verb, "arg": signal_bytes(head.arg), "node_len": head.node_len,
        "ref": signal_bytes(head.ref), "re": signal_bytes(head.re),
        "ttl_ms": head.ttl_ms,
        "presence": bool(head.presence), "has_payload": bool(head.has_payload),
        "payload": signal_bytes(head.payload),
    }
    free(p)
    return verdict, fields


# -- the NATS wire --

def nats_parse(bytes data, size_t max_payload=1 << 20):
    """Returns (bytes consumed, -1 or -2; fields or None)."""
    cdef NatsOp op
    cdef char* p = signal_copy(data)
    cdef int64_t verdict = c_nats_parse(span_of(p, len(data)), max_payload, &op)
    fields = None
    if verdict > 0:
        fields = {
            "kind": op.kind, "subject": signal_bytes(op.subject),
            "reply": signal_bytes(op.reply), "sid": op.sid,
            "headers": signal_bytes(op.headers),
            "payload": signal_bytes(op.payload),
            "text": signal_bytes(op.text),
        }
    free(p)
    return verdict, fields


def info_number(bytes text, bytes name):
    """Returns a number of an INFO as the link reads it; -1: none."""
    return c_info_number(signal_span(text), name)


def nats_need(bytes data):
    cdef char* p = signal_copy(data)
    cdef size_t need = c_nats_need(span_of(p, len(data)))
    free(p)
    return need


def nats_headers_parse(bytes data):
    """(verdict, fields)"""
    cdef NatsHeaders headers
    cdef char* p = signal_copy(data)
    cdef int verdict = c_nats_headers_parse(span_of(p, len(data)), &headers)
    fields = {
        "status": headers.status, "sender": signal_bytes(headers.sender),
        "user": signal_bytes(headers.user),
        "receipt": signal_bytes(headers.receipt),
        "subject": signal_bytes(headers.subject),
        "type": signal_bytes(headers.type), "ttl_ms": headers.ttl_ms,
        "binary": bool(headers.binary),
    }
    free(p)
    return verdict, fields


def nats_put_hpub(bytes prefix, bytes kind, bytes target, bytes me, bytes payload, *, bytes suffix_ref=b"",
                  bytes ref=b"", bytes user=b"", bint binary=False, int64_t ttl_ms=-1):
    """Returns (the whole HPUB, nats_format_hpub_bound). The head is written to a buffer of the bound's size."""
    cdef NatsTarget to
    cdef NatsPub m
    cdef size_t bound
    cdef char* out
    if kind not in (b"peer", b"room"):
        raise ValueError("kind is peer or room")
    to = nats_target(signal_span(target), signal_span(suffix_ref), NATS_TO_ROOM if kind == b"room" else NATS_TO_PEER)
    m.target = &to
    m.prefix = signal_span(prefix)
    m.me = signal_span(me)
    m.ref = signal_span(ref)
    m.user = signal_span(user)
    m.ttl_ms = ttl_ms
    m.payload_size = len(payload)
    m.binary = binary
    bound = c_nats_hpub_bound(&m)
    out = <char*>malloc(bound)
    return signal_taken(out, c_nats_put_hpub_head(out, &m)) + payload + b"\r\n", bound


def nats_put_receipt(bytes reply, bytes code):
    cdef char* out = <char*>malloc(len(reply) + len(code) + 96)
    return signal_taken(out, c_nats_put_receipt(out, signal_span(reply), signal_span(code)))


def nats_put_sub(bytes prefix, bytes name, uint64_t sid):
    cdef bytes subject = prefix + name
    cdef char* out = <char*>malloc(len(subject) + NATS_SUB_SIZE)
    return signal_taken(out, c_nats_put_sub(out, signal_span(subject), sid))


def nats_put_unsub(uint64_t sid):
    cdef char* out = <char*>malloc(28)
    return signal_taken(out, c_nats_put_unsub(out, sid))


# -- benchmarks: nanoseconds an operation --

def bench_local_put(uint64_t iterations):
    cdef char out[LOCAL_TEXT]
    cdef uint64_t i, start, id = 0x9E3779B97F4A7C15
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            SIGNAL_KEEP(&id)
            c_local_put(out, id)
            SIGNAL_KEEP(out)
        start = se_now_ns() - start
    return <double>start / <double>iterations


def bench_local_parse(uint64_t iterations, bytes data=b"7zq3mw9kd0xv5"):
    cdef Span text = signal_span(data)
    cdef uint64_t i, start, id
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            SIGNAL_KEEP(text.at)
            c_local_parse(text, &id)
            SIGNAL_KEEP(&id)
        start = se_now_ns() - start
    return <double>start / <double>iterations


def bench_head_parse(uint64_t iterations, bytes data=b"TO k7m2q0.7zq3mw9kd0xv5\n" + bytes(128)):
    cdef Head head
    cdef Span text = signal_span(data)
    cdef uint64_t i, start
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            SIGNAL_KEEP(text.at)
            c_head_parse(text, &head)
            SIGNAL_KEEP(&head)
        start = se_now_ns() - start
    return <double>start / <double>iterations


BENCH_HEADERS = b"NATS/1.0\r\nSignal-From: k7m2q0.7zq3mw9kd0xv5\r\n\r\n"
BENCH_HMSG = b"HMSG signal.peer.abcdef.0123456789abc 1 %d %d\r\n%s%s\r\n" % (
    len(BENCH_HEADERS), len(BENCH_HEADERS) + 128, BENCH_HEADERS, bytes(128))


def bench_nats_parse(uint64_t iterations, bytes data=BENCH_HMSG):
    cdef NatsOp op
    cdef Span text = signal_span(data)
    cdef uint64_t i, start
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            SIGNAL_KEEP(text.at)
            c_nats_parse(text, 1 << 20, &op)
            SIGNAL_KEEP(&op)
        start = se_now_ns() - start
    return <double>start / <double>iterations


def bench_nats_headers_parse(uint64_t iterations, bytes data=BENCH_HEADERS):
    cdef NatsHeaders headers
    cdef Span text = signal_span(data)
    cdef uint64_t i, start
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            SIGNAL_KEEP(text.at)
            c_nats_headers_parse(text, &headers)
            SIGNAL_KEEP(&headers)
        start = se_now_ns() - start
    return <double>start / <double>iterations


def bench_nats_put_hpub_head(uint64_t iterations, bint with_ref=False):
    cdef NatsTarget to = nats_target(span_text(b"abcdef.0123456789abc"), span_none(), NATS_TO_PEER)
    cdef NatsPub m
    cdef char out[512]
    cdef uint64_t i, start
    m.target = &to
    m.prefix = span_text(b"signal")
    m.me = span_text(b"k7m2q0.7zq3mw9kd0xv5")
    m.ref = span_text(b"17" if with_ref else b"")
    m.user = span_none()
    m.ttl_ms = -1
    m.payload_size = 128
    m.binary = False
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            SIGNAL_KEEP(&m)
            c_nats_put_hpub_head(out, &m)
            SIGNAL_KEEP(out)
        start = se_now_ns() - start
    return <double>start / <double>iterations
