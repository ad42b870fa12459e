# Included by engine.pyx: what loops post to Python.

cdef tuple identity_of(Packet* packet):
    """User and rights (acl.pxd) of an event from hooks.pxd."""
    cdef Span rest = span_from(packet_data(packet), 1)
    return text_of(span_first(rest, packet.data[0])), bytes_of(span_from(rest, packet.data[0]))


cdef class Mailboxes(Peer):
    """The mails from the loops to the control thread and to the embedding program (engine.pyi)."""

    cdef bint refill(self, Loop* loop) noexcept:
        """Takes what was posted to a pseudo-loop, unless some is left over. Returns whether there are packets. What is
        posted later makes the descriptor readable again."""
        cdef uint64_t count
        read(loop.mailbox.wake, &count, 8)
        mailbox_sleep(&loop.mailbox)
        if loop.taken == NULL:
            loop.taken = mailbox_take(&loop.mailbox)
        return loop.taken != NULL

    cdef void again(self, Loop* loop) noexcept:
        """Makes the descriptor readable if mails are left over."""
        cdef uint64_t one = 1
        if loop.taken != NULL or not mailbox_is_empty(&loop.mailbox):
            write(loop.mailbox.wake, &one, 8)

    def control_drain(self):
        """Takes all mails to the control thread, oldest first. Works after a stop, too."""
        self.check(False)
        cdef list mails = []
        cdef Packet* packet
        self.refill(self.control)
        while self.control.taken != NULL:
            packet = self.control.taken
            self.control.taken = packet.next
            if outbox_is_payload(packet):
                mailbox_taken(&self.control.mailbox, packet)
            mail = self.control_mail(packet)
            if mail is not None:
                mails.append(mail)
            packet_free(&self.control.mem, packet)
        self.again(self.control)
        return mails

    cdef tuple control_mail(self, Packet* packet):
        cdef bytes text = bytes_of(packet_data(packet))
        if packet.kind != KIND_EVENT:
            return None
        if packet.code == EVENT_INFO:
            return ("link-info", text)
        if packet.code == EVENT_UP:
            return ("link-up",)
        if packet.code == EVENT_ASK:
            return ("ask", packet.target, bool(packet.hash), text)
        if packet.code == EVENT_LISTED:
            return ("listed", packet.target, packet.hash, text.decode("latin-1"))
        if packet.code == EVENT_FREED:
            return ("freed",)
        if packet.code == EVENT_LOG:
            return ("log", "warning", text.decode())
        if packet.code == EVENT_NATS_ERROR:
            return ("link-error", text.decode("utf-8", "replace"), packet.hash)
        names = {EVENT_WANT: "link-want", EVENT_DOWN: "link-down", EVENT_TAKEN: "link-taken"}
        return (names[packet.code], text.decode("utf-8", "replace"))

    def inquire(self, uint32_t loop, uint64_t what, *, uint64_t number, uint64_t cursor, uint32_t value, bytes data):
        """Sends a query to a loop; admin_query.pxd defines its fields. A mail ("listed", number, …) answers it. Raises
        CoreError if the loop is stuck, ValueError if there is no such loop."""
        self.check()
        if loop >= self.hub.nloops:
            raise ValueError(f"there is no loop {loop}")
        self.check_tasks(loop)
        cdef Packet* task = self.task_new(KIND_INQUIRY, data)
        task.target = number
        task.hash = cursor
        task.origin = what << 32 | value
        self.task_post(loop, task)

    def verdicts(self, list answers):
        """Answers to "ask" mails, each once: (id, HTTP status or 0, user, rights, milliseconds of life or 0).

        A loop gets its answers in one batch. Raises ValueError if any rights are malformed; then nothing is answered.
        """
        self.check()
        cdef Packet* packet
        cdef uint64_t id
        cdef bytes user, rights
        for _, _, user, rights, _ in answers:
            if rights and not rights_are_whole(span_bytes(rights)) or len(user) >= ROOM_MAX:
                raise ValueError("these rights are malformed")
        for id, status, user, rights, life in answers:
            packet = packet_new_heap(&self.control.mem, len(user) + len(rights), KIND_VERDICT)
            if packet == NULL:
                outbox_post_all(self.control)
                raise MemoryError("no memory for a message to a loop")
            packet.target = id
            packet.origin = status
            packet.hash = life
            packet.code = <uint8_t>len(user)
            packet.size = <uint32_t>(len(user) + len(rights))
            memcpy(packet.data, <char*>user, len(user))
            memcpy(packet.data + len(user), <char*>rights, len(rights))
            outbox_post(self.control, ids_loop(id), packet)
        outbox_post_all(self.control)

    def local_peer_drain(self, int limit):
        """Takes at most `limit` mails to the embedding program, oldest first. Works after a stop, too."""
        self.check(False)
        cdef list mails = []
        cdef Packet* packet
        cdef Loop* loop = self.local_peer
        local_peer_begin(loop)
        self.refill(loop)
        while loop.taken != NULL and limit > 0:
            packet = loop.taken
            loop.taken = packet.next
            limit -= 1
            mail = self.local_peer_mail(packet)
            if mail is not None:
                mails.append(mail)
        local_peer_finish(loop)
        self.again(loop)
        return mails

    cdef tuple local_peer_mail(self, Packet* packet):
        """Makes a mail of a packet, and frees the packet. None: it is late, or the program has left the room."""
        cdef Loop* loop = self.local_peer
        if outbox_is_payload(packet):
            mailbox_taken(&loop.mailbox, packet)
        else:
            mailbox_tasks_done(&loop.mailbox, 1)
        if packet.kind in (KIND_TO, KIND_ROOM, KIND_NEWS):
            return self.delivery_mail(packet)
        return self.task_mail(packet)

    cdef tuple delivery_mail(self, Packet* packet):
        """local_peer_mail of a message or of presence: counts it, and settles its fate."""
        cdef Loop* loop = self.local_peer
        cdef tuple mail = None
        cdef bint late = packet.kind != KIND_NEWS and 0 < packet.expires < loop.tick
        loop.n[C_TAKEN] += 1
        if packet.kind == KIND_NEWS:
            mail = self.news_mail(packet)
        elif not late and (packet.target == self.hub.local_peer if packet.kind == KIND_TO
                           else (packet.hash, packet.target) in self.rooms):
            mail = self.message_mail(packet)
        local_peer_fate(loop, packet, CODE_EXPIRED if late else CODE_OK if mail is not None else CODE_NO_SUCH_PEER)
        return mail

    cdef tuple task_mail(self, Packet* packet):
        """local_peer_mail of a receipt, or of a client that connected or disconnected."""
        cdef tuple mail = None
        if packet.kind == KIND_RECEIPT:
            ref = text_of(packet_text(packet))
            if packet.size and not self.joined and not (packet.hash and ref in self.rejoins):
                self.leave_room(text_of(packet_data(packet)))
                local_peer_begin(self.local_peer)
            self.rejoins.discard(ref)
            mail = ("receipt", ref, code_name(packet.code))
        elif packet.kind == KIND_EVENT and packet.code == EVENT_CONNECTED:
            mail = ("connect", self.peer_text(packet.target), *identity_of(packet))
        elif packet.kind == KIND_EVENT and packet.code == EVENT_DISCONNECTED:
            mail = ("disconnect", self.peer_text(packet.target), *identity_of(packet), packet.hash)
        packet_free(&self.local_peer.mem, packet)
        return mail

    cdef tuple news_mail(self, Packet* packet):
        """Makes a mail of MEMBERS, JOIN and LEAVE frames. None: the program does not watch the room any more."""
        cdef size_t at = 0, skip, size
        cdef list texts = []
        if self.rooms.get((packet.hash, packet.target)) not in self.watched:
            return None
        while at < packet.size:
            skip = 4 if packet.data[at + 1] == 126 else 2
            size = packet.data[at + 2] << 8 | packet.data[at + 3] if skip == 4 else packet.data[at + 1]
            texts.append(text_of(span_of(packet.data + at + skip, size)))
            at += skip + size
        return ("presence", texts)

    cdef tuple message_mail(self, Packet* packet):
        """Makes a mail of FROM <peer> [options] or MSG <room> <peer> [options]."""
        cdef LocalFrame f
        local_frame_split(packet, &f)
        parts = text_of(f.head).split(" ")
        room = parts[1] if parts[0] == "MSG" else None
        at = 2 if room is None else 3
        options = dict(part.split("=", 1) for part in parts[at:])
        return ("message", room, parts[at - 1], options.get("ref"), options.get("re"), options.get("user"),
                bytes_of(f.payload), bool(f.binary))
