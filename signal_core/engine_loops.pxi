# Included by engine.pyx: loops made from settings, started and stopped.

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
    cdef Settings* set          # the newest block, with the older ones that a loop may still read
    cdef Loop* control
    cdef Loop* local_peer
    cdef bint started, joined
    cdef int pid
    cdef uint64_t snapshot
    cdef object reloading       # lock: one reload at a time
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
        self.reloading = threading.Lock()
        self.hub = <Hub*>slab_pages_new(sizeof(Hub))
        if self.hub == NULL:
            raise MemoryError("no memory for the engine")
        check_layouts()
        self.fill(settings)
        self.set = settings_new(settings, self.hub.nloops)
        self.set.number = 1
        self.make_loops(settings)
        self.control = self.hub.loops[CONTROL_LOOP]
        self.local_peer = self.hub.loops[LOCAL_PEER_LOOP]
        self.control_fd = self.control.mailbox.wake
        self.local_peer_fd = self.local_peer.mailbox.wake

    cdef fill(self, dict s):
        """Copies the settings that do not change into the hub, and makes the tables that the loops share."""
        cdef Hub* hub = self.hub
        cdef bytes text = s["node"].encode()
        hub.nloops = s["loops"]
        if not 1 <= hub.nloops <= MAX_LOOPS:
            raise ValueError(f"loops is {hub.nloops}: it must be 1 to {MAX_LOOPS}")
        hub.node_len = <uint32_t>len(text)
        memcpy(hub.node, <char*>text, hub.node_len)
        hub.node[hub.node_len] = c"."
        text = s["prefix"].encode()
        hub.prefix_len = <uint32_t>len(text)
        memcpy(hub.prefix, <char*>text, hub.prefix_len)
        hub.link = CLUSTER_AWAY if s["cluster"] else CLUSTER_OFF
        hub.boot = se_now_ms() - TICK_MS
        self.make_tables()

    cdef make_tables(self):
        """Makes the tables of rooms and of addresses. Raises MemoryError."""
        cdef Hub* hub = self.hub
        getrandom(hub.rooms.key, sizeof(hub.rooms.key), 0)
        if not room_table_init(&hub.rooms, hub.nloops):
            raise MemoryError("no memory for the room table")
        hub.addresses = <Addresses*>slab_pages_new(sizeof(Addresses))
        if hub.addresses == NULL:
            raise MemoryError("no memory for the table of addresses")
        getrandom(hub.addresses.key, sizeof(hub.addresses.key), 0)

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
            loop.mailbox.asleep = 1
            if not thread_init(loop, hub, self.set, i):
                raise MemoryError("no memory for a loop")
        self.limit_mailboxes(s)
        getrandom(&tag, sizeof(tag), 0)
        getrandom(&instance, sizeof(instance), 0)
        name = b"%016x" % instance
        memcpy(hub.loops[0].linked.presence.instance, <char*>name, INSTANCE_SIZE)
        hub.local_peer = ids_make(LOCAL_PEER_LOOP, 0, tag)
        self.address = self.peer_text(hub.local_peer)

    cdef limit_mailboxes(self, dict s):
        """Limits the payload of every mailbox. That of the control thread has room for the tokens of all loops, also of
        those that a reload has not reached yet: it never shrinks."""
        cdef uint32_t i
        cdef uint64_t most = s["inbox_messages"], bytes_most = max(s["inbox_messages"] * 1024, 4 * s["max_message"])
        cdef Mailbox* control = &self.hub.loops[CONTROL_LOOP].mailbox
        for i in list(range(self.hub.nloops)) + [LOCAL_PEER_LOOP]:
            se_store_relaxed(&self.hub.loops[i].mailbox.limit, most)
            se_store_relaxed(&self.hub.loops[i].mailbox.limit_bytes, bytes_most)
        se_store_relaxed(&control.limit, max(s["auth_pending"] + MAILS_WAITING, control.limit))
        se_store_relaxed(&control.limit_bytes, UINT64_MAX // 2)

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
        settings_free(self.set)
        for i in range(LOOP_INDEXES):
            if self.hub.loops[i] != NULL:
                munmap(self.hub.loops[i], sizeof(Loop))
        munmap(self.hub, sizeof(Hub))
