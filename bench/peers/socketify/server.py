"""signal.v1 on socketify, which is uWebSockets under Python: one process, uWebSockets' publish/subscribe for rooms.

It speaks as much of signal.v1 as the benchmarks need: HELLO, TO, FROM, SUB with OK, PUB, MSG, ERR. A peer is found in a
dictionary of addresses.
"""

from __future__ import annotations

import secrets
import sys

from socketify import App, AppListenOptions, CompressOptions, OpCode, Request, Response, SendStatus, WebSocket
from socketify.native import lib

SUBPROTOCOL = "signal.v1"
MAX_MESSAGE = 64 * 1024 + 512  # with the head
BACKLOG = 256 * 1024  # bytes that wait for one client; more is dropped
IDLE_TIMEOUT = 44  # seconds: uWebSockets pings 28 s after the last input, and gives up 16 s later
NODE = secrets.token_hex(4)


class Client:
    """The user data of a connection."""

    __slots__ = ("peer",)

    def __init__(self) -> None:
        self.peer = f"{NODE}.{secrets.token_hex(8)}"


app = App()
clients: dict[str, WebSocket] = {}


def upgrade(response: Response, request: Request, context: object) -> None:
    offered = request.get_header("sec-websocket-protocol") or ""
    response.upgrade(
        request.get_header("sec-websocket-key"),
        SUBPROTOCOL if SUBPROTOCOL in offered else "",
        request.get_header("sec-websocket-extensions"),
        context,
        Client(),
    )


def opened(ws: WebSocket) -> None:
    peer = ws.get_user_data().peer
    clients[peer] = ws
    ws.send(f'HELLO {peer}\n{{"node":"{NODE}","version":"socketify"}}', OpCode.TEXT)


def closed(ws: WebSocket, code: int, message: bytes | None) -> None:
    del clients[ws.get_user_data().peer]


def received(ws: WebSocket, message: str | bytes, opcode: OpCode) -> None:
    """Handles one message. socketify gives text as str, binary as bytes."""
    payload: str | bytes
    if isinstance(message, str):
        head, _, payload = message.partition("\n")
    else:
        first, _, payload = message.partition(b"\n")
        head = first.decode("ascii", "replace")
    words = head.split(" ")
    verb = words[0]
    if len(words) < 2 or verb not in ("TO", "PUB", "SUB"):
        ws.send("ERR bad-request", OpCode.TEXT)
    elif verb == "TO":
        send_to(ws, words[1], payload, opcode)
    elif verb == "PUB":
        publish(ws, words[1], payload, opcode)
    else:
        ws.subscribe(words[1])
        if len(words) > 2:
            ws.send(f"OK {words[2].removeprefix('ref=')}", OpCode.TEXT)


def whole(head: str, payload: str | bytes) -> str | bytes:
    """A message of the payload's type."""
    return head + payload if isinstance(payload, str) else head.encode() + payload


def send_to(ws: WebSocket, peer: str, payload: str | bytes, opcode: OpCode) -> None:
    receiver = clients.get(peer)
    if receiver is None:
        ws.send("ERR no-such-peer", OpCode.TEXT)
    elif receiver.send(whole(f"FROM {ws.get_user_data().peer}\n", payload), opcode) == SendStatus.DROPPED:
        ws.send("ERR slow-peer", OpCode.TEXT)


def publish(ws: WebSocket, room: str, payload: str | bytes, opcode: OpCode) -> None:
    """Publishes to everybody else in the room.

    socketify's WebSocket.publish sends to the publisher too, unlike uWebSockets'; the library that it brings has
    uWebSockets' function, which refuses a publisher that is no member.
    """
    message = whole(f"MSG {room} {ws.get_user_data().peer}\n", payload)
    data = message.encode() if isinstance(message, str) else message
    topic = room.encode()
    if not lib.uws_ws_publish_with_options(app.SSL, ws.ws, topic, len(topic), data, len(data), int(opcode), False):
        app.publish(topic, data, opcode)


def main(port: int) -> None:
    app.ws(
        "/*",
        {
            "compression": CompressOptions.DISABLED,
            "max_payload_length": MAX_MESSAGE,
            "idle_timeout": IDLE_TIMEOUT,
            "send_pings_automatically": True,
            "max_backpressure": BACKLOG,
            "upgrade": upgrade,
            "open": opened,
            "message": received,
            "close": closed,
        },
    )
    app.listen(AppListenOptions(port=port, host="127.0.0.1"))
    app.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
