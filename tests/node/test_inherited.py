"""Sockets from systemd: LISTEN_FDS, as systemd-socket-activate passes them."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

import kit
import wire

ACTIVATE = shutil.which("systemd-socket-activate")
# Runs a command with these descriptors as 3 and up, as systemd does; LISTEN_PID is that of the command.
PASS = """
import fcntl, os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
for target, fd in enumerate([fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")], 3):
    os.dup2(fd, target)
    os.close(fd)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def passing(*sockets: socket.socket, names: str = "", pid: str = "") -> kit.Engine:
    """An engine, not started, that gets these sockets."""
    made = kit.Engine({"nats": "off", "close_timeout": 0.5, "drain_time": 0})
    for name in ("listen", "admin"):
        del made.settings[name]
    script = PASS.replace("str(os.getpid())", repr(pid)) if pid else PASS
    fds = [one.fileno() for one in sockets]
    serve = [*kit.python(), "-m", "signal_py", "serve", *kit.flags(made.settings), "--log-format=json"]
    environment = kit.clean_environment(LISTEN_FDS=str(len(sockets)), LISTEN_FDNAMES=names)
    with made.log_path.open("ab") as log:
        made.child = subprocess.Popen(
            [*kit.python(), "-c", script, ",".join(map(str, fds)), *serve],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=made.folder,
            pass_fds=fds,
        )
    return made


def started(made: kit.Engine) -> kit.Engine:
    kit.until(lambda: made._find_ready() or not made.alive(), "the engine is ready")
    assert made.ready, made.log().decode()
    return made


def upgraded(client: socket.socket) -> bool:
    client.settimeout(kit.PATIENCE)
    client.sendall(wire.request())
    return client.recv(4096).startswith(b"HTTP/1.1 101")


def test_sockets_by_name(tmp_path: Path) -> None:
    """`admin` is for operators, all others are for clients, and none ends with the engine."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_server(("127.0.0.1", 0)) as admin,
    ):
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        engine = started(passing(tcp, unix, admin, names="ws:local:admin"))
        port = tcp.getsockname()[1]
        assert engine.ready["listening"] == [f"ws://127.0.0.1:{port}/", f"ws+unix:{tmp_path}/s:/"]
        assert engine.get("readyz") == b"ready\n"
        with socket.create_connection(("127.0.0.1", port)) as client, socket.socket(socket.AF_UNIX) as local:
            local.connect(str(tmp_path / "s"))
            assert upgraded(client) and upgraded(local)
        assert engine.stop() == 0
        assert (tmp_path / "s").exists()
        with socket.create_connection(("127.0.0.1", port)) as queued, tcp.accept()[0]:
            queued.close()


def test_variables_of_another_process_are_ignored() -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        engine = passing(tcp, pid="1")
        kit.until(lambda: engine._find_ready() or not engine.alive(), "it is ready, or 8080 is in use")
        assert not engine.ready or engine.ready["listening"] == ["ws://127.0.0.1:8080/"]
        engine.end()


def test_a_socket_that_does_not_listen_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wrong:
        wrong.bind(("127.0.0.1", 0))
        engine = passing(wrong, names="ws")
        assert engine.wait() == 2
        assert b"fd:ws is descriptor 3, which is not a listening stream socket" in engine.log()


def test_a_name_that_was_not_passed_is_an_error() -> None:
    text = kit.complaint(kit.run("serve", "--nats=off", "--listen=fd:web"))
    assert "fd:web is not a socket that systemd passed" in text and "FileDescriptorName=web" in text


@pytest.mark.skipif(ACTIVATE is None, reason="needs systemd-socket-activate: apt-get install systemd")
def test_systemd_socket_activate() -> None:
    """The first client's connection starts the engine, and is served."""
    port = kit.free_port()
    command = [*kit.python(), "-m", "signal_py", "serve", "--nats=off", "--drain-time=0", "--close-timeout=0.5"]
    process = kit.Process("systemd-socket-activate")
    environment = [f"-E{name}" for name in ("PATH", "PYTHONPATH", "LD_PRELOAD", "ASAN_OPTIONS") if name in os.environ]
    activate = [str(ACTIVATE), f"--listen=127.0.0.1:{port}", "--fdname=ws", *environment, *command]
    process.spawn(activate, kit.clean_environment())
    try:
        kit.until(lambda: b"Listening on" in process.log(), "it listens")
        with socket.create_connection(("127.0.0.1", port), timeout=kit.PATIENCE) as client:
            assert upgraded(client), process.log()
        kit.until(lambda: f"ws://127.0.0.1:{port}/".encode() in process.log(), "it is ready")
    finally:
        assert process.end() == 0
