# Included by engine.pyx.

cdef class Peer(Loops):
    """The embedding program as a peer."""

    def send(self, str target, bytes payload, bint binary, str ref, str re, int64_t ttl_ms):
        """Sends to a peer, or to a user's connections (`@user`). Returns "" or an ERR code."""
        self.check()
        cdef bytes to = target.encode(), mark = (ref or "").encode(), answers = (re or "").encode()
        cdef bytes me = self.address.encode()
        cdef size_t node_len = 0
        cdef Message p
        cdef uint8_t code
        if (mark and not ids_ref_valid(mark, len(mark))) or (answers and not ids_ref_valid(answers, len(answers))):
            return code_name(CODE_BAD_REQUEST)
        if to[:1] == b"@":
            return self.route_to_room(to, payload, binary, mark, ttl_ms, True)
        if ids_split_peer(to, len(to), &node_len) < 0:
            return code_name(CODE_BAD_REQUEST)
        if <size_t>len(payload) > self.hub.set.max_message:
            return code_name(CODE_TOO_LARGE)
        local_peer_begin(self.service)
        local_peer_message(self.service, me, <uint32_t>len(me), mark, <uint32_t>len(mark), payload,
                           len(payload), binary,
                           ttl_ms, &p)
        p.re = answers
        p.re_len = <uint32_t>len(answers)
        if mark:
            p.tell = TELL_PEER
            p.tell_text = mark
            p.tell_len = <uint32_t>len(mark)
        code = self.route_one(to, node_len, &p)
        ledger_count(self.service, code)
        local_peer_finish(self.service)
        return code_name(code)

    cdef uint8_t route_one(self, bytes to, size_t node_len, Message* p):
        return route_peer(self.service, to, <uint32_t>len(to), <uint32_t>node_len, p)

    cdef str route_to_room(self, bytes room, bytes payload, bint binary, bytes mark, int64_t ttl_ms, bint as_from):
        cdef bytes me = self.address.encode()
        cdef Message p
        cdef uint8_t code
        if not ids_room_valid(room, len(room)) or room[:1] == b"$" or (room[:1] == b"@") != as_from:
            return code_name(CODE_BAD_REQUEST)
        if <size_t>len(payload) > self.hub.set.max_message:
            return code_name(CODE_TOO_LARGE)
        local_peer_begin(self.service)
        local_peer_message(self.service, me, <uint32_t>len(me), mark, <uint32_t>len(mark), payload,
                           len(payload), binary,
                           ttl_ms, &p)
        code = route_room(self.service, room, <uint32_t>len(room), &p, as_from)
        ledger_count(self.service, code)
        local_peer_finish(self.service)
        return code_name(code)

    def publish(self, str room, bytes payload, bint binary, str ref, int64_t ttl_ms):
        """Sends to every member of a room except this program. Returns "" or an ERR code."""
        self.check()
        cdef bytes mark = (ref or "").encode()
        if mark and not ids_ref_valid(mark, len(mark)):
            return code_name(CODE_BAD_REQUEST)
        return self.route_to_room(room.encode(), payload, binary, mark, ttl_ms, False)

    def join_room(self, str room, str ref, bint presence):
        """Joins a room, and with `presence` watches it.

        Returns "" (joined), None (joined on this node; a "receipt" mail for `ref` follows when NATS has confirmed it),
        "later" (too many tasks wait for the link's loop: try again, see `joins_wait`), or an ERR code (not joined).
        """
        self.check()
        cdef bytes name = room.encode()
        cdef RoomEntry* entry
        cdef bytes mark = ref.encode()
        cdef int waits = AWAIT_FAILED
        cdef bint comes = room not in self.entries
        if not ids_ref_valid(mark, len(mark)) or not ids_room_valid(name, len(name)) or name[:1] in (b"$", b"@"):
            return code_name(CODE_BAD_REQUEST)
        if comes and len(self.entries) >= self.hub.set.max_rooms:
            return code_name(CODE_TOO_MANY_ROOMS)
        if backpressure_joins_wait(self.service):
            return "later"
        local_peer_begin(self.service)
        entry = self.enter_room(room, name) if comes else <RoomEntry*><uint64_t>self.entries[room]
        if entry != NULL:
            waits = await_nats(self.service, self.hub.service, entry, mark, <uint32_t>len(mark), False)
        local_peer_finish(self.service)
        if waits == AWAIT_FAILED:
            if comes:
                self.leave_room(room)
            return code_name(CODE_UNAVAILABLE)
        if presence and (heard := self.watch_room(room)):
            return heard
        return None if waits == AWAIT_IT else ""

    cdef RoomEntry* enter_room(self, str room, bytes name):
        """Joins the program to a room. NULL: no memory."""
        cdef uint64_t hash = room_table_hash(&self.hub.rooms, name, len(name))
        cdef RoomEntry* entry = membership_enter(self.service, name, len(name), hash)
        if entry != NULL:
            self.tell_came(name, True)
            self.rooms[entry.hash, entry.serial] = room
            self.entries[room] = <uint64_t>entry
        return entry

    @property
    def nodes(self):
        """How many other nodes are known on NATS."""
        return se_load_relaxed(&self.hub.nodes)

    @property
    def joins_wait(self):
        """Whether so many tasks wait for the link's loop that a join must wait, too."""
        return backpressure_joins_wait(self.service)

    @property
    def service_rooms(self):
        """The rooms that the embedding program is in."""
        return tuple(self.entries)

    cdef str watch_room(self, str room):
        """Watches presence in a room that the program is in. Its members are told, also if it watched already. "" or an
        ERR code."""
        cdef bytes name = room.encode()
        cdef RoomEntry* entry = <RoomEntry*><uint64_t>self.entries[room]
        cdef bint good = True
        local_peer_begin(self.service)
        if room not in self.watched:
            good = membership_room_watch(self.service, entry)
        if good:
            self.watched.add(room)
            good = roster_ask(self.service, entry) != WATCH_NONE
        local_peer_finish(self.service)
        return "" if good else code_name(CODE_UNAVAILABLE)

    cdef tell_came(self, bytes name, bint joins):
        """Reports the program's join or leave to the link's loop, which tells watchers."""
        cdef Packet* packet = packet_new_heap(&self.service.mem, len(name), KIND_SERVICE)
        if packet == NULL:
            events_lost(self.service)
            return
        packet.code = joins
        packet.hash = room_table_hash(&self.hub.rooms, name, len(name))
        packet.size = <uint32_t>len(name)
        memcpy(packet.data, <char*>name, len(name))
        outbox_post(self.service, 0, packet)

    def leave_room(self, str room):
        """Leaves a room. No effect if the program is not a member. Always returns ""."""
        self.check()
        if room not in self.entries:
            return ""
        cdef RoomEntry* entry = <RoomEntry*><uint64_t>self.entries.pop(room)
        del self.rooms[entry.hash, entry.serial]
        local_peer_begin(self.service)
        self.tell_came(room.encode(), False)
        if room in self.watched:
            self.watched.discard(room)
            membership_room_unwatch(self.service, entry)
        membership_exit(self.service, entry)
        local_peer_finish(self.service)
        return ""

    def disconnect(self, str peer, int code):
        """Closes a client of this node, and waits for the loop's answer. False: no client here has this address. Raises
        CoreError if the loop is stuck."""
        self.check()
        cdef bytes text = peer.encode()
        cdef size_t node_len = 0
        cdef uint64_t id = 0
        if (ids_split_peer(text, len(text), &node_len) < 0 or text[:node_len] != self.hub.node[:self.hub.node_len]
                or ids_parse_local(<char*>text + node_len + 1, len(text) - node_len - 1, &id) < 0
                or (id >> 56) >= self.hub.nloops):
            return False
        self.snapshot += 1
        cdef uint64_t number = self.snapshot
        cdef uint64_t answer = 0
        cdef uint64_t by = se_now_ms() + SNAPSHOT_PATIENCE_MS
        cdef Loop* loop = self.hub.loops[id >> 56]
        self.ask_loop(loop.index, KIND_KICK, id, <uint64_t>code, b"", number)
        with nogil:
            while answer >> 1 != number and se_now_ms() < by:
                usleep(50)
                answer = se_load_acquire(&loop.kicked[number & (KICKS_KEPT - 1)])
        return answer == 2 * number + 1
