"""The proxies in front of engines, run with the files of deploy/, and clients that come through them with TLS.

with proxies.running("nginx", [one.port, other.port], folder) as proxy, proxy.peer("lobby") as peer: ...
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

import kit
import wire
from peers import SUBPROTOCOL, BarePeer, url_of
from wire import Answer, Wire, request

DEPLOY = Path(__file__).parents[2] / "deploy"
PACKAGES = {"nginx": "nginx-light", "haproxy": "haproxy", "caddy": "caddy"}
QUICK = "default-server check inter 200ms fall 2 rise 2"
Changes = dict[str, str]


def shipped(file: str, changes: Changes) -> str:
    """The text of a file of deploy/, with these changes. Each part that is replaced is in it once."""
    text = (DEPLOY / file).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
        text = text.replace(old, new)
    return text


class TlsWire(Wire):
    """A TLS connection to a proxy."""

    def __init__(self, port: int, context: ssl.SSLContext, source: str = "") -> None:
        super().__init__(port, source=source)
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")


class ProxiedPeer(BarePeer):
    """A client past HELLO that came through a proxy."""

    def __init__(
        self, proxy: Proxy, *rooms: str, source: str = "", path: str = "", extra: tuple[str, ...] = ()
    ) -> None:
        self.proxy, self.source, self.path, self.extra = proxy, source, path, extra
        super().__init__(proxy.port, *rooms)

    def connect(self, port: int, rooms: tuple[str, ...], protocols: tuple[str, ...]) -> None:
        self.wire = self.proxy.wire(self.source)
        path = self.path or url_of(port, rooms).split(str(port), 1)[1]
        self.wire.upgrade(path, f"Sec-WebSocket-Protocol: {SUBPROTOCOL}", *self.extra)

    @property
    def node(self) -> str:
        return self.address.partition(".")[0]


class Proxy(kit.Process):
    """A proxy with TLS on a free port of loopback, before servers as its configuration names them."""

    def __init__(self, name: str, servers: list[str], folder: Path, changes: Changes) -> None:
        program = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if program is None:
            pytest.skip(f"{name} is not installed: apt-get install {PACKAGES[name]}")
        super().__init__(name)
        self.program, self.name, self.servers, self.home = program, name, servers, folder
        self.port = kit.free_port()
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(str(folder / "tls.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
        issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)
        self.spawn([program, *getattr(self, name)(changes)])
        kit.until(lambda: self.listens() or not self.alive(), f"{name} listens")
        assert self.alive(), f"{name} ended:\n{kit.tail(self.log())}"

    def write(self, name: str, text: str) -> str:
        file = self.home / name
        file.write_text(text, encoding="utf-8")
        return str(file)

    def nginx(self, changes: Changes) -> list[str]:
        """Arguments of nginx; its temporary folders are usually root's."""
        folders = [
            f"{kind}_temp_path {self.home}/{kind};" for kind in ("fastcgi", "uwsgi", "scgi", "client_body", "proxy")
        ]
        main = {
            "pid /run/nginx.pid;": f"pid {self.home}/nginx.pid; daemon off;",
            "http {\n": f"http {{ {' '.join(folders)}\n",
            "/etc/nginx/conf.d/": f"{self.home}/",
        }
        servers = {f"server node{i}:8080 ": f"server {server} " for i, server in enumerate(self.servers, 1)}
        spare = {f"server node{i}:8080 ": "#" for i in range(len(self.servers) + 1, 4)}
        own = {
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "listen [::]:443 ": "#",
            "/etc/nginx/certs/tls.crt": f"{self.home}/tls.crt",
            "/etc/nginx/certs/tls.key": f"{self.home}/tls.key",
        }
        self.write("signal-engine.conf", shipped("nginx/signal-engine.conf", servers | spare | own | changes))
        return ["-e", "stderr", "-c", self.write("nginx.conf", shipped("nginx/nginx.conf", main))]

    def haproxy(self, changes: Changes) -> list[str]:
        servers = {
            f"server node{i} node{i}:8080": f"server node{i} {server}" for i, server in enumerate(self.servers, 1)
        }
        spare = {f"server node{i} node{i}:8080": "" for i in range(len(self.servers) + 1, 4)}
        own = {
            "maxconn 100000 ": "maxconn 100 ",  # not every test may have as many descriptors
            "bind :443 ": f"bind 127.0.0.1:{self.port} ",
            "/etc/haproxy/certs/": f"{self.home}/both.pem",
            "default-server check inter 2s fastinter 500ms fall 2 rise 2\n    # /readyz": QUICK + "\n    # /readyz",
        }
        text = shipped("haproxy/haproxy.cfg", servers | spare | own | changes)
        return ["-W", "-db", "-f", self.write("haproxy.cfg", text)]

    def caddy(self, changes: Changes) -> list[str]:
        options = f"{{\n\tadmin unix/{self.home}/admin\n\tauto_https disable_redirects\n\tskip_install_trust\n}}\n"
        site = f"https://localhost:{self.port} {{\n\ttls {self.home}/tls.crt {self.home}/tls.key"
        own = {
            "signal.example.com {": options + site,
            "node1:8080 node2:8080 node3:8080": " ".join(self.servers),
            "health_interval 2s": "health_interval 200ms",
        }
        text = shipped("caddy/Caddyfile", own | changes)
        return ["run", "--adapter", "caddyfile", "--config", self.write("Caddyfile", text)]

    def reload(self) -> None:
        """Makes it read its configuration again, and returns when the new one is used."""
        if self.name == "caddy":
            where = ["--address", f"unix/{self.home}/admin", "--config", f"{self.home}/Caddyfile"]
            command = [self.program, "reload", "--force", "--adapter", "caddyfile", *where]
            subprocess.run(command, check=True, capture_output=True, timeout=kit.PATIENCE)
            return
        before, number = self._workers(), signal.SIGHUP if self.name == "nginx" else signal.SIGUSR2

        def reloaded() -> bool:
            os.kill(self.pid, number)  # again and again, as HAProxy ignores it just after it has started
            with contextlib.suppress(AssertionError):
                wire.until(lambda: self._workers() - before, limit=1)
            return bool(self._workers() - before)

        kit.until(reloaded, "there is a new process")

    def _workers(self) -> set[str]:
        """Its child processes."""
        return set(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split())

    def listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def wire(self, source: str = "") -> TlsWire:
        """A TLS connection, from the address `source` of loopback."""
        return TlsWire(self.port, self.context, source)

    def peer(self, *rooms: str, source: str = "", path: str = "", extra: tuple[str, ...] = ()) -> ProxiedPeer:
        return ProxiedPeer(self, *rooms, source=source, path=path, extra=extra)

    def knock(self, path: str = "/", *extra: str, source: str = "") -> Answer:
        """The answer to a handshake with these header lines."""
        with self.wire(source) as wire:
            wire.send(request(path, *extra))
            return wire.read_answer()

    def get(self, path: str) -> Answer:
        """The answer to a request without an upgrade."""
        with self.wire() as wire:
            wire.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            return wire.read_answer()


@contextlib.contextmanager
def running(name: str, servers: list[int] | list[str], folder: Path, changes: Changes | None = None) -> Iterator[Proxy]:
    """A proxy before ports of 127.0.0.1, or before servers as its configuration names them; `changes`: of its file."""
    named = [f"127.0.0.1:{server}" if isinstance(server, int) else server for server in servers]
    proxy = Proxy(name, named, folder, changes or {})
    try:
        yield proxy
        assert proxy.alive(), f"{name} ended:\n{kit.tail(proxy.log())}"
    finally:
        proxy.end()
