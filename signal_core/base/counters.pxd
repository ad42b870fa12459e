"""Counters of a loop (Loop.n). Only their loop writes them; Python reads snapshots.

Two ledgers, each exact at the end of every iteration:
accepted = routed + the sum of refused_*; attempted = written + the sum of dropped_* + in_flight.
The counters' public names are in signal_core/names.py, in this order.
"""

cdef enum:
    C_CONNECTIONS = 0         # gauge: open WebSockets
    C_OPENED = 1
    C_CLOSED = 2
    C_ACCEPTED_SOCKETS = 3
    C_HANDSHAKES_REFUSED = 4  # answered with an HTTP error other than 408 and 503
    C_HANDSHAKES_TIMED_OUT = 5
    C_SHED = 6                # answered 503: out of descriptors, memory, over max-connections, or stopping
    C_PINGS_SENT = 7
    C_PEERS_LOST = 8          # closed by keepalive
    C_STALLED = 9             # closed with 4008: stall-timeout
    C_PROTOCOL_ERRORS = 10    # closed with 1002, 1007 or 1009
    C_ABUSERS = 11            # closed with 1008: malformed messages, STRIKES
    C_KICKED = 12             # closed by an operator or the embedding program

    # ledger of messages
    C_ACCEPTED = 13
    C_ROUTED = 14
    C_REFUSED_BAD_REQUEST = 15
    C_REFUSED_NO_SUCH_PEER = 16
    C_REFUSED_SLOW_PEER = 17
    C_REFUSED_UNAVAILABLE = 18
    C_REFUSED_TOO_LARGE = 19
    C_REFUSED_DENIED = 20
    C_REFUSED_RATE = 21

    # ledger of deliveries
    C_ATTEMPTED = 22
    C_WRITTEN = 23
    C_DROPPED_SLOW_PEER = 24
    C_DROPPED_EXPIRED = 25
    C_DROPPED_GONE = 26       # the receiver had closed, or there was none
    C_DROPPED_MEMORY = 27
    C_DROPPED_NATS = 28       # lost with the NATS connection, or NATS read too slowly
    C_DROPPED_INBOX = 29      # another loop's mailbox was full
    C_IN_FLIGHT = 30          # gauge

    C_BYTES_IN = 31
    C_BYTES_OUT = 32
    C_READS = 33              # system calls
    C_WRITES = 34
    C_WAKES = 35              # iterations

    C_POSTED = 36             # messages posted to other loops
    C_TAKEN = 37              # messages taken from other loops
    C_ROOMS = 38              # gauge: rooms with members on this loop
    C_MEMBERSHIPS = 39        # gauge
    C_BACKLOG_BYTES = 40      # gauge: bytes that wait for blocked sockets
    C_BLOCKED = 41            # times a socket was full
    C_REFS_TIMED_OUT = 42
    C_RECEIPTS_LATE = 43      # arrived after their ref had timed out
    C_ROOMS_REFUSED = 44      # joins over max-rooms
    C_EVENTS_LOST = 45        # events and log lines that did not fit Python's mailboxes

    C_NATS_IN = 46            # messages from NATS
    C_NATS_OUT = 47           # messages to NATS, receipts included
    C_NATS_BYTES_IN = 48
    C_NATS_BYTES_OUT = 49
    C_NATS_CONNECTS = 50
    C_NATS_LOST = 51          # connections to NATS that ended
    C_NATS_ERRORS = 52        # -ERR
    C_NATS_MALFORMED = 53     # messages from NATS whose headers or presence are malformed
    C_NATS_SUBS = 54          # gauge: subscriptions held
    C_LISTENERS_PAUSED = 55   # times listeners were ignored for a tick: no descriptor left, not even to answer 503

    C_WATCHERS = 56           # gauge: memberships that watch their room
    C_PRESENCE_CHANGES = 57   # joins and leaves on this node, collected for watchers or other nodes
    C_PRESENCE_OUT = 58       # publishes of presence to NATS
    C_PRESENCE_ASKED = 59     # presence queries
    C_PRESENCE_LOST = 60      # presence lost: no memory, a full mailbox, or NATS read too slowly
    C_NODES_LOST = 61         # other nodes whose heartbeats stopped

    C_GOAWAYS = 62            # GOAWAY sent
    C_DRAINED = 63            # closed with 1001 by a drain
    C_ADDRESS_LIMITED = 64    # answered 429: max-connections-per-address
    C_ACCEPT_PACED = 65       # times a loop made new connections wait: accept-rate, accept-yield
    C_INPUT_BYTES = 66        # gauge: buffers of incomplete heads, frames and messages
    C_INPUT_LIMITED = 67      # connections closed with 1013, or answered 503: input-total
    C_BACKLOG_LIMITED = 68    # receivers closed: the rest of a half-written message did not fit backlog-total
    C_GAPS_UNTOLD = 69        # messages that did not fit another loop's mailbox, without a GAP to tell of them

    C_AUTH_GRANTED = 70       # tokens accepted, renewals included
    C_AUTH_REFUSED = 71       # tokens refused: missing, malformed, invalid, or by the authorizer
    C_AUTH_FAILED = 72        # tokens without a verdict: too many waited, it came too late, or the authorizer failed
    C_AUTH_EXPIRED = 73       # closed with 1008: the token expired
    C_AUTH_DENIED = 74        # SUB, PUB, TO and rooms of a URL that the token does not allow
    C_ORIGINS_REFUSED = 75    # handshakes whose Origin is not allowed
    C_USER_LIMITED = 76       # handshakes answered 429: max-connections-per-user
    C_INQUIRIES = 77          # operators' queries answered; one that takes several steps counts for each
    C_PRESENCE_DENIED = 78    # presence not published: NATS does not allow the subject
    C_ACCEPT_YIELDED = 79     # times accept-yield slowed new connections down
    C_ACCEPT_LEFT = 80        # sockets closed at once: the client had left while it was parked
    C_QUESTIONS_HELD = 81     # presence queries set aside: QUESTIONS_WAITING
    C_RECEIPTS_LOST = 82      # receipts: no memory, or NATS read too slowly; from NATS: a full mailbox
    C_QUESTIONS_FULL = 83     # presence queries not posted to a loop: inbox-messages of them wait there
    C_OVERSIZED = 84          # requests answered 414 or 431: max-request-line, max-head
    C_HEALTH_LIMITED = 85     # times HEALTHS_PER_TICK was reached
    C_INPUTS_HELD = 86        # times a connection was not read: TASKS_WAITING
    C_AWAITS_REFUSED = 87     # SUBs answered unavailable: WAITERS_MOST
    C_NATS_SUBS_REFUSED = 88  # SUBs refused by NATS, or not sent since NATS accepts no more
    C_TURNS_DELAYED = 89      # times a connection waited for the work it had caused, or rested
    C_STEPS_CUT = 90          # steps of an iteration that reached their time limit
    C_MEMORY_TRIMS = 91       # times a loop returned freed memory to the system
    C_MESSAGES_LATE = 92      # connections closed with 1008: message-timeout
    C_TASKS_REFUSED = 93      # requests of operators and the program that were postponed or refused: TASKS_WAITING
    C_PROXY_REFUSED = 94      # handshakes answered 400: proxy-protocol
    C_MESSAGES_DEFLATED = 95  # compressed; once for all members of a room on a loop
    C_DEFLATE_SAVED = 96      # bytes by which they got shorter
    C_MESSAGES_INFLATED = 97  # clients' messages decompressed
    C_INFLATED_BYTES = 98     # ... their bytes
    C_INFLATE_REFUSED = 99    # connections closed with 1009: a message was too long once decompressed
    C_ZLIB_BYTES = 100        # gauge: memory of zlib's states
    C_COUNT = 101
