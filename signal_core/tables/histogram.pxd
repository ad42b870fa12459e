"""Histograms of times: fixed log-linear buckets, two for each power of two.

Bucket 0 has everything below 1.024 µs (2**10 ns). Then bucket 2k + 1 begins at 2**(10 + k) ns and bucket 2k + 2 at one
and a half times that, up to the last one, which has everything from 17.2 s (2**34 ns) on. A bucket does not include its
upper bound. signal_core/names.py has the bounds for Python.
"""

from libc.stdint cimport uint32_t, uint64_t
from signal_core.base.limits cimport HISTOGRAM_BUCKETS, HISTOGRAM_FIRST_BIT
from signal_core.base.sys cimport se_top_bit

cdef struct Histogram:
    uint64_t counts[HISTOGRAM_BUCKETS]  # 400 by bucket
    uint64_t sum                        # 8   ns


cdef inline uint32_t _bucket(uint64_t ns) noexcept nogil:
    """Returns the index of the bucket: the top bit of `ns` chooses two, the bit below it one of them."""
    cdef uint64_t lowest = (1 << HISTOGRAM_FIRST_BIT) - 1, least = ns if ns > lowest else lowest
    cdef uint32_t top = se_top_bit(least)
    cdef uint32_t index = 2 * (top - HISTOGRAM_FIRST_BIT) + <uint32_t>(least >> (top - 1)) - 1
    return index if index < HISTOGRAM_BUCKETS else HISTOGRAM_BUCKETS - 1


cdef inline void histogram_record(Histogram* h, uint64_t ns, uint64_t weight) noexcept nogil:
    """Counts a time of `ns` as `weight` samples. The owning thread only."""
    h.counts[_bucket(ns)] += weight
    h.sum += ns * weight
