"""Growable arrays: a pointer to the items and a capacity, which their owner keeps and frees."""

from libc.stdint cimport SIZE_MAX, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memmove
from signal_core.base.sys cimport SE_RARE

cdef enum:
    CAPACITY_MOST = 0xfffffffe    # items; their number + 1 fits 32 bits


cdef inline bint _array_grow(void* items, uint32_t* size, uint64_t needed, size_t each, uint32_t first) noexcept nogil:
    cdef uint64_t grown = size[0] if size[0] else first
    cdef void* old
    if needed > CAPACITY_MOST:
        return False
    while grown < needed:
        grown *= 2
    if grown > CAPACITY_MOST:
        grown = CAPACITY_MOST
    if grown > SIZE_MAX // each:
        return False
    memcpy(&old, items, sizeof(void*))
    old = realloc(old, grown * each)
    if old == NULL:
        return False
    memcpy(items, &old, sizeof(void*))
    size[0] = <uint32_t>grown
    return True


cdef inline bint array_reserve(
    void* items, uint32_t* size, uint64_t needed, size_t each, uint32_t first,
) noexcept nogil:
    """Makes room for `needed` items of `each` bytes: doubles the capacity `size`, from `first` on.

    `items` is the address of the pointer to them. False without memory, or beyond CAPACITY_MOST: nothing changes."""
    return not SE_RARE(needed > size[0]) or _array_grow(items, size, needed, each, first)


cdef inline bint array_reserve_last(
    void* items, uint32_t* head, uint32_t* used, uint32_t* size, size_t each, uint32_t first,
) noexcept nogil:
    """Makes room for one more item at the end of a queue, whose items before `head` are gone.

    If the queue is empty, or full and more than half of it is gone, moves it to the front; else as array_reserve."""
    cdef uint8_t* start
    if head[0] == used[0]:
        head[0] = used[0] = 0
    elif SE_RARE(used[0] == size[0] and head[0] > size[0] // 2):
        memcpy(&start, items, sizeof(void*))
        used[0] -= head[0]
        memmove(start, start + head[0] * each, used[0] * each)
        head[0] = 0
    return array_reserve(items, size, used[0] + 1, each, first)
