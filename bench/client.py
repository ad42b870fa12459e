"""A WebSocket client for measurements: blocking, one connection, a call for each step.

The masking key is zero, which a server has to unmask like any other, so a frame can be made once and sent again.
"""

from __future__ import annotations

import socket

from servers import BenchError

PATIENCE = 60.0  # seconds for any answer; a server under an instrument is slow
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A


class Unexpected(BenchError):
    """The server sent something else, or nothing."""


def request(path: str = "/", headers: str = "") -> bytes:
    """An upgrade; each header ends with CRLF."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: signal.v1\r\n{headers}\r\n"
    ).encode()


def frame(first: int, payload: bytes) -> bytes:
    """A masked frame of less than 64 KiB."""
    n = len(payload)
    length = bytes([0x80 | n]) if n < 126 else b"\xfe" + n.to_bytes(2, "big")
    return bytes([first]) + length + bytes(4) + payload


def text(message: str) -> bytes:
    """The frame of a text message."""
    return frame(TEXT, message.encode())


class Peer:
    """One connection to 127.0.0.1."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", port))
        self.buffer = b""
        self.address = b""

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def say(self, message: bytes) -> None:
        self.send(frame(TEXT, message))

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

    def read_frame(self) -> tuple[int, bytes]:
        """The first byte and the payload of the next frame."""
        first, n = self._take(2)
        if n == 126:
            n = int.from_bytes(self._take(2), "big")
        return first, self._take(n)

    def read(self, start: bytes) -> bytes:
        """The next message; Unexpected if it starts otherwise."""
        first, payload = self.read_frame()
        if first != TEXT or not payload.startswith(start):
            raise Unexpected(f"{payload[:200]!r} instead of {start!r}")
        return payload

    def await_message(self, message: bytes) -> None:
        """Returns when this was received, whatever comes before."""
        while self.read_frame() != (TEXT, message):
            pass

    def read_hello(self) -> None:
        """Receives the answer to a request, and HELLO with the connection's address."""
        while b"\r\n\r\n" not in self.buffer:
            self._fill(len(self.buffer) + 1)
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Unexpected(repr(head))
        self.address = self.read(b"HELLO ").split(b"\n")[0].removeprefix(b"HELLO ")

    def read_end(self) -> None:
        """Receives the server's Close frame, and the end of the stream."""
        first, payload = self.read_frame()
        if first != CLOSE or self.socket.recv(1):
            raise Unexpected(f"{payload[:200]!r} instead of Close")

    def close(self) -> None:
        self.socket.close()


def opened(port: int, asking: bytes = request(), receive_buffer: int = 0) -> Peer:
    """A connection that has received HELLO."""
    peer = Peer(port, receive_buffer)
    try:
        peer.send(asking)
        peer.read_hello()
    except BaseException:
        peer.close()
        raise
    return peer
