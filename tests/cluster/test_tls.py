"""TLS between the engine and NATS, with a real nats-server and test certificates."""

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

import kit
from certificates import Certificates
from peers import BarePeer
from wire import until

from .conftest import account, await_cluster
from .test_access import reach


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def tls_url(server: kit.Nats, host: str = "127.0.0.1") -> str:
    return f"tls://{host}:{server.port}"


@contextlib.contextmanager
def cluster(server: kit.Nats, **access: object) -> Iterator[tuple[BarePeer, BarePeer]]:
    """A peer on each of two nodes, with one loop and with two."""
    with kit.engine(loops=1, **access) as one, kit.engine(loops=2, **access) as two:
        await_cluster([one, two])
        with BarePeer(one.port) as a, BarePeer(two.port) as b:
            yield a, b
        account()


def test_messages_cross(certificates: Certificates) -> None:
    with (
        kit.nats(config=certificates.server()) as server,
        cluster(server, nats=tls_url(server), nats_tls_ca=certificates.ca) as (a, b),
    ):
        reach(a, b)


def test_a_server_that_requires_tls_gets_it_with_any_url(certificates: Certificates) -> None:
    with (
        kit.nats(config=certificates.server()) as server,
        cluster(server, nats=server.url, nats_tls_ca=certificates.ca) as (a, b),
    ):
        reach(a, b)


def test_a_server_that_may_begin_with_tls(certificates: Certificates) -> None:
    config = certificates.server(more=', handshake_first: "auto"')
    with (
        kit.nats(config=config) as server,
        kit.engine(nats=tls_url(server), nats_tls_ca=certificates.ca) as engine,
    ):
        until(lambda: engine.stats()["nats_state"] == "up", "the server greets after all")


def test_a_name_is_verified_and_sent(certificates: Certificates) -> None:
    with (
        kit.nats(config=certificates.server("localhost")) as server,
        cluster(server, nats=tls_url(server, "localhost"), nats_tls_ca=certificates.ca) as (a, b),
    ):
        reach(a, b)


def test_both_ends_show_certificates(certificates: Certificates) -> None:
    cert, key = certificates.issue("node", "node.example")
    files = {"nats_tls_ca": certificates.ca, "nats_tls_cert": cert, "nats_tls_key": key}
    with kit.nats(config=certificates.server(more=", verify: true")) as server:
        with cluster(server, nats=tls_url(server), **files) as (a, b):
            reach(a, b)
        with kit.engine(nats=tls_url(server), nats_tls_ca=certificates.ca) as alone:
            await_away(alone, "")  # OpenSSL's text of the alert differs from version to version


def await_away(engine: kit.Engine, reason: str) -> None:
    """Waits until the log says that NATS is away, with this reason."""

    def logged() -> bool:
        return any(line["event"].startswith("NATS is away") and reason in line["reason"] for line in engine.events())

    until(logged, f"the log says that NATS is away because of '{reason}'")


@pytest.mark.parametrize("host", ["127.0.0.2", "nats.example"])
def test_a_certificate_for_another_host_is_refused(certificates: Certificates, host: str) -> None:
    with (
        kit.nats(config=certificates.server(host)) as server,
        kit.engine(nats=tls_url(server), nats_tls_ca=certificates.ca) as engine,
    ):
        await_away(engine, "IP address mismatch")


def test_an_authority_that_is_not_ours_is_refused(certificates: Certificates) -> None:
    with (
        kit.nats(config=certificates.server()) as server,
        kit.engine(nats=tls_url(server)) as engine,
        BarePeer(engine.port) as a,
        BarePeer(engine.port) as b,
    ):
        await_away(engine, "certificate")
        assert a.ask(f"TO {b.address}", "here") == "ok"  # local delivery goes on


def test_a_server_without_tls_is_not_used() -> None:
    with kit.nats() as server, kit.engine(nats=tls_url(server)) as engine:
        await_away(engine, "offers no TLS")


class Greeter:
    """Sends the INFO of a nats-server that requires TLS, `more` in clear, and then nothing; `received`: the answers."""

    def __init__(self, more: bytes = b"") -> None:
        self._more = more
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._kept: list[socket.socket] = []
        self.received: list[bytes] = []
        self.url = f"tls://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._greet)

    def __enter__(self) -> "Greeter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for peer in (*self._kept, self._listener):
            peer.close()

    def _greet(self) -> None:
        info = json.dumps({"headers": True, "tls_required": True, "max_payload": 1048576})
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self._kept.append(peer)
                peer.sendall(f"INFO {info}\r\n".encode() + self._more)
                self.received.append(peer.recv(100))


def test_a_server_that_greets_and_then_hangs_is_given_up(certificates: Certificates) -> None:
    with Greeter() as silent, kit.engine(nats=silent.url, nats_tls_ca=certificates.ca) as engine:
        await_away(engine, "handshake with the NATS server took too long")
        assert silent.received[0][:1] == b"\x16"  # a record of a TLS handshake


def test_bytes_in_clear_before_tls_are_refused(certificates: Certificates) -> None:
    """Bytes after INFO that are not TLS could come from anybody."""
    with (
        Greeter(b"MSG signal.room.x 16 5\r\nhel") as sly,
        kit.engine(nats=sly.url, nats_tls_ca=certificates.ca) as engine,
    ):
        await_away(engine, "violated the protocol")
        until(lambda: set(sly.received) == {b""}, "it gets nothing but the end of the connection")


def test_a_server_comes_back(certificates: Certificates) -> None:
    with (
        kit.nats(config=certificates.server()) as server,
        kit.engine(nats=tls_url(server), nats_tls_ca=certificates.ca, loops=1) as one,
        kit.engine(nats=tls_url(server), nats_tls_ca=certificates.ca, loops=1) as two,
    ):
        await_cluster([one, two])
        server.stop()
        for engine in (one, two):
            until(lambda e=engine: e.stats()["nats_state"] == "away", "NATS is away")  # type: ignore[misc]
        server.start()
        await_cluster([one, two])
        with BarePeer(one.port) as a, BarePeer(two.port) as b:
            reach(a, b)


def test_a_server_that_reads_slowly_loses_nothing(certificates: Certificates) -> None:
    """More than its socket takes at once arrives in order: partial writes of OpenSSL are continued."""
    messages, size = 400, 40000
    with (
        kit.nats(config=certificates.server()) as server,
        cluster(server, nats=tls_url(server), nats_tls_ca=certificates.ca, backlog_bytes=1 << 26) as (a, b),
    ):
        for number in range(messages):
            a.say(f"TO {b.address}", f"{number} ".ljust(size, "x"))
        for number in range(messages):
            assert b.expect("FROM", a.address).payload == f"{number} ".ljust(size, "x").encode()


def test_many_small_messages_both_ways(certificates: Certificates) -> None:
    """A record holds many messages, and a message may span two records."""
    messages = 3000
    with (
        kit.nats(config=certificates.server()) as server,
        cluster(server, nats=tls_url(server), nats_tls_ca=certificates.ca) as (a, b),
    ):
        for number in range(messages):
            a.say(f"TO {b.address}", f"{number} from a")
            b.say(f"TO {a.address}", f"{number} from b")
        for number in range(messages):
            assert b.expect("FROM", a.address).payload == f"{number} from a".encode()
            assert a.expect("FROM", b.address).payload == f"{number} from b".encode()


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ("nats_tls_ca", "--nats-tls-ca"),
        ("nats_tls_cert", "--nats-tls-cert"),
        ("nats_tls_key", "--nats-tls-key"),
    ],
)
def test_a_bad_file_is_an_error_in_one_line(certificates: Certificates, setting: str, flag: str) -> None:
    cert, key = certificates.issue("node", "node.example")
    files = {"nats_tls_ca": certificates.ca, "nats_tls_cert": cert, "nats_tls_key": key}
    for bad in (Path(__file__), certificates.folder / "missing.pem"):
        done = kit.run("serve", *kit.flags({"nats": "tls://127.0.0.1:1", **files, setting: bad}))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
        assert flag in done.stderr and str(bad) in done.stderr and "name a file" in done.stderr


def test_a_key_of_another_certificate_is_an_error(certificates: Certificates) -> None:
    cert, _ = certificates.issue("one", "one.example")
    _, key = certificates.issue("two", "two.example")
    settings = {"nats": "tls://127.0.0.1:1", "nats_tls_cert": cert, "nats_tls_key": key}
    done = kit.run("serve", *kit.flags(settings))
    assert done.returncode == 2 and "--nats-tls-key" in done.stderr


TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def test_a_key_with_a_passphrase_does_not_prompt(certificates: Certificates) -> None:
    """It is an error, also at a terminal."""
    cert, key = certificates.issue("node", "node.example")
    plain = load_pem_private_key(key.read_bytes(), None)
    locked = BestAvailableEncryption(b"a secret")
    key.write_bytes(plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    settings = {"nats": "tls://127.0.0.1:1", "nats_tls_cert": cert, "nats_tls_key": key}
    serve = [*kit.python(), "-m", "signal_py", "serve", *kit.flags(settings)]
    done = subprocess.run(
        [sys.executable, "-c", TERMINAL, *serve],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=kit.PATIENCE,
        env=kit.clean_environment(),
        cwd=certificates.folder,
        check=False,
    )
    assert done.returncode == 2
    assert b"--nats-tls-key" in done.stdout and b"without a passphrase" in done.stdout


def test_the_server_really_speaks_tls(certificates: Certificates) -> None:
    """So that the other tests really test TLS."""
    with kit.nats(config=certificates.server()) as server:
        context = ssl.create_default_context(cafile=str(certificates.ca))
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            assert b'"tls_required":true' in plain.recv(4096)
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                assert secure.version() == "TLSv1.3"
