# A histogram from Python, what recording costs, and which iterations are measured. For probe.pyx, after
# probe_turns.pxi.

from signal_core.base.counters cimport C_WAKES, C_WRITTEN
from signal_core.base.limits cimport HISTOGRAM_BUCKETS
from signal_core.tables.histogram cimport Histogram as c_Histogram, histogram_record
from signal_core.tables.latency cimport (
    latency_begin, latency_end, latency_note_left, latency_note_long, latency_note_taken,
)
from signal_core.tables.state cimport LATENCY_LAG, LATENCY_RELAY


cdef class Histogram:
    """A histogram of times in ns."""
    cdef c_Histogram histogram

    def record(self, uint64_t ns, uint64_t weight=1):
        histogram_record(&self.histogram, ns, weight)

    @property
    def counts(self):
        """The counts by bucket, then the sum in ns."""
        return histogram_list(&self.histogram)


cdef list histogram_list(const c_Histogram* histogram):
    """Returns the counts, then the sum."""
    cdef int i
    return [*[histogram.counts[i] for i in range(HISTOGRAM_BUCKETS)], histogram.sum]


def iterations(list each, uint64_t first_wake=1):
    """Runs iterations of a loop. `each`: (ns since it began, deliveries written, whether it is long, whether it leaves
    deliveries, kind and age in ns of the first packet that it takes; 0: none). Returns the histograms of relays and of
    loop lag, as counts and sum."""
    cdef OneLoop one = OneLoop(0)
    cdef Loop* loop = one.loop
    cdef Packet first
    cdef uint64_t now, before
    memset(&first, 0, sizeof(first))
    loop.n[C_WAKES] = first_wake - 1
    for took, written, is_long, leaves, kind, age in each:
        now = se_now_ns()
        loop.n[C_WAKES] += 1
        latency_begin(loop, now - <uint64_t>took)
        if kind:
            first.kind = kind
            first.pointer = <void*>(now - <uint64_t>age)
            latency_note_taken(loop, &first)
        if is_long:
            latency_note_long(loop)
        before = loop.n[C_WRITTEN]
        loop.n[C_WRITTEN] += <uint64_t>written
        if leaves:
            latency_note_left(loop)
        latency_end(loop, before)
    return (histogram_list(&loop.latency.histograms[LATENCY_RELAY]),
            histogram_list(&loop.latency.histograms[LATENCY_LAG]))


def bench_histogram(uint64_t iterations):
    """Records times from all over a histogram."""
    cdef c_Histogram histogram
    cdef uint64_t i, start, ns = 88172645463325252
    memset(&histogram, 0, sizeof(histogram))
    with nogil:
        start = se_now_ns()
        for i in range(iterations):
            ns ^= ns << 13
            ns ^= ns >> 7
            ns ^= ns << 17
            histogram_record(&histogram, ns >> (30 + (ns & 15)), 1)
            PROBE_KEEP(&histogram)
        start = se_now_ns() - start
    return start / <double>iterations
