"""Settings and listeners change while clients come, go and break off at any byte: afterwards every count is exact."""

import contextlib
import gc
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import kit
from peers import BarePeer, exchange_messages, ledgers_hold, several
from signal_core.engine import Core
from signal_py.config.settings import Config
from signal_py.runtime import core_settings
from wire import opened, refusal, request, until

AF_INET = 2
ROUNDS = 600
FIRST_BYTES = (
    request(),
    request("/?room=r", "X-Forwarded-For: 203.0.113.1"),
    b"PROXY TCP4 203.0.113.1 192.0.2.1 5000 80\r\n" + request(),
    b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" + request(),
    b"PROXY TCP4 203.0.113.1 192.0.2.1 5000 80\r\n\x16\x03\x01\x02\x00\x01\x00",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
)
CHANGES: tuple[dict[str, object], ...] = (
    {"max_connections": 0},
    {"max_connections": 8},
    {"max_connections_per_address": 0},
    {"max_connections_per_address": 2},
    {"trusted_proxies": ()},
    {"trusted_proxies": ("127.0.0.1",)},
    {"proxy_protocol": "off"},
    {"proxy_protocol": "on"},
    {"accept_rate": 0},
    {"accept_rate": 300},
    {"auth": "off"},
    {"auth": "callback"},
    {"max_rate": 0, "max_burst": 0},
    {"max_rate": 10_000, "max_burst": 20_000},
    {"handshake_timeout": 1.0},
    {"handshake_timeout": 0.2},
    {"ping_interval": 60.0},
    {"ping_interval": 5.0},
)
QUIET: dict[str, object] = {name: value for change in reversed(CHANGES) for name, value in change.items()}


def core_settings_of(options: dict[str, object]) -> dict[str, object]:
    """What these options change. The authorizer is no setting, and this one never answers."""
    auth = options.get("auth", "off")
    config = Config(
        loops=2,
        nats=("off",),
        close_timeout=0.5,
        auth_timeout=0.2,
        auth_pending=10_000,
        **{name: value for name, value in options.items() if name != "auth"},  # type: ignore[arg-type]
    )
    return core_settings(config, "a", False, False) | {"auth": auth}


def descriptors() -> dict[str, int]:
    """How many each loop's table has."""
    tasks = [task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text().startswith("signal-")]
    return {(task / "comm").read_text(): len(os.listdir(task / "fd")) for task in tasks}


def visit(chance: random.Random, address: object, family: int) -> None:
    """One client, which may break off at any byte, with a reset or not, and may read the answer or not."""
    with socket.socket(family) as client, contextlib.suppress(OSError):
        client.settimeout(0.3)
        client.connect(address)  # type: ignore[arg-type]
        text = chance.choice(FIRST_BYTES)
        cut = chance.randrange(len(text) + 1)
        client.sendall(text[:cut])
        if chance.random() < 0.7:
            client.sendall(text[cut:])
            client.recv(4096)
        if chance.random() < 0.3:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def meanwhile(*jobs: Callable[[random.Random], None]) -> Iterator[None]:
    """Repeats each job in a thread of its own until the block ends. Raises what a job raised."""
    end, failures = threading.Event(), []

    def repeat(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not end.is_set():
                jobs[seed](chance)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(seed,)) for seed in range(len(jobs))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join(kit.PATIENCE)
    if failures:
        raise failures[0]


def counts_are_exact(core: Core, port: int, peers: list[BarePeer]) -> None:
    """The connections left are `peers`, which were opened without a limit per address."""
    core.reload(core_settings_of(QUIET | {"max_connections": len(peers) + 1}))
    with opened(port)[0]:
        refusal(port, request(), 503)
    until(lambda: core.sockets == len(peers), "the last client is gone")
    core.reload(core_settings_of(QUIET | {"max_connections_per_address": 1}))
    with opened(port)[0]:
        refusal(port, request(), 429)
    until(lambda: core.sockets == len(peers), "the last client is gone")


def test_settings_and_listeners_change_under_clients_that_come_and_go(tmp_path: Path) -> None:
    path, port, other = str(tmp_path / "s"), kit.free_port(), kit.free_port()
    core = Core(core_settings_of(QUIET))
    core.start([(AF_INET, "127.0.0.1", port, 0)])
    with contextlib.ExitStack() as stack:
        stack.callback(core.join)
        stack.callback(core.stop)
        peers = stack.enter_context(several(port, 4))
        gc.collect()  # descriptors of earlier tests that only garbage still holds
        before = descriptors()

        def listen(chance: random.Random) -> None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                numbers = []
                with contextlib.suppress(ValueError):  # those that still close have a number, too
                    numbers.append(core.listener_add(AF_INET, "127.0.0.1", other, 0, False))
                    numbers.append(core.listener_share(listener.fileno(), chance.random() < 0.5))
                core.stats()
                for number in chance.sample(numbers, len(numbers)):
                    core.listener_remove(number)

        with meanwhile(
            lambda _: exchange_messages(*peers[:2]),
            lambda _: exchange_messages(*peers[2:]),
            lambda chance: visit(chance, ("127.0.0.1", port), socket.AF_INET),
            lambda chance: visit(chance, ("127.0.0.1", other), socket.AF_INET),
            lambda chance: visit(chance, path, socket.AF_UNIX),
            listen,
        ):
            chance, options = random.Random(16), dict(QUIET)
            for _ in range(ROUNDS):
                options |= chance.choice(CHANGES)
                assert core.reload(core_settings_of(options))
        core.reload(core_settings_of(QUIET))
        until(lambda: core.sockets == len(peers), "all that came are gone")
        until(lambda: descriptors() == before, "no descriptor is left")
        counts_are_exact(core, port, peers)
        exchange_messages(*peers)
        ledgers_hold(core.stats()["total"])  # type: ignore[arg-type]
