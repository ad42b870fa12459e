"""Reads the limits of this machine for a process that is started here, for the command `doctor`."""

from __future__ import annotations

import ctypes
import math
import os
import re
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

from signal_py.base.resources import V2, folders_of_groups, limits_of_groups, parse_bytes
from signal_py.capacity import KERNEL, KERNEL_V1, Bound, Machine

CLOSE_RANGE = 436  # the number of the system call close_range(2), the same on every architecture
CLOSE_RANGE_UNSHARE = 2
HIGHEST = 2**31 - 2  # a descriptor that is never open
PORTS = (32768, 60999)  # if /proc does not tell
IN_USE = re.compile(r"^TCP: .*\bmem (\d+)", re.MULTILINE)
INACTIVE = {True: r"^inactive_file (\d+)", False: r"^total_inactive_file (\d+)"}  # by: version 2
OWN_KERNEL = 512 << 10  # bytes of this process in the kernel, and that a group is charged ahead for it (64 pages each)
CAP_SYS_ADMIN = 1 << 21
PIDS = frozenset({"pids"})
MEMORY = frozenset({"memory"})


def read_machine(root: Path = Path("/")) -> Machine:
    """Returns the limits. What can't be read is no limit. `root`: the folder that contains `proc` and `sys`."""
    kernel = root / "proc/sys"
    low, high = (_numbers(kernel / "net/ipv4/ip_local_port_range") or list(PORTS))[:2]
    affinity = len(os.sched_getaffinity(0))
    return Machine(
        descriptors=_limit(resource.RLIMIT_NOFILE),
        descriptors_max=_number(kernel / "fs/nr_open", math.inf),
        own_tables=own_tables(),
        files=_files(root),
        memory=tuple(_memory(root)),
        address_space=_limit(resource.RLIMIT_AS),
        data=_limit(resource.RLIMIT_DATA),
        tasks=tuple(_tasks(root)),
        conntrack=_conntrack(root),
        tcp_memory=_tcp_memory(root),
        ports=high - low + 1 - _reserved(_text(kernel / "net/ipv4/ip_local_reserved_ports"), low, high),
        somaxconn=int(_number(kernel / "net/core/somaxconn", 4096)),
        processors=min(limits_of_groups(root).processors, affinity),
    )


def _limit(which: int) -> float:
    """Returns a hard limit; the engine raises the soft one of descriptors. Others are not raised."""
    soft, hard = resource.getrlimit(which)
    value = hard if which == resource.RLIMIT_NOFILE else soft
    return math.inf if value == resource.RLIM_INFINITY else value


def own_tables() -> bool:
    """Returns whether a thread may have a descriptor table of its own, by trying it on a thread that then ends."""
    found: list[bool] = []

    def attempt() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.syscall(CLOSE_RANGE, ctypes.c_uint(HIGHEST), ctypes.c_uint(HIGHEST), CLOSE_RANGE_UNSHARE)
        found.append(result == 0)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return found == [True]


def _files(root: Path) -> Bound:
    """fs.file-max, which does not limit processes with CAP_SYS_ADMIN."""
    used, _, most = (_numbers(root / "proc/sys/fs/file-nr") or [0, 0, 0])[:3]
    exempt = re.search(r"^CapEff:\s*([0-9a-f]+)", _text(root / "proc/self/status"), re.MULTILINE)
    if not most or (exempt and int(exempt[1], 16) & CAP_SYS_ADMIN):
        return Bound("fs.file-max", math.inf, used)
    return Bound("fs.file-max", most, used)


def _memory(root: Path) -> Iterator[Bound]:
    """Yields the machine's memory, and that of each control group with a limit. What this process uses counts as
    free."""
    anonymous = re.search(r"^RssAnon:\s+(\d+) kB$", _text(root / "proc/self/status"), re.MULTILINE)
    own = (int(anonymous[1]) << 10) + OWN_KERNEL if anonymous else 0
    known = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE))
    if "MemTotal" in known:
        total = int(known["MemTotal"]) << 10
        free = int(known.get("MemAvailable", 0)) << 10
        yield Bound("memory of the machine", total, max(total - free - own, 0))
    for folder, hierarchy in folders_of_groups(root, MEMORY):
        two = hierarchy == V2
        for name in ("memory.max", "memory.high") if two else ("memory.limit_in_bytes",):
            limit = parse_bytes(_text(folder / name))
            if math.isfinite(limit) and limit < 1 << 60:
                used = _number(folder / ("memory.current" if two else "memory.usage_in_bytes"), 0)
                cache = re.search(INACTIVE[two], _text(folder / "memory.stat"), re.MULTILINE)
                used -= int(cache[1]) if cache else 0  # which the kernel takes back first
                kernel = KERNEL if two else KERNEL_V1
                where = str(folder / name)
                yield Bound(f"memory of the control group ({where})", limit, max(used - own, 0), where, kernel)


def _tasks(root: Path) -> Iterator[Bound]:
    """Yields the limits of threads."""
    most = _limit(resource.RLIMIT_NPROC)
    if math.isfinite(most) and os.geteuid() != 0:
        yield Bound("threads of this user (ulimit -u)", most, _threads_of_user(root))
    for folder, _ in folders_of_groups(root, PIDS):
        limit = parse_bytes(_text(folder / "pids.max"))
        if math.isfinite(limit):
            used = _number(folder / "pids.current", 0)
            yield Bound(f"threads of the control group {folder}", limit, used, str(folder / "pids.max"))


def _threads_of_user(root: Path) -> int:
    """Counts the threads of this user's processes."""
    count = 0
    for status in (root / "proc").glob("[0-9]*/status"):
        text = _text(status)
        owner = re.search(r"^Uid:\s+(\d+)", text, re.MULTILINE)
        threads = re.search(r"^Threads:\s+(\d+)", text, re.MULTILINE)
        if owner and threads and int(owner[1]) == os.getuid():
            count += int(threads[1])
    return count


def _conntrack(root: Path) -> Bound | None:
    """Returns nf_conntrack_max; None if connections are not tracked, which an empty table of a busy machine shows."""
    folder = root / "proc/sys/net/netfilter"
    most, used = _number(folder / "nf_conntrack_max", 0), _number(folder / "nf_conntrack_count", 0)
    return Bound("nf_conntrack_max", most, used) if most and used else None


def _tcp_memory(root: Path) -> Bound | None:
    pages = _numbers(root / "proc/sys/net/ipv4/tcp_mem")
    used = IN_USE.search(_text(root / "proc/net/sockstat"))
    return Bound("net.ipv4.tcp_mem", pages[2], int(used[1]) if used else 0) if len(pages) == 3 else None


def _reserved(text: str, low: int, high: int) -> int:
    """Counts the reserved ports in a range. `text`: such as `8080,9000-9010`."""
    count = 0
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        count += max(0, min(int(last or first), high) - max(int(first), low) + 1)
    return count


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", _text(path))]


def _number(path: Path, default: float) -> float:
    found = _numbers(path)
    return found[0] if found else default
