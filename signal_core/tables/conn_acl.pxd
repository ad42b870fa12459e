"""The user and the acl of a connection.

The first membership of a connection with FLAG_USER is in the room `@<user>`, from before HELLO to its end. The user's
name is taken from that room, so that connections of one user store it once. On the connection's loop only.
"""

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy
from signal_core.base.sys cimport se_uncount
from signal_core.tables.acl cimport RIGHT_TO, Rights, rights_publish, rights_sub
from signal_core.tables.conn_table cimport FLAG_LIMITED, FLAG_USER, Conn, slab_cold
from signal_core.tables.loop_rooms cimport rooms_memberships_of
from signal_core.tables.room_table cimport RoomEntry
from signal_core.tables.state cimport Loop

cdef enum:
    MOST_MEMBERSHIPS = 65535  # what Conn.nrooms can count


cdef inline const char* conn_acl_user(Loop* loop, Conn* c, uint32_t* n) noexcept nogil:
    """Returns the user's name, without a NUL, and its bytes in `n`; NULL and 0: none."""
    cdef RoomEntry* entry
    n[0] = 0
    if not c.flags & FLAG_USER:
        return NULL
    entry = loop.rooms.rooms[rooms_memberships_of(c, slab_cold(&loop.slab, c.slot))[0].room].entry
    n[0] = <uint32_t>entry.size - 1
    return entry.name + 1


cdef inline void conn_acl_uncount_user(Loop* loop, Conn* c) noexcept nogil:
    """Ends its count against max-connections-per-user, before it leaves its rooms; no effect without that limit."""
    if c.flags & FLAG_USER and loop.hub.set.max_per_user:
        se_uncount(&loop.rooms.rooms[rooms_memberships_of(c, slab_cold(&loop.slab, c.slot))[0].room].entry.users)


cdef inline Rights* conn_acl_rights(Loop* loop, const Conn* c) noexcept nogil:
    """Returns its acl; NULL: everything is allowed."""
    return slab_cold(&loop.slab, c.slot).brief.rights if c.flags & FLAG_LIMITED else NULL


cdef inline bint conn_acl_may_sub(Loop* loop, const Conn* c, const char* room, size_t n) noexcept nogil:
    cdef Rights* rights = conn_acl_rights(loop, c)
    return rights == NULL or rights_sub(rights, room, n)


cdef inline bint conn_acl_may_publish(Loop* loop, const Conn* c, const char* room, size_t n) noexcept nogil:
    cdef Rights* rights = conn_acl_rights(loop, c)
    return rights == NULL or rights_publish(rights, room, n)


cdef inline bint conn_acl_may_send(Loop* loop, const Conn* c) noexcept nogil:
    """Whether it may send to peers and users."""
    cdef Rights* rights = conn_acl_rights(loop, c)
    return rights == NULL or rights.flags & RIGHT_TO


cdef inline uint32_t conn_acl_memberships(Loop* loop, const Conn* c) noexcept nogil:
    """Returns how many memberships it may have, its user's room included, which no limit counts."""
    cdef Rights* rights = conn_acl_rights(loop, c)
    cdef uint32_t most = loop.hub.set.max_rooms
    if rights != NULL and rights.max_rooms < most:
        most = rights.max_rooms
    if c.flags & FLAG_USER and most < MOST_MEMBERSHIPS:
        most += 1
    return most


cdef inline size_t conn_acl_json_size(const char* user, uint32_t n) noexcept nogil:
    """Returns the bytes of `,"user":"…"`; 0 without a user."""
    cdef size_t size = 10 + n
    cdef uint32_t i
    for i in range(n):
        size += user[i] == c'"' or user[i] == c'\\'
    return size if n else 0


cdef inline uint8_t* conn_acl_json_put(uint8_t* out, const char* user, uint32_t n) noexcept nogil:
    """Writes `,"user":"…"`, nothing without a user; returns its end. A user is printable ASCII, so only two characters
    need an escape."""
    cdef uint32_t i
    if n == 0:
        return out
    memcpy(out, b',"user":"', 9)
    out += 9
    for i in range(n):
        if user[i] == c'"' or user[i] == c'\\':
            out[0] = c'\\'
            out += 1
        out[0] = <uint8_t>user[i]
        out += 1
    out[0] = c'"'
    return out + 1
