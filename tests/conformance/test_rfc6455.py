"""RFC 6455 over bare sockets: framing, UTF-8, control frames, closing. Sections in brackets."""

import os
import signal
import time

import pytest
import wsproto
import wsproto.events
from hypothesis import given, settings
from hypothesis import strategies as st

import kit
from wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Wire,
    closing,
    frame,
    opened,
    request,
    until,
)

MAX = 64 * 1024  # max_message, the default
HEAD = 513  # bytes of the longest head of a message, with its line feed


def echoed(wire: Wire, address: str, payload: bytes, opcode: int = BINARY) -> None:
    """Sends `payload` to oneself and hears it unchanged, of the same type."""
    wire.send(frame(opcode, f"TO {address}\n".encode() + payload))
    got_opcode, got = wire.read_message()
    assert got_opcode == opcode
    assert got == f"FROM {address}\n".encode() + payload


def alive(wire: Wire) -> None:
    """The connection still answers, and had nothing else to say."""
    wire.send(frame(TEXT, b"PING still"))
    assert wire.read_message() == (TEXT, b"PONG still")


def fails_with(node: kit.Engine, data: bytes, *codes: int | None) -> None:
    """The engine fails the connection [7.1.7]: Close with the code, nothing after it, and the end."""
    wire, _ = opened(node.port)
    with wire:
        wire.send(data)
        assert wire.read_closed() in codes


# -- lengths [5.2] --


@pytest.mark.parametrize("size", [40, 125, 126, 127, 128, 65535, MAX])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_every_length_form(node: kit.Engine, size: int, opcode: int) -> None:
    """Messages of exactly `size` bytes on the way in, on both sides of each form's bounds."""
    wire, address = opened(node.port)
    with wire:
        payload = os.urandom(size).hex().encode()[: size - len(f"TO {address}\n")]
        echoed(wire, address, payload, opcode)
        echoed(wire, address, payload[:1], opcode)
        echoed(wire, address, b"", opcode)


@pytest.mark.parametrize("length", [MAX + HEAD + 1, 1 << 20, 1 << 32, (1 << 63) - 1])
def test_too_long_is_told_before_the_payload_is_sent(node: kit.Engine, length: int) -> None:
    """1009 as soon as the length is known [7.4.1]."""
    fails_with(node, frame(BINARY, b"", length=length), 1009)


def test_too_long_in_fragments(node: kit.Engine) -> None:
    """The bound holds for the whole message."""
    part = b"x" * (MAX // 2)
    data = frame(TEXT, part, fin=False) + frame(CONT, part, fin=False) + frame(CONT, b"", length=HEAD + 1)
    fails_with(node, data, 1009)


def test_a_64_bit_length_has_its_top_bit_clear(node: kit.Engine) -> None:
    fails_with(node, frame(BINARY, b"", length=1 << 63), 1002, 1009)


def test_max_message_is_a_setting() -> None:
    with kit.engine(nats="off", loops=1, max_message=1000) as small:
        wire, address = opened(small.port)
        with wire:
            echoed(wire, address, b"x" * 1000)
            wire.send(frame(BINARY, b"", length=1000 + HEAD + 1))
            assert wire.read_closed() == 1009


# -- what a client must not send [5.1, 5.2, 5.4, 5.5] --

BROKEN = {
    "unmasked": frame(TEXT, b"PING", mask=None),
    "unmasked ping": frame(PING, b"", mask=None),
    **{f"reserved bits {rsv}": frame(TEXT, b"PING", rsv=rsv) for rsv in (1, 2, 3, 4, 5, 6, 7)},
    **{f"opcode {op}": frame(op, b"") for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"control {op} in fragments": frame(op, b"", fin=False) for op in (CLOSE, PING, PONG)},
    **{f"control {op} of 126 bytes": frame(op, b"x" * 126) for op in (CLOSE, PING, PONG)},
    "continuation of nothing": frame(CONT, b"PING"),
    "continuation after the end": frame(TEXT, b"PI", fin=False) + frame(CONT, b"NG") + frame(CONT, b"x"),
    "text within a message": frame(TEXT, b"PI", fin=False) + frame(TEXT, b"PING"),
    "binary within a message": frame(TEXT, b"PI", fin=False) + frame(BINARY, b"PING"),
    "reserved bit in a continuation": frame(TEXT, b"PI", fin=False) + frame(CONT, b"NG", rsv=4),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_protocol_errors_are_1002(node: kit.Engine, data: bytes) -> None:
    wire, _ = opened(node.port)
    with wire:
        wire.send(data + frame(TEXT, b"PING ignored"))
        got = wire.read_frame()
        if got.opcode in (TEXT, BINARY):  # what stood before the error was good
            assert got.payload == b"PONG"
            got = wire.read_frame()
        assert (got.opcode, got.code) == (CLOSE, 1002)
        assert wire.read_end() == b""


# -- text is UTF-8 [8.1] --

BAD_UTF8 = {
    "lone continuation": b"\x80",
    "overlong slash": b"\xc0\xaf",
    "overlong three": b"\xe0\x80\xaf",
    "overlong four": b"\xf0\x80\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "above 10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "FF": b"\xff",
    "cut short": b"\xe2\x82",
    "cut by ASCII": b"\xe2\x82a",
}
GOOD = "κόσμε \u0000 \u07ff \uffff \U0001f600 \U0010ffff".encode()


@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
def test_bad_text_is_1007(node: kit.Engine, bad: bytes) -> None:
    wire, address = opened(node.port)
    head = f"TO {address}\n".encode()
    with wire:
        echoed(wire, address, bad, BINARY)
        wire.send(frame(TEXT, head + GOOD + bad))
        assert wire.read_closed() == 1007


@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
def test_bad_text_across_fragments_is_1007(node: kit.Engine, bad: bytes) -> None:
    """With a cut within the bad sequence, and a ping between."""
    data = (
        frame(TEXT, b"PUB a\n" + GOOD + bad[:1], fin=False)
        + frame(PING, b"between")
        + frame(CONT, bad[1:], fin=False)
        + frame(CONT, b"")
    )
    wire, _ = opened(node.port)
    with wire:
        wire.send(data)
        got = wire.read_frame()
        if got.opcode == PONG:  # the first byte alone may have been bad already
            assert got.payload == b"between"
            got = wire.read_frame()
        assert (got.opcode, got.code) == (CLOSE, 1007)
        assert wire.read_end() == b""


def test_good_text_cut_at_every_byte(node: kit.Engine) -> None:
    wire, address = opened(node.port)
    text = f"TO {address}\n".encode() + GOOD
    with wire:
        for cut in range(len(text) + 1):
            wire.send(frame(TEXT, text[:cut], fin=False) + frame(CONT, text[cut:]))
            assert wire.read_message() == (TEXT, f"FROM {address}\n".encode() + GOOD)


# -- fragments and control frames between them [5.4, 5.5] --


def test_many_fragments_with_pings_between(node: kit.Engine) -> None:
    wire, address = opened(node.port)
    message = f"TO {address}\n".encode() + bytes(range(256))
    with wire:
        wire.send(frame(BINARY, b"", fin=False))
        for i, byte in enumerate(message):
            wire.send(frame(CONT, bytes([byte]), fin=False))
            if i % 16 == 0:
                wire.send(frame(PING, b"%d" % i))
                got = wire.read_frame()
                assert (got.opcode, got.payload) == (PONG, b"%d" % i)
        wire.send(frame(CONT, b""))
        assert wire.read_message() == (BINARY, f"FROM {address}\n".encode() + bytes(range(256)))


def test_ping_is_answered_with_its_payload(node: kit.Engine) -> None:
    wire, _ = opened(node.port)
    with wire:
        for size in (0, 1, 124, 125):
            payload = os.urandom(size)
            wire.send(frame(PING, payload))
            got = wire.read_frame()
            assert (got.fin, got.opcode, got.payload) == (True, PONG, payload)


def test_unasked_pong_is_ignored(node: kit.Engine) -> None:
    wire, _ = opened(node.port)
    with wire:
        wire.send(frame(PONG, b"nobody asked") + frame(PONG, b""))
        alive(wire)


# -- reading in pieces --


def session(address: str) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Frames of every kind, and what the engine must answer to them."""
    to = f"TO {address}\n".encode()
    fr = f"FROM {address}\n".encode()
    long = bytes(range(256)) * 2
    sent = (
        frame(TEXT, b"PING 1")
        + frame(TEXT, to + GOOD)
        + frame(PING, b"ping")
        + frame(BINARY, to[:3], fin=False)
        + frame(PING, b"amid")
        + frame(CONT, to[3:] + long)
        + frame(TEXT, b"SUB split ref=a")
        + frame(TEXT, b"NONSENSE")
        + closing(1000, b"done")
    )
    heard = [
        (TEXT, b"PONG 1"),
        (TEXT, fr + GOOD),
        (PONG, b"ping"),
        (PONG, b"amid"),
        (BINARY, fr + long),
        (TEXT, b"OK a"),
        (TEXT, b"ERR bad-request"),
        (CLOSE, b"\x03\xe8"),
    ]
    return sent, heard


def holds(wire: Wire, heard: list[tuple[int, bytes]]) -> None:
    """The engine says exactly this. Pongs may overtake; a Close may carry a reason, an ERR a text."""
    got: list[tuple[int, bytes]] = []
    while not got or got[-1][0] != CLOSE:
        one = wire.read_frame()
        payload = one.payload[:2] if one.opcode == CLOSE else one.payload
        got.append((one.opcode, payload.split(b"\n")[0] if payload.startswith(b"ERR") else payload))
    for kind in ({PONG}, {TEXT, BINARY, CLOSE}):
        assert [one for one in got if one[0] in kind] == [one for one in heard if one[0] in kind]
    assert wire.read_end() == b""


def test_byte_by_byte(node: kit.Engine) -> None:
    wire, address = opened(node.port)
    sent, heard = session(address)
    with wire:
        wire.send_cut(sent, list(range(len(sent))))
        holds(wire, heard)


def test_cut_in_two_at_every_byte(node: kit.Engine) -> None:
    """Each cut on a connection of its own, the second half only when the first was read."""
    for cut in range(1, 260):
        wire, address = opened(node.port)
        sent, heard = session(address)
        with wire:
            wire.send_cut(sent, [cut])
            holds(wire, heard)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1100), max_size=12))
def test_any_split_gives_the_same_answers(node: kit.Engine, cuts: list[int]) -> None:
    wire, address = opened(node.port)
    sent, heard = session(address)
    with wire:
        wire.send_cut(sent, [min(cut, len(sent)) for cut in cuts])
        holds(wire, heard)


def test_all_in_one_write(node: kit.Engine) -> None:
    """More than the engine reads at once."""
    wire, address = opened(node.port)
    payload = os.urandom(1000)
    with wire:
        wire.send(b"".join(frame(BINARY, f"TO {address}\n".encode() + b"%03d" % i + payload) for i in range(400)))
        for i in range(400):
            assert wire.read_message() == (BINARY, f"FROM {address}\n".encode() + b"%03d" % i + payload)


def test_frames_right_behind_the_handshake(node: kit.Engine) -> None:
    """A client that doesn't wait for the answer: whole, and cut within and right after the head."""
    data = request() + frame(TEXT, b"PING early") + frame(PING, b"too")
    n = len(request())
    for cuts in ([], [n - 1], [n], [n + 1], [10, n + 8]):
        with Wire(node.port) as wire:
            wire.send_cut(data, cuts)
            assert wire.read_answer().status == 101
            assert wire.read_message()[1].startswith(b"HELLO ")
            got = {(one.opcode, one.payload) for one in (wire.read_frame(), wire.read_frame())}
            assert got == {(TEXT, b"PONG early"), (PONG, b"too")}


# -- closing [5.5.1, 7] --


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_close_is_echoed(node: kit.Engine, code: int) -> None:
    """With its code; what follows a Close is not read [5.5.1]."""
    fails_with(node, closing(code, "adiós".encode()) + frame(TEXT, b"PING late"), code)


def test_close_without_code(node: kit.Engine) -> None:
    fails_with(node, closing(None), None, 1000)


def test_close_with_the_longest_reason(node: kit.Engine) -> None:
    fails_with(node, closing(1000, b"r" * 123), 1000)


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_with_a_code_that_must_not_be_sent(node: kit.Engine, code: int) -> None:
    """[7.4]"""
    fails_with(node, closing(code), 1002)


def test_close_of_one_byte(node: kit.Engine) -> None:
    fails_with(node, frame(CLOSE, b"\x03"), 1002)


@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
def test_close_with_a_bad_reason(node: kit.Engine, bad: bytes) -> None:
    fails_with(node, closing(1000, bad), 1007)


def test_close_within_a_message(node: kit.Engine) -> None:
    fails_with(node, frame(TEXT, b"PIN", fin=False) + closing(1000), 1000)


def test_answers_come_before_the_close(node: kit.Engine) -> None:
    wire, _ = opened(node.port)
    with wire:
        wire.send(frame(TEXT, b"PING a") + frame(TEXT, b"SUB room ref=1") + closing(1000))
        assert wire.read_message() == (TEXT, b"PONG a")
        assert wire.read_message() == (TEXT, b"OK 1")
        assert wire.read_closed() == 1000


def test_the_end_of_the_stream_ends_the_connection(node: kit.Engine) -> None:
    """Without a Close frame, and amid a frame."""

    def connections() -> int:
        return int(node.stats()["total"]["connections"])

    until(lambda: connections() == 0, "the connections of other tests are gone")
    for data in (b"", frame(TEXT, b"PING")[:3], frame(TEXT, b"PI", fin=False)):
        wire, _ = opened(node.port)
        until(lambda: connections() == 1)
        wire.send(data)
        wire.socket.close()
        until(lambda: connections() == 0, "the connection is gone")


@pytest.mark.parametrize("answers", [True, False])
def test_stopping_closes_with_1001(answers: bool) -> None:
    """The engine begins the closing handshake, and ends it also with a peer that doesn't answer."""
    with kit.engine(nats="off", loops=2, close_timeout=0.5) as engine:
        wire, _ = opened(engine.port)
        with wire:
            os.kill(engine.pid, signal.SIGTERM)
            got = wire.read_frame()
            assert (got.opcode, got.code) == (CLOSE, 1001)
            if answers:
                wire.send(closing(1001))
            assert wire.read_end() == b""


@pytest.mark.parametrize(
    "bad",
    [
        frame(TEXT, b"PING", rsv=4),
        frame(TEXT, b"PING", mask=None),
        frame(PING, b"p" * 126),
        frame(TEXT, length=1 << 40),
    ],
    ids=["reserved bit", "no mask", "long ping", "too long"],
)
def test_our_close_is_the_last_frame(bad: bytes) -> None:
    """Who breaks the protocol behind it hears no second one: our side is shut down at once [5.5.1]."""
    with kit.engine(nats="off", loops=1, close_timeout=10) as engine, opened(engine.port)[0] as wire:
        os.kill(engine.pid, signal.SIGTERM)
        got = wire.read_frame()
        assert (got.opcode, got.code) == (CLOSE, 1001)
        wire.send(bad)
        assert wire.read_end(limit=5) == b""


# -- keepalive --


def test_an_idle_peer_is_pinged_and_lives_while_it_answers() -> None:
    with kit.engine(nats="off", loops=2, ping_interval=0.3, pong_timeout=0.4) as engine:
        wire, _ = opened(engine.port)
        with wire:
            for _ in range(4):
                got = wire.read_frame()
                assert (got.fin, got.opcode) == (True, PING)
                wire.send(frame(PONG, got.payload))
            alive(wire)


def test_any_byte_is_an_answer() -> None:
    """A message in answer to a ping will do."""
    with kit.engine(nats="off", loops=1, ping_interval=0.3, pong_timeout=0.4) as engine:
        wire, _ = opened(engine.port)
        with wire:
            for i in range(3):
                assert wire.read_frame().opcode == PING
                wire.send(frame(TEXT, b"PING %d" % i))
                assert wire.read_frame().payload == b"PONG %d" % i


def test_a_peer_that_does_not_answer_is_gone() -> None:
    with kit.engine(nats="off", loops=2, ping_interval=0.4, pong_timeout=0.4) as engine:
        wire, address = opened(engine.port)
        with wire:
            assert wire.read_frame().opcode == PING
            asked = time.monotonic()
            wire.read_end()
            assert 0.3 < time.monotonic() - asked < 3
            until(lambda: engine.stats()["total"]["connections"] == 0)
        other, _ = opened(engine.port)
        with other:
            other.send(frame(TEXT, f"TO {address} ref=1\nhello".encode()))
            assert other.read_message()[1].startswith(b"ERR no-such-peer ref=1\n")


# -- an independent codec --


class Codec:
    """wsproto at the client's end of a socket."""

    def __init__(self, port: int) -> None:
        self.wire = Wire(port)
        self.ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.events: list[wsproto.events.Event] = []
        self.send(wsproto.events.Request(host="localhost", target="/", subprotocols=["signal.v1"]))

    def send(self, event: wsproto.events.Event) -> None:
        self.wire.send(self.ws.send(event))

    def next(self) -> wsproto.events.Event:
        while not self.events:
            data = self.wire.socket.recv(4096)
            self.ws.receive_data(data or None)
            self.events += self.ws.events()
        return self.events.pop(0)


def test_wsproto_agrees(node: kit.Engine) -> None:
    codec = Codec(node.port)
    with codec.wire:
        accepted = codec.next()
        assert isinstance(accepted, wsproto.events.AcceptConnection)
        assert accepted.subprotocol == "signal.v1" and not accepted.extensions
        hello = codec.next()
        assert isinstance(hello, wsproto.events.TextMessage) and hello.data.startswith("HELLO ")
        codec.send(wsproto.events.Ping(payload=b"p"))
        pong = codec.next()
        assert isinstance(pong, wsproto.events.Pong) and bytes(pong.payload) == b"p"
        codec.send(wsproto.events.TextMessage(data="PI", message_finished=False))
        codec.send(wsproto.events.TextMessage(data="NG x"))
        told = codec.next()
        assert isinstance(told, wsproto.events.TextMessage) and told.data == "PONG x"
        codec.send(wsproto.events.CloseConnection(code=4123, reason="bye"))
        closed = codec.next()
        assert isinstance(closed, wsproto.events.CloseConnection) and closed.code == 4123
