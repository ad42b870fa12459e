# Included by engine.pyx: the local peer.

cdef class Peer(Reloading):
    """The embedding program as a peer."""

    def send(self, str target, bytes payload, bint binary, *, str ref, str re, int64_t ttl_ms):
        """Sends to a peer, or to a user's connections (`@user`); `re` is for a peer only. Returns "" or an ERR code."""
        self.check()
        cdef bytes to = target.encode(), ref_bytes = (ref or "").encode(), re_bytes = (re or "").encode()
        cdef bytes me = self.address.encode()
        cdef size_t node_len = 0
        cdef Message p
        cdef uint8_t code
        message_init(&p, self.local_peer, span_bytes(me), span_bytes(payload), ttl_ms)
        p.ref = span_bytes(ref_bytes)
        p.binary = binary
        if (ref_bytes and not ids_ref_valid(p.ref)) or (re_bytes and not ids_ref_valid(span_bytes(re_bytes))):
            return code_name(CODE_BAD_REQUEST)
        if to[:1] == b"@":
            return self.route_to_room(to, &p, True)
        if ids_split_peer(span_bytes(to), &node_len) < 0:
            return code_name(CODE_BAD_REQUEST)
        if p.payload.size > self.local_peer.set.max_message:
            return code_name(CODE_TOO_LARGE)
        p.re = span_bytes(re_bytes)
        if ref_bytes:
            p.tell = TELL_PEER
            p.tell_text = p.ref
        local_peer_begin(self.local_peer)
        local_peer_stamp(self.local_peer, &p)
        code = route_peer(self.local_peer, span_bytes(to), <uint32_t>node_len, &p)
        ledger_count(self.local_peer, code)
        local_peer_finish(self.local_peer)
        return code_name(code)

    cdef str route_to_room(self, bytes room, Message* p, bint as_from):
        """Sends to a room's members, with `as_from` to a user's connections (`@user`). Returns "" or an ERR code."""
        cdef Span name = span_bytes(room)
        cdef uint8_t code
        if not ids_room_valid(name) or room[:1] == b"$" or (room[:1] == b"@") != as_from:
            return code_name(CODE_BAD_REQUEST)
        if p.payload.size > self.local_peer.set.max_message:
            return code_name(CODE_TOO_LARGE)
        local_peer_begin(self.local_peer)
        local_peer_stamp(self.local_peer, p)
        code = route_room(self.local_peer, name, p, as_from)
        ledger_count(self.local_peer, code)
        local_peer_finish(self.local_peer)
        return code_name(code)

    def publish(self, str room, bytes payload, bint binary, str ref, int64_t ttl_ms):
        """Sends to every member of a room except the program. Returns "" or an ERR code."""
        self.check()
        cdef bytes ref_bytes = (ref or "").encode(), me = self.address.encode()
        cdef Message p
        message_init(&p, self.local_peer, span_bytes(me), span_bytes(payload), ttl_ms)
        p.ref = span_bytes(ref_bytes)
        p.binary = binary
        if ref_bytes and not ids_ref_valid(p.ref):
            return code_name(CODE_BAD_REQUEST)
        return self.route_to_room(room.encode(), &p, False)

    def join_room(self, str room, str ref, bint presence):
        """Joins a room, and with `presence` watches it.

        Returns "" (joined), None (joined on this node; a "receipt" mail for `ref` follows when NATS has confirmed it),
        "later" (too many tasks wait for the link's loop: try again, see `joins_wait`), or an ERR code. After that it is
        no new member, unless only watching failed.
        """
        self.check()
        cdef bytes name = room.encode()
        cdef RoomEntry* entry
        cdef bytes ref_bytes = ref.encode()
        cdef int waits = AWAIT_FAILED
        cdef bint joins = room not in self.entries
        if not ids_ref_valid(span_bytes(ref_bytes)) or not ids_room_valid(span_bytes(name)) or name[:1] in (b"$", b"@"):
            return code_name(CODE_BAD_REQUEST)
        if joins and len(self.entries) >= self.local_peer.set.max_rooms:
            return code_name(CODE_TOO_MANY_ROOMS)
        if backpressure_joins_wait(self.local_peer):
            self.local_peer.n[C_TASKS_REFUSED] += 1
            return "later"
        local_peer_begin(self.local_peer)
        entry = self.enter_room(room, name) if joins else <RoomEntry*><uint64_t>self.entries[room]
        if entry != NULL:
            waits = await_nats(self.local_peer, self.hub.local_peer, entry, span_bytes(ref_bytes), False)
        local_peer_finish(self.local_peer)
        if waits == AWAIT_FAILED:
            if joins:
                self.leave_room(room)
            return code_name(CODE_UNAVAILABLE)
        if waits == AWAIT_IT and not joins:
            self.rejoins.add(ref)
        if presence and (failed := self.watch_room(room)):
            return failed
        return None if waits == AWAIT_IT else ""

    cdef RoomEntry* enter_room(self, str room, bytes name):
        """Joins the program to a room. NULL: no memory."""
        cdef uint64_t hash = room_table_hash(&self.hub.rooms, span_bytes(name))
        cdef RoomEntry* entry = membership_enter(self.local_peer, span_bytes(name), hash)
        if entry != NULL:
            self.tell_came(name, True)
            self.rooms[entry.hash, entry.serial] = room
            self.entries[room] = <uint64_t>entry
        return entry

    @property
    def nodes(self):
        """Number of other nodes that are known on NATS."""
        return se_load_relaxed(&self.hub.nodes)

    @property
    def joins_wait(self):
        """Whether so many tasks wait for the link's loop that a join must wait, too."""
        return backpressure_joins_wait(self.local_peer)

    @property
    def local_peer_rooms(self):
        """The rooms that the embedding program is in."""
        return tuple(self.entries)

    cdef str watch_room(self, str room):
        """Watches a room that the program is in. A mail with its members follows, even if it was watched. Returns "" or
        an ERR code."""
        cdef bytes name = room.encode()
        cdef RoomEntry* entry = <RoomEntry*><uint64_t>self.entries[room]
        cdef bint good = True
        local_peer_begin(self.local_peer)
        if room not in self.watched:
            good = membership_room_watch(self.local_peer, entry)
        if good:
            self.watched.add(room)
            good = roster_ask(self.local_peer, entry) != WATCH_NONE
        local_peer_finish(self.local_peer)
        return "" if good else code_name(CODE_UNAVAILABLE)

    cdef tell_came(self, bytes name, bint joins):
        """Reports the program's join or leave to the link's loop, which sends it to watchers."""
        cdef Packet* packet = packet_new_heap(&self.local_peer.mem, len(name), KIND_LOCAL_PEER)
        if packet == NULL:
            events_lost(self.local_peer)
            return
        packet.code = joins
        packet.hash = room_table_hash(&self.hub.rooms, span_bytes(name))
        packet_set_data(packet, span_bytes(name))
        outbox_post(self.local_peer, 0, packet)

    def leave_room(self, str room):
        """Leaves a room. No effect if the program is not a member. Always returns ""."""
        self.check()
        if room not in self.entries:
            return ""
        cdef RoomEntry* entry = <RoomEntry*><uint64_t>self.entries.pop(room)
        del self.rooms[entry.hash, entry.serial]
        local_peer_begin(self.local_peer)
        self.tell_came(room.encode(), False)
        if room in self.watched:
            self.watched.discard(room)
            membership_room_unwatch(self.local_peer, entry)
        membership_exit(self.local_peer, entry)
        local_peer_finish(self.local_peer)
        return ""

    def disconnect(self, str peer, int code):
        """Closes a client of this node, and waits for the loop's answer. False: no client here has this address, or the
        loop has not answered within SNAPSHOT_PATIENCE_MS. Raises CoreError if too many tasks wait for the loop."""
        self.check()
        cdef bytes text = peer.encode()
        cdef Span address = span_bytes(text)
        cdef size_t node_len = 0
        cdef uint64_t id = 0
        if (ids_split_peer(address, &node_len) < 0 or not span_same(span_first(address, node_len), hub_node(self.hub))
                or ids_parse_local(span_from(address, node_len + 1), &id) < 0 or ids_loop(id) >= self.hub.nloops):
            return False
        self.snapshot += 1
        cdef uint64_t number = self.snapshot
        cdef uint64_t answer = 0
        cdef uint64_t by = se_now_ms() + SNAPSHOT_PATIENCE_MS
        cdef Loop* loop = self.hub.loops[ids_loop(id)]
        self.check_tasks(loop.index)
        cdef Packet* task = self.task_new(KIND_KICK)
        task.target = id
        task.hash = <uint64_t>code
        task.origin = number
        self.task_post(loop.index, task)
        with nogil:
            while answer >> 1 != number and se_now_ms() < by:
                usleep(50)
                answer = se_load_acquire(&loop.kicked[number & (KICKS_KEPT - 1)])
        return answer == 2 * number + 1
