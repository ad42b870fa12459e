"""A loop's mailbox: a lock-free queue of packets with many producers and one consumer.

A producer posts a chain of packets with one compare-and-swap. The consumer takes all chains with one swap, and restores
the order in which they were posted. The packets of one producer stay in order.

A producer writes to the consumer's eventfd only if the consumer sleeps. epoll reports each write (EPOLLET), so nobody
reads the counter, which cannot overflow within centuries.

While a chain is in the mailbox, the unused queue node of its head holds the links: `self.next` is the chain posted
before it, `self.packet` the chain's tail.
"""

from libc.stdint cimport uint64_t
from signal_core.base.memory cimport Packet, QueueNode
from signal_core.base.sys cimport (
    se_add_relaxed, se_load_relaxed, se_load_seqcst, se_pointer_acquire, se_pointer_cas_seqcst, se_pointer_swap_acqrel,
    se_store_seqcst, se_sub_relaxed, se_swap_seqcst, write,
)

cdef struct Mailbox:
    void* newest          # 8  head of the chain posted last
    uint64_t waiting      # 8  payload messages posted and not yet taken
    uint64_t bytes        # 8  their bytes
    uint64_t asleep       # 8  1: the consumer is, or is about to be, in epoll_wait
    uint64_t limit        # 8  atomic: most payload messages
    uint64_t limit_bytes  # 8  atomic: most bytes of them
    int wake              # 4  the consumer's eventfd
    int spare             # 4
    uint64_t tasks        # 8  tasks posted and not yet handled

cdef struct Chain:        # what a producer gathers for one mailbox during an iteration
    Packet* head          # 8
    Packet* tail          # 8
    uint64_t count        # 8  payload messages in it
    uint64_t bytes        # 8  their bytes
    uint64_t tasks        # 8  tasks in it


cdef inline void chain_add(Chain* chain, Packet* packet, bint payload) noexcept nogil:
    packet.next = NULL
    if chain.head == NULL:
        chain.head = packet
    else:
        chain.tail.next = packet
    chain.tail = packet
    if payload:
        chain.count += 1
        chain.bytes += packet.size
    else:
        chain.tasks += 1


cdef inline bint mailbox_has_room(Mailbox* mailbox, const Chain* held, size_t bytes) noexcept nogil:
    """Whether a payload message of `bytes` fits, with those that the producer still holds in its chain."""
    return (se_load_relaxed(&mailbox.waiting) + held.count < se_load_relaxed(&mailbox.limit)
            and se_load_relaxed(&mailbox.bytes) + held.bytes + bytes <= se_load_relaxed(&mailbox.limit_bytes))


cdef inline void mailbox_wake(Mailbox* mailbox) noexcept nogil:
    """Wakes the consumer if it sleeps. Any thread."""
    cdef uint64_t one = 1
    if se_load_seqcst(&mailbox.asleep) and se_swap_seqcst(&mailbox.asleep, 0):
        write(mailbox.wake, &one, 8)


cdef inline void mailbox_push(Mailbox* mailbox, Chain* chain) noexcept nogil:
    """Posts a chain and empties it. Any thread. The consumer owns the packets from then on."""
    cdef Packet* head = chain.head
    cdef void* before
    if head == NULL:
        return
    se_add_relaxed(&mailbox.waiting, chain.count)
    se_add_relaxed(&mailbox.bytes, chain.bytes)
    if chain.tasks:
        se_add_relaxed(&mailbox.tasks, chain.tasks)
    head.self.packet = chain.tail
    chain.head = chain.tail = NULL
    chain.count = chain.bytes = chain.tasks = 0
    before = se_pointer_acquire(&mailbox.newest)
    while True:
        head.self.next = <QueueNode*>before
        if se_pointer_cas_seqcst(&mailbox.newest, &before, head):
            break
    mailbox_wake(mailbox)


cdef inline bint mailbox_is_empty(Mailbox* mailbox) noexcept nogil:
    return se_load_seqcst(<uint64_t*>&mailbox.newest) == 0


cdef inline Packet* mailbox_take(Mailbox* mailbox) noexcept nogil:
    """Takes all that was posted, oldest first, linked by `next`; NULL: nothing. The consumer only."""
    cdef Packet* chain
    cdef Packet* tail
    cdef Packet* before
    cdef Packet* taken = NULL
    if se_pointer_acquire(&mailbox.newest) == NULL:
        return NULL
    chain = <Packet*>se_pointer_swap_acqrel(&mailbox.newest, NULL)
    while chain != NULL:
        before = <Packet*>chain.self.next
        tail = chain.self.packet
        chain.self.next = NULL
        chain.self.packet = chain
        tail.next = taken
        taken = chain
        chain = before
    return taken


cdef inline void mailbox_taken(Mailbox* mailbox, const Packet* packet) noexcept nogil:
    """Makes room for another payload message. The consumer calls it when it is done with `packet`."""
    se_sub_relaxed(&mailbox.waiting, 1)
    se_sub_relaxed(&mailbox.bytes, packet.size)


cdef inline void mailbox_tasks_done(Mailbox* mailbox, uint64_t count) noexcept nogil:
    """Counts `count` tasks as handled. The consumer only."""
    se_sub_relaxed(&mailbox.tasks, count)


cdef inline void mailbox_sleep(Mailbox* mailbox) noexcept nogil:
    """Makes producers wake the consumer. It must check once more that the mailbox is empty before it sleeps."""
    se_store_seqcst(&mailbox.asleep, 1)


cdef inline void mailbox_awake(Mailbox* mailbox) noexcept nogil:
    se_store_seqcst(&mailbox.asleep, 0)
