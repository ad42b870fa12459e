"""The memory and processors that this process may use. Read once, when an engine is prepared.

A limit of a control group also holds for the groups below it, so the smallest limit from the process's group up to the
root counts. Sources: cgroups(7), the kernel's admin-guide/cgroup-v2 and cgroup-v1/memory, scheduler/sched-bwc.
"""

from __future__ import annotations

import math
import os
import re
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
LEAST_MEMORY = MIB  # bytes; a lower limit is ignored
UNKNOWN_MEMORY = 1024 * MIB  # bytes, if the machine's memory is not known
V2 = ""  # the name of the one hierarchy of version 2; those of version 1 have their controllers' names
CONTROLLERS = frozenset({"memory", "cpu"})  # of version 1
NO_LIMIT = 1 << 62  # bytes; version 1 writes a larger number for no limit
ESCAPE = re.compile(r"\\([0-7]{3})")
USUAL_MOUNTS = (
    ("/sys/fs/cgroup", V2),
    ("/sys/fs/cgroup/memory", "memory"),
    ("/sys/fs/cgroup/cpu", "cpu"),
    ("/sys/fs/cgroup/cpu,cpuacct", "cpu"),
)


@dataclass(frozen=True)
class Group:
    """The limits of control groups; infinity for no limit."""

    memory: float = math.inf  # bytes
    processors: float = math.inf  # processor time in seconds per second

    def __and__(self, other: Group) -> Group:
        return Group(min(self.memory, other.memory), min(self.processors, other.processors))

    def finite(self) -> dict[str, object]:
        """Returns the limits that are set, for the log."""
        return {name: value for name, value in vars(self).items() if math.isfinite(value)}


@dataclass(frozen=True)
class Resources:
    """What this process may use."""

    memory: int  # bytes
    processors: int  # that its threads can use at one time


@dataclass(frozen=True)
class Mount:
    """Where a hierarchy of control groups is mounted."""

    hierarchy: str
    root: str  # the group that the mount point shows
    point: str


def resources(root: Path = Path("/")) -> Resources:
    """Reads the machine, the control groups, the limits of the process (`ulimit -v`, `-d`) and its affinity."""
    group = limits_of_groups(root)
    memory = min(_machine_memory(), group.memory, *_process_limits())
    if not math.isfinite(memory):
        memory = UNKNOWN_MEMORY
    return Resources(max(int(memory), LEAST_MEMORY), _processors(group.processors, len(os.sched_getaffinity(0))))


def _processors(quota: float, affinity: int) -> int:
    return affinity if quota >= affinity else max(1, math.ceil(quota))


def _machine_memory() -> float:
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return math.inf
    return memory if memory > 0 else math.inf


def _process_limits() -> Iterator[float]:
    for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(which)
        yield math.inf if soft == resource.RLIM_INFINITY else soft


# -- control groups --


def limits_of_groups(root: Path = Path("/")) -> Group:
    """Reads the limits of this process's groups. `root`: the folder that contains `proc` and `sys`."""
    found = Group()
    for path, hierarchy in folders_of_groups(root):
        found &= _limits_v2(path) if hierarchy == V2 else _limits_v1(path)
    return found


def folders_of_groups(root: Path, controllers: frozenset[str] = CONTROLLERS) -> Iterator[tuple[Path, str]]:
    """Yields the folder and the hierarchy of each group that this process is in, from the root of each hierarchy.

    root         the folder that contains `proc` and `sys`
    controllers  those of version 1 that matter
    """
    own = parse_groups(_read(root / "proc/self/cgroup"), controllers)
    mounts = parse_mounts(_read(root / "proc/self/mountinfo"), controllers)
    if not own or not mounts:  # no /proc
        own = {V2: "/", **dict.fromkeys(CONTROLLERS, "/")}
        mounts = [Mount(name, "/", point) for point, name in USUAL_MOUNTS]
    for folder, hierarchy in _folders(own, mounts):
        yield root / folder.lstrip("/"), hierarchy


def _limits_v2(folder: Path) -> Group:
    """`memory.high` counts as a limit, since the kernel throttles a group that exceeds it."""
    memory = min(parse_bytes(_read(folder / name)) for name in ("memory.max", "memory.high"))
    return Group(memory, parse_quota(_read(folder / "cpu.max")))


def _limits_v1(folder: Path) -> Group:
    quota = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
    return Group(parse_bytes(_read(folder / "memory.limit_in_bytes")), parse_quota(quota))


def _folders(own: dict[str, str], mounts: Iterable[Mount]) -> Iterator[tuple[str, str]]:
    """Yields the folder and the hierarchy of each mounted group that the process is in."""
    mounts = list(mounts)
    for hierarchy, path in own.items():
        here = [mount for mount in mounts if mount.hierarchy == hierarchy]
        names = [(mount, names_below(mount.root, path)) for mount in here]
        if all(below is None for _, below in names):  # then assume that the mounts are of this process's group
            names = [(mount, []) for mount in here]
        for mount, below in names:
            for depth in range(len(below) + 1 if below is not None else 0):
                yield "/".join([mount.point.rstrip("/"), *(below or [])[:depth]]), hierarchy


def names_below(root: str, path: str) -> list[str] | None:
    """Returns the names of groups from a mount's root down to a group; None if the group is not below that root.

    Both paths are relative to the root of the reader's cgroup namespace, so they may begin with `..`. For a root above
    that namespace, the names between are not known, and the list is empty.
    """
    above, below = _parts(root), _parts(path)
    while above and below and above[0] == below[0]:
        del above[0], below[0]
    if ".." in below or any(name != ".." for name in above):
        return None
    return [] if above else below


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def parse_groups(text: str, wanted: frozenset[str] = CONTROLLERS) -> dict[str, str]:
    """Parses /proc/self/cgroup: the process's group in each hierarchy that has limits."""
    found = {}
    for line in text.splitlines():
        number, *rest = line.split(":", 2)
        if len(rest) == 2:
            controllers, path = rest
            names = {V2} if number == "0" and not controllers else wanted & set(controllers.split(","))
            found.update(dict.fromkeys(names, path))
    return found


def parse_mounts(text: str, wanted: frozenset[str] = CONTROLLERS) -> list[Mount]:
    """Parses /proc/self/mountinfo: where those hierarchies are mounted (proc_pid_mountinfo(5))."""
    found = []
    for line in text.splitlines():
        general, _, special = line.partition(" - ")
        fields, kinds = general.split(" "), special.split(" ")
        if len(fields) < 6 or len(kinds) < 3:
            continue
        root, point = (ESCAPE.sub(lambda code: chr(int(code[1], 8)), text) for text in fields[3:5])
        if kinds[0] == "cgroup2":
            found.append(Mount(V2, root, point))
        elif kinds[0] == "cgroup":
            names = wanted & set(kinds[2].split(","))
            found.extend(Mount(name, root, point) for name in names)
    return found


def parse_bytes(text: str) -> float:
    """Parses a memory limit; infinity if there is none, or it is malformed."""
    text = text.strip()
    limit = int(text) if re.fullmatch("[0-9]{1,19}", text) else math.inf
    return limit if limit < NO_LIMIT else math.inf


def parse_quota(text: str) -> float:
    """Parses `QUOTA PERIOD`, in microseconds, to processors; infinity if there is none ("max", -1)."""
    numbers = text.split()
    if len(numbers) != 2 or not all(re.fullmatch("[0-9]{1,19}", number) for number in numbers):
        return math.inf
    quota, period = map(int, numbers)
    return quota / period if quota and period else math.inf


def _read(path: Path) -> str:
    """Returns "" if the file can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError):
        return ""
