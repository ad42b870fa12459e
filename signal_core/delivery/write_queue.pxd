"""Write queues: the packets for one socket, written in as few system calls as possible. The queue's loop only.

A packet is linked into its receiver's queue, and the queue into a lane of dirty queues (tables/turns.pxd), which is
written at the end of the iteration. A queue whose socket is full moves its packets from the region to the heap and
waits for EPOLLOUT. The fate of every queued packet is counted here. If a sender wants to know it, the packet goes to
Loop.told_head, a list that receipts.pxd empties.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset
from signal_core.base.counters cimport C_BYTES_OUT, C_DROPPED_EXPIRED, C_IN_FLIGHT, C_WRITES, C_WRITTEN
from signal_core.base.kinds cimport KIND_NATS, TELL_NOBODY
from signal_core.base.limits cimport IOV_MAX_SEND
from signal_core.base.memory cimport (
    PACKET_COUNTED, PACKET_SHARED, Packet, QueueNode, packet_free, packet_to_heap, packet_unref, queue_node_new,
)
from signal_core.base.sys cimport (
    EAGAIN, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, SE_COLD, errno, iovec, msghdr, send, sendmsg,
)
from signal_core.tables.codes cimport CODE_EXPIRED, CODE_OK
from signal_core.tables.conn_table cimport Queue
from signal_core.tables.state cimport Loop

cdef enum:
    WROTE_ALL = 1
    WROTE_PART = 0            # the socket is full, or the rounds are used up
    WROTE_NONE = -1           # the socket is broken


cdef inline void write_queue_tell(Loop* loop, Packet* packet, uint8_t code) noexcept nogil:
    """Settles a packet that no queue holds: it is kept for its receipt if one is wanted, else freed."""
    if packet.tell == TELL_NOBODY:
        packet_free(&loop.mem, packet)
        return
    packet.code = code
    packet.next = NULL
    if loop.told_head == NULL:
        loop.told_head = packet
    else:
        loop.told_tail.next = packet
    loop.told_tail = packet


cdef inline void write_queue_append(Queue* q, QueueNode* node, uint32_t size) noexcept nogil:
    node.next = NULL
    if q.head == NULL:
        q.head = node
    else:
        q.tail.next = node
    q.tail = node
    q.bytes += size
    q.count += 1


cdef inline bint write_queue_add(Loop* loop, Queue* q, Packet* packet) noexcept nogil:
    """Appends a packet. The queue then owns it, or one reference if it is shared; not on False, without memory."""
    cdef QueueNode* node = &packet.self
    if packet.flags & PACKET_SHARED:
        node = queue_node_new(&loop.mem)
        if node == NULL:
            return False
        node.packet = packet
        packet.refs += 1
    write_queue_append(q, node, packet.size)
    if packet.flags & PACKET_COUNTED:
        loop.n[C_IN_FLIGHT] += 1
    else:
        q.answers += 1
    return True


cdef inline void _queue_settle(Loop* loop, QueueNode* node, int counter, uint8_t code) noexcept nogil:
    """Counts a packet that left its queue under `counter`, and reports `code` as its fate."""
    cdef Packet* packet = node.packet
    if packet.flags & PACKET_COUNTED:
        loop.n[C_IN_FLIGHT] -= 1
        loop.n[counter] += 1
    if packet.tell == TELL_NOBODY or (packet.kind == KIND_NATS and code == CODE_OK):
        packet_unref(&loop.mem, node)
    else:
        write_queue_tell(loop, packet, code)


cdef inline void _queue_pop(Loop* loop, Queue* q, int counter, uint8_t code) noexcept nogil:
    """Removes the head; see _queue_settle."""
    cdef QueueNode* node = q.head
    q.head = node.next
    q.bytes -= node.packet.size - q.offset
    q.offset = 0
    q.count -= 1
    if not node.packet.flags & PACKET_COUNTED:
        q.answers -= 1
    _queue_settle(loop, node, counter, code)


cdef inline void write_queue_pop_only(Loop* loop, Queue* q) noexcept nogil:
    """Removes the only packet of a queue after all of it was written."""
    cdef QueueNode* node = q.head
    q.head = q.tail = NULL
    q.bytes = q.count = q.answers = 0
    _queue_settle(loop, node, C_WRITTEN, CODE_OK)


cdef inline void write_queue_clear(Loop* loop, Queue* q, int counter, uint8_t code) noexcept nogil:
    """Removes all packets; see _queue_settle."""
    while q.head != NULL:
        _queue_pop(loop, q, counter, code)
    q.tail = NULL


cdef inline SE_COLD write_queue_cut(Loop* loop, Queue* q, QueueNode** link, int counter, uint8_t code) noexcept nogil:
    """Removes the packet at `link`, no byte of which is written yet; see _queue_settle. The caller sets q.tail."""
    cdef QueueNode* node = link[0]
    cdef uint16_t answers = 0 if node.packet.flags & PACKET_COUNTED else 1
    cdef Queue one = Queue(head=node, tail=node, bytes=node.packet.size, offset=0, count=1, answers=answers, next=0)
    link[0] = node.next
    q.bytes -= node.packet.size
    q.count -= 1
    q.answers -= answers
    node.next = NULL
    _queue_pop(loop, &one, counter, code)


cdef inline SE_COLD write_queue_expire(Loop* loop, Queue* q) noexcept nogil:
    """Drops expired packets. A head that is partly written stays."""
    cdef QueueNode** link = &q.head
    cdef QueueNode* last = NULL
    if q.head != NULL and q.offset:
        last = q.head
        link = &q.head.next
    while link[0] != NULL:
        if link[0].packet.expires == 0 or link[0].packet.expires >= loop.tick:
            last = link[0]
            link = &last.next
        else:
            write_queue_cut(loop, q, link, C_DROPPED_EXPIRED, CODE_EXPIRED)
    q.tail = last


cdef inline void write_queue_advance(Loop* loop, Queue* q, size_t n) noexcept nogil:
    """Removes the first n bytes, which the socket took. The caller resets q.tail when the queue is empty."""
    cdef size_t left
    while n:
        left = q.head.packet.size - q.offset
        if n < left:
            q.offset += <uint32_t>n
            q.bytes -= <uint32_t>n
            return
        n -= left
        _queue_pop(loop, q, C_WRITTEN, CODE_OK)


cdef inline size_t _queue_gather(Loop* loop, Queue* q, iovec* iov, size_t* bytes) noexcept nogil:
    cdef QueueNode* node = q.head
    cdef size_t n = 0, total = 0
    cdef uint32_t skip = q.offset
    while node != NULL and n < IOV_MAX_SEND:
        iov[n].iov_base = node.packet.data + skip
        iov[n].iov_len = node.packet.size - skip
        total += iov[n].iov_len
        skip = 0
        n += 1
        node = node.next
    bytes[0] = total
    return n


cdef inline ssize_t _queue_send(Loop* loop, int fd, Queue* q, size_t* want) noexcept nogil:
    """Writes the queue, which is not empty, with one system call. Returns the bytes that the socket took of `want`;
    -1: errno says why it took none."""
    cdef msghdr message
    loop.n[C_WRITES] += 1
    if q.head.next == NULL:
        want[0] = q.head.packet.size - q.offset
        return send(fd, q.head.packet.data + q.offset, want[0], MSG_NOSIGNAL | MSG_DONTWAIT)
    memset(&message, 0, sizeof(message))
    message.msg_iov = loop.iov
    message.msg_iovlen = _queue_gather(loop, q, loop.iov, want)
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)


cdef inline int write_queue_write(Loop* loop, int fd, Queue* q, uint32_t rounds) noexcept nogil:
    """Writes until the queue is empty (WROTE_ALL), the socket is full or `rounds` system calls are made (WROTE_PART),
    or the socket is broken (WROTE_NONE). Drops expired packets first."""
    cdef ssize_t sent
    cdef size_t want
    while True:
        if q.head != NULL and q.head.packet.expires and q.head.packet.expires < loop.tick:
            write_queue_expire(loop, q)
        if q.head == NULL:
            q.tail = NULL
            return WROTE_ALL
        if rounds == 0:
            return WROTE_PART
        rounds -= 1
        sent = _queue_send(loop, fd, q, &want)
        if sent < 0:
            if errno == EINTR:
                continue
            return WROTE_PART if errno == EAGAIN else WROTE_NONE
        loop.n[C_BYTES_OUT] += <uint64_t>sent
        loop.turn.work += 1
        write_queue_advance(loop, q, <size_t>sent)
        if <size_t>sent < want:
            return WROTE_PART


cdef inline bint write_queue_to_heap(Loop* loop, Queue* q) noexcept nogil:
    """Moves packets from the region to the heap, because they will outlive the iteration. False without memory: those
    not moved stay in the region."""
    cdef QueueNode** link = &q.head
    cdef QueueNode* node
    cdef Packet* copy
    while link[0] != NULL:
        node = link[0]
        if node.packet.region != NULL:
            copy = packet_to_heap(&loop.mem, node.packet)
            if copy == NULL:
                return False
            link[0] = &copy.self
            if q.tail == node:
                q.tail = &copy.self
        link = &link[0].next
    return True
