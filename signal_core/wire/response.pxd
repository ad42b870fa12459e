"""HTTP answers: the 101 of a handshake, refusals, health checks. Pure: text is written to a buffer."""

from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memcpy, memset
from signal_core.base.limits cimport UPGRADE_ANSWER
from signal_core.base.span cimport Span
from signal_core.base.text cimport text_hex_value, text_put, text_put_uint
from signal_core.wire.deflate_offer cimport DEFLATE_ANY
from signal_core.wire.handshake cimport KEY_SIZE, STATUS_MOST, STATUS_OPTIONS, UNDECIDED, UNHANDLED, Upgrade
from signal_core.wire.http cimport http_status_reason

cdef extern from "se_sha1.h" nogil:
    enum:
        SE_SHA1_SIZE
    void se_sha1(const uint8_t* p, size_t n, uint8_t* out)
    size_t se_base64_put(const uint8_t* p, size_t n, char* out)

cdef enum:
    GUID_SIZE = 36       # characters of the GUID that is hashed with the key
    UPGRADE_ACCEPT_MAX = 384  # bytes of the longest 101
    BODY_MAX = 320       # bytes of the longest body
    ROOM_SHOWN = 160     # most bytes of a refused room's name in the body


cdef inline char* _deflate_put(char* out, uint8_t window) noexcept nogil:
    """Writes the answer to an accepted offer (RFC 7692 §7.1), at most 133 bytes; returns its end."""
    out = text_put(out, b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
                        b"client_no_context_takeover")
    if window == DEFLATE_ANY:
        return out
    return text_put_uint(text_put(out, b"; server_max_window_bits="), window)


cdef inline size_t response_accept_key(const Upgrade* upgrade, char* out) noexcept nogil:
    """Writes the 101 (RFC 6455 §4.2.2), at most UPGRADE_ACCEPT_MAX bytes; returns its length."""
    cdef char text[KEY_SIZE + GUID_SIZE]
    cdef uint8_t digest[SE_SHA1_SIZE]
    cdef char* p = out
    memcpy(text, upgrade.key, KEY_SIZE)
    memcpy(text + KEY_SIZE, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", GUID_SIZE)
    se_sha1(<const uint8_t*>text, KEY_SIZE + GUID_SIZE, digest)
    p = text_put(p, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    p = text_put(p, b"Sec-WebSocket-Accept: ")
    p += se_base64_put(digest, SE_SHA1_SIZE, p)
    if upgrade.protocol:
        p = text_put(p, b"\r\nSec-WebSocket-Protocol: signal.v1")
    if upgrade.deflate:
        p = _deflate_put(p, upgrade.deflate)
    p = text_put(p, b"\r\n\r\n")
    return p - out


cdef inline const char* _status_text(int status) noexcept nogil:
    """Returns the explanation in the body."""
    if status == 200:
        return b"ok"
    if status == 400:
        return b"This is not a well-formed WebSocket handshake."
    if status == 401:
        return b"A valid token is required."
    if status == 403:
        return b"This origin or token is not allowed here."
    if status == 404:
        return b"Not found: the WebSocket endpoint is at the server's configured path, / by default."
    if status == 405:
        return b"Only GET, HEAD and OPTIONS are supported here."
    if status == 408:
        return b"The handshake took too long."
    if status == 414:
        return b"The request line is too long: give a shorter URL."
    if status == 426:
        return b"This is a WebSocket endpoint: connect with ws:// or wss://, version 13."
    if status == 429:
        return b"Too many connections, or too many in a short time: try again later."
    if status == 431:
        return b"The head of the handshake is too large."
    if status == 503:
        return b"This node is full or draining: try again, or another one."
    if status == UNDECIDED:
        return b"The engine could not decide whether this client may connect: try again."
    if status == UNHANDLED:
        return b"This node was too busy for the handshake: try again, or another node."
    if status == 505:
        return b"WebSocket requires HTTP/1.1."
    return b"Internal error of the engine."


cdef inline const char* _status_headers(int status) noexcept nogil:
    """Returns the headers that a status needs, Connection included."""
    if status == 401:
        return b"WWW-Authenticate: Bearer\r\nConnection: close\r\n"
    if status == 405 or status == STATUS_OPTIONS:
        return b"Allow: GET, HEAD, OPTIONS\r\nConnection: close\r\n"
    if status == 426:
        return b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade, close\r\n"
    if status in (429, 503, UNHANDLED, UNDECIDED):
        return b"Retry-After: 1\r\nConnection: close\r\n"
    return b"Connection: close\r\n"


cdef inline char* _room_put(char* out, Span room) noexcept nogil:
    """Writes a room of the query for people: decoded, except for characters that are not printable, and cut off with
    dots after ROOM_SHOWN bytes. Returns its end."""
    cdef const char* p = room.at
    cdef const char* full = out + ROOM_SHOWN - 3
    cdef size_t i = 0
    cdef int high, low
    while i < room.size:
        if out + 3 > full:
            return text_put(out, b"...")
        high = text_hex_value(p[i + 1]) if room.size - i > 2 and p[i] == c'%' else -1
        low = text_hex_value(p[i + 2]) if high >= 0 else -1
        if low < 0:
            out[0] = c' ' if p[i] == c'+' else p[i]
        elif c' ' <= (high << 4 | low) <= c'~':
            out[0] = <char>(high << 4 | low)
            i += 2
        else:
            out[0] = p[i]
        out += 1
        i += 1
    return out


cdef inline size_t _upgrade_body(const Upgrade* upgrade, char* out) noexcept nogil:
    """Writes the body, at most BODY_MAX bytes; returns its length."""
    cdef char* p = out
    if upgrade.room.at != NULL:
        p = text_put(p, b"The room '")
        p = _room_put(p, upgrade.room)
        p = text_put(p, b"' in the URL is refused: ")
    p = text_put(p, upgrade.why if upgrade.why != NULL else _status_text(upgrade.status))
    p = text_put(p, b"\n")
    return p - out


cdef inline size_t response_upgrade(const Upgrade* upgrade, char* out, size_t size) noexcept nogil:
    """Writes the HTTP answer to a request that is not upgraded, and returns its length; 0 if `size` < UPGRADE_ANSWER.

    It has no body if the method was HEAD (RFC 9110 §9.3.2) or the status is 204.
    """
    cdef char text[BODY_MAX]
    cdef size_t n
    cdef char* p = out
    if size < UPGRADE_ANSWER:
        return 0
    n = _upgrade_body(upgrade, text)
    p = text_put(p, b"HTTP/1.1 ")
    p = text_put_uint(p, <uint64_t>(upgrade.status % STATUS_MOST))
    p = text_put(p, b" ")
    p = text_put(p, http_status_reason(upgrade.status % STATUS_MOST))
    p = text_put(p, b"\r\n")
    if upgrade.status != STATUS_OPTIONS:
        p = text_put(p, b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: ")
        p = text_put_uint(p, n)
        p = text_put(p, b"\r\n")
    p = text_put(p, _status_headers(upgrade.status))
    p = text_put(p, b"\r\n")
    if upgrade.status != STATUS_OPTIONS and not upgrade.bodiless:
        memcpy(p, text, n)
        p += n
    return p - out


cdef inline size_t response_refuse(int status, char* out, size_t size) noexcept nogil:
    """As response_upgrade, for a request that was not parsed: by its status alone."""
    cdef Upgrade upgrade
    memset(&upgrade, 0, sizeof(upgrade))
    upgrade.status = status
    return response_upgrade(&upgrade, out, size)
