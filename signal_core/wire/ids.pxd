"""Ids of connections and their text, and the names of signal.v1: peers, rooms, refs. Pure.

An id names a connection of this process: loop (8 bits) << 56 | slot (24) << 32 | tag (32). Its text is 13 characters
of base32, the first with 4 bits and the others with 5, so every id has one spelling.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.span cimport Span, span_from

cdef extern from "se_text.h" nogil:
    enum:
        SE_ALNUM
        SE_NOT_BASE32
        SE_ROOM
    const uint8_t se_class[256]
    const char se_base32_text[33]
    const uint8_t se_base32_value[256]
    size_t se_lower_run(const char* p, size_t n)
    size_t se_token_run(const char* p, size_t n)

cdef enum:
    # characters
    LOCAL_TEXT = 13     # of an id
    LOCAL_MAX = 32      # of an address after its dot, on any node, at most
    NODE_MAX = 16       # of a node's name, at most
    PEER_TEXT = NODE_MAX + 1 + LOCAL_TEXT  # of the address of a peer on this node, at most
    ROOM_MAX = 128      # of a room's name, `@` included, at most
    USER_MAX = ROOM_MAX - 1
    REF_MAX = 16


cdef inline uint64_t ids_make(uint32_t loop, uint32_t slot, uint32_t tag) noexcept nogil:
    """Returns the id; `loop` is below 2**8, `slot` below 2**24."""
    return (<uint64_t>loop << 56) | (<uint64_t>slot << 32) | tag


cdef inline uint32_t ids_loop(uint64_t id) noexcept nogil:
    """Returns the index of an id's loop; LOCAL_PEER_LOOP for the local peer."""
    return <uint32_t>(id >> 56)


cdef inline uint32_t ids_slot(uint64_t id) noexcept nogil:
    return <uint32_t>(id >> 32) & 0xffffff


cdef inline uint32_t ids_tag(uint64_t id) noexcept nogil:
    return <uint32_t>id


cdef inline char* ids_put_local(char* out, uint64_t id) noexcept nogil:
    """Writes the text of an id, LOCAL_TEXT characters; returns its end."""
    cdef int i
    for i in range(LOCAL_TEXT):
        out[i] = se_base32_text[(id >> (60 - 5 * i)) & 31]
    return out + LOCAL_TEXT


cdef inline int ids_parse_local(Span text, uint64_t* id) noexcept nogil:
    """Parses what ids_put_local writes. 1: `id` is set. -1: anything else, so no connection of this process."""
    cdef uint64_t value
    cdef uint8_t c, seen
    cdef int i
    if text.size != LOCAL_TEXT:
        return -1
    value = seen = se_base32_value[<uint8_t>text.at[0]]
    if value > 15:
        return -1
    for i in range(1, LOCAL_TEXT):
        c = se_base32_value[<uint8_t>text.at[i]]
        seen |= c
        value = (value << 5) | c
    if seen & SE_NOT_BASE32:
        return -1
    id[0] = value
    return 1


# -- names --

cdef inline size_t ids_node_run(Span text) noexcept nogil:
    """Returns the length of the node's name that a text starts with, at most NODE_MAX; 0: none."""
    return se_lower_run(text.at, text.size if text.size < NODE_MAX else NODE_MAX)


cdef inline size_t ids_peer_run(Span text, size_t* node_len) noexcept nogil:
    """Returns the length of the `<node>.<local>` that a text starts with, 0 if none; sets the length of its node."""
    cdef size_t node = ids_node_run(text)
    cdef size_t local
    if node == 0 or node == text.size or text.at[node] != c".":
        return 0
    text = span_from(text, node + 1)
    local = se_lower_run(text.at, text.size if text.size < LOCAL_MAX else LOCAL_MAX)
    node_len[0] = node
    return node + 1 + local if local else 0


cdef inline int ids_split_peer(Span text, size_t* node_len) noexcept nogil:
    """1: the whole text is `<node>.<local>`, and the length of its node is set. -1: it is not."""
    return 1 if text.size and ids_peer_run(text, node_len) == text.size else -1


cdef inline bint ids_room_valid(Span name) noexcept nogil:
    """Whether it is 1..ROOM_MAX visible ASCII characters other than `*` and `>`, without an empty token between dots.
    Does not check for a leading `$` or `@`."""
    cdef size_t i
    cdef char last = c"."
    if name.size > ROOM_MAX:
        return False
    for i in range(name.size):
        if not se_class[<uint8_t>name.at[i]] & SE_ROOM or (name.at[i] == c"." and last == c"."):
            return False
        last = name.at[i]
    return last != c"."


cdef inline bint ids_ref_valid(Span ref) noexcept nogil:
    """Whether it is 1..REF_MAX characters of A-Za-z0-9."""
    cdef size_t i
    if ref.size == 0 or ref.size > REF_MAX:
        return False
    for i in range(ref.size):
        if not se_class[<uint8_t>ref.at[i]] & SE_ALNUM:
            return False
    return True
