"""Listeners of a Core that runs: opened and closed on all its loops, whatever the others do."""

import contextlib
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
import wire
from halt import halted
from signal_core.engine import Core, CoreError
from signal_py.config.settings import Config
from signal_py.runtime import core_settings

HOST = "127.0.0.1"


@contextlib.contextmanager
def running(loops: int = 2, **settings: object) -> Iterator[Core]:
    """A Core that runs and has no listener yet."""
    config = Config(loops=loops, nats=("off",), close_timeout=0.5, **settings)  # type: ignore[arg-type]
    core = Core(core_settings(config, "a", False, False))
    core.start([])
    try:
        yield core
    finally:
        core.stop()
        core.join()


def add(core: Core) -> tuple[int, int]:
    """Adds a listener on a free port. Returns its number and the port."""
    port = kit.free_port()
    return core.listener_add(socket.AF_INET, HOST, port, 0, False), port


def upgraded(connected: socket.socket) -> bytes:
    """Sends a handshake. Returns the status line of the answer."""
    connected.settimeout(kit.PATIENCE)
    connected.sendall(wire.request())
    return connected.recv(4096).partition(b"\r\n")[0]


def connect(port: int) -> socket.socket:
    """A client that has been upgraded."""
    connected = socket.create_connection((HOST, port), timeout=kit.PATIENCE)
    assert upgraded(connected) == b"HTTP/1.1 101 Switching Protocols"
    return connected


def refuses(port: int) -> bool:
    """Whether nothing listens on a port. While a listener closes, the kernel drops SYNs for at most 300 ms."""
    with socket.socket() as client:
        client.settimeout(0.2)
        try:
            client.connect((HOST, port))
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
    return False


def counts(core: Core, name: str = "accepted_sockets") -> list[int]:
    return [loop[name] for loop in core.stats()["loops"]]


def test_one_is_added_and_removed_while_a_client_stays() -> None:
    with running() as core:
        number, port = add(core)
        with connect(port) as client:
            core.listener_remove(number)
            kit.until(lambda: refuses(port), "the port is closed")
            client.sendall(wire.frame(wire.PING, b"here"))
            kit.until(lambda: b"here" in client.recv(4096), "the client is still served")


def test_one_in_the_middle_goes_and_its_number_is_used_again() -> None:
    with running() as core:
        (first, one), (middle, two), (last, three) = add(core), add(core), add(core)
        assert (first, middle, last) == (0, 1, 2)
        core.listener_remove(middle)
        for port in (one, three):
            connect(port).close()
        kit.until(lambda: refuses(two), "the port is closed")
        assert kit.until(lambda: add_again(core, two), "its number is free on every loop") == middle
        for port in (one, two, three):
            connect(port).close()


def add_again(core: Core, port: int) -> int | None:
    """Adds a listener on this port. Returns its number once that is 1: every loop has closed the old one."""
    number = core.listener_add(socket.AF_INET, HOST, port, 0, False)
    if number == 1:
        return number
    core.listener_remove(number)
    return None


def test_while_accepting_is_paced_the_others_are_served() -> None:
    """Parked clients of the one that goes are accepted in their turn."""
    with running(1, accept_rate=20) as core:
        (gone, one), (_, two) = add(core), add(core)
        clients = [socket.create_connection((HOST, port), timeout=kit.PATIENCE) for port in (one, two) * 12]
        core.listener_remove(gone)
        assert {upgraded(client) for client in clients} == {b"HTTP/1.1 101 Switching Protocols"}
        kit.until(lambda: refuses(one), "the port is closed")
        for client in clients:
            client.close()


def test_no_client_that_has_connected_is_reset() -> None:
    """Clients come all the time. Each is either refused as it connects, or upgraded."""
    fates: list[bytes] = []

    def come(port: int) -> None:
        while True:
            try:
                with socket.create_connection((HOST, port), timeout=kit.PATIENCE) as client:
                    fates.append(upgraded(client))
            except ConnectionRefusedError:
                return
            except OSError as error:
                fates.append(repr(error).encode())
                return

    with running() as core:
        number, port = add(core)
        crowd = [threading.Thread(target=come, args=(port,)) for _ in range(8)]
        for one in crowd:
            one.start()
        kit.until(lambda: len(fates) > 50, "clients come")
        core.listener_remove(number)
        for one in crowd:
            one.join(kit.PATIENCE)
        assert set(fates) == {b"HTTP/1.1 101 Switching Protocols"}


def test_an_address_in_use_is_refused_and_nothing_is_left() -> None:
    with running() as core, socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        with pytest.raises(OSError, match="Address already in use") as raised:
            core.listener_add(socket.AF_INET, HOST, other.getsockname()[1], 0, False)
        assert raised.value.errno == errno.EADDRINUSE
        assert add(core)[0] == 0


ONE_LOOP_FAILS = """
import os, resource, socket, sys
import kit, test_listening as t

def tables():
    # descriptors of each loop's table, by the loop's number
    counts = {}
    for task in os.listdir("/proc/self/task"):
        name = open(f"/proc/self/task/{task}/comm").read().strip()
        if name.startswith("signal-"):
            counts[int(name[7:])] = len(os.listdir(f"/proc/self/task/{task}/fd"))
    return counts

with t.running() as core:
    if not core.stats()["own_tables"]:
        sys.exit("shared")
    number, port = t.add(core)
    clients, empty = [], tables()[0]
    while tables()[1] < empty + 2:
        clients.append(t.connect(port))
        if tables()[0] > empty:
            clients.pop().close()
            kit.until(lambda: tables()[0] == empty, "the client of loop 0 is gone")
    before = tables()
    free = kit.free_port()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], hard))
    try:
        core.listener_add(socket.AF_INET, t.HOST, free, 0, False)
    except OSError as error:
        print(error.strerror)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    kit.until(lambda: t.refuses(free), "no loop listens there")
    kit.until(lambda: tables() == before, "no descriptor is left")
    t.connect(port)
"""


def test_if_one_loop_cannot_the_others_close_theirs() -> None:
    """Loop 1 has no descriptor left when loop 0 listens already."""
    here = f"{Path(__file__).parent}:{Path(kit.__file__).parent}"
    done = subprocess.run(
        [*kit.python(), "-c", ONE_LOOP_FAILS],
        env=kit.clean_environment(PYTHONPATH=here),
        capture_output=True,
        text=True,
        timeout=kit.PATIENCE,
        check=False,
        cwd="/",
    )
    if done.stderr.strip() == "shared":
        pytest.skip("threads can't have descriptor tables of their own here")
    assert (done.stdout, done.stderr) == ("Too many open files\n", "")


A_LOOP_STALLS = """
import socket, threading
import test_listening as t, wire
from signal_core.engine import CoreError
with t.running() as core, socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
    for name, listener in (("one", one), ("two", two)):
        listener.bind("\\0signal-test-stall-" + name)
        listener.listen()
    print(flush=True)
    input()  # loop 1 is halted from here
    try:
        core.listener_share(one.fileno(), False)
    except CoreError as error:
        print(error, flush=True)
    other = threading.Thread(target=core.listener_share, args=(two.fileno(), False))
    other.start()
    print(flush=True)
    input()  # it goes on
    other.join()
    clients = []
    for _ in range(20):
        client = socket.socket(socket.AF_UNIX)
        client.connect("\\0signal-test-stall-two")
        assert t.upgraded(client).startswith(b"HTTP/1.1 101")
        clients.append(client)
    print(min(t.counts(core)) > 0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="ptrace(2) needs root")
def test_a_socket_that_a_stalled_loop_did_not_take_is_no_other_loops() -> None:
    here = f"{Path(__file__).parent}:{Path(kit.__file__).parent}"
    with subprocess.Popen(
        [*kit.python(), "-c", A_LOOP_STALLS],
        env=kit.clean_environment(PYTHONPATH=here),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        with halted(child.pid, "signal-1"):
            child.stdin.write("\n")
            child.stdin.flush()
            assert "loop 1 does not respond" in child.stdout.readline()
            child.stdout.readline()
        assert child.communicate("\n", timeout=kit.PATIENCE)[0] == "True\n"


def test_a_number_that_no_listener_can_have() -> None:
    with running() as core, pytest.raises(ValueError, match="16 is no listener: their numbers are 0 to 15"):
        core.listener_remove(16)


def test_there_is_a_limit() -> None:
    with running(1) as core:
        for _ in range(16):
            add(core)
        with pytest.raises(ValueError, match="16 listeners already"):
            add(core)
        core.listener_remove(3)
        kit.until(lambda: may_add(core), "a number is free again")


def may_add(core: Core) -> bool:
    try:
        return add(core)[0] == 3
    except ValueError:
        return False


def unix_clients(path: Path, n: int) -> list[socket.socket]:
    """Clients of a unix socket, upgraded one after the other."""
    clients = []
    for _ in range(n):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(kit.PATIENCE)
        client.connect(str(path))
        assert upgraded(client) == b"HTTP/1.1 101 Switching Protocols"
        clients.append(client)
    return clients


def test_a_shared_socket_is_accepted_from_by_all_loops_in_turn(tmp_path: Path) -> None:
    with running(3) as core, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        number = core.listener_share(listener.fileno(), False)
        clients = unix_clients(tmp_path / "s", 30)
        assert min(counts(core)) >= 1, counts(core)
        core.listener_remove(number)
        with pytest.raises(ConnectionRefusedError):
            unix_clients(tmp_path / "s", 1)
        for client in clients:
            client.close()


def test_those_that_a_loop_has_parked_do_not_wait_for_the_other_loops(tmp_path: Path) -> None:
    """A pace of ten clients each 2 ms: one client each 2 ms would take as many iterations as there are clients."""
    with contextlib.ExitStack() as stack:
        core = stack.enter_context(running(1, accept_rate=5000, handshake_timeout=60.0))
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "s"))
        listener.listen(1024)
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(400)]
        for client in clients:
            client.connect(str(tmp_path / "s"))
        before = core.stats()["total"]
        core.listener_share(listener.fileno(), False)
        kit.until(lambda: counts(core) == [400], "all are accepted")
        after = core.stats()["total"]
        assert after["accept_paced"] > before["accept_paced"]
        assert after["wakes"] - before["wakes"] < 250


def test_a_shared_socket_ends_with_the_core(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with running() as core:
            core.listener_share(listener.fileno(), False)
            unix_clients(tmp_path / "s", 4)
        with pytest.raises(ConnectionRefusedError):
            unix_clients(tmp_path / "s", 1)


@pytest.mark.parametrize("stops", [False, True])
def test_an_inherited_socket_keeps_its_queue_for_the_next_program(stops: bool) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with running() as core:
            number = core.listener_share(listener.fileno(), True)
            clients = [connect(port) for _ in range(8)]
            assert min(counts(core)) >= 1, counts(core)
            if not stops:
                core.listener_remove(number)
        queued = socket.create_connection((HOST, port), timeout=kit.PATIENCE)
        listener.settimeout(kit.PATIENCE)
        accepted, _ = listener.accept()
        for one in (accepted, queued, *clients):
            one.close()


def test_a_core_that_stops_takes_no_listener() -> None:
    with running() as core:
        connected = connect(add(core)[1])
        core.stop()
        with pytest.raises((OSError, CoreError), match=r"shutdown|respond|running"):
            add(core)
        connected.close()
