"""Fetching a JWKS over real sockets, from hosts that are strict, slow, wrong or hostile."""

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import trustme

from keyhost import KeyHost
from signal_py.auth import jwks_fetch
from signal_py.auth.jwks_fetch import BODY_MAX, REDIRECTS_MAX, LookError, fetch, shown
from signal_py.base.version import VERSION

BODY = b'{"keys": []}'
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def host() -> Iterator[KeyHost]:
    with KeyHost() as made:
        made.body = BODY
        yield made


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyHost]:
    """A host with TLS and a trusted certificate."""
    with KeyHost(context_of(authority)) as made, authority.cert_pem.tempfile() as file:
        monkeypatch.setenv("SSL_CERT_FILE", file)
        made.body = BODY
        yield made


def context_of(authority: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


def reason_of(url: str) -> str:
    with pytest.raises(LookError) as error:
        fetch(url)
    assert "secret" not in str(error.value)
    return error.value.reason


def test_the_user_agent(host: KeyHost) -> None:
    """Some hosts refuse Python's User-Agent."""

    def strict(handler: object) -> None:
        agent = host.asked[-1][1]["user-agent"]
        host.answer(403 if "python" in agent.lower() else 200)(handler)  # type: ignore[arg-type]

    host.answers["/keys"] = strict
    assert fetch(host.url) == BODY
    ((_, headers),) = host.asked
    assert headers["user-agent"] == f"signal-engine/{VERSION}" and "application/json" in headers["accept"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/elsewhere", "elsewhere?x=1", "whole", "//host"])
def test_a_redirect_is_followed(secure: KeyHost, status: int, location: str) -> None:
    """Within https, in every form of a URL."""
    there = secure.url.replace("/keys", "/elsewhere")
    location = {"whole": there, "//host": there.removeprefix("https:")}.get(location, location)
    secure.answers["/keys"] = secure.redirect(location, status)
    assert fetch(secure.url) == BODY
    assert [path.partition("?")[0] for path, _ in secure.asked] == ["/keys", "/elsewhere"]


def test_a_redirect_to_another_host_is_followed(secure: KeyHost, authority: trustme.CA) -> None:
    with KeyHost(context_of(authority, "localhost")) as other:
        other.body = BODY
        secure.answers["/keys"] = secure.redirect(other.url.replace("127.0.0.1", "localhost"))
        assert fetch(secure.url) == BODY and len(other.asked) == 1


def test_a_redirect_out_of_https_is_not_followed(secure: KeyHost, host: KeyHost) -> None:
    secure.answers["/keys"] = secure.redirect(host.url + "?secret=1")
    with pytest.raises(LookError, match="it redirects from https to http:") as error:
        fetch(secure.url)
    assert error.value.reason == "redirect" and "secret" not in str(error.value) and host.asked == []


def test_a_redirect_into_https_is_followed(secure: KeyHost, host: KeyHost) -> None:
    host.answers["/keys"] = host.redirect(secure.url)
    assert fetch(host.url) == BODY


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,{}", "http://ann:secret@127.0.0.1/", "http://", "http://[x"],
)
def test_a_redirect_to_something_else_is_not_followed(host: KeyHost, location: str) -> None:
    host.answers["/keys"] = host.redirect(location)
    assert reason_of(host.url) == "redirect"


def test_redirects_are_bounded(host: KeyHost) -> None:
    host.answers["/keys"] = host.redirect("/keys?secret")
    assert reason_of(host.url) == "redirect" and len(host.asked) == REDIRECTS_MAX + 1
    host.asked.clear()
    for number in range(REDIRECTS_MAX):
        host.answers[f"/{number}"] = host.redirect(f"/{number + 1}")
    assert fetch(host.url.replace("/keys", "/0")) == BODY and len(host.asked) == REDIRECTS_MAX + 1


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 410, 429, 500, 503])
def test_another_status_is_an_error(host: KeyHost, status: int) -> None:
    host.answers["/keys"] = host.answer(status, b"secret" if status not in (204, 304) else b"")
    with pytest.raises(LookError, match=f"it answers {status}") as error:
        fetch(host.url + "?secret=1")
    assert error.value.reason == "status"


def test_a_redirect_without_location(host: KeyHost) -> None:
    host.answers["/keys"] = host.answer(302, b"")
    assert reason_of(host.url) == "status"


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip"])
def test_an_unsolicited_compression_is_undone(host: KeyHost, coding: str) -> None:
    host.answers["/keys"] = host.answer(200, gzip.compress(BODY), Content_Encoding=coding)
    assert fetch(host.url) == BODY
    assert host.asked[0][1]["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("body", "coding", "reason"),
    [
        (b"no gzip", "gzip", "no-jwks"), (b"", "br", "no-jwks"),
        (gzip.compress(b" " * (BODY_MAX + 1)), "gzip", "too-large"), (b" " * (BODY_MAX + 1), "identity", "too-large"),
    ],
)  # fmt: skip
def test_bad_bodies(host: KeyHost, body: bytes, coding: str, reason: str) -> None:
    host.answers["/keys"] = host.answer(200, body, Content_Encoding=coding)
    assert reason_of(host.url) == reason


def test_the_longest_body(host: KeyHost) -> None:
    host.body = b" " * BODY_MAX
    assert len(fetch(host.url)) == BODY_MAX
    host.answers["/keys"] = host.answer(200, gzip.compress(host.body), Content_Encoding="gzip")
    assert len(fetch(host.url)) == BODY_MAX


@pytest.mark.parametrize(
    "drip",
    [
        (HEAD + b"\r\n", b" "), (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"), (HEAD + b"X: ", b"x"),
        (b"HTTP/1.1 200 ", b"x"), (HEAD, b"X: y\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    ],
    ids=["body", "chunks", "header", "status line", "headers", "size of a chunk", "trailers"],
)  # fmt: skip
def test_an_answer_that_never_ends(host: KeyHost, drip: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a bounded time, in whichever part the bytes come one by one."""
    monkeypatch.setattr(jwks_fetch, "TIMEOUT", 0.5)
    host.answers["/keys"] = host.drip(*drip)
    begun = time.monotonic()
    reason = reason_of(host.url)
    assert time.monotonic() - begun < 5
    assert reason == "timeout" or (drip[1] == b"X: y\r\n" and reason == "connection")  # more than 100 headers


def test_an_endless_body_is_bounded(host: KeyHost) -> None:
    host.answers["/keys"] = host.drip(HEAD + b"\r\n", b" " * 65536, every=0.001)
    assert reason_of(host.url) == "too-large"


def test_a_host_that_hangs(host: KeyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks_fetch, "STEP_TIMEOUT", 0.2)
    host.answers["/keys"] = lambda _: host.ends.wait(10) and None
    assert reason_of(host.url) == "timeout"


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 OK\r\n\r\n", b"HTTP/1.1 200 " + b"x" * 100_000])
def test_a_server_that_is_not_a_web_server(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert reason_of(f"http://127.0.0.1:{server.getsockname()[1]}/keys?secret") == "connection"
        thread.join()


def test_a_host_that_can_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(LookError, match="it can't be reached: Connection refused") as error:
            fetch(f"http://127.0.0.1:{held.getsockname()[1]}/keys?secret")
    assert error.value.reason == "connection"

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(LookError, match="its host name can't be resolved"):
        fetch("http://host.example/keys?secret")


def test_a_bad_certificate(secure: KeyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    with trustme.CA().cert_pem.tempfile() as other:
        monkeypatch.setenv("SSL_CERT_FILE", other)
        assert reason_of(secure.url + "?secret") == "tls"


def test_tls_with_a_server_without_tls(host: KeyHost) -> None:
    assert reason_of(host.url.replace("http:", "https:")) in ("tls", "connection")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://h/a?b=c#d", "https://h/a"), ("https://h/a#d?x", "https://h/a"), ("https://u:p@h/a", "https://h/a"),
        ("/a/b@c", "/a/b@c"), ("http://h/a@b", "http://h/a@b"),
    ],
)  # fmt: skip
def test_urls_are_shown_without_secrets(url: str, text: str) -> None:
    assert shown(url) == text
