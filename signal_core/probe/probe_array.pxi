# A growable array of 32-bit numbers. For probe.pyx.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from signal_core.base.array cimport array_reserve, array_reserve_last


cdef class Array:
    """A list, or a queue whose first `head` items are gone. `first` is its capacity at first."""
    cdef uint32_t* items
    cdef readonly uint32_t head
    cdef readonly uint32_t used
    cdef readonly uint32_t size
    cdef uint32_t first

    def __cinit__(self, uint32_t first):
        self.first = first

    def __dealloc__(self):
        free(self.items)

    def reserve(self, uint64_t needed, size_t each=sizeof(uint32_t)):
        return bool(array_reserve(&self.items, &self.size, needed, each, self.first))

    def append(self, list numbers):
        """Adds numbers at the end of the list."""
        if not array_reserve(&self.items, &self.size, self.used + len(numbers), sizeof(uint32_t), self.first):
            raise MemoryError
        for number in numbers:
            self.items[self.used] = number
            self.used += 1

    def push(self, uint32_t number):
        """Adds one at the end of the queue."""
        if not array_reserve_last(&self.items, &self.head, &self.used, &self.size, sizeof(uint32_t), self.first):
            raise MemoryError
        self.items[self.used] = number
        self.used += 1

    def pop(self):
        """Takes the first one of the queue, which is not empty."""
        assert self.head < self.used
        self.head += 1
        return self.items[self.head - 1]

    def contents(self):
        return [self.items[i] for i in range(self.head, self.used)]
