"""`sub` when connections end: it reconnects, moves when a node drains, and ends with some close codes."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

import kit
from minted import SECRET, token
from signal_py.cli.subscribe import FIRST_DELAY, MOST_DELAY, Subscription
from signal_py.cli.ws_client import Access


class Sub:
    """A `signal-engine sub`; `received` has its output, `messages` its stderr."""

    def __init__(self, *words: str, **environment: str) -> None:
        command = [*kit.python(), "-m", "signal_py", "sub", *words]
        self.child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=kit.clean_environment(**environment), cwd="/"
        )
        self.received: list[str] = []
        self.messages: list[str] = []
        assert self.child.stdout is not None and self.child.stderr is not None
        for stream, lines in ((self.child.stdout, self.received), (self.child.stderr, self.messages)):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.decode().rstrip("\n"))

    def until_message(self, pattern: str, times: int = 1) -> list[str]:
        def found() -> list[str]:
            return [line for line in self.messages if re.search(pattern, line)]

        kit.until(lambda: len(found()) >= times, f"it prints {pattern}: {self.messages}")
        return found()

    def until_received(self, payload: str) -> None:
        kit.until(lambda: any(line.endswith(f" {payload}") for line in self.received), f"{payload}: {self.received}")

    def __enter__(self) -> "Sub":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.wait()


def publish(engine: kit.Engine, text: str) -> None:
    assert kit.run("pub", "--url", engine.url, "lobby", text).returncode == 0


def test_it_reconnects() -> None:
    port = kit.free_port()
    with contextlib.ExitStack() as stack:
        with kit.engine(loops=1, listen=f"127.0.0.1:{port}") as first:
            sub = stack.enter_context(Sub("--url", first.url, "lobby"))
            sub.until_message("joined lobby")
            publish(first, "one")
            sub.until_received("one")
        sub.until_message("1001.*; reconnecting")
        with kit.engine(loops=1, listen=f"127.0.0.1:{port}") as second:
            sub.until_message("joined lobby", times=2)
            publish(second, "two")
            sub.until_received("two")
        sub.until_message("reconnecting", times=2)
        assert sub.child.poll() is None and len(sub.messages) == 4, sub.messages
        sub.child.send_signal(signal.SIGINT)
        assert sub.child.wait(kit.PATIENCE) == 130


@pytest.mark.parametrize("advised", [False, True])
def test_it_moves_when_a_node_drains(advised: bool) -> None:
    """To the URL in GOAWAY, else to the same URL, where another node listens. It moves before the old node ends."""
    with kit.nats() as nats, contextlib.ExitStack() as stack:
        settings = {"loops": 1, "nats": nats.url, "reuse_port": "on"}
        new = stack.enter_context(kit.engine(**settings)) if advised else None
        url = {"drain_url": new.url} if new else {}
        old = stack.enter_context(kit.engine(**settings, drain_time=6, **url))
        where = old.url
        # The kernel may give it to either node while both listen, so the other starts later.
        sub = stack.enter_context(Sub("--url", where, "lobby"))
        sub.until_message("joined lobby")
        new = new or stack.enter_context(kit.engine(**settings, listen=f"127.0.0.1:{old.port}"))
        assert kit.run("drain", "--admin", old.admin_url).returncode == 0
        (moved,) = sub.until_message("because the previous node is draining")
        assert moved.split()[1].startswith(new.node + ".")
        publish(new, "here")
        sub.until_received("here")
        assert old.wait() == 0
        assert not [line for line in sub.messages if "reconnecting" in line]


def test_a_full_node_is_tried_again() -> None:
    """429 and 503 may pass; with --once they end it."""
    with kit.engine(loops=1, max_connections=1) as engine, socket.create_connection(("127.0.0.1", engine.port)) as held:
        held.sendall(b"GET / HTTP/1.1\r\n")
        kit.until(lambda: engine.stats()["total"]["accepted_sockets"] >= 1, "the only connection is in use")
        done = kit.run("sub", "--once", "--url", engine.url, "lobby")
        assert done.returncode == 2 and "HTTP 503" in done.stderr
        with Sub("--url", engine.url, "lobby") as sub:
            sub.until_message(r"HTTP 503.*\(trying again\)")
            held.close()
            sub.until_message("joined lobby")
            assert len(sub.messages) == 2


def test_a_token_that_is_refused_at_a_reconnect() -> None:
    """It ends: another try would fail, too."""
    port = kit.free_port()
    settings = {"loops": 1, "listen": f"127.0.0.1:{port}", "auth": "jwt"}
    with contextlib.ExitStack() as stack:
        with kit.engine(auth_key=SECRET, **settings) as first:
            sub = stack.enter_context(Sub("--url", first.url, "lobby", SIGNAL_ENGINE_TOKEN=token("ann")))
            sub.until_message("joined lobby")
        with kit.engine(auth_key=SECRET[::-1], **settings):
            assert sub.child.wait(kit.PATIENCE) == 1
            sub.until_message("HTTP 401")


def test_a_room_that_is_refused() -> None:
    with kit.engine(loops=1, auth="jwt", auth_key=SECRET) as engine:
        done = kit.run("sub", "--url", engine.url, "lobby", SIGNAL_ENGINE_TOKEN=token("ann", rooms=["other"]))
        assert done.returncode == 1 and "lobby can't be joined: denied: The token" in done.stderr


@contextlib.contextmanager
def scripted(act: Callable[[ServerConnection, int], None]) -> Iterator[str]:
    """The URL of a server that sends HELLO, answers one SUB, and calls `act` with each connection and its number."""
    count = 0

    def handle(connection: ServerConnection) -> None:
        nonlocal count
        count += 1
        hello = {"node": "k", "version": "0", "max_message": 65536}
        connection.send(f"HELLO k.{count}\n{json.dumps(hello)}")
        ref = str(connection.recv()).rpartition("ref=")[2]
        connection.send(f"OK {ref}")
        act(connection, count)

    with serve(handle, "127.0.0.1", 0, subprotocols=["signal.v1"]) as server:  # type: ignore[list-item]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("code", "ends"), [(1008, True), (4001, True), (1001, False), (1013, False), (4009, False)])
def test_close_codes_that_end_it(code: int, ends: bool) -> None:
    def act(connection: ServerConnection, count: int) -> None:
        if count == 1:
            connection.close(code)
        else:
            connection.recv()

    with scripted(act) as url, Sub("--url", url, "lobby") as sub:
        sub.until_message(f"closed the connection with {code}")
        if ends:
            assert sub.child.wait(kit.PATIENCE) == 1
        else:
            sub.until_message("k.2 joined lobby")


def test_the_old_connection_prints_until_the_new_one_has_joined() -> None:
    """And nothing twice: messages that come while the new one joins are printed by the old one."""
    joined = threading.Event()

    def act(connection: ServerConnection, count: int) -> None:
        if count == 1:
            connection.send("GOAWAY 0")
            joined.wait(kit.PATIENCE)
        else:
            connection.send("MSG lobby k.9\nafter")
            joined.set()
        with contextlib.suppress(Exception):
            connection.send(f"MSG lobby k.{count}\nlast of {count}")
            connection.recv()

    with scripted(act) as url, Sub("--url", url, "lobby") as sub:
        sub.until_message("k.2 joined lobby, because the previous node is draining")
        sub.until_received("last of 2")
        assert [line for line in sub.received if line.endswith("after")] in ([], ["lobby k.9 after"])
        assert sum(line.endswith("last of 2") for line in sub.received) == 1
        assert sub.child.poll() is None


def test_delays_are_jittered_and_bounded() -> None:
    subscription = Subscription("ws://x/", Access(), ["a"], False, False, lambda received: None)
    delays = [subscription._delay() for _ in range(200)]
    for number, delay in enumerate(delays):
        assert 0 <= delay <= min(MOST_DELAY, FIRST_DELAY * 2**number)
    assert len(set(delays)) == len(delays) and max(delays) > MOST_DELAY / 2


def test_it_ends_if_nobody_reads_its_output() -> None:
    with kit.engine(loops=1) as engine:
        reads, writes = os.pipe()
        command = [*kit.python(), "-m", "signal_py", "sub", "--url", engine.url, "lobby"]
        child = subprocess.Popen(command, stdout=writes, stderr=subprocess.PIPE, env=kit.clean_environment())
        os.close(writes)
        assert child.stderr is not None and b"joined lobby" in child.stderr.readline()
        os.close(reads)
        publish(engine, "x")
        assert child.wait(kit.PATIENCE) == 0 and child.stderr.read() == b""
