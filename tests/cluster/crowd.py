"""The members of rooms as a watcher knows them: a set for each room, emptied by the OK to its SUB."""

import contextlib
import time
from collections import defaultdict

from peers import Peer, Received
from wire import fresh


class Crowd:
    """The members that a watcher knows. Without a room, methods mean the first that it asked for."""

    def __init__(self, peer: Peer, *rooms: str) -> None:
        self.peer = peer
        self.rooms: dict[str, set[str]] = defaultdict(set)
        self.received: list[Received] = []
        for room in rooms:
            self.ask(room)

    @property
    def members(self) -> set[str]:
        return next(iter(self.rooms.values()))

    def take(self, got: Received) -> None:
        self.received.append(got)
        if got.verb not in ("MEMBERS", "JOIN", "LEAVE"):
            return
        room = self.rooms[got.words[0]]
        if got.verb == "MEMBERS":
            room |= {line.split(" ")[0] for line in (got.payload or b"").decode().split("\n") if line}
        elif got.verb == "JOIN":
            room.add(got.words[1])
        else:
            gone = got.words[1]
            room -= {peer for peer in room if peer == gone or (gone[-1] == "*" and peer.startswith(gone[:-1]))}

    def ask(self, room: str) -> "Crowd":
        """Sends SUB with presence; what came before its OK no longer counts."""
        ref = fresh("s")
        self.peer.say(f"SUB {room} presence ref={ref}")
        assert self.peer.answer_to(ref) == "ok"
        self.take_early()
        self.rooms[room] = set()
        return self

    def take_early(self) -> None:
        """Takes the messages that came before an answer."""
        for got in self.peer.early:
            self.take(got)
        self.peer.early.clear()

    def expect(self, *members: str, room: str = "", limit: float = 10.0) -> None:
        """Waits until the room has exactly these members."""
        room = room or next(iter(self.rooms))
        end = time.monotonic() + limit
        while self.rooms[room] != set(members):
            left = end - time.monotonic()
            assert left > 0, f"{sorted(self.rooms[room])} are not {sorted(members)}: received {self.received[-20:]}"
            with contextlib.suppress(TimeoutError):
                self.take(self.peer.read(min(left, 0.5)))

    def settle(self) -> None:
        """Takes all messages that have come."""
        for got in self.peer.settle():
            self.take(got)
