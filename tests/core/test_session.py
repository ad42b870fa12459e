"""A client's input: when it is read."""

import socket
import struct

from signal_core import probe


def test_a_turn_without_a_whole_frame_reads() -> None:
    """Otherwise an event that is postponed each time would leave the rest of the message in the socket."""
    frame = struct.pack("!BB4s", 0x82, 0x80 | 100, bytes(4)) + bytes(100)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(frame[20:70])
        assert probe.OneLoop(1).turn(ours.fileno(), frame[:20]) == frame[:70]
