"""The fixed limits of the data path. Limits that users set are in signal_py/config/settings.py."""

cdef enum:
    # -- HTTP requests; the sizes of line and head are settings --
    UPGRADE_MAX_HEADERS = 100      # header lines of a handshake
    PROXY_V1_MOST = 107            # bytes of a PROXY protocol header, version 1, CRLF included
    PROXY_V2_MOST = 2048           # ... version 2, all its extensions included
    UPGRADE_MAX_ROOMS = 64         # rooms in a URL
    UPGRADE_ANSWER = 512           # bytes of the longest HTTP answer
    FORWARDED_LINES = 4            # X-Forwarded-For headers that are read, the last ones first

    OVER_LOG_MS = 1000             # between two log lines about requests over max-request-line or max-head

    # -- ids --
    MAX_LOOPS = 250                # loops of a process: an id has 8 bits for them, and two are pseudo-loops
    LOOP_INDEXES = 256             # of arrays by loop index, pseudo-loops included
    CONTROL_LOOP = 254             # pseudo-loop: the control thread
    LOCAL_PEER_LOOP = 255          # pseudo-loop: the local peer
    CHUNK_SHIFT = 12               # a slab chunk holds 4096 connections
    CHUNK_CONNS = 1 << 12
    MAX_CHUNKS = 4096              # 24 bits of slot: 16.7 million connections a loop

    # -- texts and arrays of fixed size --
    ADDRESS_BYTES = 16             # an IPv6 address; an IPv4 address is mapped into one
    ADDRESS_TEXT = 46              # bytes of the longest numeric address, its NUL included (INET6_ADDRSTRLEN)
    SITE_PATH_SIZE = 128           # bytes of the buffer for the endpoint's path
    DRAIN_URL_SIZE = 256           # bytes of the buffer for the URL in GOAWAY
    PREFIX_SIZE = 64               # bytes of the longest prefix of NATS subjects
    INSTANCE_SIZE = 16             # hex digits that distinguish two nodes with one name
    TAGS_KEPT = 256                # random tags that a loop gets in one system call
    KICKS_KEPT = 64                # latest results of KIND_KICK that a loop keeps for Python; a power of two
    RECEIPTS_OWED = 256            # latest publishes that NATS's permission violations are matched with; a power of two
    TLS_REASON_SIZE = 120          # bytes of OpenSSL's reason for a failure, its NUL included
    MAX_LISTENERS = 16             # addresses that an engine listens on
    CACHE_LINE_WORDS = 8           # 64-bit words in a cache line

    # -- one iteration of a loop (fairness) --
    EVENTS = 512                   # epoll events per epoll_wait
    LISTEN_BACKLOG = 4096          # connections that the kernel queues for a listener; somaxconn may allow fewer
    ACCEPTS = 64                   # connections accepted per listener and iteration
    ACCEPT_BURST_MS = 10           # accept-rate, accept-yield: the burst allowed, as time at that rate
    ACCEPT_WAIT_MS = 2             # ... and how often parked clients are looked at
    PARKED = 1024                  # clients of a listener that may be parked: accepted, and waiting for the accept pace
    PARK_SPARE = 64                # ... while at least that many descriptors are free
    PARK_LOOKS = 16                # ... parked clients looked at each ACCEPT_WAIT_MS
    HEALTHS_PER_TICK = 64          # clients over a limit whose request is read: it may be a health check
    HEALTH_TICKS = 10              # ... time that they have to send it
    HEALTH_HEAD = 2048             # bytes of the longest head of a health check from a parked client
    YIELD_WAIT_NS = 75000          # accept-yield: mean wait for a CPU beyond which new connections are slowed down
    YIELD_LOOK_NS = 10000000       # ... interval between two measurements
    YIELD_STALE_NS = 200000000     # ... a measurement over a longer interval is ignored
    YIELD_FORGET_NS = 1000000000   # ... after that long without messages the pace is lifted
    YIELD_MOST = 25000             # ... fastest pace, connections a second and CPU; beyond it there is no limit
    YIELD_LEAST = 2000             # ... slowest pace
    FRAMES_PER_TURN = 128          # units of work (turns.pxd) in one connection's turn
    SHARE_TOTAL = 4096             # ... or its share of this, if that is less
    SHARE_LEAST = 16               # ... but at least this; a turn handles one frame, whatever it costs
    UNIT_SHIFT = 6                 # 64 deliveries that a fan-out attempts are a unit
    LOOK_UNITS = 32                # units of work between two readings of the clock
    STEP_NS = 250000               # time limit of a step that handles leftover input, a mailbox or the NATS link
    EVENTS_NS = 1000000            # ... of the step that reads sockets
    WRITE_NS = 1000000             # ... of the step that writes messages to peers
    SPREAD_NS = 250000             # ... of the step that writes fan-outs and presence
    CROWD_ROOMS = 32               # fan-outs and presence waiting in a mailbox at which it is crowded: the sender waits
    CROWD_MESSAGES = 1024          # ... other messages
    DELAY_MS = 2                   # ... how often the connection delayed longest gets a turn nevertheless
    LINE_KEPT = 4096               # entries of a list of waiting connections: a longer list is freed when it is empty
    GAPS_PER_TURN = 1024           # clients that GAP is noted for in an iteration; a room counts as one more
    REST_HALVES = 3                # rest of delayed clients while CPUs are scarce, in halves of the time of their turns
    REST_LEAST_NS = 1000000        # ... shortest rest
    REST_MOST_NS = 20000000        # ... longest rest
    SCARCE_PART = 16               # CPUs are scarce once a loop has waited for one for more than 1/16 of the time
    SCARCE_LOOK_MS = 10            # ... shortest interval between two measurements
    SCARCE_STALE_MS = 100          # ... a measurement over a longer interval is ignored
    SCARCE_HOLD_MS = 10000         # ... how long they then stay scarce
    FLUSH_ROUNDS = 8               # gathered writes to one connection before the next one gets its turn
    DEFLATE_UNIT_SHIFT = 8         # 256 bytes to compress are a unit
    INFLATE_UNIT_SHIFT = 10        # 1 KiB decompressed, the compressed bytes included, is a unit
    WRITE_UNIT_SHIFT = 12          # each further 4 KiB of a queue written are a unit
    GOODBYES_PER_TURN = 1024       # connections closed, or told GOAWAY, in an iteration
    MAILBOX_PER_TURN = 4096        # mailbox items handled in an iteration
    TIMERS_PER_TURN = 256          # timers handled in an iteration: each may send a ping
    TIMERS_PER_MS = 16             # ... timers a ms, plus a share of all that are armed
    TIMERS_WITHIN = 64             # ... so that a tick's timers are done within that many ms if they are spread evenly
    LEAVES_PER_TURN = 2048         # units of cleanup in an iteration: a membership, a connection, 64 watchers told
    RECLAIMS_PER_TURN = 4096       # pieces of the room table freed in an iteration
    RECLAIMS_SHARE = 32            # ... plus 1/32 of those that wait
    NATS_READS = 4                 # reads from NATS in an iteration
    NATS_ROUNDS = 32               # gathered writes to NATS in an iteration
    NATS_OPS_PER_TURN = 4096       # operations of the NATS link handled in an iteration
    RESUME_BYTES = 1 << 20         # bytes queued for NATS at which resubscribing pauses
    RESUMES_PER_TURN = 8192        # rooms resubscribed in an iteration
    OVER_TICKS = 10                # interval of attempts at more subscriptions, once NATS refused some: 1 s
    OVER_TOLD_TICKS = 600          # ... of log lines about that: a minute
    BURST_MOST = 4096              # ... most subscriptions in an attempt, after others that succeeded
    CORK_MESSAGES = 64             # messages queued for one connection at which it is written to

    # -- between threads (docs/architecture/threads-and-ownership.md) --
    TASKS_WAITING = 4096           # tasks in a mailbox at which what would add more is held or refused
    HELD_WAIT_MS = 1               # how often a loop checks whether held connections may go on
    MISSED_SLOTS = 1024            # slots of a loop's drop table (tables/drop_table.pxd)
    MISSED_MOST = 768              # ... slots in use; messages for further receivers are counted in gaps_untold
    WAITERS_MOST = 1 << 18         # SUBs that may await NATS; more get `unavailable`
    MAILS_WAITING = 1024           # events for the control thread beyond auth-pending; then log lines are only counted

    # -- presence --
    NEWS_TEXT = 4096               # bytes of a room's joins and leaves published at once
    MEMBERS_TEXT = 32 * 1024       # bytes of the longest MEMBERS, and of an answer on NATS
    NEWS_KEEP = 64 * 1024          # bytes of the buffer for joins and leaves kept between iterations
    QUESTIONS_PER_TICK = 4         # presence queries for a room in a tick; further ones share one in the next tick
    MEMBERS_PER_TURN = 1024        # members listed in an iteration; a query counts as one
    QUESTIONS_WAITING = 256        # queries that wait for their answer on a loop; further ones are set aside
    AUDIENCES_PER_TURN = 1024      # rooms with watchers visited in an iteration, when a node is lost or asked again
    BEAT_TICKS = 20                # interval of heartbeats: 2 s
    NODES_MOST = 65535             # other nodes that a node notes
    LOST_TICKS = 65                # a node is lost that long after its last heartbeat: three were missed

    # -- operators' queries --
    INQUIRY_ROOMS = 4096           # rooms of a loop visited for one query
    INQUIRY_TEXT = 32 * 1024       # bytes of an answer
    INQUIRY_CLOSES = 1024          # connections of a user closed at one request

    # -- buffers --
    INFLATE_PLAIN = 16 * 1024      # decompressed bytes of a message that need no buffer of their own
    DEFLATE_MEMORY = 8             # zlib's memLevel: 256 KiB to compress with
    READ_BUFFER = 128 * 1024       # a loop's read buffer, bytes
    REGION_BYTES = 256 * 1024      # a loop's encoding region, bytes
    IOV_MAX_SEND = 64              # buffers of one sendmsg
    NATS_READ_BUFFER = 256 * 1024  # the NATS link's read buffer, bytes; it grows for a larger message
    NATS_BUFFER_TICKS = 10         # ... and shrinks again that long after the last one: 1 s
    NATS_KEPT = 64 * 1024          # bytes of a payload from NATS that is kept even if it is over max-message
    NATS_HEADERS_KEPT = 64 * 1024  # bytes of its headers; a message with more counts as malformed
    TLS_RECORD = 16384             # plaintext of one TLS record (RFC 8446 §5.1), bytes
    TLS_RECORDS_PER_KEY = 1 << 24  # records sealed with one key, then it is replaced (§5.5 allows 2**24.5)

    # -- returning memory to the system (loop/memory_return.pxd) --
    TRIM_BYTES = 2 << 20           # bytes that must have become free before any are returned
    TRIM_ALL_BYTES = 16 << 20      # ... before malloc_trim is called, too
    TRIM_LOOK_TICKS = 10           # how often a loop checks whether it is quiet: 1 s
    TRIM_QUIET = 1000              # ... less work than this since the last check, in units (turns.pxd)
    TRIM_LATEST_TICKS = 250        # ... after that long it no longer waits for quiet: 25 s
    TRIM_EVERY_TICKS = 300         # shortest interval between two returns: 30 s
    TRIM_CONNECTION = 128          # heap bytes assumed for a connection
    TRIM_MEMBERSHIP = 32           # ... and for a membership
    TRIM_BLOCKS = 1024             # blocks of queue nodes freed in an iteration
    TRIM_PIECE = 120 * 1024        # bytes of a piece: less than malloc's mmap threshold
    TRIM_PIECES = 16               # ... pieces taken in an iteration
    TRIM_SHARE = 200               # ... plus 1/200 of all

    # -- timers --
    TICK_MS = 100                  # resolution of every deadline
    TICK_NS = 100000000            # ... in ns
    WHEEL_SLOTS = 512              # one turn of the wheel: 51.2 s; later timers go around again
    BLOCKED_LOOK_TICKS = 5         # between two checks of a blocked queue for expired messages
    AUTH_REF_TICKS = 10            # after auth-timeout until the ref of an AUTH is answered with a timeout: 1 s
    DRAIN_TICKS = 3                # at a stop, time for TCP handshakes under way; at most half of close-timeout

    # -- measured times (tables/latency.pxd) --
    NS_PER_MS = 1000000
    NS_PER_US = 1000
    LATENCY_SHIFT = 6              # of 2**6 iterations one is measured
    LATENCY_LONG_SHIFT = 2         # ... of 2**2 long iterations
    LATENCY_PING_SHIFT = 6         # ... of 2**6 pings
    HISTOGRAM_FIRST_BIT = 10       # the first bucket ends at 2**10 ns: 1.024 µs
    HISTOGRAM_BUCKETS = 50         # two for each power of two up to 2**34 ns, 17.2 s, and one below and one above
    STAMP_SHIFT = 10               # times kept in 32 bits are in units of 2**10 ns: they wrap after 73 minutes
    STAMP_BYTES = 4                # the payload of a sampled ping: ...
    STAMP_US_BITS = 17             # ... µs since the tick began, in the low bits,
    STAMP_TICK_BITS = 15           # ... and the tick's low bits

    # -- times of the NATS link --
    NATS_DIAL_TICKS = 50           # 5 s each for connect(), INFO, TLS and login
    NATS_ASKING_TICKS = 100        # 10 s for the control thread's answer to INFO
    NATS_NAMING_TICKS = 20         # 2 s for another node with this node's name to answer
    NATS_KEEPALIVE_TICKS = 100     # 10 s of silence, then the server is pinged
    NATS_SILENCE_TICKS = 50        # 5 s more, then the connection is given up
    NATS_LOOK_TICKS = 10           # between two checks of the link, at most: 1 s

    # -- behaviour --
    ANSWERS_PAUSE = 256            # answers of the engine that wait for a client at which it is no longer read
    STRIKES = 100                  # malformed messages ...
    STRIKE_WINDOW_TICKS = 100      # ... in 10 s close a connection with 1008
    PART_AGAIN_TICKS = 10          # least time left for an incomplete message once its connection is read again: 1 s
    NATS_PONGS = 16                # PINGs from NATS answered later while its socket is full; more are ignored
    NATS_ERRORS_TOLD = 10          # -ERRs a second reported one by one; the rest are counted
    DENIED_SUBJECTS = 256          # subjects refused by NATS that are remembered while connected
    RIGHTS_SHARED = 64             # acls that a loop keeps for sharing
