"""Open descriptors of the process in all its tables: each loop has its own, which /proc/PID/fd hides."""

from __future__ import annotations

import os
import re
from pathlib import Path

LOOP = re.compile(r"signal-\d+")  # what the core calls its threads


def count_descriptors(own_tables: bool) -> int | None:
    """All that are open, None without /proc. `own_tables`: the loops have theirs; else they share the main table."""
    try:
        total = _count("/proc/self/fd")
        tasks = os.listdir("/proc/self/task") if own_tables else []
    except OSError:
        return None
    for task in tasks:
        folder = f"/proc/self/task/{task}"
        try:
            if LOOP.fullmatch(Path(folder, "comm").read_text(encoding="utf-8").strip()):
                total += _count(f"{folder}/fd")
        except OSError:  # a thread that ended meanwhile
            continue
    return total


def _count(folder: str) -> int:
    """Kernels from 6.2 tell as the folder's size; with an older one they are listed."""
    return os.stat(folder).st_size or len(os.listdir(folder))
