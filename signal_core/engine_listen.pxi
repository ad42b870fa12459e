# Included by engine.pyx: listeners, opened and closed while the loops run.

cdef class Listeners(Loops):
    """The listeners of all loops. A listener has one number, which is free again once every loop has closed it."""

    def listener_add(self, int family, str ip, int port, int scope, bint v6only):
        """Listens on a TCP address. Returns the listener's number. All or nothing: if one loop fails, the others close
        theirs, and OSError is raised. Raises ValueError, CoreError."""
        return self.listener_open(LISTEN_OWN, sockaddr_bytes(family, ip, port, scope), v6only, -1)

    def listener_share(self, int fd, bint inherited):
        """Has all loops accept from a socket that listens already; they duplicate it. `inherited`: it outlives the
        engine, so what is queued on it is left there. As listener_add otherwise. The socket becomes nonblocking."""
        os.set_blocking(fd, False)
        return self.listener_open(LISTEN_INHERITED if inherited else LISTEN_SHARED, b"", False, fd)

    def listener_remove(self, uint32_t number):
        """Closes a listener: new clients are refused at once, those in its accept backlog are accepted. Open
        connections stay. Raises ValueError; CoreError if a loop does not respond: it closes it when it does."""
        self.check()
        if number >= MAX_LISTENERS:
            raise ValueError(f"{number} is no listener: their numbers are 0 to {MAX_LISTENERS - 1}")
        with self.listening:
            self.close_all(number)

    cdef uint64_t listens(self):
        """A bit for each listener that is open on a loop."""
        cdef uint64_t bits = 0
        cdef uint32_t i
        for i in range(self.hub.nloops):
            bits |= se_load_acquire(&self.hub.loops[i].listens)
        return bits

    cdef uint32_t listener_open(self, uint8_t code, bytes address, bint v6only, int fd) except *:
        """Opens a listener on every loop, one after the other."""
        self.check()
        cdef uint32_t i, number
        cdef int failed
        with self.listening:
            for i in range(self.hub.nloops):
                self.await_answer(i)  # also of one given up before: its socket may still be on the way
            free_numbers = [n for n in range(MAX_LISTENERS) if not self.listens() >> n & 1]
            if not free_numbers:
                raise ValueError(f"the engine has {MAX_LISTENERS} listeners already")
            number = free_numbers[0]
            try:
                for i in range(self.hub.nloops):
                    self.check_tasks(i)
                    self.request += 1
                    failed = self.post_listen(i, code, number, address, v6only, fd) or self.await_answer(i)
                    if failed:
                        raise OSError(failed, os.strerror(failed))
            except BaseException:
                self.close_all(number)
                raise
            return number

    cdef close_all(self, uint32_t number):
        """Closes a listener on every loop that has it."""
        cdef uint32_t i
        self.request += 1
        for i in range(self.hub.nloops):
            self.post_listen(i, LISTEN_CLOSE, number, b"", False, -1)
        for i in range(self.hub.nloops):
            self.await_answer(i)

    cdef int post_listen(
        self, uint32_t index, uint8_t code, uint32_t number, bytes address, bint v6only, int fd,
    ) except -1:
        """Posts a KIND_LISTEN with the number of the present request, after a descriptor if `fd` is one. Returns 0 or
        an errno."""
        cdef Packet* task
        cdef int failed
        task = self.task_new(KIND_LISTEN, address)
        failed = se_pass(self.hub.passing[1], fd) if fd >= 0 else 0
        if failed:
            packet_free(&self.control.mem, task)
            return failed
        task.code = code
        task.target = number
        task.hash = v6only
        task.origin = self.request
        self.asked[index] = self.request
        self.task_post(index, task)
        return 0

    cdef int await_answer(self, uint32_t index) except -1:
        """Waits until a loop has answered the last request that it got. Returns its errno. Raises CoreError if it does
        not answer, or has ended. Releases the GIL."""
        cdef Loop* loop = self.hub.loops[index]
        cdef uint64_t answer, number = self.asked[index], by = se_now_ms() + LISTEN_PATIENCE_MS
        with nogil:
            while True:
                answer = se_load_acquire(&loop.listened)
                if answer >> 16 == number or se_load_acquire(&loop.done) == LOOP_ENDED or se_now_ms() >= by:
                    break
                usleep(50)
        if answer >> 16 != number:
            raise CoreError(f"loop {index} does not respond to a change of its listeners")
        return <int>(answer & 0xffff)
