"""A loop's mailbox: many threads post, one takes.

Producers push whole chains with one compare-and-swap; the consumer takes all with one swap and puts the chains back
into the order in which they came. Within a chain, and among the chains of one producer, order holds.
A producer wakes the consumer only where it said that it sleeps, by one write to its eventfd. A loop is told of each
write (EPOLLET) and never reads the counter, which can't be full within centuries.
While a chain is in the mailbox, the queue node of its head is unused and holds the links: `self.next` is the chain
posted before it, `self.packet` the chain's tail.
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
    uint64_t limit        # 8  payload messages at most
    uint64_t limit_bytes  # 8  their bytes at most
    int wake              # 4  the consumer's eventfd
    int spare             # 4
    uint64_t tasks        # 8  messages without payload posted and not yet handled

cdef struct Chain:        # what a producer gathers for one mailbox during an iteration
    Packet* head          # 8
    Packet* tail          # 8
    uint64_t count        # 8  payload messages in it
    uint64_t bytes        # 8  their bytes
    uint64_t tasks        # 8  messages without payload in it


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
    """Whether a payload message of so many bytes fits, beside those that the producer still holds back."""
    return (se_load_relaxed(&mailbox.waiting) + held.count < mailbox.limit
            and se_load_relaxed(&mailbox.bytes) + held.bytes + bytes <= mailbox.limit_bytes)


cdef inline void mailbox_wake(Mailbox* mailbox) noexcept nogil:
    cdef uint64_t one = 1
    if se_load_seqcst(&mailbox.asleep) and se_swap_seqcst(&mailbox.asleep, 0):
        write(mailbox.wake, &one, 8)


cdef inline void mailbox_push(Mailbox* mailbox, Chain* chain) noexcept nogil:
    """Posts a chain and empties it. Any thread; the messages belong to the consumer from here on."""
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
    """All that was posted, oldest first, linked by `next`; NULL where there is nothing. The consumer only."""
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
    """The consumer is done with a payload message: there is room for another."""
    se_sub_relaxed(&mailbox.waiting, 1)
    se_sub_relaxed(&mailbox.bytes, packet.size)


cdef inline void mailbox_tasks_done(Mailbox* mailbox, uint64_t count) noexcept nogil:
    """The consumer is done with so many tasks."""
    se_sub_relaxed(&mailbox.tasks, count)


cdef inline void mailbox_sleep(Mailbox* mailbox) noexcept nogil:
    """The consumer says that it will sleep; it looks once more whether the mailbox is empty before it does."""
    se_store_seqcst(&mailbox.asleep, 1)


cdef inline void mailbox_awake(Mailbox* mailbox) noexcept nogil:
    se_store_seqcst(&mailbox.asleep, 0)
