"""The admin server: /metrics for Prometheus, /stats as JSON, /healthz, /readyz, POST /drain and POST /reload.

It runs on separate threads. A request takes the GIL, but touches the loops only to read their counters.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from signal_py.base.errors import ConfigError, ReloadError
from signal_py.base.hostport import host_port
from signal_py.listen import Address, prepare, where
from signal_py.listeners import Held, Place
from signal_py.metrics import Counters, EngineCollector, Stats

REQUEST_TIMEOUT = 10.0  # seconds for a client to send its request
READ, ACT = "GET, HEAD, OPTIONS", "POST, OPTIONS"
METHODS = {"/metrics": READ, "/stats": READ, "/healthz": READ, "/readyz": READ, "/drain": ACT, "/reload": ACT}
JSON = "application/json"
NOT_FOUND = (404, "text/plain", b"Not found. Use /metrics, /stats, /healthz, /readyz, POST /drain or POST /reload.\n")

class Admin:
    """The HTTP server. It answers from `start` until `stop` returns."""

    def __init__(
        self,
        held: Held,
        named: str,
        tls: ssl.SSLContext | None,
        stats: Callable[[], Stats],
        unready: Callable[[], str],
        drain: Callable[[], Stats],
        reload: Callable[[], Stats],
    ) -> None:
        """Takes over the address that is held. Raises ConfigError.

        held     the address
        named    how the setting was given, for errors
        tls      for HTTPS; None: HTTP
        stats    returns the statistics
        unready  returns why the engine accepts no clients; "" if it does
        drain    begins a drain, and returns what it will do
        reload   reloads the settings, and returns what changed; raises ConfigError, ReloadError
        """
        self._stats = stats
        self._unready = unready
        self._drain = drain
        self._reload = reload
        self._lock = threading.Lock()  # one request at a time reads the core's counters
        self._registry: CollectorRegistry | None = None
        self._servers: list[_Server] = []
        self.tls = tls  # for new connections; a reload replaces it
        self.addresses = [place.address for place in held.places]
        try:
            for place in held.places:
                self._servers.append(_Server(self, place, named))
        except BaseException:
            self.stop()
            raise
        held.release()

    def start(self) -> None:
        """Starts to answer, on one thread per address and one per connection."""
        for server in self._servers:
            server.thread.start()

    def stop(self) -> None:
        """Stops; blocks until its threads have ended, except those of slow clients."""
        for server in self._servers:
            server.stop()
        # These referred to the engine.
        self._stats, self._unready, self._drain, self._reload, self._registry = dict, str, dict, dict, None

    def count(self, counters: Counters) -> None:
        """Takes the list of counters, once there is a core."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(EngineCollector(counters, self._stats))
        self._registry = registry

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Returns the status, content type and body for a GET."""
        if path == "/healthz":
            return 200, "text/plain", b"ok\n"
        if path == "/readyz":
            reason = self._unready()
            return (503, "text/plain", reason.encode() + b"\n") if reason else (200, "text/plain", b"ready\n")
        if path == "/stats":
            with self._lock:
                return 200, "application/json", json.dumps(self._stats()).encode() + b"\n"
        if path == "/metrics":
            with self._lock:
                body = generate_latest(self._registry) if self._registry else b""
            return 200, CONTENT_TYPE_LATEST, body
        return NOT_FOUND

    def act(self, path: str, from_a_page: bool) -> tuple[int, str, bytes]:
        """As `answer`, for a POST. Refuses web pages, since a browser can reach whatever its user can."""
        if path not in METHODS or METHODS[path] != ACT:
            return NOT_FOUND
        if from_a_page:
            return 403, "text/plain", b"Web pages may not use this endpoint.\n"
        if self._unready() == "starting":
            return 503, "text/plain", b"starting\n"
        return _reloaded(self._reload) if path == "/reload" else (202, JSON, json.dumps(self._drain()).encode() + b"\n")


def _reloaded(reload: Callable[[], Stats]) -> tuple[int, str, bytes]:
    """Returns the answer to POST /reload: 422 for settings that can't be used, 409 if it is not the time."""
    try:
        status, found = 200, reload()
    except ConfigError as error:
        status, found = 422, {"faults": [fault.text for fault in error.faults]}
    except ReloadError as error:
        status, found = 409, {"faults": [str(error)]}
    return status, JSON, json.dumps(found).encode() + b"\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, admin: Admin, place: Place, named: str) -> None:
        self.admin = admin
        self._place = place
        address = place.address
        self.thread = threading.Thread(target=self.serve_forever, name="admin", daemon=True)
        self.address_family = socket.AddressFamily(address.family)
        super().__init__(cast(Any, where(address)), _Handler, bind_and_activate=False)
        if place.shared is None:
            self._listen(address, named)
            return
        self.socket.close()
        self.socket = place.shared

    def _listen(self, address: Address, named: str) -> None:
        """Listens on a TCP address. Raises ConfigError."""
        # The probe, which holds the port and has checked that nobody listens there, may have set both options.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            prepare(self.socket, address, self.admin.addresses)
            self.socket.bind(cast(Any, self.server_address))
            self.server_activate()
        except OSError as error:
            self.server_close()
            raise ConfigError(
                f"{named} {host_port(address.host, address.port)} can't be listened on ({error.strerror}): "
                "choose another address."
            ) from None

    def stop(self) -> None:
        """Closes the listener, and waits for its thread."""
        if self.thread.ident is not None:
            if not self._place.inherited:
                self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which polls only twice a second
            self.shutdown()
            self.thread.join()
        self.server_close()
        self._place.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs nothing: clients may disconnect at any time."""


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT
    protocol_version = "HTTP/1.1"
    server_version = "signal-engine"
    sys_version = ""

    def setup(self) -> None:
        """Does the handshake of TLS, on the connection's thread. An OSError ends the connection."""
        server = cast(_Server, self.server)
        tls = server.admin.tls
        if tls is not None and server.address_family != socket.AF_UNIX:
            self.request.settimeout(REQUEST_TIMEOUT)
            self.request = tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        """Ends the connection; TLS with its alert, without a wait for that of the client."""
        super().finish()
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(0)
            with contextlib.suppress(OSError, ValueError):
                self.request.unwrap()
            self.request.close()

    def do_any(self) -> None:
        """Handles any method. Does not read a body: a request that may have one ends the connection."""
        path, from_a_page = self.path.partition("?")[0], "Origin" in self.headers
        allowed = METHODS.get(path, "")
        self.close_connection = self.close_connection or self.command not in ("GET", "HEAD")
        if self.command == "OPTIONS" and (allowed or path == "*"):
            self._say(204, "", b"", allowed or "GET, HEAD, POST, OPTIONS")
        elif allowed and self.command not in ("GET", "HEAD", "POST", "OPTIONS"):
            self._say(405, "text/plain", f"{path} allows {allowed}.\n".encode(), allowed)
        elif self.command not in allowed.split(", "):  # such as POST /stats or GET /drain
            self._say(*NOT_FOUND)
        elif self.command == "POST":
            self._answer(lambda admin: admin.act(path, from_a_page))
        else:
            self._answer(lambda admin: admin.answer(path))

    do_GET = do_HEAD = do_POST = do_OPTIONS = do_PUT = do_PATCH = do_DELETE = do_TRACE = do_CONNECT = do_any

    def _answer(self, ask: Callable[[Admin], tuple[int, str, bytes]]) -> None:
        try:
            answer = ask(cast(_Server, self.server).admin)
        except Exception as error:  # the client gets any error, and the engine goes on
            answer = 500, "text/plain", f"{error}\n".encode()
        self._say(*answer)

    def _say(self, status: int, kind: str, body: bytes, allowed: str = "") -> None:
        """Sends an answer. `allowed`: the value of Allow; "" for none."""
        self.send_response(status)
        if allowed:
            self.send_header("Allow", allowed)
        if self.close_connection:
            self.send_header("Connection", "close")
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Logs no requests."""
