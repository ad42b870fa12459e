"""Clients of signal.v1, over websockets, websocket-client and a bare socket."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import websocket
import websockets.exceptions
import websockets.sync.client
from typing_extensions import Self

from wire import BINARY, CLOSE, CONT, LIMIT, PING, PONG, TEXT, Wire, closing, frame, fresh

SUBPROTOCOL = "signal.v1"
T = TypeVar("T")


class Closed(Exception):
    """The engine closed the connection."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Received:
    """A message from the engine."""

    verb: str
    words: tuple[str, ...]  # positional arguments
    options: dict[str, str]
    payload: bytes | None  # None without an LF
    binary: bool
    raw: bytes = field(compare=False, default=b"")


WORDS = {
    "HELLO": 1,
    "FROM": 1,
    "MSG": 2,
    "OK": 1,
    "ERR": 1,
    "MEMBERS": 1,
    "JOIN": 2,
    "LEAVE": 2,
    "GAP": 1,
    "GOAWAY": 1,
}


def parse_message(data: str | bytes) -> Received:
    """Parses a message; asserts a known verb with its arguments, single spaces, and each option once."""
    binary = isinstance(data, bytes)
    raw = data if isinstance(data, bytes) else data.encode()
    head, lf, payload = raw.partition(b"\n")
    verb, *words = head.decode("ascii").split(" ")
    n = WORDS[verb] if verb != "PONG" else len(words)
    positional, given = words[:n], words[n:]
    assert all(words) and len(positional) == n, head
    options = dict(option.split("=", 1) for option in given)
    assert len(options) == len(given), head
    return Received(verb, tuple(positional), options, payload if lf else None, binary, raw)


class Peer:
    """A client past HELLO: `address` is its address, `hello` the JSON of HELLO, `protocol` the selected subprotocol."""

    protocol: str | None

    def __init__(self, port: int, *rooms: str, protocols: tuple[str, ...] = (SUBPROTOCOL,)) -> None:
        self.early: list[Received] = []
        self.connect(port, rooms, protocols)
        first = self.read()
        assert first.verb == "HELLO" and not first.binary, first
        self.address = first.words[0]
        self.hello = json.loads(first.payload or b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what each client library implements --

    def connect(self, port: int, rooms: tuple[str, ...], protocols: tuple[str, ...]) -> None:
        raise NotImplementedError

    def send(self, data: str | bytes) -> None:
        raise NotImplementedError

    def receive(self, limit: float) -> str | bytes:
        """The next message; Closed at the end, TimeoutError after `limit` seconds."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    # -- signal.v1 --

    def say(self, head: str, payload: str | bytes | None = None) -> None:
        """Sends a head and its payload: str in a text message, bytes in a binary one."""
        if isinstance(payload, bytes):
            self.send(head.encode() + b"\n" + payload)
        else:
            self.send(head if payload is None else f"{head}\n{payload}")

    def read(self, limit: float = LIMIT) -> Received:
        """The next message."""
        return self.early.pop(0) if self.early else parse_message(self.receive(limit))

    def read_all(self, n: int) -> list[Received]:
        return [self.read() for _ in range(n)]

    def expect(self, verb: str, *words: str, **options: str) -> Received:
        """The next message; asserts its verb, its arguments and its options."""
        got = self.read()
        assert (got.verb, got.words, got.options) == (verb, words, options), got
        return got

    def refused(self, code: str, ref: str | None = None) -> Received:
        """The next message; asserts that it is this ERR."""
        return self.expect("ERR", code, **({} if ref is None else {"ref": ref}))

    def answer_to(self, ref: str, limit: float = LIMIT) -> str:
        """`ok` or the code that answers a ref. Messages that come before are kept for `read`."""
        kept: list[Received] = []
        end = time.monotonic() + limit
        try:
            while True:
                got = self.read(max(0.01, end - time.monotonic()))
                if got.verb == "OK" and got.words == (ref,):
                    return "ok"
                if got.verb == "ERR" and got.options.get("ref") == ref:
                    return got.words[0]
                kept.append(got)
        finally:
            self.early = kept + self.early

    def ask(self, head: str, payload: str | bytes | None = None, ref: str | None = None) -> str:
        """Sends with a ref, and returns the answer: `ok` or a code."""
        ref = ref or fresh("q")
        self.say(f"{head} ref={ref}", payload)
        return self.answer_to(ref)

    def join(self, *rooms: str) -> None:
        for room in rooms:
            assert self.ask(f"SUB {room}") == "ok"

    def settle(self) -> list[Received]:
        """All messages up to the answer to a PING."""
        token = fresh("p")
        self.say(f"PING {token}")
        got: list[Received] = []
        while not got or (got[-1].verb, got[-1].words) != ("PONG", (token,)):
            got.append(self.read())
        return got[:-1]

    def ended(self, limit: float = LIMIT) -> int | None:
        """The code with which the engine closes; messages before that are dropped."""
        end = time.monotonic() + limit
        with contextlib.suppress(TimeoutError):
            while time.monotonic() < end:
                try:
                    self.receive(end - time.monotonic())
                except Closed as closed:
                    return closed.code
        raise AssertionError(f"not closed within {limit} s")


def url_of(port: int, rooms: tuple[str, ...]) -> str:
    query = "&".join(f"room={room}" for room in rooms)
    return f"ws://127.0.0.1:{port}/" + (f"?{query}" if query else "")


class WebsocketsPeer(Peer):
    """Uses the websockets library."""

    def connect(self, port: int, rooms: tuple[str, ...], protocols: tuple[str, ...]) -> None:
        self.stack = contextlib.ExitStack()
        connecting = websockets.sync.client.connect(
            url_of(port, rooms),
            subprotocols=[websockets.Subprotocol(name) for name in protocols] or None,
            open_timeout=LIMIT,
            close_timeout=LIMIT,
            max_size=None,
            proxy=None,
        )
        self.socket = self.stack.enter_context(connecting)
        self.protocol = self.socket.subprotocol

    def send(self, data: str | bytes) -> None:
        self.socket.send(data)

    def receive(self, limit: float) -> str | bytes:
        try:
            return self.socket.recv(timeout=limit)
        except websockets.exceptions.ConnectionClosed as closed:
            raise Closed(closed.rcvd.code if closed.rcvd else None) from None

    def close(self) -> None:
        self.stack.close()


class WebSocketClientPeer(Peer):
    """Uses the websocket-client library."""

    def connect(self, port: int, rooms: tuple[str, ...], protocols: tuple[str, ...]) -> None:
        self.socket: Any = websocket.create_connection(
            url_of(port, rooms), timeout=LIMIT, subprotocols=list(protocols), http_no_proxy=["127.0.0.1"]
        )
        self.protocol = self.socket.getsubprotocol()

    def send(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            self.socket.send_binary(data)
        else:
            self.socket.send(data)

    def receive(self, limit: float) -> str | bytes:
        self.socket.settimeout(max(0.001, limit))
        try:
            opcode, data = self.socket.recv_data()
        except websocket.WebSocketTimeoutException:
            raise TimeoutError from None
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            raise Closed(None) from None
        if opcode == CLOSE:
            raise Closed(int.from_bytes(data[:2], "big") if data else None)
        return bytes(data) if opcode == BINARY else data.decode()

    def close(self) -> None:
        self.socket.close(timeout=LIMIT)


class BarePeer(Peer):
    """Uses a bare socket: it reads only when told to, so a test can make it slow."""

    def __init__(
        self, port: int, *rooms: str, protocols: tuple[str, ...] = (SUBPROTOCOL,), receive_buffer: int = 0
    ) -> None:
        self.receive_buffer = receive_buffer
        super().__init__(port, *rooms, protocols=protocols)

    def connect(self, port: int, rooms: tuple[str, ...], protocols: tuple[str, ...]) -> None:
        self.wire = Wire(port, self.receive_buffer)
        extra = [f"Sec-WebSocket-Protocol: {', '.join(protocols)}"] if protocols else []
        path = url_of(port, rooms).split(str(port), 1)[1]
        self.protocol = self.wire.upgrade(path, *extra).headers.get("sec-websocket-protocol")

    def send(self, data: str | bytes) -> None:
        opcode = BINARY if isinstance(data, bytes) else TEXT
        self.wire.send(frame(opcode, data if isinstance(data, bytes) else data.encode()))

    def receive(self, limit: float) -> str | bytes:
        parts: list[bytes] = []
        opcode = CONT
        while True:
            try:
                got = self.wire.read_frame(limit)
            except EOFError:
                raise Closed(None) from None
            if got.opcode == PING:
                self.wire.send(frame(PONG, got.payload))
            elif got.opcode == CLOSE:
                raise Closed(got.code)
            elif got.opcode != PONG:
                opcode = opcode or got.opcode
                parts.append(got.payload)
                if got.fin:
                    return b"".join(parts) if opcode == BINARY else b"".join(parts).decode()

    def close(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self.wire.send(closing(1000))
            self.wire.read_closed()
        self.wire.socket.close()

    def vanish(self) -> None:
        """Closes without a Close frame."""
        self.wire.socket.close()


def loop_of(peer: "Peer | str") -> str:
    """The loop of a peer, or of an address: the first two digits after the dot; loop 0 is `00`."""
    return (peer if isinstance(peer, str) else peer.address).split(".")[1][:2]


CLIENTS: dict[str, type[Peer]] = {"websockets": WebsocketsPeer, "websocket-client": WebSocketClientPeer}


@contextlib.contextmanager
def several(port: int, n: int, *rooms: str, client: type[Peer] = BarePeer) -> Iterator[list[Any]]:
    """n clients. With three loops, eight clients are on one loop in one of thousands of runs."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(client(port, *rooms)) for _ in range(n)]


def exchange_messages(*peers: BarePeer) -> None:
    """Each sends its neighbour a message; asserts that it arrives and is answered."""
    for sender, receiver in zip(peers, peers[1:] + peers[:1], strict=True):
        assert sender.ask(f"TO {receiver.address}", "still here", ref="r") == "ok"
        assert receiver.expect("FROM", sender.address, ref="r").payload == b"still here"


def ledgers_hold(total: dict[str, int]) -> None:
    """Asserts of messages: accepted = routed + refused; of deliveries: attempted = written + dropped + in flight."""
    refused = sum(n for name, n in total.items() if name.startswith("refused_"))
    dropped = sum(n for name, n in total.items() if name.startswith("dropped_"))
    assert total["accepted"] == total["routed"] + refused, total
    assert total["attempted"] == total["written"] + dropped + total["in_flight"], total
