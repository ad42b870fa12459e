"""Stops one thread of another process, as if it had no processor, with ptrace(2): needs root."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17  # linux/ptrace.h
WALL = 0x40000000  # __WALL: threads, too

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, None, None) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace of thread {thread}: {os.strerror(number)}")


def threads(pid: int) -> dict[str, int]:
    """The threads of a process by name."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {(task / "comm").read_text().strip(): int(task.name) for task in tasks}


@contextlib.contextmanager
def halted(pid: int, name: str) -> Iterator[None]:
    """Stops the thread of that name; the others go on. Call it from one thread of the test only."""
    thread = threads(pid)[name]
    _ptrace(PTRACE_SEIZE, thread)
    try:
        _ptrace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, WALL)
        yield
    finally:
        _ptrace(PTRACE_DETACH, thread)


def sleeps(pid: int, name: str) -> int:
    """How often a thread has slept so far (voluntary context switches)."""
    status = Path(f"/proc/{pid}/task/{threads(pid)[name]}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
