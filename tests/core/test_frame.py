"""Frames (RFC 6455 §5): examples, every bound, any split, and wsproto as a second opinion."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, ParseFailed

from signal_core import probe

ANY_LENGTH = 2**63 - 1
KEY = bytes.fromhex("37fa213d")
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

lengths = st.one_of(
    st.integers(0, 130),
    st.integers(65530, 65540),
    st.integers(0, ANY_LENGTH),
    st.sampled_from([125, 126, 65535, 65536, ANY_LENGTH]),
)
keys = st.binary(min_size=4, max_size=4)


def head_of(opcode: int, length: int, *, fin: bool = True, key: bytes | None = KEY) -> bytes:
    """The head of a frame, written from the figure in RFC 6455 §5.2."""
    masked = 0x80 if key is not None else 0
    if length < 126:
        size = struct.pack("!B", masked | length)
    elif length < 65536:
        size = struct.pack("!BH", masked | 126, length)
    else:
        size = struct.pack("!BQ", masked | 127, length)
    return bytes([(0x80 if fin else 0) | opcode]) + size + (key or b"")


def xored(data: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def read_all(chunks: list[bytes], max_payload: int) -> list[tuple[int, bool, bytes]]:
    """(opcode, fin, payload) of each frame, read from these chunks."""
    frames, waiting = [], b""
    for chunk in chunks:
        waiting += chunk
        while True:
            head, frame = probe.frame_parse(waiting, max_payload)
            assert head != -1
            if head == -2 or len(waiting) < head + frame["length"]:
                break
            end = head + frame["length"]
            frames.append((frame["opcode"], frame["fin"], probe.frame_unmask(waiting[head:end], frame["key"])))
            waiting = waiting[end:]
    assert waiting == b""
    return frames


def test_struct_layouts_are_asserted():
    probe.ws_check_layout()


# -- RFC 6455 section 5.7 --


def test_masked_hello_of_the_rfc():
    data = bytes.fromhex("8185 37fa213d 7f9f4d5158")
    head, frame = probe.frame_parse(data, 5)
    assert head == 6
    assert frame == {"length": 5, "head": 6, "opcode": TEXT, "fin": True, "key": KEY}
    assert probe.frame_unmask(data[head:], frame["key"]) == b"Hello"


def test_masked_pong_of_the_rfc():
    head, frame = probe.frame_parse(bytes.fromhex("8a85 37fa213d 7f9f4d5158"), 0)
    assert (head, frame["opcode"], frame["length"]) == (6, PONG, 5)


@pytest.mark.parametrize("text", ["8105 48656c6c6f", "0103 48656c", "8002 6c6f", "8905 48656c6c6f"])
def test_unmasked_frames_of_the_rfc_are_refused(text):
    assert probe.frame_parse(bytes.fromhex(text), 100) == (-1, {"close_code": 1002})


@pytest.mark.parametrize(
    ("opcode", "length", "head"),
    [
        (TEXT, 5, "8105"),
        (PING, 5, "8905"),
        (BINARY, 256, "827e0100"),
        (BINARY, 65536, "827f0000000000010000"),
    ],
)
def test_heads_of_the_rfc_are_written(opcode, length, head):
    assert probe.frame_put_head(opcode, length) == bytes.fromhex(head)


# -- good heads --


@given(st.sampled_from([CONT, TEXT, BINARY]), lengths, st.booleans(), keys, st.binary(max_size=20))
def test_a_good_data_head_is_read_at_any_split(opcode, length, fin, key, rest):
    head = head_of(opcode, length, fin=fin, key=key)
    for n in range(len(head)):
        assert probe.frame_parse(head[:n], ANY_LENGTH) == (-2, None)
    assert probe.frame_parse(head + rest, length) == (
        len(head),
        {"length": length, "head": len(head), "opcode": opcode, "fin": fin, "key": key},
    )


@given(st.sampled_from([CLOSE, PING, PONG]), st.integers(0, 125))
def test_max_payload_does_not_bound_control_frames(opcode, length):
    head, frame = probe.frame_parse(head_of(opcode, length), 0)
    assert (head, frame["opcode"], frame["length"], frame["fin"]) == (6, opcode, length, True)


# -- bad heads: refused with the first byte that shows it, and ever after --

BAD = [
    *[(f"reserved bit {bit:#x}", bytes([0x80 | bit | TEXT]), 1002, 1) for bit in (0x10, 0x20, 0x40)],
    *[(f"opcode {n}", bytes([0x80 | n]), 1002, 1) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
    *[(f"control {n} in fragments", bytes([n]), 1002, 1) for n in (CLOSE, PING, PONG)],
    ("not masked", b"\x81\x05", 1002, 2),
    ("control of 126 bytes", b"\x89\xfe\x00\x7e", 1002, 2),
    ("control of 65536 bytes", b"\x88\xff" + (65536).to_bytes(8, "big"), 1002, 2),
    ("125 in 16 bits", b"\x81\xfe\x00\x7d", 1002, 4),
    ("65535 in 64 bits", b"\x81\xff" + (65535).to_bytes(8, "big"), 1002, 10),
    ("0 in 64 bits", b"\x81\xff" + bytes(8), 1002, 10),
    ("top bit", b"\x82\xff\x80", 1002, 3),
    ("101 bytes", b"\x82\xe5", 1009, 2),
    ("126 bytes", b"\x82\xfe\x00\x7e", 1009, 4),
    ("65536 bytes", b"\x82\xff" + (65536).to_bytes(8, "big"), 1009, 10),
    ("2**63 - 1 bytes", b"\x82\xff\x7f" + b"\xff" * 7, 1009, 10),
    ("101 bytes of a continuation", b"\x00\xe5", 1009, 2),
]


@pytest.mark.parametrize(("head", "code", "decided"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_head_is_refused_with_the_first_byte_that_shows_it(head, code, decided):
    for n in range(decided):
        assert probe.frame_parse(head[:n], 100) == (-2, None)
    for more in (head[:decided], head, head + bytes(20)):
        assert probe.frame_parse(more, 100) == (-1, {"close_code": code})


@given(st.integers(0, ANY_LENGTH - 1), st.integers(1, 1000))
def test_max_payload_is_exact(limit, over):
    assert probe.frame_parse(head_of(TEXT, limit), limit)[0] > 0
    length = min(limit + over, ANY_LENGTH)
    assert probe.frame_parse(head_of(TEXT, length), limit) == (-1, {"close_code": 1009})


# -- a second opinion --


@given(st.binary(min_size=14, max_size=14))
@example(b"\x81\xfe\x00\x7e" + bytes(10))
@example(b"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00" + bytes(4))
@example(b"\x82\xff\x80\x00\x00\x00\x00\x01\x00\x00" + bytes(4))
def test_wsproto_agrees_about_any_head(data):
    decoder = FrameDecoder(client=False)
    decoder.receive_bytes(data)
    head, frame = probe.frame_parse(data, ANY_LENGTH)
    try:
        assert decoder.parse_header()
    except ParseFailed:
        assert (head, frame) == (-1, {"close_code": 1002})
        return
    assert frame is not None
    assert (frame["fin"], frame["opcode"], frame["length"]) == (
        decoder.header.fin,
        decoder.header.opcode,
        decoder.header.payload_len,
    )
    assert len(decoder.buffer) == len(data) - head


@given(st.binary(max_size=300), st.sampled_from([TEXT, BINARY]))
@example(bytes(65535), BINARY)
@example(bytes(65536), BINARY)
def test_wsproto_reads_written_frames(payload, opcode):
    if opcode == TEXT:
        payload = payload.hex().encode()
    client = FrameProtocol(client=True, extensions=[])
    client.receive_bytes(probe.frame_put_head(opcode, len(payload)) + payload)
    frames = list(client.received_frames())
    data = b"".join(f.payload.encode() if opcode == TEXT else f.payload for f in frames)
    assert data == payload
    assert frames[0].opcode == opcode
    assert frames[-1].message_finished


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), st.binary(max_size=200), st.booleans()), max_size=6),
    st.data(),
)
def test_frames_of_wsproto_are_read_in_any_pieces(messages, data):
    client = FrameProtocol(client=True, extensions=[])
    stream, expected, opcode = b"", [], None
    for kind, payload, fin in messages:
        opcode = opcode if opcode is not None else kind
        body = payload.hex() if opcode == TEXT else payload
        first = not expected or expected[-1][1]
        stream += client.send_data(body, fin)
        expected.append((opcode if first else CONT, fin, body.encode() if opcode == TEXT else body))
        opcode = None if fin else opcode
    stream += client.close(CloseReason.GOING_AWAY, "bye")
    expected.append((Opcode.CLOSE, True, b"\x03\xe9bye"))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read_all(chunks, 1000) == expected


# -- writing heads, and reading them back --


@given(st.sampled_from([TEXT, BINARY, CLOSE, PING, PONG]), lengths, keys)
def test_a_written_head_reads_back(opcode, length, key):
    if opcode >= CLOSE:
        length %= 126
    head = probe.frame_put_head(opcode, length)
    assert head == head_of(opcode, length, key=None)
    assert len(head) == probe.frame_head_size(length)
    masked = bytes([head[0], head[1] | 0x80]) + head[2:] + key
    assert probe.frame_parse(masked, length) == (
        len(masked),
        {"length": length, "head": len(masked), "opcode": opcode, "fin": True, "key": key},
    )


# -- unmasking --


@pytest.mark.parametrize("offset", range(17))
def test_unmask_at_every_small_size_and_alignment(offset):
    key = b"\x01\x20\x03\x80"
    data = bytes(range(256))
    for n in range(100):
        assert probe.frame_unmask(data[:n], key, offset) == xored(data[:n], key)


@given(st.binary(max_size=2000), keys, st.integers(0, 15))
def test_unmasking_twice_gives_the_original(data, key, offset):
    masked = probe.frame_unmask(data, key, offset)
    assert masked == xored(data, key)
    assert probe.frame_unmask(masked, key) == data


# -- close codes (RFC 6455 section 7.4) --


def test_every_close_code():
    allowed = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, *range(3000, 5000)}
    for code in range(65536):
        expected = code if code in allowed else -1
        assert probe.close_code_of(code.to_bytes(2, "big")) == expected


def test_a_close_without_payload_is_answered_with_1000():
    assert probe.close_code_of(b"") == 1000


@pytest.mark.parametrize("byte", [b"\x00", b"\x03", b"\xff"])
def test_half_a_close_code_is_an_error(byte):
    assert probe.close_code_of(byte) == -1


@given(st.one_of(st.binary(max_size=123), st.text(max_size=30).map(str.encode)))
@example(b"\xed\xa0\x80")
@example("späť".encode()[:-1])
def test_a_close_reason_must_be_utf8(reason):
    try:
        reason.decode()
        expected = 4001
    except UnicodeDecodeError:
        expected = -2
    assert probe.close_code_of((4001).to_bytes(2, "big") + reason) == expected
    assert probe.close_code_of((1005).to_bytes(2, "big") + reason) == -1
