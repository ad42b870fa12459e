"""A stop as clients see it: those that are connecting are answered by this engine or another, and never reset."""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
from wire import CLOSE, LIMIT, Wire, closing, opened, request, until

HOSTS = ("127.0.0.1", "::1")
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\n"
PIDFD_GETFD, SO_LOCK_FILTER = 438, 44  # asm-generic/unistd.h, asm-generic/socket.h
CROWD = 2000  # connections that wait in the listeners' queues: more than are accepted before the stop is received


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> Iterator[None]:
    with kit.many_descriptors():
        yield


def url(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def has_host(host: str) -> bool:
    """Whether this machine has the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family) as probe:
        probe.bind((host, 0))
        return True
    return False


def read_end(client: socket.socket) -> bytes:
    """All bytes up to the end of the stream; ConnectionResetError if it is reset."""
    client.settimeout(LIMIT)
    data = b""
    while got := client.recv(1 << 16):
        data += got
    return data


def is_complete(answer: bytes) -> bool:
    """Whether it is exactly one complete 503 with Retry-After."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    return (
        answer.startswith(REFUSAL)
        and b"Retry-After: 1" in lines
        and b"Connection: close" in lines
        and b"Content-Length: %d" % len(body) in lines
    )


def attempt(host: str, port: int) -> str:
    """Sends a handshake; returns `refused` (the port is closed), `503`, or `101`, after closing with 1000."""
    try:
        client = socket.create_connection((host, port), timeout=LIMIT)
    except ConnectionRefusedError:
        return "refused"
    with client:
        client.sendall(request())
        answer = client.recv(1 << 16)
        if not answer.startswith(b"HTTP/1.1 101 "):
            answer += read_end(client)
            assert is_complete(answer), answer
            return "503"
        client.sendall(closing(1000))
        read_end(client)
        return "101"


class Storm:
    """Clients that connect again and again until the port is closed, or `ends` is set."""

    def __init__(self, host: str, port: int, clients: int = 12) -> None:
        self.outcomes: Counter[str] = Counter()
        self.ends = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(host, port), daemon=True) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self, host: str, port: int) -> None:
        outcome = ""
        while outcome != "refused" and not self.ends.is_set():
            try:
                outcome = attempt(host, port)
            except (OSError, AssertionError) as error:
                outcome = repr(error)
            self.outcomes[outcome] += 1

    def join(self) -> Counter[str]:
        for thread in self.threads:
            thread.join(kit.PATIENCE)
        return self.outcomes


@pytest.mark.parametrize("host", HOSTS)
def test_a_storm_of_clients_at_a_stop(host: str) -> None:
    """Also those that the kernel queues while the engine is stopped."""
    if not has_host(host):
        pytest.skip(f"this machine has no {host}")
    with kit.engine(listen=url(host, 0), loops=2, close_timeout=4) as engine:
        storm = Storm(host, engine.port)
        until(lambda: storm.outcomes["101"] > 100, "the storm is under way")
        os.kill(engine.pid, signal.SIGSTOP)
        with contextlib.ExitStack() as stack:
            crowd = [socket.create_connection((host, engine.port), timeout=LIMIT) for _ in range(CROWD)]
            for client in crowd:
                stack.enter_context(client)
                client.sendall(request())
            os.kill(engine.pid, signal.SIGTERM)
            os.kill(engine.pid, signal.SIGCONT)
            answers = Counter(answer_in_queue(client) for client in crowd)
            outcomes = storm.join()
        assert set(answers) <= {"101", "503"}, answers
        assert set(outcomes) == {"101", "503", "refused"} or set(outcomes) == {"101", "refused"}, outcomes
        assert outcomes["refused"] == len(storm.threads)
        assert engine.wait() == 0


@contextlib.contextmanager
def listeners_of(engine: kit.Engine) -> Iterator[list[socket.socket]]:
    """The engine's listeners, also open in this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    found: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        for task in Path(f"/proc/{engine.pid}/task").iterdir():
            if not re.fullmatch(r"signal-\d+", (task / "comm").read_text(encoding="utf-8").strip()):
                continue
            try:
                thread = os.pidfd_open(int(task.name), os.O_EXCL)  # of the thread: its descriptor table is its own
            except OSError as error:
                pytest.skip(f"this kernel gives no access to a thread's descriptors: {error}")
            stack.callback(os.close, thread)
            for name in os.listdir(task / "fd"):
                fd = libc.syscall(PIDFD_GETFD, thread, int(name), 0)
                if fd >= 0 and stat.S_ISSOCK(os.fstat(fd).st_mode):
                    one = stack.enter_context(socket.socket(fileno=fd))
                    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        found[os.fstat(fd).st_ino] = one
                elif fd >= 0:
                    os.close(fd)
        yield list(found.values())


def test_a_drained_listener_answers_no_syn() -> None:
    """As this process sees, which still has it open."""
    with kit.engine(loops=1) as engine, listeners_of(engine) as listeners:
        assert len(listeners) == 1
        socket.create_connection(("127.0.0.1", engine.port), timeout=LIMIT).close()
        os.kill(engine.pid, signal.SIGTERM)
        assert engine.wait() == 0
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", engine.port), timeout=0.5)


def test_a_stop_if_no_filter_can_be_attached() -> None:
    """A sandbox may forbid it. Queued connections are answered all the same."""
    with kit.engine(loops=2, close_timeout=4) as engine:
        with listeners_of(engine) as listeners:
            assert len(listeners) == 2
            for one in listeners:
                one.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
        os.kill(engine.pid, signal.SIGSTOP)
        with contextlib.ExitStack() as stack:
            crowd = [socket.create_connection(("127.0.0.1", engine.port), timeout=LIMIT) for _ in range(CROWD)]
            for client in crowd:
                stack.enter_context(client)
                client.sendall(request())
            os.kill(engine.pid, signal.SIGTERM)
            os.kill(engine.pid, signal.SIGCONT)
            answers = Counter(answer_in_queue(client) for client in crowd)
        assert set(answers) <= {"101", "503"}, answers
        assert engine.wait() == 0


def answer_in_queue(client: socket.socket) -> str:
    """The answer that a queued client gets: `101` or `503`."""
    answer = client.recv(1 << 16)
    if answer.startswith(b"HTTP/1.1 101 "):
        client.sendall(closing(1000))
        read_end(client)
        return "101"
    answer += read_end(client)
    return "503" if is_complete(answer) else repr(answer)


# -- clients whose head has not come --


@pytest.fixture
def engine() -> Iterator[kit.Engine]:
    """An engine with enough close-timeout that its clients end it by leaving."""
    with kit.engine(loops=1, close_timeout=3) as made:
        yield made


def begin_stop(engine: kit.Engine) -> None:
    """Sends SIGTERM; returns when the engine has begun to close connections."""
    witness, _ = opened(engine.port)
    with witness:
        os.kill(engine.pid, signal.SIGTERM)
        got = witness.read_frame()
        assert (got.opcode, got.code) == (CLOSE, 1001)
        witness.send(closing(1001))
        assert witness.read_end() == b""


def test_a_head_that_ends_while_stopping_is_answered(engine: kit.Engine) -> None:
    """With 503 at once, whatever its target and whatever follows it; a malformed head gets 400."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(engine.port)) for _ in range(4)]
        for wire in wires:
            wire.send(b"GET ")
            wire.wait_read()
        begin_stop(engine)
        wires[0].send(request()[4:])
        wires[1].send(request()[4:] + b"x" * 200000)
        wires[2].send(b"/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wires[3].send(b"/ HTTP/1.1\r\nHost : bad\r\n\r\n")
        for wire in wires[:3]:
            assert is_complete(read_end(wire.socket))
        assert read_end(wires[3].socket).startswith(b"HTTP/1.1 400 ")
    assert engine.wait() == 0


def test_a_client_without_a_head_gets_503_while_stopping(engine: kit.Engine) -> None:
    """Before close-timeout is over."""
    with Wire(engine.port) as silent, Wire(engine.port) as half:
        half.send(request()[:50])
        half.wait_read()
        begin_stop(engine)
        for wire in (silent, half):
            assert is_complete(read_end(wire.socket))
        assert engine.alive(), "they are answered before the engine ends"
    assert engine.wait() == 0


def test_a_client_that_never_closes_does_not_delay_the_stop() -> None:
    with kit.engine(loops=1, close_timeout=0.4) as engine, Wire(engine.port) as silent:
        begin_stop(engine)
        assert engine.wait() == 0
        assert is_complete(read_end(silent.socket))


# -- two engines on a port --

# `signal-engine serve` does not share its port with another one: this is a process that does.
SHARING = """
import json, signal, sys
from signal_core.engine import Core
from signal_py.config.settings import Config
from signal_py.runtime import core_settings

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
core = Core(core_settings(Config(loops=1, nats=("off",), close_timeout=4), sys.argv[2], False, False))
core.start([(2, "127.0.0.1", int(sys.argv[1]), 0)])
print("ready", flush=True)
signal.sigwait({signal.SIGTERM})
core.stop()
core.join()
print(json.dumps(core.stats()["total"]), flush=True)
"""


@contextlib.contextmanager
def sharing(port: int, node: str) -> Iterator[kit.Process]:
    """An engine in another process, on a port that others may share."""
    made = kit.Process(f"engine {node}")
    made.spawn([*kit.python(), "-c", SHARING, str(port), node], kit.clean_environment())
    try:
        until(lambda: b"ready" in made.log() or not made.alive(), "it listens", kit.PATIENCE)
        yield made
        assert made.end() == 0, made.log()
    finally:
        if made.alive():
            made.end(signal.SIGKILL)


def test_another_engine_on_the_port_takes_over() -> None:
    """Of two that share a port one stops. Every client is answered: by either, and afterwards by the other."""
    port = kit.free_port()
    with sharing(port, "stays") as stays, sharing(port, "goes") as goes:
        storm = Storm("127.0.0.1", port)
        until(lambda: storm.outcomes["101"] > 200, "the storm is under way")
        os.kill(goes.pid, signal.SIGSTOP)
        with contextlib.ExitStack() as stack:
            crowd = [socket.create_connection(("127.0.0.1", port), timeout=LIMIT) for _ in range(CROWD)]
            for client in crowd:
                stack.enter_context(client)
                client.sendall(request())
            os.kill(goes.pid, signal.SIGTERM)
            os.kill(goes.pid, signal.SIGCONT)
            answers = Counter(answer_in_queue(client) for client in crowd)
        assert goes.wait() == 0
        after = storm.outcomes["101"]
        until(lambda: storm.outcomes["101"] > after + 200, "the other goes on")
        storm.ends.set()
        outcomes = storm.join()
        assert set(answers) <= {"101", "503"}, answers
        assert set(outcomes) <= {"101", "503"}, outcomes
        assert stays.alive()
    ends = [json.loads(process.log().splitlines()[-1]) for process in (stays, goes)]
    assert all(end["opened"] > 20 for end in ends), "each took some of the clients"
    assert [end["shed"] for end in ends] == [0, answers["503"] + outcomes["503"]]
