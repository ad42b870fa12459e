# Included by engine.pyx: a reload, which replaces the Settings (tables/settings.pxd).

cdef class Reloading(Listeners):
    """Puts other settings in force."""

    def reload(self, dict settings):
        """See engine.pyi."""
        with self.reloading:
            self.check()
            self.check_reload()
            self.replace(settings)
            return self.await_reload()

    cdef check_reload(self):
        """Raises CoreError if a loop has not taken the last settings yet, or has too many tasks."""
        cdef uint32_t i
        for i in range(self.hub.nloops):
            if se_load_acquire(&self.hub.loops[i].reloaded) < self.set.number:
                raise CoreError(f"loop {i} does not respond: it still has the settings before the last reload")
            self.check_tasks(i)

    cdef replace(self, dict settings):
        """Posts new settings to every loop. Nothing changes if it raises MemoryError or ValueError."""
        cdef uint32_t i
        cdef Packet* task
        cdef Packet* rest
        cdef Settings* fresh = settings_new(settings, self.hub.nloops)
        try:
            rest = self.reload_tasks()
        except MemoryError:
            settings_free(fresh)
            raise
        self.free_older()  # check_reload: no loop reads it
        fresh.number = self.set.number + 1
        fresh.older = self.set
        self.set = fresh
        for i in range(self.hub.nloops):
            task = rest
            rest = task.next
            task.pointer = fresh
            self.task_post(i, task)
        self.control.set = self.local_peer.set = fresh
        self.limit_mailboxes(settings)

    cdef Packet* reload_tasks(self) except NULL:
        """Returns a KIND_RELOAD for each loop, linked by `next`. Raises MemoryError."""
        cdef uint32_t i
        cdef Packet* task
        cdef Packet* tasks = NULL
        for i in range(self.hub.nloops):
            task = packet_new_heap(&self.control.mem, 0, KIND_RELOAD)
            if task == NULL:
                break
            task.next = tasks
            tasks = task
        else:
            return tasks
        while tasks != NULL:
            task = tasks
            tasks = task.next
            packet_free(&self.control.mem, task)
        raise MemoryError("no memory for a message to a loop")

    cdef bint await_reload(self):
        """Waits at most SNAPSHOT_PATIENCE_MS until every loop has the newest settings, and frees the older ones then.
        False: some loop has not taken them yet."""
        cdef uint32_t i
        cdef uint64_t number = self.set.number, by = se_now_ms() + SNAPSHOT_PATIENCE_MS
        cdef Hub* hub = self.hub
        with nogil:
            for i in range(hub.nloops):
                while se_load_acquire(&hub.loops[i].reloaded) < number and se_now_ms() < by:
                    usleep(50)
        for i in range(hub.nloops):
            if se_load_acquire(&hub.loops[i].reloaded) < number:
                return False
        self.free_older()
        return True

    cdef free_older(self):
        """Frees the older settings; every loop has the newest ones, or has ended. Such a loop gets the newest ones."""
        cdef uint32_t i
        for i in range(self.hub.nloops):
            if se_load_acquire(&self.hub.loops[i].reloaded) == UINT64_MAX:
                self.hub.loops[i].set = self.set
        settings_free(self.set.older)
        self.set.older = NULL

    def in_force(self, uint32_t loop):
        """The settings that a loop has now, as they are in its block. Raises ValueError if there is no such loop."""
        self.check(False)
        if loop >= self.hub.nloops:
            raise ValueError(f"there is no loop {loop}")
        with self.reloading:  # otherwise the loop may swap it meanwhile
            return settings_dict(self.hub.loops[loop].set)
