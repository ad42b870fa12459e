"""Addresses to listen on: names are resolved, ports are chosen and held until the loops listen there."""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from signal_py.base.errors import ConfigError
from signal_py.base.hostport import host_port, is_ip, split_address
from signal_py.base.log import event

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 16  # of one engine; the core's bound
LISTENS = "0A"  # a socket's state in /proc/net/tcp
PORT_TRIES = 20  # of free ports, until all addresses of a name have the same one
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)  # what is not of this machine, or off


class Address(NamedTuple):
    """What a socket is bound to."""

    family: int
    host: str  # numeric
    port: int
    scope: int


class Resolved(NamedTuple):
    """What one HOST:PORT text stands for."""

    addresses: list[Address]
    is_name: bool  # its host is no number: one of its addresses is enough


def resolve(texts: Iterable[str], named: str) -> list[Resolved]:
    """All addresses that HOST:PORT texts stand for, each once. Blocks while it asks for names. Raises ConfigError."""
    known: set[Address] = set()
    resolved: list[Resolved] = []
    for text in texts:
        one = _resolve_one(text, named)
        fresh = [address for address in one.addresses if address.port == 0 or address not in known]
        known.update(fresh)
        if fresh:
            resolved.append(Resolved(fresh, one.is_name))
    found = sum(len(one.addresses) for one in resolved)
    if found > MAX_ADDRESSES:
        raise ConfigError(f"{named} resolves to {found} addresses: use at most {MAX_ADDRESSES}.")
    return resolved


def _resolve_one(text: str, named: str) -> Resolved:
    host, port = split_address(text)
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{named} {text} has a host name that can't be resolved ({reason}): "
            "use an address of this machine, such as 127.0.0.1."
        ) from None
    found: dict[Address, None] = {}  # in their order
    for family, _, _, _, where in answers:
        if family in (socket.AF_INET, socket.AF_INET6):
            scope = where[3] if len(where) == 4 else 0
            found[Address(int(family), str(where[0]).partition("%")[0], int(where[1]), int(scope))] = None
    return Resolved(list(found), not is_ip(host.partition("%")[0]))


class Probes:
    """Sockets that hold ports, bound but not listening, so that no other program takes them meanwhile.

    The loops bind with SO_REUSEPORT, which would let a second engine of the same user share a port unseen. A
    probe binds without it first, and so finds out; it takes the option afterwards, to let the loops in.
    """

    def __init__(self, resolved: Iterable[Resolved], named: str, share: str = "") -> None:
        """`share`: what others set, too, who may have it already; "": nobody may. With port 0 all addresses of a name
        get the same port. Raises ConfigError where an address can't be had; one of several of a name may be missing."""
        self._share = share
        self.addresses: list[Address] = []  # as given, port 0 replaced by the one that was chosen
        self._sockets: list[socket.socket] = []
        self._named = named
        resolved = list(resolved)
        self._given = [address for one in resolved for address in one.addresses]
        try:
            for one in resolved:
                self._hold_resolved(one)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for held in self._sockets:
            held.close()
        self._sockets.clear()

    def _hold_resolved(self, one: Resolved) -> None:
        tries = PORT_TRIES if one.addresses[0].port == 0 else 1
        while True:
            held = len(self._sockets)
            try:
                return self._hold_all(one)
            except _CanNotError as error:
                tries -= 1
                if not tries or error.reason.errno != errno.EADDRINUSE:
                    raise ConfigError(_why_not(error.reason, error.address, self._named, self._share)) from None
            for spare in self._sockets[held:]:
                spare.close()
            del self._sockets[held:], self.addresses[held:]

    def _hold_all(self, wanted: Resolved) -> None:
        missing: list[_CanNotError] = []
        port = 0
        for address in wanted.addresses:
            try:
                port = self._hold(address._replace(port=address.port or port))
            except _CanNotError as error:
                if not wanted.is_name or error.reason.errno not in ABSENT:
                    raise
                missing.append(error)
        if len(missing) == len(wanted.addresses):
            raise missing[0]
        text = "skipped an address of a host name: this machine does not have it"
        for one in missing:
            place = host_port(one.address.host, one.address.port)
            event(logger, "warning", text, setting=self._named, address=place)

    def _hold(self, address: Address) -> int:
        """The port that it has."""
        probe = None
        try:
            probe = socket.socket(address.family, socket.SOCK_STREAM)
            prepare(probe, address, self._given)
            if self._share:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _bind(probe, where(address))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            if probe is not None:
                probe.close()
            raise _CanNotError(error, address) from None
        port = int(probe.getsockname()[1])
        self._sockets.append(probe)
        self.addresses.append(address._replace(port=port))
        return port


class _CanNotError(Exception):
    """An address can't be had."""

    def __init__(self, reason: OSError, address: Address) -> None:
        super().__init__(address)
        self.reason = reason
        self.address = address


def where(address: Address) -> tuple[object, ...]:
    """As bind takes it."""
    if address.family == socket.AF_INET6:
        return address.host, address.port, 0, address.scope
    return address.host, address.port


def prepare(listener: socket.socket, address: Address, others: Iterable[Address]) -> None:
    """`[::]` takes IPv4, too, unless an address of IPv4 with the same port is among the others (as in thread.pxd)."""
    if address.family == socket.AF_INET6:
        ipv4 = any(other.family == socket.AF_INET and other.port == address.port != 0 for other in others)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(ipv4 or address.host != "::"))


def _bind(probe: socket.socket, where: tuple[object, ...]) -> None:
    """Binds alone; where connections of a former engine linger, as the second of those who may."""
    try:
        probe.bind(where)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)


def _who_has(address: Address, named: str, share: str) -> str:
    where = host_port(address.host, address.port)
    if held_here(address.port):
        return (
            f"{named} {where} is in use by another engine or server of this process: "
            "choose another port (0 picks a free one)."
        )
    if share:
        return (
            f"{named} {where} is in use by a program that doesn't share it, or is another user's: "
            f"have all that listen there set {share}, or choose another port."
        )
    return (
        f"{named} {where} is in use by another program: stop that program, or choose another port (0 picks a free one)."
    )


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


def _why_not(error: OSError, address: Address, named: str, share: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return _who_has(address, named, share)
    where = host_port(address.host, address.port)
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{named} {where} is not allowed for this user: choose a port from 1024 up, or "
            "get the capability CAP_NET_BIND_SERVICE."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{named} {where} is not an address of this machine: use one of its addresses, 127.0.0.1 or 0.0.0.0."
    if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
        return (
            f"{named} {where} belongs to an address family that this machine has disabled (IPv6?): use an IPv4 address."
        )
    return f"{named} {where} can't be listened on ({os.strerror(error.errno or 0)}): choose another address."
