"""Handshakes that are accepted: RFC 6455 §4."""

import pytest

import kit
from wire import KEY, TEXT, Wire, accept_of, frame, opened, plain_request, refusal, request, upgraded

GOOD = request()


def test_the_answer_to_a_handshake(node: kit.Engine) -> None:
    """RFC 6455 §1.3 and §4.2.2."""
    headers = upgraded(node.port, GOOD).headers
    assert headers["sec-websocket-accept"] == accept_of(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert headers["upgrade"].lower() == "websocket"
    assert headers["connection"].lower() == "upgrade"


def test_the_key_is_hashed_unchanged(node: kit.Engine) -> None:
    for key in ("AAAAAAAAAAAAAAAAAAAAAA==", "/////////////////////w==", "x3JJHMbDL1EzLkh9GBhXDw=="):
        assert upgraded(node.port, request(Sec_WebSocket_Key=key)).headers["sec-websocket-accept"] == accept_of(key)


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
def test_good_handshakes(node: kit.Engine, data: bytes) -> None:
    assert "sec-websocket-extensions" not in upgraded(node.port, data).headers


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
    assert upgraded(node.port, request("/", *lines)).headers.get("sec-websocket-protocol") == selected


def test_head_in_pieces(node: kit.Engine) -> None:
    with Wire(node.port) as wire:
        wire.send_cut(GOOD, list(range(len(GOOD))))
        assert wire.read_answer().status == 101
        assert wire.read_message()[1].startswith(b"HELLO ")


def test_a_long_head_in_pieces(node: kit.Engine) -> None:
    """Longer than a loop's buffer, and followed by the first frame."""
    head = request("/?room=" + "r" * 100, *(f"X-{i}: " + "y" * 500 for i in range(30)))
    assert 15000 < len(head) <= 16384
    with Wire(node.port) as wire:
        wire.send_cut(head + frame(TEXT, b"PING"), [1, 4, 100, *range(1000, len(head), 1000), len(head) - 1, len(head)])
        assert wire.read_answer().status == 101
        assert wire.read_message()[1].startswith(b"HELLO ")
        assert wire.read_message() == (TEXT, b"PONG")


def test_a_room_is_decoded_as_a_form_is(node: kit.Engine) -> None:
    with opened(node.port, "/?a=b&r%6F%6Fm=x%2by%26%7E&room=z")[0] as wire:
        for room in ("x+y&~", "z"):
            wire.send(frame(TEXT, f"UNSUB {room} ref=1".encode()))
            assert wire.read_message()[1] == b"OK 1"
    assert node.total("memberships") == 0


def test_sizes_are_settings() -> None:
    with kit.engine(nats="off", loops=1, max_request_line=100, max_head=600) as small:
        line, head = "GET /?x= HTTP/1.1", len(request("/", "X: "))
        upgraded(small.port, request("/?x=" + "y" * (100 - len(line))))
        refusal(small.port, request("/?x=" + "y" * (101 - len(line))), 414)
        upgraded(small.port, request("/", "X: " + "y" * (600 - head)))
        refusal(small.port, request("/", "X: " + "y" * (601 - head)), 431)
    with kit.engine(nats="off", loops=1, max_request_line=65536, max_head=65536) as large:
        upgraded(large.port, request("/?x=" + "y" * 60000))
        upgraded(large.port, request("/", "X: " + "y" * (65536 - head)))
        refusal(large.port, request("/", "X: " + "y" * (65537 - head)), 431)


@pytest.mark.parametrize("path", ["/ws", "/ws/", "/a/b.c"])
def test_path(path: str) -> None:
    """The endpoint is there, and so does the logged URL say. Health checks are below it and at the root."""
    with kit.engine(nats="off", loops=1, path=path) as engine:
        bare = path.rstrip("/")
        assert engine.url.endswith(path)
        for target in (bare, bare + "/", bare + "?room=a", bare + "/?room=a"):
            upgraded(engine.port, request(target))
        for target in ("/", "/?room=a", bare + "x", bare + "//"):
            refusal(engine.port, request(target), 404)
        for target in ("/healthz", bare + "/healthz"):
            assert plain_request(engine.port, "GET", target)[::2] == (200, b"ok\n")
