"""The opening handshake: good ones, each refusal, tokens, the bounds of a head, and any split."""

import base64
import re
import string
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshakes import HEADERS, KEY, accepted, plain, request, status_of
from signal_core import probe

MAX_HEAD, MAX_HEADERS = 16384, 100
NONE, BEARER, PROTOCOL, QUERY = 0, 1, 2, 3

CHROME = {
    **HEADERS,
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0",
    "Origin": "https://signal.example.com",
    "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
    "Sec-WebSocket-Protocol": "signal.v1",
}
FIREFOX = {**CHROME, "Connection": "keep-alive, Upgrade"}


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


@given(st.binary(max_size=60))
def test_a_token_in_a_subprotocol_is_base64url_of_visible_ascii(data: bytes) -> None:
    text = base64.urlsafe_b64encode(data).rstrip(b"=")
    good = data and all(0x21 <= byte <= 0x7E for byte in data)
    if good:
        assert probe.token_decode("protocol", text) == data
    elif data:
        assert probe.token_decode("protocol", text) is None


@given(st.text("Az09-_+/=.~ ", max_size=12))
def test_a_token_that_is_not_base64url(text: str) -> None:
    decoded = probe.token_decode("protocol", text.encode())
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text) or len(text) % 4 == 1:
        assert decoded is None


@given(st.text("aZ9.-_ %+é", max_size=12))
def test_a_token_in_a_query_is_percent_encoded(text: str) -> None:
    raw = text.encode()
    escaped = "".join(f"%{byte:02X}" if byte in b"%+ " or byte > 0x7E else chr(byte) for byte in raw)
    wanted = raw if all(0x21 <= byte <= 0x7E for byte in raw) else None
    assert unquote_plus(escaped) == text
    assert probe.token_decode("query", escaped.encode()) == wanted


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
    ("a method that is not a token", request("G(T / HTTP/1.1"), 400),
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
    ("websockets in Upgrade", request(Upgrade="websockets"), 400),
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
    """With the length of the head at the last call, as a reader gives it, and without."""
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


# -- the bounds of a head --


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
def test_a_header_name_with_one_other_letter_is_unknown(name, data):
    """Upper and lower case are the same."""
    cased = "".join(data.draw(st.sampled_from((letter.lower(), letter.upper()))) for letter in name)
    assert status_of(request(without=(name,), extra=f"{cased}: {HEADERS[name]}\r\n")) == 0
    at = data.draw(st.integers(0, len(name) - 1))
    other = name[:at] + data.draw(st.sampled_from(TOKEN)) + name[at + 1 :]
    if other.lower() != name.lower():
        assert status_of(request(without=(name,), extra=f"{other}: {HEADERS[name]}\r\n")) in (400, 426)
