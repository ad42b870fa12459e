"""The head line of a client's message (signal.v1 §1, §2), without I/O."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memchr, memcmp, memset
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
    HEAD_MAX_AUTH = 16384     # ... of AUTH: the default of max-head, so it can carry any token that a handshake can
    PING_TOKEN_MAX = 507      # bytes of PING's token: what a head of 512 holds
    TTL_MAX_MS = 86400000     # a day

    OPTION_REF = 1
    OPTION_RE = 2
    OPTION_TTL = 4
    OPTION_PRESENCE = 8

cdef struct Head:             # pointers point into the parsed message; NULL with a length of 0
    const char* arg           # 8  peer, `@user`, room, PING's token, or the token of AUTH
    const char* ref           # 8  to be answered with OK or ERR
    const char* re            # 8  ref of the message that this one answers
    const char* payload       # 8  what follows the first LF; never NULL in a good head
    size_t payload_len        # 8
    int64_t ttl_ms            # 8  1..TTL_MAX_MS; -1: none was given
    uint32_t arg_len          # 4
    uint32_t node_len         # 4  TO a peer: bytes of its node, at the start of arg; else 0
    uint32_t ref_len          # 4
    uint32_t re_len           # 4
    uint8_t verb              # 1  VERB_*
    uint8_t presence          # 1  SUB: tell who is there
    uint8_t has_payload       # 1  the verb carries one, maybe empty: TO, PUB
    uint8_t spare[5]          # 5  to a multiple of 8


cdef inline void head_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(Head) == 72)


cdef inline uint8_t _head_verb(const char* p, size_t n) noexcept nogil:
    if n == 2 and memcmp(p, b"TO", 2) == 0:
        return VERB_TO
    if n == 3 and memcmp(p, b"PUB", 3) == 0:
        return VERB_PUB
    if n == 3 and memcmp(p, b"SUB", 3) == 0:
        return VERB_SUB
    if n == 4 and memcmp(p, b"PING", 4) == 0:
        return VERB_PING
    if n == 5 and memcmp(p, b"UNSUB", 5) == 0:
        return VERB_UNSUB
    if n == 4 and memcmp(p, b"AUTH", 4) == 0:
        return VERB_AUTH
    return VERB_NONE


cdef inline uint32_t _head_allowed(const Head* head) noexcept nogil:
    """The options that its verb knows, OPTION_*."""
    if head.node_len:
        return OPTION_REF | OPTION_TTL | OPTION_RE
    if head.verb == VERB_TO or head.verb == VERB_PUB:
        return OPTION_REF | OPTION_TTL
    if head.verb == VERB_SUB:
        return OPTION_REF | OPTION_PRESENCE
    return OPTION_REF if head.verb == VERB_UNSUB or head.verb == VERB_AUTH else 0


cdef inline bint _token_valid(const char* p, size_t n, size_t most) noexcept nogil:
    """1..most printable ASCII characters but the space."""
    cdef size_t i
    if n == 0 or n > most:
        return False
    for i in range(n):
        if p[i] < c"!" or p[i] > c"~":
            return False
    return True


cdef inline bint _head_argument_valid(Head* head) noexcept nogil:
    """Judges arg as its verb asks; sets node_len where it is a peer."""
    cdef const char* arg = head.arg
    cdef size_t n = head.arg_len, node_len = 0
    if head.verb == VERB_PING:
        return _token_valid(arg, n, PING_TOKEN_MAX)
    if head.verb == VERB_AUTH:
        return _token_valid(arg, n, HEAD_MAX_AUTH)
    if n == 0 or n > ROOM_MAX:
        return False
    if head.verb != VERB_TO:
        return arg[0] != c"$" and arg[0] != c"@" and ids_room_valid(arg, n)
    if arg[0] == c"@":
        return ids_room_valid(arg + 1, n - 1)
    if ids_split_peer(arg, n, &node_len) < 0:
        return False
    head.node_len = <uint32_t>node_len
    return True


cdef inline int64_t _ttl_parse(const char* p, size_t n) noexcept nogil:
    """1..TTL_MAX_MS without leading zeros; -1: malformed."""
    cdef uint64_t ms
    if n == 0 or n > 8 or p[0] == c"0" or not text_parse_uint(p, n, &ms) or ms > TTL_MAX_MS:
        return -1
    return <int64_t>ms


cdef inline uint32_t _head_option(const char* p, size_t n, Head* out) noexcept nogil:
    """Takes one option; returns which it is, OPTION_*, or 0 where it is unknown or its value is bad."""
    if n > 4 and memcmp(p, b"ref=", 4) == 0:
        out.ref = p + 4
        out.ref_len = <uint32_t>(n - 4)
        return OPTION_REF if ids_ref_valid(p + 4, n - 4) else 0
    if n > 3 and memcmp(p, b"re=", 3) == 0:
        out.re = p + 3
        out.re_len = <uint32_t>(n - 3)
        return OPTION_RE if ids_ref_valid(p + 3, n - 3) else 0
    if n > 4 and memcmp(p, b"ttl=", 4) == 0:
        out.ttl_ms = _ttl_parse(p + 4, n - 4)
        return OPTION_TTL if out.ttl_ms > 0 else 0
    if n == 8 and memcmp(p, b"presence", 8) == 0:
        out.presence = 1
        return OPTION_PRESENCE
    return 0


cdef inline size_t _word_size(const char* p, size_t n) noexcept nogil:
    """Bytes before the first space, or all."""
    cdef const char* space = <const char*>memchr(p, c" ", n)
    return n if space == NULL else <size_t>(space - p)


cdef inline void _head_clear(Head* out) noexcept nogil:
    memset(out, 0, sizeof(Head))
    out.ttl_ms = -1


cdef inline void _ref_seek(const char* p, size_t n, bint cut, Head* out) noexcept nogil:
    """Keeps the verb of a malformed head, and its ref if it has exactly one `ref=` and that is valid.

    The first argument of a known verb is no option. `cut`: the head goes on behind `n`, maybe within its last word.
    """
    cdef size_t word = _word_size(p, n)
    cdef uint32_t nth = 0, refs = 0
    out.verb = _head_verb(p, word)
    while word < n:
        p += word + 1
        n -= word + 1
        word = _word_size(p, n)
        nth += 1
        if word < 4 or memcmp(p, b"ref=", 4) != 0 or (nth == 1 and out.verb != VERB_NONE):
            continue
        refs += 1
        if refs == 1 and ids_ref_valid(p + 4, word - 4) and not (cut and word == n):
            out.ref = p + 4
            out.ref_len = <uint32_t>(word - 4)
    if refs > 1:
        out.ref = NULL
        out.ref_len = 0


cdef inline int _head_bad(const char* buf, size_t n, Head* out) noexcept nogil:
    """Fills `out` as head_parse does for -1, and returns that."""
    cdef size_t size = n if n <= HEAD_MAX else HEAD_MAX + 1
    cdef const char* lf
    _head_clear(out)
    if n:
        lf = <const char*>memchr(buf, c"\n", size)
        if lf != NULL:
            n = size = <size_t>(lf - buf)
        _ref_seek(buf, size, size < n, out)
    return -1


cdef inline int64_t _head_options(const char* p, size_t n, size_t at, Head* out) noexcept nogil:
    """Reads ` option ...` from p[at] up to LF or the end; bytes of the whole head, or -1 where malformed.

    A word ends at a space or a control character; what else it holds is judged by those who take it.
    """
    cdef uint32_t option, allowed = _head_allowed(out)
    cdef size_t word
    while at < n and p[at] == c" ":
        at += 1
        word = se_token_run(p + at, n - at)
        option = _head_option(p + at, word, out) & allowed
        if option == 0:
            return -1
        allowed ^= option   # once each
        at += word
    return <int64_t>at if at == n or p[at] == c"\n" else -1


cdef inline int64_t _head_line(const char* p, size_t n, Head* out) noexcept nogil:
    """Bytes of the head that p starts with, its LF not counted, or -1 where malformed. `out` is clear."""
    cdef size_t word = se_token_run(p, n)
    out.verb = _head_verb(p, word)
    if out.verb == VERB_NONE:
        return -1
    out.has_payload = out.verb == VERB_TO or out.verb == VERB_PUB
    if word == n or p[word] != c" ":
        return _head_options(p, n, word, out) if out.verb == VERB_PING else -1
    out.arg = p + word + 1
    out.arg_len = <uint32_t>se_token_run(out.arg, n - word - 1)
    if not _head_argument_valid(out):
        return -1
    return _head_options(p, n, word + 1 + out.arg_len, out)


cdef inline int64_t _head_line_to(const char* p, size_t n, Head* out) noexcept nogil:
    """As _head_line, for `TO <peer>` alone, the most frequent. 0: it is another message, `out` is unchanged."""
    cdef size_t node_len, size
    if n < 4 or memcmp(p, b"TO ", 3) != 0:
        return 0
    size = ids_peer_run(p + 3, n - 3, &node_len)
    if size == 0:
        return 0
    out.verb = VERB_TO
    out.has_payload = 1
    out.arg = p + 3
    out.arg_len = <uint32_t>size
    out.node_len = <uint32_t>node_len
    size += 3
    if size == n or p[size] == c"\n":
        return <int64_t>size
    return _head_options(p, n, size, out)


cdef inline int head_parse(const char* buf, size_t n, Head* out) noexcept nogil:
    """Reads a whole message of `n` bytes. 1: `out` is filled.

    -1: bad-request; of `out` only verb and ref count: the ref where a single well-formed one could be read.
    """
    cdef size_t most = HEAD_MAX
    cdef size_t look = n if n <= HEAD_MAX else HEAD_MAX + 1
    cdef int64_t size
    _head_clear(out)
    size = _head_line_to(buf, look, out)
    if size == 0:
        if SE_RARE(n > HEAD_MAX) and memcmp(buf, b"AUTH ", 5) == 0:
            most = HEAD_MAX_AUTH
            look = n if n <= most else most + 1
        size = _head_line(buf, look, out)
    if SE_RARE(size < 0 or size > <int64_t>most):
        return _head_bad(buf, n, out)
    if <size_t>size < n:
        size += 1   # LF
    out.payload = buf + size
    out.payload_len = n - <size_t>size
    if SE_RARE(out.payload_len and not out.has_payload):
        return _head_bad(buf, n, out)
    return 1
