"""Kinds of packets, and whom their fate is told."""

cdef enum:
    # Packet.kind: what a packet is. docs/architecture/threads-and-ownership.md has the limit of each that is posted.
    KIND_FRAME = 0        # a frame, already with its receiver (never in an inbox)
    KIND_TO = 1           # a frame for one connection, `target` its id
    KIND_ROOM = 2         # a frame for the members of a room, `target` its serial, `hash` its hash
    KIND_RECEIPT = 3      # `target` hears `code` for the ref in the text
    KIND_NATS = 4         # bytes for the NATS link
    KIND_SYNC = 5         # a room's interest changed: the link looks at `pointer`, a RoomEntry
    KIND_STOP = 6         # end the loop; `hash` not 0: drain it, over so many ticks
    KIND_KICK = 7         # close the connection `target` with close code `hash`; `origin` numbers the request
    KIND_SNAPSHOT = 8     # copy the counters for a reader
    KIND_DIAL = 9         # the link connects to the address in the data; none: what `hash` says, DIAL_*
    KIND_CONNECT = 10     # CONNECT in the data, for the link; `hash` is NATS's max_payload, `pointer` a session of TLS
    KIND_EVENT = 11       # an event for Python: `code` says which, the text explains
    # `target` wants the receipt for its SUB. Data: the room; `hash`: its hash; text: the ref; `code` 1: with presence
    KIND_AWAIT = 12
    KIND_INQUIRY = 13     # an operator's question; its fields are in admin_query.pxd
    KIND_VERDICT = 14     # on the token of `target`; its fields are in auth.pxd
    KIND_NEWS = 15        # frames for the watchers of a room, named as in KIND_ROOM; `origin`: 0 or question numbers
    KIND_ASK = 16         # a watcher wants to know who is in the room in the data; `target` numbers the question
    KIND_QUESTION = 17    # who is in the room, named as in KIND_ROOM? `origin` numbers it, the data is which node asks
    KIND_SERVICE = 18     # the service joins (`code` 1) or leaves the room in the data

cdef enum:
    # Packet.hash of a KIND_DIAL without an address.
    DIAL_GIVE_UP = 0      # the server can't be used
    DIAL_INFO_TAKEN = 1   # Python has handled an INFO
    DIAL_LEAVE = 2        # the server is about to end, and there is another

cdef enum:
    # Packet.tell: who is told what became of it.
    TELL_NOBODY = 0
    TELL_PEER = 1         # the connection `origin`; the text is its ref
    TELL_SUBJECT = 2      # the text is a NATS subject
