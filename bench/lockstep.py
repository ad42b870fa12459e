"""A WebSocket client for measurements that must repeat: it waits for each answer before it says the next thing.

The masking key is zero, which a server has to unmask like any other, so what is sent is made once and sent as it is.
"""

from __future__ import annotations

import socket

PATIENCE = 60.0  # seconds for any answer; a server under an instrument is slow
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: signal.v1\r\n\r\n"
)
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A


class Unexpected(Exception):
    """The server said something else, or nothing."""


def frame(first: int, payload: bytes) -> bytes:
    """A masked frame of at most 64 KiB."""
    n = len(payload)
    length = bytes([0x80 | n]) if n < 126 else b"\xfe" + n.to_bytes(2, "big")
    return bytes([first]) + length + bytes(4) + payload


class Peer:
    """One connection to 127.0.0.1, each step its own call."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.address = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def say(self, text: bytes) -> None:
        self.send(frame(TEXT, text))

    def _fill(self, n: int) -> None:
        while len(self.buffer) < n:
            data = self.socket.recv(1 << 16)
            if not data:
                raise Unexpected(f"the stream ended after {self.buffer[:200]!r}")
            self.buffer += data

    def _take(self, n: int) -> bytes:
        self._fill(n)
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def hear_frame(self) -> tuple[int, bytes]:
        """The first byte and the payload of the next frame."""
        first, n = self._take(2)
        if n == 126:
            n = int.from_bytes(self._take(2), "big")
        return first, self._take(n)

    def hear(self, start: bytes) -> bytes:
        """The next message; Unexpected where it starts otherwise."""
        first, payload = self.hear_frame()
        if first != TEXT or not payload.startswith(start):
            raise Unexpected(f"{payload[:200]!r} instead of {start!r}")
        return payload

    def hear_hello(self) -> None:
        """The answer to REQUEST, and HELLO with the connection's address."""
        while b"\r\n\r\n" not in self.buffer:
            self._fill(len(self.buffer) + 1)
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Unexpected(repr(head))
        self.address = self.hear(b"HELLO ").split(b"\n")[0].removeprefix(b"HELLO ")

    def hear_end(self) -> None:
        """The server's Close frame, and the end of the stream."""
        first, payload = self.hear_frame()
        if first != CLOSE or self.socket.recv(1):
            raise Unexpected(f"{payload[:200]!r} instead of Close")

    def close(self) -> None:
        self.socket.close()


def opened(port: int) -> Peer:
    """A connection that has heard HELLO."""
    peer = Peer(port)
    try:
        peer.send(REQUEST)
        peer.hear_hello()
    except BaseException:
        peer.close()
        raise
    return peer
