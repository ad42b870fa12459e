"""Sockets that the process got from its parent: systemd's socket activation (sd_listen_fds(3)).

The variables LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES describe the descriptors from 3 up. A setting names them as
`fd:NAME`; several may have the same name.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from types import MappingProxyType

from signal_py.base.errors import ConfigError, Fault
from signal_py.config.settings import Config

FIRST = 3  # the first descriptor (SD_LISTEN_FDS_START)
ADMIN = "admin"  # the name of sockets for the admin server
UNKNOWN = "unknown"  # the name of a descriptor without one, as in systemd

_kept: dict[str, list[int]] = {}  # descriptors by name


def collect() -> None:
    """Takes the descriptors over. Children do not inherit them or the variables. No effect the second time."""
    given = {name: os.environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")}
    if given["LISTEN_PID"] != str(os.getpid()) or not given["LISTEN_FDS"].isdecimal():
        return
    names = given["LISTEN_FDNAMES"].split(":") if given["LISTEN_FDNAMES"] else []
    for index in range(int(given["LISTEN_FDS"])):
        fd = FIRST + index
        try:
            os.set_inheritable(fd, False)
        except OSError:
            raise ConfigError(
                f"LISTEN_FDS is {given['LISTEN_FDS']}, but descriptor {fd} is not open: let systemd set the variable."
            ) from None
        _kept.setdefault(names[index] if index < len(names) and names[index] else UNKNOWN, []).append(fd)


def names() -> list[str]:
    """The names of the sockets that were passed, each once."""
    collect()
    return list(_kept)


def take(name: str, named: str) -> list[socket.socket]:
    """Returns duplicates of the sockets of this name, which listen already. Raises ConfigError.

    named  how the setting was given, for errors
    """
    collect()
    found = _kept.get(name)
    if not found:
        known = f"known: {', '.join(_kept)}" if _kept else "none was passed"
        text = (
            f"{named} fd:{name} is not a socket that systemd passed to the process ({known}): "
            f"set FileDescriptorName={name} in the .socket unit, or give an address."
        )
        raise ConfigError(Fault(text, passing=not _kept))  # 'check' in a shell has no sockets of the service
    taken = []
    for fd in found:
        one = _listening(fd)
        if one is None:
            raise ConfigError(
                f"{named} fd:{name} is descriptor {fd}, which is not a listening stream socket: "
                "use ListenStream= and Accept=no in the .socket unit."
            )
        taken.append(one)
    return taken


def _listening(fd: int) -> socket.socket | None:
    """Returns a duplicate of a listening stream socket; None if the descriptor is something else."""
    try:
        one = socket.socket(fileno=os.dup(fd))
    except OSError:
        return None
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    try:
        listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = 0
    if one.family in families and one.type == socket.SOCK_STREAM and listens:
        return one
    one.close()
    return None


def with_inherited(config: Config) -> Config:
    """Returns the settings with the sockets that were passed, in place of `listen` and `admin` where they were not
    given. Sockets named `admin` are for the admin server, all others for clients."""
    passed = names()
    clients = tuple(f"fd:{name}" for name in passed if name != ADMIN)
    more: dict[str, object] = {}
    if clients and "listen" not in config.sources:
        more["listen"] = clients
    if ADMIN in passed and "admin" not in config.sources:
        more["admin"] = f"fd:{ADMIN}"
    if not more:
        return config
    sources = MappingProxyType({**config.sources, **dict.fromkeys(more, "LISTEN_FDS")})
    return replace(config, sources=sources, **more)  # type: ignore[arg-type]
