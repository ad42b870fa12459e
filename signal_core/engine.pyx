"""Core: the loops, as Python starts, asks and stops them. L5, the only part that holds the GIL."""

import json
import os

from signal_core.names import COUNTERS

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid, usleep
from signal_core.address cimport LOCAL_TEXT, id_make, local_parse, peer_split, ref_valid, room_valid
from signal_core.answers cimport code_text, put_peer
from signal_core.counters cimport C_COUNT, C_TAKEN
from signal_core.frame cimport frame_check_layout
from signal_core.inbox cimport inbox_is_empty, inbox_sleep, inbox_take, inbox_taken
from signal_core.limits cimport CONTROL_LOOP, MAX_LOOPS, SERVICE_LOOP, TICK_MS
from signal_core.memory cimport (
    KIND_CONNECT, KIND_DIAL, KIND_EVENT, KIND_KICK, KIND_RECEIPT, KIND_ROOM, KIND_SNAPSHOT, KIND_STOP,
    KIND_TO, Msg, TELL_PEER, memory_check_layout, msg_free, msg_new_heap, msg_text,
)
from signal_core.packet cimport Packet
from signal_core.post cimport is_payload, post, post_all, post_sync
from signal_core.roomtable cimport RoomEntry, room_hash, table_end, table_enter, table_exit, table_init
from signal_core.route cimport await_nats, route_peer, route_room
from signal_core.service cimport (
    Frame, frame_take_apart, service_begin, service_fate, service_finish, service_packet,
)
from signal_core.session cimport count_message
from signal_core.slab cimport pages_new, slab_check_layout
from signal_core.state cimport (
    CLUSTER_AWAY, CLUSTER_OFF, CLUSTER_UP, CODE_BAD_REQUEST, CODE_OK, CODE_TOO_LARGE, CODE_TOO_MANY_ROOMS,
    CODE_UNAVAILABLE, EVENT_CONNECTED, EVENT_DISCONNECTED, EVENT_DOWN, EVENT_INFO, EVENT_LOG,
    EVENT_NATS_ERROR, EVENT_TAKEN, EVENT_UP, EVENT_WANT, Hub, Loop, MAX_LISTENERS,
)
from signal_core.sys cimport (
    AF_INET, EFD_CLOEXEC, EFD_NONBLOCK, SE_STATIC_ASSERT, close, eventfd, getrandom, htons, inet_pton,
    munmap, pthread_join, pthread_t, read, se_load_acquire, se_load_relaxed, se_malloc_steadily, se_now_ms,
    se_thread_start, sockaddr_in, sockaddr_in6, write,
)
from signal_core.thread cimport LOOP_STARTING, loop_end, loop_init, loop_main
from signal_core.upgrade cimport upgrade_check_layout

cdef enum:
    SNAPSHOT_PATIENCE_MS = 2000


class CoreError(Exception):
    """The core can't do this: not started, stopped, or in a child made by fork()."""


cdef inline void check_layouts() noexcept nogil:
    SE_STATIC_ASSERT(C_COUNT == 55)
    memory_check_layout()
    slab_check_layout()
    frame_check_layout()
    upgrade_check_layout()


cdef str text_of(const char* p, size_t n):
    return PyBytes_FromStringAndSize(p, <Py_ssize_t>n).decode("latin-1")


cdef str code_name(uint8_t code):
    """"" for CODE_OK, as Python hears it."""
    return "" if code == CODE_OK else (<bytes>code_text(code)).decode()


cdef uint32_t ticks(object ms):
    """At least one."""
    return max(1, <uint32_t>((ms + TICK_MS - 1) // TICK_MS))


cdef class Core:
    """See engine.pyi."""

    cdef Hub* hub
    cdef Loop* control
    cdef Loop* service
    cdef bint started, joined
    cdef int pid
    cdef uint64_t snapshot
    cdef dict rooms             # serial: name, of the service
    cdef dict entries           # name: serial and address of the entry, while the service is in the room
    cdef readonly str address
    cdef readonly int control_fd
    cdef readonly int service_fd

    def __cinit__(self, dict settings):
        self.pid = getpid()
        self.rooms = {}
        self.entries = {}
        self.hub = <Hub*>pages_new(sizeof(Hub))
        if self.hub == NULL:
            raise MemoryError("no memory for the engine")
        check_layouts()
        se_malloc_steadily()
        self.fill(settings)
        self.make_loops(settings)
        self.control = self.hub.loops[CONTROL_LOOP]
        self.service = self.hub.loops[SERVICE_LOOP]
        self.control_fd = self.control.inbox.wake
        self.service_fd = self.service.inbox.wake

    cdef fill(self, dict s):
        cdef Hub* hub = self.hub
        cdef bytes text
        text = s["node"].encode()
        hub.node_len = <uint32_t>len(text)
        memcpy(hub.node, <char*>text, hub.node_len)
        hub.node[hub.node_len] = c"."
        text = s["prefix"].encode()
        hub.prefix_len = <uint32_t>len(text)
        memcpy(hub.prefix, <char*>text, hub.prefix_len)
        hub.nloops = s["loops"]
        if not 1 <= hub.nloops <= MAX_LOOPS:
            raise ValueError(f"loops is {hub.nloops}: 1 to {MAX_LOOPS}")
        hub.set.max_message = s["max_message"]
        hub.set.max_rooms = s["max_rooms"]
        hub.set.max_refs = s["max_refs"]
        hub.set.handshake = ticks(s["handshake_ms"])
        hub.set.ping = ticks(s["ping_ms"])
        hub.set.pong = ticks(s["pong_ms"])
        hub.set.stall = ticks(s["stall_ms"])
        hub.set.close = ticks(s["close_ms"])
        hub.set.ttl_ms = s["ttl_ms"]
        hub.set.backlog_messages = s["backlog_messages"]
        hub.set.backlog_bytes = s["backlog_bytes"]
        hub.set.backlog_loop = s["backlog_total"] // hub.nloops
        hub.set.max_connections = s["max_connections"]
        hub.set.nats_pending = s["nats_pending"]
        hub.set.hooks = bool(s["hooks"])
        hub.link = CLUSTER_AWAY if s["cluster"] else CLUSTER_OFF
        hub.boot = se_now_ms() - TICK_MS
        getrandom(hub.rooms.key, sizeof(hub.rooms.key), 0)
        if not table_init(&hub.rooms):
            raise MemoryError("no memory for the room table")
        hello = {"node": s["node"], "version": s["version"], "max_message": s["max_message"],
                 "max_rooms": s["max_rooms"], "ping_interval": s["ping_ms"], "ttl": s["ttl_ms"]}
        text = json.dumps(hello, separators=(",", ":")).encode()
        hub.hello_len = <uint32_t>len(text)
        hub.hello = <char*>malloc(len(text))
        memcpy(hub.hello, <char*>text, len(text))

    cdef make_loops(self, dict s):
        cdef Hub* hub = self.hub
        cdef Loop* loop
        cdef uint32_t i, tag
        cdef uint64_t instance
        cdef bytes name
        for i in list(range(hub.nloops)) + [CONTROL_LOOP, SERVICE_LOOP]:
            loop = <Loop*>pages_new(sizeof(Loop))
            if loop == NULL:
                raise MemoryError("no memory for a loop")
            hub.loops[i] = loop
            loop.inbox.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
            if loop.inbox.wake < 0:
                raise OSError("no descriptor is left for the engine: raise the limit of open files (ulimit -n)")
            loop.inbox.limit = s["inbox_messages"] if i != CONTROL_LOOP else UINT64_MAX // 2
            loop.inbox.limit_bytes = max(s["inbox_messages"] * 1024, 4 * s["max_message"])
            if i == CONTROL_LOOP:
                loop.inbox.limit_bytes = UINT64_MAX // 2
            loop.inbox.asleep = 1
            if not loop_init(loop, hub, i):
                raise MemoryError("no memory for a loop")
        getrandom(&tag, sizeof(tag), 0)
        getrandom(&instance, sizeof(instance), 0)
        name = b"%016x" % instance
        memcpy(hub.loops[0].linked.instance, <char*>name, 16)
        hub.service = id_make(SERVICE_LOOP, 0, tag)
        self.address = self.peer_text(hub.service)

    cdef str peer_text(self, uint64_t id):
        cdef char text[48]
        put_peer(<uint8_t*>text, self.hub, id)
        return text_of(text, self.hub.node_len + 1 + LOCAL_TEXT)

    cdef int check(self, bint running=True) except -1:
        if getpid() != self.pid:
            raise CoreError("this engine was started before fork(): make another one in the child")
        if running and (not self.started or self.joined):
            raise CoreError("the engine is not running: start it first")
        return 0

    # -- starting and stopping --

    def start(self, list listen):
        """Starts a thread a loop; when it returns all of them listen. Raises OSError, with nothing left running."""
        self.check(False)
        if self.started:
            raise CoreError("the engine was started before: make another one")
        if len(listen) > MAX_LISTENERS:
            raise ValueError(f"listen names {len(listen)} addresses: {MAX_LISTENERS} at most")
        for family, ip, port, scope in listen:
            self.add_listen(family, ip, port, scope)
        self.started = True
        cdef uint32_t i
        cdef int failed
        for i in range(self.hub.nloops):
            self.hub.loops[i].done = LOOP_STARTING
            failed = se_thread_start(&self.hub.loops[i].thread, loop_main, self.hub.loops[i],
                                     f"signal-{i}".encode())
            if failed:
                self.hub.loops[i].done = 0
                self.hub.failed = failed
                break
        self.wait_until_running()
        failed = <int>se_load_acquire(&self.hub.failed)
        if failed:
            self.stop()
            self.join()
            raise OSError(failed, os.strerror(failed))

    cdef add_listen(self, int family, str ip, int port, int scope):
        cdef sockaddr_in* v4
        cdef sockaddr_in6* v6
        cdef uint32_t n = self.hub.nlisten
        cdef uint8_t* at = self.hub.listen[n].address
        if family == AF_INET:
            v4 = <sockaddr_in*>at
            v4.sin_family = <uint16_t>family
            v4.sin_port = htons(<uint16_t>port)
            self.hub.listen[n].size = sizeof(sockaddr_in)
            good = inet_pton(family, ip.encode(), &v4.sin_addr)
        else:
            v6 = <sockaddr_in6*>at
            v6.sin6_family = <uint16_t>family
            v6.sin6_port = htons(<uint16_t>port)
            v6.sin6_scope_id = <uint32_t>scope
            self.hub.listen[n].size = sizeof(sockaddr_in6)
            good = inet_pton(family, ip.encode(), &v6.sin6_addr)
        if good != 1:
            raise ValueError(f"listen: {ip} is not a numeric address")
        self.hub.nlisten += 1

    cdef wait_until_running(self):
        cdef uint32_t i
        cdef Hub* hub = self.hub
        with nogil:
            for i in range(hub.nloops):
                while se_load_acquire(&hub.loops[i].done) == LOOP_STARTING:
                    usleep(200)

    cdef tell_loop(self, uint32_t index, uint8_t kind, uint64_t target, uint64_t value, bytes data, uint64_t origin=0):
        """Posts one word to a loop."""
        cdef Msg* msg = msg_new_heap(&self.control.mem, len(data), kind)
        if msg == NULL:
            raise MemoryError("no memory for a message to a loop")
        msg.target = target
        msg.origin = origin
        msg.hash = value
        msg.size = <uint32_t>len(data)
        memcpy(msg.data, <char*>data, len(data))
        post(self.control, index, msg)
        post_all(self.control)

    def stop(self):
        """Begins to stop; at once, and more than once is no harm."""
        self.check(False)
        cdef uint32_t i
        if self.started and not self.joined:
            for i in range(self.hub.nloops):
                self.tell_loop(i, KIND_STOP, 0, 0, b"")

    def join(self):
        """Returns when every loop has ended."""
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
        for i in range(256):
            if self.hub.loops[i] != NULL:
                loop_end(self.hub.loops[i])
                close(self.hub.loops[i].inbox.wake)
        table_end(&self.hub.rooms)
        for i in range(256):
            if self.hub.loops[i] != NULL:
                munmap(self.hub.loops[i], sizeof(Loop))
        free(self.hub.hello)
        munmap(self.hub, sizeof(Hub))

    # -- mailboxes --

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
        if msg.code == EVENT_LOG:
            return ("log", "warning", text.decode())
        names = {EVENT_WANT: "link-want", EVENT_DOWN: "link-down", EVENT_TAKEN: "link-taken",
                 EVENT_NATS_ERROR: "link-error"}
        return (names[msg.code], text.decode("utf-8", "replace"))

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
        if msg.kind == KIND_TO or msg.kind == KIND_ROOM:
            loop.n[C_TAKEN] += 1
            if msg.target == self.hub.service if msg.kind == KIND_TO else msg.target in self.rooms:
                mail = self.message_mail(msg)
            service_fate(loop, msg, mail is not None)
            return mail
        if msg.kind == KIND_RECEIPT:
            if msg.size and not self.joined:
                self.leave_room(text_of(<char*>msg.data, msg.size))
                service_begin(loop)
            mail = ("receipt", text_of(msg_text(msg), msg.text_size), code_name(msg.code))
        elif msg.kind == KIND_EVENT and msg.code == EVENT_CONNECTED:
            mail = ("connect", self.peer_text(msg.target))
        elif msg.kind == KIND_EVENT and msg.code == EVENT_DISCONNECTED:
            mail = ("disconnect", self.peer_text(msg.target), msg.hash)
        msg_free(&loop.mem, msg)
        return mail

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

    # -- the service as a peer --

    def send(self, str target, bytes payload, bint binary, str ref, str re, int64_t ttl_ms):
        """To a peer, or to a user's connections (`@user`)."""
        self.check()
        cdef bytes to = target.encode(), mark = (ref or "").encode(), answers = (re or "").encode()
        cdef bytes me = self.address.encode()
        cdef size_t node_len = 0
        cdef Packet p
        cdef uint8_t code
        if (mark and not ref_valid(mark, len(mark))) or (answers and not ref_valid(answers, len(answers))):
            return code_name(CODE_BAD_REQUEST)
        if to[:1] == b"@":
            return self.route_to_room(to, payload, binary, mark, ttl_ms, True)
        if peer_split(to, len(to), &node_len) < 0:
            return code_name(CODE_BAD_REQUEST)
        if <size_t>len(payload) > self.hub.set.max_message:
            return code_name(CODE_TOO_LARGE)
        service_begin(self.service)
        service_packet(self.service, me, <uint32_t>len(me), mark, <uint32_t>len(mark), payload, len(payload), binary,
                       ttl_ms, &p)
        p.re = answers
        p.re_len = <uint32_t>len(answers)
        if mark:
            p.tell = TELL_PEER
            p.tell_text = mark
            p.tell_len = <uint32_t>len(mark)
        code = self.route_one(to, node_len, &p)
        count_message(self.service, code)
        service_finish(self.service)
        return code_name(code)

    cdef uint8_t route_one(self, bytes to, size_t node_len, Packet* p):
        return route_peer(self.service, to, <uint32_t>len(to), <uint32_t>node_len, p)

    cdef str route_to_room(self, bytes room, bytes payload, bint binary, bytes mark, int64_t ttl_ms, bint as_from):
        cdef bytes me = self.address.encode()
        cdef Packet p
        cdef uint8_t code
        if not room_valid(room, len(room)) or room[:1] == b"$" or (room[:1] == b"@") != as_from:
            return code_name(CODE_BAD_REQUEST)
        if <size_t>len(payload) > self.hub.set.max_message:
            return code_name(CODE_TOO_LARGE)
        service_begin(self.service)
        service_packet(self.service, me, <uint32_t>len(me), mark, <uint32_t>len(mark), payload, len(payload), binary,
                       ttl_ms, &p)
        code = route_room(self.service, room, <uint32_t>len(room), &p, as_from)
        count_message(self.service, code)
        service_finish(self.service)
        return code_name(code)

    def publish(self, str room, bytes payload, bint binary, str ref, int64_t ttl_ms):
        """To every member of a room but this program."""
        self.check()
        cdef bytes mark = (ref or "").encode()
        if mark and not ref_valid(mark, len(mark)):
            return code_name(CODE_BAD_REQUEST)
        return self.route_to_room(room.encode(), payload, binary, mark, ttl_ms, False)

    def join_room(self, str room, str ref):
        """"": joined, an ERR code: not. None: joined on this node, and a receipt for `ref` will tell when NATS
        has it."""
        self.check()
        cdef bytes name = room.encode()
        cdef RoomEntry* entry
        cdef bint sync = False
        cdef bytes mark = ref.encode()
        cdef bint waits = False
        if not ref_valid(mark, len(mark)) or not room_valid(name, len(name)) or name[:1] in (b"$", b"@"):
            return code_name(CODE_BAD_REQUEST)
        if room in self.entries:
            return ""
        if len(self.entries) >= self.hub.set.max_rooms:
            return code_name(CODE_TOO_MANY_ROOMS)
        service_begin(self.service)
        entry = table_enter(&self.hub.rooms, name, len(name), room_hash(&self.hub.rooms, name, len(name)),
                            SERVICE_LOOP, &sync)
        if entry != NULL:
            self.rooms[entry.serial] = room
            self.entries[room] = (entry.serial, <uint64_t>entry)
            if sync:
                post_sync(self.service, entry)
            waits = await_nats(self.service, self.hub.service, entry, mark, <uint32_t>len(mark))
        service_finish(self.service)
        if waits:
            return None
        return "" if entry != NULL else code_name(CODE_UNAVAILABLE)

    def leave_room(self, str room):
        """No effect where it is not a member."""
        self.check()
        if room not in self.entries:
            return ""
        serial, address = self.entries.pop(room)
        del self.rooms[serial]
        cdef RoomEntry* entry = <RoomEntry*><uint64_t>address
        service_begin(self.service)
        if table_exit(&self.hub.rooms, entry, SERVICE_LOOP):
            post_sync(self.service, entry)
        service_finish(self.service)
        return ""

    def disconnect(self, str peer, int code):
        """Closes a client of this node. False where the address is no client's of this node; waits for the
        loop's word."""
        self.check()
        cdef bytes text = peer.encode()
        cdef size_t node_len = 0
        cdef uint64_t id = 0
        if (peer_split(text, len(text), &node_len) < 0 or text[:node_len] != self.hub.node[:self.hub.node_len]
                or local_parse(<char*>text + node_len + 1, len(text) - node_len - 1, &id) < 0
                or (id >> 56) >= self.hub.nloops):
            return False
        self.snapshot += 1
        cdef uint64_t number = self.snapshot
        cdef uint64_t answer = 0
        cdef uint64_t by = se_now_ms() + SNAPSHOT_PATIENCE_MS
        cdef Loop* loop = self.hub.loops[id >> 56]
        self.tell_loop(loop.index, KIND_KICK, id, <uint64_t>code, b"", number)
        with nogil:
            while answer >> 1 != number and se_now_ms() < by:
                usleep(50)
                answer = se_load_acquire(&loop.kicked[number & 63])
        return answer == 2 * number + 1

    # -- the NATS link --

    def link_dial(self, int family, str ip, int port):
        """The link connects to this numeric address."""
        self.check()
        cdef sockaddr_in v4
        cdef sockaddr_in6 v6
        cdef int good
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
            good = inet_pton(family, ip.encode(), &v6.sin6_addr)
            address = PyBytes_FromStringAndSize(<char*>&v6, sizeof(v6))
        if good != 1:
            raise ValueError(f"{ip} is not a numeric address")
        self.tell_loop(0, KIND_DIAL, 0, 0, address)

    def link_fail(self):
        """The server that greeted can't be used: the link closes the connection and asks for another address."""
        self.check()
        self.tell_loop(0, KIND_DIAL, 0, 0, b"")

    def link_connect(self, bytes line, uint64_t max_payload):
        """The CONNECT line, CRLF included, that answers an INFO."""
        self.check()
        self.tell_loop(0, KIND_CONNECT, 0, max_payload, line)

    # -- counters --

    cdef list counters_of(self, Loop* loop, bint copied):
        cdef int i
        return [loop.copy[i] if copied else loop.n[i] for i in range(C_COUNT)]

    cdef snapshot_all(self):
        """Asks every loop for its counters between two iterations, and waits for a bounded time."""
        cdef uint32_t i
        cdef uint64_t number, by
        cdef Hub* hub = self.hub
        self.snapshot += 1
        number = self.snapshot
        for i in range(hub.nloops):
            self.tell_loop(i, KIND_SNAPSHOT, 0, number, b"")
        by = se_now_ms() + SNAPSHOT_PATIENCE_MS
        with nogil:
            for i in range(hub.nloops):
                while se_load_acquire(&hub.loops[i].copied) < number and se_now_ms() < by:
                    usleep(50)

    def stats(self):
        """Counters by loop and in all: each loop's as of one moment between two of its iterations."""
        self.check(False)
        cdef uint32_t i
        names = [name for name, _, _ in COUNTERS]
        if self.started and not self.joined:
            self.snapshot_all()
        columns = [self.counters_of(self.hub.loops[i], True) for i in range(self.hub.nloops)]
        columns.append(self.counters_of(self.service, False))
        state = se_load_relaxed(&self.hub.link)
        return {
            "node": self.hub.node[:self.hub.node_len].decode(),
            "address": self.address,
            "link": "off" if state == CLUSTER_OFF else ("up" if state == CLUSTER_UP else "away"),
            "own_tables": all(self.hub.loops[i].own_table for i in range(self.hub.nloops)),
            "loops": [dict(zip(names, column)) for column in columns[:self.hub.nloops]],
            "service": dict(zip(names, columns[self.hub.nloops])),
            "total": dict(zip(names, (sum(row) for row in zip(*columns)))),
        }
