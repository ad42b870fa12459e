"""How many connections each address has, where that is bounded.

One table for the process, written when a connection's address is known and at its end, under a spin lock of one of 256
stripes. An address is known by 64 bits of a keyed hash, IPv6 by its first 64 bits: whoever has one has all with the
same. But a translator (NAT64) gives the IPv4 addresses of strangers one prefix: those are known by the IPv4 in them
(RFC 6052 §2.2).
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset
from signal_core.base.limits cimport CACHE_LINE_WORDS, CHUNK_CONNS, CHUNK_SHIFT, MAX_CHUNKS
from signal_core.base.sys cimport se_lock, se_siphash13, se_unlock

cdef enum:
    ADDRESS_STRIPES = 256
    ADDRESS_SHIFT = 56        # of a hash: its upper bits name the stripe
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

cdef struct AddressBook:      # a loop's: the hash by slot, 8 bytes a connection; 0: not counted
    uint64_t* chunks[MAX_CHUNKS]  # 32768  made when a slot of theirs is first used


cdef inline bint ip_table_is_mapped(const uint8_t* address) noexcept nogil:
    """Whether 16 bytes are an IPv4 address."""
    return memcmp(address, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0


cdef inline bint _is_local_nat64(const uint8_t* address) noexcept nogil:
    """Whether it is in 64:ff9b:1::/48, in which each site chooses the length of its prefix (RFC 8215)."""
    return memcmp(address, b"\0\x64\xff\x9b\0\1", 6) == 0


cdef inline bint ip_table_has_ipv4(const uint8_t* address) noexcept nogil:
    """Whether the last 4 of 16 bytes are the IPv4 address of whom it stands for: it is mapped, or made by a translator
    with 64:ff9b::/96 (RFC 6052), ::ffff:0:0:0/96 (RFC 2765 §2.1) or a /96 of 64:ff9b:1::/48."""
    if memcmp(address, b"\0\x64\xff\x9b", 4) == 0:
        return (memcmp(address + 4, b"\0\0\0\0\0\0\0\0", 8) == 0
                or (_is_local_nat64(address) and memcmp(address + 13, b"\0\0\0", 3) != 0))
    return ip_table_is_mapped(address) or memcmp(address, b"\0\0\0\0\0\0\0\0\xff\xff\0\0", 12) == 0


cdef inline uint64_t ip_table_hash(const Addresses* table, const uint8_t* address) noexcept nogil:
    """Of 16 bytes; never 0. Of a local prefix of less than 96 bits all bytes count: one address is one IPv4 in it."""
    cdef uint64_t hash
    if ip_table_has_ipv4(address):
        hash = se_siphash13(table.key, address + 12, 4)
    elif _is_local_nat64(address):
        hash = se_siphash13(table.key, address, 16)
    else:
        hash = se_siphash13(table.key, address, 8)
    return hash if hash else 1


cdef inline AddressSlot* _address_slot(AddressSlot* slots, uint64_t size, uint64_t hash) noexcept nogil:
    """The address's slot, or the free one that it would take. There is always a free one."""
    cdef uint64_t i = hash & (size - 1)
    while slots[i].hash and slots[i].hash != hash:
        i = (i + 1) & (size - 1)
    return &slots[i]


cdef inline bint _addresses_grow(AddressStripe* stripe, uint64_t size) noexcept nogil:
    """Beyond `size` slots, unless that has happened. Takes the lock by itself, allocates outside of it. False
    without memory."""
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
    """Counts one more of an address. False (and it is not counted) where it has `most`, or there is no memory."""
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
    """Frees a slot; those behind it that would not be found any more move up. Under the lock."""
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
    """One that was counted has ended."""
    cdef AddressStripe* stripe = &table.stripes[hash >> ADDRESS_SHIFT]
    cdef AddressSlot* slot
    se_lock(&stripe.lock)
    slot = _address_slot(stripe.slots, stripe.size, hash)
    slot.count -= 1
    if slot.count == 0:
        _addresses_take_out(stripe, <uint64_t>(slot - stripe.slots))
    se_unlock(&stripe.lock)


cdef inline bint address_book_write(AddressBook* book, uint32_t slot, uint64_t hash) noexcept nogil:
    """False without memory."""
    cdef uint32_t chunk = slot >> CHUNK_SHIFT
    if book.chunks[chunk] == NULL:
        book.chunks[chunk] = <uint64_t*>calloc(CHUNK_CONNS, sizeof(uint64_t))
        if book.chunks[chunk] == NULL:
            return False
    book.chunks[chunk][slot & (CHUNK_CONNS - 1)] = hash
    return True


cdef inline uint64_t address_book_erase(AddressBook* book, uint32_t slot) noexcept nogil:
    """The hash that was written for a slot, which is free again; 0: none."""
    cdef uint64_t* place
    cdef uint64_t hash
    if book.chunks[slot >> CHUNK_SHIFT] == NULL:
        return 0
    place = &book.chunks[slot >> CHUNK_SHIFT][slot & (CHUNK_CONNS - 1)]
    hash = place[0]
    place[0] = 0
    return hash


cdef inline void addresses_end(Addresses* table) noexcept nogil:
    cdef int i
    for i in range(ADDRESS_STRIPES):
        free(table.stripes[i].slots)
    free(table)


cdef inline void address_book_end(AddressBook* book) noexcept nogil:
    cdef int i
    for i in range(MAX_CHUNKS):
        free(book.chunks[i])
    free(book)
