"""The listeners of an engine: addresses bound before the loops start, then opened and closed while they run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from signal_py import inherited
from signal_py.base.errors import ConfigError
from signal_py.base.hostport import host_port
from signal_py.config.settings import Config
from signal_py.listen import Address, Probes, resolve, v6only
from signal_py.unix_socket import UnixSocket

if TYPE_CHECKING:
    from signal_core.engine import Core


@dataclass
class Place:
    """One address that an engine listens on, or is about to.

    text       what the setting says
    address    a unix socket's host is its name, such as `unix:/run/ws.sock`
    shared     the socket that all loops accept from, which listens already; None: each loop binds its own
    inherited  it outlives the engine
    file       the unix socket that this process has made
    number     the core's number of the listener
    """

    text: str
    address: Address
    shared: socket.socket | None = None
    inherited: bool = False
    file: UnixSocket | None = None
    number: int = -1

    def close(self) -> None:
        """Closes what this process has of it."""
        if self.shared is not None:
            self.shared.close()
        if self.file is not None:
            self.file.close()


class Held:
    """The addresses of a setting, all bound: no other program gets them. TCP sockets do not listen yet."""

    def __init__(
        self, texts: Sequence[str], named: str, share: str = "", mode: int = 0o660, others: Iterable[Address] = ()
    ) -> None:
        """Binds all, or raises ConfigError.

        texts   HOST:PORT, unix:/PATH, unix:@NAME, or fd:NAME for sockets that the process was started with
        named   how the setting was given, for errors
        share   the setting by which other engines may share a port, for errors; "" if none may
        mode    permissions of unix sockets' files
        others  addresses that are listened on already
        """
        self.places: list[Place] = []
        self._mode = mode
        self._named = named
        plain = [text for text in texts if not text.startswith(("unix:", "fd:"))]
        self.probes = Probes(resolve(plain, named), named, share, others)
        try:
            for text in dict.fromkeys(texts):
                self.places += self._special(text) if text not in plain else self._bound(text)
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, config: Config, name: str, texts: Sequence[str] | None = None, others: Iterable[Address] = ()) -> Held:
        """Binds the addresses of the setting `listen` or `admin`, or only `texts` of them."""
        given = getattr(config, name)
        shared = name == "listen" and config.reuse_port == "on"
        share = config.written("reuse-port", "on") if shared else ""
        mode = int(config.listen_mode, 8)
        if texts is None:
            texts = given if isinstance(given, tuple) else (given,)
        return cls(texts, config.named(name), share, mode, others)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives up all that nobody has taken over."""
        self.probes.close()
        for place in self.places:
            place.close()
        self.places = []

    def release(self) -> list[Place]:
        """Hands the places over to the caller, once the ports need not be held any more."""
        places, self.places = self.places, []
        self.probes.close()
        return places

    def _bound(self, text: str) -> list[Place]:
        return [Place(text, address) for address in self.probes.by_text.get(text, ())]

    def _special(self, text: str) -> list[Place]:
        if text.startswith("unix:"):
            made = UnixSocket(text, self._mode, self._named)
            return [Place(text, Address(int(socket.AF_UNIX), text, 0, 0), made.socket, file=made)]
        taken = inherited.take(text.removeprefix("fd:"), self._named)
        return [Place(text, _address_of(one), one, inherited=True) for one in taken]


def _address_of(listening: socket.socket) -> Address:
    """Returns the address of a socket that was passed to the process."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        text = os.fsdecode(name)
        return Address(int(socket.AF_UNIX), "unix:" + (f"@{text[1:]}" if text.startswith("\0") else text), 0, 0)
    return Address(int(listening.family), name[0].partition("%")[0], name[1], name[3] if len(name) == 4 else 0)


class Listeners:
    """What an engine listens on. Not thread-safe, except `addresses`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._held: Held | None = None
        self._open: list[Place] = []

    @property
    def addresses(self) -> list[Address]:
        """The addresses that clients can connect to, in the order of the setting."""
        return [place.address for place in self._open]

    def hold(self, texts: Sequence[str]) -> None:
        """Binds the addresses that `open` will listen on. Raises ConfigError."""
        self._held = Held.of(self._config, "listen", texts, self.addresses)

    def open(self, core: Core) -> None:
        """Has the loops listen on what is held. All or nothing. Raises ConfigError, CoreError."""
        held, self._held = self._held, None
        assert held is not None
        added: list[Place] = []
        try:
            for place in held.places:
                self._add(core, place, [one.address for one in held.places])
                added.append(place)
        except BaseException:
            for place in added:
                core.listener_remove(place.number)
            held.close()
            raise
        self._open = [*self._open, *held.release()]

    def change(self, core: Core, config: Config) -> None:
        """Listens on the addresses of these settings: on new ones in addition, then no more on those that are missing.
        Open connections stay. If one can't be added nothing changes, and ConfigError or CoreError is raised."""
        before, self._config = self._config, config
        known = {place.text for place in self._open}
        fresh = [text for text in config.listen if text not in known]
        try:
            if fresh:
                self.hold(fresh)
                self.open(core)
        except BaseException:
            self._config = before
            raise
        gone = [place for place in self._open if place.text not in config.listen]
        self._open = [place for place in self._open if place.text in config.listen]
        for place in gone:
            core.listener_remove(place.number)
            place.close()

    def close(self) -> None:
        """Gives up what this process holds, after the loops have ended."""
        if self._held is not None:
            self._held.close()
        for place in self._open:
            place.close()
        self._open = []

    def _add(self, core: Core, place: Place, others: list[Address]) -> None:
        try:
            if place.shared is not None:
                place.number = core.listener_share(place.shared.fileno(), place.inherited)
                return
            address = place.address
            place.number = core.listener_add(*address, v6only(address, [*others, *self.addresses]))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            where = host_port(place.address.host, place.address.port)
            text = f"{self._config.named('listen')} {where} can't be listened on ({reason}): choose another address."
            raise ConfigError(text) from None
