"""The ledger of messages: counts each message as routed or refused."""

from libc.stdint cimport uint8_t
from signal_core.base.counters cimport (
    C_ACCEPTED, C_REFUSED_BAD_REQUEST, C_REFUSED_DENIED, C_REFUSED_NO_SUCH_PEER, C_REFUSED_RATE, C_REFUSED_SLOW_PEER,
    C_REFUSED_TOO_LARGE, C_REFUSED_UNAVAILABLE, C_ROUTED,
)
from signal_core.tables.codes cimport (
    CODE_BAD_REQUEST, CODE_DENIED, CODE_NO_SUCH_PEER, CODE_OK, CODE_RATE, CODE_SLOW_PEER, CODE_TOO_LARGE,
)
from signal_core.tables.state cimport Loop


cdef inline int _refused_counter(uint8_t code) noexcept nogil:
    if code == CODE_BAD_REQUEST:
        return C_REFUSED_BAD_REQUEST
    if code == CODE_NO_SUCH_PEER:
        return C_REFUSED_NO_SUCH_PEER
    if code == CODE_SLOW_PEER:
        return C_REFUSED_SLOW_PEER
    if code == CODE_TOO_LARGE:
        return C_REFUSED_TOO_LARGE
    if code == CODE_DENIED:
        return C_REFUSED_DENIED
    return C_REFUSED_RATE if code == CODE_RATE else C_REFUSED_UNAVAILABLE


cdef inline void ledger_count(Loop* loop, uint8_t code) noexcept nogil:
    """Counts a message as accepted, and as routed (CODE_OK) or refused for the reason `code`."""
    loop.n[C_ACCEPTED] += 1
    loop.n[C_ROUTED if code == CODE_OK else _refused_counter(code)] += 1
