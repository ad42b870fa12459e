"""An engine under valgrind's callgrind: what its loop's thread executed between two moments, by source line.

It counts instructions in user space. callgrind dumps a file for each thread whenever vgdb asks it to, and starts again
from 0; --separate-threads=yes keeps the loop's thread apart from Python's.
"""

from __future__ import annotations

import bisect
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from servers import BenchError, Server, free_port, running

START_PATIENCE = 120.0  # seconds; alone on a machine it takes 6
DUMP_PATIENCE = 60.0
LOOP = "thread_thread_main"  # the end of the name in C of a loop's first function
VALGRIND = "valgrind --tool=callgrind --separate-threads=yes --compress-strings=no --compress-pos=no"
MARK = re.compile(r'^\s*/\* "signal_core/(?:\w+/)*(\w+)\.(?:pxd|pyx)":(\d+)$')


@dataclass
class Profile:
    """Of one thread: instructions in all, and by (file, function, line), without callees."""

    total: int = 0
    lines: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    @property
    def is_loop(self) -> bool:
        return any(function.endswith(LOOP) for _, function, _ in self.lines)

    def add(self, other: Profile) -> None:
        self.total += other.total
        self.lines.update(other.lines)


def parse(text: str) -> Profile:
    """Parses a dump of one thread. The cost behind a `calls=` line is the callee's, and counted there."""
    profile = Profile()
    file = function = ""
    callee = False
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            if key in ("fl", "fi", "fe"):
                file = value
            elif key == "fn":
                function = value
            callee = key == "calls"
        elif line[:1].isdigit():
            number, cost = line.split()[:2]
            if not callee:
                profile.lines[file, function, int(number)] += int(cost)
            callee = False
        elif line.startswith("summary:"):
            profile.total = int(line.split()[1])
    return profile


class Marks:
    """The source of each line of the generated C: Cython names it in a comment before each statement."""

    def __init__(self, text: str) -> None:
        self.at: list[int] = []
        self.sources: list[tuple[str, int]] = []
        for number, line in enumerate(text.splitlines(), 1):
            if found := MARK.match(line):
                self.at.append(number)
                self.sources.append((found[1], int(found[2])))

    def source(self, line: int) -> tuple[str, int]:
        """The module and its line."""
        place = bisect.bisect_right(self.at, line) - 1
        return self.sources[place] if place >= 0 else ("engine", 0)


def by_part(profile: Profile, marks: Marks) -> Counter[str]:
    """Instructions by module of signal_core, header, or function of a library."""
    parts: Counter[str] = Counter()
    for (file, function, line), cost in profile.lines.items():
        if file.endswith("/engine.c"):
            parts[marks.source(line)[0] + ".pxd"] += cost
        elif function.startswith("__pyx_"):
            parts[Path(file).name] += cost
        else:
            parts[f"{function}()"] += cost
    return parts


def by_line(profile: Profile, marks: Marks) -> Counter[str]:
    """Instructions by line of signal_core."""
    lines: Counter[str] = Counter()
    for (file, _, line), cost in profile.lines.items():
        if file.endswith("/engine.c"):
            module, number = marks.source(line)
            lines[f"{module}.pxd:{number}"] += cost
    return lines


def missing() -> str:
    """What has to be installed before anything can be counted, or nothing."""
    return ", ".join(program for program in ("valgrind", "vgdb") if shutil.which(program) is None)


class Watched:
    """A running `signal-engine serve` with one loop, under callgrind, which writes to a folder."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.port, self.pid, self.folder = server.port, server.pid, folder

    def dump(self) -> Profile:
        """What the loop has done since the last dump, or since its start."""
        command = ["vgdb", f"--pid={self.pid}", "dump"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DUMP_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError("vgdb had no answer: may this user trace processes (ptrace)?") from None
        found = None
        for file in self.folder.glob("out.*-*"):
            profile = parse(file.read_text())
            file.unlink()
            if profile.is_loop:
                found = profile
        if found is None:
            raise BenchError(f"no dump of the loop's thread; vgdb said: {done.stderr[-1000:]}")
        return found

    def hold(self) -> None:
        """Stops the process: it finds what happens until `resume` all at once."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def watched(**settings: str | float) -> Iterator[Watched]:
    """Runs an engine under callgrind until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    port = free_port()
    flags = " ".join(f"--{name.replace('_', '-')}={value}" for name, value in settings.items())
    with tempfile.TemporaryDirectory(prefix="signal-callgrind-") as folder:
        command = f"{VALGRIND} --callgrind-out-file={folder}/out {sys.executable} -m signal_py serve"
        with running(f"{command} --listen=127.0.0.1:{port} --loops=1 {flags}", port, START_PATIENCE) as server:
            yield Watched(server, Path(folder))
