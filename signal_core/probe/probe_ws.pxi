# Python wrappers and micro benchmarks of the pure WebSocket layers: framing, UTF-8, handshake. For probe.pyx.
# Input goes into a buffer of exactly its size, so that AddressSanitizer sees a byte read past it.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from signal_core.base.limits cimport UPGRADE_ANSWER
from signal_core.base.span cimport Span, span_of
from signal_core.base.sys cimport se_now_ns
from signal_core.wire.deflate_offer cimport deflate_offer as c_deflate_offer
from signal_core.wire.frame cimport (
    FRAME_DEFLATED, FRAME_FIN, FRAME_MAX_HEAD, OP_TEXT, Frame, frame_check_layout,
    frame_close_code as c_close_code_of,
    frame_head_size as c_frame_head_size, frame_parse as c_frame_parse, frame_put_head as c_frame_put_head,
    frame_unmask as c_frame_unmask,
)
from signal_core.wire.handshake cimport KEY_SIZE, Upgrade, upgrade_check_layout, upgrade_parse as c_upgrade_parse
from signal_core.wire.request cimport (
    Site, request_host_valid as c_host_valid, request_query_next_room as c_query_next_room,
)
from signal_core.wire.response cimport (
    SE_SHA1_SIZE, UPGRADE_ACCEPT_MAX, response_accept_key as c_upgrade_accept, response_refuse as c_upgrade_refuse,
    response_upgrade as c_upgrade_answer, se_base64_put, se_sha1,
)
from signal_core.wire.utf8 cimport utf8_feed as c_utf8_feed, utf8_valid as c_utf8_valid

cdef extern from *:
    """
    /* Makes the compiler assume that p is read and written here, so that it keeps a measured loop. */
    #define PROBE_KEEP(p) __asm__ volatile("" : : "r"(p) : "memory")
    """
    void PROBE_KEEP(const void* p) nogil


cdef uint8_t* ws_copy(bytes data) except NULL:
    """Copies bytes to a heap block of exactly their size; the caller frees it."""
    cdef uint8_t* copy = <uint8_t*>malloc(len(data))
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char*>data, len(data))
    return copy


def ws_check_layout() -> None:
    """Instantiates the compile-time assertions."""
    frame_check_layout()
    upgrade_check_layout()


# -- frames --

def frame_parse(bytes data, uint64_t max_payload, bint deflate=False):
    """Returns (result, fields); fields are {"close_code"} for a bad frame, None if more is needed."""
    cdef Frame frame
    cdef uint8_t* p = ws_copy(data)
    cdef int verdict = c_frame_parse(p, len(data), max_payload, FRAME_DEFLATED if deflate else 0, &frame)
    free(p)
    if verdict == -2:
        return verdict, None
    if verdict == -1:
        return verdict, {"close_code": frame.close_code}
    return verdict, {
        "length": frame.length,
        "head": frame.head,
        "opcode": frame.opcode,
        "fin": bool(frame.first & FRAME_FIN),
        "key": (<char*>frame.key)[:4],
        **({"deflated": bool(frame.first & FRAME_DEFLATED)} if deflate else {}),
    }


def frame_unmask(bytes data, bytes key, size_t offset=0):
    """Returns the payload, unmasked at `offset` bytes past malloc's alignment."""
    cdef size_t n = len(data)
    cdef uint8_t* p = ws_copy(bytes(offset) + data)
    cdef const char* k = key
    if len(key) != 4:
        free(p)
        raise ValueError("a masking key has 4 bytes")
    c_frame_unmask(p + offset, n, <const uint8_t*>k)
    result = (<char*>p)[:offset + n]
    free(p)
    return result[offset:]


def frame_head_size(size_t payload):
    return c_frame_head_size(payload)


def frame_put_head(uint8_t opcode, size_t payload):
    cdef uint8_t out[FRAME_MAX_HEAD]
    cdef size_t n = c_frame_put_head(out, opcode, payload)
    return (<char*>out)[:n]


def close_code_of(bytes data):
    cdef uint8_t* p = ws_copy(data)
    cdef int code = c_close_code_of(p, len(data))
    free(p)
    return code


def deflate_offer(bytes header):
    cdef char* p = <char*>ws_copy(header)
    cdef uint8_t window = c_deflate_offer(span_of(p, len(header)))
    free(p)
    return window


# -- UTF-8 --

def utf8_feed(uint32_t state, bytes data):
    cdef uint8_t* p = ws_copy(data)
    state = c_utf8_feed(state, p, len(data))
    free(p)
    return state


def utf8_valid(bytes data):
    cdef uint8_t* p = ws_copy(data)
    cdef bint valid = c_utf8_valid(p, len(data))
    free(p)
    return bool(valid)


# -- handshake --

cdef Site ws_site(bytes path=b"", uint32_t max_line=8192, uint32_t max_head=16384, bint deflate=False):
    """Returns a Site with this path; its limits default to those of the settings."""
    cdef Site site
    memset(&site, 0, sizeof(site))
    site.max_line = max_line
    site.max_head = max_head
    site.deflate = deflate
    site.path_len = <uint32_t>len(path)
    memcpy(site.path, <char*>path, len(path))
    return site


def host_valid(bytes text):
    cdef char* p = <char*>ws_copy(text)
    valid = bool(c_host_valid(span_of(p, len(text))))
    free(p)
    return valid


cdef dict upgrade_fields(const Upgrade* upgrade):
    return {
        "status": upgrade.status,
        "path": signal_bytes(upgrade.path),
        "key": upgrade.key[:KEY_SIZE],
        "protocol": bool(upgrade.protocol),
        "other_protocol": bool(upgrade.other_protocol),
        "token": signal_bytes(upgrade.token),
        "token_from": upgrade.token_from,
        "origin": signal_bytes(upgrade.origin),
        "query": signal_bytes(upgrade.query),
    }


def upgrade_parse(
    bytes data, size_t last_len=0, bytes path=b"", uint32_t max_line=8192, uint32_t max_head=16384, bint deflate=False,
):
    """Returns (result, fields or None if more is needed); "accept" and "answer" are what the engine writes."""
    cdef Upgrade upgrade
    cdef Site site = ws_site(path, max_line, max_head, deflate)
    cdef char out[UPGRADE_ANSWER]
    cdef char* p = <char*>ws_copy(data)
    cdef size_t size
    cdef int verdict = c_upgrade_parse(span_of(p, len(data)), last_len, &site, &upgrade)
    try:
        if verdict == -2:
            return verdict, None
        if verdict == -1:
            size = c_upgrade_answer(&upgrade, out, sizeof(out))
            return verdict, {"status": upgrade.status, "answer": out[:size]}
        fields = upgrade_fields(&upgrade)
        if upgrade.status == 0:
            size = c_upgrade_accept(&upgrade, out)
            fields["accept"] = out[:size]
        else:
            size = c_upgrade_answer(&upgrade, out, sizeof(out))
            fields["answer"] = out[:size]
        return verdict, fields
    finally:
        free(p)


def upgrade_feed(chunks):
    """Calls upgrade_parse as a reader does, after each chunk, until more is no longer needed."""
    data = b""
    seen = 0
    verdict, fields = -2, None
    for chunk in chunks:
        data += chunk
        verdict, fields = upgrade_parse(data, seen)
        if verdict != -2:
            break
        seen = len(data)
    return verdict, fields


def query_rooms(bytes query, size_t out_size=128):
    """Returns the rooms of a raw query, with -1 as the last if one is malformed."""
    cdef char* start = <char*>ws_copy(query)
    cdef Span left = span_of(start, len(query)), sent
    cdef char* out = <char*>malloc(out_size)
    cdef int n = 1
    rooms = []
    while n > 0:
        n = c_query_next_room(&left, out, out_size, &sent)
        if n != 0:
            rooms.append(out[:n] if n > 0 else n)
    free(out)
    free(start)
    return rooms


def upgrade_refuse(int status, size_t size=512):
    cdef char out[UPGRADE_ANSWER]
    return out[:c_upgrade_refuse(status, out, size)]


def sha1(bytes data):
    cdef uint8_t out[SE_SHA1_SIZE]
    cdef uint8_t* p = ws_copy(data)
    se_sha1(p, len(data), out)
    free(p)
    return (<char*>out)[:SE_SHA1_SIZE]


def base64(bytes data):
    cdef size_t n = (len(data) + 2) // 3 * 4
    cdef char* out = <char*>malloc(n)
    cdef uint8_t* p = ws_copy(data)
    se_base64_put(p, len(data), out)
    result = out[:n]
    free(p)
    free(out)
    return result


# -- micro benchmarks: nanoseconds an operation --

def bench_frame_decode(uint64_t iterations, size_t payload=128):
    """Parses the head of a masked text frame, and unmasks its payload."""
    cdef Frame frame
    cdef uint64_t i, start, total = 0
    cdef size_t head = c_frame_head_size(payload)
    cdef uint8_t* p = <uint8_t*>malloc(head + 4 + payload)
    memset(p, 0x5a, head + 4 + payload)
    memset(&frame, 0, sizeof(frame))
    c_frame_put_head(p, OP_TEXT, payload)
    p[1] |= 0x80
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            PROBE_KEEP(p)
            total += c_frame_parse(p, head + 4 + payload, 65536, 0, &frame)
            c_frame_unmask(p + frame.head, frame.length, frame.key)
        start = se_now_ns() - start
    free(p)
    assert total == iterations * (head + 4)
    return start / <double>iterations


def bench_frame_put_head(uint64_t iterations, size_t payload=128):
    cdef uint8_t out[FRAME_MAX_HEAD]
    cdef uint64_t i, start, total = 0
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            PROBE_KEEP(&payload)
            total += c_frame_put_head(out, OP_TEXT, payload)
            PROBE_KEEP(out)
        start = se_now_ns() - start
    assert total == iterations * c_frame_head_size(payload)
    return start / <double>iterations


def bench_unmask(uint64_t iterations, size_t payload=128):
    cdef uint8_t key[4]
    cdef uint64_t i, start
    cdef uint8_t* p = <uint8_t*>malloc(payload)
    memset(p, 0, payload)
    memset(key, 0x5a, 4)
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            PROBE_KEEP(p)
            c_frame_unmask(p, payload, key)
        start = se_now_ns() - start
    free(p)
    return start / <double>iterations


def bench_utf8(uint64_t iterations, bytes text):
    cdef uint64_t i, start, total = 0
    cdef size_t n = len(text)
    cdef uint8_t* p = ws_copy(text)
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            PROBE_KEEP(p)
            total += c_utf8_valid(p, n)
        start = se_now_ns() - start
    free(p)
    assert total == iterations
    return start / <double>iterations


def bench_upgrade(uint64_t iterations, bytes request):
    """Parses a handshake and writes its 101."""
    cdef Upgrade upgrade
    cdef char out[UPGRADE_ACCEPT_MAX]
    cdef uint64_t i, start, total = 0
    cdef size_t n = len(request)
    cdef char* p = <char*>ws_copy(request)
    cdef Site site = ws_site()
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            PROBE_KEEP(p)
            total += c_upgrade_parse(span_of(p, n), 0, &site, &upgrade)
            c_upgrade_accept(&upgrade, out)
            PROBE_KEEP(out)
        start = se_now_ns() - start
    free(p)
    assert total == iterations * n
    return start / <double>iterations
