"""What a loop measures of time, as histograms. docs/architecture/latency.md says what each means, and how it is biased.

No message pays for a reading of the clock. A time begins and ends with an iteration wherever it can, because an
iteration reads the clock once anyway (loop_clock). The end of an iteration is read for one in 64, and for one in 4 of
those that did LOOK_UNITS of work in one step, which are long and read the clock for their limits as well. A measured
iteration counts for all of its kind. Everything here runs on the loop's thread.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy
from signal_core.base.counters cimport C_PINGS_SENT, C_WAKES, C_WRITTEN
from signal_core.base.kinds cimport KIND_ROOM, KIND_TO
from signal_core.base.limits cimport (
    LATENCY_LONG_SHIFT, LATENCY_PING_SHIFT, LATENCY_SHIFT, NS_PER_US, STAMP_SHIFT, STAMP_TICK_BITS, STAMP_US_BITS,
    TICK_NS,
)
from signal_core.base.memory cimport Packet
from signal_core.base.sys cimport SE_COLD, SE_RARE, se_now_ns
from signal_core.tables.conn_table cimport CONN_OPEN, MARK_PINGED, Conn, slab_cold
from signal_core.tables.histogram cimport histogram_record
from signal_core.tables.state cimport (
    LATENCY_CLIENT, LATENCY_HANDSHAKE, LATENCY_LAG, LATENCY_NATS, LATENCY_RELAY, Loop,
)

cdef enum:
    GOLDEN = 0x9e3779b1       # 2**32 divided by the golden ratio, rounded to a prime
    SAMPLED_BELOW = 1 << (32 - LATENCY_SHIFT)    # _spread of what is a sample is below that
    LONG_BELOW = 1 << (32 - LATENCY_LONG_SHIFT)  # ... of a long iteration
    PING_BELOW = 1 << (32 - LATENCY_PING_SHIFT)


cdef inline uint32_t _spread(uint64_t number) noexcept nogil:
    """Returns 32 bits that are spread evenly for successive numbers, and for every second, third and so on: what is
    chosen by them is neither always nor never something periodic."""
    return <uint32_t>number * <uint32_t>GOLDEN


# -- iterations: loop lag, relay --

cdef inline void latency_begin(Loop* loop, uint64_t now) noexcept nogil:
    """Begins an iteration at `now` (ns)."""
    loop.latency.began = loop.latency.since = now
    loop.latency.chosen = SAMPLED_BELOW


cdef inline void latency_note_long(Loop* loop) noexcept nogil:
    """Notes that this iteration is long."""
    loop.latency.chosen = LONG_BELOW


cdef inline void latency_note_left(Loop* loop) noexcept nogil:
    """Notes that this iteration leaves deliveries unwritten, which count from its beginning in the next one."""
    loop.latency.left = loop.latency.began
    loop.latency.left_by = loop.n[C_WAKES]


cdef inline void latency_stamp(const Loop* loop, Packet* packet) noexcept nogil:
    """Notes in a message for another loop when this iteration began."""
    packet.pointer = <void*>loop.latency.began


cdef inline void latency_note_taken(Loop* loop, const Packet* first) noexcept nogil:
    """Notes the first packet taken from the mailbox: no message in it has waited for longer."""
    if (first.kind == KIND_TO or first.kind == KIND_ROOM) and first.pointer != NULL:
        loop.latency.since = <uint64_t>first.pointer


cdef inline SE_COLD _measure(Loop* loop, uint64_t written) noexcept nogil:
    """Measures an iteration that has just ended and wrote `written` deliveries."""
    cdef uint64_t now = se_now_ns(), since = loop.latency.since
    cdef uint64_t weight = 1 << (LATENCY_LONG_SHIFT if loop.latency.chosen == LONG_BELOW else LATENCY_SHIFT)
    histogram_record(&loop.latency.histograms[LATENCY_LAG], now - loop.latency.began, weight)
    if loop.latency.left_by + 1 == loop.n[C_WAKES] and loop.latency.left and loop.latency.left < since:
        since = loop.latency.left
    if written:
        histogram_record(&loop.latency.histograms[LATENCY_RELAY], now - since, weight * written)


cdef inline void latency_end(Loop* loop, uint64_t before) noexcept nogil:
    """Ends an iteration. `before`: C_WRITTEN when it began to write."""
    if SE_RARE(_spread(loop.n[C_WAKES]) < loop.latency.chosen):
        _measure(loop, loop.n[C_WRITTEN] - before)


# -- handshakes --

cdef inline void latency_handshake_begin(Loop* loop, const Conn* c) noexcept nogil:
    """Notes when a connection was accepted. Cold.asked, which is the tick of a ping later on, holds it until then."""
    slab_cold(&loop.slab, c.slot).asked = <uint32_t>(loop.latency.began >> STAMP_SHIFT)


cdef inline void latency_handshake_end(Loop* loop, const Conn* c) noexcept nogil:
    """Records a handshake that is answered with 101 or a refusal."""
    cdef uint32_t passed = <uint32_t>(se_now_ns() >> STAMP_SHIFT) - slab_cold(&loop.slab, c.slot).asked
    histogram_record(&loop.latency.histograms[LATENCY_HANDSHAKE], <uint64_t>passed << STAMP_SHIFT, 1)
    slab_cold(&loop.slab, c.slot).asked = 0


# -- receipts over NATS --

cdef inline uint32_t latency_nats_begin(const Loop* loop) noexcept nogil:
    """Returns the time of this iteration for latency_nats_end, never 0."""
    return <uint32_t>(loop.latency.began >> STAMP_SHIFT) | 1


cdef inline void latency_nats_end(Loop* loop, uint32_t begun) noexcept nogil:
    """Records a receipt for a message that went to NATS at `begun`."""
    cdef uint32_t passed = latency_nats_begin(loop) - begun
    histogram_record(&loop.latency.histograms[LATENCY_NATS], <uint64_t>passed << STAMP_SHIFT, 1)


# -- pings --

cdef inline bint latency_ping_due(Loop* loop) noexcept nogil:
    """Whether the ping about to be sent is a sample. The first one is."""
    return _spread(loop.n[C_PINGS_SENT]) < PING_BELOW


cdef inline void latency_ping(const Loop* loop, Conn* c, char* body) noexcept nogil:
    """Writes the STAMP_BYTES of a sampled ping, which the client sends back: the time within the tick, in µs, and the
    low bits of the tick."""
    cdef uint32_t us = <uint32_t>((loop.latency.began - loop.tick_began) // NS_PER_US)
    cdef uint32_t stamp = us | loop.tick << STAMP_US_BITS
    memcpy(body, &stamp, sizeof(stamp))
    c.phase.gathering.marks |= MARK_PINGED


cdef inline SE_COLD latency_pong(Loop* loop, Conn* c, const uint8_t* body) noexcept nogil:
    """Records a pong of STAMP_BYTES, if a sampled ping is outstanding and it was sent in the tick that the pong says: a
    client can forge its time by less than a tick."""
    cdef uint32_t stamp, asked = slab_cold(&loop.slab, c.slot).asked
    cdef uint64_t sent, now = loop.latency.began - loop.tick_began
    if c.state != CONN_OPEN or not c.phase.gathering.marks & MARK_PINGED:
        return
    memcpy(&stamp, body, sizeof(stamp))
    sent = <uint64_t>(stamp & ((1 << STAMP_US_BITS) - 1)) * NS_PER_US
    if stamp >> STAMP_US_BITS != asked & ((1 << STAMP_TICK_BITS) - 1) or sent >= TICK_NS:
        return
    c.phase.gathering.marks &= <uint8_t>~MARK_PINGED
    now += (loop.tick - asked) * <uint64_t>TICK_NS
    if now >= sent:
        histogram_record(&loop.latency.histograms[LATENCY_CLIENT], now - sent, 1)
