"""A log that nobody reads blocks nothing: neither verdicts nor NATS nor a stop."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

import kit
from kit import until
from minted import SECRET, bearer, knock, token

LOOPBACK = "127.0.0.1"

# The command line with a lower bound, so that a test reaches it sooner.
SMALL = (
    "import sys; from signal_py.base import log; from signal_py.cli.main import main;"
    "log.PENDING = 20000; sys.exit(main(sys.argv[1:]))"
)


class Unread:
    """An engine whose standard error is this descriptor. Its ports are chosen before, since it can't log them."""

    def __init__(self, stderr: int, program: tuple[str, ...], **settings: Any) -> None:
        self.port, self.admin = kit.free_port(), kit.free_port()
        where = {"listen": f"{LOOPBACK}:{self.port}", "admin": f"{LOOPBACK}:{self.admin}"}
        given = {"nats": "off", "close_timeout": 0.5, "drain_time": 0, "log_level": "debug"} | where | settings
        command = [*kit.python(), *program, "serve", *kit.flags(given)]
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=stderr, env=kit.clean_environment(), cwd="/"
        )

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.admin}/{path}", timeout=kit.PATIENCE) as answer:
            body: bytes = answer.read()
            return body

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("readyz") == b"ready\n"
        assert self.child.poll() is None, "it has ended"
        return False

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("stats"))
        return found

    def dropped(self) -> float:
        lines = self.get("metrics").decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("signal_engine_log_dropped_total "))


@contextlib.contextmanager
def unread(stderr: int, *program: str, **settings: Any) -> Iterator[Unread]:
    made = Unread(stderr, program or ("-m", "signal_py"), **settings)
    try:
        until(made.is_ready, "it is ready, though it can't log it")
        yield made
    finally:
        made.child.kill()
        made.child.wait()


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    os.write(theirs, b"x" * 4095 + b"\n")
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_verdicts_nats_and_signals_work(number: int) -> None:
    with kit.nats() as server, full_pipe() as (ours, theirs):
        with unread(theirs, auth="jwt", auth_key=SECRET, nats=server.url) as engine:
            for _ in range(20):
                assert knock(engine.port, "/", bearer("no.token.atall")).status == 401  # logged, at this level
            assert knock(engine.port, "/", bearer(token("ann"))).status == 101
            until(lambda: engine.stats()["nats_state"] == "up", "NATS is connected")
            server.stop()
            until(lambda: engine.stats()["nats_state"] == "away", "NATS is away")
            server.start()
            until(lambda: engine.stats()["nats_state"] == "up", "NATS is back")
            assert engine.dropped() == 0
            engine.child.send_signal(number)
            assert engine.child.wait(kit.PATIENCE) == 0
        os.set_blocking(ours, False)
        assert os.read(ours, 65536) == b"x" * 4095 + b"\n"


def test_dropped_lines_are_counted_in_the_log() -> None:
    with full_pipe() as (ours, theirs), unread(theirs, "-c", SMALL, auth="jwt", auth_key=SECRET) as engine:
        while not engine.dropped():
            for _ in range(50):
                assert knock(engine.port, "/", bearer("no.token.atall")).status == 401
        read = b""
        while b"log lines were dropped" not in read or not read.endswith(b"\n"):
            read += os.read(ours, 65536)
        lines = [json.loads(line) for line in read.splitlines()[1:]]
        drops = [line for line in lines if line["event"] == "log lines were dropped"]
        assert drops[0]["lines"] >= 1 and drops[0]["level"] == "warning"
        engine.child.send_signal(signal.SIGTERM)
        assert engine.child.wait(kit.PATIENCE) == 0


@pytest.mark.parametrize("which", ["nobody", "full-disk"])
def test_a_log_that_can_not_be_written(which: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    if which != "nobody":
        os.close(theirs)
        theirs = os.open("/dev/full", os.O_WRONLY)
    with unread(theirs) as engine:
        os.close(theirs)
        until(lambda: engine.dropped() >= 1, "the line `ready` is lost")
        assert knock(engine.port).status == 101
        engine.child.send_signal(signal.SIGTERM)
        assert engine.child.wait(kit.PATIENCE) == 0


def test_a_terminal_that_was_stopped() -> None:
    """With Ctrl-S."""
    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)
    try:
        with unread(theirs) as engine:
            assert knock(engine.port).status == 101
            engine.child.send_signal(signal.SIGINT)
            assert engine.child.wait(kit.PATIENCE) == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_error_at_the_start_with_a_pipe_that_nobody_reads() -> None:
    with full_pipe() as (_, theirs), kit.engine() as other:
        command = [*kit.python(), "-m", "signal_py", "serve", "--nats=off", f"--listen={LOOPBACK}:{other.port}"]
        done = subprocess.run(
            command, stderr=theirs, env=kit.clean_environment(), cwd="/", timeout=kit.PATIENCE, check=False
        )
        assert done.returncode == 2
