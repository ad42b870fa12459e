"""A web server with a JWKS, which may misbehave.

with KeyHost() as host:
    host.body = jwks_of(k1=key)
    host.answers["/keys"] = host.redirect("/elsewhere")
"""

import contextlib
import http.server
import json
import ssl
import threading
from collections.abc import Callable
from typing import Any

import jwt

from minted import KEYS

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def jwks_of(**keys: Any) -> bytes:
    """A JWKS of these keys' public parts; `kid` is the name, unless that begins with `_`."""
    made = []
    for name, key in keys.items():
        algorithm = next(each for each in KEYS if isinstance(key, type(KEYS[each]())))
        one = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
        made.append(one if name.startswith("_") else one | {"kid": name})
    return json.dumps({"keys": made}).encode()


class KeyHost:
    """Listens on a free port of loopback. A GET gets `body`, unless `answers` has an answer for its path."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.body = b""
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []  # path and headers of each request
        self.ends = threading.Event()
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host.asked.append((self.path, {name.lower(): text for name, text in self.headers.items()}))
                with contextlib.suppress(OSError):
                    host.answers.get(self.path.partition("?")[0], host.plain)(self)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]
        self.scheme = "http"
        if context is not None:
            self.scheme = "https"
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{self.scheme}://127.0.0.1:{self.server.server_port}/keys"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> "KeyHost":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def plain(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.answer(200)(handler)

    def answer(self, status: int, body: bytes | None = None, **headers: str) -> Answer:
        """Answers with `body`, or with the host's body at that time."""

        def send(handler: http.server.BaseHTTPRequestHandler) -> None:
            text = self.body if body is None else body
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            if status != 304:
                handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            if status != 304:
                handler.wfile.write(text)

        return send

    def redirect(self, url: str, status: int = 302) -> Answer:
        return self.answer(status, b"", Location=url)

    def drip(self, first: bytes, part: bytes, every: float = 0.02) -> Answer:
        """Answers with `first`, and then with `part` without end."""

        def send(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.wfile.write(first)
            while not self.ends.wait(every):
                handler.wfile.write(part)

        return send
