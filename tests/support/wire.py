"""A WebSocket client on a bare socket, written from RFC 6455: it shares no code with the engine.

With it, tests send what no library would send, and cut it anywhere.
"""

import base64
import contextlib
import hashlib
import itertools
import os
import socket
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import Self

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LIMIT = 10.0  # seconds that a test waits for anything
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x37\xfa\x21\x3d"
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20  # linux/netlink.h, linux/sock_diag.h
T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "the condition", limit: float = LIMIT, every: float = 0.01) -> T:
    """The first truthy value of `condition`, called every `every` seconds; AssertionError after `limit`."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {limit} s; last: {value!r}")
        time.sleep(every)


def masked(payload: bytes, mask: bytes) -> bytes:
    """RFC 6455 §5.3."""
    n = len(payload)
    pad = (mask * (n // 4 + 1))[:n]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(n, "big")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length: int = -1,
) -> bytes:
    """One frame. `length` announces another length than the payload's."""
    n = len(payload) if length < 0 else length
    bit = 0 if mask is None else 0x80
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if n < 126:
        head += bytes([bit | n])
    elif n < 1 << 16:
        head += bytes([bit | 126]) + n.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + n.to_bytes(8, "big")
    return head + payload if mask is None else head + mask + masked(payload, mask)


def deflated(data: bytes, level: int = 6) -> bytes:
    """A compressed message (RFC 7692 §7.2.1)."""
    state = zlib.compressobj(level, wbits=-15)
    return (state.compress(data) + state.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def inflated(data: bytes, window: int = 15) -> bytes:
    """RFC 7692 §7.2.2."""
    assert not data.endswith(b"\0\0\xff\xff")
    state = zlib.decompressobj(-window)
    plain = state.decompress(data + b"\0\0\xff\xff")
    assert not state.eof and not state.unconsumed_tail
    return plain


def closing(code: int | None, reason: bytes = b"") -> bytes:
    """A Close frame."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def request(path: str = "/", *extra: str, drop: str = "", **change: str) -> bytes:
    """A good handshake without the header `drop`, and with `change`: method, version, or headers with _ for -."""
    method = change.pop("method", "GET")
    version = change.pop("version", "HTTP/1.1")
    headers = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    headers.update({name.replace("_", "-"): value for name, value in change.items()})
    lines = [f"{name}: {value}" for name, value in headers.items() if name != drop]
    return "\r\n".join([f"{method} {path} {version}", *lines, *extra, "", ""]).encode("latin-1")


def accept_of(key: str) -> str:
    """RFC 6455 §4.2.2."""
    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


@dataclass(frozen=True)
class Frame:
    fin: bool
    opcode: int
    payload: bytes
    deflated: int = 0  # bytes that it had compressed; 0: it was not

    @property
    def code(self) -> int | None:
        """The code of a Close frame; None if it has none."""
        return int.from_bytes(self.payload[:2], "big") if self.payload else None


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes = b""


class Wire:
    """A TCP connection to the engine. Reads raise TimeoutError after LIMIT, EOFError at the end."""

    def __init__(self, port: int, receive_buffer: int = 0, host: str = "127.0.0.1", source: str = "") -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(LIMIT)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect((host, port))
        self.ports = (port, self.socket.getsockname()[1])
        self.buffer = b""
        self.ended = False
        self.window = 0  # bits of the window for compressed messages; 0: not negotiated

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_cut(self, data: bytes, cuts: list[int]) -> None:
        """Sends in pieces, each when the engine has read those before."""
        edges = [0, *sorted(cuts), len(data)]
        for start, end in itertools.pairwise(edges):
            if start < end:
                self.send(data[start:end])
                if end < len(data):
                    self.wait_read()

    def wait_read(self) -> None:
        """Returns when the engine has read all that was sent, or has closed the connection."""
        until(lambda: not unread(*self.ports), "the engine reads", every=0.0002)

    def _more(self, limit: float) -> None:
        """Reads once. TimeoutError after `limit` seconds, EOFError at the end of the stream."""
        self.socket.settimeout(max(0.001, limit))
        try:
            data = b"" if self.ended else self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        except TimeoutError:
            raise TimeoutError(f"nothing more within {limit} s after {self.buffer[:200]!r}") from None
        self.buffer += data
        if not data:
            self.ended = True
            raise EOFError(f"the stream ended after {self.buffer[:200]!r}")

    def _fill(self, n: int, limit: float) -> None:
        while len(self.buffer) < n:
            self._more(limit)

    def read(self, n: int, limit: float = LIMIT) -> bytes:
        self._fill(n, limit)
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def read_end(self, limit: float = LIMIT) -> bytes:
        """All bytes up to the end of the stream."""
        with contextlib.suppress(EOFError):
            while True:
                self._more(limit)
        data, self.buffer = self.buffer, b""
        return data

    def read_answer(self) -> Answer:
        """An HTTP answer; its body if it has Content-Length."""
        while b"\r\n\r\n" not in self.buffer:
            self._more(LIMIT)
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1", first
        headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        assert len(headers) == len(lines), f"a header twice: {lines}"
        return Answer(int(status), headers, self.read(int(headers.get("content-length", "0"))))

    def read_frame(self, limit: float = LIMIT) -> Frame:
        """One frame; asserts that it has no mask, no reserved bit, and the shortest form of its length."""
        self._fill(2, limit)
        first, second = self.buffer[:2]
        assert first & (0x30 if self.window else 0x70) == 0 and second & 0x80 == 0, (
            f"frame head {first:02x}{second:02x}"
        )
        n, head = second & 0x7F, 2
        if n > 125:
            head = 4 if n == 126 else 10
            self._fill(head, limit)
            n = int.from_bytes(self.buffer[2:head], "big")
            assert n >= (126 if head == 4 else 1 << 16), "not the shortest form of a length"
        payload = self.read(head + n, limit)[head:]
        if not first & 0x40:
            return Frame(bool(first & 0x80), first & 0x0F, payload)
        return Frame(bool(first & 0x80), first & 0x0F, inflated(payload, self.window), n)

    def read_message(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next data message; answers pings."""
        opcode, payload, fin = 0, b"", False
        while not fin:
            got = self.read_frame()
            if got.opcode == PING:
                self.send(frame(PONG, got.payload))
            elif got.opcode != PONG:
                assert got.opcode in (TEXT, BINARY) if not opcode else got.opcode == CONT, got
                opcode, payload, fin = opcode or got.opcode, payload + got.payload, got.fin
        return opcode, payload

    def read_closed(self) -> int | None:
        """The code of the engine's Close frame, after which the stream must end."""
        got = self.read_frame()
        while got.opcode != CLOSE:
            got = self.read_frame()
        rest = self.read_end()
        assert rest == b"", f"after Close came {rest!r}"
        return got.code

    def upgrade(self, path: str = "/", *extra: str, **change: str) -> Answer:
        """The 101 to a handshake."""
        self.send(request(path, *extra, **change))
        answer = self.read_answer()
        assert answer.status == 101, answer
        return answer


def unread(here: int, there: int) -> int:
    """Bytes in the receive queue of the loopback socket from port `here` to `there`; 0 if there is none.

    From sock_diag(7): one exact inet_diag_req_v2, answered by an inet_diag_msg or an error.
    """
    loopback = socket.inet_aton("127.0.0.1") + bytes(12)
    ask = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFFFFFF)
    ask += struct.pack(">HH", here, there) + loopback + loopback + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(ask), SOCK_DIAG_BY_FAMILY, 1, 0, 0) + ask)
        answer = kernel.recv(4096)
    kind: int = struct.unpack_from("=H", answer, 4)[0]
    return int(struct.unpack_from("=I", answer, 72)[0]) if kind == SOCK_DIAG_BY_FAMILY else 0


def opened(port: int, path: str = "/", *extra: str, receive_buffer: int = 0, **change: str) -> tuple[Wire, str]:
    """A WebSocket past HELLO, and its address."""
    wire = Wire(port, receive_buffer)
    try:
        wire.upgrade(path, *extra, **change)
        opcode, payload = wire.read_message()
        verb, address = payload.split(b"\n", 1)[0].decode().split(" ")
        assert (opcode, verb) == (TEXT, "HELLO"), payload
    except BaseException:
        wire.socket.close()
        raise
    return wire, address


def fresh(prefix: str) -> str:
    """A name that no other test uses."""
    return prefix + os.urandom(4).hex()


def upgraded(port: int, data: bytes) -> Answer:
    """The 101 to a handshake, after which HELLO comes and the connection works."""
    with Wire(port) as wire:
        wire.send(data)
        answer = wire.read_answer()
        assert answer.status == 101, answer
        assert wire.read_message()[1].startswith(b"HELLO ")
        wire.send(frame(TEXT, b"PING"))
        assert wire.read_message() == (TEXT, b"PONG")
    return answer


def refusal(port: int, data: bytes, status: int) -> Answer:
    """The answer with this status, after which the engine closes the connection and sends nothing more."""
    with Wire(port) as wire:
        wire.send(data)
        answer = wire.read_answer()
        assert answer.status == status, answer
        assert wire.read_end() == b""
    return answer


def plain_request(port: int, method: str, target: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, and body of the answer to a request without an upgrade."""
    with Wire(port) as wire:
        wire.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = wire.read_end().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body
