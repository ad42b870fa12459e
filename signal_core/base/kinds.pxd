"""Kinds of packets, and the receivers of their outcome."""

cdef enum:
    # Packet.kind: what a packet is. docs/architecture/threads-and-ownership.md has the limit of each that is posted.
    KIND_FRAME = 0        # a frame, with its receiver's loop (never in a mailbox)
    # In both, `pointer` is when the iteration that read it began, in ns; 0: unknown (tables/latency.pxd).
    KIND_TO = 1           # a frame for the connection `target`
    KIND_ROOM = 2         # a frame for the members of the room with serial `target` and hash `hash`
    KIND_RECEIPT = 3      # the answer `code` for a ref of the connection `target`; the text is the ref
    KIND_NATS = 4         # bytes for NATS
    KIND_SYNC = 5         # members or watchers of the RoomEntry `pointer` came or went: the link checks its SUBs
    KIND_STOP = 6         # stop the loop; `hash` not 0: drain it, over that many ticks
    KIND_KICK = 7         # close the connection `target` with close code `hash`; `origin` numbers the request
    KIND_SNAPSHOT = 8     # copy the counters for Python; `hash` is the snapshot's number
    KIND_DIAL = 9         # the link connects to the sockaddr in the data; no data: `hash` is DIAL_*
    KIND_CONNECT = 10     # the CONNECT line for NATS; `hash` is its max_payload, `pointer` a TLS session
    KIND_EVENT = 11       # an event for Python; `code` is EVENT_*, the text explains it
    # `target` wants the receipt for its SUB. Data: the room; `hash`: its hash; text: the ref; `code` 1: with presence
    KIND_AWAIT = 12
    KIND_INQUIRY = 13     # an operator's query (loop/admin_query.pxd)
    KIND_VERDICT = 14     # the verdict on the token of `target` (client/auth.pxd)
    KIND_NEWS = 15        # frames for watchers of a room, identified as in KIND_ROOM; `origin`: their queries, 0: all
    KIND_ASK = 16         # a watcher queries the members of the room in the data; `target` is the query's number
    KIND_QUESTION = 17    # query `origin` for a room's members, identified as in KIND_ROOM; data: the asking node
    KIND_LOCAL_PEER = 18  # the local peer joined (`code` 1) or left the room in the data
    KIND_LISTEN = 19      # `code` LISTEN_*: open or close listener `target`; `origin` numbers the request
    KIND_RELOAD = 20      # the loop uses the Settings `pointer` from now on

cdef enum:
    # Packet.code of a KIND_LISTEN: what to do, and which socket it is
    LISTEN_CLOSE = 0
    LISTEN_OWN = 1        # each loop binds one to the sockaddr in the data; `hash` is its IPV6_V6ONLY
    LISTEN_SHARED = 2     # all loops have the same socket, which comes over Hub.passing; it ends with the engine
    LISTEN_INHERITED = 3  # ... the socket belongs to who passed it to the process, and outlives the engine

cdef enum:
    # Packet.hash of a KIND_DIAL without data
    DIAL_GIVE_UP = 0      # the server can't be used
    DIAL_INFO_TAKEN = 1   # Python has handled the last INFO
    DIAL_LEAVE = 2        # the server is about to stop, and there is another one

cdef enum:
    # Packet.tell: who gets the outcome
    TELL_NOBODY = 0
    TELL_PEER = 1         # the connection `origin`; the text is its ref
    TELL_SUBJECT = 2      # the text is a NATS subject
