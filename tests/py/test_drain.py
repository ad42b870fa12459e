"""Errors of `signal-engine drain`: another web server, bad addresses."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import kit


@contextmanager
def accepting(body: bytes) -> Iterator[str]:
    """HOST:PORT of a web server that answers each POST with 202 and this body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(202)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "body", [b"thanks", b"[]", b"{}", b"[" * 60000, b'{"node": 1, "connections": 2, "drain_time": []}']
)
def test_another_server(body: bytes) -> None:
    with accepting(body) as where:
        error = kit.complaint(kit.run("drain", "--admin", where))
        assert f"--admin {where} did not answer like an engine: give the engine's --admin address" in error


def test_errors_name_the_variable_or_the_flag() -> None:
    with accepting(b"thanks") as where:
        error = kit.complaint(kit.run("drain", SIGNAL_ENGINE_ADMIN=where))
        assert error.startswith(f"signal-engine: SIGNAL_ENGINE_ADMIN {where} did not answer like an engine")
    assert "SIGNAL_ENGINE_ADMIN 'x' is not an admin server" in kit.complaint(kit.run("drain", SIGNAL_ENGINE_ADMIN="x"))
    assert "--admin 'y' is not an admin server" in kit.complaint(
        kit.run("drain", "--admin", "y", SIGNAL_ENGINE_ADMIN="x")
    )
    assert "--admin '' is not an admin server" in kit.complaint(kit.run("drain"))


def test_impossible_host_names() -> None:
    assert "--admin ä..b:80 can't be reached" in kit.complaint(kit.run("drain", "--admin", "ä..b:80"))
    assert "--admin 'http://a b:80' is not an admin" in kit.complaint(kit.run("drain", "--admin", "http://a b:80"))
