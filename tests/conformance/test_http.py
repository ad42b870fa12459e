"""The handshake over bare sockets: RFC 6455 §4, and the refusals of the protocol's §5."""

import contextlib
import time
from collections.abc import Iterator

import pytest

import kit
from wire import KEY, TEXT, Answer, Wire, accept_of, frame, opened, request, until

GOOD = request()


def refused(node: kit.Engine, data: bytes, status: int) -> Answer:
    """The answer, after which the engine hangs up and says nothing more."""
    with Wire(node.port) as wire:
        wire.send(data)
        answer = wire.read_answer()
        assert answer.status == status, answer
        assert wire.read_end() == b""
    return answer


def accepted(node: kit.Engine, data: bytes) -> Answer:
    """The 101, after which HELLO comes and the connection works."""
    with Wire(node.port) as wire:
        wire.send(data)
        answer = wire.read_answer()
        assert answer.status == 101, answer
        assert wire.read_message()[1].startswith(b"HELLO ")
        wire.send(frame(TEXT, b"PING"))
        assert wire.read_message() == (TEXT, b"PONG")
    return answer


# -- accepted --


def test_the_answer_to_a_handshake(node: kit.Engine) -> None:
    """RFC 6455 §1.3 and §4.2.2."""
    headers = accepted(node, GOOD).headers
    assert headers["sec-websocket-accept"] == accept_of(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert headers["upgrade"].lower() == "websocket"
    assert headers["connection"].lower() == "upgrade"


def test_the_key_is_hashed_as_it_came(node: kit.Engine) -> None:
    for key in ("AAAAAAAAAAAAAAAAAAAAAA==", "/////////////////////w==", "x3JJHMbDL1EzLkh9GBhXDw=="):
        assert accepted(node, request(Sec_WebSocket_Key=key)).headers["sec-websocket-accept"] == accept_of(key)


@pytest.mark.parametrize(
    "data",
    [
        request(Connection="keep-alive, Upgrade"),
        request(Connection="UPGRADE"),
        request(Upgrade="WebSocket"),
        GOOD.replace(b"Upgrade: websocket", b"uPGRADE:websocket  "),
        GOOD.replace(b"Sec-WebSocket-Key", b"sec-websocket-key"),
        request("/", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
        request("/", "Cookie: a=b", "User-Agent: Mozilla/5.0", "Pragma: no-cache"),
        request("/?"),
        request("/?unknown=1"),
        request("/", *(f"X-{i}: y" for i in range(95))),
        request("http://localhost/"),
        request(Host="[::1]:8080"),
        request("/?x=" + "y" * (8000 - len("GET /?x= HTTP/1.1"))),
        request("/?x=" + "y" * (8192 - len("GET /?x= HTTP/1.1"))),
        request("/", "X-Long: " + "y" * (16384 - len(request("/", "X-Long: ")))),
    ],
    ids=[
        "a list in Connection",
        "Connection in capitals",
        "Upgrade in capitals",
        "spaces around values",
        "header names in small letters",
        "extensions",
        "other headers",
        "empty query",
        "unknown parameter",
        "100 headers",
        "an absolute target",
        "Host of IPv6",
        "a request line of 8000 bytes",
        "a request line of 8192 bytes",
        "a head of 16384 bytes",
    ],
)
def test_is_accepted(node: kit.Engine, data: bytes) -> None:
    assert "sec-websocket-extensions" not in accepted(node, data).headers


@pytest.mark.parametrize(
    "offered, selected",
    [
        ([], None),
        (["signal.v1"], "signal.v1"),
        (["chat, signal.v1"], "signal.v1"),
        (["signal.v1, token.YWJj"], "signal.v1"),
        (["chat", "signal.v1"], "signal.v1"),
        (["chat"], None),
        (["signal.v2, xsignal.v1, signal.v1x"], None),
    ],
)
def test_subprotocol(node: kit.Engine, offered: list[str], selected: str | None) -> None:
    lines = [f"Sec-WebSocket-Protocol: {line}" for line in offered]
    assert accepted(node, request("/", *lines)).headers.get("sec-websocket-protocol") == selected


def test_head_in_pieces(node: kit.Engine) -> None:
    with Wire(node.port) as wire:
        wire.send_cut(GOOD, list(range(len(GOOD))))
        assert wire.read_answer().status == 101
        assert wire.read_message()[1].startswith(b"HELLO ")


def test_a_long_head_in_pieces(node: kit.Engine) -> None:
    """Beyond what is kept in a loop's own buffer, and with the first frame behind it."""
    head = request("/?room=" + "r" * 100, *(f"X-{i}: " + "y" * 500 for i in range(30)))
    assert 15000 < len(head) <= 16384
    with Wire(node.port) as wire:
        wire.send_cut(head + frame(TEXT, b"PING"), [1, 4, 100, *range(1000, len(head), 1000), len(head) - 1, len(head)])
        assert wire.read_answer().status == 101
        assert wire.read_message()[1].startswith(b"HELLO ")
        assert wire.read_message() == (TEXT, b"PONG")


@pytest.mark.parametrize("data", [b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /healthz HTTP/1.0\r\n\r\n"])
def test_healthz(node: kit.Engine, data: bytes) -> None:
    """HEAD is GET without the body (RFC 9110 §9.3.2)."""
    with Wire(node.port) as wire:
        wire.send(data)
        answer = wire.read_answer()
        assert (answer.status, answer.body) == (200, b"ok\n")
        assert wire.read_end() == b""
    with Wire(node.port) as wire:
        wire.send(data.replace(b"GET", b"HEAD"))
        head = wire.read_end()
    assert head.startswith(b"HTTP/1.1 200 ") and b"\r\nContent-Length: 3\r\n" in head
    assert head.endswith(b"\r\n\r\n")


def ask(node: kit.Engine, method: str, target: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, and what follows them, of a plain request."""
    with Wire(node.port) as wire:
        wire.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, rest = wire.read_end().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), rest


@pytest.mark.parametrize("target", ["/", "/healthz", "*", "/?room=a"])
def test_options(node: kit.Engine, target: str) -> None:
    """RFC 9110 §9.3.7."""
    status, headers, rest = ask(node, "OPTIONS", target)
    assert (status, headers["Allow"], rest) == (204, "GET, HEAD, OPTIONS", b"")
    assert "Content-Length" not in headers  # RFC 9110 §8.6


def test_head_of_the_endpoint(node: kit.Engine) -> None:
    get, head = (ask(node, method, "/") for method in ("GET", "HEAD"))
    assert get[0] == 426 and get[2]
    assert head == (get[0], get[1], b"")


# -- refused --

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
    refused(node, data, 400)


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
def test_400_for_a_room_that_no_one_can_join(node: kit.Engine, name: str) -> None:
    """A name that SUB would not take is not ignored in a URL."""
    refused(node, request(f"/?room=good&room={name}"), 400)


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
    """Decoded as a form is (+ is a space), and which of them it was."""
    answer = refused(node, request(f"/?{query}"), 400)
    assert named in answer.body.decode() and len(answer.body) < 400


def test_a_room_is_decoded_as_a_form_is(node: kit.Engine) -> None:
    with opened(node.port, "/?a=b&r%6F%6Fm=x%2by%26%7E&room=z")[0] as wire:
        for room in ("x+y&~", "z"):
            wire.send(frame(TEXT, f"UNSUB {room} ref=1".encode()))
            assert wire.read_message()[1] == b"OK 1"
    assert node.stats()["total"]["memberships"] == 0


@pytest.mark.parametrize("path", ["/nope", "/index.html", "//", "/healthz2", "/nope?room=a"])
def test_404(node: kit.Engine, path: str) -> None:
    refused(node, request(path), 404)
    refused(node, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "CONNECT", "get", "BREW"])
def test_405(node: kit.Engine, method: str) -> None:
    """RFC 6455 §4.2.1: GET. RFC 9110 §15.5.6: the answer names what is allowed."""
    with Wire(node.port) as wire:
        wire.send(request(method=method))
        head = wire.read_end().decode().split("\r\n\r\n")[0].split("\r\n")
    assert head[0].startswith("HTTP/1.1 405 ")
    assert "Allow: GET, HEAD, OPTIONS" in head


def test_414(node: kit.Engine) -> None:
    refused(node, request("/?x=" + "y" * (8193 - len("GET /?x= HTTP/1.1"))), 414)


def test_414_before_the_head_is_whole(node: kit.Engine) -> None:
    refused(node, b"GET /?x=" + b"y" * 8192, 414)


def test_426(node: kit.Engine) -> None:
    """No upgrade, or a version other than 13."""
    for data in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /?room=a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
        *(request(Sec_WebSocket_Version=version) for version in ("0", "8", "12", "14", "130", "1", "x", "")),
        request(drop="Sec-WebSocket-Version"),
    ):
        headers = refused(node, data, 426).headers
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
    """The protocol leaves open whether that is malformed or no upgrade."""
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
    refused(node, data, 431)


def test_sizes_are_settings() -> None:
    with kit.engine(nats="off", loops=1, max_request_line=100, max_head=600) as small:
        line, head = "GET /?x= HTTP/1.1", len(request("/", "X: "))
        accepted(small, request("/?x=" + "y" * (100 - len(line))))
        refused(small, request("/?x=" + "y" * (101 - len(line))), 414)
        accepted(small, request("/", "X: " + "y" * (600 - head)))
        refused(small, request("/", "X: " + "y" * (601 - head)), 431)
    with kit.engine(nats="off", loops=1, max_request_line=65536, max_head=65536) as large:
        accepted(large, request("/?x=" + "y" * 60000))
        accepted(large, request("/", "X: " + "y" * (65536 - head)))
        refused(large, request("/", "X: " + "y" * (65537 - head)), 431)


@pytest.mark.parametrize("path", ["/ws", "/ws/", "/a/b.c"])
def test_path(path: str) -> None:
    """The endpoint is there, health checks are below it and at the root; the URLs that are told say so."""
    with kit.engine(nats="off", loops=1, path=path) as engine:
        bare = path.rstrip("/")
        assert engine.url.endswith(path)
        for target in (bare, bare + "/", bare + "?room=a", bare + "/?room=a"):
            accepted(engine, request(target))
        for target in ("/", "/?room=a", bare + "x", bare + "//"):
            refused(engine, request(target), 404)
        for target in ("/healthz", bare + "/healthz"):
            assert ask(engine, "GET", target)[::2] == (200, b"ok\n")


def test_505(node: kit.Engine) -> None:
    refused(node, request(version="HTTP/1.0"), 505)


def test_503_when_full() -> None:
    """With Retry-After; the old ones stay, and a place that becomes free is given again."""
    with kit.engine(nats="off", loops=2, max_connections=3) as small:
        wires = [opened(small.port)[0] for _ in range(3)]
        assert int(refused(small, GOOD, 503).headers["retry-after"]) >= 0
        for wire in wires:
            wire.send(frame(TEXT, b"PING"))
            assert wire.read_message() == (TEXT, b"PONG")
        wires.pop().socket.close()
        until(lambda: small.stats()["total"]["connections"] == 2)
        accepted(small, GOOD)
        for wire in wires:
            wire.socket.close()


def test_who_is_refused_holds_no_place() -> None:
    """However long it lingers: neither who asked for what there is not, nor who was one too many."""
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
            until(lambda: small.stats()["total"]["connections"] == 2)
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
    """Pipelined behind it: another request, a good handshake, frames."""
    for more in (bad, GOOD, GOOD + frame(TEXT, b"PING"), b"\xff" * 20000):
        refused(node, bad + more, status)


def test_an_answer_ends_the_connection_even_if_the_client_does_not(node: kit.Engine) -> None:
    """The engine hangs up first."""
    answer = refused(node, b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", 404)
    assert answer.headers["connection"].lower() == "close"


@pytest.mark.parametrize("data", [b"", b"GET", GOOD[:-1]], ids=["nothing", "a word", "all but a byte"])
def test_handshake_timeout(data: bytes, hasty: kit.Engine) -> None:
    """Who has begun to ask hears 408; who has said nothing, nothing."""
    start, before = time.monotonic(), hasty.stats()["total"]
    with Wire(hasty.port) as wire:
        wire.send(data)
        if data:
            answer = wire.read_answer()
            assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert wire.read_end() == b""
        assert 0.3 < time.monotonic() - start < 3
    after = hasty.stats()["total"]
    assert after["handshakes_timed_out"] - before["handshakes_timed_out"] == 1
    until(lambda: hasty.stats()["total"]["input_bytes"] == 0)


def test_handshake_timeout_is_of_the_whole(hasty: kit.Engine) -> None:
    """A byte now and then buys no time."""
    start = time.monotonic()
    with Wire(hasty.port) as wire:
        sent = 0
        while time.monotonic() - start < 3 and not wire.buffer:
            try:
                wire.send(GOOD[sent : sent + 1])
                sent += 1
                wire.read(1, limit=0.05)
            except TimeoutError:
                continue
            except (EOFError, OSError):
                break
        assert 0.3 < time.monotonic() - start < 2
        assert sent < len(GOOD)


def test_handshake_timeout_does_not_touch_the_upgraded(hasty: kit.Engine) -> None:
    wire, _ = opened(hasty.port)
    with wire, Wire(hasty.port) as later:
        later.read_end()
        wire.send(frame(TEXT, b"PING"))
        assert wire.read_message() == (TEXT, b"PONG")


@pytest.fixture(scope="module")
def hasty() -> Iterator[kit.Engine]:
    with kit.engine(nats="off", loops=1, handshake_timeout=0.5) as engine:
        yield engine
