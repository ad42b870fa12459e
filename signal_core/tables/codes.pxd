"""Codes: answers to clients, events for Python, modes of authentication, states of the cluster."""

cdef enum:
    # Answers to a client, and reasons for a drop. Their texts are in delivery/replies.pxd.
    CODE_OK = 0
    CODE_BAD_REQUEST = 1
    CODE_NO_SUCH_PEER = 2
    CODE_SLOW_PEER = 3
    CODE_EXPIRED = 4
    CODE_TIMEOUT = 5
    CODE_TOO_LARGE = 6
    CODE_DENIED = 7
    CODE_RATE = 8
    CODE_TOO_MANY_ROOMS = 9
    CODE_UNAVAILABLE = 10
    CODE_COUNT = 11

cdef enum:
    # Settings.auth
    AUTH_OFF = 0                  # tokens are ignored
    AUTH_TOKEN = 1                # a handshake needs a token
    AUTH_ANY = 2                  # the authorizer decides, with or without a token

cdef enum:
    # Hub.link
    CLUSTER_OFF = 0               # no NATS is configured: other nodes do not exist
    CLUSTER_AWAY = 1
    CLUSTER_UP = 2

cdef enum:
    # Packet.code of a KIND_EVENT for Python
    EVENT_WANT = 1                # the link wants an address to dial
    EVENT_INFO = 2                # INFO from the NATS server, in the data
    EVENT_UP = 3                  # the link is up
    EVENT_DOWN = 4                # the link was up and is down
    EVENT_TAKEN = 5               # another node has this node's name
    EVENT_NATS_ERROR = 6          # -ERR from the NATS server
    EVENT_LOG = 7                 # a line for the log
    EVENT_CONNECTED = 8           # for the hooks
    EVENT_DISCONNECTED = 9        # for the hooks
    EVENT_FREED = 10              # much memory has become free: malloc_trim is worth a call
    EVENT_LISTED = 11             # answer to a KIND_INQUIRY: `target` is its number, `hash` the cursor for the next
    EVENT_ASK = 12                # a token to authenticate; `hash` 1: it renews another
