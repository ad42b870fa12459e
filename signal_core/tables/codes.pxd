"""Codes: answers to a client, events to Python, how tokens are asked for, how the cluster is reached."""

cdef enum:
    # Answers to a client, and causes. CODE_OK first; the texts are in replies.pxd.
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
    AUTH_OFF = 0                  # no token is looked at
    AUTH_TOKEN = 1                # a handshake needs a token
    AUTH_ANY = 2                  # the authorizer is asked with a token or without

cdef enum:
    # Hub.link
    CLUSTER_OFF = 0               # no NATS is configured: other nodes do not exist
    CLUSTER_AWAY = 1
    CLUSTER_UP = 2

cdef enum:
    # Event codes to Python (KIND_EVENT)
    EVENT_WANT = 1
    EVENT_INFO = 2
    EVENT_UP = 3
    EVENT_DOWN = 4
    EVENT_TAKEN = 5
    EVENT_NATS_ERROR = 6
    EVENT_LOG = 7
    EVENT_CONNECTED = 8
    EVENT_DISCONNECTED = 9
    EVENT_FREED = 10              # much memory has become free: it can be given back to the system
    EVENT_LISTED = 11             # the answer to a KIND_INQUIRY: `target` numbers it, `hash` is where the next goes on
    EVENT_ASK = 12                # to be judged: `hash` 1 where it renews a token
