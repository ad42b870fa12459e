"""What a NATS server sends, in any pieces, with nats-py as a second opinion."""

from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from nats.protocol.parser import Parser

from signal_core import probe

INFO, MSG, HMSG, PING, PONG, OK, ERR = range(1, 8)
LINE_MAX = 4096
INFO_MAX = 64 * 1024
SLACK = 65536
PEER = b"k7m2.0f3zq8m2v9w1x"
NOTHING = dict.fromkeys(("subject", "reply", "headers", "payload", "text"))

subjects = st.one_of(
    st.from_regex(rb"[!-~]{1,60}", fullmatch=True),
    st.text(min_size=1, max_size=20).map(str.encode).filter(lambda name: min(name) > 0x20),
)
sids = st.integers(0, 10**19 - 1)
blanks = st.text(alphabet=" \t", min_size=1, max_size=3).map(str.encode)
payloads = st.one_of(st.binary(max_size=40), st.binary(min_size=100, max_size=300))
blocks = st.one_of(st.just(b""), st.binary(max_size=80).map(b"NATS/1.0\r\n".__add__))


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """A MSG or HMSG, and its fields."""
    subject, sid, payload = draw(subjects), draw(sids), draw(payloads)
    reply = draw(st.one_of(st.none(), subjects))
    headers = draw(st.one_of(st.none(), blocks))
    words = [b"MSG" if headers is None else b"HMSG", subject, b"%d" % sid]
    words += [] if reply is None else [reply]
    words += [] if headers is None else [b"%d" % len(headers)]
    data = (headers or b"") + payload
    line = b"".join(word + draw(st.one_of(st.just(b" "), blanks)) for word in words) + b"%d" % len(data)
    fields = NOTHING | {
        "kind": MSG if headers is None else HMSG,
        "subject": subject,
        "sid": sid,
        "reply": reply,
        "headers": headers or None,
        "payload": payload,
    }
    return line + b"\r\n" + data + b"\r\n", fields


@st.composite
def lines(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """Any other operation, and its fields."""
    kind, verb = draw(
        st.sampled_from([(INFO, b"INFO"), (PING, b"PING"), (PONG, b"PONG"), (OK, b"+OK"), (ERR, b"-ERR")])
    )
    verb = bytes(draw(st.sampled_from([byte, byte | 0x20])) if byte > 0x40 else byte for byte in verb)
    fields: dict[str, Any] = NOTHING | {"kind": kind, "sid": 0}
    blank = draw(st.one_of(st.just(b""), blanks))
    if kind not in (INFO, ERR):
        return verb + blank + b"\r\n", fields | {"text": b""}
    text = draw(st.from_regex(rb"[!-~]([ -~]{0,60}[!-~])?", fullmatch=True).filter(lambda t: t[0] != ord("'")))
    quoted = b"'%s'" % text if kind == ERR and draw(st.booleans()) else text
    return verb + draw(blanks) + quoted + blank + b"\r\n", fields | {"text": text}


operations = st.one_of(messages(), lines())


def normal(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields in which no text and an empty text are the same."""
    return fields | {"text": fields["text"] or (b"" if fields["kind"] in (PING, PONG, OK) else None)}


@given(operations, st.binary(max_size=40))
def test_an_operation_is_read_to_its_end(operation, rest):
    data, expected = operation
    consumed, fields = probe.nats_parse(data + rest)
    assert consumed == len(data)
    assert normal(fields) == expected


@given(operations, st.data())
def test_a_part_needs_more_and_says_how_much(operation, data):
    whole, expected = operation
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert probe.nats_parse(part) == (-2, None)
    line_ended = b"\r\n" in part and expected["kind"] in (MSG, HMSG)
    assert probe.nats_need(part) == (len(whole) if line_ended else 0)


@given(operations)
def test_every_part_needs_more(operation):
    whole, _ = operation
    assert {probe.nats_parse(whole[:size])[0] for size in range(len(whole))} == {-2}


@given(st.lists(operations, max_size=6), st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_a_stream_in_any_pieces(sent, sizes):
    stream, read, waiting = b"".join(data for data, _ in sent), [], b""
    while stream:
        for size in sizes:
            waiting, stream = waiting + stream[:size], stream[size:]
            while (verdict := probe.nats_parse(waiting))[0] > 0:
                read.append(normal(verdict[1]))
                waiting = waiting[verdict[0] :]
            assert verdict[0] == -2
    assert waiting == b""
    assert read == [fields for _, fields in sent]


def finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine that never waits."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


class Recorder:
    """Stands in for nats-py's client, and records what its parser reads."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes, bytes, bytes, bytes | None]] = []

    async def _process_msg(self, sid, subject, reply, payload, headers):
        self.messages.append((sid, bytes(subject), bytes(reply), payload, headers))


@given(st.lists(messages(), min_size=1, max_size=4))
def test_nats_py_reads_the_same(operations):
    operations = [(data, fields) for data, fields in operations if fields["kind"] == MSG or fields["headers"]]
    assume(operations)  # nats-py takes no HMSG without headers, which no server sends
    recorder, stream, ours = Recorder(), b"".join(data for data, _ in operations), []
    finish(Parser(recorder).parse(stream))
    while stream:
        consumed, op = probe.nats_parse(stream)
        ours.append((op["sid"], op["subject"], op["reply"] or b"", op["payload"], op["headers"]))
        stream = stream[consumed:]
    assert ours == recorder.messages


@given(operations, st.data())
def test_an_altered_operation_is_not_read_past_its_end(operation, data):
    """Any result is possible, but what is consumed was given, and ends with a line's end."""
    whole, _ = operation
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :]
    consumed, fields = probe.nats_parse(changed)
    if consumed > 0:
        assert changed[:consumed].endswith(b"\r\n")
        assert fields["kind"] in range(INFO, ERR + 1)
    else:
        assert consumed in (-1, -2)
    need = probe.nats_need(changed)
    assert need == 0 or need >= consumed


@given(st.one_of(st.binary(max_size=100), st.text(alphabet="HMSG +OKPIN-ER'1\r\n", max_size=60).map(str.encode)))
@example(b"")
def test_random_bytes(data):
    consumed, _ = probe.nats_parse(data)
    assert consumed in (-1, -2) or data[:consumed].endswith(b"\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"X",
        b" PING\r\n",
        b"PINGS\r\n",
        b"PING x\r\n",
        b"PING\n",
        b"PING\r\r\n",
        b"PANG\r\n",
        b"PONGO\r\n",
        b"+OKAY\r\n",
        b"+OK x\r\n",
        b"\x0bOK\r\n",
        b"\rERR 'x'\r\n",
        b"-ERRx\r\n",
        b"INFO{}\r\n",
        b"INFO {}\n",
        b"PUB a 1\r\n",
        b"MSG\r\n",
        b"MSGx a 1 1\r\n",
        b"MSG \r\n",
        b"MSG a 1\r\n",
        b"MSG a x 1\r\n",
        b"MSG a -1 1\r\n",
        b"MSG a 10000000000000000000 1\r\n",
        b"MSG a 1 x\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 1x\r\n",
        b"MSG a 1 b c 1\r\n",
        b"MSG a 1 1234567890\r\n",
        b"MSG a 1 1\n",
        b"MSG a 1 1\rx",
        b"MSG a\0b 1 1\r\n",
        b"MSG a 1 1\r\nxyz",
        b"MSG a 1 1\r\nx\r\r",
        b"MSG a 1 1\r\nxy\n",
        b"MSG a 1 0\r\nx\r\n",
        b"HMSG a 1 12\r\n",
        b"HMSG a 1 12 11\r\n",
        b"HMSG a 1 x 12\r\n",
        b"HMSG a 1 b c 12 12\r\n",
        b"HMSG\r\n",
    ],
)
def test_malformed_operations(data):
    assert probe.nats_parse(data)[0] == -1


@pytest.mark.parametrize("verb", [b"MSG", b"msg", b"mSg", b"Msg"])
def test_verbs_in_either_case(verb):
    for data in (verb + b" a 1 2\r\nhi\r\n", b"h" + verb + b" a 1 0 2\r\nhi\r\n"):
        assert probe.nats_parse(data)[0] == len(data)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"-ERR 'Unknown Protocol Operation'", b"Unknown Protocol Operation"),
        (b"-ERR 'Permissions Violation for Publish to \"a\"'", b'Permissions Violation for Publish to "a"'),
        (b"-ERR Stale", b"Stale"),
        (b"-ERR '", b"'"),
        (b"-ERR ''", b""),
        (b"-ERR", b""),
        (b'INFO {"a": "\'"} ', b'{"a": "\'"}'),
        (b"INFO '{}'", b"'{}'"),
    ],
)
def test_texts(line, text):
    assert probe.nats_parse(line + b"\r\n")[1]["text"] == text


@pytest.mark.parametrize(
    ("start", "end", "most"),
    [
        (b"MSG ", b" 1 0", LINE_MAX),
        (b"HMSG ", b" 1 0 0", LINE_MAX),
        (b"-ERR '", b"'", LINE_MAX),
        (b"PING ", b" ", LINE_MAX),
        (b"INFO {", b"}", INFO_MAX),
    ],
)
def test_the_longest_control_line(start, end, most):
    fill = b" " if start == b"PING " else b"x"
    for size, good in ((most, True), (most + 1, False)):
        line = start + fill * (size - len(start) - len(end)) + end
        data = b"\r\n" if b"MSG" in start else b""
        verdict = probe.nats_parse(line + b"\r\n" + data)[0]
        assert verdict == (size + 2 + len(data) if good else -1)
        assert probe.nats_parse(line[: most - 1])[0] == -2
        assert probe.nats_parse(start + fill * (most + 1 - len(start)))[0] == -2
        assert probe.nats_parse(start + fill * (most + 2 - len(start)))[0] == -1
        assert probe.nats_parse(line + b"x" * 100)[0] == -1


@pytest.mark.parametrize("max_payload", [0, 10, 1024 * 1024, 2**64 - 1])
def test_the_longest_message(max_payload):
    most = min(max_payload + SLACK, 999999999)
    assert probe.nats_parse(b"MSG a 1 %d\r\n" % most, max_payload)[0] == -2
    assert probe.nats_parse(b"MSG a 1 %d\r\n" % (most + 1), max_payload)[0] == -1
    assert probe.nats_parse(b"HMSG a 1 %d %d\r\n" % (most, most), max_payload)[0] == -2
    assert probe.nats_parse(b"HMSG a 1 12 %d\r\n" % (most + 1), max_payload)[0] == -1


ABSENT = {
    "status": 0,
    "sender": None,
    "user": None,
    "receipt": None,
    "subject": None,
    "type": None,
    "ttl_ms": -1,
    "binary": False,
}


def block(*lines: bytes, first: bytes = b"NATS/1.0") -> bytes:
    return b"".join(line + b"\r\n" for line in (first, *lines, b""))


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"Signal-From: " + PEER, {"sender": PEER}),
        (b"signal-from:" + PEER, {"sender": PEER}),
        (b"SIGNAL-FROM:\t " + PEER + b" \t", {"sender": PEER}),
        (b"Signal-From: a." + b"0" * 32, {"sender": b"a." + b"0" * 32}),
        (b"Signal-From: a." + b"0" * 33, {}),
        (b"Signal-From: " + PEER + b" x", {}),
        (b"Signal-From: -", {}),
        (b"Signal-From: K7m2.0", {}),
        (b"Signal-From:", {}),
        (b"Signal-Fram: " + PEER, {}),
        (b"Signal-From : " + PEER, {}),
        (b"XSignal-From: " + PEER, {}),
        (b"Signal-User: alice@example.com", {"user": b"alice@example.com"}),
        (b"Signal-User: " + b"u" * 127, {"user": b"u" * 127}),
        (b"Signal-User: " + b"u" * 128, {}),
        (b"Signal-User: a b", {}),
        (b"Signal-User: a*", {}),
        (b"Signal-User: ", {}),
        (b"Signal-Type: binary", {"type": b"binary", "binary": True}),
        (b"signal-TYPE: text", {"type": b"text"}),
        (b"Signal-Type: Binary", {"type": b"Binary"}),
        (b"Signal-Ttl: 5000", {"ttl_ms": 5000}),
        (b"signal-ttl:0", {"ttl_ms": 0}),
        (b"Signal-Ttl: 86400000", {"ttl_ms": 86400000}),
        (b"Signal-Ttl: 86400001", {}),
        (b"Signal-Ttl: -5", {}),
        (b"Signal-Ttl: 5 s", {}),
        (b"Signal-Ttl: 99999999999999999999999", {}),
        (b"Signal-Receipt: ok", {"receipt": b"ok"}),
        (b"SIGNAL-RECEIPT: no-such-peer", {"receipt": b"no-such-peer"}),
        (b"Signal-Receipts: ok", {}),
        (b"Nats-Subject: a.b", {"subject": b"a.b"}),
        (b"nats-subject: a.b", {"subject": b"a.b"}),
        (b"Nats-Subjects: a.b", {}),
        (b"X: y", {}),
        (b"Signal-Later: y: z", {}),
        (b"Traceparent:00-x", {}),
    ],
)
def test_each_header(line, read):
    expected = (1, ABSENT | read)
    assert probe.nats_headers_parse(block(line)) == expected
    assert probe.nats_headers_parse(block(b"A: b", line, b"Content-Type: text/plain")) == expected


@pytest.mark.parametrize(
    ("first", "status"),
    [(b"NATS/1.0", 0), (b"NATS/1.0 ", 0), (b"NATS/1.0 503", 503), (b"NATS/1.0\t100 Idle Heartbeat ", 100)],
)
def test_statuses(first, status):
    assert probe.nats_headers_parse(block(b"Nats-Subject: a", first=first)) == (
        1,
        ABSENT | {"status": status, "subject": b"a"},
    )


GOOD = block(b"Signal-From: " + PEER, b"Signal-Ttl: 12", b"Signal-Type: binary")


@pytest.mark.parametrize(
    "data",
    [
        *(GOOD[:size] for size in range(len(GOOD))),
        GOOD + b"x",
        GOOD + b"\r\n",
        block(first=b"NATS/1.1"),
        block(first=b"NATS/1.0503"),
        block(first=b"NATS/1.0 50"),
        block(first=b"NATS/1.0 5033"),
        block(first=b"NATS/1.0 abc"),
        block(b"no colon"),
        block(b": no name"),
        block(b":xxxxxxxxxx: no name"),
        block(b" folded"),
        block(b"A: b\nSignal-Ttl: 1\r"),
        GOOD.replace(b"\r\n", b"\n"),
        GOOD.replace(b"\r\n", b"\r"),
    ],
)
def test_malformed_headers(data):
    assert probe.nats_headers_parse(data)[0] == -1


def test_no_headers_are_all_absent():
    """A MSG has no headers; its caller need not check first."""
    assert probe.nats_headers_parse(b"") == (-1, ABSENT)


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(b"NATS/1.0\r\nSignal-".__add__)))
def test_random_headers(data):
    verdict, _ = probe.nats_headers_parse(data)
    assert verdict == -1 or (verdict == 1 and data.endswith(b"\r\n\r\n"))


def test_struct_layouts_are_asserted():
    probe.signal_check_layout()
