"""What the kernel says of this process."""

from __future__ import annotations

import os
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_memory() -> int | None:
    """Returns the bytes of memory in use (RSS); None without /proc. The kernel may be off by some hundred KiB."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except OSError:
        return None
