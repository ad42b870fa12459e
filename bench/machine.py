"""The machine, kernel, versions and date of a result."""

from __future__ import annotations

import gzip
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from contenders import HERE, nats_server

PACKAGES = ("signal-engine-ws", "socketify", "picows", "uvloop")
WRITTEN = ("bench/results", "docs")  # made of measurements: a change there does not change what is measured


def first_field(path: str, name: str) -> str:
    """The first value of a field `name : value` in a file of /proc, or nothing."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def said(*command: str) -> str:
    """The first line that a command writes, or nothing if it can't be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
    except OSError:
        return ""
    return (done.stdout.splitlines() or [""])[0].strip() if done.returncode == 0 else ""


def commit(folder: Path = HERE) -> str:
    """The commit that is checked out, `-dirty` if a file was changed that may take part in a measurement."""
    found = said("git", "-C", str(folder), "describe", "--always")
    outside = [f":(top,exclude){name}" for name in WRITTEN]
    changed = said("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no", "--", ":(top)", *outside)
    return f"{found}-dirty" if changed else found


def ticks(config: Path = Path("/proc/config.gz")) -> int | None:
    """How often a second the kernel samples whether a thread is in user mode; None if unknown."""
    try:
        found = re.search(rb"^CONFIG_HZ=(\d+)$", gzip.decompress(config.read_bytes()), re.MULTILINE)
    except (OSError, EOFError):
        return None
    return int(found[1]) if found else None


def versions() -> dict[str, str]:
    """Versions of everything that takes part and is installed."""
    found = {"python": platform.python_version(), "commit": commit()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if server := nats_server():
        found["nats-server"] = said(server, "--version").rpartition(" ")[2].removeprefix("v")
    found["cc"] = said("cc", "--version").rpartition(" ")[2]
    found["go"] = said("go", "version", "bin/goproxy").rpartition(" ")[2].removeprefix("go")
    return {name: version for name, version in found.items() if version}


def description() -> dict[str, Any]:
    """The head of a file of results."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "architecture": platform.machine(),
            "cpu": first_field("/proc/cpuinfo", "model name"),
            "cores": len(os.sched_getaffinity(0)),
            "memory": first_field("/proc/meminfo", "MemTotal"),
            "ticks": ticks(),
            "kernel": platform.release(),
        },
        "versions": versions(),
    }
