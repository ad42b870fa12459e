"""Keeps the memory of messages that wait for blocked sockets within backlog-total.

The gauge `backlog_bytes` is an upper bound of that memory. A message counts whole until its last byte is written, with
its struct and malloc's head; each blocked connection counts with its Extra. A room's message, which its receivers on
the loop share, counts for each of them.
"""

from libc.stdint cimport uint64_t
from signal_core.base.counters cimport C_BACKLOG_BYTES, C_DROPPED_SLOW_PEER
from signal_core.base.memory cimport PACKET_COUNTED, QueueNode
from signal_core.delivery.write_queue cimport write_queue_cut
from signal_core.tables.codes cimport CODE_SLOW_PEER
from signal_core.tables.conn_table cimport Queue
from signal_core.tables.state cimport Loop

cdef enum:
    MESSAGE_COST = 112        # bytes of a Packet and malloc's head
    BLOCKED_COST = 96         # bytes of an Extra and malloc's head


cdef inline uint64_t backlog_cost(const Queue* q) noexcept nogil:
    """Returns the bytes that a blocked connection's queue counts for."""
    return BLOCKED_COST + <uint64_t>q.bytes + q.offset + <uint64_t>q.count * MESSAGE_COST


cdef inline bint backlog_has_room(const Loop* loop, uint64_t more) noexcept nogil:
    """Whether the loop's share of backlog-total has `more` bytes left."""
    return loop.n[C_BACKLOG_BYTES] + more <= loop.set.backlog_loop


cdef inline bint backlog_has_share(const Loop* loop, uint64_t cost, uint64_t more) noexcept nogil:
    """Whether a receiver whose backlog costs `cost` may have `more` bytes: it may have no more than is still free. So a
    receiver that blocks later finds as much as any other has, however many do not read."""
    return backlog_has_room(loop, cost + more)


cdef inline bint backlog_trim(Loop* loop, Queue* q, uint64_t* dropped) noexcept nogil:
    """Drops the newest deliveries of a queue whose socket is full until the rest is within its share. Called before the
    queue is counted; adds the dropped frames to `dropped`.

    Answers of the engine and a half-written message stay. False: the loop has no room for the half-written message.
    """
    cdef QueueNode** link = &q.head
    cdef QueueNode* last = NULL
    cdef uint64_t cost = BLOCKED_COST
    cdef bint full = False
    while link[0] != NULL:
        cost += link[0].packet.size + MESSAGE_COST
        full = full or not backlog_has_share(loop, cost, cost)
        if last == NULL and q.offset:
            if link[0].packet.flags & PACKET_COUNTED and not backlog_has_room(loop, cost):
                return False
        elif link[0].packet.flags & PACKET_COUNTED and full:
            cost -= link[0].packet.size + MESSAGE_COST
            dropped[0] += 1 + link[0].packet.more_frames
            write_queue_cut(loop, q, link, C_DROPPED_SLOW_PEER, CODE_SLOW_PEER)
            continue
        last = link[0]
        link = &last.next
    q.tail = last
    return True
