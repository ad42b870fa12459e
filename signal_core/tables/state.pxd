"""The state of an engine: the Hub that its loops share, and the Loop.

Hub: written before the loops start, then only read. Fields that change later are atomic and say so; `rooms` and
`addresses` have locks. What a reload can change is in the Settings (settings.pxd), to which each Loop points.
Loop: only its thread touches it, except for these fields:
* `mailbox` and `missed`: any thread posts to them;
* `asked_of`: other loops add to it; `behind` and `seen`: other loops read them;
* `copied`, `copy` and `histograms` (which `copied` releases), `reloaded`, `kicked`, `listened`, `listens`,
  `accept.own_table` and `done`: Python reads them. It writes `done` and `thread` when it starts the thread.
The local peer and the control thread each have a Loop without sockets (a pseudo-loop), used under the GIL. They make
packets, hold them back and post them like any other loop.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.counters cimport C_COUNT
from signal_core.base.limits cimport (
    CACHE_LINE_WORDS, DENIED_SUBJECTS, KICKS_KEPT, LOCAL_PEER_LOOP, LOOP_INDEXES,
    MAX_LISTENERS, MISSED_MOST, PREFIX_SIZE, RIGHTS_SHARED, TAGS_KEPT, TICK_MS,
)
from signal_core.base.memory cimport Mem, Packet
from signal_core.base.span cimport Span, span_of
from signal_core.base.sys cimport epoll_event, iovec, pthread_t
from signal_core.tables.acl cimport Rights
from signal_core.tables.conn_table cimport Buffer, Slab
from signal_core.tables.drop_table cimport Missed, Missing
from signal_core.tables.histogram cimport Histogram
from signal_core.tables.ip_table cimport AddressBook, Addresses
from signal_core.tables.link_state cimport Link
from signal_core.tables.loop_rooms cimport Rooms
from signal_core.tables.mailbox cimport Chain, Mailbox
from signal_core.tables.room_table cimport RoomEntry, RoomTable
from signal_core.tables.settings cimport Settings
from signal_core.tables.timer_wheel cimport Wheel
from signal_core.tables.zlib_state cimport ZlibState
from signal_core.wire.ids cimport NODE_MAX

cdef enum:
    # epoll data: a slot, or above all slots
    TAG_WAKE = 0xffffffff
    TAG_LINK = 0xfffffffe
    TAG_LISTENER = 0xffffff00    # and up: which listener

    # Hub.over
    OVER_LINE = 0                 # the request line is longer than max-request-line
    OVER_HEAD = 1                 # the head is longer than max-head
    OVER_COUNT = 2

    # Turn.dirty_head, Turn.dirty_tail
    LANE_DIRECT = 0               # messages to one peer, and the engine's own answers
    LANE_SPREAD = 1               # what fan-outs, presence and GAPs queue
    LANES = 2

    CROWD_WORDS = LOOP_INDEXES >> 6  # 64-bit words with a bit for each loop index

cdef struct Hub:
    Loop* loops[LOOP_INDEXES]     # by index; CONTROL_LOOP and LOCAL_PEER_LOOP are pseudo-loops
    uint32_t nloops
    int passing[2]                # a socket pair: Python sends descriptors on 1, loops receive them on 0
    char node[NODE_MAX + 1]       # followed by a dot, for addresses of peers
    uint32_t node_len             # without the dot
    char prefix[PREFIX_SIZE]      # of NATS subjects
    uint32_t prefix_len
    uint64_t local_peer           # id of the local peer
    uint64_t boot                 # ms; the time of tick 0
    RoomTable rooms
    uint64_t link                 # atomic: CLUSTER_*
    uint64_t clogged              # atomic: 1 while NATS reads too slowly; messages for it are refused
    uint64_t max_payload          # atomic: bytes, as the NATS server says; 0: not known yet
    uint64_t denied[DENIED_SUBJECTS]  # atomic: hashes of subjects on which NATS does not let this node publish
    uint64_t ndenied              # atomic
    uint64_t connections          # atomic: open sockets on all loops
    uint64_t quota_used           # atomic: how many of them count against max-connections
    uint64_t accept_due           # atomic: ns; the time up to which accept-rate has been used
    uint64_t yield_interval       # atomic: ns; interval between new connections that yield to messages; 0: they do not
    uint64_t yield_due            # atomic: ns; when yield_interval is adjusted next
    Addresses* addresses          # connections by address, of those counted for max-connections-per-address
    uint64_t over[OVER_COUNT]     # atomic: requests over a size limit that are not logged yet
    uint64_t over_size[OVER_COUNT]  # atomic: bytes of the latest one
    uint64_t over_due             # atomic: ms; the earliest time of the next log line about them
    uint64_t failed               # atomic: errno of a loop that could not start; 0: none
    uint64_t abroad               # atomic: tick until which other nodes are known to have watchers
    uint64_t presence_epoch       # atomic: incremented whenever other nodes may have missed presence of this node
    uint64_t nodes                # atomic: other nodes whose heartbeats are heard

cdef struct Change:               # a join or leave in this iteration
    RoomEntry* entry              # 8
    uint32_t nth                  # 4  order of arrival
    uint32_t at                   # 4  offset of its line in News.text
    uint32_t size                 # 4

cdef struct News:                 # joins and leaves to publish at the end of the iteration
    Change* changes               # 8
    char* text                    # 8
    uint32_t count                # 4
    uint32_t size                 # 4
    uint32_t text_used            # 4
    uint32_t text_size            # 4

cdef struct Drain:                # a drain (loop/shutdown.pxd)
    bint on
    bint behind                   # the last iteration reached its limit of closes: more are due
    uint32_t begun                # tick at which it began
    uint32_t by                   # tick by which the last connection is closed
    uint32_t total                # open WebSockets when it began
    uint32_t leaving              # connections it closed that are not gone yet
    uint32_t told                 # next slot to send GOAWAY to
    uint32_t cursor               # next slot to close

cdef struct Parked:               # an accepted socket that waits for the accept pace
    int fd                        # -1: already answered
    int asks                      # ASKS_*

cdef struct Lot:                  # parked clients of one listener (client/parking.pxd): a ring
    Parked* ring                  # PARKED entries; NULL: no client has waited yet
    uint32_t first                # index of the oldest
    uint32_t used
    uint32_t cursor               # offset from `first` of the one looked at last

cdef struct Line:                 # connections that wait, oldest first; FLAG_READY: it is in one
    uint32_t* slots               # 8
    uint32_t used                 # 4
    uint32_t size                 # 4

cdef struct Listener:             # a loop's listening socket (client/listening.pxd)
    int fd                        # -1: none
    uint8_t kind                  # LISTEN_*
    bint closing                  # it takes no new clients, and is closed once its accept backlog is empty
    uint32_t drain_by             # ... and this tick has come: until then TCP handshakes under way are accepted
    Lot lot                       # its parked clients

cdef struct Accepting:            # listeners, and the pace of new connections (client/listener.pxd)
    int reserve                   # a spare descriptor: given up to accept and answer 503 when none is left
    Listener listeners[MAX_LISTENERS]
    uint32_t nlisteners           # one past the last that is open; there may be gaps
    uint32_t nclosing             # how many are `closing`
    bint own_table                # its thread has a private descriptor table
    uint32_t healths              # clients over the limits that were served in this tick
    uint32_t healths_tick
    bint masked                   # its listeners are not in epoll
    bint paced                    # accept-rate or accept-yield: clients in the accept backlog wait
    uint32_t paced_ms             # loop_ms at which it last accepted while paced
    uint32_t paced_first          # how often it did: decides which listener is served first
    bint sheds                    # out of descriptors: parked clients have had time to send their request
    bint looks_away               # out of descriptors altogether: listeners are ignored until the next tick
    bint shut                     # accepts no new connections: its listeners are closed, or drain their accept backlog

cdef struct CpuWait:              # how long the thread waited for a CPU (client/accept_pacing.pxd)
    int schedstat                 # descriptor of its /proc/…/schedstat; -1: none
    uint64_t waited               # ns spent waiting for a CPU, as of `looked`
    uint64_t turns                # times it got a CPU, as of `looked`
    uint64_t looked               # ns; when they were read last
    uint64_t passed               # n[C_ATTEMPTED] as of `looked`
    uint64_t passed_at            # ns; when that was last seen to grow
    uint32_t scarce_by            # loop_ms until which CPUs are considered scarce; 0: they are not
    uint32_t scarce_looked        # loop_ms of the last check
    uint64_t scarce_waited        # ns that the thread had waited for a CPU by then

cdef struct Stopping:             # progress of a stop (loop/shutdown.pxd)
    bint on
    uint32_t by                   # tick at which it ends, whatever is left
    uint32_t answer_by            # tick at which incomplete handshakes get 503
    uint32_t cursor               # next slot to close

cdef struct Turn:                 # scheduling of an iteration (tables/turns.pxd)
    uint32_t dirty_head[LANES]    # slots of connections with something to write, by lane
    uint32_t* dirty_tail[LANES]   # where the slot of the next one is written
    Line ready                    # connections with unread input in their buffers
    Line delayed                  # connections that wait until the work they caused is done
    uint32_t delayed_ms           # loop_ms of the last turn of a delayed connection
    uint32_t share                # units of work in a connection's turn in this iteration
    uint64_t work                 # units done so far
    uint64_t look                 # `work` at which the step looks at the clock next
    uint64_t step_end             # ns; end of the step; or STEP_* (turns.pxd)
    uint64_t caused               # times in a connection's turn that it caused more work than one message does
    uint64_t crowds[2 * CROWD_WORDS]  # bit sets of crowded loops: by fan-outs and presence, then by the rest
    bint crowding                 # a bit of `crowds` may be set
    uint64_t turns_began          # ns; when the first delayed connection was delayed
    uint64_t rest_end             # ns; when the rest of the delayed connections ends; 0: it has not begun

cdef struct Pressure:             # connections that wait for room in other loops' mailboxes (delivery/backpressure.pxd)
    uint64_t* held                # ids of held connections, oldest first
    uint32_t held_used
    uint32_t held_size
    uint32_t waits                # held connections, held verdicts and what is in `delayed`
    bint holds                    # the message at hand stays with its connection, which is to be held
    Packet* verdicts              # held KIND_VERDICTs, oldest first
    Packet* verdicts_last         # the last of them; undefined if there is none
    uint32_t tasks                # tasks of the mailbox handled in this iteration

cdef struct Roster:               # presence queries (presence/roster.pxd)
    Packet* list                  # KIND_QUESTIONs; the first is being answered
    uint32_t count
    Packet* aside                 # KIND_QUESTIONs set aside, oldest first
    Packet* aside_last            # the last of them; undefined if there is none
    uint32_t left                 # members of the room of the first query that are not listed yet
    uint32_t due                  # members that may be listed in this iteration

cdef struct DropNotices:          # GAPs under way (delivery/drop_notice.pxd)
    Missing taken[MISSED_MOST]    # entries taken from Loop.missed; the last one is handled first
    uint32_t used
    uint32_t left                 # members of the last one's room that are still to be told

cdef struct Outboxes:             # packets held back for other loops until the iteration ends (delivery/outbox.pxd)
    Chain chains[LOOP_INDEXES]    # by index of the receiving loop
    uint8_t posted[LOOP_INDEXES]  # indexes of the chains that are not empty
    uint32_t nposted

cdef struct Trimming:             # returning freed memory to the system (loop/memory_return.pxd)
    uint64_t kept                 # peak of the bytes held for clients since the last return; at least TRIM_BYTES
    uint32_t fell                 # tick at which they had fallen TRIM_BYTES below that; 0: they have not
    uint32_t looked_quiet         # tick of the last check whether the loop is quiet
    uint64_t quiet_work           # Turn.work at that check
    uint32_t next                 # tick before which no memory is returned again
    bint all                      # they have fallen by TRIM_ALL_BYTES: malloc_trim is called, too
    bint on                       # memory is being returned
    uint64_t pieces_due           # pieces still to allocate
    void* pieces                  # pieces allocated so far, linked by their first word

cdef enum:
    # Latency.histograms; signal_core/names.py has their names, in this order
    LATENCY_RELAY = 0
    LATENCY_NATS = 1
    LATENCY_LAG = 2
    LATENCY_HANDSHAKE = 3
    LATENCY_CLIENT = 4
    LATENCY_COUNT = 5

cdef struct Latency:              # what is measured of time (tables/latency.pxd)
    uint64_t began                # ns; when the iteration began: epoll_wait returned
    uint64_t since                # ns; when an iteration began that read the first of the messages at hand
    uint64_t left                 # ns; `began` of the last iteration that left deliveries unwritten; 0: none did
    uint64_t left_by              # C_WAKES in that one
    uint32_t chosen               # *_BELOW (latency.pxd): decides whether the iteration is measured
    Histogram histograms[LATENCY_COUNT]  # 2040

cdef struct Loop:
    Hub* hub
    const Settings* set           # those in force on this loop; KIND_RELOAD swaps them between two iterations
    uint32_t index
    uint32_t tick                 # the present tick, counted from Hub.boot
    uint32_t phase                # ms by which its ticks are early, so that the loops' timers do not fire together
    uint32_t late_ms              # ms since the tick began
    uint64_t tick_began           # ns; when the tick began
    uint32_t timers_ms            # loop_ms at which timers were last handled
    int epoll
    Accepting accept              # listeners, and the pace of new connections
    CpuWait cpu                   # how long the thread waited for a CPU
    Stopping stop                 # progress of a stop
    Drain drain
    bint overdue                  # loop 0: the room table has more to free
    Mem mem
    Turn turn                     # scheduling of an iteration
    Pressure pressure             # connections that wait for room in other loops' mailboxes
    uint32_t dead                 # slots to free at the end of the iteration, linked by Cold.next
    Packet* told_head             # packets whose sender is still to be told the outcome
    Packet* told_tail
    Packet* taken                 # packets taken from the mailbox and not handled yet
    Roster roster                 # presence queries
    DropNotices notices           # GAPs under way
    Outboxes post                 # packets for other loops
    Rooms rooms
    News news
    Rights* rights[RIGHTS_SHARED]  # cache by hash, one reference each
    uint32_t authenticating       # tokens that await their verdict
    Trimming trim                 # returning freed memory to the system
    Link* linked                  # NULL on every loop but loop 0
    uint8_t* input                # the read buffer, READ_BUFFER bytes
    ZlibState* zlib               # NULL: no message was compressed yet
    Span whole                    # a message whose frames were gathered, or that was inflated, while it is handled
    Buffer* parts                 # ... the buffer of its frames; NULL: it had one
    uint32_t input_code           # close code for the connection whose input buffer could not be allocated
    AddressBook* book             # addresses by slot, of connections that are counted; NULL: a pseudo-loop
    epoll_event* events
    iovec* iov
    uint32_t tags[TAGS_KEPT]      # random; the first `ntags` are unused
    uint32_t ntags
    uint64_t n[C_COUNT]           # counters
    uint64_t copy[C_COUNT]        # as of the last KIND_SNAPSHOT
    Latency latency
    Histogram histograms[LATENCY_COUNT]  # copies of Latency.histograms, as of the last KIND_SNAPSHOT
    uint64_t copied               # atomic: number of that snapshot
    uint64_t reloaded             # atomic: Settings.number of `set`
    uint64_t kicked[KICKS_KEPT]   # atomic: 2 × the number of a KIND_KICK, + 1 if there was such a connection
    uint64_t listened             # atomic: number of the last KIND_LISTEN << 16, + its errno
    uint64_t listens              # atomic: a bit for each listener that is open
    pthread_t thread
    Wheel wheel
    Slab slab
    uint64_t line0[CACHE_LINE_WORDS]  # keeps the fields that other threads touch off the cache lines of this one
    uint64_t seen                 # atomic: epoch of the room table when this thread last began to read it
    uint64_t done                 # atomic: 1 starting, 2 running, 3 ended
    uint64_t asked_of             # atomic: KIND_QUESTIONs posted to it and not answered yet
    uint64_t behind               # atomic: 1 while fan-outs and presence are not written yet
    uint64_t line1[CACHE_LINE_WORDS - 4]
    Mailbox mailbox
    Missed missed


cdef inline uint32_t loop_ms(const Loop* loop) noexcept nogil:
    """Returns the time of this iteration: milliseconds since Hub.boot, modulo 2**32."""
    return loop.tick * TICK_MS + loop.late_ms


cdef inline Span hub_node(const Hub* hub) noexcept nogil:
    """Returns the node's name; valid as long as the hub."""
    return span_of(hub.node, hub.node_len)


cdef inline Span hub_prefix(const Hub* hub) noexcept nogil:
    """Returns the prefix of NATS subjects; valid as long as the hub."""
    return span_of(hub.prefix, hub.prefix_len)


cdef inline uint32_t loop_bit(const Loop* loop) noexcept nogil:
    """Returns the bit of a loop, or of the local peer, in a room's bitmap, and its index in Audience.counts."""
    return loop.index if loop.index != LOCAL_PEER_LOOP else loop.hub.nloops
