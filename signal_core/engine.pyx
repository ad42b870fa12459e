"""Class Core: starts, controls and stops the loops for Python. The only part of the core that holds the GIL."""

import json
import os
import threading
import time

cimport cython

from signal_core.names import COUNTERS, HISTOGRAMS

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX, UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid, usleep
from signal_core.base.counters cimport C_COUNT, C_TAKEN, C_TASKS_REFUSED
from signal_core.base.kinds cimport (
    DIAL_GIVE_UP, DIAL_INFO_TAKEN, DIAL_LEAVE, KIND_CONNECT, KIND_DIAL, KIND_EVENT, KIND_INQUIRY, KIND_KICK,
    KIND_LISTEN, KIND_LOCAL_PEER, KIND_NEWS, KIND_RECEIPT, KIND_RELOAD, KIND_ROOM, KIND_SNAPSHOT, KIND_STOP, KIND_TO,
    KIND_VERDICT, LISTEN_CLOSE, LISTEN_INHERITED, LISTEN_OWN, LISTEN_SHARED, TELL_PEER,
)
from signal_core.base.limits cimport (
    ADDRESS_BYTES, CONTROL_LOOP, HISTOGRAM_BUCKETS, INSTANCE_SIZE, KICKS_KEPT, LOCAL_PEER_LOOP, LOOP_INDEXES,
    MAILS_WAITING, MAX_LISTENERS, MAX_LOOPS, TASKS_WAITING, TICK_MS, TLS_REASON_SIZE, YIELD_LEAST, YIELD_MOST,
)
from signal_core.base.memory cimport (
    Packet, memory_check_layout, packet_data, packet_free, packet_new_heap, packet_set_data, packet_text,
)
from signal_core.base.span cimport Span, span_between, span_first, span_from, span_of, span_same
from signal_core.base.sys cimport (
    AF_INET, AF_UNIX, EFD_CLOEXEC, EFD_NONBLOCK, SOCK_CLOEXEC, SOCK_SEQPACKET, close, eventfd, getrandom, htons,
    inet_pton, munmap, pthread_join, pthread_t, read, se_load_acquire, se_load_relaxed, se_malloc_steadily,
    se_malloc_trim, se_malloc_trims, se_now_ms, se_pass, se_store_relaxed, se_thread_start, sockaddr_in, sockaddr_in6,
    socketpair, write,
)
from signal_core.delivery.backpressure cimport backpressure_joins_wait, backpressure_tasks_full
from signal_core.delivery.envelope cimport Message, message_init
from signal_core.delivery.ledger cimport ledger_count
from signal_core.delivery.outbox cimport outbox_is_payload, outbox_post, outbox_post_all
from signal_core.delivery.replies cimport replies_code_parse, replies_code_reason, replies_code_text, replies_put_peer
from signal_core.loop.local_peer cimport (
    LocalFrame, local_frame_split, local_peer_begin, local_peer_fate, local_peer_finish, local_peer_stamp,
)
from signal_core.loop.thread cimport (
    LOOP_ENDED, LOOP_RUNNING, LOOP_STARTING, thread_end, thread_init, thread_main,
)
from signal_core.nats.tls cimport se_tls_context, se_tls_context_free, se_tls_free, se_tls_load, se_tls_session
from signal_core.presence.events cimport events_lost
from signal_core.presence.roster cimport roster_ask
from signal_core.route.await_nats cimport AWAIT_FAILED, AWAIT_IT, await_nats
from signal_core.route.membership cimport (
    membership_enter, membership_exit, membership_room_unwatch, membership_room_watch,
)
from signal_core.route.route cimport route_peer, route_room
from signal_core.tables.acl cimport rights_are_whole, rights_check_layout
from signal_core.tables.codes cimport (
    AUTH_ANY, AUTH_OFF, AUTH_TOKEN, CLUSTER_AWAY, CLUSTER_OFF, CLUSTER_UP, CODE_BAD_REQUEST, CODE_EXPIRED,
    CODE_NO_SUCH_PEER, CODE_OK, CODE_TOO_LARGE, CODE_TOO_MANY_ROOMS, CODE_UNAVAILABLE, EVENT_ASK, EVENT_CONNECTED,
    EVENT_DISCONNECTED, EVENT_DOWN, EVENT_FREED, EVENT_INFO, EVENT_LISTED, EVENT_LOG, EVENT_NATS_ERROR, EVENT_TAKEN,
    EVENT_UP, EVENT_WANT,
)
from signal_core.tables.conn_table cimport slab_check_layout, slab_pages_new
from signal_core.tables.ip_table cimport Addresses, addresses_end
from signal_core.tables.loop_rooms cimport WATCH_NONE
from signal_core.tables.mailbox cimport (
    Mailbox, mailbox_is_empty, mailbox_sleep, mailbox_take, mailbox_taken, mailbox_tasks_done,
)
from signal_core.tables.room_table cimport (
    RoomEntry, room_table_check_layout, room_table_end, room_table_hash, room_table_init,
)
from signal_core.tables.settings cimport Network, Settings, settings_free
from signal_core.tables.state cimport Hub, Loop, hub_node
from signal_core.tables.zlib_state cimport se_zlib_load
from signal_core.wire.command cimport HEAD_MAX, HEAD_MAX_AUTH, head_check_layout
from signal_core.wire.frame cimport frame_check_layout, frame_close_code_valid
from signal_core.wire.handshake cimport upgrade_check_layout
from signal_core.wire.ids cimport (
    PEER_TEXT, ROOM_MAX, ids_loop, ids_make, ids_parse_local, ids_ref_valid, ids_room_valid, ids_split_peer,
)
from signal_core.wire.nats_proto cimport nats_proto_check_layout
from signal_core.wire.tls_record cimport tls_record_check_layout

cdef enum:
    SNAPSHOT_PATIENCE_MS = 2000
    LISTEN_PATIENCE_MS = 5000


class CoreError(Exception):
    """The core can't do this: it is not started, is stopped, belongs to another process (fork), or a loop is stuck."""


class TlsError(Exception):
    """TLS is impossible with these files. `part`: "ca", "cert", "key" or "library"; the text is OpenSSL's reason."""

    def __init__(self, part, reason):
        super().__init__(reason)
        self.part = part


def deflate_loads() -> bool:
    """Whether zlib is on this machine, which compression needs. Loads it."""
    return se_zlib_load()


cdef inline void check_layouts() noexcept nogil:
    memory_check_layout()
    room_table_check_layout()
    slab_check_layout()
    rights_check_layout()
    frame_check_layout()
    head_check_layout()
    nats_proto_check_layout()
    upgrade_check_layout()
    tls_record_check_layout()


cdef inline Span span_bytes(bytes text) noexcept:
    """The content of a bytes object; valid as long as the object."""
    return span_of(<const char*>text, <size_t>len(text))


cdef bytes bytes_of(Span span):
    return PyBytes_FromStringAndSize(span.at, <Py_ssize_t>span.size)


cdef str text_of(Span span):
    """A str of Latin-1, so that no byte is invalid."""
    return bytes_of(span).decode("latin-1")


cdef str code_name(uint8_t code):
    """The name of a code for Python; "" for CODE_OK."""
    return "" if code == CODE_OK else (<bytes>replies_code_text(code)).decode()


cdef uint32_t ticks(object ms):
    """Milliseconds as ticks, rounded up; at least 1."""
    return max(1, <uint32_t>((ms + TICK_MS - 1) // TICK_MS))


cdef void* tls_context(str ca, str cert, str key) except NULL:
    """An OpenSSL context with these files, for the caller to free. Raises TlsError."""
    cdef const char* wrong = NULL
    cdef char reason[TLS_REASON_SIZE]
    cdef void* context
    if not se_tls_load():
        raise TlsError("library", "OpenSSL's libssl, 1.1 or newer, is not installed")
    context = se_tls_context(os.fsencode(ca), os.fsencode(cert), os.fsencode(key), &wrong, reason, sizeof(reason))
    if context == NULL:
        raise TlsError((<bytes>wrong).decode(), (<bytes>reason).decode("utf-8", "replace"))
    return context


def tls_try(ca, cert, key):
    """Checks that TLS works with these files. Raises TlsError."""
    se_tls_context_free(tls_context(ca, cert, key))


def malloc_steadily():
    """Sets up malloc of the whole process so that small freed blocks are merged one by one, never millions at once. For
    the daemon only."""
    se_malloc_steadily()


def malloc_trim():
    """Returns the process's free memory to the system. Blocks, with the GIL released. To be called only after a "freed"
    mail: musl has no malloc_trim."""
    with nogil:
        se_malloc_trim()


def code_sentence(str code):
    """The explanation that a client gets with an ERR of this code."""
    cdef bytes text = code.encode()
    return (<bytes>replies_code_reason(replies_code_parse(span_bytes(text)))).decode()


def may_close_with(code):
    """Whether a Close frame may carry this code (RFC 6455 §7.4)."""
    return 0 <= code <= 0xffff and frame_close_code_valid(code)


include "engine_settings.pxi"
include "engine_loops.pxi"
include "engine_listen.pxi"
include "engine_reload.pxi"
include "engine_peer.pxi"
include "engine_mail.pxi"


@cython.final
cdef class Core(Mailboxes):
    """See engine.pyi."""

    # -- the NATS link --

    def link_dial(self, int family, str ip, int port):
        """Answers "link-want": the link connects to this numeric address. Raises ValueError if it is not one."""
        self.check()
        self.task_post(0, self.task_new(KIND_DIAL, sockaddr_bytes(family, ip, port, 0)))

    cdef tell_link(self, uint64_t what):
        """Posts a KIND_DIAL without an address: DIAL_*."""
        cdef Packet* task = self.task_new(KIND_DIAL)
        task.hash = what
        self.task_post(0, task)

    def link_fail(self):
        """Rejects the server that sent INFO: the link closes the connection, and wants another address."""
        self.check()
        self.tell_link(DIAL_GIVE_UP)

    def link_leave(self):
        """Leaves a server that is about to shut down: the link writes its queue, then wants another address."""
        self.check()
        self.tell_link(DIAL_LEAVE)

    def link_info_taken(self):
        """Acknowledges a "link-info" mail; the next one may follow."""
        self.check()
        self.tell_link(DIAL_INFO_TAKEN)

    def link_connect(self, bytes line, uint64_t max_payload, tls):
        """Answers "link-info" with the CONNECT line, CRLF included.

        `tls`: None, or (name, is_ip, ca, cert, key): use TLS, and expect a certificate for this name. Raises TlsError,
        MemoryError.
        """
        self.check()
        cdef void* context
        cdef void* session = NULL
        cdef Packet* task
        if tls is not None:
            name, is_ip, ca, cert, key = tls
            context = tls_context(ca, cert, key)
            session = se_tls_session(context, name.encode(), is_ip)
            se_tls_context_free(context)
            if session == NULL:
                raise TlsError("library", f"OpenSSL can't create a session for {name}")
        try:
            task = self.task_new(KIND_CONNECT, line)
        except MemoryError:
            if session != NULL:
                se_tls_free(session)
            raise
        task.hash = max_payload
        task.pointer = session
        self.task_post(0, task)

    # -- counters --

    cdef list counters_of(self, Loop* loop, bint copied):
        """A loop's counters: its last copy, or the counters themselves, which only their own thread may read."""
        cdef int i
        return [loop.copy[i] if copied else loop.n[i] for i in range(C_COUNT)]

    cdef snapshot_all(self):
        """Has every loop copy its counters between two iterations. Waits at most SNAPSHOT_PATIENCE_MS: a loop that has
        not answered by then keeps its old copy."""
        cdef uint32_t i
        cdef uint64_t number, by
        cdef Hub* hub = self.hub
        cdef Packet* task
        self.snapshot += 1
        number = self.snapshot
        for i in range(hub.nloops):
            if not self.tasks_full(i):
                task = self.task_new(KIND_SNAPSHOT)
                task.hash = number
                self.task_post(i, task)
        by = se_now_ms() + SNAPSHOT_PATIENCE_MS
        with nogil:
            for i in range(hub.nloops):
                while se_load_acquire(&hub.loops[i].copied) < number and se_now_ms() < by:
                    usleep(50)

    cdef double cpu_of(self, Loop* loop):
        """The CPU time of a loop's thread, in seconds; 0 unless it runs."""
        if not self.started or self.joined or se_load_acquire(&loop.done) != LOOP_RUNNING:
            return 0
        return round(time.clock_gettime(time.pthread_getcpuclockid(loop.thread)), 6)

    cdef dict histograms_of(self, Loop* loop):
        """The last copies of a loop's histograms, by name: the counts by bucket, then the sum in ns."""
        cdef int i, bucket
        return {
            name: [*[loop.histograms[i].counts[bucket] for bucket in range(HISTOGRAM_BUCKETS)], loop.histograms[i].sum]
            for i, (name, _) in enumerate(HISTOGRAMS)
        }

    def stats(self):
        """Counters and histograms of each loop, and counters in total. Those of one loop are from one moment between
        two iterations."""
        self.check(False)
        with self.counting:
            return self.count()

    cdef dict count(self):
        """`stats`; the caller holds self.counting."""
        cdef uint32_t i
        names = [name for name, _, _ in COUNTERS]
        if self.started and not self.joined:
            self.snapshot_all()
        columns = [self.counters_of(self.hub.loops[i], True) for i in range(self.hub.nloops)]
        columns.append(self.counters_of(self.local_peer, False))
        state = se_load_relaxed(&self.hub.link)
        return {
            "node": bytes_of(hub_node(self.hub)).decode(),
            "address": self.address,
            "link": "off" if state == CLUSTER_OFF else ("up" if state == CLUSTER_UP else "away"),
            "own_tables": all(self.hub.loops[i].accept.own_table for i in range(self.hub.nloops)),
            "loops": [dict(zip(names, column)) for column in columns[:self.hub.nloops]],
            "cpu": [self.cpu_of(self.hub.loops[i]) for i in range(self.hub.nloops)],
            "histograms": [self.histograms_of(self.hub.loops[i]) for i in range(self.hub.nloops)],
            "service": dict(zip(names, columns[self.hub.nloops])),
            "total": dict(zip(names, (sum(row) for row in zip(*columns)))),
        }
