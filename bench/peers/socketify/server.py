"""signal.v1 on socketify, which is uWebSockets under Python: one process, uWebSockets' publish/subscribe for rooms.

It speaks as much of signal.v1 as the benchmarks need: HELLO, TO, FROM, SUB, UNSUB, PUB, MSG, OK, ERR. A peer is
found in a dictionary of addresses.
"""

from __future__ import annotations

import json
import secrets
import sys

from socketify import App, AppListenOptions, CompressOptions, OpCode, Request, Response, SendStatus, WebSocket
from socketify.native import lib

SUBPROTOCOL = "signal.v1"
MAX_MESSAGE = 64 * 1024
MAX_HEAD = 512
BACKLOG = 256 * 1024  # bytes that wait for one client; what does not fit is dropped
IDLE_TIMEOUT = 44  # seconds: uWebSockets pings 28 s after the last input, and gives up 16 s later

NODE = secrets.token_hex(4)
INFO = json.dumps({"node": NODE, "version": "socketify", "max_message": MAX_MESSAGE})


class Client:
    """What a connection carries as its user data."""

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
    ws.send(f"HELLO {peer}\n{INFO}", OpCode.TEXT)


def closed(ws: WebSocket, code: int, message: bytes | None) -> None:
    del clients[ws.get_user_data().peer]


def heard(ws: WebSocket, message: str | bytes, opcode: OpCode) -> None:
    """Do what one message asks for. socketify gives text as str, binary as bytes."""
    payload: str | bytes
    if isinstance(message, str):
        head, _, payload = message.partition("\n")
    else:
        first, _, payload = message.partition(b"\n")
        head = first.decode("ascii", "replace")
    words = head.split(" ")
    verb = words[0]
    if len(words) < 2 or len(head) > MAX_HEAD:
        refuse(ws, "bad-request", "")
    elif verb == "TO":
        send_to(ws, words, payload, opcode)
    elif verb == "PUB":
        publish(ws, words, payload, opcode)
    elif verb == "SUB":
        ws.subscribe(words[1])
        accept(ws, option(words, "ref="))
    elif verb == "UNSUB":
        ws.unsubscribe(words[1])
        accept(ws, option(words, "ref="))
    else:
        refuse(ws, "bad-request", option(words, "ref="))


def option(words: list[str], name: str) -> str:
    """The value of an option among a head's words, or nothing."""
    for word in words[2:]:
        if word.startswith(name):
            return word[len(name) :]
    return ""


def passed_on(words: list[str]) -> str:
    """The options that the receiver hears, too."""
    return "".join([f" {word}" for word in words[2:] if word.startswith(("ref=", "re="))])


def whole(head: str, payload: str | bytes) -> str | bytes:
    """A message of the type that its payload has."""
    return head + payload if isinstance(payload, str) else head.encode() + payload


def send_to(ws: WebSocket, words: list[str], payload: str | bytes, opcode: OpCode) -> None:
    receiver = clients.get(words[1])
    ref, more = (option(words, "ref="), passed_on(words)) if len(words) > 2 else ("", "")
    if receiver is None:
        refuse(ws, "no-such-peer", ref)
        return
    if receiver.send(whole(f"FROM {ws.get_user_data().peer}{more}\n", payload), opcode) == SendStatus.DROPPED:
        refuse(ws, "slow-peer", ref)
    else:
        accept(ws, ref)


def publish(ws: WebSocket, words: list[str], payload: str | bytes, opcode: OpCode) -> None:
    """To everybody else in the room.

    socketify's WebSocket.publish sends to the publisher too, unlike uWebSockets'; the library that it brings has
    uWebSockets' own, which refuses a publisher that is no member.
    """
    ref = option(words, "ref=")
    message = whole(f"MSG {words[1]} {ws.get_user_data().peer}{' ref=' + ref if ref else ''}\n", payload)
    data = message.encode() if isinstance(message, str) else message
    topic = words[1].encode()
    if not lib.uws_ws_publish_with_options(app.SSL, ws.ws, topic, len(topic), data, len(data), int(opcode), False):
        app.publish(topic, data, opcode)
    accept(ws, ref)


def accept(ws: WebSocket, ref: str) -> None:
    if ref:
        ws.send(f"OK {ref}", OpCode.TEXT)


def refuse(ws: WebSocket, code: str, ref: str) -> None:
    ws.send(f"ERR {code}{' ref=' + ref if ref else ''}", OpCode.TEXT)


def main(port: int) -> None:
    app.ws(
        "/*",
        {
            "compression": CompressOptions.DISABLED,
            "max_payload_length": MAX_MESSAGE + MAX_HEAD,
            "idle_timeout": IDLE_TIMEOUT,
            "send_pings_automatically": True,
            "max_backpressure": BACKLOG,
            "upgrade": upgrade,
            "open": opened,
            "message": heard,
            "close": closed,
        },
    )
    app.listen(AppListenOptions(port=port, host="127.0.0.1"))
    app.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
