"""nginx, HAProxy and Caddy in front of engines, with the files of deploy/."""

import contextlib
import re
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
import proxies
from peers import BarePeer
from proxies import ProxiedPeer, Proxy
from signal_py.config.settings import Config
from wire import PING, PONG, frame, fresh, until

NAMES = list(proxies.PACKAGES)
PROXY = {"trusted_proxies": ["127.0.0.1"]}
LARGE = 1 << 20
PAGE = (proxies.DEPLOY.parent / "docs" / "deployment.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[kit.Engine]]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(kit.nats())
        settings = {"nats": server.url, **PROXY}
        yield [stack.enter_context(kit.engine(loops=2, **settings)) for _ in range(3)]


@pytest.fixture(params=NAMES)
def proxy(request: pytest.FixtureRequest, nodes: list[kit.Engine], tmp_path: Path) -> Iterator[Proxy]:
    """A proxy before three nodes of one cluster."""
    with proxies.running(request.param, [node.port for node in nodes], tmp_path) as made:
        yield made


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """A proxy's name, for a test that starts it with engines of its own."""
    return str(request.param)


@contextlib.contextmanager
def crowd(proxy: Proxy, n: int, *rooms: str) -> Iterator[list[ProxiedPeer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(proxy.peer(*rooms)) for _ in range(n)]


def test_clients_are_spread_and_meet_in_a_room(proxy: Proxy, nodes: list[kit.Engine]) -> None:
    """A message to a room reaches the members on all nodes."""
    room = fresh("room")
    with crowd(proxy, 6) as peers:
        assert Counter(peer.node for peer in peers) == {node.node: 2 for node in nodes}
        for peer in peers:
            peer.join(room)
        peers[0].say(f"PUB {room}", "hello")
        for peer in peers[1:]:
            assert peer.expect("MSG", room, peers[0].address).payload == b"hello"


def test_the_node_with_the_fewest_clients_gets_the_next(proxy: Proxy, nodes: list[kit.Engine]) -> None:
    with crowd(proxy, 9) as peers:
        assert Counter(peer.node for peer in peers) == {node.node: 3 for node in nodes}
        for peer in peers:
            if peer.node == nodes[1].node:
                peer.close()
        until(lambda: nodes[1].total("connections") == 0, "the node has none")
        with crowd(proxy, 3) as others:
            assert {peer.node for peer in others} == {nodes[1].node}


def test_other_paths_are_refused_by_the_engine(proxy: Proxy) -> None:
    """Its statuses and texts reach the client."""
    assert proxy.get("/healthz").status == 200
    assert proxy.get("/nowhere").status == 404
    plain = proxy.get("/")
    assert (plain.status, plain.headers["sec-websocket-version"]) == (426, "13")


@contextlib.contextmanager
def alone(name: str, folder: Path, changes: proxies.Changes | None = None, **settings: object) -> Iterator[Proxy]:
    """A proxy before one engine with these settings."""
    with (
        kit.engine(loops=1, **PROXY, **settings) as engine,
        proxies.running(name, [engine.port], folder, changes) as proxy,
    ):
        yield proxy


def test_the_largest_message_passes(name: str, tmp_path: Path) -> None:
    with alone(name, tmp_path, max_message=LARGE) as proxy, proxy.peer() as one, proxy.peer() as other:
        payload = bytes(range(256)) * (LARGE // 256)
        assert one.ask(f"TO {other.address}", payload, ref="r") == "ok"
        assert other.expect("FROM", one.address, ref="r").payload == payload
        one.say(f"TO {other.address}", payload + b"x")
        assert one.ended() == 1009


def test_the_address_that_counts_is_the_clients(name: str, tmp_path: Path) -> None:
    """Also if the client forges X-Forwarded-For. The 429 reaches it."""
    forged = tuple(f"X-Forwarded-For: {text}" for text in ("192.0.2.7", "192.0.2.8, 127.0.0.1"))
    with alone(name, tmp_path, max_connections_per_address=1) as proxy:
        with proxy.peer(source="127.0.0.7"), proxy.peer(source="127.0.0.8", extra=forged[:1]):
            for source in ("127.0.0.7", "127.0.0.8"):
                for more in ((), forged):
                    answer = proxy.knock("/", *more, source=source)
                    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        until(lambda: proxy.knock(source="127.0.0.7").status == 101, "the quota is free again")


def test_a_full_cluster_answers_503(name: str, tmp_path: Path) -> None:
    """Each time, as long as all nodes are full."""
    settings = {"max_connections": 1, **PROXY}
    with (
        kit.engine(loops=1, **settings) as one,
        kit.engine(loops=1, **settings) as other,
        BarePeer(one.port),
        BarePeer(other.port),
        proxies.running(name, [one.port, other.port], tmp_path) as proxy,
    ):
        for _ in range(5):
            answer = proxy.knock()
            assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_a_full_node_is_passed_over(name: str, tmp_path: Path) -> None:
    with (
        kit.engine(loops=1, max_connections=1, **PROXY) as full,
        kit.engine(loops=1, **PROXY) as free,
        BarePeer(full.port),
        proxies.running(name, [full.port, free.port], tmp_path) as proxy,
        crowd(proxy, 4) as peers,
    ):
        assert {peer.node for peer in peers} == {free.node}
        assert full.total("shed") > 0


def test_a_node_that_drains_gets_no_client(name: str, tmp_path: Path) -> None:
    """New clients are passed to the other nodes, none is refused. Those of the drained node get messages."""
    with contextlib.ExitStack() as stack:
        settings = {"drain_time": 600, **PROXY}
        engines = [stack.enter_context(kit.engine(loops=1, **settings)) for _ in range(3)]
        proxy = stack.enter_context(proxies.running(name, [engine.port for engine in engines], tmp_path))
        before = [stack.enter_context(proxy.peer()) for _ in range(6)]
        gone = engines[1]
        inside = [peer for peer in before if peer.node == gone.node]
        assert len(inside) == 2
        with urllib.request.urlopen(urllib.request.Request(gone.admin_url + "drain", method="POST")) as answer:
            assert answer.status == 202
        assert {peer.read().verb for peer in inside} == {"GOAWAY"}
        for _ in range(12):
            assert stack.enter_context(proxy.peer()).node != gone.node
        assert inside[0].ask(f"TO {inside[1].address}", "still here") == "ok"
        gone.kill()


def test_a_node_that_crashed_gets_no_client(name: str, tmp_path: Path) -> None:
    """Its clients are told by the end of their connections. Others, and new ones, do not notice."""
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(kit.engine(loops=1, **PROXY)) for _ in range(2)]
        proxy = stack.enter_context(proxies.running(name, [engine.port for engine in engines], tmp_path))
        peers = [stack.enter_context(proxy.peer()) for _ in range(4)]
        gone = engines[0]
        gone.kill()
        for peer in peers:
            assert peer.ended() is None if peer.node == gone.node else peer.ask(f"TO {peer.address}", "hi") == "ok"
        for _ in range(6):
            assert stack.enter_context(proxy.peer()).node == engines[1].node


@pytest.mark.parametrize("name", ["haproxy", "caddy"])
def test_a_node_that_hangs_is_found_by_the_health_check(name: str, tmp_path: Path) -> None:
    with kit.engine(loops=1, **PROXY) as one, kit.engine(loops=1, **PROXY) as other:
        changes = {"caddy": {"health_timeout 2s": "health_timeout 200ms"}, "haproxy": {}}[name]
        with proxies.running(name, [one.port, other.port], tmp_path, changes) as proxy:
            kit.freeze(one)
            said = {"caddy": b"HTTP request failed", "haproxy": b"nodes/node1 is DOWN"}[name]
            until(lambda: said in proxy.log(), "it is found")
            with crowd(proxy, 4) as peers:
                assert {peer.node for peer in peers} == {other.node}
            one.kill()


# The proxy gives up a connection that is silent for a second.
IMPATIENT = {
    "nginx": {"proxy_read_timeout 75s": "proxy_read_timeout 1s", "proxy_send_timeout 75s": "proxy_send_timeout 1s"},
    "haproxy": {"timeout tunnel 75s": "timeout tunnel 1s"},
    "caddy": {},
}


def test_pings_keep_a_silent_connection(name: str, tmp_path: Path) -> None:
    """Pings come within 0.3 s of silence each, so these take the proxy's timeout more than twice."""
    with alone(name, tmp_path, IMPATIENT[name], ping_interval=0.3) as proxy, proxy.peer() as peer:
        for _ in range(10):
            got = peer.wire.read_frame()
            assert got.opcode == PING
            peer.wire.send(frame(PONG, got.payload))
        assert peer.ask(f"TO {peer.address}", "hi") == "ok"


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_without_pings_the_proxy_gives_up_a_silent_connection(name: str, tmp_path: Path) -> None:
    with alone(name, tmp_path, IMPATIENT[name]) as proxy, proxy.peer() as peer:
        assert peer.ended() is None


def test_timeouts_are_longer_than_the_engine_needs() -> None:
    """Those of the files are longer than the silence after which the engine gives up a client."""
    needed = Config().ping_interval + Config().pong_timeout
    found = [
        *re.findall(r"proxy_(?:read|send)_timeout (\d+)s", proxies.shipped("nginx/signal-engine.conf", {})),
        *re.findall(r"timeout tunnel (\d+)s", proxies.shipped("haproxy/haproxy.cfg", {})),
    ]
    assert len(found) == 3 and all(int(seconds) > needed for seconds in found)


@pytest.mark.parametrize("title", ["nginx", "HAProxy", "Caddy"])
def test_below_a_path(title: str, tmp_path: Path) -> None:
    """With the change that the page names."""
    row = re.search(rf"^\| {title} \| `(.*)` \| `(.*)` \|$", PAGE, re.MULTILINE)
    assert row
    with alone(title.lower(), tmp_path, {row[1]: row[2]}, path="/ws") as proxy:
        with proxy.peer(path="/ws?room=lobby") as peer:
            assert peer.ask("PUB lobby", "hi") == "ok"
        assert proxy.get("/ws/healthz").status == 200


@pytest.mark.parametrize("title", ["nginx", "HAProxy", "Caddy"])
def test_over_a_unix_socket(title: str, tmp_path: Path) -> None:
    """Named as in the page. The address that counts is the client's."""
    row = re.search(rf"^\| {title} \| `(\S*)/run/signal-engine/ws.sock` \|$", PAGE, re.MULTILINE)
    assert row
    with tempfile.TemporaryDirectory(prefix="signal-test-") as folder:
        Path(folder).chmod(0o755)  # for the user of nginx's workers
        socket = f"{folder}/ws.sock"
        settings = {"listen": f"unix:{socket}", "listen_mode": "0666", "max_connections_per_address": 1}
        with (
            kit.engine(loops=1, **settings),
            proxies.running(title.lower(), [row[1] + socket], tmp_path) as proxy,
            proxy.peer(source="127.0.0.7") as one,
            proxy.peer(source="127.0.0.8") as other,
        ):
            assert one.ask(f"TO {other.address}", "hi") == "ok"
            assert proxy.knock(source="127.0.0.7").status == 429


def test_haproxy_sends_the_proxy_protocol(tmp_path: Path) -> None:
    """With the change that the page names. The address that counts is the client's. Health checks succeed."""
    shown = re.search(r"replace `(default-server check)` by `(.*?)`", PAGE)
    assert shown
    changes = {proxies.QUICK: proxies.QUICK.replace(shown[1], shown[2])}
    settings = {"max_connections_per_address": 1, "proxy_protocol": "on"}
    with alone("haproxy", tmp_path, changes, **settings) as proxy:
        with proxy.peer(source="127.0.0.7"), proxy.peer(source="127.0.0.8") as peer:
            assert proxy.knock(source="127.0.0.7").status == 429
            assert peer.ask(f"TO {peer.address}", "hi") == "ok"
        assert b"is DOWN" not in proxy.log()


def test_a_reload(name: str, tmp_path: Path) -> None:
    """nginx and HAProxy keep their clients, Caddy closes its own, as the page says. New clients find the proxy."""
    with alone(name, tmp_path) as proxy, proxy.peer() as peer:
        proxy.reload()
        if name == "caddy":
            assert peer.ended() in (None, 1001)
        with proxy.peer() as other:
            assert other.ask(f"TO {other.address}", "hi") == "ok"
            if name != "caddy":
                assert other.ask(f"TO {peer.address}", "hi") == "ok"
                assert peer.read().payload == b"hi"


def test_haproxy_asks_readyz(tmp_path: Path) -> None:
    """With the lines of the comment. A node without a key for tokens gets no client."""
    text = proxies.shipped("haproxy/haproxy.cfg", {})
    found = re.search(r": (uri /readyz) above, and\n    # (default-server check port 9100 .*)\n", text)
    assert found
    keys = {"auth": "jwt", "auth_jwks": f"http://127.0.0.1:{kit.free_port()}/"}
    with kit.engine(loops=1, **PROXY) as good, kit.engine(loops=1, **keys, **PROXY) as lame:
        changes = {"uri /healthz": found[1], proxies.QUICK: ""}
        for i, node in enumerate((good, lame), 1):
            line = found[2].removeprefix("default-server").replace("inter 2s fastinter 500ms", "inter 200ms")
            port = node.admin_url.rstrip("/").rpartition(":")[2]
            changes[f"server node{i} 127.0.0.1:{node.port}"] = (
                f"server node{i} 127.0.0.1:{node.port} {line.replace('9100', port)}"
            )
        with proxies.running("haproxy", [good.port, lame.port], tmp_path, changes) as proxy:
            until(lambda: b"nodes/node2 is DOWN" in proxy.log(), "it is found")
            with crowd(proxy, 3) as peers:
                assert {peer.node for peer in peers} == {good.node}


def test_no_log_has_a_token(name: str, tmp_path: Path) -> None:
    """A token may be in the query."""
    with alone(name, tmp_path) as proxy:
        proxy.peer(path="/?token=secret").close()
        if name != "caddy":  # which has no access log
            until(lambda: b"GET /" in proxy.log(), "the connection is logged")
    assert b"secret" not in proxy.log()
