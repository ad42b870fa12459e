"""Counts messages that did not fit a loop's mailbox, by room and by peer, for drop notices to their receivers.

Each loop has one table. Other threads add to it under a spin lock, on this rare path only; the loop empties it and
sends the notices (delivery/drop_notice.pxd). Messages that do not fit the table either are counted in `gaps_untold`.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from signal_core.base.limits cimport MISSED_MOST, MISSED_SLOTS
from signal_core.base.sys cimport se_load_seqcst, se_lock, se_store_seqcst, se_unlock

cdef struct Missing:
    uint64_t key              # 8  serial of the room, or id of the peer; 0: free
    uint64_t hash             # 8  of the room's name; 0: a peer
    uint64_t count            # 8  messages

cdef struct Missed:
    uint64_t lock             # 8
    uint64_t used             # 8  atomic: slots in use
    Missing slots[MISSED_SLOTS]  # 24576  open addressing by key


cdef inline bint missed_add(Missed* missed, uint64_t key, uint64_t hash, uint64_t count) noexcept nogil:
    """Adds `count` messages for a room or a peer. Any thread. False: the table is full."""
    cdef uint64_t i = (key ^ (key >> 20)) % MISSED_SLOTS
    cdef bint noted = True
    se_lock(&missed.lock)
    while missed.slots[i].key and (missed.slots[i].key != key or missed.slots[i].hash != hash):
        i = (i + 1) % MISSED_SLOTS
    if missed.slots[i].key:
        missed.slots[i].count += count
    elif missed.used < MISSED_MOST:
        missed.slots[i] = Missing(key=key, hash=hash, count=count)
        se_store_seqcst(&missed.used, missed.used + 1)
    else:
        noted = False
    se_unlock(&missed.lock)
    return noted


cdef inline bint missed_any(const Missed* missed) noexcept nogil:
    return se_load_seqcst(&missed.used) != 0


cdef inline uint32_t missed_take(Missed* missed, Missing* out) noexcept nogil:
    """Moves all entries to `out`, at most MISSED_MOST; returns how many. The loop only."""
    cdef uint32_t n = 0
    cdef int i
    se_lock(&missed.lock)
    for i in range(MISSED_SLOTS):
        if missed.slots[i].key:
            out[n] = missed.slots[i]
            n += 1
    memset(missed.slots, 0, sizeof(missed.slots))
    se_store_seqcst(&missed.used, 0)
    se_unlock(&missed.lock)
    return n
