"""Every constant and bound of the data path. Those that are settings have their default in config/settings.py."""

cdef enum:
    # -- HTTP head; its bytes are bounded by settings --
    UPGRADE_MAX_HEADERS = 100      # header lines of a handshake
    UPGRADE_MAX_ROOMS = 64         # rooms named in a URL
    UPGRADE_ANSWER = 512           # bytes of the longest HTTP answer
    FORWARDED_LINES = 4            # X-Forwarded-For headers looked at, from the last

    OVER_LOG_MS = 1000             # between two lines of the log about requests over max-request-line or max-head

    # -- ids --
    MAX_LOOPS = 250                # loops a process: an id gives them 8 bits, the pseudo-loops need two
    LOOP_INDEXES = 256             # of arrays by loop index, pseudo-loops included
    CONTROL_LOOP = 254             # pseudo-loop: inbox of the deciding thread
    SERVICE_LOOP = 255             # pseudo-loop: the embedding service as a peer
    CHUNK_SHIFT = 12               # a slab chunk holds 4096 connections
    CHUNK_CONNS = 1 << 12
    MAX_CHUNKS = 4096              # 24 bits of slot: 16.7 million connections a loop

    # -- texts and arrays of fixed size --
    ADDRESS_BYTES = 16             # an IPv6 address; an IPv4 address is mapped into one
    ADDRESS_TEXT = 46              # bytes of the longest numeric address, its NUL included (INET6_ADDRSTRLEN)
    SITE_PATH_SIZE = 128           # bytes of the buffer for the endpoint's path
    DRAIN_URL_SIZE = 256           # bytes of the buffer for the URL in GOAWAY
    PREFIX_SIZE = 64               # bytes of the longest prefix of NATS subjects
    INSTANCE_SIZE = 16             # hex digits that tell two nodes of one name apart
    TAGS_KEPT = 256                # random tags that a loop gets in one system call
    KICKS_KEPT = 64                # latest results of KIND_KICK that a loop keeps for Python; a power of two
    RECEIPTS_OWED = 256            # latest publishes that NATS's permission violations are matched with; a power of two
    TLS_REASON_SIZE = 120          # bytes of OpenSSL's reason for a failure, its NUL included
    CACHE_LINE_WORDS = 8           # 64-bit words in a cache line

    # -- one iteration of a loop (fairness) --
    EVENTS = 512                   # epoll events taken at once
    ACCEPTS = 64                   # connections accepted a listener and iteration
    ACCEPT_BURST_MS = 10           # accept-rate, accept-yield: that much of a second's may come at once
    ACCEPT_WAIT_MS = 2             # ... and how often a loop looks again at who came too soon
    PARKED = 1024                  # of a listener's clients taken off the kernel's queue while they wait for the pace,
    PARK_SPARE = 64                # ... as long as so many descriptors are free;
    PARK_LOOKS = 16                # ... so many of them are looked at, again, each ACCEPT_WAIT_MS
    HEALTHS_PER_TICK = 64          # clients over a limit that are yet asked what they want, or answered out of turn
    HEALTH_TICKS = 10              # that the former have for it
    HEALTH_HEAD = 2048             # bytes of the longest head of a health check that is answered before its turn
    YIELD_WAIT_NS = 75000          # accept-yield: a loop's mean wait for a processor beyond which new connections wait
    YIELD_LOOK_NS = 10000000       # ... which is looked at that often,
    YIELD_STALE_NS = 200000000     # ... and of which a time longer than that says nothing;
    YIELD_FORGET_NS = 1000000000   # without messages for that long there is nobody to yield to
    YIELD_MOST = 25000             # the pace, a second and processor, beyond which there is none,
    YIELD_LEAST = 2000             # ... and that it does not fall below
    FRAMES_PER_TURN = 128          # units of work (turns.pxd) of one connection's turn,
    SHARE_TOTAL = 4096             # ... or what of this falls to each of those that have one in an iteration,
    SHARE_LEAST = 16               # ... at least; a turn handles one frame, whatever it costs
    UNIT_SHIFT = 6                 # 64 deliveries attempted by a fan-out are one unit
    LOOK_UNITS = 32                # units between two looks at the clock
    STEP_NS = 250000               # time of a step that takes input left over, an inbox or the NATS link,
    EVENTS_NS = 1000000            # ... of that which takes what sockets have,
    WRITE_NS = 1000000             # ... of that which writes what is for one peer,
    SPREAD_NS = 250000             # ... and of that which writes what is for many, an iteration
    CROWD_ROOMS = 32               # messages of rooms and presence in another loop's inbox, before who fills it waits,
    CROWD_MESSAGES = 1024          # ... and of others;
    DELAY_MS = 2                   # ... one of those that wait has a turn that often all the same
    LINE_KEPT = 4096               # slots of a list of connections that wait: a longer one is freed once it is empty
    GAPS_PER_TURN = 1024           # members of rooms told an iteration that they missed something, and rooms besides
    REST_LEAST_NS = 1000000        # rest of clients whose turns were cut, while processors are scarce: as long as
    REST_MOST_NS = 20000000        # ... their turns took, within these
    SCARCE_PART = 16               # processors are scarce once a loop has waited for one more than this part
    SCARCE_LOOK_MS = 10            # ... of the time since its last look, which is so long ago,
    SCARCE_STALE_MS = 100          # ... and at most so long,
    SCARCE_HOLD_MS = 10000         # ... and until so long after that
    WRITE_UNIT_SHIFT = 12          # 4 KiB more of a queue that is written are a unit
    GOODBYES_PER_TURN = 1024       # connections told or closed an iteration, at a stop and in a drain
    INBOX_PER_TURN = 4096          # inbox items taken an iteration
    TIMERS_PER_TURN = 256          # timers looked at an iteration: each may be a ping, and so a write;
    TIMERS_PER_MS = 16             # ... or, where those of the last tick are done, that many and a share of all a ms,
    TIMERS_WITHIN = 64             # ... so that a tick's are done within that many where all are pinged evenly
    LEAVES_PER_TURN = 2048         # of the dead ended an iteration: memberships, themselves, each 64 who hear of it
    RECLAIMS_PER_TURN = 4096       # pieces of the room table freed an iteration,
    RECLAIMS_SHARE = 32            # ... and this part of those that wait for it
    NATS_OPS_PER_TURN = 4096       # operations of the NATS link an iteration
    RESUME_BYTES = 1 << 20         # queued for NATS before SUBs wait
    RESUMES_PER_TURN = 8192        # rooms looked at an iteration for a SUB to be made again
    OVER_TICKS = 10                # between two tries whether NATS takes more subscriptions, once it did not: 1 s
    OVER_TOLD_TICKS = 600          # between two lines of the log about that: a minute
    BURST_MOST = 4096              # subscriptions tried at once, where the tries before succeeded
    CORK_MESSAGES = 64             # messages held for one connection before it is written to

    # -- between threads (docs/architecture/threads-and-ownership.md) --
    TASKS_WAITING = 4096           # in an inbox before what would cause more is held or refused
    HELD_WAIT_MS = 1               # how often a loop looks whether connections that it holds may go on
    WAITERS_MOST = 1 << 18         # SUBs that await NATS at once; more are answered `unavailable`
    MAILS_WAITING = 1024           # mails to the control thread above auth-pending; then log lines are only counted

    # -- presence --
    NEWS_TEXT = 4096               # bytes of joins and leaves of one room told in one piece
    MEMBERS_TEXT = 32 * 1024       # bytes of one message of MEMBERS, and of an answer on NATS, at most
    NEWS_KEEP = 64 * 1024          # bytes of a loop's text of joins and leaves that are kept between iterations
    QUESTIONS_PER_TICK = 4         # who is in one room; those who ask later in the tick share the next one
    MEMBERS_PER_TURN = 1024        # members told to who asks who is there, an iteration; a question counts as one
    QUESTIONS_WAITING = 256        # that wait for their turn, and are looked through for one that another can share
    AUDIENCES_PER_TURN = 1024      # rooms with watchers looked at an iteration, when a node is lost or asked anew
    BEAT_TICKS = 20                # between two heartbeats of a node: 2 s
    LOST_TICKS = 65                # without one a node is lost: three are missed

    # -- operators' questions --
    INQUIRY_ROOMS = 4096           # rooms of a loop looked at for one question
    INQUIRY_TEXT = 32 * 1024       # bytes of one answer
    INQUIRY_CLOSES = 1024          # connections of a user closed for one question

    # -- buffers --
    READ_BUFFER = 128 * 1024       # a loop's read buffer, bytes
    REGION_BYTES = 256 * 1024      # a loop's encoding region, bytes
    IOV_MAX_SEND = 64              # parts of one gathered write
    NATS_READ_BUFFER = 256 * 1024  # the NATS link's read buffer, bytes; larger for a second after a larger message
    NATS_KEPT = 64 * 1024          # a message from NATS with a payload over this and over max-message is not kept
    NATS_HEADERS_KEPT = 64 * 1024  # ... nor one with more bytes of headers, which counts as malformed
    TLS_RECORD = 16384             # plaintext of one TLS record (RFC 8446 §5.1), bytes

    # -- memory given back (memory_return.pxd) --
    TRIM_BYTES = 2 << 20           # that a loop's clients have left, before it gives them back,
    TRIM_ALL_BYTES = 16 << 20      # ... and before malloc_trim is asked for what is left of them
    TRIM_LOOK_TICKS = 10           # how often it looks whether it is quiet: a second,
    TRIM_QUIET = 1000              # ... with less work than so many units since the last look (turns.pxd),
    TRIM_LATEST_TICKS = 250        # ... which it waits for that long: 25 s
    TRIM_EVERY_TICKS = 300         # between two times
    TRIM_CONNECTION = 128          # bytes of the heap that a connection is taken to have had, in the mean,
    TRIM_MEMBERSHIP = 32           # ... and a membership
    TRIM_BLOCKS = 1024             # blocks of the pool of queue nodes freed an iteration
    TRIM_PIECE = 120 * 1024        # bytes given back at once, below what malloc maps apart;
    TRIM_PIECES = 16               # ... so many pieces a tick,
    TRIM_SHARE = 200               # ... and this part of all; a thousand times as many are freed again

    # -- timers --
    TICK_MS = 100                  # resolution of every deadline
    WHEEL_SLOTS = 512              # 51.2 s around; later ones go around again
    DRAIN_TICKS = 3                # at a stop, for handshakes of TCP under way; at most half the close time

    # -- behaviour --
    STRIKES = 100                  # malformed messages ...
    STRIKE_WINDOW_TICKS = 100      # ... in 10 s close a connection with 1008
    PART_AGAIN_TICKS = 10          # that a message in part has at least once its connection is read again: 1 s
    NATS_PONGS = 16                # PINGs of NATS answered at once; more are not
    NATS_ERRORS_TOLD = 10          # -ERRs a second that Python is told one by one; more are counted
    DENIED_SUBJECTS = 256          # subjects that NATS refused, remembered while connected
    RIGHTS_SHARED = 64             # different rights that a loop looks for one to share in
