"""Addresses to listen on: names are resolved, ports are chosen and held until the loops listen there."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from signal_py.address import host_port, split_address
from signal_py.errors import ConfigError

Address = tuple[int, str, int, int]  # family, numeric host, port, scope id
MAX_ADDRESSES = 16  # of one engine; the core's bound
LISTENS = "0A"  # a socket's state in /proc/net/tcp


def resolve(texts: Iterable[str], named: str) -> list[Address]:
    """All addresses that HOST:PORT texts stand for. Blocks while it asks for names. Raises ConfigError."""
    found: list[Address] = []
    for text in texts:
        for address in _resolve_one(text, named):
            if address[2] == 0 or address not in found:
                found.append(address)
    if len(found) > MAX_ADDRESSES:
        raise ConfigError(f"{named} stands for {len(found)} addresses: name at most {MAX_ADDRESSES}.")
    return found


def _resolve_one(text: str, named: str) -> list[Address]:
    host, port = split_address(text)
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{named} {text} names a host that is not known here ({reason}): "
            "use an address of this machine, such as 127.0.0.1."
        ) from None
    found: list[Address] = []
    for family, _, _, _, where in answers:
        if family in (socket.AF_INET, socket.AF_INET6):
            scope = where[3] if len(where) == 4 else 0
            address = (int(family), str(where[0]).partition("%")[0], int(where[1]), int(scope))
            if address not in found:
                found.append(address)
    return found


class Probes:
    """Sockets that hold ports, bound but not listening, so that no other program takes them meanwhile.

    The loops bind with SO_REUSEPORT, which would let a second engine of the same user share a port unseen. A
    probe binds without it first, and so finds out; it takes the option afterwards, to let the loops in.
    """

    def __init__(self, addresses: Iterable[Address], named: str, share: str = "") -> None:
        """`share`: what others set, too, who may have it already; "": nobody may. Raises ConfigError where an address
        can't be had."""
        self._share = share
        self.addresses: list[Address] = []  # as given, port 0 replaced by the one that was chosen
        self._sockets: list[socket.socket] = []
        try:
            for address in addresses:
                self._hold(address, named)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Probes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for held in self._sockets:
            held.close()
        self._sockets.clear()

    def _hold(self, address: Address, named: str) -> None:
        family, host, port, scope = address
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
            self._sockets.append(probe)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            where = (host, port, 0, scope) if family == socket.AF_INET6 else (host, port)
            if self._share:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _bind(probe, where)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(_who_has(host, port, named, self._share)) from None
            raise ConfigError(_why_not(error, host_port(host, port), named)) from None
        self.addresses.append((family, host, int(probe.getsockname()[1]), scope))


def _bind(probe: socket.socket, where: tuple[object, ...]) -> None:
    """Binds alone; where connections of a former engine linger, as the second of those who may."""
    try:
        probe.bind(where)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)


def _who_has(host: str, port: int, named: str, share: str) -> str:
    where = host_port(host, port)
    if held_here(port):
        return (
            f"{named} {where} is in use by this very process, another engine or server of it: "
            "choose another port (0 takes a free one)."
        )
    if share:
        return (
            f"{named} {where} is in use by a program that doesn't share it, or is another user's: "
            f"have all that listen there set {share}, or choose another port."
        )
    return f"{named} {where} is in use by another program: stop that one, or choose another port (0 takes a free one)."


def held_here(port: int) -> bool:
    """Whether a socket of this process listens on the port; False where the system doesn't tell."""
    ours: set[str] = set()
    for table in glob.iglob("/proc/self/task/*/fd"):  # a loop has a table of its own
        for name in _entries(table):
            with contextlib.suppress(OSError):
                ours.add(os.readlink(f"{table}/{name}"))
    for family in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/self/net/{family}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                here = fields[1].rpartition(":")[2] == f"{port:04X}" and fields[3] == LISTENS
                if here and f"socket:[{fields[9]}]" in ours:
                    return True
    return False


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # of a thread that has just ended
        return []


def _why_not(error: OSError, where: str, named: str) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{named} {where} is not allowed to this user: choose a port from 1024 up, or ask for the right."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{named} {where} is no address of this machine: use one that it has, 127.0.0.1 or 0.0.0.0."
    if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
        return (
            f"{named} {where} is of a kind that this machine has switched off (IPv6?): use an IPv4 address."
        )
    return f"{named} {where} can't be listened on ({os.strerror(error.errno or 0)}): choose another address."
