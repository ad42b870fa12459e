"""The settings in force: a block that is never written once a loop can read it. A reload replaces it.

Core allocates a block and all it points to, under the GIL, and writes it (engine_settings.pxi). A loop reads the one
that its `set` points to, on its own thread. For a reload, Core posts the new block to each loop (KIND_RELOAD). A loop
swaps its pointer between two iterations, then stores the block's number in `reloaded`; a pseudo-loop is swapped under
the GIL. Once every loop has stored it, nobody reads the older block, and Core frees that: at the next reload, or with
the engine. So no loop may keep a pointer into a block beyond an iteration. Until all loops have swapped, no further
reload begins, so there are never more than two blocks.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from signal_core.base.limits cimport ADDRESS_BYTES, DRAIN_URL_SIZE
from signal_core.wire.request cimport Site

cdef struct Network:              # addresses with a common prefix
    uint8_t address[ADDRESS_BYTES]
    uint32_t bits

cdef struct Settings:             # durations are in ticks unless they say otherwise
    uint64_t number               # 1 for the first block of an engine, 2 for the next
    Settings* older               # the block before it, until that is freed
    Site site                     # limits on a request, and the path of the endpoint
    uint32_t max_message          # bytes of a payload
    int64_t ordinary              # bytes up to which a message is surely none to refuse: the same; -1 with echo
    uint32_t max_frame            # bytes of a WebSocket message: head and payload
    uint32_t deflate_least        # bytes of the shortest message that is compressed; UINT32_MAX: none is
    int deflate_level             # 1 to 9
    bint echo                     # send each message back to its sender
    uint32_t max_rooms            # rooms a connection may be in
    uint32_t max_refs             # refs a connection may have outstanding
    uint32_t handshake            # limit on the time of a handshake
    uint32_t ping
    uint32_t pong
    uint32_t stall
    uint32_t message              # from the first byte of a message to its last; 0: no limit
    uint32_t close
    uint32_t ttl_ms               # ms; for messages without a ttl
    uint32_t backlog_messages     # messages that may wait for one blocked socket
    uint32_t backlog_bytes        # bytes that may wait for one blocked socket
    uint64_t backlog_loop         # bytes that may wait for all blocked sockets of a loop: backlog-total / loops
    uint32_t send_buffer          # bytes of a socket's send buffer; 0: the kernel decides
    uint32_t receive_buffer
    uint64_t max_connections      # 0: no limit
    uint64_t max_per_address      # connections; 0: no limit
    uint32_t max_per_user         # connections; 0: no limit
    uint64_t accept_interval      # ns; mean interval between new connections; 0: no limit
    uint64_t yield_shortest       # ns; shortest such interval while new connections yield to messages
    uint64_t yield_longest        # ns; longest one; 0: new connections do not yield
    uint32_t rate                 # messages a second from one connection; 0: no limit
    uint32_t burst                # messages at once from one connection
    uint64_t input_loop           # bytes of incomplete input that a loop may buffer: input-total / loops
    uint32_t nats_pending         # bytes that may wait for NATS
    bint hooks                    # report connects and disconnects to Python
    bint memory_trim              # return freed memory to the system
    char drain_url[DRAIN_URL_SIZE]  # the URL in GOAWAY; empty: none
    uint32_t drain_url_len
    uint32_t auth                 # AUTH_*
    uint32_t auth_patience        # time limit of a verdict
    uint32_t auth_grace           # time between the expiry of a token and the close
    uint32_t auth_pending         # tokens of one loop that may await their verdict
    char* hello                   # the JSON object of HELLO
    uint32_t hello_len
    char* origins                 # allowed origins, each followed by LF; NULL: any
    uint32_t origins_len
    uint32_t nproxies
    Network* proxies              # proxies whose X-Forwarded-For is trusted
    bint proxy_protocol           # they send a PROXY protocol header


cdef inline void settings_free(Settings* set) noexcept nogil:
    """Frees a block and what it owns, and the older ones. No effect on NULL."""
    cdef Settings* older
    while set != NULL:
        older = set.older
        free(set.hello)
        free(set.origins)
        free(set.proxies)
        free(set)
        set = older
