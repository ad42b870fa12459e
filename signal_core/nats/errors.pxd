"""What -ERR can say, and what each does. Loop 0 only. Source: nats-server (server/client.go, errors.go, parser.go).

docs/nats.md has the table. What the server ends the connection with is its reason; what it goes on after is told to
whoever asked for it. Of what is neither, nothing is believed but that NATS said it.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, strlen
from posix.strings cimport strncasecmp
from signal_core.base.counters cimport C_NATS_ERRORS
from signal_core.base.limits cimport CONTROL_LOOP, DENIED_SUBJECTS, NATS_ERRORS_TOLD, PREFIX_SIZE
from signal_core.base.sys cimport se_load_relaxed, se_siphash13, se_store_relaxed, se_store_release
from signal_core.delivery.nats_publish cimport nats_publish_denied
from signal_core.delivery.outbox cimport outbox_event
from signal_core.nats.connect cimport connect_end, connect_put_bytes, connect_put_text, connect_too_few_subs
from signal_core.nats.subscriptions cimport subscriptions_denied
from signal_core.route.receipts cimport receipts_tell_peer
from signal_core.tables.codes cimport CODE_DENIED, EVENT_LOG, EVENT_NATS_ERROR
from signal_core.tables.link_state cimport LINK_UP, Link
from signal_core.tables.state cimport Hub, Loop

cdef enum:
    ERRORS_TICKS = 10             # of a second, in which NATS_ERRORS_TOLD are told


cdef inline void _presence_refused(Loop* loop, const char* subject, size_t n) noexcept nogil:
    """NATS does not allow a subject: the log says once what that means where it is one of presence."""
    cdef Hub* hub = loop.hub
    cdef const char* text = (b"NATS does not allow this node to publish presence: presence on other nodes "
                             b"lacks its clients until its NATS user may publish on the presence subjects")
    cdef char prefix[PREFIX_SIZE + 9]
    cdef size_t size = connect_put_text(prefix, connect_put_bytes(prefix, 0, hub.prefix, hub.prefix_len), b".presence")
    if loop.linked.presence.denied or n < size or memcmp(subject, prefix, size) != 0:
        return
    loop.linked.presence.denied = True
    outbox_event(loop, CONTROL_LOOP, EVENT_LOG, 0, 0, text, strlen(text))


cdef inline void _denied(Loop* loop, const char* text, size_t n) noexcept nogil:
    """`Permissions Violation for Publish to "<subject>"`: tells whoever asked, and remembers it while connected."""
    cdef Link* link = loop.linked
    cdef Hub* hub = loop.hub
    cdef uint64_t hash, i, count
    cdef size_t at = 0, end
    while at < n and text[at] != c'"':
        at += 1
    end = at + 1
    while end < n and text[end] != c'"':
        end += 1
    if end >= n:
        return
    _presence_refused(loop, text + at + 1, end - at - 1)
    hash = se_siphash13(hub.rooms.key, text + at + 1, end - at - 1)
    count = se_load_relaxed(&hub.ndenied)
    if count < DENIED_SUBJECTS and not nats_publish_denied(hub, hash):  # it objects to each message
        se_store_relaxed(&hub.denied[count], hash)
        se_store_release(&hub.ndenied, count + 1)
    for i in range(256):
        if link.receipts.subject[i] == hash and link.receipts.id[i]:
            receipts_tell_peer(loop, link.receipts.id[i], CODE_DENIED, link.receipts.ref[i], link.receipts.size[i])
            link.receipts.id[i] = 0


cdef inline bint _says(const char* text, size_t n, const char* lower) noexcept nogil:
    """Whether a text begins so, in whatever case: that differs between versions of the server."""
    cdef size_t size = strlen(lower)
    return n >= size and strncasecmp(text, lower, size) == 0


cdef inline bint _is_last_word(const char* text, size_t n) noexcept nogil:
    """Whether the server ends the connection with it, or leaves one that is of no use."""
    return (_says(text, n, b"authorization violation") or _says(text, n, b"authentication ")
            or _says(text, n, b"authorization timeout") or _says(text, n, b"slow consumer")
            or _says(text, n, b"user authentication ") or _says(text, n, b"account authentication ")
            or _says(text, n, b"stale connection") or _says(text, n, b"unknown protocol operation")
            or _says(text, n, b"parser error") or _says(text, n, b"maximum payload violation")
            or _says(text, n, b"maximum control line exceeded") or _says(text, n, b"maximum connections exceeded")
            or _says(text, n, b"maximum account active connections exceeded")
            or _says(text, n, b"connection throttling is active") or _says(text, n, b"secure connection")
            or _says(text, n, b"failed account registration") or _says(text, n, b"invalid client protocol")
            or _says(text, n, b"no responders requires headers") or _says(text, n, b"message headers not supported")
            or _says(text, n, b"attempted to connect to "))


cdef inline void _errors_tell(Loop* loop, const char* text, size_t n) noexcept nogil:
    """To Python, with how many it was not told since the last."""
    cdef Link* link = loop.linked
    outbox_event(loop, CONTROL_LOOP, EVENT_NATS_ERROR, 0, link.errors.untold, text, n)
    link.errors.untold = 0


cdef inline void _errors_anew(Loop* loop) noexcept nogil:
    """A second later as many may be told again."""
    cdef Link* link = loop.linked
    if loop.tick - link.errors.since >= ERRORS_TICKS:
        link.errors.since = loop.tick
        link.errors.told = 0


cdef inline void errors_tick(Loop* loop) noexcept nogil:
    """Each tick: how many could not be told within the last second."""
    cdef Link* link = loop.linked
    if link.errors.untold:
        _errors_anew(loop)
        if link.errors.told == 0:
            link.errors.told = 1
            _errors_tell(loop, b"", 0)


cdef inline void errors_take(Loop* loop, const char* text, size_t n) noexcept nogil:
    """An -ERR."""
    cdef Link* link = loop.linked
    cdef size_t size = n if n < sizeof(link.reason) - 1 else sizeof(link.reason) - 1
    loop.n[C_NATS_ERRORS] += 1
    if _is_last_word(text, n):
        _errors_tell(loop, text, n)
        memcpy(link.reason, text, size)
        link.reason[size] = 0
        connect_end(loop, link.reason)
        return
    if _says(text, n, b"maximum subscriptions exceeded"):
        if link.state == LINK_UP:
            link.limit.over += 1  # which, its PONG tells: sub_limit.pxd
        else:
            connect_end(loop, connect_too_few_subs())
        return
    _errors_anew(loop)
    if link.errors.told < NATS_ERRORS_TOLD:
        link.errors.told += 1
        _errors_tell(loop, text, n)
    else:
        link.errors.untold += 1
    if _says(text, n, b"permissions violation for publish to "):
        _denied(loop, text, n)
    elif _says(text, n, b"permissions violation for subscription"):
        subscriptions_denied(loop, text, n)
