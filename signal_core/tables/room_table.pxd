"""The rooms of an engine: which loops have members and watchers of which room.

A loop writes at its first join, its last leave and for each watcher, under the spin lock of one of 1024 stripes.
Publishers read without a lock. A piece that a reader may still hold is retired: each thread notes the epoch at which it
last began to read (Loop.seen), and the piece is freed when every thread has begun again since, or sleeps.

Only the link's loop removes an entry. A KIND_SYNC tells it that members or watchers of a room came or went.
"""

from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from signal_core.base.limits cimport CACHE_LINE_WORDS
from signal_core.base.span cimport Span, span_of, span_same
from signal_core.base.sys cimport (
    SE_STATIC_ASSERT, se_add_relaxed, se_add_seqcst, se_and16_seqcst, se_load16_seqcst, se_load8_acquire,
    se_load_seqcst, se_lock, se_or16_seqcst, se_pointer_acquire, se_pointer_release, se_siphash13, se_store_seqcst,
    se_sub_relaxed, se_unlock,
)

cdef enum:
    STRIPE_SHIFT = 22         # the bits of a hash above these select the stripe
    STRIPES = 1 << 10         # of a million rooms one holds a thousand: it grows under its lock
    SLOTS_AT_FIRST = 8
    ENTRY_HEAD = 33           # bytes of a RoomEntry before its name
    WORD_SHIFT = 4            # loops in a word of its bitmap: so few that an entry for `@` and a UUID has 72 bytes
    WORD_LOOPS = 1 << 4

    # Audience.put_off
    PUT_OFF_QUESTION = 1      # a query, since there were too many in a tick, or a loop has no room for it
    PUT_OFF_SUB = 2           # the SUB, since NATS reads too slowly
    PUT_OFF_NODES = 4         # a query to other nodes that was lost, or is due after a late SUB

cdef struct Retired:      # the head of whatever is freed late
    Retired* next         # 8
    uint64_t epoch        # 8  free it when every reader has seen this

cdef struct Audience:     # a room's watchers; made for the first, freed with the room's entry
    Retired retired       # 16
    void* entry           # 8  RoomEntry
    uint64_t generation   # 8  atomic: number of the next query; written by the link's loop
    uint64_t asking       # 8  atomic: the number + 1 that a KIND_ASK under way has; 0: none is
    uint64_t watching     # 8  atomic: loops with watchers, and the local peer; written under the stripe's lock
    uint32_t index        # 4  the link's: its index in LinkPresence.audiences + 1; 0: none
    uint32_t asked        # 4  the link's: tick of the last query
    uint16_t asks         # 2  the link's: queries within that tick
    uint16_t put_off      # 2  the link's: PUT_OFF_*, what is postponed to the next tick
    uint32_t nnodes       # 4  the link's: nodes known to have members
    uint16_t* nodes       # 8  the link's: their indices in LinkPresence.nodes
    uint32_t linked       # 4  the link's: Link.number of the connection to NATS for which the next three hold
    uint32_t ping         # 4  ... the PING whose answer confirms the SUB
    uint8_t sub_state     # 1  ... SUB_* (sub_queue.pxd)
    uint8_t late          # 1  ... it was SUB_OVER: its watchers query again after the SUB
    uint8_t spare[2]      # 2
    uint32_t nodes_size   # 4  capacity of `nodes`
    uint64_t counts[1]    # and on, atomic: watchers of each loop, then 1 if the local peer watches

cdef struct RoomEntry:    # one malloc, and small: each of millions of users may have a room
    # A Retired overlays these once the entry is retired; readers without the lock use none of them.
    uint32_t sub          # 4  the link's: its index in LinkSubs.rooms + 1; 0: none
    uint32_t ping         # 4  the link's: the PING whose answer confirms the SUB
    uint32_t users        # 4  atomic: the user's connections, in a user's room with max-connections-per-user
    uint8_t dirty         # 1  a KIND_SYNC for it is under way; under the stripe's lock
    uint8_t denied        # 1  the link's: NATS does not allow the SUB
    uint8_t confirmed     # 1  atomic: NATS has answered a PING after our SUB
    uint8_t sub_state     # 1  the link's: SUB_* (sub_queue.pxd)
    # These stay until it is freed.
    uint32_t hash         # 4
    uint32_t serial       # 4  never 0; unique together with the hash for four billion rooms
    void* audience        # 8  Audience; NULL: it never had a watcher. Set once, read without the lock
    uint8_t size          # 1  bytes of the name
    char name[7]          # and on; from the next even address the bitmap of room_entry_loops

cdef struct RoomSlots:    # open addressing; a removed entry leaves _slot_gone
    Retired retired       # 16
    uint64_t mask         # 8
    void* slot[1]         # and on

cdef struct Stripe:       # one cache line
    uint64_t lock         # 8
    void* slots           # 8  RoomSlots; read without the lock
    uint64_t filled       # 8  slots with an entry or _slot_gone
    uint64_t live         # 8  slots with an entry
    uint64_t line[CACHE_LINE_WORDS - 4]  # 32

cdef struct RoomTable:
    Stripe stripes[STRIPES]  # 65536
    uint64_t key[2]       # 16 of the hash
    uint64_t words        # 8  words of a room's bitmap of loops
    uint64_t serial       # 8  the last one given
    uint64_t epoch        # 8
    uint64_t lock         # 8  of the list of retired pieces
    Retired* retired      # 8  the piece retired first
    Retired* newest       # 8  ... and last
    uint64_t waiting      # 8  atomic: pieces in the list


cdef inline void room_table_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(RoomEntry) == ENTRY_HEAD + 7)
    SE_STATIC_ASSERT(sizeof(Retired) == 16)  # RoomEntry up to `hash`
    SE_STATIC_ASSERT(sizeof(Audience) == 96)


cdef inline void* _slot_gone() noexcept nogil:
    return <void*>1


cdef inline uint64_t room_table_hash(const RoomTable* table, Span name) noexcept nogil:
    """Returns the hash of a room's name: 32 bits, never 0."""
    cdef uint32_t hash = <uint32_t>se_siphash13(table.key, name.at, name.size)
    return hash if hash else 1


cdef inline Span room_entry_name(const RoomEntry* entry) noexcept nogil:
    """Returns the room's name; valid as long as the entry."""
    return span_of(entry.name, entry.size)


cdef inline uint16_t* room_entry_loops(RoomEntry* entry) noexcept nogil:
    """Returns the room's bitmap of loops with members, in words of WORD_LOOPS bits: bit i is loop i, the bit after the
    last loop the local peer (loop_bit). Atomic."""
    return <uint16_t*>((<size_t>entry.name + entry.size + 1) & ~<size_t>1)


cdef inline RoomSlots* _slots_new(uint64_t count) noexcept nogil:
    cdef RoomSlots* slots = <RoomSlots*>calloc(1, sizeof(RoomSlots) + count * sizeof(void*))
    if slots != NULL:
        slots.mask = count - 1
    return slots


cdef inline bint room_table_init(RoomTable* table, uint32_t loops) noexcept nogil:
    """Initializes zeroed memory, with the key set, for `loops` loops and the local peer. False without memory."""
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


cdef inline RoomEntry* _slots_find(RoomSlots* slots, Span name, uint64_t hash) noexcept nogil:
    cdef uint64_t i = hash & slots.mask
    cdef RoomEntry* entry
    while True:
        entry = <RoomEntry*>se_pointer_acquire(&slots.slot[i])
        if entry == NULL:
            return NULL
        if entry != _slot_gone() and entry.hash == hash and span_same(room_entry_name(entry), name):
            return entry
        i = (i + 1) & slots.mask


cdef inline RoomEntry* room_table_find(RoomTable* table, Span name, uint64_t hash) noexcept nogil:
    """Returns a room's entry, NULL if there is none. Takes no lock. The entry is valid until the calling thread notes
    another epoch or sleeps."""
    cdef Stripe* stripe = _stripe_of(table, hash)
    return _slots_find(<RoomSlots*>se_pointer_acquire(&stripe.slots), name, hash)


cdef inline void _table_retire(RoomTable* table, Retired* piece) noexcept nogil:
    """Frees a piece later. It must be out of the readers' reach already."""
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
    """Takes the piece that was retired first off the list; NULL if there is none, or a reader may still hold it."""
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
    """Frees at most `most` pieces retired by epoch `oldest`, which every reader has seen. True: all such are freed."""
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
    """Makes room for one more entry, and drops removed ones. Takes the lock, allocates without it. False without
    memory."""
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


cdef inline RoomEntry* _entry_new(RoomTable* table, Span name, uint64_t hash) noexcept nogil:
    cdef size_t size = ((ENTRY_HEAD + name.size + 1) & ~<size_t>1) + table.words * sizeof(uint16_t)
    cdef RoomEntry* entry = <RoomEntry*>calloc(1, size if size > sizeof(RoomEntry) else sizeof(RoomEntry))
    if entry != NULL:
        entry.hash = <uint32_t>hash
        while entry.serial == 0:
            entry.serial = <uint32_t>(se_add_seqcst(&table.serial, 1) + 1)
        entry.size = <uint8_t>name.size
        memcpy(entry.name, name.at, name.size)
    return entry


cdef inline bint _entry_has_loops(const RoomTable* table, RoomEntry* entry) noexcept nogil:
    cdef uint64_t i
    for i in range(table.words):
        if se_load16_seqcst(&room_entry_loops(entry)[i]):
            return True
    return False


cdef inline RoomEntry* _entry_lock(RoomTable* table, Stripe* stripe, Span name, uint64_t hash) noexcept nogil:
    """Locks the stripe and returns the entry of a room, a new one if there was none. NULL without memory, the stripe
    not locked."""
    cdef RoomEntry* fresh = NULL
    cdef RoomEntry* entry
    cdef bint full
    while True:
        se_lock(&stripe.lock)
        entry = _slots_find(<RoomSlots*>stripe.slots, name, hash)
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
            fresh = _entry_new(table, name, hash)
        if fresh == NULL or (full and not _stripe_grow(table, stripe)):
            free(fresh)
            return NULL
    _slots_put(<RoomSlots*>stripe.slots, fresh)
    stripe.filled += 1
    stripe.live += 1
    return fresh


cdef inline RoomEntry* room_table_enter(RoomTable* table, Span name, uint64_t hash, uint32_t loop,
                                        bint* sync) noexcept nogil:
    """Sets the bit of a loop that has members (loop_bit), and makes the entry if need be. If `sync` is set, the caller
    must post a KIND_SYNC to the link, or call room_table_sync_failed. NULL without memory."""
    cdef Stripe* stripe = _stripe_of(table, hash)
    cdef RoomEntry* entry = _entry_lock(table, stripe, name, hash)
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
    """Clears the bit of a loop that has no members any more. True: as `sync` of room_table_enter."""
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
    """Returns the room's watchers; NULL if there are none. Any thread."""
    cdef Audience* audience = <Audience*>se_pointer_acquire(&entry.audience)
    return audience if audience != NULL and se_load_seqcst(&audience.watching) else NULL


cdef inline bint room_table_watch(RoomTable* table, RoomEntry* entry, uint32_t counts, uint32_t index,
                                  bint* sync) noexcept nogil:
    """Counts one more watcher in Audience.counts[index], out of `counts`; the loop must have members. `sync` as in
    room_table_enter. False without memory."""
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
    """Counts one watcher less. True: as `sync` of room_table_enter."""
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
    """Frees an entry that is out of the table later, with its audience."""
    cdef Audience* audience = <Audience*>entry.audience
    if audience != NULL:
        _table_retire(table, &audience.retired)
    _table_retire(table, <Retired*>entry)


cdef inline void room_table_sync_failed(RoomTable* table, RoomEntry* entry) noexcept nogil:
    """Makes the next change ask for a KIND_SYNC again, because the one that was due cannot be posted."""
    cdef Stripe* stripe = _stripe_of(table, entry.hash)
    se_lock(&stripe.lock)
    entry.dirty = False
    se_unlock(&stripe.lock)


cdef inline bint room_table_settle(RoomTable* table, RoomEntry* entry) noexcept nogil:
    """Handles a KIND_SYNC on the link's loop. True: the room has members. False: the entry is out of the table, and the
    caller ends its subscription and calls room_entry_retire."""
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
    """Frees everything, after every thread has ended."""
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
