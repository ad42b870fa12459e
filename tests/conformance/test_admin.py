"""HTTP methods of the admin server: pages take GET and HEAD, and Allow says so (RFC 9110 §9, §15.5.6)."""

import http.client
from urllib.parse import urlsplit

import pytest

import kit

READ = "GET, HEAD, OPTIONS"


def ask(node: kit.Engine, method: str, path: str) -> tuple[int, str | None, bytes]:
    """Status, Allow, and body of an answer."""
    connection = http.client.HTTPConnection(urlsplit(node.admin_url).netloc, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Allow"), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/stats", "/metrics", "/healthz?x=1"])
def test_methods_of_a_page(node: kit.Engine, path: str) -> None:
    status, allow, body = ask(node, "GET", path)
    assert (status, allow) == (200, None) and body
    assert ask(node, "HEAD", path) == (200, None, b"")
    assert ask(node, "OPTIONS", path) == (204, READ, b"")
    assert ask(node, "POST", path)[0] == 404
    for method in ("PUT", "PATCH", "DELETE", "TRACE"):
        status, allow, body = ask(node, method, path)
        assert (status, allow) == (405, READ) and body


def test_methods_of_an_action(node: kit.Engine) -> None:
    assert ask(node, "OPTIONS", "/drain") == (204, "POST, OPTIONS", b"")
    assert ask(node, "DELETE", "/drain")[:2] == (405, "POST, OPTIONS")


def test_unknown_pages(node: kit.Engine) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
        status, allow, _ = ask(node, method, "/nope")
        assert (status, allow) == (404, None)
    assert ask(node, "OPTIONS", "*")[:2] == (204, "GET, HEAD, POST, OPTIONS")
