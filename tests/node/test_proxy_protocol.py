"""The PROXY protocol from trusted addresses: the client's address, and what is refused."""

import socket
import struct

import pytest

import kit
import wire
from wire import LIMIT

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
UPGRADED = b"HTTP/1.1 101"


def v1(source: str) -> bytes:
    return f"PROXY TCP4 {source} 192.0.2.1 5000 80\r\n".encode()


def v2(source: str) -> bytes:
    body = socket.inet_aton(source) + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 5000, 80)
    return SIGNATURE + b"\x21\x11" + struct.pack("!H", len(body)) + body


def connect(engine: kit.Engine, *parts: bytes) -> socket.socket:
    """A client that sends these parts, each in a packet of its own."""
    client = socket.create_connection(("127.0.0.1", engine.port), timeout=LIMIT)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts:
        client.sendall(part)
    return client


def answer(client: socket.socket) -> bytes:
    """The first bytes of the answer."""
    return client.recv(4096)


@pytest.fixture(scope="module")
def trusting():
    settings = {"proxy_protocol": "on", "trusted_proxies": "127.0.0.1", "max_connections_per_address": 2}
    with kit.engine(handshake_timeout=2, **settings) as engine:
        yield engine


@pytest.mark.parametrize("header", [v1, v2])
def test_the_address_is_counted(trusting: kit.Engine, header) -> None:
    """max-connections-per-address applies to the address in the header; X-Forwarded-For is not looked at."""
    source = "198.51.100.7" if header is v1 else "198.51.100.8"
    request = wire.request("/", "X-Forwarded-For: 203.0.113.1")
    two = [connect(trusting, header(source) + request) for _ in range(2)]
    assert all(answer(client).startswith(UPGRADED) for client in two)
    with connect(trusting, header(source) + request) as third, connect(trusting, header("198.51.100.9") + request) as o:
        assert answer(third).startswith(b"HTTP/1.1 429")
        assert answer(o).startswith(UPGRADED)
    for client in two:
        client.close()


def test_a_header_in_pieces(trusting: kit.Engine) -> None:
    for header in (v1("198.51.100.20"), v2("198.51.100.20"), LOCAL):
        whole = header + wire.request()
        with connect(trusting, *(bytes([byte]) for byte in whole)) as client:
            assert answer(client).startswith(UPGRADED)


def test_health_checks_of_a_proxy(trusting: kit.Engine) -> None:
    """LOCAL, as HAProxy's check-send-proxy sends it."""
    with connect(trusting, LOCAL + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n") as client:
        assert answer(client).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("start", [b"", b"PROXY TCP4 x y 1 2\r\n", SIGNATURE + b"\x21\x11\xff\xff"])
def test_a_trusted_proxy_without_a_good_header_is_refused(trusting: kit.Engine, start: bytes) -> None:
    before = trusting.total("proxy_refused")
    with connect(trusting, start + wire.request()) as client:
        text = answer(client)
        assert text.startswith(b"HTTP/1.1 400") and b"PROXY protocol header" in text
    assert trusting.total("proxy_refused") == before + 1


def test_a_header_that_does_not_end_is_given_up(trusting: kit.Engine) -> None:
    """After the time of a handshake."""
    with connect(trusting, b"PROXY TCP4 198.51.100.30") as client:
        assert answer(client).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("header", [v1("198.51.100.7"), v2("198.51.100.7"), LOCAL])
def test_a_header_from_a_stranger_is_refused(header: bytes) -> None:
    with kit.engine(proxy_protocol="on", trusted_proxies="192.0.2.0/24") as engine:
        with connect(engine, header + wire.request()) as client:
            assert answer(client).startswith(b"HTTP/1.1 400")
        assert engine.total("proxy_refused") == 1
        with connect(engine, wire.request()) as client:
            assert answer(client).startswith(UPGRADED)


@pytest.mark.parametrize("header", [v1("198.51.100.7"), v2("198.51.100.7")])
def test_off_a_header_is_a_bad_request(header: bytes) -> None:
    with kit.engine(trusted_proxies="127.0.0.1") as engine, connect(engine, header + wire.request()) as client:
        assert answer(client).startswith(b"HTTP/1.1 400")


def test_a_full_node_answers_a_proxy_that_is_healthy() -> None:
    """A client over the limit is read for its health check, whose header comes first."""
    settings = {"proxy_protocol": "on", "trusted_proxies": "127.0.0.1", "max_connections": 1}
    with kit.engine(**settings) as engine, connect(engine, v1("198.51.100.7") + wire.request()) as first:
        assert answer(first).startswith(UPGRADED)
        with connect(engine, LOCAL + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n") as probe:
            assert answer(probe).startswith(b"HTTP/1.1 200")
        with connect(engine, v1("198.51.100.7") + wire.request()) as second:
            assert answer(second).startswith(b"HTTP/1.1 503")


def test_a_probe_that_resets_is_no_stranger(trusting: kit.Engine) -> None:
    """HAProxy's check of a port with send-proxy: a header, then a reset, after which the address is not known."""
    before = trusting.stats()["total"]
    for _ in range(200):
        with connect(trusting, b"PROXY UNKNOWN\r\n") as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    kit.until(lambda: trusting.stats()["total"]["accepted_sockets"] == before["accepted_sockets"] + 200, "all came")
    assert trusting.stats()["total"]["proxy_refused"] == before["proxy_refused"]
