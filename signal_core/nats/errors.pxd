"""Handles -ERR from NATS. Loop 0 only. Source: nats-server (server/client.go, errors.go, parser.go).

docs/nats.md has the table. Each goes to the log, up to NATS_ERRORS_TOLD a second. One that ends the connection is
always logged, and becomes the link's reason. One about the limit on subscriptions is left to sub_limit.pxd. One that
concerns a message or subscription is also reported to the client that caused it.
"""

from libc.stdint cimport uint64_t
from libc.string cimport strlen
from posix.strings cimport strncasecmp
from signal_core.base.counters cimport C_NATS_ERRORS
from signal_core.base.limits cimport DENIED_SUBJECTS, NATS_ERRORS_TOLD, RECEIPTS_OWED
from signal_core.base.span cimport Span, span_first, span_from, span_none, span_of, span_same, span_starts, span_text
from signal_core.base.sys cimport se_load_relaxed, se_siphash13, se_store_relaxed, se_store_release
from signal_core.base.text cimport text_put_span
from signal_core.delivery.nats_publish cimport nats_publish_denied
from signal_core.delivery.outbox cimport outbox_event
from signal_core.nats.connect cimport connect_end, connect_too_few_subs
from signal_core.nats.subscriptions cimport subscriptions_denied, subscriptions_quoted
from signal_core.route.receipts cimport receipts_tell_peer
from signal_core.tables.codes cimport CODE_DENIED, EVENT_LOG, EVENT_NATS_ERROR
from signal_core.tables.link_state cimport LINK_UP, Link
from signal_core.tables.state cimport Hub, Loop, hub_prefix

cdef enum:
    ERRORS_TICKS = 10             # 1 s, in which NATS_ERRORS_TOLD are reported


cdef inline void _presence_refused(Loop* loop, Span subject) noexcept nogil:
    """Logs what it means that NATS denies a subject of presence. Only once; no effect for other subjects."""
    cdef Span prefix = hub_prefix(loop.hub)
    if (loop.linked.presence.denied or not span_same(span_first(subject, prefix.size), prefix)
            or not span_starts(span_from(subject, prefix.size), b".presence")):
        return
    loop.linked.presence.denied = True
    outbox_event(loop, EVENT_LOG, 0, span_text(
        b"NATS does not allow this node to publish presence: presence on other nodes lacks its clients until its NATS "
        b"user may publish on the presence subjects"))


cdef inline void _denied(Loop* loop, Span text) noexcept nogil:
    """Handles `Permissions Violation for Publish to "<subject>"`: answers the senders, and refuses the subject until
    the next connection."""
    cdef Link* link = loop.linked
    cdef Hub* hub = loop.hub
    cdef uint64_t hash, i, count
    cdef Span subject = subscriptions_quoted(text)
    if subject.at == NULL:
        return
    _presence_refused(loop, subject)
    hash = se_siphash13(hub.rooms.key, subject.at, subject.size)
    count = se_load_relaxed(&hub.ndenied)
    if count < DENIED_SUBJECTS and not nats_publish_denied(hub, hash):  # NATS reports each message
        se_store_relaxed(&hub.denied[count], hash)
        se_store_release(&hub.ndenied, count + 1)
    for i in range(RECEIPTS_OWED):
        if link.receipts.subject[i] == hash and link.receipts.id[i]:
            receipts_tell_peer(loop, link.receipts.id[i], CODE_DENIED,
                               span_of(link.receipts.ref[i], link.receipts.size[i]))
            link.receipts.id[i] = 0


cdef inline bint _says(Span text, const char* lower) noexcept nogil:
    """Whether a text begins with `lower`, in any case, because versions of the server differ."""
    cdef size_t size = strlen(lower)
    return text.size >= size and strncasecmp(text.at, lower, size) == 0


cdef inline bint _is_last_word(Span text) noexcept nogil:
    """Whether the server closes the connection after this error, or leaves one that is of no use."""
    return (_says(text, b"authorization violation") or _says(text, b"authentication ")
            or _says(text, b"authorization timeout") or _says(text, b"slow consumer")
            or _says(text, b"user authentication ") or _says(text, b"account authentication ")
            or _says(text, b"stale connection") or _says(text, b"unknown protocol operation")
            or _says(text, b"parser error") or _says(text, b"maximum payload violation")
            or _says(text, b"maximum control line exceeded") or _says(text, b"maximum connections exceeded")
            or _says(text, b"maximum account active connections exceeded")
            or _says(text, b"connection throttling is active") or _says(text, b"secure connection")
            or _says(text, b"failed account registration") or _says(text, b"invalid client protocol")
            or _says(text, b"no responders requires headers") or _says(text, b"message headers not supported")
            or _says(text, b"attempted to connect to "))


cdef inline void _errors_tell(Loop* loop, Span text) noexcept nogil:
    """Reports an error to Python, and how many were only counted since the last report."""
    cdef Link* link = loop.linked
    outbox_event(loop, EVENT_NATS_ERROR, link.errors.untold, text)
    link.errors.untold = 0


cdef inline void _errors_new_second(Loop* loop) noexcept nogil:
    """Allows NATS_ERRORS_TOLD reports again once a second is over."""
    cdef Link* link = loop.linked
    if loop.tick - link.errors.since >= ERRORS_TICKS:
        link.errors.since = loop.tick
        link.errors.told = 0


cdef inline void errors_tick(Loop* loop) noexcept nogil:
    """Each tick: reports how many errors of the last second were only counted."""
    cdef Link* link = loop.linked
    if link.errors.untold:
        _errors_new_second(loop)
        if link.errors.told == 0:
            link.errors.told = 1
            _errors_tell(loop, span_none())


cdef inline void errors_take(Loop* loop, Span text) noexcept nogil:
    """Handles an -ERR, by its text."""
    cdef Link* link = loop.linked
    loop.n[C_NATS_ERRORS] += 1
    if _is_last_word(text):
        _errors_tell(loop, text)
        text_put_span(link.reason, span_first(text, sizeof(link.reason) - 1))[0] = 0
        connect_end(loop, link.reason)
        return
    if _says(text, b"maximum subscriptions exceeded"):
        if link.state == LINK_UP:
            link.limit.over += 1  # the next PONG tells for which SUB: sub_limit.pxd
        else:
            connect_end(loop, connect_too_few_subs())
        return
    _errors_new_second(loop)
    if link.errors.told < NATS_ERRORS_TOLD:
        link.errors.told += 1
        _errors_tell(loop, text)
    else:
        link.errors.untold += 1
    if _says(text, b"permissions violation for publish to "):
        _denied(loop, text)
    elif _says(text, b"permissions violation for subscription"):
        subscriptions_denied(loop, text)
