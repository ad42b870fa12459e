"""The command line's clients over wss, to nginx in front of an engine; and what they say when TLS goes wrong."""

import contextlib
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
import proxies
from certificates import Certificates
from kit import complaint


@pytest.fixture(scope="module")
def engine() -> Iterator[kit.Engine]:
    with kit.engine(loops=1, trusted_proxies=["127.0.0.1"]) as running:
        yield running


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextlib.contextmanager
def nginx(engine: kit.Engine, folder: Path, files: tuple[Path, Path], more: str = "") -> Iterator[int]:
    """The port of an nginx with TLS in front of the engine."""
    paths = {"/etc/nginx/certs/tls.crt": str(files[0]), "/etc/nginx/certs/tls.key": f"{files[1]}; {more}".rstrip("; ")}
    with proxies.running("nginx", [engine.port], folder, paths) as proxy:
        yield proxy.port


def publish(port: int, *words: str, host: str = "localhost", **environment: str) -> subprocess.CompletedProcess[str]:
    return kit.run("pub", "--url", f"wss://{host}:{port}/", *words, "lobby", "hello", **environment)


def test_messages_pass(engine: kit.Engine, certificates: Certificates, tmp_path: Path) -> None:
    """With the authority as a file, as OpenSSL's variable, or with any certificate."""
    with nginx(engine, tmp_path, certificates.issue("good", "localhost")) as port:
        command = [*kit.python(), "-m", "signal_py", "sub", "--url", f"wss://localhost:{port}/", "--raw", "lobby"]
        with subprocess.Popen(
            [*command, "--ca", str(certificates.ca)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=kit.clean_environment(),
        ) as sub:
            assert sub.stdout is not None and sub.stderr is not None
            assert b"joined lobby" in sub.stderr.readline()
            for words, environment in (
                (("--ca", str(certificates.ca)), {}),
                ((), {"SSL_CERT_FILE": str(certificates.ca)}),
                (("--insecure",), {}),
                (("-k",), {}),
            ):
                done = publish(port, *words, **environment)
                assert (done.returncode, done.stderr) == (0, "")
                assert sub.stdout.readline() == b"hello\n"
            sub.kill()


@pytest.mark.parametrize(
    ("host", "dates", "said"),
    [
        ("signal.example", (-1, 30), "has a certificate that is not for localhost: give the URL with a name that"),
        ("localhost", (-30, -1), "has a certificate that has expired: renew it there"),
        ("localhost", (1, 30), "has a certificate that is not valid yet: correct the clock"),
    ],
)
def test_bad_certificates(
    engine: kit.Engine,
    certificates: Certificates,
    tmp_path: Path,
    host: str,
    dates: tuple[float, float],
    said: str,
) -> None:
    """They are refused, but with --insecure."""
    with nginx(engine, tmp_path, certificates.issue("bad", host, begins=dates[0], ends=dates[1])) as port:
        error = complaint(publish(port, "--ca", str(certificates.ca)))
        assert f"--url wss://localhost:{port}/ {said}" in error
        assert publish(port, "--insecure").returncode == 0


def test_an_unknown_authority(engine: kit.Engine, certificates: Certificates, tmp_path: Path) -> None:
    with nginx(engine, tmp_path, certificates.issue("unknown", "localhost")) as port:
        said = "has a certificate of an authority that is not trusted: name the authority's file with --ca FILE"
        assert f"{said}.\n" in complaint(publish(port))
        error = complaint(publish(port, SSL_CERT_FILE="/nowhere"))
        assert f"{said} (SSL_CERT_FILE names /nowhere, which is no file)." in error


def test_a_client_certificate(engine: kit.Engine, certificates: Certificates, tmp_path: Path) -> None:
    """It is shown to a server that asks for one."""
    more = f"ssl_client_certificate {certificates.ca}; ssl_verify_client on"
    with nginx(engine, tmp_path, certificates.issue("asking", "localhost"), more) as port:
        cert, key = certificates.issue("client", "client.example")
        trust = ("--ca", str(certificates.ca))
        assert "answered HTTP 400" in complaint(publish(port, *trust))
        assert publish(port, *trust, "--cert", str(cert), "--key", str(key)).returncode == 0
        both = tmp_path / "client.both"
        both.write_bytes(cert.read_bytes() + key.read_bytes())
        assert publish(port, *trust, "--cert", str(both)).returncode == 0


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """The port of a server that reads once, answers this, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as one:
                one.recv(4096)
                one.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(kit.PATIENCE)


def test_a_port_without_tls(engine: kit.Engine) -> None:
    """An engine answers the handshake of TLS with HTTP, or closes; another server may do either."""
    assert re.search(
        "does not speak TLS: write ws://|closes the connection during the TLS handshake",
        complaint(publish(engine.port)),
    )
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert "does not speak TLS: write ws:// instead" in complaint(publish(port))
    with answering(b"") as port:
        assert "closes the connection during the TLS handshake: write ws://" in complaint(publish(port))


def test_nobody_listens() -> None:
    assert "can't be reached (nothing listens there)" in complaint(publish(kit.free_port()))


def test_a_server_of_another_version(certificates: Certificates) -> None:
    """Its alert is told."""
    with answering(bytes([21, 3, 3, 0, 2, 2, 70])) as port:  # protocol_version
        assert "does not agree on TLS (tlsv1 alert protocol version)" in complaint(publish(port))


def test_files_that_can_not_be_used(certificates: Certificates, tmp_path: Path) -> None:
    """They are found before anything is sent."""
    empty = tmp_path / "empty"
    empty.touch()
    cert, key = certificates.issue("one", "one.example")
    other = certificates.issue("two", "two.example")[1]
    for words, said in (
        (("--ca", "/nowhere"), "--ca /nowhere can't be read (No such file or directory): name a readable file."),
        (("--ca", str(empty)), f"--ca {empty} can't be used (no certificate (PEM) in it): name a file that has one."),
        (("--cert", str(empty)), f"--cert {empty} can't be used (no certificate and key (PEM) without a passphrase"),
        (("--cert", str(cert)), f"--cert {cert} can't be used (no certificate and key"),
        (("--cert", str(cert), "--key", str(other)), f"--key {other} is not the key of the certificate"),
        (("--key", str(key)), "--key is given without --cert"),
        (("--ca", str(certificates.ca), "-k"), "--ca is given together with --insecure, which ignores it"),
    ):
        assert said in complaint(kit.run("pub", *words, "lobby", "x"))
