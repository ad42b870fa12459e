"""The command `doctor` foretells when an engine with the same limits refuses clients: within 5 %."""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kit
from wire import Wire, opened, request

SUPPORT = Path(__file__).parents[1] / "support"
NO_CLOSE_RANGE = (sys.executable, str(SUPPORT / "no_close_range.py"))
QUIET = {"listen": "127.0.0.1:0", "nats": "off", "admin": "127.0.0.1:0"}
CLIENTS = 18_500  # descriptors of this process that the largest test needs
pytestmark = pytest.mark.skipif(
    0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < CLIENTS,
    reason=f"this process may open too few sockets: ulimit -Hn {CLIENTS}",
)
GROUP = 50 << 20  # bytes of a control group
SKIP = 77  # exit status of few_ports.py


def descriptors(number: int) -> tuple[str, ...]:
    """A command that runs another one with this RLIMIT_NOFILE."""
    return ("sh", "-c", f'ulimit -n {number}; exec "$@"', "sh")


def ask(before: tuple[str, ...], *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [*before, *kit.python(), "-m", "signal_py", "doctor", *arguments, *kit.flags({**QUIET, **settings})]
    environment = kit.clean_environment()
    return subprocess.run(command, capture_output=True, text=True, timeout=kit.PATIENCE, env=environment, check=False)


def foretold(before: tuple[str, ...], **settings: Any) -> dict[str, Any]:
    done = ask(before, "--json", **settings)
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if report["good"] else 1)
    return report


def held(before: tuple[str, ...], **settings: Any) -> int:
    """Connects WebSockets to an engine until it refuses one with 503, and returns how many it has taken."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(kit.many_descriptors())
        engine = stack.enter_context(kit.engine(*before, **{**QUIET, **settings}))
        count = 0
        while True:
            wire = stack.enter_context(Wire(engine.port))
            wire.send(request())
            status = wire.read_answer().status
            if status != 101:
                assert status == 503
                return count
            count += 1


@pytest.mark.parametrize(
    ("first", "before", "settings"),
    [
        ("descriptors", descriptors(900), {"loops": 1}),
        ("descriptors", descriptors(2500), {"loops": 2}),  # so many that the kernel's hash fills both alike
        ("descriptors", descriptors(900), {"loops": 1, "listen": ["127.0.0.1:0", "127.0.0.2:0"]}),
        ("descriptors", (*NO_CLOSE_RANGE, *descriptors(900)), {"loops": 1}),
        ("descriptors", (*NO_CLOSE_RANGE, *descriptors(900)), {"loops": 4}),
        ("max-connections", (), {"loops": 2, "max_connections": 300}),
        ("max-connections", descriptors(900), {"loops": 1, "max_connections": 300}),
    ],
    ids=["1-loop", "2-loops", "2-listeners", "shared-table", "shared-by-4", "max-connections", "the-lower-one"],
)
def test_the_engine_refuses_clients_when_it_was_foretold(
    first: str, before: tuple[str, ...], settings: dict[str, Any]
) -> None:
    report = foretold(before, **settings)
    assert report["good"] and report["first"] == first
    assert held(before, **settings) == pytest.approx(report["connections"], rel=0.05)


def test_the_first_limit_is_raised_by_its_command() -> None:
    """The command for a number of connections makes room for them, and hardly more."""
    before, wanted = descriptors(300), 1200
    report = foretold(before, loops=1, max_connections=250)
    assert (report["first"], report["connections"]) == ("max-connections", 250)
    done = ask(before, "--json", "--connections", str(wanted), loops=1)
    report = json.loads(done.stdout)
    assert done.returncode == 1 and not report["good"] and report["first"] == "descriptors"
    command = next(limit["raise"] for limit in report["limits"] if limit["key"] == "descriptors")
    assert command.startswith("ulimit -Hn ")
    needed = int(command.split()[2])
    assert wanted <= foretold(descriptors(needed), loops=1)["connections"] < wanted * 1.05
    assert held(descriptors(needed), loops=1) == pytest.approx(wanted, rel=0.05)


def test_ports_of_clients_on_this_machine() -> None:
    """Of a proxy in front of the engine, for example. In a network namespace that has few of them."""
    environment = kit.clean_environment(PYTHONPATH=os.pathsep.join(sys.path))
    command = [sys.executable, str(SUPPORT / "few_ports.py"), "20000", "21499"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    if done.returncode == SKIP:
        pytest.skip("no network namespace can be made: run the tests as root, or allow user namespaces")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["first"] == "ports"
    assert report["held"] == pytest.approx(report["connections"], rel=0.05)


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory control group of version 1 with little memory."""
    top = Path("/sys/fs/cgroup/memory")
    folder = top / f"signal-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(GROUP), encoding="ascii")
    except OSError as error:
        pytest.skip(f"{top} of version 1 can't be written to ({error.strerror}): run the tests as root where it can be")
    yield folder
    kit.until(lambda: not (folder / "cgroup.procs").read_text(encoding="ascii"), "the group is empty")
    folder.rmdir()


def test_memory_of_a_control_group(group: Path) -> None:
    """The kernel kills the engine when it was foretold."""
    before = ("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh")
    settings = {"loops": 1, "ping_interval": 3600}
    report = foretold(before, **settings)
    assert report["first"].startswith("memory ") and str(group) in report["first"]
    with kit.many_descriptors(), kit.engine(*before, **settings) as engine, contextlib.ExitStack() as stack:
        count = 0
        with contextlib.suppress(OSError, EOFError):
            while True:
                stack.enter_context(opened(engine.port)[0])
                count += 1
        assert engine.wait() == -signal.SIGKILL
        engine.killed = True
    assert count == pytest.approx(report["connections"], rel=0.05)


def test_what_keeps_the_engine_from_working() -> None:
    """A NATS server out of reach: exit status 1, and the fix."""
    where = f"127.0.0.1:{kit.free_port()}"
    done = ask((), nats=where)
    assert done.returncode == 1
    assert f"fault  NATS can't be reached: {where} (Connection refused): start it, or correct --nats" in done.stdout
    with kit.nats() as server:
        assert ask((), nats=server.url).returncode == 0


def test_the_first_line_is_the_verdict() -> None:
    done = ask(descriptors(300), loops=1)
    line = done.stdout.splitlines()[0]
    assert line.startswith("this node takes about 289 connections; the first limit is: open descriptors")
    assert "; raise it with: ulimit -Hn " in line and done.returncode == 0
    line = ask(descriptors(300), "--connections", "1000", loops=1).stdout.splitlines()[0]
    assert line.startswith("1,000 connections are not possible; this node takes about 289")
    line = ask(descriptors(300), "--connections", "200", loops=1).stdout.splitlines()[0]
    assert line.startswith("200 connections are possible; this node takes about 289")


def test_bad_arguments() -> None:
    assert "--connections" in kit.complaint(ask((), "--connections", "-1"))
    assert "--connections" in kit.complaint(ask((), "--connections", "many"))
    assert "--loops" in kit.complaint(ask((), loops="x"))


def test_the_sample_of_the_docs() -> None:
    """Its commands run, and its lines are those that the command prints, but for this machine's figures."""
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    commands = re.findall(r"^ {4}signal-engine (doctor .*)$", page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        done = kit.run(*command.split(), "--nats", "off")
        assert done.stderr == "" and done.stdout.startswith(("this node takes about ", "20,000 connections are "))
    done = kit.run(*commands[0].split(), "--nats", "off", "--loops", "2")
    sample = page.partition("```\n")[2].partition("\n```")[0].splitlines()
    shown = {line.split("  ")[0] for line in done.stdout.splitlines()}
    assert len(sample) == 5 and {line.split("  ")[0] for line in sample[2:]} <= shown
