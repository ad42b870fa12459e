# Included by engine.pyx: loops made from settings, started and stopped.

cdef void* memory_for(size_t n) except NULL:
    """Allocates n bytes, for the caller to free. Raises MemoryError."""
    cdef void* memory = malloc(n)
    if memory == NULL:
        raise MemoryError("no memory for the engine's settings")
    return memory


cdef char* text_kept(bytes text) except NULL:
    """Copies a text, without a NUL, for the caller to free. Raises MemoryError."""
    cdef char* copy = <char*>memory_for(len(text))
    memcpy(copy, <char*>text, len(text))
    return copy


cdef bint is_v6only(int family, str ip, int port, listen):
    """IPV6_V6ONLY of an IPv6 listener: off for `::`, which also takes IPv4, unless an IPv4 one has the same port."""
    return family != AF_INET and (ip != "::" or (AF_INET, port) in [(one[0], one[2]) for one in listen])


cdef bytes sockaddr_bytes(int family, str ip, int port, int scope):
    """The sockaddr of a numeric address. Raises ValueError."""
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    memset(&v4, 0, sizeof(v4))
    memset(&v6, 0, sizeof(v6))
    if family == AF_INET:
        v4.sin_family = <uint16_t>family
        v4.sin_port = htons(<uint16_t>port)
        good = inet_pton(family, ip.encode(), &v4.sin_addr)
        address = PyBytes_FromStringAndSize(<char*>&v4, sizeof(v4))
    else:
        v6.sin6_family = <uint16_t>family
        v6.sin6_port = htons(<uint16_t>port)
        v6.sin6_scope_id = <uint32_t>scope
        good = inet_pton(family, ip.encode(), &v6.sin6_addr)
        address = PyBytes_FromStringAndSize(<char*>&v6, sizeof(v6))
    if good != 1:
        raise ValueError(f"{ip} is not a numeric address")
    return address


cdef class Loops:
    """The loops of one engine: made from settings, started, given tasks, stopped."""

    cdef Hub* hub
    cdef Loop* control
    cdef Loop* local_peer
    cdef bint started, joined
    cdef int pid
    cdef uint64_t snapshot
    cdef object counting        # lock: one call of `stats` at a time, because a loop has only one copy
    cdef object listening       # lock: one request about listeners at a time, because a loop has one answer
    cdef uint64_t request       # number of the last such request
    cdef uint64_t[LOOP_INDEXES] asked  # number of the last one that each loop has got
    cdef dict rooms             # names of the program's rooms, by (hash, serial)
    cdef dict entries           # addresses of their RoomEntries, by name
    cdef set watched            # names of those that it watches
    cdef set rejoins            # refs of joins of rooms that it is in, until their receipts
    cdef readonly str address
    cdef readonly int control_fd
    cdef readonly int local_peer_fd

    def __cinit__(self, dict settings):
        self.pid = getpid()
        self.rooms = {}
        self.entries = {}
        self.watched = set()
        self.rejoins = set()
        self.counting = threading.Lock()
        self.listening = threading.Lock()
        self.hub = <Hub*>slab_pages_new(sizeof(Hub))
        if self.hub == NULL:
            raise MemoryError("no memory for the engine")
        check_layouts()
        self.fill(settings)
        self.make_loops(settings)
        self.control = self.hub.loops[CONTROL_LOOP]
        self.local_peer = self.hub.loops[LOCAL_PEER_LOOP]
        self.control_fd = self.control.mailbox.wake
        self.local_peer_fd = self.local_peer.mailbox.wake

    cdef fill(self, dict s):
        """Copies the settings into the hub, and makes the tables that the loops share."""
        cdef Hub* hub = self.hub
        hub.nloops = s["loops"]
        if not 1 <= hub.nloops <= MAX_LOOPS:
            raise ValueError(f"loops is {hub.nloops}: it must be 1 to {MAX_LOOPS}")
        self.fill_names(s)
        self.fill_site(s)
        self.fill_messages(s)
        self.fill_connections(s)
        self.fill_auth(s)
        hub.set.hooks = bool(s["hooks"])
        hub.set.memory_trim = s["memory_trim"] and se_malloc_trims()
        hub.link = CLUSTER_AWAY if s["cluster"] else CLUSTER_OFF
        hub.boot = se_now_ms() - TICK_MS
        self.make_tables()

    cdef fill_names(self, dict s):
        """Copies the settings that messages name: the node, NATS subjects, the URL of a drain, HELLO."""
        cdef Hub* hub = self.hub
        cdef bytes text = s["node"].encode()
        hub.node_len = <uint32_t>len(text)
        memcpy(hub.node, <char*>text, hub.node_len)
        hub.node[hub.node_len] = c"."
        text = s["prefix"].encode()
        hub.prefix_len = <uint32_t>len(text)
        memcpy(hub.prefix, <char*>text, hub.prefix_len)
        text = s["drain_url"].encode()
        hub.set.drain_url_len = <uint32_t>len(text)
        memcpy(hub.set.drain_url, <char*>text, hub.set.drain_url_len)
        hello = {"node": s["node"], "version": s["version"], "max_message": s["max_message"],
                 "max_rooms": s["max_rooms"], "ping_interval": s["ping_ms"], "ttl": s["ttl_ms"]}
        text = json.dumps(hello, separators=(",", ":")).encode()
        hub.hello = text_kept(text)
        hub.hello_len = <uint32_t>len(text)

    cdef fill_messages(self, dict s):
        """Copies the settings about messages: their size, rate and life, and how many may wait."""
        cdef Hub* hub = self.hub
        hub.set.max_message = s["max_message"]
        hub.set.max_frame = s["max_message"] + HEAD_MAX + 1
        if s["auth"] != "off" and hub.set.max_frame < HEAD_MAX_AUTH:
            hub.set.max_frame = HEAD_MAX_AUTH
        hub.set.max_refs = s["max_refs"]
        hub.set.message = ticks(s["message_ms"]) if s["message_ms"] else 0
        hub.set.ttl_ms = s["ttl_ms"]
        hub.set.rate = s["max_rate"]
        hub.set.burst = max(s["max_burst"] or s["max_rate"], -(-s["max_rate"] * TICK_MS // 1000))
        hub.set.input_loop = s["input_total"] // hub.nloops
        hub.set.backlog_messages = s["backlog_messages"]
        hub.set.backlog_bytes = s["backlog_bytes"]
        hub.set.backlog_loop = s["backlog_total"] // hub.nloops
        hub.set.nats_pending = s["nats_pending"]

    cdef fill_connections(self, dict s):
        """Copies the settings about connections: their number, pace, times and buffers."""
        cdef Hub* hub = self.hub
        hub.set.max_rooms = s["max_rooms"]
        hub.set.max_connections = s["max_connections"]
        hub.set.max_per_address = s["max_connections_per_address"]
        hub.set.max_per_user = s["max_connections_per_user"]
        hub.set.accept_interval = 1000000000 // s["accept_rate"] if s["accept_rate"] else 0
        if s["accept_yield"]:
            hub.set.yield_shortest = 1000000000 // (YIELD_MOST * s["processors"])
            hub.set.yield_longest = 1000000000 // (YIELD_LEAST * s["processors"])
        hub.set.handshake = ticks(s["handshake_ms"])
        hub.set.ping = ticks(s["ping_ms"])
        hub.set.pong = ticks(s["pong_ms"])
        hub.set.stall = ticks(s["stall_ms"])
        hub.set.close = ticks(s["close_ms"])
        hub.set.send_buffer = s["send_buffer"]
        hub.set.receive_buffer = s["receive_buffer"]

    cdef make_tables(self):
        """Makes the tables of rooms and, if connections are counted by address, of addresses. Raises MemoryError."""
        cdef Hub* hub = self.hub
        getrandom(hub.rooms.key, sizeof(hub.rooms.key), 0)
        if not room_table_init(&hub.rooms, hub.nloops):
            raise MemoryError("no memory for the room table")
        if hub.set.max_per_address:
            hub.addresses = <Addresses*>calloc(1, sizeof(Addresses))
            if hub.addresses == NULL:
                raise MemoryError("no memory for the table of addresses")
            getrandom(hub.addresses.key, sizeof(hub.addresses.key), 0)

    cdef fill_site(self, dict s):
        """Copies the settings about requests: their sizes and path."""
        cdef bytes path = s["path"].rstrip("/").encode()
        cdef Hub* hub = self.hub
        if <size_t>len(path) >= sizeof(hub.set.site.path):
            raise ValueError(f"path has {len(path)} bytes: {sizeof(hub.set.site.path) - 1} at most")
        hub.set.site.max_line = s["max_request_line"]
        hub.set.site.max_head = s["max_head"]
        hub.set.site.path_len = <uint32_t>len(path)
        memcpy(hub.set.site.path, <char*>path, len(path))

    cdef fill_auth(self, dict s):
        """Copies the settings about who may connect. The lists are freed with the hub."""
        cdef Hub* hub = self.hub
        cdef uint32_t i
        cdef bytes text
        hub.set.auth = {"off": AUTH_OFF, "jwt": AUTH_TOKEN, "callback": AUTH_ANY}[s["auth"]]
        hub.set.auth_patience = ticks(s["auth_timeout_ms"])
        hub.set.auth_grace = <uint32_t>(s["auth_grace_ms"] // TICK_MS)
        hub.set.auth_pending = max(1, s["auth_pending"] // hub.nloops)
        if s["origins"]:
            text = b"".join(origin.lower().encode() + b"\n" for origin in s["origins"])
            hub.origins = text_kept(text)
            hub.origins_len = <uint32_t>len(text)
        if s["proxies"]:
            hub.proxies = <Network*>memory_for(len(s["proxies"]) * sizeof(Network))
            hub.nproxies = <uint32_t>len(s["proxies"])
            for i, (address, bits) in enumerate(s["proxies"]):
                memcpy(hub.proxies[i].address, <char*><bytes>address, ADDRESS_BYTES)
                hub.proxies[i].bits = bits

    cdef make_loops(self, dict s):
        """Makes the loops and both pseudo-loops, without threads. Raises MemoryError, OSError."""
        cdef Hub* hub = self.hub
        cdef Loop* loop
        cdef uint32_t i, tag
        cdef uint64_t instance
        cdef bytes name
        if socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, hub.passing) != 0:
            raise OSError("no descriptor is left for the engine: raise the limit of open files (ulimit -n)")
        for i in list(range(hub.nloops)) + [CONTROL_LOOP, LOCAL_PEER_LOOP]:
            loop = <Loop*>slab_pages_new(sizeof(Loop))
            if loop == NULL:
                raise MemoryError("no memory for a loop")
            hub.loops[i] = loop
            loop.mailbox.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
            if loop.mailbox.wake < 0:
                raise OSError("no descriptor is left for the engine: raise the limit of open files (ulimit -n)")
            loop.mailbox.limit = s["inbox_messages"] if i != CONTROL_LOOP else s["auth_pending"] + MAILS_WAITING
            loop.mailbox.limit_bytes = max(s["inbox_messages"] * 1024, 4 * s["max_message"])
            if i == CONTROL_LOOP:
                loop.mailbox.limit_bytes = UINT64_MAX // 2
            loop.mailbox.asleep = 1
            if not thread_init(loop, hub, i):
                raise MemoryError("no memory for a loop")
        getrandom(&tag, sizeof(tag), 0)
        getrandom(&instance, sizeof(instance), 0)
        name = b"%016x" % instance
        memcpy(hub.loops[0].linked.presence.instance, <char*>name, INSTANCE_SIZE)
        hub.local_peer = ids_make(LOCAL_PEER_LOOP, 0, tag)
        self.address = self.peer_text(hub.local_peer)

    cdef str peer_text(self, uint64_t id):
        """The address of a peer of this node."""
        cdef char text[PEER_TEXT]
        return text_of(span_between(text, replies_put_peer(text, self.hub, id)))

    cdef int check(self, bint running=True) except -1:
        """Raises CoreError in a child made by fork() and, with `running`, unless the engine runs."""
        if getpid() != self.pid:
            raise CoreError("this engine was started before fork(): make another one in the child")
        if running and (not self.started or self.joined):
            raise CoreError("the engine is not running: start it first")
        return 0

    # -- starting and stopping --

    def start(self, list listen):
        """Starts a thread per loop. `listen`: (family, ip, port, scope id) of each address.

        When it returns, all loops listen. Raises OSError, with no thread left running; CoreError the second time.
        """
        self.check(False)
        if self.started:
            raise CoreError("the engine was started before: make another one")
        self.started = True
        cdef uint32_t i
        cdef int failed
        for i in range(self.hub.nloops):
            self.hub.loops[i].done = LOOP_STARTING
            failed = se_thread_start(&self.hub.loops[i].thread, thread_main, self.hub.loops[i],
                                     f"signal-{i}".encode())
            if failed:
                self.hub.loops[i].done = 0
                self.hub.failed = failed
                break
        self.wait_until_running()
        failed = <int>se_load_acquire(&self.hub.failed)
        try:
            if failed:
                raise OSError(failed, os.strerror(failed))
            for family, ip, port, scope in listen:
                self.listener_add(family, ip, port, scope, is_v6only(family, ip, port, listen))
        except BaseException:
            self.stop()
            self.join()
            raise

    cdef wait_until_running(self):
        """Waits until each loop has begun its iterations or failed. Releases the GIL."""
        cdef uint32_t i
        cdef Hub* hub = self.hub
        with nogil:
            for i in range(hub.nloops):
                while se_load_acquire(&hub.loops[i].done) == LOOP_STARTING:
                    usleep(200)

    cdef Packet* task_new(self, uint8_t kind, bytes data=b"") except NULL:
        """A task for a loop, to be handed to task_post. Raises MemoryError."""
        cdef Packet* task = packet_new_heap(&self.control.mem, len(data), kind)
        if task == NULL:
            raise MemoryError("no memory for a message to a loop")
        packet_set_data(task, span_bytes(data))
        return task

    cdef void task_post(self, uint32_t index, Packet* task) noexcept:
        """Posts a task to a loop, and takes ownership."""
        outbox_post(self.control, index, task)
        outbox_post_all(self.control)

    cdef bint tasks_full(self, uint32_t index):
        """Whether TASKS_WAITING tasks wait for a loop, so that the program and operators may add none. Counts it."""
        cdef bint full = backpressure_tasks_full(self.control, self.hub.loops[index])
        if full:
            self.local_peer.n[C_TASKS_REFUSED] += 1
        return full

    cdef int check_tasks(self, uint32_t index) except -1:
        """To be called before a task whose number nothing else limits. Raises CoreError if TASKS_WAITING tasks wait
        already."""
        if self.tasks_full(index):
            raise CoreError(f"loop {index} does not respond: {TASKS_WAITING} tasks wait for it")
        return 0

    def stop(self):
        """Begins to stop every loop, and returns at once. May be called again."""
        self.check(False)
        cdef uint32_t i
        if self.started and not self.joined:
            for i in range(self.hub.nloops):
                self.task_post(i, self.task_new(KIND_STOP))

    def drain(self, int ms):
        """Begins a drain of `ms` milliseconds, and returns at once. Loops stop accepting, send GOAWAY, and close
        clients evenly over this time. `stop` ends it."""
        self.check()
        cdef uint32_t i
        cdef Packet* task
        for i in range(self.hub.nloops):
            task = self.task_new(KIND_STOP)
            task.hash = ticks(ms)
            self.task_post(i, task)

    @property
    def nloops(self):
        return self.hub.nloops

    @property
    def sockets(self):
        """Open sockets of all loops, including handshakes and closes in progress."""
        return se_load_relaxed(&self.hub.connections)

    def join(self):
        """Waits until every loop's thread has ended. Releases the GIL."""
        self.check(False)
        cdef uint32_t i
        cdef pthread_t thread
        if not self.started or self.joined:
            return
        self.joined = True
        for i in range(self.hub.nloops):
            if se_load_acquire(&self.hub.loops[i].done):
                thread = self.hub.loops[i].thread
                with nogil:
                    pthread_join(thread, NULL)

    def __dealloc__(self):
        cdef uint32_t i
        if self.hub == NULL or getpid() != self.pid:
            return
        if self.started and not self.joined:
            try:
                self.stop()
                self.join()
            except Exception:
                return
        for i in range(LOOP_INDEXES):
            if self.hub.loops[i] != NULL:
                thread_end(self.hub.loops[i])
                close(self.hub.loops[i].mailbox.wake)
        room_table_end(&self.hub.rooms)
        if self.hub.addresses != NULL:
            addresses_end(self.hub.addresses)
        for i in range(2):
            if self.hub.passing[i] > 0:
                close(self.hub.passing[i])
        for i in range(LOOP_INDEXES):
            if self.hub.loops[i] != NULL:
                munmap(self.hub.loops[i], sizeof(Loop))
        free(self.hub.hello)
        free(self.hub.origins)
        free(self.hub.proxies)
        munmap(self.hub, sizeof(Hub))
