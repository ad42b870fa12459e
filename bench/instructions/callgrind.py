"""An engine under valgrind's callgrind: what its loop's thread executed between two moments, by source line.

Counted are instructions in user space. callgrind dumps a file a thread whenever vgdb asks it to, and starts again from
nothing; --separate-threads=yes keeps the loop's thread apart from Python's, so what Python does besides is not seen.
"""

from __future__ import annotations

import bisect
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_PATIENCE = 120.0  # seconds; alone on a machine it takes 6
STOP_PATIENCE = 60.0
DUMP_PATIENCE = 60.0
LOOP = "thread_thread_main"  # the end of the name in C of a loop's first function
VALGRIND = ["--tool=callgrind", "--separate-threads=yes"]
VALGRIND += ["--compress-strings=no", "--compress-pos=no"]  # names and numbers in full in every place
MARK = re.compile(r'^\s*/\* "signal_core/(?:\w+/)*(\w+)\.(?:pxd|pyx)":(\d+)$')


class CallgrindError(Exception):
    """valgrind or the engine did not do its part; the text is for people."""


@dataclass
class Profile:
    """Of one thread: instructions in all, and by (file, function, line), each for what it did itself."""

    total: int = 0
    lines: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    @property
    def is_loop(self) -> bool:
        return any(function.endswith(LOOP) for _, function, _ in self.lines)

    def add(self, other: Profile) -> None:
        self.total += other.total
        self.lines.update(other.lines)


def parse(text: str) -> Profile:
    """What callgrind dumped of one thread. The cost behind a `calls=` line is the callee's, and counted there."""
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
    """Which source a line of the generated C comes from: Cython says so in a comment before each statement."""

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
    """A `signal-engine serve` with one loop, under callgrind."""

    def __init__(self, **settings: str | float) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="signal-callgrind-")
        self.log = Path(self.folder.name, "log")
        self.ready: dict[str, Any] = {}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
        command = ["valgrind", *VALGRIND, f"--callgrind-out-file={self.folder.name}/out"]
        command += [sys.executable, "-m", "signal_py", "serve", "--listen=127.0.0.1:0", "--loops=1", *flags]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SIGNAL_ENGINE_")}
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [*command, "--log-format=json"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def _said(self, word: str) -> dict[str, Any]:
        """The log's line of that event, or nothing."""
        lines = self.log.read_text(errors="replace").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{") and f'"event": "{word}"' in line]
        return found[-1] if found else {}

    def wait_ready(self) -> None:
        end = time.monotonic() + START_PATIENCE
        while not self.ready:
            if self.child.poll() is not None or time.monotonic() > end:
                raise CallgrindError(f"the engine is not ready:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
            self.ready = self._said("ready")

    @property
    def port(self) -> int:
        return int(self.ready["listening"][0].rstrip("/").rpartition(":")[2])

    def dump(self) -> Profile:
        """What the loop has done since the last dump, or since its start."""
        command = ["vgdb", f"--pid={self.child.pid}", "dump"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DUMP_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise CallgrindError("vgdb had no answer: may this user trace processes (ptrace)?") from None
        found = None
        for file in Path(self.folder.name).glob("out.*-*"):
            profile = parse(file.read_text())
            file.unlink()
            if profile.is_loop:
                found = profile
        if found is None:
            raise CallgrindError(f"no dump of the loop's thread; vgdb said: {done.stderr[-1000:]}")
        return found

    def hold(self) -> None:
        """Stops the process: what happens until `resume` it will find all at once."""
        self.child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.child.pid, os.WSTOPPED)

    def resume(self) -> None:
        self.child.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.child.send_signal(signal.SIGCONT)
        self.child.terminate()
        try:
            self.child.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.folder.cleanup()
