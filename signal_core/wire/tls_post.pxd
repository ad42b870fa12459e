"""What is sent over TLS 1.3 after the handshake besides data: KeyUpdate (RFC 8446 §4.6.3) and alerts (§6). Reads a
client's, writes the engine's. Pure."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from signal_core.base.span cimport Span
from signal_core.wire.tls_record cimport (
    ALERT_CLOSE_NOTIFY, ALERT_DECODE_ERROR, ALERT_ILLEGAL_PARAMETER, ALERT_UNEXPECTED_MESSAGE, ALERT_USER_CANCELED,
)

cdef enum:
    KEY_UPDATE_HEAD = 4       # bytes of its type and length; one more says whether an answer is asked for
    KEY_UPDATE_SIZE = 5       # bytes of it
    ALERT_SIZE = 2            # ... of an alert: level and description
    ALERT_WARNING = 1         # the level of ALERT_CLOSE_NOTIFY and ALERT_USER_CANCELED
    ALERT_FATAL = 2           # ... of all others

    # Results of tls_post_handshake and tls_post_alert
    POST_BAD = -1             # `alert` is for the peer
    POST_MORE = 0             # the message goes on in the next record; an alert that means nothing
    POST_UPDATE = 1           # the client's next record has new keys
    POST_UPDATE_BOTH = 2      # ... and it asks for new keys of ours
    POST_CLOSE = 3            # close_notify
    POST_FATAL = 4            # the client gives up; `alert` is its reason

cdef struct TlsPost:          # a KeyUpdate that is not complete yet
    uint8_t have              # bytes of it; 0: none, and any record may follow


cdef inline int _fail(uint8_t* alert, uint8_t why) noexcept nogil:
    alert[0] = why
    return POST_BAD


cdef inline const char* _key_update_head() noexcept nogil:
    return b"\x18\0\0\1"  # KeyUpdate (24), one byte long


cdef inline int tls_post_handshake(TlsPost* post, Span content, uint8_t* alert) noexcept nogil:
    """Handles the content of a handshake record. KeyUpdate is all that a client may send: no certificate is asked for,
    and there is no renegotiation. It may be split over records, but must end where one ends (§5.1)."""
    cdef const uint8_t* p = <const uint8_t*>content.at
    cdef const char* head = _key_update_head()
    cdef size_t i = 0
    while i < content.size and post.have < KEY_UPDATE_HEAD:
        if p[i] != <uint8_t>head[post.have]:
            return _fail(alert, ALERT_DECODE_ERROR if post.have else ALERT_UNEXPECTED_MESSAGE)
        post.have += 1
        i += 1
    if i == content.size:
        return POST_MORE
    post.have = 0
    if i + 1 != content.size:
        return _fail(alert, ALERT_UNEXPECTED_MESSAGE)
    if p[i] > 1:
        return _fail(alert, ALERT_ILLEGAL_PARAMETER)
    return POST_UPDATE_BOTH if p[i] else POST_UPDATE


cdef inline bint tls_post_waits(const TlsPost* post) noexcept nogil:
    """Whether the next record must be a handshake record: messages may not be interleaved with others (§5.1)."""
    return post.have != 0


cdef inline int tls_post_alert(Span content, uint8_t* alert) noexcept nogil:
    """Handles the content of an alert record. The level is ignored (§6)."""
    cdef const uint8_t* p = <const uint8_t*>content.at
    if content.size != ALERT_SIZE:
        return _fail(alert, ALERT_DECODE_ERROR)
    alert[0] = p[1]
    if p[1] == ALERT_CLOSE_NOTIFY:
        return POST_CLOSE
    return POST_MORE if p[1] == ALERT_USER_CANCELED else POST_FATAL


# -- the engine's own, to be sealed --

cdef inline size_t tls_post_put_update(uint8_t* out, bint asks) noexcept nogil:
    """Writes a KeyUpdate, TLS_HANDSHAKE, that asks the client for one of its own or does not. Returns its bytes. It is
    sealed with the old keys, all that follows with the next ones."""
    memcpy(out, _key_update_head(), KEY_UPDATE_HEAD)
    out[KEY_UPDATE_HEAD] = asks
    return KEY_UPDATE_SIZE


cdef inline size_t tls_post_put_alert(uint8_t* out, uint8_t alert) noexcept nogil:
    """Writes an alert, TLS_ALERT. Returns its bytes."""
    out[0] = ALERT_WARNING if alert == ALERT_CLOSE_NOTIFY or alert == ALERT_USER_CANCELED else ALERT_FATAL
    out[1] = alert
    return ALERT_SIZE
