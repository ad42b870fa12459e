"""signal.v1 on picows: one process, asyncio on uvloop, and a router in front of the transports.

It speaks as much of signal.v1 as the benchmarks need: HELLO, TO, FROM, SUB, UNSUB, PUB, MSG, OK, ERR. A peer is
found in a dictionary of addresses, a room is a set of clients.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, WSUpgradeResponse, ws_create_server
from picows import WSUpgradeResponseWithListener as Accepted

SUBPROTOCOL = "signal.v1"
MAX_MESSAGE = 64 * 1024
MAX_HEAD = 512
BACKLOG = 256 * 1024  # bytes that wait for one client; what does not fit is dropped
FRAME_SPACE = 14  # picows writes the frame's header there
PING_AFTER, GONE_AFTER = 25.0, 10.0  # seconds without input; then without an answer
READ_BUFFER = 2048  # to begin with, the least that picows takes: most connections are idle, and it grows by itself

NODE = secrets.token_hex(4)
INFO = json.dumps({"node": NODE, "version": "picows", "max_message": MAX_MESSAGE}).encode()

clients: dict[bytes, Client] = {}
rooms: dict[bytes, set[Client]] = {}


def option(words: list[bytes], name: bytes) -> bytes:
    """The value of an option among a head's words, or nothing."""
    for word in words[2:]:
        if word.startswith(name):
            return word[len(name) :]
    return b""


def passed_on(words: list[bytes]) -> bytes:
    """The options that the receiver hears, too."""
    return b"".join([b" " + word for word in words[2:] if word.startswith((b"ref=", b"re="))])


class Client(WSListener):
    """One connection: picows calls it with each frame."""

    __slots__ = ("full", "joined", "kind", "parts", "peer", "transport")
    transport: WSTransport
    peer: bytes
    joined: set[bytes]
    full: bool
    parts: list[bytes]
    kind: WSMsgType

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.underlying_transport.set_write_buffer_limits(high=BACKLOG)
        self.transport = transport
        self.peer = f"{NODE}.{secrets.token_hex(8)}".encode()
        self.joined = set()
        self.full = False
        self.parts = []
        clients[self.peer] = self
        transport.send(WSMsgType.TEXT, b"HELLO " + self.peer + b"\n" + INFO)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        del clients[self.peer]
        for room in self.joined:
            leave(self, room)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.fin and (kind == WSMsgType.TEXT or kind == WSMsgType.BINARY):
            self.handle(kind, frame.get_payload_as_bytes())
        elif kind != WSMsgType.PING and kind != WSMsgType.PONG:
            self.gather(kind, frame)

    def gather(self, kind: WSMsgType, frame: WSFrame) -> None:
        """A message in fragments, which clients hardly ever send."""
        if kind != WSMsgType.CONTINUATION:
            self.kind = kind
        self.parts.append(frame.get_payload_as_bytes())
        if sum(map(len, self.parts)) > MAX_MESSAGE + MAX_HEAD:
            self.transport.disconnect()
        elif frame.fin:
            message = b"".join(self.parts)
            self.parts = []
            self.handle(self.kind, message)

    def handle(self, kind: WSMsgType, message: bytes) -> None:
        """Do what one message asks for."""
        head, _, payload = message.partition(b"\n")
        words = head.split(b" ")
        verb = words[0]
        if len(words) < 2 or len(head) > MAX_HEAD:
            self.refuse(b"bad-request", b"")
        elif verb == b"TO":
            self.send_to(words, kind, payload)
        elif verb == b"PUB":
            self.publish(words, kind, payload)
        elif verb == b"SUB":
            rooms.setdefault(words[1], set()).add(self)
            self.joined.add(words[1])
            self.accept(option(words, b"ref="))
        elif verb == b"UNSUB":
            if words[1] in self.joined:
                self.joined.remove(words[1])
                leave(self, words[1])
            self.accept(option(words, b"ref="))
        else:
            self.refuse(b"bad-request", option(words, b"ref="))

    def send_to(self, words: list[bytes], kind: WSMsgType, payload: bytes) -> None:
        receiver = clients.get(words[1])
        ref, more = (option(words, b"ref="), passed_on(words)) if len(words) > 2 else (b"", b"")
        if receiver is None:
            self.refuse(b"no-such-peer", ref)
        elif receiver.full:
            self.refuse(b"slow-peer", ref)
        else:
            receiver.transport.send(kind, b"FROM " + self.peer + more + b"\n" + payload)
            self.accept(ref)

    def publish(self, words: list[bytes], kind: WSMsgType, payload: bytes) -> None:
        """The message is composed once; each member's frame is written in the same place."""
        ref = option(words, b"ref=")
        head = b"MSG " + words[1] + b" " + self.peer + (b" ref=" + ref if ref else b"") + b"\n"
        frame = bytearray(FRAME_SPACE) + head + payload
        for member in rooms.get(words[1], ()):
            if member is not self and not member.full:
                member.transport.send_reuse_external_bytearray(kind, frame, FRAME_SPACE)
        self.accept(ref)

    def accept(self, ref: bytes) -> None:
        if ref:
            self.transport.send(WSMsgType.TEXT, b"OK " + ref)

    def refuse(self, code: bytes, ref: bytes) -> None:
        self.transport.send(WSMsgType.TEXT, b"ERR " + code + (b" ref=" + ref if ref else b""))


def leave(client: Client, room: bytes) -> None:
    """The last one out takes the room away."""
    members = rooms[room]
    members.discard(client)
    if not members:
        del rooms[room]


def greet(request: WSUpgradeRequest) -> Client | Accepted:
    """Select signal.v1 where the client offers it."""
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
        max_frame_size=MAX_MESSAGE + MAX_HEAD,
        read_buffer_init_size=READ_BUFFER,
        backlog=1024,
    )
    await server.serve_forever()


if __name__ == "__main__":
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(int(sys.argv[1])))
    else:
        uvloop.install()
        asyncio.run(main(int(sys.argv[1])))
