"""Servers as processes of a benchmark: started on a free port, waited for, ended; what one has used so far."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contenders import VENV_BIN, nats_server, no_nats_server

START_TIMEOUT = 15.0
STOP_TIMEOUT = 10.0
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A server or the load generator failed; the text is for people."""


@dataclass(frozen=True)
class Server:
    """A running one."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_listening(process: subprocess.Popen[bytes], port: int, patience: float) -> None:
    """Returns when the port accepts a connection; BenchError if the process ends or takes too long."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if process.poll() is not None:
            raise BenchError(f"ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise BenchError(f"does not listen on port {port} after {patience:.0f} s")


def stop(process: subprocess.Popen[Any]) -> None:
    """Asks the process to end, and kills it if it does not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(command: str, port: int, patience: float = START_TIMEOUT) -> Iterator[Server]:
    """Runs a server until the block ends; yields once it listens."""
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(shlex.split(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except OSError as error:
            raise BenchError(f"{command}: {error}") from None
        try:
            wait_listening(process, port, patience)
            yield Server(port, process.pid)
        except BenchError as error:
            log.seek(0)
            raise BenchError(f"{command}: {error}\n{log.read().decode(errors='replace')[-2000:]}") from None
        finally:
            stop(process)


@contextmanager
def engine(options: str) -> Iterator[Server]:
    """Runs an engine with these options, without NATS."""
    port = free_port()
    command = f"{VENV_BIN}/signal-engine serve --listen 127.0.0.1:{port} --nats off {options}"
    with running(command, port) as server:
        yield server


@contextmanager
def nats() -> Iterator[Server]:
    """Runs a nats-server."""
    if missing := no_nats_server():
        raise BenchError(missing)
    port = free_port()
    with running(f"{nats_server()} -a 127.0.0.1 -p {port}", port) as server:
        yield server


def many_descriptors() -> None:
    """Lets every server hold as many connections as the system allows: most take the soft limit as it is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def private(pid: int | str = "self") -> int:
    """Bytes of memory that only this process has written to."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"/proc/{pid}/smaps_rollup has no Private_Dirty")


def processor(pid: int) -> float:
    """Seconds of processor time of all threads of the process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
