"""TLS 1.3 records, against two other implementations: tlslite-ng, in Python, and OpenSSL's own record layer."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tlslite.constants import CipherSuite
from tlslite.recordlayer import ConnectionState, RecordLayer

from certificates import Certificates
from signal_core import probe

CCS, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
UNEXPECTED, BAD_MAC, OVERFLOW, DECODE, ILLEGAL, INTERNAL = 10, 20, 22, 50, 47, 80
MOST = 1 << 14  # bytes of plaintext in a record
WEARS, END = 1 << 24, (1 << 32) - 1  # numbers of records
SUITES = {
    1: CipherSuite.TLS_AES_128_GCM_SHA256,
    2: CipherSuite.TLS_AES_256_GCM_SHA384,
    3: CipherSuite.TLS_CHACHA20_POLY1305_SHA256,
}
SECRETS = {1: bytes(range(32)), 2: bytes(range(48)), 3: bytes(range(1, 33))}
MORE = (-2, None, None)
suites = pytest.mark.parametrize("suite", SUITES)
CONTENT = st.binary(max_size=200)
KINDS = st.sampled_from([ALERT, HANDSHAKE, DATA])


def keys(suite: int) -> probe.TlsDirection:
    return probe.TlsDirection(SECRETS[suite], suite)


def others(suite: int, updates: int = 0) -> ConnectionState:
    """tlslite-ng's keys for the same secret, after so many updates."""
    layer = RecordLayer(None)
    layer.client, layer.version = True, (3, 4)
    secret = bytearray(SECRETS[suite])
    layer.calcTLS1_3PendingState(SUITES[suite], secret, secret, ["python"])
    layer.changeWriteState()
    for _ in range(updates):
        secret, _ = layer.calcTLS1_3KeyUpdate_reciever(SUITES[suite], secret, secret)
    return layer._writeState


def nonce(state: ConnectionState, number: int) -> bytearray:
    return bytearray(a ^ b for a, b in zip(state.fixedNonce, number.to_bytes(12, "big"), strict=True))


def head(size: int, kind: int = DATA) -> bytes:
    return bytes([kind, 3, 3]) + size.to_bytes(2, "big")


def sealed(state: ConnectionState, number: int, inner: bytes) -> bytes:
    """A record of tlslite-ng with any inner plaintext: content, type, padding."""
    start = head(len(inner) + 16)
    return start + bytes(state.encContext.seal(nonce(state, number), bytearray(inner), bytearray(start)))


def opened(state: ConnectionState, number: int, record: bytes) -> bytes | None:
    """The inner plaintext of a record, by tlslite-ng."""
    found = state.encContext.open(nonce(state, number), bytearray(record[5:]), bytearray(record[:5]))
    return None if found is None else bytes(found)


# -- against tlslite-ng --


@suites
@given(contents=st.lists(st.tuples(CONTENT, KINDS), max_size=4))
def test_what_is_sealed_others_open(suite: int, contents: list[tuple[bytes, int]]) -> None:
    ours, theirs = keys(suite), others(suite)
    for number, (content, kind) in enumerate(contents):
        record = ours.seal(content, kind)
        assert record[:5] == head(len(content) + 17) and len(record) == len(content) + 22
        assert opened(theirs, number, record) == content + bytes([kind])
    assert ours.number == len(contents)


@suites
@given(content=st.binary(min_size=1, max_size=200), kind=KINDS, padding=st.integers(0, 300), rest=CONTENT)
def test_what_others_seal_is_opened(suite: int, content: bytes, kind: int, padding: int, rest: bytes) -> None:
    """Padding is removed; what follows the record is left alone."""
    ours, theirs = keys(suite), others(suite)
    for number in range(2):
        record = sealed(theirs, number, content + bytes([kind]) + bytes(padding))
        assert ours.open(record + rest, MOST) == (len(record), kind, content)
    assert ours.number == 2


@suites
def test_every_split_of_a_record(suite: int) -> None:
    ours, record = keys(suite), sealed(others(suite), 0, b"hello" + bytes([DATA]))
    assert [ours.open(record[:cut], MOST) for cut in range(len(record))] == [MORE] * len(record)
    assert ours.number == 0
    assert ours.open(record, MOST) == (len(record), DATA, b"hello")


@suites
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, MOST - 1, MOST])
def test_sizes(suite: int, size: int) -> None:
    ours, theirs, content = keys(suite), others(suite), bytes(size)
    assert opened(theirs, 0, ours.seal(content, DATA)) == content + bytes([DATA])
    record = sealed(theirs, 0, content + bytes([DATA]))
    assert keys(suite).open(record, MOST) == (size + 22, DATA, content)


@suites
@pytest.mark.parametrize("updates", [1, 2, 5])
def test_key_updates(suite: int, updates: int) -> None:
    ours, theirs = keys(suite), others(suite, updates)
    ours.seal(b"with the first key", DATA)
    for _ in range(updates):
        before = ours.secret
        ours.update()
        assert ours.secret != before and ours.number == 0
    assert opened(theirs, 0, ours.seal(b"x", DATA)) == b"x" + bytes([DATA])


@given(st.integers(0, END - 1))
def test_numbers(number: int) -> None:
    """The nonce of any record; it is counted, once."""
    ours, theirs = keys(1), others(1)
    ours.number = number
    assert opened(theirs, number, ours.seal(b"x", DATA)) == b"x" + bytes([DATA])
    assert (ours.number, ours.wears) == (number + 1, number + 1 >= WEARS)
    ours.number = number
    assert ours.open(sealed(theirs, number, b"x" + bytes([DATA])), MOST)[1:] == (DATA, b"x")
    assert ours.number == number + 1


def test_the_last_number_is_never_used() -> None:
    ours = keys(1)
    ours.number = END
    assert ours.seal(b"x", DATA) is None
    assert ours.open(sealed(others(1), END, b"x" + bytes([DATA])), MOST) == (-1, INTERNAL, None)
    assert ours.number == END


def test_keys_are_wiped() -> None:
    ours = keys(2)
    assert not ours.is_wiped
    ours.wipe()
    assert ours.is_wiped


# -- what is refused --


@suites
def test_a_flipped_bit_anywhere(suite: int) -> None:
    """Also in the header: it is authenticated, but for its version's effect."""
    record = sealed(others(suite), 0, b"abc" + bytes([DATA]))
    for place in range(len(record)):
        for bit in range(8):
            changed = record[:place] + bytes([record[place] ^ 1 << bit]) + record[place + 1 :]
            ours = keys(suite)
            result, alert, _ = ours.open(changed + bytes(1 << 15), MOST)
            assert result == -1 and ours.number == 0
            expected = {BAD_MAC} if place != 0 else {UNEXPECTED}
            if place in (3, 4):
                expected = {BAD_MAC, OVERFLOW}
            assert alert in expected


@suites
def test_the_wrong_key_or_number(suite: int) -> None:
    record = sealed(others(suite, 1), 0, b"x" + bytes([DATA]))
    assert keys(suite).open(record, MOST) == (-1, BAD_MAC, None)
    record = sealed(others(suite), 1, b"x" + bytes([DATA]))
    assert keys(suite).open(record, MOST) == (-1, BAD_MAC, None)


@pytest.mark.parametrize("kind", [kind for kind in range(256) if kind != DATA])
def test_plaintext_records_and_unknown_ones(kind: int) -> None:
    """Refused by their header, before the rest arrives; change_cipher_spec, too, as the handshake is over."""
    assert keys(1).open(head(1, kind), MOST) == (-1, UNEXPECTED, None)
    record = sealed(others(1), 0, b"x" + bytes([kind]))
    if kind in (ALERT, HANDSHAKE):
        assert keys(1).open(record, MOST) == (len(record), kind, b"x")
    else:  # a type of 0 is padding, and then x is the type
        assert keys(1).open(record, MOST) == (-1, UNEXPECTED, None)


@given(st.integers(0, 65535), st.integers(512, MOST))
def test_the_size_in_a_header(size: int, most: int) -> None:
    """What is too long is refused before it arrives; what has no room for a tag, as if that were wrong."""
    verdict = keys(1).open(head(size), most)
    if size > most + 17:
        assert verdict == (-1, OVERFLOW, None)
    elif size < 16:
        assert verdict == (-1, BAD_MAC, None)
    else:
        assert verdict == MORE


@pytest.mark.parametrize("inner", [b"", bytes(1), bytes(100), bytes([ALERT]), bytes([HANDSHAKE]) + bytes(9)])
def test_records_without_content(inner: bytes) -> None:
    """Without a type, or empty where that is not allowed (RFC 8446 §5.4)."""
    ours = keys(1)
    assert ours.open(sealed(others(1), 0, inner), MOST) == (-1, UNEXPECTED, None)


def test_an_empty_record_of_data() -> None:
    assert keys(1).open(sealed(others(1), 0, bytes([DATA])), MOST) == (22, DATA, b"")


# -- after the handshake --

UPDATES = [(b"\x18\0\0\1\0", 1), (b"\x18\0\0\1\1", 2)]


@pytest.mark.parametrize(("message", "result"), UPDATES)
def test_a_key_update_in_every_split(message: bytes, result: int) -> None:
    for cut in range(1, len(message)):
        assert probe.tls_post_handshake([message[:cut]]) == (0, 0, True)
        assert probe.tls_post_handshake([message[:cut], message[cut:]]) == (result, 0, False)
    assert probe.tls_post_handshake([message[i : i + 1] for i in range(5)]) == (result, 0, False)


@given(st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=4))
def test_other_messages(records: list[bytes]) -> None:
    """Judged as one stream, which must end with a record."""
    result, alert, waits = probe.tls_post_handshake(records)
    text = b"".join(records)
    same = next((i for i, byte in enumerate(b"\x18\0\0\1") if text[i : i + 1] != bytes([byte])), 4)
    if same < 4:
        expected = (0, 0) if len(text) == same else (-1, DECODE if same else UNEXPECTED)
        assert (result, alert) == expected and waits == (same > 0 if result == 0 else waits)
    elif len(text) == 4:
        assert (result, waits) == (0, True)
    elif any(len(b"".join(records[:i])) == 5 for i in range(len(records) + 1)):
        assert (result, alert) == ((text[4] + 1, 0) if text[4] < 2 else (-1, ILLEGAL))
    else:
        assert (result, alert) == (-1, UNEXPECTED)


@given(st.binary(max_size=4))
def test_alerts(content: bytes) -> None:
    result, alert = probe.tls_post_alert(content)
    if len(content) != 2:
        assert (result, alert) == (-1, DECODE)
    else:
        assert alert == content[1]
        assert result == {0: 3, 90: 0}.get(content[1], 4)


# -- against OpenSSL --


class Handshake:
    """A TLS 1.3 handshake of Python's ssl with itself, in memory, and the secrets that it logged."""

    def __init__(self, folder: Path) -> None:
        made = Certificates(folder)
        cert, key = made.issue("server", "localhost")
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(made.ca))
        server.load_cert_chain(cert, key)
        server.num_tickets = 0
        client.minimum_version = ssl.TLSVersion.TLSv1_3
        log = folder / "keys"
        client.keylog_filename = str(log)
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True)
        self.client = client.wrap_bio(self.to_client, self.to_server, server_hostname="localhost")
        for end in (self.client, self.server, self.client, self.server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
        secrets = dict(re.findall(r"^(\w+)_TRAFFIC_SECRET_0 \w+ (\w+)$", log.read_text(), re.MULTILINE))
        cipher = self.client.cipher()
        assert cipher is not None
        suite = {str(CipherSuite.ietfNames[number]): suite for suite, number in SUITES.items()}[cipher[0]]
        self.from_client = probe.TlsDirection(bytes.fromhex(secrets["CLIENT"]), suite)
        self.from_server = probe.TlsDirection(bytes.fromhex(secrets["SERVER"]), suite)


@given(contents=st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=5))
def test_both_directions_of_a_real_session(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    """The engine takes a server's place after the handshake."""
    session = Handshake(tmp_path_factory.mktemp("tls"))
    for content in contents:
        session.client.write(content)
        record = session.to_server.read()
        assert session.from_client.open(record, MOST) == (len(record), DATA, content)
        session.to_client.write(session.from_server.seal(content[::-1], DATA))
        assert session.client.read(1 << 16) == content[::-1]


def test_key_updates_and_the_end_of_a_real_session(tmp_path: Path) -> None:
    """KeyUpdate is asked of the client, which answers it with one of its own; then close_notify, both ways."""
    session = Handshake(tmp_path)
    for _ in range(3):
        session.to_client.write(session.from_server.seal(b"\x18\0\0\1\1", HANDSHAKE))
        session.from_server.update()
        session.to_client.write(session.from_server.seal(b"new keys", DATA))
        assert session.client.read(100) == b"new keys"
        session.client.write(b"mine, too")
        data = session.to_server.read()
        size, kind, content = session.from_client.open(data, MOST)
        assert (kind, probe.tls_post_handshake([content])) == (HANDSHAKE, (1, 0, False))
        session.from_client.update()
        assert session.from_client.open(data[size:], MOST)[1:] == (DATA, b"mine, too")
    session.to_client.write(session.from_server.seal(b"\1\0", ALERT))
    assert session.client.read(100) == b""
    session.client.unwrap()
    _, kind, content = session.from_client.open(session.to_server.read(), MOST)
    assert (kind, probe.tls_post_alert(content)) == (ALERT, (3, 0))
