"""The state of the NATS link. Owned by loop 0."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.limits cimport INSTANCE_SIZE, RECEIPTS_OWED
from signal_core.base.memory cimport Packet
from signal_core.base.span cimport Span, span_of
from signal_core.tables.conn_table cimport Queue
from signal_core.tables.room_table cimport Audience, RoomEntry
from signal_core.wire.ids cimport NODE_MAX, REF_MAX

cdef enum:
    # Link.state
    LINK_IDLE = 0                 # waits for an address to dial
    LINK_DIALING = 1              # connect() is under way
    LINK_GREETING = 2             # waits for INFO
    LINK_ASKING = 3               # INFO is with Python: waits for the CONNECT line
    LINK_SECURING = 4             # the TLS handshake is under way
    LINK_LOGIN = 5                # CONNECT is sent: waits for PONG
    LINK_NAMING = 6               # asks whether the node's name is taken
    LINK_UP = 7

    REASON_SIZE = 160             # bytes of Link.reason

cdef struct Waiter:               # a SUB of a client that awaits NATS's PONG
    uint64_t id                   # 8  connection
    uint32_t ping                 # 4  number of the PING whose answer it awaits; 0: a PING after resubscribing
    uint32_t index                # 4  index of the room in LinkSubs.rooms
    uint32_t serial               # 4  of that room: another room may have its index by now
    uint8_t size                  # 1  bytes of the ref; 0: the SUB is for a room of a URL
    uint8_t presence              # 1  a SUB with presence
    char ref[REF_MAX]             # 16

cdef struct SentSub:              # a SUB that NATS may still refuse
    uint32_t sid                  # 4
    uint32_t ping                 # 4  number of the PING sent after it

cdef struct Node:                 # another node, known by its messages on NATS
    char name[NODE_MAX]           # 16
    char instance[INSTANCE_SIZE]  # 16
    uint64_t epoch                # 8  its presence epoch: it changes when we may have missed presence of its clients
    uint32_t heard                # 4  tick of its last heartbeat
    uint32_t cursor               # 4  next index of LinkPresence.audiences to visit on its behalf
    uint8_t size                  # 1  bytes of its name; 0: the entry is free (index 0 stands for all nodes)
    bint watches                  # 4  it has watchers, as its last heartbeat says
    bint walks                    # 4  the cursor has not reached the end
    bint asks                     # 4  ... and it is queried for each room on the way

cdef struct LinkInput:            # bytes read and not parsed yet (nats/read_buffer.pxd)
    uint8_t* data
    uint32_t size
    uint32_t used
    uint32_t start                # offset of the first byte that is not parsed
    uint32_t grown                # tick at which more than NATS_READ_BUFFER was last needed
    uint64_t skip                 # bytes still to come of a message that is too large to keep

cdef struct LinkTls:              # the TLS session (nats/tls.pxd)
    void* session                 # OpenSSL's SSL object; NULL: none
    Packet* line                  # the CONNECT line, until the TLS handshake is done
    uint8_t* record               # TLS_RECORD bytes of plaintext on their way to OpenSSL
    uint32_t record_used
    uint32_t record_start         # bytes of it that OpenSSL has taken

cdef struct LinkInfo:             # INFO messages on their way to Python (nats/server_info.pxd)
    Packet* newest                # the newest, while Python has not handled the one before; NULL: none
    bint out                      # Python is handling one
    uint32_t told                 # tick at which it was handed over

cdef struct LinkErrors:           # -ERRs reported to Python (nats/errors.pxd)
    uint32_t since                # tick at which the present second began
    uint32_t told                 # -ERRs reported in it
    uint32_t untold               # -ERRs in it that were only counted

cdef struct LinkSubs:             # a subscription for each room (nats/subscriptions.pxd)
    bint syncing                  # SUBs were written since the last PING
    bint starved                  # no memory for a SUB: the subscriptions are checked at the next tick
    RoomEntry** rooms             # by index; the sid of a room is its index + FIRST_SID
    uint32_t used
    uint32_t size
    uint32_t* free                # free indexes
    uint32_t nfree
    Packet* unsettled             # KIND_SYNCs that wait for memory
    uint32_t resume               # first index not resubscribed since the reconnect

cdef struct SubLimit:             # SUBs that NATS may still refuse, and its limit (nats/sub_limit.pxd)
    uint32_t* fresh               # sids of SUBs written at the end of this iteration
    uint32_t fresh_used
    uint32_t fresh_size
    SentSub* sent                 # oldest first
    uint32_t sent_head
    uint32_t sent_used
    uint32_t sent_size
    uint32_t over                 # -ERRs about too many subscriptions since the last PONG
    uint32_t unidentified         # -ERRs since then about a subscription that could not be identified
    bint full                     # NATS accepts no more subscriptions, as far as is known
    uint32_t spare                # subscriptions that may be tried all the same
    bint probing                  # more subscriptions are tried than were given up
    uint32_t burst                # subscriptions to try next time
    uint32_t retry_due            # tick of the next try
    uint32_t retry                # index among rooms, then audiences, at which the search for them goes on
    uint32_t refused              # rooms and audiences in state SUB_OVER
    uint32_t late                 # audiences that were in that state and await their SUB
    uint32_t over_told            # tick of the last log line that NATS is full; 0: none

cdef struct Waiters:              # SUBs of clients that await a PONG (nats/subscriptions.pxd)
    Waiter* list                  # oldest first
    uint32_t head
    uint32_t used
    uint32_t size

cdef struct OwedReceipts:         # the latest publishes with a ref, a ring (delivery/nats_publish.pxd)
    uint64_t subject[RECEIPTS_OWED]  # hashes of their subjects
    uint64_t id[RECEIPTS_OWED]
    char ref[RECEIPTS_OWED][REF_MAX]  # the ref of a TO
    uint8_t size[RECEIPTS_OWED]   # bytes of the ref; 0: a PUB, whose ref is answered already
    uint32_t next

cdef struct LinkPresence:         # presence across nodes (presence/)
    bint again                    # presence work was postponed to the next tick
    bint asking                   # that work is being done
    uint32_t asks_at              # next index of `audiences` to do it for
    uint32_t walks                # nodes whose cursor has not reached the end
    char instance[INSTANCE_SIZE]  # hex; distinguishes two nodes with one name
    Audience** audiences          # rooms with watchers, by index
    uint32_t audiences_used
    uint32_t audiences_size
    uint32_t* audiences_free      # free indexes
    uint32_t audiences_nfree
    Node* nodes                   # by index; 0 stands for all nodes
    uint32_t nodes_used
    uint32_t nodes_size
    bint torn                     # presence for NATS was dropped since the last heartbeat
    uint32_t beat_due             # tick of the next heartbeat
    uint64_t told_epoch           # presence epoch in the last heartbeat
    bint denied                   # NATS has refused a presence subject, and the log says so

cdef struct Link:
    int fd
    uint32_t state                # LINK_*
    uint32_t due                  # tick at which the state times out
    uint32_t heard                # tick of the last byte received
    uint32_t pinged               # PINGs sent
    uint32_t ponged               # PONGs received
    bint more                     # operations are left over from the last iteration
    bint blocked                  # EPOLLOUT is armed
    LinkPresence presence         # presence across nodes
    uint32_t looked               # tick of the last check for expired messages while blocked
    bint dirty                    # something waits to be written
    LinkSubs subs                 # a subscription for each room
    bint asked                    # a keepalive PING is unanswered
    uint32_t leaving              # number of the PING whose answer ends the connection; 0: none
    LinkTls tls                   # the TLS session
    Queue out
    uint64_t max_payload
    LinkInput input               # bytes read and not parsed yet
    uint32_t owed                 # PONGs to send, at most NATS_PONGS
    LinkInfo info                 # INFO messages on their way to Python
    LinkErrors errors             # -ERRs reported to Python
    SubLimit limit                # SUBs that NATS may still refuse, and its limit
    uint32_t number               # number of the connection, from 1
    bint announced                # NATS accepted the node's own subscriptions, and Python knows
    Waiters waiters               # SUBs of clients that await a PONG
    OwedReceipts receipts         # the latest publishes with a ref
    char reason[REASON_SIZE]      # why the last connection ended


cdef inline Span waiter_ref(const Waiter* waiter) noexcept nogil:
    """Returns the ref, valid as long as the waiter is in its list; empty: the SUB is for a room of a URL."""
    return span_of(waiter.ref, waiter.size)


cdef inline Span node_name(const Node* node) noexcept nogil:
    """Returns the node's name; valid until a node is added."""
    return span_of(node.name, node.size)


cdef inline Span link_instance(const Link* link) noexcept nogil:
    return span_of(link.presence.instance, INSTANCE_SIZE)
