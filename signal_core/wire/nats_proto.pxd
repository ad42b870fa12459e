"""Parses the NATS client protocol: the operations of a server, and headers. Pure.

An operation is `VERB fields CRLF`; after MSG and HMSG come as many bytes as they say, and another CRLF. Spans in NatsOp
and NatsHeaders point into the parsed buffer and are valid as long as it is. Functions return -1 for what is malformed,
and -2 if more bytes are needed and nothing is wrong so far.
"""

from libc.stdint cimport int64_t, uint64_t, uint8_t
from libc.string cimport memchr
from signal_core.base.span cimport (
    Span, span_between, span_first, span_from, span_is, span_none, span_of, span_starts, span_until,
)
from signal_core.base.sys cimport SE_STATIC_ASSERT
from signal_core.base.text cimport text_parse_uint
from signal_core.wire.ids cimport USER_MAX, ids_peer_run, ids_room_valid, se_token_run

cdef extern from "se_text.h" nogil:
    bint se_same_name(const char* p, const char* lower, size_t n)

cdef enum:
    NATS_INFO = 1
    NATS_MSG = 2
    NATS_HMSG = 3
    NATS_PING = 4
    NATS_PONG = 5
    NATS_OK = 6
    NATS_ERR = 7

    NATS_LINE_MAX = 4096          # bytes of a control line before its CRLF
    NATS_INFO_MAX = 64 * 1024     # ... of INFO, which may name many servers
    NATS_SLACK = 65536            # bytes by which a message may exceed max_payload
    NATS_SIZE_DIGITS = 9          # most digits of a size
    NATS_FIELDS = 5               # most fields of a control line: HMSG with a reply
    NATS_TTL_MAX_MS = 86400000    # a day

    NATS_OWN_HEADERS = 85         # most bytes of our headers, without address and user

    # NatsTarget.kind
    NATS_TO_PEER = 0
    NATS_TO_ROOM = 1

cdef struct NatsOp:               # one operation of the server
    Span subject                  # 16  MSG, HMSG
    Span reply                    # 16  subject for an answer; no bytes: none
    Span headers                  # 16  HMSG: from NATS/1.0 to the blank line; NULL with a size: not read or skipped
    Span payload                  # 16  MSG, HMSG
    Span text                     # 16  INFO: its JSON; -ERR: its text without quotes
    uint64_t sid                  # 8  MSG, HMSG: of their subscription
    uint8_t kind                  # 1  NATS_*
    uint8_t spare[7]              # 7  to a multiple of 8

cdef struct NatsHeaders:          # an absent header is NULL with a size of 0
    Span sender                   # 16  Signal-From: a peer
    Span user                     # 16  Signal-User
    Span receipt                  # 16  Signal-Receipt: `ok` or an error code
    Span subject                  # 16  Nats-Subject: with status 503, a subject without subscribers
    Span type                     # 16  Signal-Type
    int64_t ttl_ms                # 8  Signal-Ttl: milliseconds left; -1: none, or malformed
    int status                    # 4  of the first line; 0: none
    bint binary                   # 4  Signal-Type is `binary`

cdef struct NatsTarget:           # where a message is published: `<prefix>.<kind>.<name>[.<ref>]`
    Span name                     # 16  peer or room
    Span ref                      # 16  of the message that it answers; no bytes: none
    uint8_t kind                  # 1  NATS_TO_*

cdef struct NatsPub:              # a message to publish, without its payload
    const NatsTarget* target      # 8
    Span prefix                   # 16  first token of our subjects
    Span me                       # 16  the sender, `<node>.<local>`
    Span ref                      # 16  makes the reply subject `<prefix>.peer.<me>.<ref>`; no bytes: none
    Span user                     # 16  no bytes: none
    int64_t ttl_ms                # 8  -1: none
    size_t payload_size           # 8
    bint binary                   # 4


cdef inline NatsTarget nats_target(Span name, Span ref, uint8_t kind) noexcept nogil:
    """Makes one. A literal of a struct with a Span makes Cython write a Python function that nothing uses."""
    cdef NatsTarget target
    target.name = name
    target.ref = ref
    target.kind = kind
    return target


cdef inline void nats_proto_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(NatsOp) == 96)


# -- reading operations --

cdef inline bint _is_space(char c) noexcept nogil:
    return c == c" " or c == c"\t"


cdef inline Span _trimmed(Span text) noexcept nogil:
    """Returns the text without leading and trailing spaces and tabs."""
    cdef const char* p = text.at
    cdef const char* end = p + text.size
    while p < end and _is_space(p[0]):
        p += 1
    while p < end and _is_space((end - 1)[0]):
        end -= 1
    return span_between(p, end)


cdef inline int _verb_match(Span text, const char* lower, size_t size, int kind) noexcept nogil:
    """Returns `kind` if the text starts with `lower`, ignoring case; -1: it does not; -2: it is too short to tell."""
    cdef size_t i
    for i in range(size if size < text.size else text.size):
        if (text.at[i] | 0x20) != lower[i]:
            return -1
    return kind if text.size >= size else -2


cdef inline int _nats_verb(Span text, size_t* size) noexcept nogil:
    """Returns NATS_* of the verb that the text starts with and sets its length, or -1 or -2. Does not check what
    follows."""
    cdef char first = text.at[0] | 0x20
    size[0] = 4
    if text.size > 4 and se_same_name(text.at, b"hmsg", 4):  # most are
        return NATS_HMSG
    if first == c"h":
        return _verb_match(text, b"hmsg", 4, NATS_HMSG)
    if first == c"p":
        if text.size == 1 or (text.at[1] | 0x20) == c"i":
            return _verb_match(text, b"ping", 4, NATS_PING)
        return _verb_match(text, b"pong", 4, NATS_PONG)
    if first == c"i":
        return _verb_match(text, b"info", 4, NATS_INFO)
    if text.at[0] == c"-":
        return _verb_match(text, b"-err", 4, NATS_ERR)
    size[0] = 3
    if first == c"m":
        return _verb_match(text, b"msg", 3, NATS_MSG)
    return _verb_match(text, b"+ok", 3, NATS_OK) if text.at[0] == c"+" else -1


cdef inline int64_t _line_end(Span text, size_t most) noexcept nogil:
    """Returns the bytes before the line's CRLF, at most `most`; -1: longer, or a bare LF; -2: no end yet."""
    cdef size_t look = text.size if text.size < most + 2 else most + 2
    cdef const char* lf = <const char*>memchr(text.at, c"\n", look)
    if lf == NULL:
        return -2 if text.size < most + 2 else -1
    if lf == text.at or (lf - 1)[0] != c"\r":
        return -1
    return lf - text.at - 1


cdef inline int _nats_fields(Span text, Span* out, size_t* used) noexcept nogil:
    """Splits a line: returns the number of fields, and sets its bytes, CRLF included. -1: too many fields, or a control
    character. -2."""
    cdef const char* p = text.at
    cdef size_t at = 0, n = text.size, size
    cdef int count = 0
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
        size = se_token_run(p + at, n - at)
        if size == 0:
            return -1
        out[count] = span_of(p + at, size)
        at += size
        count += 1


cdef inline bint _size_field(Span field, uint64_t* size) noexcept nogil:
    return field.size <= NATS_SIZE_DIGITS and text_parse_uint(field, size)


cdef inline int64_t _message_line(Span text, NatsOp* out) noexcept nogil:
    """Parses `<subject> <sid> [reply] [header bytes] <bytes in all>` CRLF.

    >0: its bytes; the sizes of headers and payload are set, but not the pointers. -1, -2.
    """
    cdef Span field[NATS_FIELDS]
    cdef int sizes = 2 if out.kind == NATS_HMSG else 1
    cdef size_t used
    cdef int count = _nats_fields(text, field, &used)
    cdef uint64_t headers = 0, total
    if count != sizes + 2 and count != sizes + 3:
        return -2 if count == -2 else -1
    if not text_parse_uint(field[1], &out.sid) or not _size_field(field[count - 1], &total):
        return -1
    if sizes == 2 and (not _size_field(field[count - 2], &headers) or headers > total):
        return -1
    out.subject = field[0]
    if count == sizes + 3:
        out.reply = field[2]
    out.headers.size = headers
    out.payload.size = total - headers
    return <int64_t>used


cdef inline int64_t _plain_line(Span text, size_t most, NatsOp* out) noexcept nogil:
    """Parses what follows the verb of any other operation. >0: its bytes, CRLF included. -1, -2."""
    cdef int64_t end = _line_end(text, most)
    if end < 0:
        return end
    text = _trimmed(span_of(text.at, <size_t>end))
    if text.size and out.kind != NATS_INFO and out.kind != NATS_ERR:
        return -1
    if out.kind == NATS_ERR and text.size > 1 and text.at[0] == c"'" and text.at[text.size - 1] == c"'":
        text = span_of(text.at + 1, text.size - 2)
    out.text = text
    return end + 2


cdef inline int64_t nats_proto_control_line(Span input, NatsOp* out) noexcept nogil:
    """Parses the control line that the input starts with. >0: its bytes, CRLF included; all of `out` is set except the
    pointers to headers and payload. -1, -2."""
    cdef size_t verb, most
    cdef int64_t rest
    cdef int kind
    out.subject = out.reply = out.headers = out.payload = out.text = span_none()
    out.sid = 0
    out.kind = 0
    if input.size == 0:
        return -2
    kind = _nats_verb(input, &verb)
    if kind < 0:
        return kind
    if input.size == verb:
        return -2
    out.kind = <uint8_t>kind
    input = span_from(input, verb)
    if not _is_space(input.at[0]) and (input.at[0] != c"\r" or kind == NATS_MSG or kind == NATS_HMSG):
        return -1
    most = (NATS_INFO_MAX if kind == NATS_INFO else NATS_LINE_MAX) - verb
    if kind == NATS_MSG or kind == NATS_HMSG:
        rest = _message_line(span_first(input, most + 2), out)
        if rest == -2 and input.size >= most + 2:
            return -1
    else:
        rest = _plain_line(input, most, out)
    return rest if rest < 0 else rest + <int64_t>verb


cdef inline int64_t nats_proto_parse(Span input, size_t max_payload, NatsOp* out) noexcept nogil:
    """Parses the operation that the input starts with. >0: its bytes; it is complete, and `out` is filled.

    -1: malformed, a control line of more than NATS_LINE_MAX (INFO: NATS_INFO_MAX) bytes, or more than max_payload +
    NATS_SLACK bytes of headers and payload. -2: more bytes are needed.
    """
    cdef int64_t line = nats_proto_control_line(input, out)
    cdef size_t size, need
    if line < 0 or (out.kind != NATS_MSG and out.kind != NATS_HMSG):
        return line
    size = out.headers.size + out.payload.size
    if size > max_payload and size - max_payload > NATS_SLACK:
        return -1
    need = <size_t>line + size + 2
    if input.size < need:
        return -2
    if input.at[need - 2] != c"\r" or input.at[need - 1] != c"\n":
        return -1
    out.payload.at = input.at + line + out.headers.size
    if out.headers.size:
        out.headers.at = input.at + line
    return <int64_t>need


cdef inline size_t nats_proto_need(Span input) noexcept nogil:
    """After a -2: returns the bytes of the whole operation; 0 while its control line is incomplete."""
    cdef NatsOp op
    cdef int64_t line = nats_proto_control_line(input, &op)
    return 0 if line < 0 else <size_t>line + op.headers.size + op.payload.size + 2


# -- reading headers --

cdef inline void _header_from(Span value, const char* end, NatsHeaders* out) noexcept nogil:
    """Takes Signal-From. Bytes after the value, up to `end`, are read as well: SSE2 reads 16 at a time."""
    cdef size_t node_len
    if value.size and ids_peer_run(span_between(value.at, end), &node_len) == value.size:
        out.sender = value


cdef inline void _header_ttl(Span value, NatsHeaders* out) noexcept nogil:
    cdef uint64_t ms
    if text_parse_uint(value, &ms) and ms <= NATS_TTL_MAX_MS:
        out.ttl_ms = <int64_t>ms


cdef inline void _header_take(Span name, Span value, const char* end, NatsHeaders* out) noexcept nogil:
    """Stores a header that the engine knows; the last one, if it is given twice. A line holds no CR, so se_same_name is
    exact."""
    cdef const char* p = name.at
    cdef size_t n = name.size
    if n == 12 and se_same_name(p, b"nats-sub", 8) and se_same_name(p + 8, b"ject", 4):
        out.subject = value
    if n < 10 or not se_same_name(p, b"signal-", 7):
        return
    p += 7
    if n == 11 and se_same_name(p, b"from", 4):
        _header_from(value, end, out)
    elif n == 11 and se_same_name(p, b"type", 4):
        out.type = value
        out.binary = span_is(value, b"binary")
    elif n == 11 and se_same_name(p, b"user", 4):
        if value.size <= USER_MAX and ids_room_valid(value):
            out.user = value
    elif n == 10 and se_same_name(p - 1, b"-ttl", 4):
        _header_ttl(value, out)
    elif n == 14 and se_same_name(p, b"receipt", 7):
        out.receipt = value


cdef inline int _header_line(Span line, const char* end, NatsHeaders* out) noexcept nogil:
    """Parses `Name: value` without its CRLF; the headers end at `end`. 1; -1: it has no name."""
    cdef size_t colon = 11   # where it is after Signal-From, Signal-Type and Signal-User
    if line.size < 12 or line.at[colon] != c":":
        colon = span_until(line, c":")
    if colon == line.size or line.at[0] == c":":
        return -1
    _header_take(span_of(line.at, colon), _trimmed(span_from(line, colon + 1)), end, out)
    return 1


cdef inline int _status_line(Span line, NatsHeaders* out) noexcept nogil:
    """Parses `NATS/1.0`, maybe with a status of three digits and a description. 1; -1: malformed."""
    cdef Span rest
    cdef uint64_t status
    if not span_starts(line, b"NATS/1.0"):
        return -1
    rest = _trimmed(span_from(line, 8))
    if rest.size == 0:
        return 1
    if not _is_space(line.at[8]) or rest.size < 3 or not text_parse_uint(span_of(rest.at, 3), &status):
        return -1
    if rest.size > 3 and not _is_space(rest.at[3]):
        return -1
    out.status = <int>status
    return 1


cdef inline int nats_headers_parse(Span block, NatsHeaders* out) noexcept nogil:
    """Parses headers, the blank line included. 1: `out` is filled. -1: malformed, or an empty block: all are absent.

    Unknown headers are ignored. A Signal-From that is no peer, a Signal-User that fits no room name, and a malformed
    Signal-Ttl count as absent.
    """
    cdef const char* p = block.at
    cdef const char* end = p + block.size
    cdef const char* stop
    cdef Span line
    out.sender = out.user = out.receipt = out.subject = out.type = span_none()
    out.ttl_ms = -1
    out.status = 0
    out.binary = False
    while p < end:
        stop = <const char*>memchr(p, c"\r", <size_t>(end - p))
        if stop == NULL or end - stop < 2 or stop[1] != c"\n":
            return -1
        line = span_between(p, stop)
        if p == block.at:
            if _status_line(line, out) < 0:
                return -1
        elif line.size == 0:
            return 1 if end - stop == 2 else -1
        elif _header_line(line, end, out) < 0:
            return -1
        p = stop + 2
    return -1
