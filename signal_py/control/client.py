"""Control: inspects and controls the nodes of a cluster through NATS, from a Python program."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from signal_py.base.affinity import Affinity
from signal_py.base.errors import ConfigError, EngineError
from signal_py.config.changes import Reloaded
from signal_py.config.control_settings import CONTROL_SETTINGS
from signal_py.config.load import make_config
from signal_py.config.nats_url import Server, parse_url
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.types import NATS_WORDS, check_node
from signal_py.control.answers import Answers, count_of, members_page_of, node_of, reloaded_of, rooms_page_of
from signal_py.control.gathered import (
    Disconnected,
    Drained,
    Gathered,
    Member,
    MembersPage,
    Node,
    Room,
    RoomsPage,
    Stats,
)
from signal_py.control.query import Query
from signal_py.control.wire import (
    CURSOR,
    MAX_NAMES,
    MAX_PAGE,
    NAME,
    PEER,
    SERVICE,
    Fields,
    request,
    subject,
)
from signal_py.nats.client import NatsError, close, connect
from signal_py.nats.credentials import Credentials
from signal_py.nats.tls import Tls

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from signal_py.config.options import ControlOptions

TIMEOUT = 2.0  # seconds for answers
QUIET = 0.3  # seconds without a further answer until discovery ends, once all known nodes have answered
T = TypeVar("T")


class ControlError(EngineError):
    """NATS closed the connection, or does not allow the request. The text says what to fix."""


class Control:
    """Inspects and controls the nodes of a cluster, over a connection to their NATS.

        async with Control(nats="nats://a.example") as control:
            for node in await control.nodes():
                print(node.node, node.version)

    Methods with an argument `node` ask that node, or without it all nodes. They raise ControlError if NATS closes the
    connection or does not allow the request, ValueError for an argument that is not valid, and EngineError in another
    process, thread or asyncio loop than the one that connected.
    """

    def __init__(
        self, *, timeout: float = TIMEOUT, config: Config | None = None, **settings: Unpack[ControlOptions]
    ) -> None:
        """Checks the settings, and connects nothing yet.

        timeout   seconds to wait for the nodes' answers
        config    ready-made settings, in place of keywords
        settings  the settings of the same names: `nats`, `nats_user`, `nats_creds`, `prefix` and so on

        Raises ConfigError for a setting that can't be used.
        """
        if config is not None and settings:
            raise ConfigError("Control's config is given together with settings: give one or the other.")
        self._config = config or _config(settings)
        if set(self._config.nats) & set(NATS_WORDS):
            raise ConfigError(
                f"{self._config.named('nats')} names no NATS server: give the URL of one, such as nats://HOST:PORT."
            )
        self._timeout = timeout
        self._affinity = Affinity("A Control")
        self._client: Client | None = None
        self._queries: set[Query] = set()  # that wait for answers

    async def __aenter__(self) -> Control:
        await self.connect()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connects to the first server that accepts, in random order. A second call connects again.

        Raises ConfigError if none accepts.
        """
        self._affinity.enter()
        await self.close()
        servers = [parse_url(url) for url in self._config.nats]
        random.shuffle(servers)
        credentials, tls = Credentials.of(self._config), Tls.of(self._config, servers)
        reason = ""
        for server in servers:
            try:
                self._client = await connect(server, credentials, tls, f"{SERVICE} ctl", self._report, self._wake)
                return
            except NatsError as error:
                reason = str(error)
        raise ConfigError(self._unreachable(servers[-1], reason))

    async def close(self) -> None:
        """Closes the connection to NATS."""
        self._affinity.check()
        if self._client is not None:
            await close(self._client)

    # -- commands --

    async def nodes(self) -> list[Node]:
        """Returns the nodes that answer, sorted by name. `discover` also tells whether these are all."""
        return list((await self.discover()).answers)

    async def discover(self) -> Gathered[Node]:
        """Returns the nodes that answer, sorted by name, and how many further nodes they know of (`unheard`)."""
        found: dict[str, Node] = {}

        def unheard() -> int:
            return max([0, *(node.nodes for node in found.values())]) - len(found)

        def take(data: bytes) -> bool:
            node = node_of(data, self._config.prefix)
            if node is not None:
                found[node.node] = node
            return False

        await self._gather(f"$SRV.PING.{SERVICE}", b"", take, lambda: unheard() <= 0)
        nodes = tuple(found[name] for name in sorted(found))
        return Gathered(nodes, (), (), len(nodes), unheard=max(0, unheard()))

    async def stats(self, node: str = "") -> Gathered[Stats]:
        """Returns the counters of each node.

        node  ask only this one
        """

        def read(name: str, fields: Fields) -> Stats:
            total = fields.get("total")
            general = {key: value for key, value in fields.items() if key not in ("v", "node", "total")}
            return Stats(name, total if isinstance(total, dict) else {}, general)

        return await self._ask("stats", node, read)

    async def rooms(self, limit: int = MAX_PAGE) -> Gathered[Room]:
        """Returns rooms of the cluster with their number of members, sorted by name.

        limit  the maximum number of rooms. If there are more, any of them are returned; `room_page` has the rest
        """
        pages = await self.room_page(limit=limit)
        counts: dict[str, dict[str, int]] = {}
        for page in pages.answers:
            for name, members in page.rooms.items():
                counts.setdefault(name, {})[page.node] = members
        counts = dict(sorted(counts.items()))
        more = any(page.next for page in pages.answers)
        if more and len(pages.answers) > 1:
            await self._recount(counts, list(counts)[:limit])
        rooms = (Room(name, sum(nodes.values()), nodes) for name, nodes in counts.items())
        return pages.first(limit, rooms, more)

    async def _recount(self, counts: dict[str, dict[str, int]], names: list[str]) -> None:
        """Adds the counts that nodes left out because other rooms filled their page."""
        for begin in range(0, len(names), MAX_NAMES):
            pages = await self._ask("rooms", "", rooms_page_of, names=names[begin : begin + MAX_NAMES])
            for page in pages.answers:
                for name, members in page.rooms.items():
                    if members and name in counts:
                        counts[name][page.node] = members

    async def room_page(self, node: str = "", limit: int = MAX_PAGE, after: str = "") -> Gathered[RoomsPage]:
        """Returns a page of the rooms of one node, or the first page of each, in no particular order.

        node   ask only this one
        limit  the maximum number of rooms in the page, at most 1,000
        after  `next` of this node's previous page; "" for the first page
        """
        _check_page(node, limit, after)
        return await self._ask("rooms", node, rooms_page_of, limit=limit, after=after or None)

    async def members(self, room: str, limit: int = MAX_PAGE) -> Gathered[Member]:
        """Returns members of a room, sorted by address.

        room   the name of the room, or `@` and the name of a user
        limit  the maximum number of members. If there are more, any of them are returned; `member_page` has the rest
        """
        pages = await self.member_page(room, limit=limit)
        found = [member for page in pages.answers for member in page.members]
        more = any(page.next for page in pages.answers)
        return pages.first(limit, sorted(found, key=lambda member: member.peer), more)

    async def member_page(
        self, room: str, node: str = "", limit: int = MAX_PAGE, after: str = ""
    ) -> Gathered[MembersPage]:
        """Returns a page of a room's members on one node, or the first page of each node, in no particular order.

        room   the name of the room, or `@` and the name of a user
        node   ask only this one
        limit  the maximum number of members in the page, at most 1,000
        after  `next` of this node's previous page; "" for the first page
        """
        _check_page(node, limit, after)
        if not NAME.fullmatch(room):
            raise ValueError(
                f"'{room}' is not a valid room name: use 1 to 128 printable characters, without space, * and >"
            )
        return await self._ask("members", node, members_page_of, room=room, limit=limit, after=after or None)

    async def disconnect(self, peer: str = "", *, user: str = "") -> Gathered[Disconnected]:
        """Closes the connection of a peer, or all connections of a user, with 4009. They may reconnect.

        peer  the address of a peer
        user  the name of a user, in place of a peer
        """
        found = PEER.fullmatch(peer)
        if bool(peer) == bool(user) or (peer and not found):
            raise ValueError("give the address of a peer, or a user")
        if user and not (NAME.fullmatch(user) and len(user) < 128):
            raise ValueError(
                f"'{user}' is not a valid user name: use 1 to 127 printable characters, without space, * and >"
            )
        return await self._ask(
            "disconnect",
            found[1] if found else "",
            lambda name, fields: Disconnected(name, count_of(fields, "disconnected")),
            peer=peer or None,
            user=user or None,
        )

    async def drain(self, node: str = "", *, everywhere: bool = False) -> Gathered[Drained]:
        """Makes one node, or all nodes, send their clients away and stop.

        node        the name of the node
        everywhere  drain every node of the cluster
        """
        if bool(node) == everywhere:
            raise ValueError("give a node to drain, or everywhere=True")
        return await self._ask(
            "drain",
            node,
            lambda name, fields: Drained(name, count_of(fields, "connections"), float(fields.get("drain_time", 0))),
        )

    async def reload(self, node: str = "", *, everywhere: bool = False) -> Gathered[Reloaded]:
        """Makes one node, or all nodes, reload their settings. A node whose settings have faults is among `refused`.

        node        the name of the node
        everywhere  reload every node of the cluster
        """
        if bool(node) == everywhere:
            raise ValueError("give a node to reload, or everywhere=True")
        return await self._ask("reload", node, reloaded_of)

    # -- requests --

    async def _ask(self, command: str, node: str, read: Callable[[str, Fields], T], **fields: object) -> Gathered[T]:
        """Sends a command to one node, or without `node` to all. `read` makes a result from each answer's fields."""
        if node and (wrong := check_node(node)):
            raise ValueError(f"'{node}' {wrong}")
        known, expected = {node}, 1
        if not node:
            discovered = await self.discover()
            known = {one.node for one in discovered.answers}
            expected = len(known) + discovered.unheard
        answers = Answers(known, expected, read)
        data = request(command, **fields)
        await self._gather(subject(self._config.prefix, command, node), data, answers.take)
        return answers.gathered()

    async def _gather(
        self, where: str, data: bytes, take: Callable[[bytes], bool], enough: Callable[[], bool] = lambda: False
    ) -> None:
        """Publishes a request, and passes each answer to `take`, until `_await_answers` returns."""
        client = self._connected()
        inbox = client.new_inbox()
        query = Query(where, inbox)
        self._queries.add(query)
        subscription = None
        try:
            subscription = await client.subscribe(inbox, cb=query.take)
            await client.publish(where, data, reply=inbox)
            await self._await_answers(client, query, take, enough)
        except nats.errors.Error as error:
            raise ControlError(f"NATS closed the connection ({error}): try again.") from None
        finally:
            self._queries.discard(query)
            if subscription is not None:
                with contextlib.suppress(nats.errors.Error):  # the connection has ended
                    await subscription.unsubscribe()

    async def _await_answers(
        self, client: Client, query: Query, take: Callable[[bytes], bool], enough: Callable[[], bool]
    ) -> None:
        """Returns when `take` returns true, when nobody is subscribed, or after `timeout`.

        While `enough` returns true, returns QUIET seconds after the last answer.
        """
        loop = asyncio.get_running_loop()
        end = last = loop.time() + self._timeout
        while True:
            while query.answers:
                message = query.answers.popleft()
                if _is_nobody(message) or take(message.data):
                    end = 0.0
                else:
                    end = min(last, loop.time() + QUIET) if enough() else last
            self._check(client, query.problem)
            if not await query.wait(end - loop.time()):
                break

    def _connected(self) -> Client:
        self._affinity.check()
        if self._client is None:
            raise ControlError("Control is not connected: use it as a context, or await connect() first.")
        self._check(self._client)
        return self._client

    def _check(self, client: Client, problem: str = "") -> None:
        """Raises ControlError for a problem that NATS reported, or if the connection has ended."""
        if problem:
            raise ControlError(
                f"NATS does not allow it ({problem}): give this user the permissions of docs/control.md."
            )
        if not client.is_connected:
            raise ControlError("NATS closed the connection: connect again.")

    def _report(self, problem: str) -> None:
        for query in self._queries:
            query.report(problem)

    def _wake(self) -> None:
        for query in self._queries:
            query.wake()

    def _unreachable(self, server: Server, reason: str) -> str:
        named = f"{self._config.named('nats')} {server.url}"
        if "authorization" in reason.lower():
            flags = ", ".join(SETTINGS[name].flag for name in ("nats-token", "nats-user", "nats-nkey", "nats-creds"))
            return f"{named} refuses the credentials ({reason}): give valid ones with one of {flags}."
        return f"{named} can't be reached ({reason}): give the URL of a NATS server that the nodes use."


def _config(settings: Mapping[str, object]) -> Config:
    names = {field: field.replace("_", "-") for field in settings}
    for field, name in names.items():
        if name not in CONTROL_SETTINGS or "-" in field:
            raise ConfigError(f"Control's {field} is not one of its settings: {', '.join(CONTROL_SETTINGS)}.")
    given = {names[field]: value for field, value in settings.items()}
    return make_config(given, {name: f"Control's {SETTINGS[name].field}" for name in SETTINGS})


def _is_nobody(message: Msg) -> bool:
    """Returns whether NATS reports that nobody is subscribed (503 No Responders)."""
    return not message.data and (message.headers or {}).get("Status") == "503"


def _check_page(node: str, limit: int, after: str) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"the limit is {limit}: use 1 to {MAX_PAGE}")
    if after and not (node and CURSOR.fullmatch(after)):
        raise ValueError("give 'after' together with a node, as the 'next' of its last page")
