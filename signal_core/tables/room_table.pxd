"""The rooms of the process: which loops have members of which room.

Written at a loop's first join and last leave, under a spin lock of one of 1024 stripes; read by publishers without any.
What a reader may still hold is freed later: each thread writes down the epoch that it last began to read in
(its `seen`),
and a retired piece goes when every thread has begun anew since, or sleeps.
An entry is taken out by the link's loop only, which is told by KIND_SYNC whenever a room's interest came or went.
"""

from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from signal_core.base.limits cimport CACHE_LINE_WORDS
from signal_core.base.sys cimport (
    SE_STATIC_ASSERT, se_add_relaxed, se_add_seqcst, se_and16_seqcst, se_load16_seqcst, se_load8_acquire,
    se_load_seqcst, se_lock, se_or16_seqcst, se_pointer_acquire, se_pointer_release, se_siphash13, se_store_seqcst,
    se_sub_relaxed, se_unlock,
)

cdef enum:
    STRIPE_SHIFT = 22         # of a hash: its upper bits name the stripe
    STRIPES = 1 << 10         # so many that one holds a thousand of a million rooms: it grows under its lock
    SLOTS_AT_FIRST = 8
    ENTRY_HEAD = 33           # bytes of a RoomEntry before its name
    WORD_SHIFT = 4            # loops of a word of its bitmap: so small that `@` and a UUID fit malloc's 72 bytes
    WORD_LOOPS = 1 << 4

    # Audience.put_off
    PUT_OFF_QUESTION = 1      # asked too often in a tick
    PUT_OFF_SUB = 2           # NATS reads too slowly for the SUB,
    PUT_OFF_NODES = 4         # ... or did not take the question to other nodes

cdef struct Retired:      # first in whatever is freed late
    Retired* next         # 8
    uint64_t epoch        # 8  free it when every reader has seen this

cdef struct Audience:     # who hears of a room's comings and goings; made at need, lives as long as the room's entry
    Retired retired       # 16
    void* entry           # 8  RoomEntry
    uint64_t generation   # 8  atomic: number of the next question who is there; written by the link's loop
    uint64_t asking       # 8  atomic: the number + 1 that a KIND_ASK under way has; 0: none is
    uint64_t watching     # 8  atomic: loops with watchers, the service among them; written under the stripe's lock
    uint32_t index        # 4  the link's: its index among those that NATS tells us of + 1; 0: none
    uint32_t asked        # 4  the link's: tick of the last question
    uint16_t asks         # 2  the link's: questions within that tick
    uint16_t put_off      # 2  the link's: PUT_OFF_*, what waits for a tick to come
    uint32_t nnodes       # 4  the link's: nodes heard to have members
    uint16_t* nodes       # 8  the link's: their indices in Link.nodes
    uint32_t linked       # 4  the link's: number of the connection that the next three are of
    uint32_t ping         # 4  ... the PING whose answer confirms the SUB
    uint8_t sub_state     # 1  ... SUB_* (sub_queue.pxd)
    uint8_t late          # 1  ... it was SUB_OVER: its watchers ask anew
    uint8_t spare[2]      # 2
    uint32_t nodes_size   # 4  capacity of `nodes`
    uint64_t counts[1]    # and on, atomic: watchers of each loop, then 1 where the service watches

cdef struct RoomEntry:    # one malloc: a user's room has little else, and millions may have one
    # A Retired lies over these once it is retired: a reader without the lock looks at none of them.
    uint32_t sub          # 4  the link's: its index in Link.subs + 1; 0: none
    uint32_t ping         # 4  the link's: the PING whose answer confirms the SUB
    uint32_t users        # 4  atomic: connections of the user whose room it is, where they are bounded
    uint8_t dirty         # 1  a KIND_SYNC for it is under way; under the stripe's lock
    uint8_t denied        # 1  the link's: NATS does not allow the SUB
    uint8_t confirmed     # 1  atomic: NATS has answered a PING after our SUB
    uint8_t sub_state     # 1  the link's: SUB_* (sub_queue.pxd)
    # These stay until it is freed.
    uint32_t hash         # 4
    uint32_t serial       # 4  never 0; with the hash not given twice within four billion rooms
    void* audience        # 8  Audience; NULL: it never had a watcher. Set once, read without the lock
    uint8_t size          # 1
    char name[7]          # and on; from the next even address RoomTable.words words, room_entry_loops

cdef struct RoomSlots:    # open addressing; a removed entry leaves GONE
    Retired retired       # 16
    uint64_t mask         # 8
    void* slot[1]         # and on

cdef struct Stripe:       # one cache line
    uint64_t lock         # 8
    void* slots           # 8  RoomSlots; read without the lock
    uint64_t filled       # 8  slots with an entry or GONE
    uint64_t live         # 8
    uint64_t line[CACHE_LINE_WORDS - 4]  # 32

cdef struct RoomTable:
    Stripe stripes[STRIPES]  # 65536
    uint64_t key[2]       # 16 of the hash
    uint64_t words        # 8  words of a room's bitmap of loops
    uint64_t serial       # 8  last one given
    uint64_t epoch        # 8
    uint64_t lock         # 8  of the list of retired pieces
    Retired* retired      # 8  the piece retired first
    Retired* newest       # 8  and last
    uint64_t waiting      # 8  atomic: pieces of the list


cdef inline void room_table_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(RoomEntry) == ENTRY_HEAD + 7)
    SE_STATIC_ASSERT(sizeof(Retired) == 16)  # RoomEntry up to `hash`
    SE_STATIC_ASSERT(sizeof(Audience) == 96)


cdef inline void* _slot_gone() noexcept nogil:
    return <void*>1


cdef inline uint64_t room_table_hash(const RoomTable* table, const char* name, size_t n) noexcept nogil:
    """32 bits, never 0."""
    cdef uint32_t hash = <uint32_t>se_siphash13(table.key, name, n)
    return hash if hash else 1


cdef inline uint16_t* room_entry_loops(RoomEntry* entry) noexcept nogil:
    """Bit i of words of WORD_LOOPS: loop i has members; after the loops, the service. Atomic."""
    return <uint16_t*>((<size_t>entry.name + entry.size + 1) & ~<size_t>1)


cdef inline RoomSlots* _slots_new(uint64_t count) noexcept nogil:
    cdef RoomSlots* slots = <RoomSlots*>calloc(1, sizeof(RoomSlots) + count * sizeof(void*))
    if slots != NULL:
        slots.mask = count - 1
    return slots


cdef inline bint room_table_init(RoomTable* table, uint32_t loops) noexcept nogil:
    """On zeroed memory with the key set, for so many loops and the service. False without memory."""
    cdef int i
    table.epoch = 1
    table.words = loops // WORD_LOOPS + 1
    for i in range(STRIPES):
        table.stripes[i].slots = _slots_new(SLOTS_AT_FIRST)
        if table.stripes[i].slots == NULL:
            return False
    return True


cdef inline Stripe* _stripe_of(RoomTable* table, uint64_t hash) noexcept nogil:
    return &table.stripes[hash >> STRIPE_SHIFT]


cdef inline RoomEntry* _slots_find(RoomSlots* slots, const char* name, size_t n, uint64_t hash) noexcept nogil:
    cdef uint64_t i = hash & slots.mask
    cdef RoomEntry* entry
    while True:
        entry = <RoomEntry*>se_pointer_acquire(&slots.slot[i])
        if entry == NULL:
            return NULL
        if entry != _slot_gone() and entry.hash == hash and entry.size == n and memcmp(entry.name, name, n) == 0:
            return entry
        i = (i + 1) & slots.mask


cdef inline RoomEntry* room_table_find(RoomTable* table, const char* name, size_t n, uint64_t hash) noexcept nogil:
    """Without a lock; valid until the calling thread sees another epoch or sleeps."""
    cdef Stripe* stripe = _stripe_of(table, hash)
    return _slots_find(<RoomSlots*>se_pointer_acquire(&stripe.slots), name, n, hash)


cdef inline void _table_retire(RoomTable* table, Retired* piece) noexcept nogil:
    """After the piece can no longer be found."""
    piece.next = NULL
    piece.epoch = se_add_seqcst(&table.epoch, 1) + 1
    se_lock(&table.lock)
    if table.retired == NULL:
        table.retired = piece
    else:
        table.newest.next = piece
    table.newest = piece
    se_add_relaxed(&table.waiting, 1)
    se_unlock(&table.lock)


cdef inline Retired* _table_unretire(RoomTable* table, uint64_t oldest) noexcept nogil:
    """The piece that was retired first, taken off the list; NULL where a reader may still hold it."""
    cdef Retired* piece
    se_lock(&table.lock)
    piece = table.retired
    if piece != NULL and piece.epoch <= oldest:
        table.retired = piece.next
        se_sub_relaxed(&table.waiting, 1)
    else:
        piece = NULL
    se_unlock(&table.lock)
    return piece


cdef inline bint room_table_reclaim(RoomTable* table, uint64_t oldest, uint32_t most) noexcept nogil:
    """Frees what was retired by the epoch that every reader has seen, `most` pieces of it. Whether that was all."""
    cdef Retired* piece
    while most:
        piece = _table_unretire(table, oldest)
        if piece == NULL:
            return True
        free(piece)
        most -= 1
    return False


cdef inline void _slots_put(RoomSlots* slots, RoomEntry* entry) noexcept nogil:
    cdef uint64_t i = entry.hash & slots.mask
    while slots.slot[i] != NULL:
        i = (i + 1) & slots.mask
    se_pointer_release(&slots.slot[i], entry)


cdef inline bint _stripe_grow(RoomTable* table, Stripe* stripe) noexcept nogil:
    """Makes room for one more. Takes the lock by itself, allocates outside of it. False without memory."""
    cdef RoomSlots* old
    cdef RoomSlots* fresh
    cdef uint64_t i, want = SLOTS_AT_FIRST
    se_lock(&stripe.lock)
    old = <RoomSlots*>stripe.slots
    while want < 2 * (stripe.live + 1):
        want *= 2
    se_unlock(&stripe.lock)
    fresh = _slots_new(want)
    if fresh == NULL:
        return False
    se_lock(&stripe.lock)
    if stripe.slots != old or 3 * want < 4 * (stripe.live + 1):
        se_unlock(&stripe.lock)
        free(fresh)
        return True
    for i in range(old.mask + 1):
        if old.slot[i] != NULL and old.slot[i] != _slot_gone():
            _slots_put(fresh, <RoomEntry*>old.slot[i])
    stripe.filled = stripe.live
    se_pointer_release(&stripe.slots, fresh)
    se_unlock(&stripe.lock)
    _table_retire(table, &old.retired)
    return True


cdef inline RoomEntry* _entry_new(RoomTable* table, const char* name, size_t n, uint64_t hash) noexcept nogil:
    cdef size_t size = ((ENTRY_HEAD + n + 1) & ~<size_t>1) + table.words * sizeof(uint16_t)
    cdef RoomEntry* entry = <RoomEntry*>calloc(1, size if size > sizeof(RoomEntry) else sizeof(RoomEntry))
    if entry != NULL:
        entry.hash = <uint32_t>hash
        while entry.serial == 0:
            entry.serial = <uint32_t>(se_add_seqcst(&table.serial, 1) + 1)
        entry.size = <uint8_t>n
        memcpy(entry.name, name, n)
    return entry


cdef inline bint _entry_has_loops(const RoomTable* table, RoomEntry* entry) noexcept nogil:
    cdef uint64_t i
    for i in range(table.words):
        if se_load16_seqcst(&room_entry_loops(entry)[i]):
            return True
    return False


cdef inline RoomEntry* _entry_lock(RoomTable* table, Stripe* stripe, const char* name, size_t n,
                                   uint64_t hash) noexcept nogil:
    """Returns the entry of a room, a new one if there was none, with its stripe locked. NULL without memory: then the
    stripe is not locked."""
    cdef RoomEntry* fresh = NULL
    cdef RoomEntry* entry
    cdef bint full
    while True:
        se_lock(&stripe.lock)
        entry = _slots_find(<RoomSlots*>stripe.slots, name, n, hash)
        full = 4 * (stripe.filled + 1) > 3 * ((<RoomSlots*>stripe.slots).mask + 1)
        if entry != NULL and fresh == NULL:
            return entry
        if entry == NULL and fresh != NULL and not full:
            break
        se_unlock(&stripe.lock)
        if entry != NULL:  # another thread was faster
            free(fresh)
            fresh = NULL
            continue
        if fresh == NULL:
            fresh = _entry_new(table, name, n, hash)
        if fresh == NULL or (full and not _stripe_grow(table, stripe)):
            free(fresh)
            return NULL
    _slots_put(<RoomSlots*>stripe.slots, fresh)
    stripe.filled += 1
    stripe.live += 1
    return fresh


cdef inline RoomEntry* room_table_enter(RoomTable* table, const char* name, size_t n, uint64_t hash, uint32_t loop,
                                        bint* sync) noexcept nogil:
    """Marks that a loop (by its bit) has members. `sync`: the caller posts a KIND_SYNC to the link. NULL without
    memory."""
    cdef Stripe* stripe = _stripe_of(table, hash)
    cdef RoomEntry* entry = _entry_lock(table, stripe, name, n, hash)
    sync[0] = False
    if entry == NULL:
        return NULL
    se_or16_seqcst(&room_entry_loops(entry)[loop >> WORD_SHIFT], <uint16_t>(1 << (loop & (WORD_LOOPS - 1))))
    if not se_load8_acquire(&entry.confirmed) and not entry.dirty:
        entry.dirty = True
        sync[0] = True
    se_unlock(&stripe.lock)
    return entry


cdef inline bint room_table_exit(RoomTable* table, RoomEntry* entry, uint32_t loop) noexcept nogil:
    """Marks that a loop (by its bit) has no members any more. True: the caller posts a KIND_SYNC to the link."""
    cdef Stripe* stripe = _stripe_of(table, entry.hash)
    cdef bint sync = False
    se_lock(&stripe.lock)
    se_and16_seqcst(&room_entry_loops(entry)[loop >> WORD_SHIFT], <uint16_t>~(1 << (loop & (WORD_LOOPS - 1))))
    if not _entry_has_loops(table, entry) and not entry.dirty:
        entry.dirty = True
        sync = True
    se_unlock(&stripe.lock)
    return sync


cdef inline Audience* audience_of(RoomEntry* entry) noexcept nogil:
    """NULL where nobody watches the room; from any thread."""
    cdef Audience* audience = <Audience*>se_pointer_acquire(&entry.audience)
    return audience if audience != NULL and se_load_seqcst(&audience.watching) else NULL


cdef inline bint room_table_watch(RoomTable* table, RoomEntry* entry, uint32_t counts, uint32_t index,
                                  bint* sync) noexcept nogil:
    """One more watcher on a loop that has members, counted at `index` of `counts`. `sync`: the caller posts a
    KIND_SYNC to the link. False without memory."""
    cdef Stripe* stripe = _stripe_of(table, entry.hash)
    cdef Audience* audience = <Audience*>se_pointer_acquire(&entry.audience)
    cdef Audience* fresh = NULL
    sync[0] = False
    if audience == NULL:
        fresh = <Audience*>calloc(1, sizeof(Audience) + counts * sizeof(uint64_t))
        if fresh == NULL:
            return False
        fresh.entry = entry
    se_lock(&stripe.lock)
    if entry.audience == NULL:
        se_pointer_release(&entry.audience, fresh)
        fresh = NULL
    audience = <Audience*>entry.audience
    se_store_seqcst(&audience.counts[index], audience.counts[index] + 1)
    if audience.counts[index] == 1:
        se_store_seqcst(&audience.watching, audience.watching + 1)
        if audience.watching == 1 and not entry.dirty:
            sync[0] = entry.dirty = True
    se_unlock(&stripe.lock)
    free(fresh)
    return True


cdef inline bint room_table_unwatch(RoomTable* table, RoomEntry* entry, uint32_t index) noexcept nogil:
    """One watcher less. True: the caller posts a KIND_SYNC to the link."""
    cdef Stripe* stripe = _stripe_of(table, entry.hash)
    cdef Audience* audience = <Audience*>entry.audience
    cdef bint sync = False
    se_lock(&stripe.lock)
    se_store_seqcst(&audience.counts[index], audience.counts[index] - 1)
    if audience.counts[index] == 0:
        se_store_seqcst(&audience.watching, audience.watching - 1)
        if audience.watching == 0 and not entry.dirty:
            sync = entry.dirty = True
    se_unlock(&stripe.lock)
    return sync


cdef inline void room_entry_retire(RoomTable* table, RoomEntry* entry) noexcept nogil:
    """Of one that is out of the table, with what hangs on it."""
    cdef Audience* audience = <Audience*>entry.audience
    if audience != NULL:
        _table_retire(table, &audience.retired)
    _table_retire(table, <Retired*>entry)


cdef inline void room_table_unmark(RoomTable* table, RoomEntry* entry) noexcept nogil:
    """The KIND_SYNC that was due can't be posted: the next change asks for one again."""
    cdef Stripe* stripe = _stripe_of(table, entry.hash)
    se_lock(&stripe.lock)
    entry.dirty = False
    se_unlock(&stripe.lock)


cdef inline bint room_table_settle(RoomTable* table, RoomEntry* entry) noexcept nogil:
    """The link's loop, on a KIND_SYNC: True where the room has members; else it is out of the table.

    The caller then ends its subscription and gives the entry to _table_retire.
    """
    cdef Stripe* stripe = _stripe_of(table, entry.hash)
    cdef RoomSlots* slots
    cdef uint64_t i
    cdef bint alive
    se_lock(&stripe.lock)
    entry.dirty = False
    alive = _entry_has_loops(table, entry)
    if not alive:
        slots = <RoomSlots*>stripe.slots
        i = entry.hash & slots.mask
        while slots.slot[i] != entry:
            i = (i + 1) & slots.mask
        se_pointer_release(&slots.slot[i], _slot_gone())
        stripe.live -= 1
    se_unlock(&stripe.lock)
    return alive


cdef inline void room_table_end(RoomTable* table) noexcept nogil:
    """Frees all; no thread reads any more."""
    cdef RoomSlots* slots
    cdef uint64_t j
    cdef int i
    while not room_table_reclaim(table, UINT64_MAX, UINT32_MAX):
        pass
    for i in range(STRIPES):
        slots = <RoomSlots*>table.stripes[i].slots
        if slots == NULL:
            continue
        for j in range(slots.mask + 1):
            if slots.slot[j] != NULL and slots.slot[j] != _slot_gone():
                free((<RoomEntry*>slots.slot[j]).audience)
                free(slots.slot[j])
        free(slots)
        table.stripes[i].slots = NULL
