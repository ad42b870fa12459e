"""NATS servers: those that were named, those that the cluster tells of, and which to dial next. No I/O."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from signal_py.base.hostport import is_ip
from signal_py.config.nats_url import Server, parse_url

FIRST_DELAY = 0.05  # seconds; bound of the first random delay
LAST_DELAY = 5.0  # seconds; no delay is longer


class Pool:
    """Decides which servers may be dialled now, and how long to wait before.

    A round goes once through all servers in random order. The delay before the next is drawn from 0 up to a bound that
    doubles with each round that failed, so that the nodes of a cluster don't come back all at once. A connection that
    did not last counts as a round that failed: a server that takes us only to end it is not asked again at once.
    """

    def __init__(self, named: Sequence[Server], rng: random.Random | None = None) -> None:
        self._named = tuple(named)
        self._told: tuple[Server, ...] = ()
        self._left: list[Server] | None = None  # of the round; None: it has not begun
        self._failed_rounds = 0
        self._random = rng or random.Random()

    @property
    def servers(self) -> tuple[Server, ...]:
        return self._named + self._told

    @property
    def failed_rounds(self) -> int:
        """Rounds since the last success in which no server answered."""
        return self._failed_rounds

    def left(self) -> tuple[Server, ...]:
        """Those that the round still has, in the order in which they are tried; none at its end."""
        if self._left is None:
            self._left = list(self.servers)
            self._random.shuffle(self._left)
        return tuple(self._left)

    def drop(self, server: Server) -> None:
        """It can't be had in this round."""
        if self._left is not None and server in self._left:
            self._left.remove(server)

    def failed(self) -> None:
        """The round is over: none could be had, or the one that was did not last."""
        self._left = None
        self._failed_rounds += 1

    def succeeded(self) -> None:
        """One was had, and lasted."""
        self._left = None
        self._failed_rounds = 0

    def delay(self) -> float:
        """Seconds to wait before the next round."""
        bound = min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(self._failed_rounds, 30))
        return self._random.uniform(0.0, bound)

    def learn(self, connect_urls: Iterable[str]) -> int:
        """Takes the `connect_urls` of an INFO, which replace those learnt before; returns how many are new.

        They carry no credentials and ask for no TLS: what the first server that was named has is used, its name for
        their certificates too where they are told of by address.
        """
        first = self._named[0]
        places = {(server.host, server.port) for server in self._named}
        told: list[Server] = []
        for text in connect_urls:
            try:
                server = parse_url(text)
            except ValueError:
                continue
            if (server.host, server.port) not in places:
                places.add((server.host, server.port))
                name = first.tls_name or first.host
                name = name if is_ip(server.host) else ""
                told.append(replace(first, host=server.host, port=server.port, tls_name=name))
        new = len(set(told) - set(self._told))
        self._told = tuple(told)
        return new
