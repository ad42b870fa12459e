"""What the engine tells a service manager (sd_notify), and that it ends in time without one."""

import contextlib
import ctypes
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kit
from peers import Closed, several
from wire import opened

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000
DOCKER = 10.0  # seconds that `docker stop` waits before it kills


@contextlib.contextmanager
def managed(
    name: str, settings: dict[str, Any] | None = None, **environment: str
) -> Iterator[tuple[kit.Engine, socket.socket]]:
    """An engine with a manager's socket of this name, whose messages the test reads."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if name.startswith("@") else name)
        manager.settimeout(kit.PATIENCE)
        variables = {"NOTIFY_SOCKET": name, **environment}
        before = ("env", "-u", "INVOCATION_ID", *(f"{key}={value}" for key, value in variables.items()))
        with kit.engine(*before, **{"loops": 2, **(settings or {})}) as engine:
            yield engine, manager


def fields(manager: socket.socket) -> dict[str, str]:
    """The fields of the next message."""
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())


def await_field(manager: socket.socket, name: str) -> dict[str, str]:
    """The next message with this field."""
    return kit.until(lambda: next((found for found in [fields(manager)] if name in found), None), name)


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_and_stopping(tmp_path: Path, abstract: bool) -> None:
    name = f"@signal-notify-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with managed(name) as (engine, manager):
        assert fields(manager) == {"READY": "1", "STATUS": "listening"}
        engine.child.terminate()  # type: ignore[union-attr]
        stopping = await_field(manager, "STOPPING")
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) == 5_500_000  # drain-time 0, close-timeout 0.5, and 5 s


@pytest.mark.parametrize(
    ("environment", "close_timeout", "seconds"),
    [({"INVOCATION_ID": "5b4ac3ab3c0c4d0e9a2d4f3e9b1f7a55"}, 2, 37), ({}, 2, 14), ({}, 0.5, 12.5)],
    ids=["systemd", "podman", "close-timeout"],
)
def test_drain_time_auto(tmp_path: Path, environment: dict[str, str], close_timeout: float, seconds: float) -> None:
    """30 s only under systemd, 7 s in a container that may tell its manager: each with close-timeout and 5 s."""
    settings = {"drain_time": "auto", "close_timeout": close_timeout}
    with managed(str(tmp_path / "notify"), settings, **environment) as (engine, manager):
        engine.child.terminate()  # type: ignore[union-attr]
        assert int(await_field(manager, "STOPPING")["EXTEND_TIMEOUT_USEC"]) == seconds * 1e6


def test_time_is_asked_for_when_an_operator_begins_a_drain(tmp_path: Path) -> None:
    """At its beginning: the client that keeps the drain going is still connected."""
    settings = {"drain_time": 30, "close_timeout": 2}
    with managed(str(tmp_path / "notify"), settings) as (engine, manager), opened(engine.port)[0]:
        urllib.request.urlopen(f"{engine.admin_url}drain", b"", kit.PATIENCE).close()
        assert await_field(manager, "STOPPING")["EXTEND_TIMEOUT_USEC"] == "37000000"
        assert engine.stats()["total"]["connections"] == 1


def test_reloading(tmp_path: Path) -> None:
    """The manager waits from RELOADING to READY, which comes after a reload with a fault as well."""
    file = tmp_path / "engine.toml"
    file.write_text("max-rooms = 5\n")
    with managed(str(tmp_path / "notify"), {"config": file}) as (engine, manager):
        await_field(manager, "READY")
        for text, status in (("max-rooms = 6\n", "reloaded"), ("max-rooms = 0\n", "not reloaded: the log says why")):
            file.write_text(text)
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            engine.child.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
            begun = await_field(manager, "RELOADING")
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert before <= int(begun["MONOTONIC_USEC"]) <= after and "READY" not in begun
            assert await_field(manager, "READY") == {"READY": "1", "STATUS": status}
        assert engine.alive()


@contextlib.contextmanager
def stuck(pid: int, name: str) -> Iterator[None]:
    """Stops one thread of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    thread = next(int(task.name) for task in tasks if (task / "comm").read_text().strip() == name)
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if ptrace(PTRACE_SEIZE, thread, None, None) != 0:
        pytest.skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")
    assert ptrace(PTRACE_INTERRUPT, thread, None, None) == 0
    os.waitpid(thread, WALL)
    yield
    assert ptrace(PTRACE_DETACH, thread, None, None) == 0


def test_a_stuck_loop_stops_the_watchdog(tmp_path: Path) -> None:
    """Signs of life come, end while a loop is stuck, and come again."""
    with managed(str(tmp_path / "notify"), WATCHDOG_USEC="400000") as (engine, manager):
        await_field(manager, "WATCHDOG")
        with stuck(engine.pid, "signal-1"):
            silent = 0
            manager.settimeout(4)  # ten times the patience of the manager
            with contextlib.suppress(TimeoutError):
                while silent < 20:  # those that were under way
                    silent += "WATCHDOG" in fields(manager)
            assert silent < 20
        manager.settimeout(kit.PATIENCE)
        await_field(manager, "WATCHDOG")


def test_the_watchdog_of_another_process_is_not_ours(tmp_path: Path) -> None:
    with managed(str(tmp_path / "notify"), WATCHDOG_USEC="100000", WATCHDOG_PID="1") as (_, manager):
        assert fields(manager)["READY"] == "1"
        manager.settimeout(1)
        with pytest.raises(TimeoutError):
            await_field(manager, "WATCHDOG")


def test_docker_stop_ends_clean_and_all_are_told() -> None:
    """With drain-time auto, 100 clients have GOAWAY and 1001 before docker would kill the engine."""
    with kit.engine(drain_time="auto", close_timeout=2, loops=2) as engine, several(engine.port, 100) as crowd:
        began = time.monotonic()
        os.kill(engine.pid, signal.SIGTERM)
        codes = []
        for peer in crowd:
            peer.expect("GOAWAY", "7000")
            with pytest.raises(Closed) as closed:
                peer.read(DOCKER)
            codes.append(closed.value.code)
            peer.close()
        assert codes == [1001] * 100
        assert engine.wait() == 0 and time.monotonic() - began < DOCKER
