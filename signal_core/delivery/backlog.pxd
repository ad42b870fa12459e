"""What waits for blocked sockets: what it costs in memory, and that all of it stays within backlog-total.

The gauge `backlog_bytes` is that cost, as an upper bound: a message counts whole until its last byte is written, with
its struct and its place in malloc, and each blocked connection with its Extra. A message of a room, which all its
receivers on the loop share, counts for each of them.
"""

from libc.stdint cimport uint64_t
from signal_core.base.counters cimport C_BACKLOG_BYTES, C_DROPPED_SLOW_PEER
from signal_core.base.memory cimport PACKET_COUNTED, QueueNode
from signal_core.delivery.write_queue cimport write_queue_cut
from signal_core.tables.codes cimport CODE_SLOW_PEER
from signal_core.tables.conn_table cimport Queue
from signal_core.tables.state cimport Loop

cdef enum:
    MESSAGE_COST = 112        # bytes of a Packet, and of malloc's head
    BLOCKED_COST = 96         # bytes of an Extra, and of malloc's head


cdef inline uint64_t backlog_cost(const Queue* q) noexcept nogil:
    """Of a blocked connection's queue."""
    return BLOCKED_COST + <uint64_t>q.bytes + q.offset + <uint64_t>q.count * MESSAGE_COST


cdef inline bint backlog_has_room(const Loop* loop, uint64_t more) noexcept nogil:
    """Whether the loop's share of backlog-total takes so many bytes more."""
    return loop.n[C_BACKLOG_BYTES] + more <= loop.hub.set.backlog_loop


cdef inline bint backlog_has_share(const Loop* loop, uint64_t cost, uint64_t more) noexcept nogil:
    """Whether a receiver whose backlog costs `cost` may have `more`: each has at most what is left free. So however
    many do not read, one that blocks later finds as much as they have: of those that have more, some is dropped."""
    return backlog_has_room(loop, cost + more)


cdef inline bint backlog_trim(Loop* loop, Queue* q, uint64_t* dropped) noexcept nogil:
    """Of a queue whose socket is full, before it is counted: drops the newest deliveries until the rest has room.

    It keeps its share. The engine's own answers stay, and so does a message that was begun; False where not even that
    has room.
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
