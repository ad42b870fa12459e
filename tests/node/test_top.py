"""`signal-engine top`, as JSON and on a terminal."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

import kit
from wire import TEXT, frame, opened


def host(engine: kit.Engine) -> str:
    """HOST:PORT of its admin server."""
    return urlsplit(engine.admin_url).netloc


class Terminal:
    """`top` on a terminal of its own."""

    def __init__(self, *arguments: str, term: str = "xterm") -> None:
        self.keyboard, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        os.set_blocking(self.keyboard, False)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.child = subprocess.Popen(
            [*kit.python(), "-m", "signal_py", "top", *arguments],
            stdin=slave, stdout=slave, stderr=slave, env=kit.clean_environment(TERM=term, COLUMNS="200", LINES="40"),
        )  # fmt: skip
        self.seen = b""

    def shows(self, text: str) -> bool:
        """Whether it has drawn this since the last call that found something."""
        with contextlib.suppress(BlockingIOError, OSError):
            self.seen += os.read(self.keyboard, 1 << 16)
        found = text.encode() in self.seen
        if found:
            self.seen = b""
        return found

    def until(self, text: str) -> None:
        try:
            kit.until(lambda: self.shows(text), f"top shows {text}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it ended with {self.child.poll()}; {self.seen[-9000:]!r}") from None

    def ends(self) -> int:
        """The exit status, once it has ended and the terminal is as before."""
        kit.until(lambda: (self.shows("\0"), self.child.poll())[1] is not None, "top ends")
        assert termios.tcgetattr(self.slave) == self.before
        return int(self.child.returncode)


@contextlib.contextmanager
def terminal(*arguments: str, term: str = "xterm") -> Iterator[Terminal]:
    made = Terminal(*arguments, term=term)
    try:
        yield made
    finally:
        made.child.kill()
        made.child.wait()
        os.close(made.keyboard)
        os.close(made.slave)


@contextlib.contextmanager
def cluster() -> Iterator[tuple[kit.Nats, kit.Engine, kit.Engine]]:
    with kit.nats() as nats, kit.engine(nats=nats.url) as one, kit.engine(nats=nats.url) as other:
        yield nats, one, other


def readings(*arguments: str, count: int = 2) -> list[dict[str, Any]]:
    done = kit.run("top", "--json", "--interval", "0.2", "--count", str(count), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_json_of_a_node() -> None:
    with kit.engine(loops=2) as engine, opened(engine.port)[0]:
        found = readings("--admin", host(engine))
        assert len(found) == 2
        (node,) = found[1]["nodes"]
        assert (node["node"], node["connections"], node["nats_state"]) == (engine.node, 1, "off")
        assert len(node["loops"]) == 2
        assert set(node["latency"]) == set(engine.stats()["latency"])
        assert found[1]["total"]["connections"] == 1
        assert found[1]["trouble"] == []


def test_json_of_a_cluster() -> None:
    with cluster() as (nats, one, other), opened(one.port)[0], opened(other.port)[0]:
        kit.until(lambda: readings("--nats", nats.url, count=1)[0]["total"]["nodes"] == 2, "both answer")
        found = readings("--nats", nats.url)[1]
        assert {node["node"] for node in found["nodes"]} == {one.node, other.node}
        assert (found["total"]["nodes"], found["total"]["connections"]) == (2, 2)
        assert found["total"]["memory"] > 1 << 20
        assert "relay" in found["total"]["latency"]


def test_a_node_on_a_terminal() -> None:
    with kit.engine() as engine, terminal("--admin", f"http://{host(engine)}/", "--interval", "0.1") as top:
        top.until(engine.node)
        top.until("client round trip")
        with opened(engine.port)[0] as wire:
            for _ in range(3):
                wire.send(frame(TEXT, b"nonsense"))
                wire.read_message()
            top.until("bad-request")
        os.write(top.keyboard, b"q")
        assert top.ends() == 0


def test_a_terminal_that_nothing_can_be_drawn_on() -> None:
    with terminal("--admin", "127.0.0.1:1", term="dumb") as top:
        top.until("terminal with TERM=dumb: set TERM, or use --json")
        assert top.ends() == 2


def test_a_cluster_on_a_terminal() -> None:
    with cluster() as (nats, one, other), terminal("--nats", nats.url, "--interval", "0.2") as top:
        top.until("2 nodes")
        top.until(one.node)
        top.until(other.node)
        other.kill()
        top.until(one.node)
        top.child.send_signal(signal.SIGINT)
        assert top.ends() == 130


def test_it_goes_on_while_the_node_is_gone() -> None:
    address = f"127.0.0.1:{kit.free_port()}"
    with kit.engine(admin=address) as engine, terminal("--admin", address, "--interval", "0.1") as top:
        top.until(engine.node)
        engine.kill()
        top.until("does not answer")
        with kit.engine(admin=address) as again:
            top.until(again.node)
        top.child.send_signal(signal.SIGINT)
        assert top.ends() == 130


def test_it_goes_on_while_nats_is_gone() -> None:
    with cluster() as (nats, one, _), terminal("--nats", nats.url, "--interval", "0.1") as top:
        top.until(one.node)
        nats.stop()
        top.until("Trying again")
        nats.start()
        top.until(one.node)
        os.write(top.keyboard, b"q")
        assert top.ends() == 0


def test_without_a_terminal_it_names_json() -> None:
    assert "use --json" in kit.complaint(kit.run("top", "--admin", "127.0.0.1:1"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--interval", "0"], "--interval is 0"),
        (["--count", "-1"], "--count is -1"),
        (["--nats", "off"], "give --admin HOST:PORT"),
        (["--admin", "nowhere"], "--admin 'nowhere' is not an admin server"),
        (["--nats", "nats://127.0.0.1:1"], "nats://127.0.0.1:1"),
    ],
)
def test_wrong_arguments(arguments: list[str], named: str) -> None:
    assert named in kit.complaint(kit.run("top", "--json", *arguments))
