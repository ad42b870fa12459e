"""Reports connects and disconnects to the embedding program, if it has a handler for them.

The data of EVENT_CONNECTED and EVENT_DISCONNECTED: one byte with the length of the user's name, the name, and the text
of the rights (acl.pxd), which is empty if everything is allowed.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from signal_core.base.counters cimport C_EVENTS_LOST
from signal_core.base.kinds cimport KIND_EVENT
from signal_core.base.limits cimport LOCAL_PEER_LOOP
from signal_core.base.memory cimport Packet, packet_new_heap
from signal_core.base.span cimport Span
from signal_core.base.text cimport text_put_span
from signal_core.delivery.conn cimport conn_id
from signal_core.delivery.outbox cimport outbox_has_room, outbox_post
from signal_core.tables.acl cimport Rights, rights_put, rights_size
from signal_core.tables.conn_acl cimport conn_acl_rights, conn_acl_user
from signal_core.tables.conn_table cimport Conn
from signal_core.tables.state cimport Loop


cdef inline void hooks_tell(Loop* loop, Conn* c, uint8_t code, uint64_t value) noexcept nogil:
    """Posts EVENT_CONNECTED or EVENT_DISCONNECTED (`code`); `value` is the close code. Counts it as lost if the mailbox
    is full. To be called while the connection is in its rooms: one of them has its user's name."""
    cdef Span user = conn_acl_user(loop, c)
    cdef Rights* rights = conn_acl_rights(loop, c)
    cdef size_t size = 1 + user.size + rights_size(rights)
    cdef Packet* packet = NULL
    if outbox_has_room(loop, loop.hub.loops[LOCAL_PEER_LOOP], size):
        packet = packet_new_heap(&loop.mem, size, KIND_EVENT)
    if packet == NULL:
        loop.n[C_EVENTS_LOST] += 1
        return
    packet.code = code
    packet.target = conn_id(loop, c)
    packet.hash = value
    packet.size = <uint32_t>size
    packet.data[0] = <uint8_t>user.size
    text_put_span(<char*>packet.data + 1, user)
    if rights != NULL:
        rights_put(rights, packet.data + 1 + user.size)
    outbox_post(loop, LOCAL_PEER_LOOP, packet)
