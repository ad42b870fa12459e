"""`echo`: sends each message back to its sender, for tests of the framing. Runs on the connection's loop."""

from libc.string cimport memcpy
from signal_core.base.memory cimport Packet
from signal_core.base.span cimport Span
from signal_core.base.sys cimport SE_COLD
from signal_core.delivery.conn cimport conn_answer, conn_frame
from signal_core.delivery.deflate cimport deflate_for
from signal_core.tables.conn_table cimport Conn
from signal_core.tables.state cimport Loop
from signal_core.wire.frame cimport OP_BINARY, OP_TEXT


cdef inline SE_COLD echo_message(Loop* loop, Conn* c, Span message, bint binary) noexcept nogil:
    """Sends a message back as it came."""
    cdef char* body
    cdef Packet* packet = conn_frame(loop, c, OP_BINARY if binary else OP_TEXT, message.size, &body)
    if packet != NULL:
        if message.size:
            memcpy(body, message.at, message.size)
        packet = deflate_for(loop, c, packet)
    conn_answer(loop, c, packet)
