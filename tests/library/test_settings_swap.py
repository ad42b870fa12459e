"""Core.reload: settings are replaced while loops run and clients send (signal_core/tables/settings.pxd)."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import kit
from halt import threads
from peers import BarePeer, exchange_messages, ledgers_hold, several
from signal_core.engine import Core, CoreError
from signal_py.config.settings import Config
from signal_py.runtime import core_settings
from wire import CONT, TEXT, Wire, frame, opened, refusal, request, until

AF_INET = 2


class Swapped:
    """A Core that listens on `port`, and the settings it was made of."""

    def __init__(self, **options: Any) -> None:
        self.options = {"loops": 2, "nats": ("off",), "close_timeout": 1.0} | options
        self.core = Core(self.settings())
        self.port = kit.free_port()
        self.core.start([(AF_INET, "127.0.0.1", self.port, 0)])

    def settings(self) -> dict[str, object]:
        return core_settings(Config(**self.options), "a", False, False)

    def reload(self, **options: Any) -> None:
        self.options |= options
        assert self.core.reload(self.settings())

    def total(self) -> dict[str, int]:
        counted: Any = self.core.stats()
        return dict(counted["total"])


@contextlib.contextmanager
def swapped(**options: Any) -> Iterator[Swapped]:
    one = Swapped(**options)
    try:
        yield one
    finally:
        one.core.stop()
        one.core.join()


def hello_of(port: int) -> dict[str, Any]:
    with Wire(port) as wire:
        wire.upgrade()
        return dict(json.loads(wire.read_message()[1].split(b"\n", 1)[1]))


def test_clients_hear_of_the_new_settings() -> None:
    with swapped(max_message=4096) as node:
        assert hello_of(node.port)["max_message"] == 4096
        node.reload(max_message=64)
        assert hello_of(node.port)["max_message"] == 64


def test_a_reload_that_fails_changes_nothing() -> None:
    with swapped(max_message=4096) as node:
        with pytest.raises(ValueError, match="path has 200 bytes: 127 at most"):
            node.core.reload(node.settings() | {"max_message": 64, "path": "/" + "p" * 199})
        with pytest.raises(TypeError):
            node.core.reload(node.settings() | {"max_message": 64, "origins": ["https://a"], "proxies": [None]})
        assert hello_of(node.port)["max_message"] == 4096
        node.reload(max_message=64)
        assert hello_of(node.port)["max_message"] == 64


def test_a_core_that_does_not_run_takes_no_settings() -> None:
    with swapped() as node:
        settings = node.settings()
    with pytest.raises(CoreError, match="not running"):
        node.core.reload(settings)


def test_a_loop_that_has_ended_does_not_keep_the_settings_that_are_freed() -> None:
    with swapped(loops=1) as node:
        node.core.stop()
        until(lambda: "signal-0" not in threads(os.getpid()), "the loop has ended")
        node.reload(max_message=4096)
        assert node.core.in_force(0)["max_message"] == 4096


def test_max_connections_counts_those_from_before_it_was_set() -> None:
    with swapped(max_connections=0) as node, several(node.port, 2) as peers:
        node.reload(max_connections=2)
        refusal(node.port, request(), 503)
        node.reload(max_connections=0)
        with opened(node.port)[0]:
            node.reload(max_connections=3)
            refusal(node.port, request(), 503)
        until(lambda: node.core.sockets == 2, "the third is gone")
        with opened(node.port)[0]:
            exchange_messages(*peers)


def test_a_limit_per_address_counts_from_when_it_is_set() -> None:
    """Those from before are not counted, neither when they come nor when they leave."""
    with swapped(max_connections_per_address=0) as node, several(node.port, 2):
        node.reload(max_connections_per_address=1)
        with opened(node.port)[0]:
            refusal(node.port, request(), 429)
            node.reload(max_connections_per_address=0)
            with opened(node.port)[0]:
                node.reload(max_connections_per_address=1)
                refusal(node.port, request(), 429)
        until(lambda: node.core.sockets == 2, "both are gone")
        with opened(node.port)[0]:
            refusal(node.port, request(), 429)


def test_an_address_that_becomes_a_proxy_while_its_head_arrives_is_counted_once() -> None:
    head = request("/", "X-Forwarded-For: 203.0.113.7")
    with swapped(max_connections_per_address=1, loops=1) as node:
        with Wire(node.port) as wire:
            wire.send_cut(head[:-2], [])
            wire.wait_read()
            node.reload(trusted_proxies=("127.0.0.1",))
            wire.send(head[-2:])
            assert wire.read_answer().status == 101
            refusal(node.port, head, 429)
        until(lambda: node.core.sockets == 0, "all are gone")
        node.reload(trusted_proxies=())
        with opened(node.port)[0]:
            refusal(node.port, request(), 429)


def test_a_lower_max_message_ends_a_longer_message_that_is_arriving() -> None:
    with swapped(max_message=100_000) as node:
        with opened(node.port)[0] as wire, opened(node.port)[0] as whole:
            wire.send(frame(TEXT, b"PUB r\n" + b"x" * 50_000, fin=False))
            wire.wait_read()
            whole.send(frame(TEXT, b"PUB r\n" + b"x" * 50_000)[:20_000])
            whole.wait_read()
            node.reload(max_message=1000)
            wire.send(frame(CONT, b"x" * 10))
            assert wire.read_closed() == 1009
            whole.send(b"x" * 10)
            assert whole.read_closed() == 1009
        node.reload(max_message=100_000)
        with several(node.port, 2) as peers:
            exchange_messages(*peers)


def test_a_lower_burst_and_backlog_leave_connections_usable() -> None:
    with swapped(max_rate=100, max_burst=1000, backlog_messages=1000) as node, several(node.port, 2) as peers:
        exchange_messages(*peers)
        node.reload(max_rate=50, max_burst=5, backlog_messages=1, backlog_bytes=1024, max_refs=1)
        exchange_messages(*peers)
        node.reload(max_rate=0, max_burst=0)
        exchange_messages(*peers)
        ledgers_hold(node.total())


def test_a_thousand_reloads_lose_no_connection_and_no_message() -> None:
    """While eight clients send, with every limit going up and down."""
    sizes = ({"max_message": 4096, "origins": ("https://a.example",)}, {"max_message": 65536, "origins": ()})
    times = ({"ping_interval": 5.0, "trusted_proxies": ("10.0.0.0/8",)}, {"ping_interval": 60.0, "trusted_proxies": ()})
    with swapped() as node, several(node.port, 8) as peers:
        end, failures, rounds = threading.Event(), [], [0]

        def talk(some: list[BarePeer]) -> None:
            try:
                while not end.is_set():
                    exchange_messages(*some)
                    rounds[0] += 1
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=talk, args=(peers[at : at + 2],)) for at in range(0, 8, 2)]
        for thread in threads:
            thread.start()
        for number in range(1000):
            node.reload(**sizes[number % 2], **times[number // 2 % 2], max_rooms=1 + number % 100)
        end.set()
        for thread in threads:
            thread.join(kit.PATIENCE)
        assert not failures and rounds[0] > 8
        exchange_messages(*peers)
        total = node.total()
        assert total["connections"] == 8
        ledgers_hold(total)
