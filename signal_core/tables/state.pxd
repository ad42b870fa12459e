"""All state: the Hub that the loops of one engine share, the Loop, the NATS link.

Hub: written before the loops start, then read by all. Fields that change later are atomic and say so; `rooms` and
`addresses` have locks of their own.
Loop: only its own thread touches it, but for these fields:
* `mailbox` and `missed`: any thread posts to them;
* `asked_of`: other loops add to it; `behind` and `seen`: other loops read them;
* `copied` and `copy` (which `copied` releases), `kicked`, `accept.own_table` and `done`: Python reads them. It writes
  `done` and `thread` when it starts the thread.
The service and the control thread each have a Loop without sockets (a pseudo-loop), used under the GIL. They make
packets, hold them back and post them like any other loop.
Link: owned by loop 0.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.counters cimport C_COUNT
from signal_core.base.limits cimport (
    ADDRESS_BYTES, CACHE_LINE_WORDS, DENIED_SUBJECTS, DRAIN_URL_SIZE, KICKS_KEPT, LOOP_INDEXES, PREFIX_SIZE,
    RIGHTS_SHARED, SERVICE_LOOP, TAGS_KEPT, TICK_MS,
)
from signal_core.base.memory cimport Mem, Packet
from signal_core.base.sys cimport epoll_event, iovec, pthread_t, sockaddr_storage
from signal_core.tables.acl cimport Rights
from signal_core.tables.conn_table cimport Conn, Slab
from signal_core.tables.drop_table cimport MISSED_MOST, Missed, Missing
from signal_core.tables.ip_table cimport AddressBook, Addresses
from signal_core.tables.link_state cimport Link
from signal_core.tables.loop_rooms cimport Rooms
from signal_core.tables.mailbox cimport Chain, Mailbox
from signal_core.tables.room_table cimport RoomEntry, RoomTable
from signal_core.tables.timer_wheel cimport Wheel
from signal_core.wire.ids cimport NODE_MAX
from signal_core.wire.request cimport Site

cdef enum:
    # epoll data: a slot, or above all slots
    TAG_WAKE = 0xffffffff
    TAG_LINK = 0xfffffffe
    TAG_LISTENER = 0xffffff00    # and up: which listener
    MAX_LISTENERS = 16

    # Hub.over
    OVER_LINE = 0                 # the request line is longer than max-request-line
    OVER_HEAD = 1                 # the head is longer than max-head
    OVER_COUNT = 2

    # Turn.dirty_head, Turn.dirty_tail
    LANE_DIRECT = 0               # messages to one peer, and the engine's own answers
    LANE_SPREAD = 1               # what fan-outs and presence queue
    LANES = 2

    CROWD_WORDS = LOOP_INDEXES >> 6  # 64-bit words with a bit for each loop index

cdef struct Settings:             # ticks where a time
    Site site                     # bounds of a request, and where the endpoint is
    uint32_t max_message          # bytes of a payload
    uint32_t max_frame            # bytes of a WebSocket message: a head and a payload
    uint32_t max_rooms            # a connection
    uint32_t max_refs             # a connection
    uint32_t handshake            # ticks
    uint32_t ping
    uint32_t pong
    uint32_t stall
    uint32_t message              # that a message may take to arrive; 0: any time
    uint32_t close
    uint32_t ttl_ms               # of a message that gives none
    uint32_t backlog_messages     # a connection
    uint32_t backlog_bytes        # a connection
    uint64_t backlog_loop         # bytes a loop: the total over the number of loops
    uint32_t send_buffer          # bytes of the kernel's a socket; 0: it decides
    uint32_t receive_buffer
    uint64_t max_connections      # 0: none
    uint64_t max_per_address      # connections; 0: none
    uint32_t max_per_user         # connections; 0: none
    uint64_t accept_gap           # ns from one new connection to the next, in the mean; 0: none
    uint64_t yield_shortest       # ... at least, while new connections yield to messages,
    uint64_t yield_longest        # ... and at most; 0: they do not
    uint32_t rate                 # messages a second of a connection; 0: none
    uint32_t burst                # messages of a connection at once
    uint64_t input_loop           # bytes a loop, of what has come in part: the total over the number of loops
    uint32_t nats_pending         # bytes
    bint hooks                    # tell Python who connects and disconnects
    bint memory_trim              # give freed memory back to the system
    char drain_url[DRAIN_URL_SIZE]  # where GOAWAY sends clients to; empty: nowhere in particular
    uint32_t drain_url_len
    uint32_t auth                 # AUTH_*
    uint32_t auth_patience        # ticks that a decision may take
    uint32_t auth_grace           # ticks after a token's end
    uint32_t auth_pending         # questions of one loop that may await their decision

cdef struct Network:              # addresses that have their first bits in common
    uint8_t address[ADDRESS_BYTES]
    uint32_t bits

cdef struct Listen:               # an address to listen on
    sockaddr_storage address
    uint32_t size                 # bytes of it that are used

cdef struct Hub:
    Settings set
    Loop* loops[LOOP_INDEXES]     # by index; pseudo-loops at 254 and 255
    uint32_t nloops
    uint32_t nlisten
    Listen listen[MAX_LISTENERS]
    char node[NODE_MAX + 1]       # text, with a dot after it
    uint32_t node_len             # without the dot
    char prefix[PREFIX_SIZE]      # of NATS subjects
    uint32_t prefix_len
    char* hello                   # the JSON object of HELLO
    uint32_t hello_len
    char* origins                 # that are allowed, a LF after each; NULL: any
    uint32_t origins_len
    uint32_t nproxies
    Network* proxies              # that are trusted to say whom they speak for
    uint64_t service              # id of the embedding service
    uint64_t boot                 # tick 0 is at this time, ms
    RoomTable rooms
    uint64_t link                 # atomic: CLUSTER_*
    uint64_t clogged              # atomic: 1: NATS reads too slowly, what is for it is refused
    uint64_t max_payload          # atomic: of the NATS server
    uint64_t denied[DENIED_SUBJECTS]  # atomic: hashes of subjects on which NATS does not let this node publish
    uint64_t ndenied              # atomic
    uint64_t connections          # atomic: sockets open on all loops
    uint64_t quota_used           # atomic: of those, how many count against max_connections, where there is a bound
    uint64_t accept_due           # atomic: ns; new connections are paid for up to here
    uint64_t yield_gap            # atomic: ns from one to the next while they yield to messages; 0: they don't
    uint64_t yield_due            # atomic: ns; when that is looked at again
    Addresses* addresses          # NULL: they are not counted
    uint64_t over[OVER_COUNT]              # atomic: requests over a bound of their size, not yet in the log
    uint64_t over_size[OVER_COUNT]         # atomic: bytes of the latest
    uint64_t over_due             # atomic: ms, when the log may be told again
    uint64_t failed               # atomic: errno of a loop that could not start
    uint64_t abroad               # atomic: tick up to which other nodes are known to have watchers
    uint64_t presence_epoch       # atomic: counts when other nodes may have missed presence of ours
    uint64_t nodes                # atomic: other nodes whose heartbeats are heard

cdef struct Change:               # a join or leave of this iteration
    RoomEntry* entry              # 8
    uint32_t nth                  # 4
    uint32_t at                   # 4  of its line in News.text
    uint32_t size                 # 4

cdef struct News:                 # joins and leaves to be told at the end of the iteration
    Change* changes               # 8
    char* text                    # 8
    uint32_t count                # 4
    uint32_t size                 # 4
    uint32_t text_used            # 4
    uint32_t text_size            # 4

cdef struct Drain:                # a drain (shutdown.pxd)
    bint on
    bint behind                   # more were to be closed than one iteration may
    uint32_t begun                # tick
    uint32_t by                   # tick at which the last is closed
    uint32_t total                # WebSockets when it began
    uint32_t leaving              # closed by it, and not yet gone
    uint32_t told                 # next slot to send GOAWAY to
    uint32_t cursor               # next slot to close

cdef struct Parked:               # accepted, and waits for the pace
    int fd                        # -1: it was answered
    int asks                      # ASKS_*

cdef struct Lot:                  # of one listener: those who wait (parking.pxd), a ring
    Parked* ring                  # of PARKED entries; NULL: none waited so far
    uint32_t first                # that has waited longest
    uint32_t used
    uint32_t cursor               # from the first, that was looked at last

cdef struct Line:                 # connections that wait, oldest first; each once, its FLAG_READY says so
    uint32_t* slots               # 8
    uint32_t used                 # 4
    uint32_t size                 # 4

cdef struct Accepting:            # its listeners, and the pace of new connections (client/listener.pxd)
    int reserve                   # a descriptor kept to answer 503 with
    int listeners[MAX_LISTENERS]
    uint32_t nlisteners
    bint own_table                # it has a descriptor table of its own
    Lot lots[MAX_LISTENERS]       # by listener
    uint32_t healths              # clients looked after beyond the limits in the tick
    uint32_t healths_tick
    bint masked                   # hears nothing of its listeners
    bint paced                    # accept-rate, accept-yield: who is queued on its listeners waits
    uint32_t paced_ms             # loop_ms at which it last took some of them,
    uint32_t paced_first          # and how often: which listener is the first
    bint sheds                    # out of descriptors: those who came have had the time to say what they want
    bint looks_away               # no descriptor is to be had: hears nothing of its listeners until the next tick
    bint shut                     # takes no new connections: its listeners are being drained, or closed

cdef struct CpuWait:              # how long the thread has waited for a processor (client/accept_pacing.pxd)
    int schedstat                 # of its thread; -1: none
    uint64_t waited               # ns that it has waited for a processor, up to when it last looked,
    uint64_t turns                # how often it was given one,
    uint64_t looked               # and when that was, ns
    uint64_t passed               # n[C_ATTEMPTED] then,
    uint64_t passed_at            # and when that was last seen to grow, ns

cdef struct Stopping:             # a stop, and what it has done so far (loop/shutdown.pxd)
    bint on
    uint32_t by                   # tick at which it ends, whatever is left
    uint32_t answer_by            # tick at which those hear 503 whose handshake has not come till then
    uint32_t drain_by             # tick until which it accepts what comes of handshakes of TCP under way
    uint32_t cursor               # next slot to say goodbye to

cdef struct Turn:                 # whose turn it is, and for how long (tables/turns.pxd)
    uint32_t dirty_head[LANES]    # slots of queues to write, by lane (turns.pxd)
    Conn* dirty_tail[LANES]
    Line ready                    # connections with input left over,
    Line delayed                  # ... and those that wait until what they caused is done
    uint32_t delayed_ms           # loop_ms at which one of them last had a turn
    uint32_t share                # units of a connection's turn in this iteration
    uint64_t work                 # units done so far
    uint64_t look                 # ... at which the step looks at the clock
    uint64_t step_end             # when the step is over, ns; or STEP_* (turns.pxd)
    uint64_t caused               # what made more work than a message does, in the turn of a connection
    uint64_t crowds[2 * CROWD_WORDS]  # bits of the loops that are crowded: by what is for many, by other messages
    bint crowding                 # there may be some

cdef struct Pressure:             # who waits until other loops have room (delivery/backpressure.pxd)
    uint64_t* held                # connections that go on when fewer tasks wait: slot << 32 | tag, longest first
    uint32_t held_used
    uint32_t held_size
    uint32_t waits                # those, verdicts that are held, and what is in `delayed`
    bint holds                    # the message at hand is left with its connection, which is to be held
    Packet* verdicts              # KIND_VERDICTs that wait for the same, oldest first,
    Packet* verdicts_last         # ... undefined without any
    uint32_t tasks                # of the inbox, handled in this iteration

cdef struct Roster:               # questions who is in a room (presence/roster.pxd)
    Packet* list                  # KIND_QUESTIONs, the first being answered
    uint32_t count
    Packet* aside                 # questions put aside, oldest first,
    Packet* aside_last            # ... undefined without any
    uint32_t left                 # of the first: so many of the room's first members are still to be told
    uint32_t due                  # members that may still be told in this iteration

cdef struct DropNotices:          # GAPs that are being told (delivery/drop_notice.pxd)
    Missing taken[768]            # MISSED_MOST: from Loop.missed; the last is told first
    uint32_t used
    uint32_t left                 # of the last: so many of its room's first members are still to be told

cdef struct Outboxes:             # what is held back for other loops (delivery/outbox.pxd)
    Chain chains[LOOP_INDEXES]    # held back for other loops until the iteration's end
    uint8_t posted[LOOP_INDEXES]  # indices of outboxes that hold something
    uint32_t nposted

cdef struct Trimming:             # memory on its way back to the system (loop/memory_return.pxd)
    uint64_t kept                 # bytes that clients had at most since memory was given back, TRIM_BYTES at least,
    uint32_t fell                 # ... tick at which they had given up TRIM_BYTES of it; 0: they have not
    uint32_t looked_quiet         # tick of the last look whether it is quiet,
    uint64_t quiet_work           # ... and the work done up to it
    uint32_t next                 # tick before which memory is not given back again
    bint all                      # it was as much as TRIM_ALL_BYTES
    bint on                       # it is being given back:
    uint64_t pieces_due           # ... so many pieces are still to be taken,
    void* pieces                  # ... and these were, linked by their first bytes

cdef struct Loop:
    Hub* hub
    uint32_t index
    uint32_t tick                 # now, in TICK_MS since the hub's boot
    uint32_t phase                # ms by which its ticks are early, so that not all loops fire timers at one moment
    uint32_t late_ms              # since the tick began
    uint64_t tick_began           # at this time, ms
    uint32_t timers_ms            # loop_ms at which timers were looked at last
    int epoll
    Accepting accept              # its listeners, and the pace of new connections (client/listener.pxd)
    CpuWait cpu                   # how long the thread has waited for a processor (client/accept_pacing.pxd)
    Stopping stop                 # a stop, and what it has done so far (loop/shutdown.pxd)
    Drain drain
    bint overdue                  # of the link's loop: the room table has more to free
    Mem mem
    Turn turn                     # whose turn it is, and for how long (tables/turns.pxd)
    uint64_t turns_began          # ns; when the first of them was delayed
    uint64_t rest_end             # ns; when their rest ends; 0: it has not begun
    uint32_t scarce_by            # loop_ms up to which processors are held to be scarce; 0: they are not
    uint32_t scarce_looked        # ... at which that was last looked at,
    uint64_t scarce_waited        # ... and the ns that the loop had waited for one by then
    Pressure pressure             # who waits until other loops have room (delivery/backpressure.pxd)
    uint32_t dead                 # slots to free at the end of the iteration, linked by Cold.next
    Packet* told_head             # whose fate somebody waits to be told
    Packet* told_tail
    Packet* taken                 # from the inbox, not yet handled
    Roster roster                 # questions who is in a room (presence/roster.pxd)
    Missing gaps[MISSED_MOST]     # taken from `missed`, the last being told,
    uint32_t gaps_used
    uint32_t gap_left             # ... so many of its room's first members are still to be told
    Outboxes post                 # what is held back for other loops (delivery/outbox.pxd)
    Rooms rooms
    News news
    Rights* rights[RIGHTS_SHARED]  # by hash, held once each
    uint32_t judging              # questions that await their decision
    Trimming trim                 # memory on its way back to the system (loop/memory_return.pxd)
    Link* linked                  # NULL but on loop 0
    uint8_t* input                # READ_BUFFER bytes
    uint32_t input_code           # close code where the last buffer could not be had
    AddressBook* book             # whose connections are counted; NULL: nobody's
    epoll_event* events
    iovec* iov
    uint32_t tags[TAGS_KEPT]      # random, not yet used
    uint32_t ntags
    uint64_t n[C_COUNT]           # counters
    uint64_t copy[C_COUNT]        # as of the last KIND_SNAPSHOT
    uint64_t copied               # atomic: number of that snapshot
    uint64_t kicked[KICKS_KEPT]   # atomic: 2 × the number of a KIND_KICK, + 1 where there was such a connection
    pthread_t thread
    Wheel wheel
    Slab slab
    uint64_t line0[CACHE_LINE_WORDS]  # keeps what other threads touch off the lines of this one
    uint64_t seen                 # atomic: epoch of the room table it last began to read in
    uint64_t done                 # atomic: 1 starting, 2 running, 3 ended
    uint64_t asked_of             # atomic: KIND_QUESTIONs posted to it and not answered yet
    uint64_t behind               # atomic: 1: what it has for many is not written yet
    uint64_t line1[CACHE_LINE_WORDS - 4]
    Mailbox mailbox
    Missed missed


cdef inline uint32_t loop_ms(const Loop* loop) noexcept nogil:
    """Milliseconds since the hub's boot, of this iteration; modulo 2**32."""
    return loop.tick * TICK_MS + loop.late_ms


cdef inline uint32_t loop_bit(const Loop* loop) noexcept nogil:
    """Where the members and watchers of a loop, or the service, are noted with a room."""
    return loop.index if loop.index != SERVICE_LOOP else loop.hub.nloops
