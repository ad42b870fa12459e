"""The NATS servers that are configured or reported by the cluster, and which to dial next. No I/O."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from signal_py.base.hostport import is_ip
from signal_py.config.nats_url import Server, parse_url

FIRST_DELAY = 0.05  # seconds; upper bound of the first random delay
LAST_DELAY = 5.0  # seconds; no delay is longer


class Pool:
    """Decides which servers may be dialled, and when.

    A round tries each server once, in random order. The delay before the next round is random, with an upper bound that
    doubles with each failed round, so that the nodes of a cluster don't reconnect all at once. A connection that did
    not last counts as a failed round, so that a server that ends it at once is not dialled again at once.
    """

    def __init__(self, named: Sequence[Server], rng: random.Random | None = None) -> None:
        self.named = tuple(named)  # those that are configured
        self._reported: tuple[Server, ...] = ()
        self._left: list[Server] | None = None  # in this round; None: no round has begun
        self._failed_rounds = 0
        self._random = rng or random.Random()

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers: those that are configured, and then those that the cluster reported."""
        return self.named + self._reported

    @property
    def failed_rounds(self) -> int:
        """The number of failed rounds since the last success."""
        return self._failed_rounds

    def left(self) -> tuple[Server, ...]:
        """Returns the servers left in this round, in their order; none at its end."""
        if self._left is None:
            self._left = list(self.servers)
            self._random.shuffle(self._left)
        return tuple(self._left)

    def drop(self, server: Server) -> None:
        """Removes a server from this round."""
        if self._left is not None and server in self._left:
            self._left.remove(server)

    def failed(self) -> None:
        """Ends a round in which no server was reached, or whose connection did not last."""
        self._left = None
        self._failed_rounds += 1

    def succeeded(self) -> None:
        """Ends a round with a connection that lasted."""
        self._left = None
        self._failed_rounds = 0

    def delay(self) -> float:
        """Returns the seconds until the next round."""
        bound = min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(self._failed_rounds, 30))
        return self._random.uniform(0.0, bound)

    def learn(self, connect_urls: Iterable[str]) -> int:
        """Takes the `connect_urls` of an INFO, which replace the previous ones. Returns how many are new.

        They have neither credentials nor TLS, so those of the first configured server are used. The certificate of a
        server that is reported by address must be for the name of that first server.
        """
        first = self.named[0]
        known = {(server.host, server.port) for server in self.named}
        reported: list[Server] = []
        for text in connect_urls:
            try:
                server = parse_url(text)
            except ValueError:
                continue
            if (server.host, server.port) not in known:
                known.add((server.host, server.port))
                name = (first.tls_name or first.host) if is_ip(server.host) else ""
                reported.append(replace(first, host=server.host, port=server.port, tls_name=name))
        new = len(set(reported) - set(self._reported))
        self._reported = tuple(reported)
        return new
