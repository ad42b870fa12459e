"""TLS handshakes of clients in memory, against Python's ssl: what is taken over of OpenSSL."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

import kit
from certificates import Certificates
from signal_core import probe

MORE, DONE, FAILED = 0, 1, -1
TICKETS = 2  # OpenSSL's servers send as many after a full handshake, each in a record
CCM_ONLY = """openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = tls
[tls]
Ciphersuites = TLS_AES_128_CCM_SHA256
"""
HANDSHAKE = """
import ssl, sys
from signal_core import probe
_, ca, cert, key = sys.argv
came, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = ssl.create_default_context(cafile=ca).wrap_bio(came, sent, server_hostname="signal.test")
session, result = probe.TlsServerSession(probe.TlsServerSet(cert, key), probe.TlsServerIo()), 0
while result == 0:
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    result, _, out, reason = session.step(sent.read())
    came.write(out)
print(result, reason)
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> probe.TlsServerSet:
    cert, key = certificates.issue("server", "signal.test")
    return probe.TlsServerSet(str(cert), str(key))


class Client:
    """A client of Python's ssl, whose secrets are in a file."""

    def __init__(self, certificates: Certificates, log: Path, context: ssl.SSLContext | None = None) -> None:
        self.context = context or ssl.create_default_context(cafile=str(certificates.ca))
        self.log, self.came, self.sent = log, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.context.keylog_filename = str(log)
        self.tls = self.context.wrap_bio(self.came, self.sent, server_hostname="signal.test")

    def go(self) -> bytes:
        """Goes on with the handshake. Returns what it sends."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.sent.read()

    def secrets(self) -> tuple[bytes, ...]:
        lines = [line.split() for line in self.log.read_text().splitlines() if not line.startswith("#")]
        told = {label: bytes.fromhex(secret) for label, _, secret in lines}
        return told["CLIENT_TRAFFIC_SECRET_0"], told["SERVER_TRAFFIC_SECRET_0"]


def shake(client: Client, session: probe.TlsServerSession, size: int = 1 << 20, behind: bytes = b"") -> bytes:
    """A whole handshake, in pieces of `size` bytes; `behind` follows the client's Finished. Returns what the server
    leaves to its caller."""
    for last in (b"", behind):
        flight = client.go() + last
        for at in range(0, len(flight), size):
            piece = flight[at : at + size]
            result, used, out, reason = session.step(piece)
            client.came.write(out)
            if result == DONE:
                return piece[used:] + flight[at + size :]
            assert (result, used) == (MORE, len(piece)), reason
    raise AssertionError("the handshake does not end")


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_the_secrets_the_suite_and_the_tickets_are_taken_over(server, certificates, tmp_path, size):
    client, session = Client(certificates, tmp_path / "log"), probe.TlsServerSession(server, probe.TlsServerIo())
    behind = b"\x17\x03\x03\x00\x40 is left to the caller"
    assert shake(client, session, size, behind) == behind
    suite, resumed, written = session.state
    used = 48 if suite == 2 else 32
    assert client.tls.cipher()[0] == "TLS_AES_256_GCM_SHA384" and suite == 2
    assert tuple(secret[:used] for secret in session.secrets) == client.secrets()
    assert (resumed, written) == (False, TICKETS)
    opens_next(client, session)


def opens_next(client: Client, session: probe.TlsServerSession) -> None:
    """The client opens a record that is sealed under the server's secret, if the number is what it expects."""
    suite, _, written = session.state
    keys = probe.TlsDirection(session.secrets[1][: 48 if suite == 2 else 32], suite, probe.TlsCiphers())
    keys.number = written
    client.came.write(keys.seal(b"hello", 23))
    assert client.tls.read() == b"hello"


def test_handshakes_of_a_loop_share_its_io(server, certificates, tmp_path):
    io = probe.TlsServerIo()
    first, second = Client(certificates, tmp_path / "first"), Client(certificates, tmp_path / "second")
    sessions = [probe.TlsServerSession(server, io) for _ in range(2)]
    for client, session in zip((first, second), sessions, strict=True):
        client.came.write(session.step(client.go())[2])
    for client, session in zip((first, second), sessions, strict=True):
        assert session.step(client.go())[0] == DONE
        assert session.secrets == client.secrets()


def test_another_version_garbage_and_http_fail_with_a_reason(server, certificates, tmp_path):
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    old = Client(certificates, tmp_path / "log", context=context)
    result, _, out, reason = probe.TlsServerSession(server, probe.TlsServerIo()).step(old.go())
    assert (result, out[:1], out[-1], reason) == (FAILED, b"\x15", 70, "unsupported protocol")  # protocol_version
    for data in (b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\x16\x03\x01\xff\xff" + bytes(64)):
        result, _, _, reason = probe.TlsServerSession(server, probe.TlsServerIo()).step(data)
        assert result == FAILED and reason


def test_very_many_loops_come_and_go(server, certificates, tmp_path):
    """More than OpenSSL has numbers for kinds of BIOs."""
    for _ in range(300):
        io = probe.TlsServerIo()
    client, session = Client(certificates, tmp_path / "log"), probe.TlsServerSession(server, io)
    assert shake(client, session) == b""


def test_handshakes_are_abandoned_anywhere(server, certificates, tmp_path):
    io, hello = probe.TlsServerIo(), Client(certificates, tmp_path / "log").go()
    for n in range(len(hello)):
        assert probe.TlsServerSession(server, io).step(hello[:n])[:3] == (MORE, n, b"")


def test_no_suite_is_chosen_that_the_record_layer_does_not_have(server, certificates, tmp_path):
    """Whatever OpenSSL's configuration file says; the client of this test offers nothing else."""
    conf = tmp_path / "openssl.cnf"
    conf.write_text(CCM_ONLY)
    paths = [str(certificates.folder / name) for name in ("ca.pem", "server.pem", "server.key")]
    command = [sys.executable, "-c", HANDSHAKE, *paths]
    environment = kit.clean_environment(OPENSSL_CONF=str(conf), PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "-1 no shared cipher\n", done.stderr


def test_a_wrong_file_is_named(certificates, tmp_path):
    cert, key = certificates.issue("one", "one.test")
    _, other = certificates.issue("two", "two.test")
    for wrong, files in {"cert": (tmp_path / "none", key), "key": (cert, other)}.items():
        with pytest.raises(ValueError) as fault:
            probe.TlsServerSet(str(files[0]), str(files[1]))
        assert fault.value.args[0] == wrong and fault.value.args[1]
