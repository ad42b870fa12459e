"""The pace of new connections: accept-rate, and with accept-yield slower while loops wait for a processor.

Connected clients come first. With accept-yield, a loop that passes messages checks, while it accepts, how long it
waited for a processor each time that it had something to do. The kernel counts that for each thread
(Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat). If it is more than YIELD_WAIT_NS, the whole process
accepts more slowly, otherwise faster again. The pace never falls below YIELD_LEAST a second for each processor that the
loops can use, so waiting clients get their turn. While no messages pass there is nothing to yield to.

Any loop calls this; what loops share is atomic in the Hub.
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
    uint64_t interval, uint64_t wait, uint64_t shortest, uint64_t longest,
) noexcept nogil:
    """Returns the next mean interval between new connections in ns: 0 (no limit), or `shortest` to `longest`.

    `interval` is the present one; `wait` is how many ns a loop waited for a processor.
    """
    if wait > YIELD_WAIT_NS:
        interval = shortest if interval == 0 else interval + interval // 4
        return interval if interval < longest else longest
    interval -= interval // 64
    return interval if interval > shortest else 0


cdef inline uint64_t _pace_interval(Loop* loop) noexcept nogil:
    """Returns the mean interval between new connections that is in force, in ns; 0: no limit."""
    cdef uint64_t interval = se_load_relaxed(&loop.hub.yield_interval)
    return interval if interval > loop.set.accept_interval else loop.set.accept_interval


# -- accept-yield --

cdef inline uint64_t _pace_waited(Loop* loop, uint64_t now) noexcept nogil:
    """Returns how many ns the loop waited for a processor, on average since its last check. UINT64_MAX: not known, or
    no messages pass."""
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
    """Adjusts the pace, at most once per YIELD_LOOK_NS of all loops. Each loop calls it while it accepts."""
    cdef Hub* hub = loop.hub
    cdef uint64_t now, due, wait, after, interval = se_load_relaxed(&hub.yield_interval)
    if loop.set.yield_longest == 0:
        return
    now = se_now_ns()
    if now - loop.cpu.looked < YIELD_LOOK_NS:
        return
    wait = _pace_waited(loop, now)
    due = se_load_relaxed(&hub.yield_due)
    if wait == UINT64_MAX:
        if interval and now > due + YIELD_FORGET_NS:
            se_store_relaxed(&hub.yield_interval, 0)
        return
    if now < due or not se_cas_relaxed(&hub.yield_due, &due, now + YIELD_LOOK_NS):
        return
    after = accept_pacing_after(interval, wait, loop.set.yield_shortest, loop.set.yield_longest)
    if after > interval:
        loop.n[C_ACCEPT_YIELDED] += 1
    se_store_relaxed(&hub.yield_interval, after)


# -- accepting --

cdef inline bint _pace_is_due(Hub* hub, uint64_t interval) noexcept nogil:
    """Whether one more connection is within the pace; if so it is counted, until accept_pacing_refund."""
    cdef uint64_t now = se_now_ns(), due = se_load_relaxed(&hub.accept_due), after
    cdef uint64_t burst = ACCEPT_BURST_MS * 1000000
    if burst < interval:
        burst = interval
    while True:
        after = (due if due > now else now) + interval
        if after > now + burst:
            return False
        if se_cas_relaxed(&hub.accept_due, &due, after):
            return True


cdef inline bint accept_pacing_allows(Loop* loop, uint64_t* paid) noexcept nogil:
    """Whether the loop may accept one more connection. `paid` is what it cost, for accept_pacing_refund. A loop that
    shuts down is not paced."""
    cdef uint64_t interval = _pace_interval(loop)
    paid[0] = 0
    if interval == 0 or loop.accept.shut:
        return True
    if _pace_is_due(loop.hub, interval):
        paid[0] = interval
        return True
    loop.accept.paced = True
    loop.n[C_ACCEPT_PACED] += 1
    return False


cdef inline void accept_pacing_refund(Hub* hub, uint64_t paid) noexcept nogil:
    """Gives back what was paid for a connection that did not come, or whose client had left."""
    if paid:
        se_sub_relaxed(&hub.accept_due, paid)
