"""Counts the connections of each client address, for max-connections-per-address.

The process has one table of 256 stripes, each with a spin lock; it is written when a connection's address is known and
when the connection ends. The table and the books are mapped pages, which cost no memory until the limit is used. The
key is 64 bits of a keyed hash. All IPv6 addresses with the same first 64 bits count as one, since one client can use
them all. But a translator (NAT64) puts unrelated IPv4 addresses under one prefix; there the IPv4 address counts
(RFC 6052 §2.2).
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset
from signal_core.base.limits cimport CACHE_LINE_WORDS, CHUNK_CONNS, CHUNK_SHIFT, MAX_CHUNKS
from signal_core.base.sys cimport munmap, se_lock, se_siphash13, se_unlock

cdef enum:
    ADDRESS_STRIPES = 256
    ADDRESS_SHIFT = 56        # the bits of a hash above these select the stripe
    ADDRESSES_AT_FIRST = 16

cdef struct AddressSlot:
    uint64_t hash             # 8  0: free
    uint64_t count            # 8  connections

cdef struct AddressStripe:    # one cache line
    uint64_t lock             # 8
    AddressSlot* slots        # 8  open addressing; at most half are taken
    uint64_t size             # 8
    uint64_t live             # 8  addresses
    uint64_t line[CACHE_LINE_WORDS - 4]  # 32

cdef struct Addresses:
    AddressStripe stripes[ADDRESS_STRIPES]  # 16384
    uint64_t key[2]           # 16  of the hash

cdef struct AddressBook:      # the hash of each connection of a loop, by slot; 0: not counted. Owned by the loop
    uint64_t* chunks[MAX_CHUNKS]  # 32768  allocated at first use


cdef inline bint ip_table_is_mapped(const uint8_t* address) noexcept nogil:
    """Whether 16 bytes are an IPv4-mapped address, ::ffff:0:0/96 (RFC 4291 §2.5.5.2)."""
    return memcmp(address, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0


cdef inline bint _is_local_nat64(const uint8_t* address) noexcept nogil:
    """Whether it is in 64:ff9b:1::/48, where each site chooses the length of its NAT64 prefix (RFC 8215)."""
    return memcmp(address, b"\0\x64\xff\x9b\0\1", 6) == 0


cdef inline bint ip_table_has_ipv4(const uint8_t* address) noexcept nogil:
    """Whether the last 4 of 16 bytes are the client's IPv4 address: the address is IPv4-mapped, or a translator made it
    with 64:ff9b::/96 (RFC 6052), ::ffff:0:0:0/96 (RFC 2765 §2.1) or a /96 of 64:ff9b:1::/48."""
    if memcmp(address, b"\0\x64\xff\x9b", 4) == 0:
        return (memcmp(address + 4, b"\0\0\0\0\0\0\0\0", 8) == 0
                or (_is_local_nat64(address) and memcmp(address + 13, b"\0\0\0", 3) != 0))
    return ip_table_is_mapped(address) or memcmp(address, b"\0\0\0\0\0\0\0\0\xff\xff\0\0", 12) == 0


cdef inline uint64_t ip_table_hash(const Addresses* table, const uint8_t* address) noexcept nogil:
    """Returns the key of 16 bytes of address; never 0. With a local NAT64 prefix shorter than 96 bits all 16 bytes are
    hashed, since each address then embeds one IPv4 address."""
    cdef uint64_t hash
    if ip_table_has_ipv4(address):
        hash = se_siphash13(table.key, address + 12, 4)
    elif _is_local_nat64(address):
        hash = se_siphash13(table.key, address, 16)
    else:
        hash = se_siphash13(table.key, address, 8)
    return hash if hash else 1


cdef inline AddressSlot* _address_slot(AddressSlot* slots, uint64_t size, uint64_t hash) noexcept nogil:
    """Returns the slot of `hash`, or the free one to put it in. There is always a free one."""
    cdef uint64_t i = hash & (size - 1)
    while slots[i].hash and slots[i].hash != hash:
        i = (i + 1) & (size - 1)
    return &slots[i]


cdef inline bint _addresses_grow(AddressStripe* stripe, uint64_t size) noexcept nogil:
    """Doubles the slots, unless another thread has: they are no longer `size`. Takes the lock, allocates without it.
    False without memory."""
    cdef uint64_t i, want = 2 * size if size else ADDRESSES_AT_FIRST
    cdef AddressSlot* fresh = <AddressSlot*>calloc(want, sizeof(AddressSlot))
    cdef AddressSlot* old = fresh
    if fresh == NULL:
        return False
    se_lock(&stripe.lock)
    if stripe.size == size:
        for i in range(size):
            if stripe.slots[i].hash:
                _address_slot(fresh, want, stripe.slots[i].hash)[0] = stripe.slots[i]
        old = stripe.slots
        stripe.slots = fresh
        stripe.size = want
    se_unlock(&stripe.lock)
    free(old)
    return True


cdef inline bint addresses_enter(Addresses* table, uint64_t hash, uint64_t most) noexcept nogil:
    """Counts a connection of an address. False: not counted, since it has `most` already or there is no memory. Any
    thread."""
    cdef AddressStripe* stripe = &table.stripes[hash >> ADDRESS_SHIFT]
    cdef AddressSlot* slot
    cdef uint64_t size
    while True:
        se_lock(&stripe.lock)
        size = stripe.size
        slot = _address_slot(stripe.slots, size, hash) if size else NULL
        if slot != NULL and (slot.hash or 2 * (stripe.live + 1) <= size):
            break
        se_unlock(&stripe.lock)
        if not _addresses_grow(stripe, size):
            return False
    if slot.hash == 0:
        slot[0] = AddressSlot(hash=hash, count=0)
        stripe.live += 1
    if slot.count < most:
        slot.count += 1
        se_unlock(&stripe.lock)
        return True
    se_unlock(&stripe.lock)
    return False


cdef inline void _addresses_take_out(AddressStripe* stripe, uint64_t at) noexcept nogil:
    """Frees a slot and moves later entries of its run back (Knuth 6.4, algorithm R). Under the lock."""
    cdef uint64_t mask = stripe.size - 1, i = at, home
    while True:
        i = (i + 1) & mask
        if stripe.slots[i].hash == 0:
            break
        home = stripe.slots[i].hash & mask
        if ((i - home) & mask) >= ((i - at) & mask):
            stripe.slots[at] = stripe.slots[i]
            at = i
    memset(&stripe.slots[at], 0, sizeof(AddressSlot))
    stripe.live -= 1


cdef inline void addresses_leave(Addresses* table, uint64_t hash) noexcept nogil:
    """Ends the count of a connection. Any thread."""
    cdef AddressStripe* stripe = &table.stripes[hash >> ADDRESS_SHIFT]
    cdef AddressSlot* slot
    se_lock(&stripe.lock)
    slot = _address_slot(stripe.slots, stripe.size, hash)
    slot.count -= 1
    if slot.count == 0:
        _addresses_take_out(stripe, <uint64_t>(slot - stripe.slots))
    se_unlock(&stripe.lock)


cdef inline bint address_book_write(AddressBook* book, uint32_t slot, uint64_t hash) noexcept nogil:
    """Stores the hash of the connection in a slot. False without memory."""
    cdef uint32_t chunk = slot >> CHUNK_SHIFT
    if book.chunks[chunk] == NULL:
        book.chunks[chunk] = <uint64_t*>calloc(CHUNK_CONNS, sizeof(uint64_t))
        if book.chunks[chunk] == NULL:
            return False
    book.chunks[chunk][slot & (CHUNK_CONNS - 1)] = hash
    return True


cdef inline uint64_t address_book_erase(AddressBook* book, uint32_t slot) noexcept nogil:
    """Removes and returns the hash stored for a slot; 0: none."""
    cdef uint64_t* stored
    cdef uint64_t hash
    if book.chunks[slot >> CHUNK_SHIFT] == NULL:
        return 0
    stored = &book.chunks[slot >> CHUNK_SHIFT][slot & (CHUNK_CONNS - 1)]
    hash = stored[0]
    stored[0] = 0
    return hash


cdef inline void addresses_end(Addresses* table) noexcept nogil:
    """Frees the table and all that it owns."""
    cdef int i
    for i in range(ADDRESS_STRIPES):
        free(table.stripes[i].slots)
    munmap(table, sizeof(Addresses))


cdef inline void address_book_end(AddressBook* book) noexcept nogil:
    """Frees the book and all that it owns."""
    cdef int i
    for i in range(MAX_CHUNKS):
        free(book.chunks[i])
    munmap(book, sizeof(AddressBook))
