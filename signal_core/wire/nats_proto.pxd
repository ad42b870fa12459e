"""The NATS client protocol without I/O: reads what a server sends, writes what the link sends.

Operations are `VERB fields CRLF`; MSG and HMSG are followed by so many bytes and one more CRLF. Pointers in
NatsOp and NatsHeaders point into the parsed buffer and are good as long as that is.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memchr, memcmp, memset
from signal_core.base.sys cimport SE_STATIC_ASSERT
from signal_core.base.text cimport text_parse_uint
from signal_core.wire.ids cimport USER_MAX, ids_peer_run, ids_room_valid, se_token_run

cdef extern from "se_text.h" nogil:
    bint se_same_name(const char* p, const char* lower, size_t n)
    void se_copy_short(char* out, const char* p, size_t n)

cdef enum:
    NATS_INFO = 1
    NATS_MSG = 2
    NATS_HMSG = 3
    NATS_PING = 4
    NATS_PONG = 5
    NATS_OK = 6
    NATS_ERR = 7

    NATS_LINE_MAX = 4096          # bytes of a control line before its CRLF
    NATS_INFO_MAX = 64 * 1024     # of INFO, which may name many servers
    NATS_SLACK = 65536            # bytes that a message may exceed max_payload by
    NATS_SIZE_DIGITS = 9          # of a size field
    NATS_FIELDS = 5               # of the longest control line, HMSG with a reply
    NATS_TTL_MAX_MS = 86400000    # a day

    NATS_OWN_HEADERS = 85         # bytes of our headers at most, without address and user

    # NatsPub.kind
    NATS_TO_PEER = 0
    NATS_TO_ROOM = 1

cdef struct NatsField:            # a piece of a line
    const char* text              # 8  not NULL
    size_t size                   # 8

cdef struct NatsOp:               # one operation of the server
    const char* subject           # 8  MSG, HMSG
    const char* reply             # 8  where an answer goes; NULL: nowhere
    const char* headers           # 8  HMSG: from NATS/1.0 to the blank line; NULL: none
    const char* payload           # 8  MSG, HMSG
    const char* text              # 8  INFO: its JSON; -ERR: its text without quotes
    size_t payload_len            # 8
    size_t text_len               # 8
    uint64_t sid                  # 8  of the subscription that it came by
    uint32_t subject_len          # 4
    uint32_t reply_len            # 4
    uint32_t headers_len          # 4
    uint8_t kind                  # 1  NATS_*
    uint8_t spare[3]              # 3  to a multiple of 8

cdef struct NatsHeaders:          # NULL with a length of 0 where one is absent
    const char* sender            # 8  Signal-From: a peer
    const char* user              # 8  Signal-User
    const char* receipt           # 8  Signal-Receipt: `ok` or an error code
    const char* subject           # 8  Nats-Subject: what nobody listens to, with status 503
    const char* type              # 8  Signal-Type
    int64_t ttl_ms                # 8  Signal-Ttl: milliseconds left; -1: none, or malformed
    uint32_t sender_len           # 4
    uint32_t user_len             # 4
    uint32_t receipt_len          # 4
    uint32_t subject_len          # 4
    uint32_t type_len             # 4
    int status                    # 4  of the first line, 0 where it has none
    bint binary                   # 4  Signal-Type is `binary`

cdef struct NatsPub:              # a message to publish: what its subject, reply and headers are made of
    const char* prefix            # 8  first token of our subjects
    const char* target            # 8  peer or room
    const char* suffix_ref        # 8  one more token of the subject: the ref that it answers
    const char* me                # 8  the sender, `<node>.<local>`
    const char* ref               # 8  makes the reply subject `<prefix>.peer.<me>.<ref>`
    const char* user              # 8
    int64_t ttl_ms                # 8  -1: none
    size_t payload_len            # 8
    uint32_t prefix_len           # 4
    uint32_t target_len           # 4
    uint32_t suffix_ref_len       # 4  0: none
    uint32_t me_len               # 4
    uint32_t ref_len              # 4  0: no reply subject
    uint32_t user_len             # 4  0: none
    bint binary                   # 4
    uint8_t kind                  # 1  NATS_TO_*: the subject's second token


cdef inline void nats_proto_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(NatsOp) == 80)


# -- reading operations --

cdef inline bint _is_space(char c) noexcept nogil:
    return c == c" " or c == c"\t"


cdef inline NatsField _trimmed(const char* p, const char* end) noexcept nogil:
    """p..end without spaces and tabs around."""
    while p < end and _is_space(p[0]):
        p += 1
    while p < end and _is_space((end - 1)[0]):
        end -= 1
    return NatsField(text=p, size=<size_t>(end - p))


cdef inline int _verb_match(const char* p, size_t n, const char* lower, size_t size, int kind) noexcept nogil:
    """`kind` where p starts with `lower`, in either case; -1: it does not; -2: it does as far as it goes."""
    cdef size_t i
    for i in range(size if size < n else n):
        if (p[i] | 0x20) != lower[i]:
            return -1
    return kind if n >= size else -2


cdef inline int _nats_verb(const char* p, size_t n, size_t* size) noexcept nogil:
    """NATS_* and the length of the verb that p starts with, or -1 or -2. What follows it is not judged."""
    cdef char first = p[0] | 0x20
    size[0] = 4
    if first == c"h":
        return _verb_match(p, n, b"hmsg", 4, NATS_HMSG)
    if first == c"p":
        if n == 1 or (p[1] | 0x20) == c"i":
            return _verb_match(p, n, b"ping", 4, NATS_PING)
        return _verb_match(p, n, b"pong", 4, NATS_PONG)
    if first == c"i":
        return _verb_match(p, n, b"info", 4, NATS_INFO)
    if p[0] == c"-":
        return _verb_match(p, n, b"-err", 4, NATS_ERR)
    size[0] = 3
    if first == c"m":
        return _verb_match(p, n, b"msg", 3, NATS_MSG)
    return _verb_match(p, n, b"+ok", 3, NATS_OK) if p[0] == c"+" else -1


cdef inline int64_t _line_end(const char* p, size_t n, size_t most) noexcept nogil:
    """Bytes before the CRLF that ends the line, at most `most`; -1: longer, or a bare LF; -2: no end yet."""
    cdef size_t look = n if n < most + 2 else most + 2
    cdef const char* lf = <const char*>memchr(p, c"\n", look)
    if lf == NULL:
        return -2 if n < most + 2 else -1
    if lf == p or (lf - 1)[0] != c"\r":
        return -1
    return lf - p - 1


cdef inline int _nats_fields(const char* p, size_t n, NatsField* out, size_t* used) noexcept nogil:
    """Splits a line; how many fields, and its bytes with CRLF. -1: too many, or a control character. -2."""
    cdef int count = 0
    cdef size_t at = 0
    while True:
        while at < n and _is_space(p[at]):
            at += 1
        if at == n:
            return -2
        if p[at] == c"\r":
            used[0] = at + 2
            return -2 if at + 1 == n else count if p[at + 1] == c"\n" else -1
        if count == NATS_FIELDS:
            return -1
        out[count].text = p + at
        out[count].size = se_token_run(p + at, n - at)
        if out[count].size == 0:
            return -1
        at += out[count].size
        count += 1


cdef inline bint _size_field(const NatsField* field, uint64_t* size) noexcept nogil:
    return field.size <= NATS_SIZE_DIGITS and text_parse_uint(field.text, field.size, size)


cdef inline int64_t _message_line(const char* p, size_t n, NatsOp* out) noexcept nogil:
    """`<subject> <sid> [reply] [header bytes] <bytes in all>` CRLF, of at most `n` bytes.

    >0: its bytes; the lengths of headers and payload are set, the pointers to them not. -1, -2.
    """
    cdef NatsField field[NATS_FIELDS]
    cdef int sizes = 2 if out.kind == NATS_HMSG else 1
    cdef size_t used
    cdef int count = _nats_fields(p, n, field, &used)
    cdef uint64_t headers = 0, total
    if count != sizes + 2 and count != sizes + 3:
        return -2 if count == -2 else -1
    if not text_parse_uint(field[1].text, field[1].size, &out.sid) or not _size_field(&field[count - 1], &total):
        return -1
    if sizes == 2 and (not _size_field(&field[count - 2], &headers) or headers > total):
        return -1
    out.subject = field[0].text
    out.subject_len = <uint32_t>field[0].size
    if count == sizes + 3:
        out.reply = field[2].text
        out.reply_len = <uint32_t>field[2].size
    out.headers_len = <uint32_t>headers
    out.payload_len = total - headers
    return <int64_t>used


cdef inline int64_t _plain_line(const char* p, size_t n, size_t most, NatsOp* out) noexcept nogil:
    """What follows the verb of any other operation. >0: its bytes, CRLF included. -1, -2."""
    cdef int64_t end = _line_end(p, n, most)
    cdef NatsField text
    if end < 0:
        return end
    text = _trimmed(p, p + end)
    if text.size and out.kind != NATS_INFO and out.kind != NATS_ERR:
        return -1
    out.text = text.text
    out.text_len = text.size
    if out.kind == NATS_ERR and text.size > 1 and text.text[0] == c"'" and text.text[text.size - 1] == c"'":
        out.text += 1
        out.text_len -= 2
    return end + 2


cdef inline int64_t nats_proto_control_line(const char* p, size_t n, NatsOp* out) noexcept nogil:
    """The line that p starts with: its bytes, CRLF included, or -1 or -2. Sets all but the data."""
    cdef size_t verb, most
    cdef int64_t rest
    cdef int kind
    memset(out, 0, sizeof(NatsOp))
    if n == 0:
        return -2
    kind = _nats_verb(p, n, &verb)
    if kind < 0:
        return kind
    if n == verb:
        return -2
    out.kind = <uint8_t>kind
    p += verb
    n -= verb
    if not _is_space(p[0]) and (p[0] != c"\r" or kind == NATS_MSG or kind == NATS_HMSG):
        return -1
    most = (NATS_INFO_MAX if kind == NATS_INFO else NATS_LINE_MAX) - verb
    if kind == NATS_MSG or kind == NATS_HMSG:
        rest = _message_line(p, n if n < most + 2 else most + 2, out)
        if rest == -2 and n >= most + 2:
            return -1
    else:
        rest = _plain_line(p, n, most, out)
    return rest if rest < 0 else rest + <int64_t>verb


cdef inline int64_t nats_proto_parse(const char* p, size_t n, size_t max_payload, NatsOp* out) noexcept nogil:
    """Reads the operation that p starts with. >0: its bytes, all of them are there, `out` is filled.

    -1: not the protocol, a control line of more than NATS_LINE_MAX (INFO: NATS_INFO_MAX) bytes, or more than
    max_payload + NATS_SLACK of data. -2: more is needed, and nothing wrong so far.
    """
    cdef int64_t line = nats_proto_control_line(p, n, out)
    cdef size_t size, need
    if line < 0 or (out.kind != NATS_MSG and out.kind != NATS_HMSG):
        return line
    size = out.headers_len + out.payload_len
    if size > max_payload and size - max_payload > NATS_SLACK:
        return -1
    need = <size_t>line + size + 2
    if n < need:
        return -2
    if p[need - 2] != c"\r" or p[need - 1] != c"\n":
        return -1
    out.payload = p + line + out.headers_len
    if out.headers_len:
        out.headers = p + line
    return <int64_t>need


cdef inline size_t nats_proto_need(const char* p, size_t n) noexcept nogil:
    """After a -2: bytes of the pending operation in all; 0 while its control line is incomplete."""
    cdef NatsOp op
    cdef int64_t line = nats_proto_control_line(p, n, &op)
    return 0 if line < 0 else <size_t>line + op.headers_len + op.payload_len + 2


# -- reading headers --

cdef inline void _header_from(NatsField value, const char* end, NatsHeaders* out) noexcept nogil:
    """What follows the value, up to `end`, is read too: by the block."""
    cdef size_t node_len
    if value.size and ids_peer_run(value.text, <size_t>(end - value.text), &node_len) == value.size:
        out.sender = value.text
        out.sender_len = <uint32_t>value.size


cdef inline void _header_user(NatsField value, NatsHeaders* out) noexcept nogil:
    if value.size <= USER_MAX and ids_room_valid(value.text, value.size):
        out.user = value.text
        out.user_len = <uint32_t>value.size


cdef inline void _header_ttl(NatsField value, NatsHeaders* out) noexcept nogil:
    cdef uint64_t ms
    if text_parse_uint(value.text, value.size, &ms) and ms <= NATS_TTL_MAX_MS:
        out.ttl_ms = <int64_t>ms


cdef inline void _header_take(const char* name, size_t n, NatsField value, const char* end,
                              NatsHeaders* out) noexcept nogil:
    """Keeps what is ours; of one given twice, the last. A line holds no CR, so se_same_name is exact."""
    if n == 12 and se_same_name(name, b"nats-sub", 8) and se_same_name(name + 8, b"ject", 4):
        out.subject = value.text
        out.subject_len = <uint32_t>value.size
    if n < 10 or not se_same_name(name, b"signal-", 7):
        return
    name += 7
    if n == 11 and se_same_name(name, b"from", 4):
        _header_from(value, end, out)
    elif n == 11 and se_same_name(name, b"type", 4):
        out.type = value.text
        out.type_len = <uint32_t>value.size
        out.binary = value.size == 6 and memcmp(value.text, b"binary", 6) == 0
    elif n == 11 and se_same_name(name, b"user", 4):
        _header_user(value, out)
    elif n == 10 and se_same_name(name - 1, b"-ttl", 4):
        _header_ttl(value, out)
    elif n == 14 and se_same_name(name, b"receipt", 7):
        out.receipt = value.text
        out.receipt_len = <uint32_t>value.size


cdef inline int _header_line(const char* p, const char* stop, const char* end,
                             NatsHeaders* out) noexcept nogil:
    """`Name: value` from p to its CRLF at `stop`; the block goes on to `end`. 1, or -1 without a name."""
    cdef const char* colon = p + 11   # where it is after most of our names
    if stop - p < 12 or colon[0] != c":":
        colon = <const char*>memchr(p, c":", <size_t>(stop - p))
    if colon == NULL or p[0] == c":":
        return -1
    _header_take(p, <size_t>(colon - p), _trimmed(colon + 1, stop), end, out)
    return 1


cdef inline int _status_line(const char* p, const char* end, NatsHeaders* out) noexcept nogil:
    """`NATS/1.0`, maybe a status of three digits and words for people. 1 or -1."""
    cdef NatsField rest
    cdef uint64_t status
    if end - p < 8 or memcmp(p, b"NATS/1.0", 8) != 0:
        return -1
    rest = _trimmed(p + 8, end)
    if rest.size == 0:
        return 1
    if not _is_space(p[8]) or rest.size < 3 or not text_parse_uint(rest.text, 3, &status):
        return -1
    if rest.size > 3 and not _is_space(rest.text[3]):
        return -1
    out.status = <int>status
    return 1


cdef inline int nats_headers_parse(const char* p, size_t n, NatsHeaders* out) noexcept nogil:
    """Reads headers, the blank line included. 1: `out` is filled. -1: malformed, or none at all (all absent).

    Unknown headers are ignored. A Signal-From that is no peer, a Signal-User that fits no room name, and a
    malformed Signal-Ttl count as absent.
    """
    cdef const char* end = p + n
    cdef const char* stop
    cdef bint first = True
    memset(out, 0, sizeof(NatsHeaders))
    out.ttl_ms = -1
    while p < end:
        stop = <const char*>memchr(p, c"\r", <size_t>(end - p))
        if stop == NULL or end - stop < 2 or stop[1] != c"\n":
            return -1
        if first:
            if _status_line(p, stop, out) < 0:
                return -1
            first = False
        elif stop == p:
            return 1 if end - stop == 2 else -1
        elif _header_line(p, stop, end, out) < 0:
            return -1
        p = stop + 2
    return -1
