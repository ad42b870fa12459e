"""Plain HTTP: health checks, HEAD and OPTIONS."""

import pytest

import kit
from wire import Wire, plain_request


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


@pytest.mark.parametrize("target", ["/", "/healthz", "*", "/?room=a"])
def test_options(node: kit.Engine, target: str) -> None:
    """RFC 9110 §9.3.7."""
    status, headers, rest = plain_request(node.port, "OPTIONS", target)
    assert (status, headers["Allow"], rest) == (204, "GET, HEAD, OPTIONS", b"")
    assert "Content-Length" not in headers  # RFC 9110 §8.6


def test_head_of_the_endpoint(node: kit.Engine) -> None:
    get, head = (plain_request(node.port, method, "/") for method in ("GET", "HEAD"))
    assert get[0] == 426 and get[2]
    assert head == (get[0], get[1], b"")
