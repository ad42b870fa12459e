"""Who comes and goes, as the embedding program hears it, where it has a handler for that. L3.

The data of EVENT_CONNECTED and EVENT_DISCONNECTED: the length of the user's name in a byte, the name, and the text of
the rights (rights.pxd), which is absent where nothing is bounded.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from signal_core.conn cimport conn_id
from signal_core.counters cimport C_EVENTS_LOST
from signal_core.identity cimport conn_rights, conn_user
from signal_core.limits cimport SERVICE_LOOP
from signal_core.memory cimport KIND_EVENT, Msg, msg_new_heap
from signal_core.post cimport post, post_has_room
from signal_core.rights cimport Rights, rights_put, rights_size
from signal_core.slab cimport Conn
from signal_core.state cimport Loop


cdef inline void hook_tell(Loop* loop, Conn* c, uint8_t code, uint64_t value) noexcept nogil:
    """While there is room. Before the connection leaves its rooms, among which is its user's."""
    cdef uint32_t user_n = 0
    cdef const char* user = conn_user(loop, c, &user_n)
    cdef Rights* rights = conn_rights(loop, c)
    cdef size_t size = 1 + user_n + rights_size(rights)
    cdef Msg* msg = NULL
    if post_has_room(loop, loop.hub.loops[SERVICE_LOOP], size):
        msg = msg_new_heap(&loop.mem, size, KIND_EVENT)
    if msg == NULL:
        loop.n[C_EVENTS_LOST] += 1
        return
    msg.code = code
    msg.target = conn_id(loop, c)
    msg.hash = value
    msg.size = <uint32_t>size
    msg.data[0] = <uint8_t>user_n
    if user_n:
        memcpy(msg.data + 1, user, user_n)
    if rights != NULL:
        rights_put(rights, msg.data + 1 + user_n)
    post(loop, SERVICE_LOOP, msg)
