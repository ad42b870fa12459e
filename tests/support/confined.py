"""Runs a command under the system call filters of a systemd unit: `python confined.py UNIT COMMAND…`.

A call that SystemCallFilter does not allow kills the process, whatever SystemCallErrorNumber says, so that a test sees
it. Needs pyseccomp, and systemd-analyze for the names of the sets."""

import errno
import functools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pyseccomp as seccomp

NAMESPACES = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)  # CLONE_NEW…
PROT_WRITE, PROT_EXEC = 2, 4
FAMILIES = 64  # more than there are


def settings(unit: Path) -> dict[str, str]:
    """Those of all sections. A name that is repeated has its last value."""
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE))


@functools.cache
def members(group: str) -> frozenset[str]:
    """The system calls of a set, such as @system-service, as this systemd knows it."""
    command = ["systemd-analyze", "syscall-filter", "--no-pager", group]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"^ +([@\w-]+)$", text, re.MULTILINE))
    inner = [members(name) for name in names if name.startswith("@")]
    return frozenset(name for name in names if not name.startswith("@")).union(*inner)


def allowed(unit: Path) -> seccomp.SyscallFilter:
    """SystemCallFilter."""
    made = seccomp.SyscallFilter(seccomp.KILL_PROCESS)
    default = members("@default")  # always allowed
    for name in default.union(*(members(each) for each in settings(unit)["SystemCallFilter"].split())):
        if seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) >= 0:
            made.add_rule(seccomp.ALLOW, name)
    return made


def restricted(unit: Path) -> seccomp.SyscallFilter:
    """RestrictNamespaces, RestrictAddressFamilies and MemoryDenyWriteExecute, as seccomp of systemd does them."""
    given = settings(unit)
    assert given["RestrictNamespaces"] == given["MemoryDenyWriteExecute"] == "yes"
    made = seccomp.SyscallFilter(seccomp.ALLOW)
    refused = seccomp.ERRNO(errno.EPERM)
    for flag in NAMESPACES:
        for name in ("clone", "unshare"):
            made.add_rule(refused, name, seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    made.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    families = {int(getattr(socket, name)) for name in given["RestrictAddressFamilies"].split()}
    for family in set(range(FAMILIES)) - families:
        made.add_rule(seccomp.ERRNO(errno.EAFNOSUPPORT), "socket", seccomp.Arg(0, seccomp.EQ, family))
    both = PROT_WRITE | PROT_EXEC
    made.add_rule(refused, "mmap", seccomp.Arg(2, seccomp.MASKED_EQ, both, both))
    made.add_rule(refused, "mprotect", seccomp.Arg(2, seccomp.MASKED_EQ, PROT_EXEC, PROT_EXEC))
    return made


if __name__ == "__main__":
    filters = restricted(Path(sys.argv[1])), allowed(Path(sys.argv[1]))
    for one in filters:  # the one that forbids seccomp itself is the last
        one.load()
    os.execvp(sys.argv[2], sys.argv[2:])
