"""The user and the acl of a connection.

The first membership of a connection with FLAG_USER is in the room `@<user>`, from before HELLO to its end. The user's
name is taken from that room, so that connections of one user store it once. On the connection's loop only.
"""

from libc.stdint cimport uint32_t
from signal_core.base.span cimport Span, span_from, span_none
from signal_core.base.sys cimport se_uncount
from signal_core.base.text cimport text_put
from signal_core.tables.acl cimport RIGHT_TO, Rights, rights_publish, rights_sub
from signal_core.tables.conn_table cimport FLAG_LIMITED, FLAG_USER, Conn, slab_cold
from signal_core.tables.loop_rooms cimport rooms_memberships_of
from signal_core.tables.room_table cimport RoomEntry, room_entry_name
from signal_core.tables.state cimport Loop

cdef enum:
    MOST_MEMBERSHIPS = 65535  # what Conn.nrooms can count


cdef inline RoomEntry* _user_room(Loop* loop, const Conn* c) noexcept nogil:
    return loop.rooms.rooms[rooms_memberships_of(c, slab_cold(&loop.slab, c.slot))[0].room].entry


cdef inline Span conn_acl_user(Loop* loop, const Conn* c) noexcept nogil:
    """Returns the user's name, which its room holds; NULL: none."""
    if not c.flags & FLAG_USER:
        return span_none()
    return span_from(room_entry_name(_user_room(loop, c)), 1)


cdef inline void conn_acl_uncount_user(Loop* loop, Conn* c) noexcept nogil:
    """Ends its count against max-connections-per-user, before it leaves its rooms. It is counted without that limit,
    too, because a reload may set one."""
    if c.flags & FLAG_USER:
        se_uncount(&_user_room(loop, c).users)


cdef inline Rights* conn_acl_rights(Loop* loop, const Conn* c) noexcept nogil:
    """Returns its acl; NULL: everything is allowed."""
    return slab_cold(&loop.slab, c.slot).brief.rights if c.flags & FLAG_LIMITED else NULL


cdef inline bint conn_acl_may_sub(Loop* loop, const Conn* c, Span room) noexcept nogil:
    cdef Rights* rights = conn_acl_rights(loop, c)
    return rights == NULL or rights_sub(rights, room)


cdef inline bint conn_acl_may_publish(Loop* loop, const Conn* c, Span room) noexcept nogil:
    cdef Rights* rights = conn_acl_rights(loop, c)
    return rights == NULL or rights_publish(rights, room)


cdef inline bint conn_acl_may_send(Loop* loop, const Conn* c) noexcept nogil:
    """Whether it may send to peers and users."""
    cdef Rights* rights = conn_acl_rights(loop, c)
    return rights == NULL or rights.flags & RIGHT_TO


cdef inline uint32_t conn_acl_memberships(Loop* loop, const Conn* c) noexcept nogil:
    """Returns how many memberships it may have, its user's room included, which no limit counts."""
    cdef Rights* rights = conn_acl_rights(loop, c)
    cdef uint32_t most = loop.set.max_rooms
    if rights != NULL and rights.max_rooms < most:
        most = rights.max_rooms
    if c.flags & FLAG_USER and most < MOST_MEMBERSHIPS:
        most += 1
    return most


cdef inline size_t conn_acl_json_size(Span user) noexcept nogil:
    """Returns the bytes of `,"user":"…"`; 0 without a user."""
    cdef size_t size = 10 + user.size, i
    for i in range(user.size):
        size += user.at[i] == c'"' or user.at[i] == c'\\'
    return size if user.size else 0


cdef inline char* conn_acl_json_put(char* out, Span user) noexcept nogil:
    """Writes `,"user":"…"`, nothing without a user; returns its end. A user is printable ASCII, so only two characters
    need an escape."""
    cdef size_t i
    if user.size == 0:
        return out
    out = text_put(out, b',"user":"')
    for i in range(user.size):
        if user.at[i] == c'"' or user.at[i] == c'\\':
            out[0] = c'\\'
            out += 1
        out[0] = user.at[i]
        out += 1
    out[0] = c'"'
    return out + 1
