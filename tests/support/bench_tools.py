"""Builds targets of bench/Makefile in a folder that all processes of pytest share, in one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import kit
import load

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "bench-tools"
LONGEST = 240.0  # seconds that a build may take: the first build with Go compiles its library, too


def environment() -> dict[str, str]:
    """The environment without the sanitizer that tests of the engine may run with."""
    return {name: value for name, value in kit.clean_environment().items() if name != "LD_PRELOAD"}


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def make(*targets: str, into: Path = BUILT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs make for targets of bench/Makefile; warnings of the C compiler are errors."""
    settings = {"BIN": str(into), "CC": f"{os.environ.get('CC', 'cc')} -Werror", **variables}
    command = ["make", "-s", "-C", str(ROOT / "bench"), *targets, *(f"{k}={v}" for k, v in settings.items())]
    with one_at_a_time():
        return subprocess.run(
            command, capture_output=True, text=True, timeout=LONGEST, env=environment(), check=False
        )


def built(*targets: str) -> None:
    """Builds targets; AssertionError with the output of make if that fails."""
    done = make(*targets)
    assert done.returncode == 0, done.stdout + done.stderr


def loaded(tool: str, words: str, urls: Sequence[str], pids: Sequence[int], *more: str) -> load.Run:
    """What the load generator found in a fraction of a second; all connections must be open at the end."""
    command = [str(BUILT / tool), *words.split(), "--setup", "20", *more, *(f"--pid={pid}" for pid in pids), *urls]
    command += ["--seconds", "0.2", "--warmup", "0.05"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=2 * kit.PATIENCE, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    run = load.parse(done.stdout)
    assert not load.incomplete(run)
    return run
