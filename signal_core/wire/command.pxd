"""Parses the head line of a client's message (docs/protocol.md, §1 and §2). Pure."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset
from signal_core.base.span cimport Span, span_first, span_from, span_is, span_none, span_of, span_starts, span_until
from signal_core.base.sys cimport SE_RARE, SE_STATIC_ASSERT
from signal_core.base.text cimport text_parse_uint
from signal_core.wire.ids cimport ROOM_MAX, ids_peer_run, ids_ref_valid, ids_room_valid, ids_split_peer, se_token_run

cdef enum:
    VERB_NONE = 0
    VERB_TO = 1
    VERB_PUB = 2
    VERB_SUB = 3
    VERB_UNSUB = 4
    VERB_PING = 5
    VERB_AUTH = 6

    HEAD_MAX = 512            # bytes of a head, its LF not counted
    HEAD_MAX_AUTH = 16384     # ... of AUTH: as long as the default of max-head, so that it can renew any token
    PING_TOKEN_MAX = 507      # bytes of PING's token: `PING ` and it fill a head
    TTL_MAX_MS = 86400000     # a day

    OPTION_REF = 1
    OPTION_RE = 2
    OPTION_TTL = 4
    OPTION_PRESENCE = 8

cdef struct Head:             # spans point into the parsed message; absent ones are NULL with a size of 0
    Span arg                  # 16  peer, `@user`, room, or the token of PING or AUTH
    Span ref                  # 16  to be answered with OK or ERR
    Span re                   # 16  ref of the message that this one answers
    Span payload              # 16  what follows the first LF; never NULL in a good head
    int64_t ttl_ms            # 8  1..TTL_MAX_MS; -1: none
    uint32_t node_len         # 4  TO a peer: bytes of its node, at the start of arg; else 0
    uint8_t verb              # 1  VERB_*
    uint8_t presence          # 1  SUB with presence
    uint8_t has_payload       # 1  the verb takes a payload, maybe empty: TO, PUB
    uint8_t spare[1]          # 1  to a multiple of 8


cdef inline void head_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(Head) == 80)


cdef inline uint8_t _head_verb(Span word) noexcept nogil:
    if span_is(word, b"TO"):
        return VERB_TO
    if span_is(word, b"PUB"):
        return VERB_PUB
    if span_is(word, b"SUB"):
        return VERB_SUB
    if span_is(word, b"PING"):
        return VERB_PING
    if span_is(word, b"UNSUB"):
        return VERB_UNSUB
    if span_is(word, b"AUTH"):
        return VERB_AUTH
    return VERB_NONE


cdef inline uint32_t _head_allowed(const Head* head) noexcept nogil:
    """Returns the options that the verb takes, OPTION_*."""
    if head.node_len:
        return OPTION_REF | OPTION_TTL | OPTION_RE
    if head.verb == VERB_TO or head.verb == VERB_PUB:
        return OPTION_REF | OPTION_TTL
    if head.verb == VERB_SUB:
        return OPTION_REF | OPTION_PRESENCE
    return OPTION_REF if head.verb == VERB_UNSUB or head.verb == VERB_AUTH else 0


cdef inline bint _token_valid(Span token, size_t most) noexcept nogil:
    """Whether it is 1..most visible ASCII characters."""
    cdef size_t i
    if token.size == 0 or token.size > most:
        return False
    for i in range(token.size):
        if token.at[i] < c"!" or token.at[i] > c"~":
            return False
    return True


cdef inline bint _head_argument_valid(Head* head) noexcept nogil:
    """Whether arg is what the verb takes; sets node_len if it is a peer."""
    cdef Span arg = head.arg
    cdef size_t node_len = 0
    if head.verb == VERB_PING:
        return _token_valid(arg, PING_TOKEN_MAX)
    if head.verb == VERB_AUTH:
        return _token_valid(arg, HEAD_MAX_AUTH)
    if arg.size == 0 or arg.size > ROOM_MAX:
        return False
    if head.verb != VERB_TO:
        return arg.at[0] != c"$" and arg.at[0] != c"@" and ids_room_valid(arg)
    if arg.at[0] == c"@":
        return ids_room_valid(span_from(arg, 1))
    if ids_split_peer(arg, &node_len) < 0:
        return False
    head.node_len = <uint32_t>node_len
    return True


cdef inline int64_t _ttl_parse(Span text) noexcept nogil:
    """Returns 1..TTL_MAX_MS, written without leading zeros; -1: malformed."""
    cdef uint64_t ms
    if text.size == 0 or text.size > 8 or text.at[0] == c"0" or not text_parse_uint(text, &ms) or ms > TTL_MAX_MS:
        return -1
    return <int64_t>ms


cdef inline uint32_t _head_option(Span word, Head* out) noexcept nogil:
    """Stores an option; returns its OPTION_*, or 0 if it is unknown or its value is bad."""
    if span_starts(word, b"ref="):
        out.ref = span_from(word, 4)
        return OPTION_REF if ids_ref_valid(out.ref) else 0
    if span_starts(word, b"re="):
        out.re = span_from(word, 3)
        return OPTION_RE if ids_ref_valid(out.re) else 0
    if span_starts(word, b"ttl="):
        out.ttl_ms = _ttl_parse(span_from(word, 4))
        return OPTION_TTL if out.ttl_ms > 0 else 0
    if span_is(word, b"presence"):
        out.presence = 1
        return OPTION_PRESENCE
    return 0


cdef inline void _head_clear(Head* out) noexcept nogil:
    memset(out, 0, sizeof(Head))
    out.ttl_ms = -1


cdef inline void _ref_seek(Span text, bint cut, Head* out) noexcept nogil:
    """Takes the verb of a malformed head, and its ref if there is exactly one `ref=` and it is well-formed.

    The first argument of a known verb is no option. `cut`: the head goes on, so its last word may be incomplete.
    """
    cdef size_t size = span_until(text, c" ")
    cdef uint32_t nth = 0, refs = 0
    cdef Span word
    out.verb = _head_verb(span_of(text.at, size))
    while size < text.size:
        text = span_from(text, size + 1)
        size = span_until(text, c" ")
        word = span_of(text.at, size)
        nth += 1
        if not span_starts(word, b"ref=") or (nth == 1 and out.verb != VERB_NONE):
            continue
        refs += 1
        if refs == 1 and ids_ref_valid(span_from(word, 4)) and not (cut and size == text.size):
            out.ref = span_from(word, 4)
    if refs > 1:
        out.ref = span_none()


cdef inline int _head_bad(Span message, Head* out) noexcept nogil:
    """Fills `out` as head_parse does for -1, and returns -1."""
    cdef Span looked = span_first(message, HEAD_MAX + 1)
    cdef size_t lf
    _head_clear(out)
    if message.size:
        lf = span_until(looked, c"\n")
        _ref_seek(span_of(message.at, lf), lf == looked.size and looked.size < message.size, out)
    return -1


cdef inline int64_t _head_options(Span text, size_t at, Head* out) noexcept nogil:
    """Parses ` option ...` from byte `at` up to LF or the end. Returns the bytes of the whole head; -1: malformed.

    A word ends at a space or a control character; _head_option checks its other characters.
    """
    cdef const char* p = text.at
    cdef uint32_t option, allowed = _head_allowed(out)
    cdef size_t word
    while at < text.size and p[at] == c" ":
        at += 1
        word = se_token_run(p + at, text.size - at)
        option = _head_option(span_of(p + at, word), out) & allowed
        if option == 0:
            return -1
        allowed ^= option   # once each
        at += word
    return <int64_t>at if at == text.size or p[at] == c"\n" else -1


cdef inline int64_t _head_line(Span text, Head* out) noexcept nogil:
    """Parses the head that the text starts with. Returns its bytes without LF; -1: malformed. `out` must be clear."""
    cdef size_t word = se_token_run(text.at, text.size)
    cdef Span rest
    out.verb = _head_verb(span_of(text.at, word))
    if out.verb == VERB_NONE:
        return -1
    out.has_payload = out.verb == VERB_TO or out.verb == VERB_PUB
    if word == text.size or text.at[word] != c" ":
        return _head_options(text, word, out) if out.verb == VERB_PING else -1
    rest = span_from(text, word + 1)
    out.arg = span_of(rest.at, se_token_run(rest.at, rest.size))
    if not _head_argument_valid(out):
        return -1
    return _head_options(text, word + 1 + out.arg.size, out)


cdef inline int64_t _head_line_to(Span text, Head* out) noexcept nogil:
    """As _head_line, for `TO <peer>` only, the most frequent head. 0: it is another one, and `out` is unchanged."""
    cdef size_t node_len, size
    if text.size < 4 or not span_starts(text, b"TO "):
        return 0
    size = ids_peer_run(span_from(text, 3), &node_len)
    if size == 0:
        return 0
    out.verb = VERB_TO
    out.has_payload = 1
    out.arg = span_of(text.at + 3, size)
    out.node_len = <uint32_t>node_len
    size += 3
    if size == text.size or text.at[size] == c"\n":
        return <int64_t>size
    return _head_options(text, size, out)


cdef inline int head_parse(Span message, Head* out) noexcept nogil:
    """Parses a whole message. 1: `out` is filled.

    -1: bad-request; only verb and ref of `out` are set, the ref if exactly one was found and is well-formed.
    """
    cdef size_t most = HEAD_MAX
    cdef int64_t size
    _head_clear(out)
    size = _head_line_to(span_first(message, HEAD_MAX + 1), out)
    if size == 0:
        if SE_RARE(message.size > HEAD_MAX) and span_starts(message, b"AUTH "):
            most = HEAD_MAX_AUTH
        size = _head_line(span_first(message, most + 1), out)
    if SE_RARE(size < 0 or size > <int64_t>most):
        return _head_bad(message, out)
    if <size_t>size < message.size:
        size += 1   # LF
    out.payload = span_from(message, <size_t>size)
    if SE_RARE(out.payload.size and not out.has_payload):
        return _head_bad(message, out)
    return 1
