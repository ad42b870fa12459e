"""How fast new connections are taken: accept-rate, and less while loops have to wait for a processor.

Who is connected comes first. With accept-yield, a loop that passes messages looks now and then, while it accepts, at
how long it waited for a processor each time that it had something to do: the kernel counts that for each thread
(Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat). Where that is more than YIELD_WAIT_NS, the whole
process takes new connections more slowly, where it is less, faster again; its pace is never below YIELD_LEAST a second
for each processor that its loops can use, so that those who wait have their turn too. Where no messages pass there is
nobody to yield to.
"""

from libc.stdint cimport UINT64_MAX, uint64_t
from signal_core.base.counters cimport C_ACCEPT_PACED, C_ACCEPT_YIELDED, C_ATTEMPTED
from signal_core.base.limits cimport ACCEPT_BURST_MS, YIELD_FORGET_NS, YIELD_LOOK_NS, YIELD_STALE_NS, YIELD_WAIT_NS
from signal_core.base.sys cimport (
    se_cas_relaxed, se_load_relaxed, se_now_ns, se_store_relaxed, se_sub_relaxed, se_waited,
)
from signal_core.tables.state cimport Hub, Loop


# -- the pace --

cdef inline uint64_t accept_pacing_after(
    uint64_t gap, uint64_t wait, uint64_t shortest, uint64_t longest,
) noexcept nogil:
    """ns from one new connection to the next from now on, in the mean: 0, no bound, or from shortest to longest.

    It was `gap`, and a loop waited `wait` ns for a processor.
    """
    if wait > YIELD_WAIT_NS:
        gap = shortest if gap == 0 else gap + gap // 4
        return gap if gap < longest else longest
    gap -= gap // 64
    return gap if gap > shortest else 0


cdef inline uint64_t _pace_gap(Hub* hub) noexcept nogil:
    """Mean ns from one new connection to the next that is in force; 0: no bound."""
    cdef uint64_t gap = se_load_relaxed(&hub.yield_gap)
    return gap if gap > hub.set.accept_gap else hub.set.accept_gap


# -- its feedback --

cdef inline uint64_t _pace_waited(Loop* loop, uint64_t now) noexcept nogil:
    """ns that the loop waited for a processor, in the mean since it last looked; UINT64_MAX where that says nothing."""
    cdef uint64_t waited = loop.cpu.waited, turns = loop.cpu.turns, looked = loop.cpu.looked
    cdef uint64_t attempted = loop.n[C_ATTEMPTED]
    loop.cpu.looked = now
    if not se_waited(loop.cpu.schedstat, &loop.cpu.waited, &loop.cpu.turns):
        return UINT64_MAX
    if now - looked > YIELD_STALE_NS:
        loop.cpu.passed = attempted
        return UINT64_MAX
    if loop.cpu.passed != attempted:
        loop.cpu.passed = attempted
        loop.cpu.passed_at = now
    if now - loop.cpu.passed_at > YIELD_FORGET_NS or loop.cpu.turns == turns:
        return UINT64_MAX
    return (loop.cpu.waited - waited) // (loop.cpu.turns - turns)


cdef inline void accept_pacing_look(Loop* loop) noexcept nogil:
    """While it accepts: takes part in setting the pace."""
    cdef Hub* hub = loop.hub
    cdef uint64_t now, due, wait, after, gap = se_load_relaxed(&hub.yield_gap)
    if hub.set.yield_longest == 0:
        return
    now = se_now_ns()
    if now - loop.cpu.looked < YIELD_LOOK_NS:
        return
    wait = _pace_waited(loop, now)
    due = se_load_relaxed(&hub.yield_due)
    if wait == UINT64_MAX:
        if gap and now > due + YIELD_FORGET_NS:
            se_store_relaxed(&hub.yield_gap, 0)
        return
    if now < due or not se_cas_relaxed(&hub.yield_due, &due, now + YIELD_LOOK_NS):
        return
    after = accept_pacing_after(gap, wait, hub.set.yield_shortest, hub.set.yield_longest)
    if after > gap:
        loop.n[C_ACCEPT_YIELDED] += 1
    se_store_relaxed(&hub.yield_gap, after)


# -- who may come --

cdef inline bint _pace_is_due(Hub* hub, uint64_t gap) noexcept nogil:
    """Whether one more connection is within the pace, which then counts it; accept_pacing_refund takes that back."""
    cdef uint64_t now = se_now_ns(), due = se_load_relaxed(&hub.accept_due), after
    cdef uint64_t burst = ACCEPT_BURST_MS * 1000000
    if burst < gap:
        burst = gap
    while True:
        after = (due if due > now else now) + gap
        if after > now + burst:
            return False
        if se_cas_relaxed(&hub.accept_due, &due, after):
            return True


cdef inline bint accept_pacing_allows(Loop* loop, uint64_t* paid) noexcept nogil:
    """Whether one more may be accepted, and what was paid for it. If not, who is queued waits, but for a stop."""
    cdef uint64_t gap = _pace_gap(loop.hub)
    paid[0] = 0
    if gap == 0 or loop.accept.shut:
        return True
    if _pace_is_due(loop.hub, gap):
        paid[0] = gap
        return True
    loop.accept.paced = True
    loop.n[C_ACCEPT_PACED] += 1
    return False


cdef inline void accept_pacing_refund(Hub* hub, uint64_t paid) noexcept nogil:
    """Of what was paid for a connection that was not there, or whose client had left."""
    if paid:
        se_sub_relaxed(&hub.accept_due, paid)
