"""What each message of a loop's inbox does. L4. Runs on the thread of the loop, which owns the message."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from signal_core.accept cimport loop_stop
from signal_core.answers cimport ref_find
from signal_core.asking cimport presence_ask
from signal_core.auth cimport auth_verdict
from signal_core.conn cimport conn_close, conn_of
from signal_core.counters cimport C_KICKED, C_LISTENERS
from signal_core.dial cimport link_connect, link_dial, link_end, link_leave
from signal_core.farewell cimport farewell_begin
from signal_core.inbox cimport inbox_taken
from signal_core.inquiry cimport loop_inquiry
from signal_core.memory cimport (
    DIAL_INFO_TAKEN, DIAL_LEAVE, KIND_ASK, KIND_AWAIT, KIND_CONNECT, KIND_DIAL, KIND_INQUIRY, KIND_KICK, KIND_NATS,
    KIND_NEWS, KIND_QUESTION, KIND_RECEIPT, KIND_ROOM, KIND_SERVICE, KIND_SNAPSHOT, KIND_STOP, KIND_SYNC, KIND_TO,
    KIND_VERDICT, Msg, msg_free, msg_text,
)
from signal_core.natsout cimport link_take
from signal_core.news cimport take_news
from signal_core.post cimport is_payload
from signal_core.presence cimport service_came
from signal_core.pressure cimport joins_wait, verdict_hold
from signal_core.questions cimport take_question
from signal_core.route cimport leave, room_unlisten, take_receipt, take_room, take_to
from signal_core.rooms cimport MARK_NONE, NO_ROOM, Member, room_member, rooms_find
from signal_core.roomtable cimport room_hash
from signal_core.serverinfo cimport info_taken
from signal_core.slab cimport CONN_DEAD, CONN_JOINING, LISTENS_MEMBER, Conn, Ref, slab_find
from signal_core.state cimport CODE_DENIED, Loop
from signal_core.subs cimport subs_await, subs_settle
from signal_core.sys cimport SE_RARE, se_store_release


cdef inline void unlisten(Loop* loop, Conn* c, const char* name, uint32_t n) noexcept nogil:
    """It hears no more who comes and goes in a room; no effect where it does not."""
    cdef uint32_t room = rooms_find(&loop.rooms, room_hash(&loop.hub.rooms, name, n), name, n)
    cdef Member* member = NULL if room == NO_ROOM else room_member(&loop.rooms, &loop.slab, c, room)
    if member != NULL and member.mark != MARK_NONE:
        member.mark = MARK_NONE
        loop.n[C_LISTENERS] -= 1
        room_unlisten(loop, loop.rooms.rooms[room].entry)


cdef inline void sub_undo(Loop* loop, Conn* c, Msg* msg) noexcept nogil:
    """NATS did not take the SUB of a room: it is left, but by who was a member and only wanted to listen. A user's room
    is left by none."""
    cdef Ref* ref = ref_find(loop, c, msg_text(msg), msg.text_size) if msg.text_size else NULL
    if msg.data[0] == c"@":
        return
    if msg.hash and ref != NULL and ref.listens == LISTENS_MEMBER:
        unlisten(loop, c, <char*>msg.data, msg.size)
    else:
        leave(loop, c, <char*>msg.data, msg.size)
    if c.state != CONN_JOINING:
        return
    if msg.code == CODE_DENIED:  # told after HELLO; UPGRADE_MAX_ROOMS at most, in all
        c.phase.joining.denied += 1
    else:
        c.phase.joining.over += 1


cdef inline void loop_receipt(Loop* loop, Msg* msg) noexcept nogil:
    """A receipt; where NATS did not take a SUB it names the room."""
    cdef Conn* c
    if msg.size:
        c = slab_find(&loop.slab, <uint32_t>(msg.target >> 32) & 0xffffff, <uint32_t>msg.target)
        if c != NULL and c.state != CONN_DEAD:
            sub_undo(loop, c, msg)
    take_receipt(loop, msg.target, msg.code, msg_text(msg), msg.text_size)


cdef inline void loop_kick(Loop* loop, const Msg* msg) noexcept nogil:
    cdef Conn* c = conn_of(loop, msg.target)
    if c != NULL:
        loop.n[C_KICKED] += 1
        conn_close(loop, c, <unsigned short>msg.hash)
    se_store_release(&loop.kicked[msg.origin & 63], 2 * msg.origin + (c != NULL))


cdef inline void loop_verdict(Loop* loop, Msg* msg) noexcept nogil:
    auth_verdict(loop, msg)
    msg_free(&loop.mem, msg)


cdef inline void loop_message(Loop* loop, Msg* msg) noexcept nogil:
    """One message of the inbox."""
    if msg.kind == KIND_TO:
        take_to(loop, msg)
        return
    if msg.kind == KIND_ROOM:
        take_room(loop, msg)
        return
    if msg.kind == KIND_NEWS:
        take_news(loop, msg)
        return
    if msg.kind == KIND_NATS:
        if is_payload(msg):
            inbox_taken(&loop.inbox, msg)
        link_take(loop, msg)
        return
    loop.words += 1
    if msg.kind == KIND_QUESTION:
        take_question(loop, msg)
        return
    if msg.kind == KIND_SYNC:
        subs_settle(loop, msg)
        return
    if msg.kind == KIND_CONNECT:
        link_connect(loop, msg)
        return
    if msg.kind == KIND_RECEIPT:
        loop_receipt(loop, msg)
    elif msg.kind == KIND_AWAIT:
        subs_await(loop, msg)
    elif msg.kind == KIND_ASK:
        presence_ask(loop, msg)
    elif msg.kind == KIND_SERVICE:
        service_came(loop, msg)
    elif msg.kind == KIND_STOP:
        if msg.hash:
            farewell_begin(loop, <uint32_t>msg.hash)
        else:
            loop_stop(loop)
    elif msg.kind == KIND_VERDICT:
        if SE_RARE(joins_wait(loop)):
            verdict_hold(loop, msg)
            return
        auth_verdict(loop, msg)
    elif msg.kind == KIND_KICK:
        loop_kick(loop, msg)
    elif msg.kind == KIND_INQUIRY:
        loop_inquiry(loop, msg)
    elif msg.kind == KIND_SNAPSHOT:
        memcpy(loop.copy, loop.n, sizeof(loop.n))
        se_store_release(&loop.copied, msg.hash)
    elif msg.kind == KIND_DIAL:
        if msg.size:
            link_dial(loop, msg.data, msg.size)
        elif msg.hash == DIAL_INFO_TAKEN:
            info_taken(loop)
        elif msg.hash == DIAL_LEAVE:
            link_leave(loop)
        else:
            link_end(loop, b"the NATS server can't be used")
    msg_free(&loop.mem, msg)
