"""signal.v1 on picows: one process, asyncio on uvloop, and a router in front of the transports.

It speaks as much of signal.v1 as the benchmarks need: HELLO, TO, FROM, SUB with OK, PUB, MSG, ERR. A peer is found in a
dictionary of addresses, a room is a set of clients.
"""

from __future__ import annotations

import secrets
import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, WSUpgradeResponse, ws_create_server
from picows import WSUpgradeResponseWithListener as Accepted

SUBPROTOCOL = "signal.v1"
MAX_MESSAGE = 64 * 1024 + 512  # with the head
BACKLOG = 256 * 1024  # bytes that wait for one client; more is dropped
FRAME_SPACE = 14  # picows writes the frame's header there
PING_AFTER, GONE_AFTER = 25.0, 10.0  # seconds without input; then without an answer
READ_BUFFER = 2048  # the least that picows takes; it grows on demand, and most connections are idle
NODE = secrets.token_hex(4)

clients: dict[bytes, Client] = {}
rooms: dict[bytes, set[Client]] = {}


class Client(WSListener):
    """One connection: picows calls it with each frame."""

    __slots__ = ("full", "joined", "peer", "transport")
    transport: WSTransport
    peer: bytes
    joined: set[bytes]
    full: bool

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.underlying_transport.set_write_buffer_limits(high=BACKLOG)
        self.transport = transport
        self.peer = f"{NODE}.{secrets.token_hex(8)}".encode()
        self.joined = set()
        self.full = False
        clients[self.peer] = self
        info = f'{{"node":"{NODE}","version":"picows"}}'.encode()
        transport.send(WSMsgType.TEXT, b"HELLO " + self.peer + b"\n" + info)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        del clients[self.peer]
        for room in self.joined:
            rooms[room].discard(self)
            if not rooms[room]:
                del rooms[room]

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Handles a frame; a message in fragments, which clients hardly ever send, ends the connection."""
        kind = frame.msg_type
        if kind == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.fin and (kind == WSMsgType.TEXT or kind == WSMsgType.BINARY):
            self.handle(kind, frame.get_payload_as_bytes())
        elif kind != WSMsgType.PING and kind != WSMsgType.PONG:
            transport.disconnect()

    def handle(self, kind: WSMsgType, message: bytes) -> None:
        """Handles one message."""
        head, _, payload = message.partition(b"\n")
        words = head.split(b" ")
        verb = words[0]
        if len(words) < 2 or verb not in (b"TO", b"PUB", b"SUB"):
            self.transport.send(WSMsgType.TEXT, b"ERR bad-request")
        elif verb == b"TO":
            self.send_to(words[1], kind, payload)
        elif verb == b"PUB":
            self.publish(words[1], kind, payload)
        else:
            rooms.setdefault(words[1], set()).add(self)
            self.joined.add(words[1])
            if len(words) > 2:
                self.transport.send(WSMsgType.TEXT, b"OK " + words[2].removeprefix(b"ref="))

    def send_to(self, peer: bytes, kind: WSMsgType, payload: bytes) -> None:
        receiver = clients.get(peer)
        if receiver is None:
            self.transport.send(WSMsgType.TEXT, b"ERR no-such-peer")
        elif receiver.full:
            self.transport.send(WSMsgType.TEXT, b"ERR slow-peer")
        else:
            receiver.transport.send(kind, b"FROM " + self.peer + b"\n" + payload)

    def publish(self, room: bytes, kind: WSMsgType, payload: bytes) -> None:
        """Composes the message once; each member's frame is written in the same memory."""
        frame = bytearray(FRAME_SPACE) + b"MSG " + room + b" " + self.peer + b"\n" + payload
        for member in rooms.get(room, ()):
            if member is not self and not member.full:
                member.transport.send_reuse_external_bytearray(kind, frame, FRAME_SPACE)


def greet(request: WSUpgradeRequest) -> Client | Accepted:
    """Selects signal.v1 if the client offers it."""
    if SUBPROTOCOL in request.headers.get("Sec-WebSocket-Protocol", ""):
        headers = {"Sec-WebSocket-Protocol": SUBPROTOCOL}
        return Accepted(WSUpgradeResponse.create_101_response(headers), Client())
    return Client()


async def main(port: int) -> None:
    server = await ws_create_server(
        greet,
        "127.0.0.1",
        port,
        enable_auto_ping=True,
        auto_ping_idle_timeout=PING_AFTER,
        auto_ping_reply_timeout=GONE_AFTER,
        max_frame_size=MAX_MESSAGE,
        read_buffer_init_size=READ_BUFFER,
        backlog=1024,
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
