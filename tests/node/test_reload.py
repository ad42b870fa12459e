"""A daemon reloads its settings: by SIGHUP and by POST /reload."""

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import halt
import kit
from minted import KEYS as MAKERS
from minted import SECRET, Guest, bearer, knock, token, write_pem
from peers import exchange_messages, ledgers_hold, several
from wire import TEXT, frame, opened, refusal, request, until

Daemon = tuple[kit.Engine, Callable[..., None]]


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    """Makes an engine with a file of settings, and a function that rewrites that file."""
    file = tmp_path / "engine.toml"

    def write(**values: Any) -> None:
        lines = (f"{name.replace('_', '-')} = {json.dumps(value)}\n" for name, value in values.items())
        file.write_text("".join(lines))

    engines = []

    def make(flags: dict[str, Any], **values: Any) -> Daemon:
        write(**values)
        manager = kit.engine(config=str(file), **flags)
        engines.append(manager)
        return manager.__enter__(), write

    yield make
    for manager in engines:
        manager.__exit__(None, None, None)


def post(node: kit.Engine, **headers: str) -> tuple[int, dict[str, Any]]:
    """The status and the object that answer POST /reload."""
    connection = http.client.HTTPConnection(urlsplit(node.admin_url).netloc, timeout=kit.PATIENCE)
    try:
        connection.request("POST", "/reload", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body.startswith(b"{") else {"text": body.decode()}
    finally:
        connection.close()


def hang_up(node: kit.Engine) -> dict[str, Any]:
    """Sends SIGHUP, and returns the line that the log then has about it."""

    def lines() -> list[dict[str, Any]]:
        return [line for line in node.events("reloaded") if line["event"] != "ready"]

    known = len(lines())
    os.kill(node.pid, signal.SIGHUP)
    return until(lambda: lines()[known:], "the reload is logged")[0]


def test_a_file_is_read_again(daemon: Any) -> None:
    """The answer says what has changed, what needs a restart, and shows no secret."""
    node, write = daemon({}, max_message=4096, loops=1)
    with opened(node.port)[0]:
        write(max_message=1024, loops=2, origins=["https://a.example"])
        status, done = post(node)
        assert status == 200 and done["node"] == node.node
        assert done["changed"] == [
            {"setting": "max-message", "old": 4096, "new": 1024},
            {"setting": "origins", "old": [], "new": ["https://a.example"]},
        ]
        assert done["restart"] == [{"setting": "loops", "old": 1, "new": 2}]
        refusal(node.port, request("/", "Origin: https://b.example"), 403)
        write(max_message=1024, loops=1)
        line = hang_up(node)
        assert (line["level"], line["changed"]) == ("info", ["origins https://a.example -> none"])
        opened(node.port, "/", "Origin: https://b.example")[0].socket.close()
        assert hang_up(node)["changed"] == "nothing"


def test_flags_keep_overriding_the_file(daemon: Any) -> None:
    node, write = daemon({"max_message": 4096}, max_message=1024, max_rooms=5)
    write(max_message=512, max_rooms=6)
    assert [one["setting"] for one in post(node)[1]["changed"]] == ["max-rooms"]


def test_a_fault_changes_nothing(daemon: Any) -> None:
    """It is named with file and line, in the answer and in one line of the log."""
    node, write = daemon({}, max_message=4096)
    write(max_message=1024, max_rooms=0, bogus=1)
    status, answer = post(node)
    assert status == 422 and len(answer["faults"]) == 2
    assert any("'bogus' in " in text and "engine.toml:3" in text for text in answer["faults"])
    line = hang_up(node)
    assert line["level"] == "error" and line["event"] == "not reloaded, nothing has changed"
    assert "engine.toml:2" in line["reason"] and "engine.toml:3" in line["reason"]
    write(max_message=4096)
    assert post(node)[1]["changed"] == []
    assert node.alive()


def test_the_embedded_nats_server_stays(daemon: Any) -> None:
    node, write = daemon({"nats": "embedded"}, max_rooms=5)
    write(max_rooms=6)
    assert [one["setting"] for one in post(node)[1]["changed"]] == ["max-rooms"]
    link = node.stats()["nats_state"], node.events("connected to NATS"), node.events("NATS settings")
    assert link[0] == "up" and len(link[1]) == 1 and link[2] == []


def test_a_sighup_before_the_engine_is_ready_does_not_end_it(tmp_path: Path) -> None:
    file = tmp_path / "pipe.toml"
    os.mkfifo(file)
    writer = os.open(file, os.O_RDWR)
    child = subprocess.Popen(
        [*kit.python(), "-m", "signal_py", "serve", "--config", str(file), "--drain-time=0"],
        stderr=subprocess.PIPE, env=kit.clean_environment(),
    )  # fmt: skip
    try:
        opened_files = Path(f"/proc/{child.pid}/fd")
        kit.until(lambda: str(file) in map(os.path.realpath, opened_files.iterdir()), "it reads the file")
        child.send_signal(signal.SIGHUP)
        os.write(writer, b'listen = "127.0.0.1:0"\nnats = "off"\n')
        os.close(writer)
        assert child.stderr is not None and b'"ready"' in child.stderr.readline()
        child.send_signal(signal.SIGTERM)
        assert child.wait(kit.PATIENCE) == 0
    finally:
        child.kill()
        child.communicate()


def test_a_web_page_may_not_reload(daemon: Any) -> None:
    node, write = daemon({}, max_message=4096)
    write(max_message=1024)
    assert post(node, Origin="https://a.example")[0] == 403
    assert [one["setting"] for one in post(node)[1]["changed"]] == ["max-message"]


def test_a_node_that_drains_is_not_reloaded(daemon: Any) -> None:
    node, write = daemon({"drain_time": 30}, max_message=4096)
    with opened(node.port)[0]:
        os.kill(node.pid, signal.SIGTERM)
        until(lambda: node.events("draining"), "it drains")
        write(max_message=1024)
        assert post(node) == (
            409,
            {"faults": ["The engine is draining: settings can be reloaded while it is running."]},
        )
        assert hang_up(node)["event"] == "not reloaded, nothing has changed"
    node.end(signal.SIGINT)


def test_the_log_follows(daemon: Any) -> None:
    """Its level at once; an auto format is JSON, since the log is a file."""
    node, write = daemon({}, log_level="info")
    write(log_level="error", max_rooms=5)
    post(node)
    write(log_level="info", max_rooms=6)
    post(node)
    [line] = until(lambda: node.events("reloaded"), "the second one is logged")
    assert line["changed"] == ["max-rooms 5 -> 6", "log-level error -> info"]


def test_keys_are_exchanged(daemon: Any, tmp_path: Path) -> None:
    """Clients that are connected stay; new ones need the new key. The content of a file counts, too."""
    old, new = MAKERS["ES256"](), MAKERS["ES256"]()
    file = write_pem(old, tmp_path / "key.pem")
    node, write = daemon({}, auth="jwt", auth_key_file=str(file))
    with Guest(node.port, token=token("ann", key=old, algorithm="ES256")) as ann:
        write_pem(new, file)
        assert post(node)[0] == 200
        assert knock(node.port, "/", bearer(token("bob", key=old, algorithm="ES256"))).status == 401
        assert knock(node.port, "/", bearer(token("bob", key=new, algorithm="ES256"))).status == 101
        write(auth="jwt", auth_key=SECRET)
        done = post(node)[1]
        assert {"setting": "auth-key", "old": "", "new": "***"} in done["changed"] and SECRET not in json.dumps(done)
        assert knock(node.port, "/", bearer(token("bob"))).status == 101
        file.unlink()
        write(auth="jwt", auth_key_file=str(file))
        status, answer = post(node)
        assert status == 422 and str(file) in answer["faults"][0]
        assert knock(node.port, "/", bearer(token("bob"))).status == 101
        assert ann.ask("PUB lobby", "still here", ref="r") == "ok"


def test_a_loop_that_does_not_respond(daemon: Any) -> None:
    """It keeps its settings, takes the new ones when it responds, and no further reload begins until then."""
    node, write = daemon({"loops": 2}, max_message=4096)
    with several(node.port, 4) as peers:
        with halt.halted(node.pid, "signal-1"):
            write(max_message=1024)
            assert post(node)[0] == 200
            until(lambda: node.events("a loop does not respond"), "it is logged")
            write(max_message=512)
            status, answer = post(node)
            assert status == 409 and "loop 1 does not respond" in answer["faults"][0]
        until(lambda: post(node)[0] == 200, "the loop responds")
        exchange_messages(*peers)
        ledgers_hold(node.stats()["total"])


def test_listeners_are_added_and_removed(daemon: Any, tmp_path: Path) -> None:
    """Clients of an address that goes stay connected; new ones are refused there, and served at the new ones."""
    first, second = (f"127.0.0.1:{kit.free_port()}" for _ in range(2))
    file = tmp_path / "ws.sock"
    node, write = daemon({"listen": []}, listen=[first])
    wire, address = opened(int(first.rpartition(":")[2]))
    with wire:
        write(listen=[second, f"unix:{file}"])
        status, done = post(node)
        assert status == 200 and [one["setting"] for one in done["changed"]] == ["listen"]
        assert node.stats()["listening"] == [f"ws://{second}/", f"ws+unix:{file}:/"]
        with opened(int(second.rpartition(":")[2]))[0] as other:
            other.send(frame(TEXT, f"TO {address}\nhello".encode()))
            assert wire.read_message()[1].endswith(b"\nhello")
        with pytest.raises(ConnectionRefusedError):
            opened(int(first.rpartition(":")[2]))
        assert file.is_socket()
        write(listen=[second])
        assert post(node)[0] == 200
        assert not file.exists()


def test_a_listener_that_cannot_be_added_changes_nothing(daemon: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = f"127.0.0.1:{kit.free_port()}"
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        node, write = daemon({"listen": []}, listen=[first], max_rooms=5)
        write(listen=[f"127.0.0.1:{kit.free_port()}", used], max_rooms=6)
        status, answer = post(node)
        assert status == 422 and used in answer["faults"][0] and "in use" in answer["faults"][0]
        assert node.stats()["listening"] == [f"ws://{first}/"]
        write(listen=[first], max_rooms=6)
        assert [one["setting"] for one in post(node)[1]["changed"]] == ["max-rooms"]
