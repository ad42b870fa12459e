"""The admin server with TLS: pages, clients' certificates, new certificates by a reload, and faults."""

import http.client
import json
import signal
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import kit
from certificates import Certificates
from kit import complaint


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def context_of(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificates.ca))


def names_of(node: kit.Engine, context: ssl.SSLContext) -> list[str]:
    """The names in the certificate of the admin server, which must answer."""
    connection = http.client.HTTPSConnection(urlsplit(node.admin_url).netloc, context=context, timeout=kit.PATIENCE)
    try:
        connection.request("GET", "/stats")
        assert json.loads(connection.getresponse().read())["node"] == node.node
        connection.request("GET", "/healthz")  # over the same connection
        assert connection.getresponse().read() == b"ok\n"
        found = connection.sock.getpeercert()["subjectAltName"]
        return [name for _, name in found]
    finally:
        connection.close()


def test_pages_commands_and_a_reload(certificates: Certificates) -> None:
    cert, key = certificates.issue("admin", "127.0.0.1")
    with kit.engine(admin_tls_cert=cert, admin_tls_key=key) as node:
        assert node.admin_url.startswith("https://127.0.0.1:")
        context = context_of(certificates)
        assert names_of(node, context) == ["127.0.0.1"]
        done = kit.run("top", "--admin", node.admin_url, "--ca", str(certificates.ca), "--json", "--count", "1")
        assert json.loads(done.stdout)["nodes"][0]["node"] == node.node
        error = complaint(kit.run("drain", "--admin", node.admin_url))
        assert f"--admin {node.admin_url} has a certificate of an authority that is not trusted" in error
        bare = node.admin_url.removeprefix("https://").rstrip("/")
        assert f"--admin {bare} can't be reached" in complaint(kit.run("drain", "--admin", bare))

        cert.write_text("damaged")
        node.child.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        kit.until(lambda: node.events("not reloaded"), "the reload is refused")
        assert "admin-tls-cert" in node.events("not reloaded")[0]["reason"]
        assert names_of(node, context) == ["127.0.0.1"]

        certificates.issue("admin", "127.0.0.1", "other.example")
        node.child.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        kit.until(lambda: "other.example" in names_of(node, context), "the new certificate is shown")
        done = kit.run("drain", "--admin", node.admin_url, "--ca", str(certificates.ca))
        assert f"{node.node} is draining" in done.stdout


def test_a_silent_client_keeps_nobody_waiting(certificates: Certificates) -> None:
    cert, key = certificates.issue("admin", "127.0.0.1")
    with kit.engine(admin_tls_cert=cert, admin_tls_key=key) as node:
        where = urlsplit(node.admin_url)
        with socket.create_connection((where.hostname or "", where.port or 0)):
            assert names_of(node, context_of(certificates)) == ["127.0.0.1"]


def test_clients_show_certificates(certificates: Certificates) -> None:
    cert, key = certificates.issue("admin", "127.0.0.1")
    both = certificates.folder / "both"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    mine = certificates.issue("operator", "operator.example")
    with kit.engine(admin_tls_cert=both, admin_tls_client_ca=certificates.ca) as node:
        trust = ("drain", "--admin", node.admin_url, "--ca", str(certificates.ca))
        error = complaint(kit.run(*trust))  # the alert may be lost, as the client has sent its request by then
        assert "asks for a client's certificate" in error and "--cert FILE" in error
        done = kit.run(*trust, "--cert", str(mine[0]), "--key", str(mine[1]))
        assert done.returncode == 0, done.stderr


def test_faults(certificates: Certificates) -> None:
    cert, key = certificates.issue("admin", "127.0.0.1")
    other = certificates.issue("other", "127.0.0.1")[1]
    empty = certificates.folder / "empty"
    empty.touch()
    for settings, said in (
        ({"admin_tls_cert": "/nowhere"}, "--admin-tls-cert /nowhere can't be used (No such file or directory)"),
        ({"admin_tls_cert": empty, "admin_tls_key": key}, f"--admin-tls-cert {empty} can't be used (no certificate"),
        ({"admin_tls_cert": cert, "admin_tls_key": other}, f"--admin-tls-key {other} can't be used (its key is not"),
        ({"admin_tls_cert": cert, "admin_tls_key": cert}, f"--admin-tls-key {cert} can't be used (no key in it"),
        ({"admin_tls_cert": cert}, f"--admin-tls-cert {cert} can't be used (a certificate, or its key, is missing"),
        ({"admin_tls_key": key}, "--admin-tls-key is given without --admin-tls-cert: give that, too."),
    ):
        done = kit.run(
            "check", *kit.flags({"nats": "off", "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **settings})
        )
        assert done.returncode == 2 and f"fault    {said}" in done.stdout, done.stdout
    unix = {"nats": "off", "admin": "unix:@signal-test", "admin_tls_cert": cert, "admin_tls_key": key}
    done = kit.run("check", *kit.flags({"listen": "127.0.0.1:0", **unix}))
    assert "warning  --admin-tls-cert has no effect while admin is unix:@signal-test, a unix socket" in done.stdout
