"""A loop's inbox: many threads post, one takes. L1.

Producers push whole chains with one compare-and-swap; the consumer takes all with one swap and puts the chains back
into the order in which they came. Within a chain, and among the chains of one producer, order holds.
A producer wakes the consumer only where it said that it sleeps, by one write to its eventfd. A loop is told of each
write (EPOLLET) and never reads the counter, which can't be full within centuries.
While a chain is in the inbox its head's own place is unused and holds the links: `self.next` the chain posted before,
`self.msg` the chain's tail.
"""

from libc.stdint cimport uint64_t
from signal_core.memory cimport Msg, Out
from signal_core.sys cimport (
    se_add_relaxed, se_load_relaxed, se_load_seqcst, se_pointer_acquire, se_pointer_cas_seqcst,
    se_pointer_swap_acqrel, se_store_seqcst, se_sub_relaxed, se_swap_seqcst, write,
)

cdef struct Inbox:
    void* newest          # 8  head of the chain posted last
    uint64_t waiting      # 8  payload messages posted and not yet taken
    uint64_t bytes        # 8  their bytes
    uint64_t asleep       # 8  1: the consumer is, or is about to be, in epoll_wait
    uint64_t limit        # 8  payload messages at most
    uint64_t limit_bytes  # 8  their bytes at most
    int wake              # 4  the consumer's eventfd
    int spare             # 4
    uint64_t words        # 8  other messages posted and not yet handled

cdef struct Chain:        # what a producer gathers for one inbox during an iteration
    Msg* head             # 8
    Msg* tail             # 8
    uint64_t count        # 8  payload messages in it
    uint64_t bytes        # 8  their bytes
    uint64_t words        # 8  other messages in it


cdef inline void chain_add(Chain* chain, Msg* msg, bint payload) noexcept nogil:
    msg.next = NULL
    if chain.head == NULL:
        chain.head = msg
    else:
        chain.tail.next = msg
    chain.tail = msg
    if payload:
        chain.count += 1
        chain.bytes += msg.size
    else:
        chain.words += 1


cdef inline bint inbox_has_room(Inbox* inbox, const Chain* held, size_t bytes) noexcept nogil:
    """Whether a payload message of so many bytes fits, beside those that the producer still holds back."""
    return (se_load_relaxed(&inbox.waiting) + held.count < inbox.limit
            and se_load_relaxed(&inbox.bytes) + held.bytes + bytes <= inbox.limit_bytes)


cdef inline void inbox_wake(Inbox* inbox) noexcept nogil:
    cdef uint64_t one = 1
    if se_load_seqcst(&inbox.asleep) and se_swap_seqcst(&inbox.asleep, 0):
        write(inbox.wake, &one, 8)


cdef inline void inbox_push(Inbox* inbox, Chain* chain) noexcept nogil:
    """Posts a chain and empties it. Any thread; the messages belong to the consumer from here on."""
    cdef Msg* head = chain.head
    cdef void* before
    if head == NULL:
        return
    se_add_relaxed(&inbox.waiting, chain.count)
    se_add_relaxed(&inbox.bytes, chain.bytes)
    if chain.words:
        se_add_relaxed(&inbox.words, chain.words)
    head.self.msg = chain.tail
    chain.head = chain.tail = NULL
    chain.count = chain.bytes = chain.words = 0
    before = se_pointer_acquire(&inbox.newest)
    while True:
        head.self.next = <Out*>before
        if se_pointer_cas_seqcst(&inbox.newest, &before, head):
            break
    inbox_wake(inbox)


cdef inline bint inbox_is_empty(Inbox* inbox) noexcept nogil:
    return se_load_seqcst(<uint64_t*>&inbox.newest) == 0


cdef inline Msg* inbox_take(Inbox* inbox) noexcept nogil:
    """All that was posted, oldest first, linked by `next`; NULL where there is nothing. The consumer only."""
    cdef Msg* chain
    cdef Msg* tail
    cdef Msg* before
    cdef Msg* taken = NULL
    if se_pointer_acquire(&inbox.newest) == NULL:
        return NULL
    chain = <Msg*>se_pointer_swap_acqrel(&inbox.newest, NULL)
    while chain != NULL:
        before = <Msg*>chain.self.next
        tail = chain.self.msg
        chain.self.next = NULL
        chain.self.msg = chain
        tail.next = taken
        taken = chain
        chain = before
    return taken


cdef inline void inbox_taken(Inbox* inbox, const Msg* msg) noexcept nogil:
    """The consumer is done with a payload message: there is room for another."""
    se_sub_relaxed(&inbox.waiting, 1)
    se_sub_relaxed(&inbox.bytes, msg.size)


cdef inline void inbox_words_taken(Inbox* inbox, uint64_t count) noexcept nogil:
    """The consumer is done with so many other messages."""
    se_sub_relaxed(&inbox.words, count)


cdef inline void inbox_sleep(Inbox* inbox) noexcept nogil:
    """The consumer says that it will sleep; it looks once more whether the inbox is empty before it does."""
    se_store_seqcst(&inbox.asleep, 1)


cdef inline void inbox_awake(Inbox* inbox) noexcept nogil:
    se_store_seqcst(&inbox.asleep, 0)
