"""Addresses to listen on: names are resolved, ports are chosen and held until the loops listen there."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from types import TracebackType

from signal_py.address import host_port, split_address
from signal_py.errors import ConfigError

Address = tuple[int, str, int, int]  # family, numeric host, port, scope id
MAX_ADDRESSES = 16  # of one engine; the core's bound


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

    def __init__(self, addresses: Iterable[Address], named: str) -> None:
        """Raises ConfigError where an address can't be had."""
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
            _bind(probe, where)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
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


def _why_not(error: OSError, where: str, named: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"{named} {where} is in use by another program: "
            "stop that one, or choose another port (0 takes a free one)."
        )
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
