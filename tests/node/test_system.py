"""Systems that lack something: no /proc, no IPv6, a sandbox; names with several addresses; signals."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
from kit import until
from peers import BarePeer
from wire import Wire, request

TWICE = "127.0.0.1 localhost\n::1 localhost\n"
LO_UP = "ip link set lo up"
LOCAL = ("127.0.0.1", "::1")


def in_namespaces(kinds: str, script: str) -> tuple[str, ...]:
    """A command that runs a script in new namespaces (`m`: mounts, `n`: network), and then executes its arguments."""
    command = ("unshare", *(f"-{kind}" for kind in kinds), "sh", "-ec")
    tried = subprocess.run([*command, script], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no such namespace can be made here: {tried.stderr.strip()}")
    return (*command, f'{script}; exec "$@"', "sh")


def hosts(folder: Path) -> str:
    """A script that gives `localhost` two addresses."""
    file = folder / "hosts"
    file.write_text(TWICE)
    return f"mount --bind {file} /etc/hosts"


def within(engine: kit.Engine, *command: str) -> str:
    """The output of a command in the engine's network namespace."""
    enter = ["nsenter", "-t", str(engine.pid), "-n"]
    return subprocess.check_output([*enter, *command], text=True, timeout=kit.PATIENCE, cwd="/")


def reaches(port: int, host: str) -> bool:
    with Wire(port, host=host) as wire:
        wire.send(request("/"))
        return wire.read_answer().status == 101


# -- /proc --


@pytest.mark.parametrize("nats", ["off", "embedded"])
def test_without_proc(nats: str) -> None:
    """Only the number of open descriptors is missing in statistics."""
    with kit.engine(*in_namespaces("m", "umount -l /proc"), nats=nats) as engine:
        with BarePeer(engine.port, "lobby") as a, BarePeer(engine.port) as b:
            b.say("PUB lobby ref=1", b"x")
            assert a.read().payload == b"x"
        stats = engine.stats()
        assert stats["descriptors"] is None and stats["total"]["accepted"] == 1
        metrics = engine.get("metrics").decode()
        assert "signal_engine_descriptors" not in metrics and "signal_engine_connections" in metrics


def test_without_proc_the_embedded_server_takes_long_messages(tmp_path: Path) -> None:
    """Its configuration can't come from /dev/stdin then. The file that replaces that is removed."""
    outside = in_namespaces("m", f"umount -l /proc; mount --bind {tmp_path} /tmp")
    with kit.engine(*outside, nats="embedded", max_message=2 << 20) as engine:
        assert engine.stats()["nats_state"] == "up"
        assert list(tmp_path.iterdir()) == []


# -- a sandbox --

# close_range(2) fails with EPERM from here on. Its number is the same on every architecture.
WITHOUT_CLOSE_RANGE = """
import ctypes, os, struct, sys
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 0x7fff0000, 0x00050000, 38, 22, 2
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 436), (0x06, 0, 0, SECCOMP_RET_ERRNO | 1), (0x06, 0, 0, SECCOMP_RET_ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(code)))
prctl = ctypes.CDLL(None).prctl
if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_SECCOMP, FILTER, program, 0, 0):
    sys.exit("no filter")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_a_sandbox_without_descriptor_tables_is_logged() -> None:
    before = (sys.executable, "-c", WITHOUT_CLOSE_RANGE)
    if subprocess.run([*before, "true"], check=False).returncode:
        pytest.skip("no system call can be denied here")
    with kit.engine(*before, loops=2) as engine:
        assert reaches(engine.port, "127.0.0.1")
        events = [line["event"] for line in engine.events("descriptor table")]
        assert events == ["all loops share one descriptor table: this system does not allow one for each thread"]


# -- names and IPv6 --


def test_without_ipv6_a_name_with_two_addresses_is_listened_on(tmp_path: Path) -> None:
    script = f"{hosts(tmp_path)}; {LO_UP}; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    with kit.engine(*in_namespaces("mn", script), listen="localhost:0", admin="localhost:0") as engine:
        assert [line["address"] for line in engine.events() if "skipped an address" in line["event"]] == [
            f"[::1]:{port}" for port in (port_of(engine.admin_url), engine.port)
        ]
        assert engine.ready["listening"] == [f"ws://127.0.0.1:{engine.port}/"]
        assert within(engine, *kit.python(), "-c", READ, f"{engine.admin_url}readyz") == "ready\n"
        within(engine, *kit.python(), "-m", "signal_py", "pub", "--url", engine.url, "lobby", "x")


def test_without_ipv6_an_ipv6_address_is_an_error() -> None:
    script = f"{LO_UP}; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    command = [*in_namespaces("n", script), *kit.python(), "-m", "signal_py"]
    done = subprocess.run(
        [*command, "serve", "--nats", "off", "--listen", "127.0.0.1:0", "--listen", "[::1]:0"],
        capture_output=True, text=True, env=kit.clean_environment(), cwd="/", timeout=kit.PATIENCE, check=False,
    )  # fmt: skip
    assert "--listen [::1]:0" in kit.complaint(done)


READ = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')"


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


def test_all_addresses_of_a_name_get_one_port(tmp_path: Path) -> None:
    """Also with --admin."""
    with kit.engine(*in_namespaces("m", hosts(tmp_path)), listen="localhost:0", admin="localhost:0") as engine:
        assert sorted(engine.ready["listening"]) == [f"ws://127.0.0.1:{engine.port}/", f"ws://[::1]:{engine.port}/"]
        for host in LOCAL:
            assert reaches(engine.port, host)
            name = f"[{host}]" if ":" in host else host
            with urllib.request.urlopen(f"http://{name}:{port_of(engine.admin_url)}/readyz") as answer:
                assert answer.read() == b"ready\n"


@pytest.mark.parametrize("bound_alone", [0, 1])
def test_all_of_ipv6_takes_ipv4(bound_alone: int) -> None:
    """With any system default (net.ipv6.bindv6only)."""
    script = f"{LO_UP}; echo {bound_alone} > /proc/sys/net/ipv6/bindv6only"
    with kit.engine(*in_namespaces("n", script), listen="[::]:0", admin="[::]:0") as engine:
        assert engine.url == f"ws://[::]:{engine.port}/"
        for host in ("127.0.0.1", "[::1]"):
            url = f"ws://{host}:{engine.port}/"
            within(engine, *kit.python(), "-m", "signal_py", "pub", "--url", url, "lobby", "x")
            admin = f"http://{host}:{port_of(engine.admin_url)}/readyz"
            assert within(engine, *kit.python(), "-c", READ, admin) == "ready\n"


def test_an_ipv4_client_of_an_ipv6_listener() -> None:
    """Its IPv4 address counts, not the IPv6 network of all IPv4 addresses."""
    with kit.engine(listen="[::]:0", max_connections_per_address=1) as engine, contextlib.ExitStack() as stack:

        def arrive(source: str) -> int:
            wire = stack.enter_context(Wire(engine.port, source=source))
            wire.send(request("/"))
            return wire.read_answer().status

        assert [arrive(source) for source in ("127.0.0.1", "127.0.0.1", "127.0.0.2")] == [101, 429, 101]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("ipv4", ["0.0.0.0", "127.0.0.1"])
def test_ipv4_and_ipv6_on_one_port(first: int, ipv4: str) -> None:
    port = kit.free_port()
    listens = [f"{ipv4}:{port}", f"[::]:{port}"]
    with kit.engine(listen=[listens[first], listens[not first]]) as engine:
        assert {port_of(url) for url in engine.ready["listening"]} == {port}
        assert all(reaches(port, host) for host in LOCAL)


def test_a_port_that_is_in_use_on_one_address_of_a_name(tmp_path: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        command = [*in_namespaces("m", hosts(tmp_path)), *kit.python(), "-m", "signal_py"]
        done = subprocess.run(
            [*command, "serve", "--nats", "off", "--listen", f"localhost:{port}"],
            capture_output=True, text=True, env=kit.clean_environment(), cwd="/", timeout=kit.PATIENCE, check=False,
        )  # fmt: skip
        assert re.search(rf"--listen \[::1\]:{port} is in use", kit.complaint(done))


# -- addresses in logs and statistics --


def test_bound_and_advertised_addresses() -> None:
    with kit.nats() as server:
        with kit.engine(listen="0.0.0.0:0", nats=server.url) as engine:
            bound = f"ws://0.0.0.0:{engine.port}/"
            assert engine.ready["listening"] == engine.stats()["listening"] == [bound]
            assert "advertise" not in engine.ready
            assert ctl_nodes(server.url) == f"{engine.node}  {engine.ready['version']}  {bound}\n"
        for advertised in ("e1.example:8080", "wss://e1.example/ws"):
            url = advertised if "://" in advertised else f"ws://{advertised}/"
            with kit.engine(listen="0.0.0.0:0", nats=server.url, advertise=advertised) as engine:
                bound = f"ws://0.0.0.0:{engine.port}/"
                assert engine.ready["advertise"] == engine.stats()["advertise"] == url
                assert ctl_nodes(server.url) == f"{engine.node}  {engine.ready['version']}  {url}  bound to {bound}\n"
                [node] = [json.loads(line) for line in ctl_nodes(server.url, "--json").splitlines()]
                assert (node["advertise"], node["listen"]) == (url, [bound])


def ctl_nodes(nats: str, *more: str) -> str:
    """The output of `ctl nodes`, once a node answers."""

    def ask() -> str:
        done = kit.run("ctl", "nodes", "--nats", nats, *more)
        return done.stdout if done.returncode == 0 else ""

    return until(ask, "a node answers")


# -- signals --


def test_other_signals_are_logged_and_ignored() -> None:
    with kit.engine() as engine:
        for name in ("SIGUSR1", "SIGUSR2"):
            os.kill(engine.pid, signal.Signals[name])
            until(lambda name=name: logged(engine, name), f"{name} is logged")  # type: ignore[misc]
        os.kill(engine.pid, signal.SIGPIPE)
        assert reaches(engine.port, "127.0.0.1")


def logged(engine: kit.Engine, name: str) -> list[str]:
    return [line["event"] for line in engine.events() if line["event"].startswith(f"{name} ignored")]


@pytest.fixture
def under_nohup() -> Iterator[kit.Engine]:
    with kit.engine("nohup") as engine:
        yield engine


def test_under_nohup_sighup_stays_ignored(under_nohup: kit.Engine) -> None:
    os.kill(under_nohup.pid, signal.SIGHUP)
    os.kill(under_nohup.pid, signal.SIGUSR1)
    until(lambda: logged(under_nohup, "SIGUSR1"), "the second is logged")
    assert not logged(under_nohup, "SIGHUP")
