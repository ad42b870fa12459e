"""Handshakes that are refused, by status (docs/protocol.md §5)."""

import contextlib

import pytest

import kit
from wire import KEY, TEXT, Wire, frame, opened, refusal, request, until, upgraded

GOOD = request()

MALFORMED = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "a space instead of a version": b"GET / \r\n\r\n",
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)) * 14,
    "half a TLS ClientHello": b"\x16\x03",
    "two spaces": request().replace(b"GET / ", b"GET  / "),
    "a fragment": request("/#x"),
    "raw bytes over 127 in the target": request("/?room=\xe9"),
    "a bare LF": request().replace(b"\r\n", b"\n"),
    "a Host of two words": request(Host="a b"),
    "a Host with a user": request(Host="user@a"),
    "a Host with half a bracket": request(Host="[::1"),
    "a Host with a port too high": request(Host="a:99999"),
    "a Host over 127": request(Host="b\xfccher.example"),
    "an empty authority": request("http:///"),
    "an authority with a user": request("http://user@localhost/"),
    "no URI": GOOD.replace(b"GET / ", b"GET "),
    "two words too many": GOOD.replace(b"GET / ", b"GET / / "),
    "a header without colon": request("/", "nocolon"),
    "a header without name": request("/", ": x"),
    "a space in a name": request("/", "X y: z"),
    "a folded header": request("/", "X: y", " z"),
    "NUL in a value": request("/", "X: \0"),
    "no Host": request(drop="Host"),
    "two Hosts": request("/", "Host: other"),
    "no key": request(drop="Sec-WebSocket-Key"),
    "two keys": request("/", f"Sec-WebSocket-Key: {KEY}"),
    "a key of 15 bytes": request(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAA"),
    "a key of 17 bytes": request(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAAA="),
    "a key that is not base64": request(Sec_WebSocket_Key="AAAAAAAAAA!AAAAAAAAAAA=="),
    "a key without padding": request(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA"),
    "an empty key": request(Sec_WebSocket_Key=""),
    "a body": request("/", "Content-Length: 5") + b"hello",
    "a chunked body": request("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_400(node: kit.Engine, data: bytes) -> None:
    refusal(node.port, data, 400)


@pytest.mark.parametrize(
    "name",
    [
        "a%20b",
        "a*",
        "a>",
        ".a",
        "a.",
        "a..b",
        "%24x",
        "$x",
        "@user",
        "%40user",
        "",
        "x" * 129,
        "a%",
        "a%2",
        "a%zz",
        "%C3%A9",
    ],
)
def test_400_for_a_bad_room_name(node: kit.Engine, name: str) -> None:
    """A name that SUB refuses is refused in a URL, too."""
    refusal(node.port, request(f"/?room=good&room={name}"), 400)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("room=good&room=a%20b", "'a b'"),
        ("room=a+b", "'a b'"),
        ("room=a%2Bb&room=%24x", "'$x'"),
        ("r%6Fom=a*", "'a*'"),
        ("room=a%00b", "'a%00b'"),
        ("room=%C3%A9", "'%C3%A9'"),
        ("room=a%2", "'a%2'"),
        ("room=", "''"),
        ("room", "''"),
        ("room=" + "x" * 300, "x..."),
        ("&".join(f"room=r{i}" for i in range(65)), "'r64'"),
    ],
)
def test_a_refused_room_is_named(node: kit.Engine, query: str, named: str) -> None:
    """The body has the name, decoded as in a form (+ is a space)."""
    answer = refusal(node.port, request(f"/?{query}"), 400)
    assert named in answer.body.decode() and len(answer.body) < 400


@pytest.mark.parametrize("path", ["/nope", "/index.html", "//", "/healthz2", "/nope?room=a"])
def test_404(node: kit.Engine, path: str) -> None:
    refusal(node.port, request(path), 404)
    refusal(node.port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "CONNECT", "get", "BREW"])
def test_405(node: kit.Engine, method: str) -> None:
    """RFC 6455 §4.2.1: only GET. RFC 9110 §15.5.6: Allow names the methods."""
    with Wire(node.port) as wire:
        wire.send(request(method=method))
        head = wire.read_end().decode().split("\r\n\r\n")[0].split("\r\n")
    assert head[0].startswith("HTTP/1.1 405 ")
    assert "Allow: GET, HEAD, OPTIONS" in head


def test_414(node: kit.Engine) -> None:
    refusal(node.port, request("/?x=" + "y" * (8193 - len("GET /?x= HTTP/1.1"))), 414)


def test_414_before_the_head_is_complete(node: kit.Engine) -> None:
    refusal(node.port, b"GET /?x=" + b"y" * 8192, 414)


def test_426(node: kit.Engine) -> None:
    """No upgrade, or a version other than 13."""
    for data in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /?room=a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
        *(request(Sec_WebSocket_Version=version) for version in ("0", "8", "12", "14", "130", "1", "x", "")),
        request(drop="Sec-WebSocket-Version"),
    ):
        headers = refusal(node.port, data, 426).headers
        assert headers["upgrade"].lower() == "websocket", data
        assert headers["sec-websocket-version"] == "13", data


@pytest.mark.parametrize(
    "data",
    [
        request(drop="Connection"),
        request(drop="Upgrade"),
        request(Connection="close"),
        request(Upgrade="h2c"),
    ],
)
def test_half_an_upgrade(node: kit.Engine, data: bytes) -> None:
    """docs/protocol.md leaves open whether it is malformed or no upgrade."""
    with Wire(node.port) as wire:
        wire.send(data)
        assert wire.read_answer().status in (400, 426)
        assert wire.read_end() == b""


@pytest.mark.parametrize(
    "data",
    [
        request("/", *(f"X-{i}: y" for i in range(96))),
        request("/", "X: " + "y" * (16384 - len(request("/", "X: ")) + 1)),
        GOOD[:-2] + b"X: " + b"y" * 16384,
    ],
    ids=["101 headers", "a head of 16385 bytes", "16 KiB without an end"],
)
def test_431(node: kit.Engine, data: bytes) -> None:
    refusal(node.port, data, 431)


def test_505(node: kit.Engine) -> None:
    refusal(node.port, request(version="HTTP/1.0"), 505)


def test_503_when_full() -> None:
    """With Retry-After. Old connections stay, and a new one is accepted when one of them is gone."""
    with kit.engine(nats="off", loops=2, max_connections=3) as small:
        wires = [opened(small.port)[0] for _ in range(3)]
        assert int(refusal(small.port, GOOD, 503).headers["retry-after"]) >= 0
        for wire in wires:
            wire.send(frame(TEXT, b"PING"))
            assert wire.read_message() == (TEXT, b"PONG")
        wires.pop().socket.close()
        until(lambda: small.total("connections") == 2)
        upgraded(small.port, GOOD)
        for wire in wires:
            wire.socket.close()


def test_a_refused_client_does_not_count_as_a_connection() -> None:
    """However long it lingers, after a 404 or a 503."""
    with (
        kit.engine(nats="off", loops=2, max_connections=3, close_timeout=60) as small,
        contextlib.ExitStack() as stack,
    ):

        def lingers(data: bytes, status: int) -> None:
            wire = stack.enter_context(Wire(small.port))
            wire.send(data)
            assert wire.read_answer().status == status

        for _ in range(5):
            lingers(request("/nope"), 404)
        wires = [stack.enter_context(opened(small.port)[0]) for _ in range(3)]
        for _ in range(20):
            lingers(GOOD, 503)
        for wire in wires:
            wire.socket.close()
            until(lambda: small.total("connections") == 2)
            stack.enter_context(opened(small.port)[0])
            lingers(GOOD, 503)


@pytest.mark.parametrize(
    "bad, status",
    [
        (b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (request(drop="Host"), 400),
    ],
)
def test_nothing_is_parsed_after_an_answer(node: kit.Engine, bad: bytes, status: int) -> None:
    """Neither a pipelined request, nor a good handshake, nor frames."""
    for more in (bad, GOOD, GOOD + frame(TEXT, b"PING"), b"\xff" * 20000):
        refusal(node.port, bad + more, status)


def test_an_answer_ends_the_connection_even_if_the_client_does_not(node: kit.Engine) -> None:
    """The engine closes first."""
    answer = refusal(node.port, b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", 404)
    assert answer.headers["connection"].lower() == "close"
