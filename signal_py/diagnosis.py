"""What keeps an engine on this machine from working, or makes it slow, beside limits: for the command `doctor`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from signal_py.base.hostport import host_port
from signal_py.capacity import THREADS, Machine, Plan
from signal_py.config.nats_url import Server

FAULT, NOTE, OK = "fault", "note", "ok"
LIBRARIES = ("libssl.so.3", "libssl.so.1.1", "libssl.so")  # as se_tls.h
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "pit")  # reading them is a system call
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
TIMEX = 1024  # bytes; more than struct timex has
NATS_TIMEOUT = 2.0  # seconds to connect to a NATS server


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    level  FAULT: the engine does not work. NOTE: something to know. OK
    fix    what to do; "" if nothing
    """

    name: str
    level: str
    text: str
    fix: str = ""


def diagnose(machine: Machine, plan: Plan, servers: list[Server], root: Path = Path("/")) -> list[Finding]:
    """Checks the machine. Blocks for up to NATS_TIMEOUT for each NATS server. `root`: contains `proc` and `sys`."""
    return [
        *_system_calls(machine),
        *_threads(machine, plan),
        *_networks(),
        *_files(root),
        *_clocks(root),
        *_libraries(),
        *_nats(servers),
    ]


def _system_calls(machine: Machine) -> Iterator[Finding]:
    attempts: tuple[tuple[str, Callable[[], object]], ...] = (
        ("epoll", lambda: select.epoll().close()),
        ("eventfd", lambda: os.close(os.eventfd(0))),
    )
    for name, attempt in attempts:
        try:
            attempt()
            yield Finding(name, OK, "works")
        except OSError as error:
            fix = "allow it in the seccomp profile of the container or unit"
            yield Finding(name, FAULT, f"is refused ({error.strerror}), and the engine can't work without it", fix)
    if machine.own_tables:
        yield Finding("descriptor tables", OK, "each loop has its own (close_range)")
    else:
        text = "close_range is refused, so all loops share the descriptors of one table"
        yield Finding("descriptor tables", NOTE, text, "allow close_range in the seccomp profile, or use Linux 5.9")


def _threads(machine: Machine, plan: Plan) -> Iterator[Finding]:
    needed = plan.loops + THREADS
    for bound in machine.tasks:
        if bound.left < needed:
            text = f"{bound.name} allows {bound.left:.0f} more, and the engine needs {needed}"
            least = bound.used + needed
            fix = f"echo {least:.0f} > {bound.where}" if bound.where else f"ulimit -u {least:.0f}"
            yield Finding("threads", FAULT, text, f"{fix}, or use fewer --loops")
            return
    yield Finding("threads", OK, f"{needed} are allowed")


def _networks() -> Iterator[Finding]:
    for name, family, level in (("IPv4", socket.AF_INET, FAULT), ("IPv6", socket.AF_INET6, NOTE)):
        wrong = try_loopback(family)
        if wrong:
            fix = "ip link set lo up" if level == FAULT else ""
            yield Finding(name, level, f"loopback does not work ({wrong})", fix)
        else:
            yield Finding(name, OK, "loopback works")


def try_loopback(family: int) -> str:
    """Returns why a connection over loopback is not possible; "" if it is."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener, socket.socket(family, socket.SOCK_STREAM) as client:
            listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            listener.listen()
            client.settimeout(1)
            client.connect(listener.getsockname())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _files(root: Path) -> Iterator[Finding]:
    if (root / "proc/self/status").exists():
        yield Finding("/proc", OK, "is mounted")
    else:
        text = "is not mounted: limits are not known here, and /stats has no descriptors"
        yield Finding("/proc", NOTE, text, "mount -t proc proc /proc")
    pages = re.search(r"\[(\w+)\]", _text(root / "sys/kernel/mm/transparent_hugepage/enabled"))
    if pages and pages[1] == "always":
        text = "always: the kernel gives memory in pieces of 2 MiB, of which the engine may use little"
        yield Finding("huge pages", NOTE, text, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
    else:
        yield Finding("huge pages", OK, pages[1] if pages else "none")


def _clocks(root: Path) -> Iterator[Finding]:
    source = _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
    if source in SLOW_CLOCKS:
        yield Finding("clock", NOTE, f"{source} needs a system call for each look at it", "boot with clocksource=tsc")
    else:
        yield Finding("clock", OK, source or "unknown")
    if is_synchronized() is False:
        text = "is not synchronized, and expiries of tokens depend on it"
        yield Finding("time of day", NOTE, text, "run chronyd or systemd-timesyncd")
    else:
        yield Finding("time of day", OK, "is synchronized, or the kernel does not tell")


def is_synchronized() -> bool | None:
    """Returns whether the kernel's clock is synchronized (adjtimex(2)); None if that is not known."""
    with contextlib.suppress(AttributeError, OSError):
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX))
        return None if state < 0 else state != TIME_ERROR
    return None


def _libraries() -> Iterator[Finding]:
    version = openssl_version()
    if version:
        yield Finding("OpenSSL", OK, version)
    else:
        text = "is not installed, and TLS to NATS needs it"
        yield Finding("OpenSSL", NOTE, text, "apt-get install openssl (Debian)")
    machine = platform.machine()
    used = "SSE2" if machine == "x86_64" else "no vector instructions"
    yield Finding("processor", OK, f"{machine}, {used}")


def openssl_version() -> str:
    """Returns the version of the OpenSSL that the engine would load; "" if there is none."""
    for name in LIBRARIES:
        with contextlib.suppress(OSError, AttributeError):
            version = ctypes.CDLL(name).OpenSSL_version
            version.restype = ctypes.c_char_p
            return str(version(0).decode())
    return ""


def _nats(servers: list[Server]) -> Iterator[Finding]:
    missing = []
    for server in servers:
        try:
            socket.create_connection((server.host, server.port), NATS_TIMEOUT).close()
            yield Finding("NATS", OK, f"{server.where} accepts connections")
        except OSError as error:
            missing.append(f"{host_port(server.host, server.port)} ({error.strerror or error})")
    if missing:
        level = FAULT if len(missing) == len(servers) else NOTE
        yield Finding("NATS", level, f"can't be reached: {', '.join(missing)}", "start it, or correct --nats")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
