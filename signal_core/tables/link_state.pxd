"""The state of the NATS link. Owned by loop 0."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.limits cimport INSTANCE_SIZE, RECEIPTS_OWED
from signal_core.base.memory cimport Packet
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

cdef struct Waiter:               # a SUB that awaits NATS's PONG
    uint64_t id                   # 8  connection
    uint32_t ping                 # 4  the PING whose answer it awaits; 0: one after the subscriptions are made again
    uint32_t index                # 4  of the room in Link.subs
    uint32_t serial               # 4  of that room: another may have its index by now
    uint8_t size                  # 1  of the ref; 0: the join of a URL
    uint8_t presence              # 1  a SUB with presence
    char ref[REF_MAX]             # 16

cdef struct SentSub:              # a SUB that NATS has not answered for yet
    uint32_t sid                  # 4
    uint32_t ping                 # 4  the PING behind it

cdef struct Node:                 # another node, as heard on NATS
    char name[NODE_MAX]           # 16
    char instance[INSTANCE_SIZE]  # 16
    uint64_t epoch                # 8  its number of times that we may have missed presence
    uint32_t heard                # 4  tick of its last heartbeat
    uint32_t cursor               # 4  next index of Link.audiences to look at on its behalf
    uint8_t size                  # 1  of its name; 0: a free index, but index 0 stands for all nodes
    bint watches                  # 4  it has watchers, as its last heartbeat says
    bint walks                    # 4  the cursor is on its way
    bint asks                     # 4  ... to ask it who is there, too

cdef struct LinkInput:            # what was read and is not parsed yet (nats/read_buffer.pxd)
    uint8_t* data
    uint32_t size
    uint32_t used
    uint32_t start                # bytes of it already parsed
    uint32_t grown                # tick at which it was last larger than NATS_READ_BUFFER and in use
    uint64_t skip                 # bytes of a message too large to be kept that are still to come

cdef struct LinkTls:              # its TLS session (nats/tls.pxd)
    void* session                 # session of OpenSSL; NULL: none
    Packet* line                  # CONNECT, until the TLS handshake is done
    uint8_t* record               # TLS_RECORD bytes of plaintext on their way into the session
    uint32_t record_used
    uint32_t record_start         # bytes of it that the session has taken

cdef struct LinkInfo:             # INFO on its way to Python (nats/server_info.pxd)
    Packet* newest                # the newest INFO, where Python has not taken the one before; NULL: none
    bint out                      # Python has one,
    uint32_t told                 # ... handed over at this tick

cdef struct LinkErrors:           # -ERRs that Python was told of (nats/errors.pxd)
    uint32_t since                # tick at which -ERRs were last counted anew,
    uint32_t told                 # ... how many of them Python was told since,
    uint32_t untold               # ... and how many not

cdef struct LinkSubs:             # a subscription for each room (nats/subscriptions.pxd)
    bint syncing                  # SUBs were written since the last PING
    bint starved                  # there was no memory for a SUB: the subscriptions are looked through next tick
    RoomEntry** rooms             # by index; a room's sid is its index + FIRST_SID
    uint32_t used
    uint32_t size
    uint32_t* free                # free indices
    uint32_t nfree
    Packet* unsettled             # KIND_SYNCs that wait for memory
    uint32_t resume               # first index not yet subscribed again after a reconnect

cdef struct SubLimit:             # SUBs that NATS has not answered for, and its limit (nats/sub_limit.pxd)
    uint32_t* fresh               # sids of SUBs that are written at the end of the iteration
    uint32_t fresh_used
    uint32_t fresh_size
    SentSub* sent                 # oldest first
    uint32_t sent_head
    uint32_t sent_used
    uint32_t sent_size
    uint32_t over                 # -ERRs since the last PONG that there are too many subscriptions,
    uint32_t unplaced             # ... and that one is not allowed of which nothing is known
    bint full                     # NATS takes no more subscriptions, as far as is known,
    uint32_t spare                # ... but for so many that may be tried
    bint probing                  # more are tried than were given up
    uint32_t burst                # how many are tried next
    uint32_t retry_due            # tick at which they are
    uint32_t retry                # place among rooms, and then audiences, from which on they are looked for
    uint32_t refused              # rooms and audiences that are SUB_OVER
    uint32_t late                 # audiences that were, and await their SUB
    uint32_t over_told            # tick at which the log was told that it is full; 0: never

cdef struct Waiters:              # SUBs of clients that await a PONG, oldest first (nats/subscriptions.pxd)
    Waiter* list                  # oldest first
    uint32_t head
    uint32_t used
    uint32_t size

cdef struct OwedReceipts:         # the latest publishes that owe a receipt (delivery/nats_publish.pxd)
    uint64_t subject[RECEIPTS_OWED]  # hashes of the latest publishes that owe a receipt
    uint64_t id[RECEIPTS_OWED]
    char ref[RECEIPTS_OWED][REF_MAX]  # of a TO
    uint8_t size[RECEIPTS_OWED]   # 0: a PUB, whose ref was answered
    uint32_t next

cdef struct LinkPresence:         # presence across nodes (presence/)
    bint again                    # something of presence was put off to the next tick
    bint asking                   # ... and is being looked for,
    uint32_t asks_at              # ... from this place among the audiences on
    uint32_t walks                # nodes whose cursor is on its way
    char instance[INSTANCE_SIZE]  # hex: tells two nodes of one name apart
    Audience** audiences          # rooms with listeners, by place
    uint32_t audiences_used
    uint32_t audiences_size
    uint32_t* audiences_free      # free indices
    uint32_t audiences_nfree
    Node* nodes                   # by place; 0 stands for all nodes
    uint32_t nodes_used
    uint32_t nodes_size
    bint torn                     # presence for NATS was dropped since the last heartbeat
    uint32_t beat_due             # tick of the next heartbeat
    uint64_t told_epoch           # that it told
    bint denied                   # NATS has refused a subject of presence, and the log said so

cdef struct Link:
    int fd
    uint32_t state                # LINK_*
    uint32_t due                  # tick at which the state's patience ends
    uint32_t heard                # tick of the last byte received
    uint32_t pinged               # pings sent
    uint32_t ponged               # pongs received
    bint more                     # operations are left over from the last iteration
    bint blocked                  # EPOLLOUT is armed
    LinkPresence presence         # presence across nodes (presence/)
    uint32_t looked               # tick of the last look for what has waited too long
    bint dirty                    # something waits to be written
    LinkSubs subs                 # a subscription for each room (nats/subscriptions.pxd)
    bint asked                    # a keepalive PING is unanswered
    uint32_t leaving              # the PING whose answer ends the connection; 0: none does
    LinkTls tls                   # its TLS session (nats/tls.pxd)
    Queue out
    uint64_t max_payload
    LinkInput input               # what was read and is not parsed yet (nats/read_buffer.pxd)
    uint32_t owed                 # PONGs, NATS_PONGS at most
    LinkInfo info                 # INFO on its way to Python (nats/server_info.pxd)
    LinkErrors errors             # -ERRs that Python was told of (nats/errors.pxd)
    SubLimit limit                # SUBs that NATS has not answered for, and its limit (nats/sub_limit.pxd)
    uint32_t number               # of the connection: 1 for the first that is up
    bint announced                # NATS took the node's own subscriptions, and Python was told
    Waiters waiters               # SUBs of clients that await a PONG, oldest first (nats/subscriptions.pxd)
    OwedReceipts receipts         # the latest publishes that owe a receipt (delivery/nats_publish.pxd)
    char reason[REASON_SIZE]      # why the last connection ended
