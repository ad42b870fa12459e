"""The opening handshake: each refusal, each bound, any split, and wsproto as the client."""

import base64
import hashlib
import string
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, Request

from signal_core import probe

MAX_HEAD, MAX_HEADERS, MAX_LINE = 16384, 100, 8192
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
NONE, BEARER, PROTOCOL, QUERY = 0, 1, 2, 3

HEADERS = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}

CHROME = {
    **HEADERS,
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0",
    "Origin": "https://signal.example.com",
    "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
    "Sec-WebSocket-Protocol": "signal.v1",
}
FIREFOX = {**CHROME, "Connection": "keep-alive, Upgrade"}


def request(
    line: str = "GET / HTTP/1.1", without: tuple[str, ...] = (), extra: str = "", **changed: str
) -> bytes:
    """A good handshake but for what is asked for; `changed` by name, with '_' for '-'."""
    headers = {name: value for name, value in HEADERS.items() if name not in without}
    headers.update({name.replace("_", "-"): value for name, value in changed.items()})
    lines = [line, *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n" + extra + "\r\n").encode("latin-1")


def plain(line: str, host: str = "Host: a\r\n", extra: str = "") -> bytes:
    return f"{line}\r\n{host}{extra}\r\n".encode()


def status_of(data: bytes) -> int:
    """The status that a complete head is refused with; 0: upgraded."""
    verdict, fields = probe.upgrade_parse(data)
    assert verdict == (len(data) if fields["status"] in (0, 200, 204) else -1)
    return fields["status"]


def accepted(data: bytes) -> dict:
    verdict, fields = probe.upgrade_parse(data)
    assert (verdict, fields["status"]) == (len(data), 0)
    return fields


def answer_of(status: int) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body of what a refusal writes."""
    head, body = probe.upgrade_refuse(status).decode().split("\r\n\r\n", 1)
    line, *lines = head.split("\r\n")
    headers = dict(row.split(": ", 1) for row in lines)
    assert len(headers) == len(lines)
    return line, headers, body


# -- good handshakes --


def test_the_handshake_of_the_rfc():
    """RFC 6455 section 1.3, with our subprotocol."""
    data = request(extra="Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, signal.v1\r\n")
    fields = accepted(data)
    assert fields["key"] == KEY.encode()
    assert fields["origin"] == b"http://example.com"
    assert fields["accept"] == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: signal.v1\r\n\r\n"
    )


@pytest.mark.parametrize("headers", [HEADERS, CHROME, FIREFOX], ids=["plain", "chrome", "firefox"])
def test_every_prefix_is_incomplete(headers):
    data = "\r\n".join(["GET /?room=a HTTP/1.1", *map(": ".join, headers.items()), "", ""]).encode()
    for n in range(len(data)):
        assert probe.upgrade_parse(data[:n]) == (-2, None)
        assert probe.upgrade_parse(data[:n], n // 2) == (-2, None)
    assert probe.upgrade_parse(data + b"\x81\x80more")[0] == len(data)


@pytest.mark.parametrize(
    "data",
    [
        request(Upgrade="WebSocket", Connection="keep-alive ,\tUPGRADE"),
        request(Upgrade="h2c, websocket"),
        request(extra="Connection: keep-alive\r\n"),
        request(without=("Connection",), extra="Connection: close\r\nConnection: upgrade\r\n"),
        request(without=("Host",), extra="hOST: a\r\n"),
        request(extra="Content-Length: 0\r\n"),
        request(extra="X-Unknown:\r\nX-Latin: \xe9\r\n"),
        request("GET / HTTP/1.2"),
        request("GET http://server.example.com/ HTTP/1.1"),
        request("GET https://server.example.com HTTP/1.1"),
        request("GET HTTP://server.example.com?room=a HTTP/1.1"),
        b"\r\n" + request(),
    ],
)
def test_unusual_but_good(data):
    accepted(data)


@pytest.mark.parametrize(
    ("offer", "protocol", "other"),
    [
        ("", False, False),
        ("Sec-WebSocket-Protocol: signal.v1\r\n", True, False),
        ("Sec-WebSocket-Protocol: mqtt\r\n", False, True),
        ("Sec-WebSocket-Protocol: signal.v2, mqtt\r\n", False, True),
        ("Sec-WebSocket-Protocol: Signal.V1\r\n", False, True),
        ("Sec-WebSocket-Protocol: mqtt,signal.v1\r\n", True, False),
        ("Sec-WebSocket-Protocol: mqtt\r\nsec-websocket-protocol: a,\t signal.v1 ,b\r\n", True, False),
        ("Sec-WebSocket-Protocol: signal.v1x, xsignal.v1\r\n", False, True),
        ("Sec-WebSocket-Protocol: ,\r\n", False, False),
    ],
)
def test_subprotocols(offer, protocol, other):
    fields = accepted(request(extra=offer))
    assert (fields["protocol"], fields["other_protocol"]) == (protocol, other)
    assert (b"Sec-WebSocket-Protocol: signal.v1\r\n" in fields["accept"]) == protocol


OFFER = "Sec-WebSocket-Protocol: "
SIGNAL = OFFER + "signal.v1"


@pytest.mark.parametrize(
    ("target", "extra", "token", "source"),
    [
        ("/", "", None, NONE),
        ("/", "Authorization: Bearer abc.def-_~+/=\r\n", b"abc.def-_~+/=", BEARER),
        ("/", "authorization: bEARER   abc\r\n", b"abc", BEARER),
        ("/", "Authorization: Basic abc\r\n", None, NONE),
        ("/", "Authorization: Bearer\r\n", None, NONE),
        ("/", "Authorization: Bearerabc\r\n", None, NONE),
        ("/", f"{SIGNAL}, token.YWJj\r\n", b"YWJj", PROTOCOL),
        ("/", f"{SIGNAL}\r\n{OFFER}token.YWJj\r\n", b"YWJj", PROTOCOL),
        ("/", f"{SIGNAL}, token.\r\n", None, NONE),
        ("/", f"{OFFER}token.YWJj, signal.v1\r\n", b"YWJj", PROTOCOL),
        ("/", f"{OFFER}token.YWJj\r\n{SIGNAL}\r\n", b"YWJj", PROTOCOL),
        ("/", f"{OFFER}chat,token.YWJj\r\n{OFFER}mqtt , signal.v1\r\n", b"YWJj", PROTOCOL),
        ("/", f"{OFFER}token.YWJj, token.ZZ, signal.v1\r\n", b"YWJj", PROTOCOL),
        ("/", f"{OFFER}token.p, signal.v1\r\nAuthorization: Bearer b\r\n", b"b", BEARER),
        ("/?token=q", f"{OFFER}token.p, signal.v2\r\n", b"q", QUERY),
        ("/?to%6ben=q", "", b"q", QUERY),
        ("/?token%3D=q", "", None, NONE),
        ("/", f"{OFFER}token.YWJj\r\n", None, NONE),
        ("/?token=a%2Bb", "", b"a%2Bb", QUERY),
        ("/?room=a&token=abc&token=def", "", b"abc", QUERY),
        ("/?token=", "", None, NONE),
        ("/?tokens=abc&xtoken=abc", "", None, NONE),
        ("/?token=q", f"{SIGNAL}, token.p\r\n", b"p", PROTOCOL),
        ("/?token=q", f"{SIGNAL}, token.p\r\nAuthorization: Bearer b\r\n", b"b", BEARER),
        ("/?token=q", f"Authorization: Bearer b\r\n{SIGNAL}, token.p\r\n", b"b", BEARER),
    ],
)
def test_tokens(target, extra, token, source):
    fields = accepted(request(f"GET {target} HTTP/1.1", extra=extra))
    assert (fields["token"], fields["token_from"]) == (token, source)


# -- refusals --

GOOD_HEAD = request()
REFUSED = [
    ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("no target", b"GET HTTP/1.1\r\n\r\n", 400),
    ("nothing behind the target", b"GET / \r\n\r\n", 400),
    ("HTTP/0.9", b"GET /\r\n\r\n", 400),
    ("two spaces before the target", request("GET  / HTTP/1.1"), 400),
    ("two spaces behind the target", request("GET /  HTTP/1.1"), 400),
    ("a space behind the version", request("GET / HTTP/1.1 "), 400),
    ("a space before the method", request(" GET / HTTP/1.1"), 400),
    ("a tab in the request line", request("GET\t/ HTTP/1.1"), 400),
    ("a fragment", request("GET /#x HTTP/1.1"), 400),
    ("a fragment in the query", request("GET /?room=a#b HTTP/1.1"), 400),
    ("raw bytes in the target", request("GET /?room=\xe9 HTTP/1.1"), 400),
    ("DEL in the target", request("GET /?room=\x7f HTTP/1.1"), 400),
    ("NUL in the target", request("GET /?room=\x00 HTTP/1.1"), 400),
    ("a method that is no token", request("G(T / HTTP/1.1"), 400),
    ("a version in small letters", request("GET / http/1.1"), 400),
    ("a version without a digit", request("GET / HTTP/1.x"), 400),
    ("a version of two digits", request("GET / HTTP/1.11"), 400),
    ("HTTP/2.0 in a request", request("GET / HTTP/2.0"), 400),
    ("a bare LF", request().replace(b"\r\n", b"\n", 1), 400),
    ("bare LFs", request().replace(b"\r\n", b"\n"), 400),
    ("a bare CR", request("GET / HTTP/1.1\r"), 400),
    ("a bare CR in a header", request(extra="X: a\rb\r\n"), 400),
    ("an empty line too many", b"\r\n\r\n" + request(), 400),
    ("an empty line of LF", b"\n" + request(), 400),
    ("an absolute target without a host", request("GET http:///?room=a HTTP/1.1"), 400),
    ("an absolute target of only a query", request("GET http://?room=a HTTP/1.1"), 400),
    ("an absolute target with a user", request("GET http://user@a/ HTTP/1.1"), 400),
    ("an absolute target with a bad port", request("GET http://a:99999/ HTTP/1.1"), 400),
    ("a Host of two words", request(Host="a b"), 400),
    ("a Host with a user", request(Host="user@a"), 400),
    ("a Host with half a bracket", request(Host="[::1"), 400),
    ("a Host with a port too high", request(Host="a:99999"), 400),
    ("a Host beyond ASCII", request(Host="\xe9.example"), 400),
    ("a bad Host of a health check", plain("GET /healthz HTTP/1.1", host="Host: a b\r\n"), 400),
    ("a bad Host in HTTP/1.0", plain("GET /healthz HTTP/1.0", host="Host: a b\r\n"), 400),
    ("space before colon", request(extra="X : y\r\n"), 400),
    ("control character", request(extra="X: a\x00b\r\n"), 400),
    ("folded header", request(extra="X: a\r\n b\r\n"), 400),
    ("folded Upgrade", request(without=("Upgrade",), extra="Upgrade: h2c,\r\n websocket\r\n"), 400),
    ("no Host", request(without=("Host",)), 400),
    ("two Hosts", request(extra="Host: b\r\n"), 400),
    ("empty Host", request(Host=""), 400),
    ("two Origins", request(extra="Origin: a\r\nOrigin: b\r\n"), 400),
    ("two Authorizations", request(extra="Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"), 400),
    ("a body", request(extra="Content-Length: 5\r\n"), 400),
    ("bodies of two lengths", request(extra="Content-Length: 0\r\nContent-Length: 5\r\n"), 400),
    ("an odd length", request(extra="Content-Length: -0\r\n"), 400),
    ("an empty length", request(extra="Content-Length:\r\n"), 400),
    ("chunks", request(extra="Transfer-Encoding: chunked\r\n"), 400),
    ("no Upgrade", request(without=("Upgrade",)), 400),
    ("another Upgrade", request(Upgrade="h2c"), 400),
    ("a word in Upgrade", request(Upgrade="websockets"), 400),
    ("no Connection", request(without=("Connection",)), 400),
    ("another Connection", request(Connection="keep-alive"), 400),
    ("no key", request(without=("Sec-WebSocket-Key",)), 400),
    ("two keys", request(extra=f"Sec-WebSocket-Key: {KEY}\r\n"), 400),
    ("a bad key and a good one", request(Sec_WebSocket_Key="x", extra=f"Sec-WebSocket-Key: {KEY}\r\n"), 400),
    ("two versions", request(extra="Sec-WebSocket-Version: 13\r\n"), 400),
    ("no upgrade at all", plain("GET / HTTP/1.1"), 426),
    ("no upgrade at all in 1.0", plain("GET / HTTP/1.0", host=""), 426),
    ("no version", request(without=("Sec-WebSocket-Version",)), 426),
    ("version 8", request(Sec_WebSocket_Version="8"), 426),
    ("version 130", request(Sec_WebSocket_Version="130"), 426),
    ("version 8 and no key", request(Sec_WebSocket_Version="8", without=("Sec-WebSocket-Key",)), 426),
    ("upgrade in 1.0", request("GET / HTTP/1.0"), 505),
    ("upgrade in 1.0 without Host", request("GET / HTTP/1.0", without=("Host",)), 505),
    ("POST", request("POST / HTTP/1.1"), 405),
    ("POST with a body", plain("POST / HTTP/1.1", extra="Content-Length: 3\r\n"), 405),
    ("get", request("get / HTTP/1.1"), 405),
    ("HEAD of a WebSocket", plain("HEAD / HTTP/1.1"), 426),
    ("HEAD with an upgrade", request("HEAD / HTTP/1.1"), 426),
    ("HEAD of another path", plain("HEAD /nope HTTP/1.1"), 404),
    ("OPTIONS of another path", plain("OPTIONS /nope HTTP/1.1"), 404),
    ("OPTIONS without Host", plain("OPTIONS * HTTP/1.1", host=""), 400),
    ("GET of everything", request("GET * HTTP/1.1"), 404),
    ("TRACE", plain("TRACE / HTTP/1.1"), 405),
    ("CONNECT", plain("CONNECT a:80 HTTP/1.1"), 405),
    ("POST to the health check", plain("POST /healthz HTTP/1.1"), 405),
    ("another path", request("GET /ws HTTP/1.1"), 404),
    ("another path, no upgrade", plain("GET /favicon.ico HTTP/1.1"), 404),
    ("two slashes", request("GET // HTTP/1.1"), 404),
    ("no slash", request("GET x HTTP/1.1"), 404),
    ("a path that is only a query", request("GET ?room=a HTTP/1.1"), 404),
    ("an absolute target with a path", request("GET http://a/ws HTTP/1.1"), 404),
    ("a WebSocket at the health check", request("GET /healthz HTTP/1.1"), 404),
    ("below the health check", plain("GET /healthz/x HTTP/1.1"), 404),
    ("health check without Host", plain("GET /healthz HTTP/1.1", host=""), 400),
    ("health check with a body", plain("GET /healthz HTTP/1.1", extra="Content-Length: 1\r\n"), 400),
]


@pytest.mark.parametrize(("data", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refusals(data, status):
    verdict, fields = probe.upgrade_parse(data)
    assert (verdict, fields["status"]) == (-1, status)
    assert fields["answer"].startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(("data", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refusals_in_pieces(data, status):
    """With the lengths seen before, as a reader gives them, and without."""
    for size in (1, 2, 7, 64):
        verdict, fields = probe.upgrade_feed([data[i : i + size] for i in range(0, len(data), size)])
        assert (verdict, fields["status"]) == (-1, status)
    verdicts = [probe.upgrade_parse(data[:n]) for n in range(len(data) + 1)]
    first = next(i for i, verdict in enumerate(verdicts) if verdict[0] != -2)
    assert all(verdict == verdicts[-1] for verdict in verdicts[first:])


def test_key_is_the_base64_of_16_bytes():
    for size in range(40):
        for pad in ("", "=", "=="):
            key = "A" * size + pad
            good = size == 22 and pad == "=="
            assert status_of(request(Sec_WebSocket_Key=key)) == (0 if good else 400), key
    for byte in range(0x21, 0x7F):
        good = chr(byte).isalnum() or chr(byte) in "+/"
        for at in (0, 21):
            key = "A" * at + chr(byte) + "A" * (21 - at) + "=="
            assert status_of(request(Sec_WebSocket_Key=key)) == (0 if good else 400), key


# -- the health check --


@pytest.mark.parametrize(
    "data",
    [
        plain("GET /healthz HTTP/1.1"),
        plain("GET /healthz HTTP/1.0", host=""),
        plain("GET /healthz?verbose HTTP/1.1"),
        plain("GET /healthz HTTP/1.1", extra="Connection: upgrade\r\n"),
        plain("GET /healthz HTTP/1.1", extra="Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"),
    ],
)
def test_health_check(data):
    verdict, fields = probe.upgrade_parse(data)
    assert (verdict, fields["status"]) == (len(data), 200)
    assert fields["answer"] == probe.upgrade_refuse(200)
    assert fields["answer"].endswith(b"\r\n\r\nok\n")


def test_an_answer_to_head_has_no_body():
    get, head = (probe.upgrade_parse(plain(f"{method} /healthz HTTP/1.1"))[1] for method in ("GET", "HEAD"))
    assert (get["status"], head["status"]) == (200, 200)
    assert get["answer"] == head["answer"] + b"ok\n"
    refused = probe.upgrade_parse(plain("HEAD / HTTP/1.1"))[1]
    assert refused["answer"].endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        plain("OPTIONS / HTTP/1.1"),
        plain("OPTIONS /?room=a HTTP/1.1"),
        plain("OPTIONS /healthz HTTP/1.1"),
        plain("OPTIONS * HTTP/1.1"),
        plain("OPTIONS * HTTP/1.0", host=""),
        request("OPTIONS / HTTP/1.1"),
    ],
)
def test_options(data):
    """RFC 9110 §9.3.7: what is allowed; 204 has neither a body nor a length of one."""
    verdict, fields = probe.upgrade_parse(data)
    assert (verdict, fields["status"]) == (len(data), 204)
    assert fields["answer"] == b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, OPTIONS\r\nConnection: close\r\n\r\n"


def test_head_is_get_without_a_body():
    """RFC 9110 §9.3.2: the same headers, the length too."""
    for path in ("/", "/healthz", "/nope"):
        get, head = (probe.upgrade_parse(plain(f"{method} {path} HTTP/1.1"))[1] for method in ("GET", "HEAD"))
        before, _, body = get["answer"].partition(b"\r\n\r\n")
        assert body and head["answer"] == before + b"\r\n\r\n"


# -- hosts --


@pytest.mark.parametrize(
    "host",
    [
        "a",
        "a.example",
        "a.example.",
        "A_b-c~d",
        "a:8080",
        "a:",
        "a:0",
        "a:65535",
        "127.0.0.1:80",
        "[::1]",
        "[::1]:8080",
        "[2001:DB8::7]:",
        "[::ffff:127.0.0.1]",
        "[fe80::1%eth0]:8080",
        "[fe80::1%25eth0]",
        "xn--bcher-kva.example",
        "b%C3%BCcher.example",
        "a!$&'()*+,;=b",
    ],
)
def test_a_host(host):
    assert probe.host_valid(host.encode())
    accepted(request(Host=host))
    accepted(request(f"GET http://{host}/ HTTP/1.1"))


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "a b",
        "a\tb",
        "user@a",
        "a/b",
        "a?b",
        "a#b",
        "a:b",
        "a:99999",
        "a:65536",
        "a:-1",
        "a:80:80",
        "a:18446744073709551617",
        "::1",
        "[::1",
        "::1]",
        "[]",
        "[a]",
        "[::1]x",
        "[::1]:x",
        "[::1%]",
        "[::1%a b]",
        "[" + "1" * 60 + "]",
        "a%",
        "a%2",
        "a%zz",
        "a\\b",
        "a<b>",
        "a|b",
        "\xe9",
        "a\x00",
    ],
)
def test_no_host(host):
    assert not probe.host_valid(host.encode("latin-1"))
    assert status_of(request(Host=host)) == 400


@given(st.ip_addresses(), st.one_of(st.none(), st.integers(0, 65535)))
def test_every_address_is_a_host(address, port):
    host = (f"[{address}]" if address.version == 6 else str(address)) + ("" if port is None else f":{port}")
    assert probe.host_valid(host.encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_a_host_or_none(text):
    if probe.host_valid(text):
        assert all(0x21 <= byte <= 0x7E and byte not in b'"#/<>?@\\^`{|}' for byte in text)


# -- where it is --


@pytest.mark.parametrize(
    ("path", "target", "status"),
    [
        (b"", "/", 0),
        (b"", "", 400),
        (b"/ws", "/ws", 0),
        (b"/ws", "/ws/", 0),
        (b"/ws", "/ws?room=a", 0),
        (b"/ws", "http://a/ws", 0),
        (b"/ws", "/", 404),
        (b"/ws", "/ws2", 404),
        (b"/ws", "/ws//", 404),
        (b"/ws", "/WS", 404),
        (b"/ws", "/ws/healthz", 404),
        (b"/a/b", "/a/b/", 0),
        (b"/a/b", "/a", 404),
    ],
)
def test_path(path, target, status):
    assert probe.upgrade_parse(request(f"GET {target} HTTP/1.1"), path=path)[1]["status"] == status


def test_health_checks_are_below_the_path_and_at_the_root():
    for path, targets in ((b"", ["/healthz"]), (b"/ws", ["/healthz", "/ws/healthz", "/ws/healthz?x"])):
        for target in targets:
            for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 204), ("POST", 405)):
                data = plain(f"{method} {target} HTTP/1.1")
                assert probe.upgrade_parse(data, path=path)[1]["status"] == status
    assert probe.upgrade_parse(plain("GET /ws/healthz HTTP/1.1"))[1]["status"] == 404


# -- bounds --


def head_of_size(size: int) -> bytes:
    return request(extra="X: " + "x" * (size - len(request(extra="X: \r\n"))) + "\r\n")


def test_longest_head():
    data = head_of_size(MAX_HEAD)
    assert len(data) == MAX_HEAD
    assert status_of(data) == 0
    assert probe.upgrade_parse(data + b"\x81\x80" * 100)[0] == MAX_HEAD
    assert probe.upgrade_parse(data[:-1]) == (-2, None)


@pytest.mark.parametrize("more", [1, 2, 3, 100, 10000])
def test_longer_head(more):
    data = head_of_size(MAX_HEAD + more)
    assert status_of(data) == 431
    for n in (MAX_HEAD, MAX_HEAD + 1, len(data) - 1):
        for seen in (0, 100, MAX_HEAD - 1, n - 1):
            assert probe.upgrade_parse(data[:n], seen)[1]["status"] == 431
    assert probe.upgrade_parse(data[: MAX_HEAD - 1]) == (-2, None)


def test_most_headers():
    lines = MAX_HEADERS - len(HEADERS)
    assert status_of(request(extra="X: y\r\n" * lines)) == 0
    data = request(extra="X: y\r\n" * (lines + 1))
    assert status_of(data) == 431
    verdict, fields = probe.upgrade_feed([data[:100], data[100:-1], data[-1:]])
    assert (verdict, fields["status"]) == (-1, 431)


@pytest.mark.parametrize("most", [64, 8000, MAX_LINE])
@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_longest_request_line(most, before):
    """The CRLF behind it does not count, nor does an empty line before it; 414 with the first byte too many."""
    line = "GET /?room=" + "a" * (most - len("GET /?room= HTTP/1.1")) + " HTTP/1.1"
    good, longer = (before + request(line.replace("a", more, 1)) for more in ("a", "aa"))
    assert probe.upgrade_parse(good, max_line=most)[0] == len(good)
    assert probe.upgrade_parse(longer, max_line=most)[1]["status"] == 414
    seen = len(before) + most + 1
    assert probe.upgrade_parse(longer[: seen - 1], max_line=most) == (-2, None)
    for n in range(seen, seen + 4):
        assert probe.upgrade_parse(longer[:n], max_line=most)[1]["status"] == 414
        assert probe.upgrade_parse(longer[:n], n - 1, max_line=most)[1]["status"] == 414


def test_a_long_line_is_told_before_a_long_head():
    assert status_of(request("GET /" + "a" * MAX_LINE + " HTTP/1.1")) == 414
    assert probe.upgrade_parse(b"GET /" + b"a" * MAX_LINE)[1]["status"] == 414


def test_a_long_line_without_target_is_malformed():
    assert probe.upgrade_parse(b"GET\r\nX: " + b"a" * 5000)[1]["status"] == 400


# -- any split, any bytes --


@given(st.data())
def test_any_split_of_a_handshake(data):
    whole = data.draw(st.sampled_from([request(), *[row[1] for row in REFUSED]])) + b"rest"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert probe.upgrade_feed(chunks) == probe.upgrade_parse(whole)


@given(st.binary(max_size=300), st.integers(0, 400))
def test_any_bytes_have_a_verdict(data, seen):
    verdict, fields = probe.upgrade_parse(data, seen)
    assert verdict in (-1, -2)
    assert (fields is None) == (verdict == -2)


@given(st.integers(0, len(GOOD_HEAD) - 1), st.integers(0, 255))
def test_one_wrong_byte_never_breaks_the_contract(at, byte):
    data = GOOD_HEAD[:at] + bytes([byte]) + GOOD_HEAD[at + 1 :]
    verdict, fields = probe.upgrade_parse(data)
    if verdict == -2:
        assert fields is None
    elif verdict == -1:
        assert fields["status"] in (400, 404, 405, 426, 505)
    else:
        assert fields["accept"].startswith(b"HTTP/1.1 101 ")
        assert probe.upgrade_parse(data[: verdict - 1]) == (-2, None)


TOKEN = "!#$%&'*+-.^_`|~" + string.ascii_letters + string.digits


@given(st.sampled_from(list(HEADERS)), st.data())
def test_a_header_of_nearly_that_name_is_another(name, data):
    """And letters in either case are the same."""
    cased = "".join(data.draw(st.sampled_from((letter.lower(), letter.upper()))) for letter in name)
    assert status_of(request(without=(name,), extra=f"{cased}: {HEADERS[name]}\r\n")) == 0
    at = data.draw(st.integers(0, len(name) - 1))
    other = name[:at] + data.draw(st.sampled_from(TOKEN)) + name[at + 1 :]
    if other.lower() != name.lower():
        assert status_of(request(without=(name,), extra=f"{other}: {HEADERS[name]}\r\n")) in (400, 426)


@given(st.data())
def test_any_request_line_of_one_wrong_byte(data):
    """Whole or in two pieces, its verdict is the same; a target of visible ASCII without '#' is all that may change."""
    line = b"GET /?room=a HTTP/1.1"
    at, byte = data.draw(st.integers(0, len(line) - 1)), data.draw(st.integers(0, 255))
    whole = line[:at] + bytes([byte]) + line[at + 1 :] + GOOD_HEAD[len(b"GET / HTTP/1.1") :]
    cut = data.draw(st.integers(0, len(whole)))
    verdict = probe.upgrade_parse(whole)
    assert probe.upgrade_feed([whole[:cut], whole[cut:]]) == verdict
    if verdict[1]["status"] == 0:
        assert (4 <= at <= 11 and 0x21 <= byte <= 0x7E and byte != 0x23) or line[at] == byte or at == len(line) - 1


# -- wsproto as the client --

protocol_names = st.from_regex(r"[a-z0-9.]{1,10}", fullmatch=True)


@given(st.lists(protocol_names, max_size=3), st.booleans(), st.text("abc", max_size=20))
def test_wsproto_accepts_the_answer(others, ours, room):
    protocols = [*others, *(["signal.v1"] if ours else [])]
    client = WSConnection(ConnectionType.CLIENT)
    data = client.send(Request(host="a.example", target="/?room=" + room, subprotocols=protocols))
    client.receive_data(accepted(data)["accept"])
    (event,) = client.events()
    assert isinstance(event, AcceptConnection)
    assert event.subprotocol == ("signal.v1" if "signal.v1" in protocols else None)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 414, 426, 429, 431, 503, 505])
def test_wsproto_understands_a_refusal(status):
    client = WSConnection(ConnectionType.CLIENT)
    client.send(Request(host="a.example", target="/"))
    client.receive_data(probe.upgrade_refuse(status))
    event = next(client.events())
    assert isinstance(event, RejectConnection)
    assert event.status_code == status


@given(st.binary(min_size=16, max_size=16))
def test_accept_is_the_hash_of_any_key(nonce):
    key = base64.b64encode(nonce)
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    answer = accepted(request(Sec_WebSocket_Key=key.decode()))["accept"]
    assert b"\r\nSec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n" in answer
    assert len(answer) <= 256


def test_sha1_and_base64():
    for size in range(300):
        data = bytes(i * 7 + size & 255 for i in range(size))
        assert probe.sha1(data) == hashlib.sha1(data).digest()
        assert probe.base64(data) == base64.b64encode(data)


# -- what a refusal says --

STATUSES = (200, 400, 401, 403, 404, 405, 408, 414, 426, 429, 431, 500, 503, 505)
REASONS = {status: HTTPStatus(status).phrase for status in STATUSES} | {
    414: "URI Too Long"
}  # RFC 9110's name


@pytest.mark.parametrize("status", REASONS)
def test_refusals_are_whole_answers(status):
    line, headers, body = answer_of(status)
    assert line == f"HTTP/1.1 {status} {REASONS[status]}"
    assert int(headers["Content-Length"]) == len(body)
    assert body.endswith("\n")
    assert body.count("\n") == 1
    assert len(probe.upgrade_refuse(status)) <= 512
    assert headers["Connection"] == ("Upgrade, close" if status == 426 else "close")
    assert headers.get("Retry-After") == ("1" if status in (429, 503) else None)
    assert headers.get("Allow") == ("GET, HEAD, OPTIONS" if status == 405 else None)
    assert headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    assert headers.get("Upgrade") == ("websocket" if status == 426 else None)
    assert headers.get("Sec-WebSocket-Version") == ("13" if status == 426 else None)


def test_a_small_buffer_gets_no_answer():
    assert probe.upgrade_refuse(400, 511) == b""


# -- rooms in the query --


@pytest.mark.parametrize(
    ("query", "rooms"),
    [
        (b"", []),
        (b"room=lobby&room=b", [b"lobby", b"b"]),
        (b"token=x&room=a&unknown=y&flag&&room=b&", [b"a", b"b"]),
        (b"room=a%2Eb+c%20d%c3%a9", [b"a.b c d\xc3\xa9"]),
        (b"room=a=b", [b"a=b"]),
        (b"rooms=a&xroom=b&Room=c&roo=d", []),
        (b"room=", [-1]),
        (b"room", [-1]),
        (b"room=a&room=%", [b"a", -1]),
        (b"room=a%4", [-1]),
        (b"room=a%4&b", [-1]),
        (b"room=a%4g", [-1]),
        (b"room=a%g4", [-1]),
        (b"room=" + b"a" * 128, [b"a" * 128]),
        (b"room=" + b"%61" * 128, [b"a" * 128]),
        (b"room=" + b"a" * 129, [-1]),
        (b"room=" + b"%61" * 129, [-1]),
    ],
)
def test_rooms_of_a_query(query, rooms):
    assert probe.query_rooms(query) == rooms


def percent(name: bytes, spell: list[int]) -> bytes:
    """Some of several spellings of each byte, chosen by `spell`."""
    out = b""
    for i, byte in enumerate(name):
        how = spell[i % len(spell)] if spell else 0
        if how == 0 and (chr(byte).isalnum() and byte < 128):
            out += bytes([byte])
        else:
            out += b"+" if how == 1 and byte == 0x20 else (b"%%%02X" if how == 2 else b"%%%02x") % byte
    return out


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5), st.lists(st.integers(0, 3), max_size=7))
def test_rooms_are_decoded(names, spell):
    query = b"&x=1&".join(b"room=" + percent(name, spell) for name in names)
    assert probe.query_rooms(query) == names


@given(st.binary(max_size=60).map(lambda data: b"room=" + data))
def test_any_query_is_walked_to_its_end(query):
    rooms = probe.query_rooms(query, 16)
    assert all(room == -1 or 1 <= len(room) <= 16 for room in rooms)
    assert -1 not in rooms[:-1]
