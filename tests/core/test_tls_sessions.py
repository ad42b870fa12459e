"""TLS 1.3 records in sessions of OpenSSL: the engine takes the place of one end after the handshake."""

from __future__ import annotations

import contextlib
import errno
import re
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tlslite.api import HandshakeSettings, TLSConnection

from certificates import Certificates
from signal_core import probe

ALERT, HANDSHAKE, DATA = 21, 22, 23
MOST = 1 << 14
SUITES = {"TLS_AES_128_GCM_SHA256": 1, "TLS_AES_256_GCM_SHA384": 2, "TLS_CHACHA20_POLY1305_SHA256": 3}
CIPHERS = probe.TlsCiphers()


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
        suite = SUITES[cipher[0]]
        self.from_client = probe.TlsDirection(bytes.fromhex(secrets["CLIENT"]), suite, CIPHERS)
        self.from_server = probe.TlsDirection(bytes.fromhex(secrets["SERVER"]), suite, CIPHERS)


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
        session.to_client.write(session.from_server.seal(probe.tls_post_put_update(True), HANDSHAKE))
        session.from_server.update()
        session.to_client.write(session.from_server.seal(b"new keys", DATA))
        assert session.client.read(100) == b"new keys"
        session.client.write(b"mine, too")
        data = session.to_server.read()
        size, kind, content = session.from_client.open(data, MOST)
        assert (kind, probe.tls_post_handshake([content])) == (HANDSHAKE, (1, 0, False))
        session.from_client.update()
        assert session.from_client.open(data[size:], MOST)[1:] == (DATA, b"mine, too")
    session.to_client.write(session.from_server.seal(probe.tls_post_put_alert(0), ALERT))
    assert session.client.read(100) == b""
    session.client.unwrap()
    _, kind, content = session.from_client.open(session.to_server.read(), MOST)
    assert (kind, probe.tls_post_alert(content)) == (ALERT, (3, 0))


# -- each suite --


class Pipe:
    """A non-blocking socket of tlslite-ng's, in memory."""

    def __init__(self) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()

    def send(self, data: bytes) -> int:
        return self.to_server.write(bytes(data))

    def sendall(self, data: bytes) -> None:
        self.send(data)

    def recv(self, size: int) -> bytes:
        if not self.to_client.pending:
            raise OSError(errno.EWOULDBLOCK, "nothing is there")
        return self.to_client.read(size)


@pytest.mark.parametrize("cipher", ["aes128gcm", "aes256gcm", "chacha20-poly1305"])
def test_each_suite_of_openssl(tmp_path: Path, cipher: str) -> None:
    """tlslite-ng, which can choose one suite, makes the handshake with OpenSSL; then the engine takes its place."""
    context, pipe = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Pipe()
    context.load_cert_chain(*Certificates(tmp_path).issue("server", "localhost"))
    context.num_tickets = 0
    context.keylog_filename = str(tmp_path / "keys")
    server = context.wrap_bio(pipe.to_server, pipe.to_client, server_side=True)
    settings = HandshakeSettings()
    settings.cipherNames = [cipher]
    for _ in TLSConnection(pipe).handshakeClientCert(settings=settings, async_=True):
        with contextlib.suppress(ssl.SSLWantReadError):
            server.do_handshake()
    server.do_handshake()
    found = server.cipher()
    assert found is not None
    secrets = dict(re.findall(r"^(\w+)_TRAFFIC_SECRET_0 \w+ (\w+)$", (tmp_path / "keys").read_text(), re.MULTILINE))
    from_client, from_server = (
        probe.TlsDirection(bytes.fromhex(secrets[end]), SUITES[found[0]], CIPHERS) for end in ("CLIENT", "SERVER")
    )
    for size in (1, 128, MOST):
        pipe.to_server.write(from_client.seal(bytes(size), DATA))
        assert server.read(MOST) == bytes(size)
        server.write(bytes(size))
        assert from_server.open(pipe.to_client.read(), MOST) == (size + 22, DATA, bytes(size))
    assert SUITES[found[0]] == ["aes128gcm", "aes256gcm", "chacha20-poly1305"].index(cipher) + 1
