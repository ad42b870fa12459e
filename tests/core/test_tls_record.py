"""TLS 1.3 records, against the trace of RFC 8448 and tlslite-ng; every split, size and limit; what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tlslite.constants import CipherSuite
from tlslite.recordlayer import ConnectionState, RecordLayer

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
CIPHERS = probe.TlsCiphers()  # all tests share them, as the connections of a loop do
CONTENT = st.binary(max_size=200)
KINDS = st.sampled_from([ALERT, HANDSHAKE, DATA])


def keys(suite: int) -> probe.TlsDirection:
    return probe.TlsDirection(SECRETS[suite], suite, CIPHERS)


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


# -- against the trace of RFC 8448 §3 --

TRACE = [  # traffic secret, key, IV; the number of a record of data, the record, and that of close_notify after it
    (
        "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
        "17422dda596ed5d9acd890e3c63f5051",
        "5b78923dee08579033e523d9",
        0,
        (
            "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292"
            "a2977014bd1e3deae63aeebb21694915e4"
        ),
        "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3",
    ),
    (
        "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
        "9f02283b6c9c07efc26bb9f2ac92e356",
        "cf782b88dd83549aadf1e984",
        1,
        (
            "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0"
            "a21c0047c2abf332540dd032e167c2955d"
        ),
        "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9",
    ),
]


@pytest.mark.parametrize(("secret", "key", "iv", "number", "data", "alert"), TRACE, ids=["client", "server"])
def test_the_trace_of_the_rfc(secret: str, key: str, iv: str, number: int, data: str, alert: str) -> None:
    """Data and then close_notify: sealed and opened. The server's first record was a ticket."""
    sends, receives = (probe.TlsDirection(bytes.fromhex(secret), 1, CIPHERS) for _ in range(2))
    assert (sends.key.hex(), sends.iv.hex()) == (key, iv)
    sends.number = receives.number = number
    assert sends.seal(bytes(range(50)), DATA).hex() == data
    assert sends.seal(probe.tls_post_put_alert(0), ALERT).hex() == alert
    assert receives.open(bytes.fromhex(data + alert), MOST) == (72, DATA, bytes(range(50)))
    assert receives.open(bytes.fromhex(alert), MOST) == (24, ALERT, b"\1\0")


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
def test_a_stream_of_records_in_any_pieces(suite: int) -> None:
    """Cut everywhere in two."""
    theirs = others(suite)
    contents = [b"a", b"", b"bcd" * 5]
    stream = b"".join(sealed(theirs, number, each + bytes([DATA])) for number, each in enumerate(contents))
    for cut in range(len(stream) + 1):
        ours, waiting, found = keys(suite), b"", []
        for piece in (stream[:cut], stream[cut:]):
            waiting += piece
            while (verdict := ours.open(waiting, MOST))[0] > 0:
                found.append(verdict[2])
                waiting = waiting[verdict[0] :]
            assert verdict == MORE
        assert (found, waiting) == (contents, b"")


@suites
@given(turns=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12))
def test_connections_share_the_ciphers_of_a_loop(suite: int, turns: list[tuple[int, bool]]) -> None:
    """In any order, with key updates between their records: none gets the key of another, or its own old one."""
    secrets = [SECRETS[suite][i:] + SECRETS[suite][:i] for i in range(3)]
    sends, receives = ([probe.TlsDirection(secret, suite, CIPHERS) for secret in secrets] for _ in range(2))
    # The same with ciphers of their own, which have no other connection's key.
    alone = [probe.TlsDirection(secret, suite, probe.TlsCiphers()) for secret in secrets]
    for turn, (at, update) in enumerate(turns):
        if update:
            for each in (sends[at], receives[at], alone[at]):
                each.update()
        record = sends[at].seal(bytes([turn]), DATA)
        assert record == alone[at].seal(bytes([turn]), DATA)
        assert receives[at].open(record, MOST) == (23, DATA, bytes([turn]))


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


def test_when_keys_wear() -> None:
    ours = keys(1)
    for number, wears in ((0, False), (WEARS - 1, False), (WEARS, True), (END, True)):
        ours.number = number
        assert ours.wears == wears


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


@suites
def test_inner_plaintexts_of_all_lengths(suite: int) -> None:
    """0 to 2**14 + 256 bytes of a ciphertext: what fits is opened; what does not is refused, though it is authentic."""
    theirs = others(suite)
    for size in [*range(40), *range(MOST - 1, MOST + 242, 20), MOST + 1, MOST + 2, MOST + 240]:
        inner = b"x" + bytes([DATA]) + bytes(size - 2) if size > 1 else bytes([DATA])[:size]
        record = sealed(theirs, 0, inner)
        if size > MOST + 1:
            assert keys(suite).open(record[:5], MOST) == keys(suite).open(record, MOST) == (-1, OVERFLOW, None)
        elif size == 0:
            assert keys(suite).open(record, MOST) == (-1, UNEXPECTED, None)
        else:
            assert keys(suite).open(record, MOST) == (len(record), DATA, inner[:-1] and b"x")


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


@pytest.mark.parametrize(("message", "result"), UPDATES)
def test_own_key_updates(message: bytes, result: int) -> None:
    assert probe.tls_post_put_update(result == 2) == message


def test_own_alerts() -> None:
    """The level is fatal, but of close_notify and user_canceled."""
    for alert in range(256):
        assert probe.tls_post_put_alert(alert) == bytes([1 if alert in (0, 90) else 2, alert])
