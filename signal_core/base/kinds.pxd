"""Kinds of packets, and who is told their outcome."""

cdef enum:
    # Packet.kind: what a packet is. docs/architecture/threads-and-ownership.md has the limit of each that is posted.
    KIND_FRAME = 0        # a frame, with its receiver's loop (never in a mailbox)
    KIND_TO = 1           # a frame for the connection `target`
    KIND_ROOM = 2         # a frame for the members of a room, `target` its serial, `hash` its hash
    KIND_RECEIPT = 3      # the answer `code` for a ref of the connection `target`; the text is the ref
    KIND_NATS = 4         # bytes for NATS
    KIND_SYNC = 5         # loops joined or left the room `pointer`, a RoomEntry: the link checks its subscription
    KIND_STOP = 6         # stop the loop; `hash` not 0: drain it, over that many ticks
    KIND_KICK = 7         # close the connection `target` with close code `hash`; `origin` numbers the request
    KIND_SNAPSHOT = 8     # copy the counters for Python; `hash` is the snapshot's number
    KIND_DIAL = 9         # the link connects to the sockaddr in the data; no data: `hash` is DIAL_*
    KIND_CONNECT = 10     # the CONNECT line for NATS; `hash` is its max_payload, `pointer` a TLS session
    KIND_EVENT = 11       # an event for Python; `code` is EVENT_*, the text explains it
    # `target` wants the receipt for its SUB. Data: the room; `hash`: its hash; text: the ref; `code` 1: with presence
    KIND_AWAIT = 12
    KIND_INQUIRY = 13     # a question of an operator (loop/admin_query.pxd)
    KIND_VERDICT = 14     # the decision on the token of `target` (client/auth.pxd)
    KIND_NEWS = 15        # frames for the watchers of a room, named as in KIND_ROOM; `origin`: 0 or marks
    KIND_ASK = 16         # a watcher asks who is in the room in the data; `target` is the question's number
    KIND_QUESTION = 17    # who is in the room, named as in KIND_ROOM? `origin` is its number, the data the asking node
    KIND_SERVICE = 18     # the service joined (`code` 1) or left the room in the data

cdef enum:
    # Packet.hash of a KIND_DIAL without data
    DIAL_GIVE_UP = 0      # the server can't be used
    DIAL_INFO_TAKEN = 1   # Python has handled the last INFO
    DIAL_LEAVE = 2        # the server is about to stop, and there is another one

cdef enum:
    # Packet.tell: who is told the outcome
    TELL_NOBODY = 0
    TELL_PEER = 1         # the connection `origin`; the text is its ref
    TELL_SUBJECT = 2      # the text is a NATS subject
