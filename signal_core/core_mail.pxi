# Included by engine.pyx.

cdef tuple identity_of(Msg* msg):
    """User and rights of an event of hooks.pxd."""
    cdef size_t n = 1 + msg.data[0]
    cdef bytes rights = PyBytes_FromStringAndSize(<char*>msg.data + n, <Py_ssize_t>(msg.size - n))
    return text_of(<char*>msg.data + 1, n - 1), rights


cdef class Mailboxes(Peer):
    """What the loops tell the deciding thread, and the embedding program."""

    cdef bint refill(self, Loop* loop) noexcept:
        """Takes what was posted to a pseudo-loop; what comes later makes its descriptor readable again."""
        cdef uint64_t count
        read(loop.inbox.wake, &count, 8)
        inbox_sleep(&loop.inbox)
        if loop.taken == NULL:
            loop.taken = inbox_take(&loop.inbox)
        return loop.taken != NULL

    cdef void again(self, Loop* loop) noexcept:
        """Makes its descriptor readable where something is left over."""
        cdef uint64_t one = 1
        if loop.taken != NULL or not inbox_is_empty(&loop.inbox):
            write(loop.inbox.wake, &one, 8)

    def control_drain(self):
        """All mails to the deciding thread, oldest first; also what came before the engine stopped."""
        self.check(False)
        cdef list mails = []
        cdef Msg* msg
        self.refill(self.control)
        while self.control.taken != NULL:
            msg = self.control.taken
            self.control.taken = msg.next
            if is_payload(msg):
                inbox_taken(&self.control.inbox, msg)
            mail = self.control_mail(msg)
            if mail is not None:
                mails.append(mail)
            msg_free(&self.control.mem, msg)
        self.again(self.control)
        return mails

    cdef tuple control_mail(self, Msg* msg):
        cdef bytes text = PyBytes_FromStringAndSize(<char*>msg.data, msg.size)
        if msg.kind != KIND_EVENT:
            return None
        if msg.code == EVENT_INFO:
            return ("link-info", text)
        if msg.code == EVENT_UP:
            return ("link-up",)
        if msg.code == EVENT_ASK:
            return ("ask", msg.target, bool(msg.hash), text)
        if msg.code == EVENT_LISTED:
            return ("listed", msg.target, msg.hash, text.decode("latin-1"))
        if msg.code == EVENT_FREED:
            return ("freed",)
        if msg.code == EVENT_LOG:
            return ("log", "warning", text.decode())
        if msg.code == EVENT_NATS_ERROR:
            return ("link-error", text.decode("utf-8", "replace"), msg.hash)
        names = {EVENT_WANT: "link-want", EVENT_DOWN: "link-down", EVENT_TAKEN: "link-taken"}
        return (names[msg.code], text.decode("utf-8", "replace"))

    def inquire(self, uint32_t loop, uint64_t what, uint64_t number, uint64_t cursor, uint32_t value, bytes data):
        """A question of inquiry.pxd, which the mail "listed" of this number answers. Raises CoreError where the loop
        handles nothing."""
        self.check()
        if loop >= self.hub.nloops:
            raise ValueError(f"there is no loop {loop}")
        self.ask_loop(loop, KIND_INQUIRY, number, cursor, data, what << 32 | value)

    def verdicts(self, list answers):
        """Answers to "ask" mails, each once: (id, HTTP status or 0, user, rights, milliseconds of life or 0).

        All of a loop's are posted in one piece. ValueError for rights that are not whole, with nothing answered.
        """
        self.check()
        cdef Msg* msg
        cdef uint64_t id
        cdef bytes user, rights
        for _, _, user, rights, _ in answers:
            if rights and not rights_are_whole(rights, len(rights)) or len(user) >= ROOM_MAX:
                raise ValueError("these rights are malformed")
        for id, status, user, rights, life in answers:
            msg = msg_new_heap(&self.control.mem, len(user) + len(rights), KIND_VERDICT)
            if msg == NULL:
                post_all(self.control)
                raise MemoryError("no memory for a message to a loop")
            msg.target = id
            msg.origin = status
            msg.hash = life
            msg.code = <uint8_t>len(user)
            msg.size = <uint32_t>(len(user) + len(rights))
            memcpy(msg.data, <char*>user, len(user))
            memcpy(msg.data + len(user), <char*>rights, len(rights))
            post(self.control, <uint32_t>(id >> 56), msg)
        post_all(self.control)

    def service_drain(self, int limit):
        """At most `limit` mails to the embedding program, oldest first; also what came before the engine stopped."""
        self.check(False)
        cdef list mails = []
        cdef Msg* msg
        cdef Loop* loop = self.service
        service_begin(loop)
        self.refill(loop)
        while loop.taken != NULL and limit > 0:
            msg = loop.taken
            loop.taken = msg.next
            limit -= 1
            mail = self.service_mail(msg)
            if mail is not None:
                mails.append(mail)
        service_finish(loop)
        self.again(loop)
        return mails

    cdef tuple service_mail(self, Msg* msg):
        """One mail, the message freed; None for one that is not for us."""
        cdef Loop* loop = self.service
        cdef tuple mail = None
        if is_payload(msg):
            inbox_taken(&loop.inbox, msg)
        else:
            inbox_words_taken(&loop.inbox, 1)
        if msg.kind == KIND_TO or msg.kind == KIND_ROOM:
            loop.n[C_TAKEN] += 1
            late = 0 < msg.expires < loop.tick
            known = msg.target == self.hub.service if msg.kind == KIND_TO else (msg.hash, msg.target) in self.rooms
            if known and not late:
                mail = self.message_mail(msg)
            service_fate(loop, msg, CODE_EXPIRED if late else (CODE_OK if mail is not None else CODE_NO_SUCH_PEER))
            return mail
        if msg.kind == KIND_NEWS:
            loop.n[C_TAKEN] += 1
            mail = self.news_mail(msg)
            service_fate(loop, msg, CODE_OK if mail is not None else CODE_NO_SUCH_PEER)
            return mail
        if msg.kind == KIND_RECEIPT:
            if msg.size and not self.joined:
                self.leave_room(text_of(<char*>msg.data, msg.size))
                service_begin(loop)
            mail = ("receipt", text_of(msg_text(msg), msg.text_size), code_name(msg.code))
        elif msg.kind == KIND_EVENT and msg.code == EVENT_CONNECTED:
            mail = ("connect", self.peer_text(msg.target), *identity_of(msg))
        elif msg.kind == KIND_EVENT and msg.code == EVENT_DISCONNECTED:
            mail = ("disconnect", self.peer_text(msg.target), *identity_of(msg), msg.hash)
        msg_free(&loop.mem, msg)
        return mail

    cdef tuple news_mail(self, Msg* msg):
        """Frames of MEMBERS, JOIN and LEAVE; None for a room in which it does not listen any more."""
        cdef size_t at = 0, skip, size
        cdef list texts = []
        if self.rooms.get((msg.hash, msg.target)) not in self.listens:
            return None
        while at < msg.size:
            skip = 4 if msg.data[at + 1] == 126 else 2
            size = msg.data[at + 2] << 8 | msg.data[at + 3] if skip == 4 else msg.data[at + 1]
            texts.append(text_of(<char*>msg.data + at + skip, size))
            at += skip + size
        return ("presence", texts)

    cdef tuple message_mail(self, Msg* msg):
        """FROM <peer> [options] or MSG <room> <peer> [options]."""
        cdef Frame f
        frame_take_apart(msg, &f)
        words = text_of(f.head, f.head_len).split(" ")
        room = words[1] if words[0] == "MSG" else None
        at = 2 if room is None else 3
        options = dict(word.split("=", 1) for word in words[at:])
        payload = PyBytes_FromStringAndSize(f.payload, <Py_ssize_t>f.payload_len)
        return ("message", room, words[at - 1], options.get("ref"), options.get("re"), options.get("user"), payload,
                bool(f.binary))
