"""Addresses to listen on: resolves names, and holds ports until the loops listen there."""

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

from signal_py.base.errors import ConfigError, Fault, Faults
from signal_py.base.hostport import host_port, is_ip, split_address
from signal_py.base.log import event

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 16  # of one engine (the core's limit)
LISTENS = "0A"  # TCP_LISTEN, as in /proc/net/tcp
PORT_TRIES = 20  # free ports tried until all addresses of a name can have the same one
# Errors of an address that this machine does not have, or whose family is disabled.
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


class Address(NamedTuple):
    """An address to bind to."""

    family: int
    host: str  # numeric
    port: int
    scope: int


class Resolved(NamedTuple):
    """The addresses of one HOST:PORT text."""

    text: str
    addresses: list[Address]
    is_name: bool  # the host is a name, so one usable address is enough


def resolve(texts: Iterable[str], named: str) -> list[Resolved]:
    """Resolves HOST:PORT texts, each address once. Blocks on name lookups. Raises ConfigError."""
    known: set[Address] = set()
    resolved: list[Resolved] = []
    faults = Faults()
    for text in texts:
        one = Resolved(text, [], False)
        with faults.of():
            one = _resolve_one(text, named)
        fresh = [address for address in one.addresses if address.port == 0 or address not in known]
        known.update(fresh)
        if fresh:
            resolved.append(Resolved(text, fresh, one.is_name))
    faults.raise_all()
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
    return Resolved(text, list(found), not is_ip(host.partition("%")[0]))


class Probes:
    """Sockets that are bound but don't listen, so that no other program takes the ports before the loops listen.

    The loops bind with SO_REUSEPORT, so a second engine of the same user could share a port unnoticed. A probe first
    binds without that option, which fails if the port is in use, and then sets it for the loops.
    """

    def __init__(
        self, resolved: Iterable[Resolved], named: str, share: str = "", others: Iterable[Address] = ()
    ) -> None:
        """Binds all addresses. With port 0, all addresses of a name get the same port.

        named   how the setting was given, for errors
        share   the setting by which other engines may share the port, for errors; "" if none may
        others  addresses that the engine listens on already

        Raises ConfigError if an address can't be used. Some, but not all, addresses of a name may be missing.
        """
        self._share = share
        self.addresses: list[Address] = []  # in their order, with the chosen port in place of 0
        self.by_text: dict[str, list[Address]] = {}
        self._sockets: list[socket.socket] = []
        self._named = named
        resolved = list(resolved)
        self._given = [*others, *(address for one in resolved for address in one.addresses)]
        faults = Faults()
        try:
            for one in resolved:
                with faults.of():
                    held = len(self.addresses)
                self._hold_resolved(one)
                self.by_text.setdefault(one.text, []).extend(self.addresses[held:])
            faults.raise_all()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the ports up. Call once the loops listen."""
        for held in self._sockets:
            held.close()
        self._sockets.clear()

    def _hold_resolved(self, one: Resolved) -> None:
        """Binds the addresses of one text; for port 0 with another free port if one of them has it in use."""
        tries = PORT_TRIES if one.addresses[0].port == 0 else 1
        while True:
            held = len(self._sockets)
            try:
                return self._hold_all(one)
            except _UnusableError as error:
                tries -= 1
                if not tries or error.reason.errno != errno.EADDRINUSE:
                    text = _problem(error.reason, error.address, self._named, self._share)
                    raise ConfigError(Fault(text, passing=error.reason.errno == errno.EADDRINUSE)) from None
            for spare in self._sockets[held:]:
                spare.close()
            del self._sockets[held:], self.addresses[held:]

    def _hold_all(self, wanted: Resolved) -> None:
        """Binds the addresses of one text, all with the same port. Skips those of a name that the machine has not."""
        missing: list[_UnusableError] = []
        port = 0
        for address in wanted.addresses:
            try:
                port = self._hold(address._replace(port=address.port or port))
            except _UnusableError as error:
                if not wanted.is_name or error.reason.errno not in ABSENT:
                    raise
                missing.append(error)
        if len(missing) == len(wanted.addresses):
            raise missing[0]
        text = "skipped an address of a host name: this machine does not have it"
        for one in missing:
            event(logger, "warning", text, setting=self._named, address=host_port(one.address.host, one.address.port))

    def _hold(self, address: Address) -> int:
        """Binds a probe, and returns its port."""
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
            raise _UnusableError(error, address) from None
        port = int(probe.getsockname()[1])
        self._sockets.append(probe)
        self.addresses.append(address._replace(port=port))
        return port


class _UnusableError(Exception):
    """An address can't be used."""

    def __init__(self, reason: OSError, address: Address) -> None:
        super().__init__(address)
        self.reason = reason
        self.address = address


def where(address: Address) -> tuple[object, ...]:
    """Returns an address in the form that bind() takes."""
    if address.family == socket.AF_INET6:
        return address.host, address.port, 0, address.scope
    return address.host, address.port


def v6only(address: Address, others: Iterable[Address]) -> bool:
    """Returns whether a listener takes IPv6 only: `[::]` accepts IPv4 as well, unless an IPv4 address has its port."""
    ipv4 = any(other.family == socket.AF_INET and other.port == address.port != 0 for other in others)
    return address.family == socket.AF_INET6 and (ipv4 or address.host != "::")


def prepare(listener: socket.socket, address: Address, others: Iterable[Address]) -> None:
    """Sets IPV6_V6ONLY of an IPv6 listener."""
    if address.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only(address, others)))


def _bind(probe: socket.socket, where: tuple[object, ...]) -> None:
    """Binds; with SO_REUSEADDR only if it is needed, since connections of an earlier engine may linger."""
    try:
        probe.bind(where)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)


def _in_use(address: Address, named: str, share: str) -> str:
    """Returns the error about a port that is in use."""
    where = host_port(address.host, address.port)
    if held_here(address.port):
        return (
            f"{named} {where} is in use by another engine or server of this process: "
            "choose another port (0 picks a free one)."
        )
    if share:
        return (
            f"{named} {where} is in use by a program that does not share it, or that another user runs: "
            f"set {share} in all programs that listen there, or choose another port."
        )
    return (
        f"{named} {where} is in use by another program: stop that program, or choose another port (0 picks a free one)."
    )


def held_here(port: int) -> bool:
    """Returns whether a socket of this process listens on the port; False without /proc."""
    ours: set[str] = set()
    for table in glob.iglob("/proc/self/task/*/fd"):  # loops may have tables of their own
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
    except OSError:  # the thread has just ended
        return []


def _problem(error: OSError, address: Address, named: str, share: str) -> str:
    """Returns the error about an address that can't be bound."""
    if error.errno == errno.EADDRINUSE:
        return _in_use(address, named, share)
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
