"""Control: what an operator asks and tells the nodes of a cluster, through NATS, from a Python program."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from signal_py.config import CONTROL_SETTINGS, SETTINGS, Config, make_config
from signal_py.controlwire import (
    NODE,
    SERVICE,
    Fields,
    WireError,
    parse_answer,
    parse_ping,
    request,
    subject,
)
from signal_py.credentials import Credentials
from signal_py.errors import ConfigError, EngineError
from signal_py.natsclient import NatsError, close, connect
from signal_py.natspool import Server, parse_url
from signal_py.tls import Tls

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from signal_py.options import ControlOptions

TIMEOUT = 2.0  # seconds for answers
QUIET = 0.3  # seconds without another answer until all nodes are taken to have told that they are there
WORDS = ("auto", "embedded", "off")
T = TypeVar("T")


class ControlError(EngineError):
    """Operators can't be served: NATS ended the connection, or does not allow it. The text says what to mend."""


@dataclass(frozen=True)
class Node:
    """A node that answers: `control` is the version of the control plane that it speaks."""

    node: str
    version: str
    control: int
    listen: tuple[str, ...]


@dataclass(frozen=True)
class Stats:
    """Of one node: `total` has every counter, `general` the rest (state, uptime, …)."""

    node: str
    total: Mapping[str, int]
    general: Mapping[str, Any]


@dataclass(frozen=True)
class Drained:
    """A node that drains now: its connections then, and the seconds that they have."""

    node: str
    connections: int
    drain_time: float


@dataclass(frozen=True)
class Refused:
    """A node that answered with an error: bad-request, unknown-command, unsupported-version, unavailable."""

    node: str
    code: str
    text: str


@dataclass(frozen=True)
class Gathered(Generic[T]):
    """What the nodes answered. `silent`: known to be there, and did not answer in time."""

    answers: tuple[T, ...]
    silent: tuple[str, ...]
    refused: tuple[Refused, ...]

    @property
    def complete(self) -> bool:
        return not self.silent and not self.refused


class Control:
    """A connection to the NATS that the nodes use.

        async with Control(nats="nats://a.example") as control:
            for node in await control.nodes():
                print(node.node, node.version)

    Its keywords are the settings of the same names (`nats_user`, `prefix`, …); `timeout` is how many seconds a question
    waits for the nodes' answers. Methods with `node` ask that one, without it all. Those raise ControlError where NATS
    ends the connection or does not allow what they need, ValueError for a name that can't be one.
    """

    def __init__(
        self, *, timeout: float = TIMEOUT, config: Config | None = None, **settings: Unpack[ControlOptions]
    ) -> None:
        """Nothing is connected yet. Raises ConfigError; `config` is ready-made settings, in place of keywords."""
        if config is not None and settings:
            raise ConfigError("Control's config is given together with settings: give one or the other.")
        self._config = config or _config(settings)
        if set(self._config.nats) & set(WORDS):
            raise ConfigError(
                f"{self._config.named('nats')} names no NATS server: give the URL of one that the nodes use, "
                "such as nats://HOST:PORT."
            )
        self._timeout = timeout
        self._client: Client | None = None
        self._problem = ""  # what NATS objected to last
        self._stir = asyncio.Event()

    async def __aenter__(self) -> Control:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """To the first server, in random order, that can be had. Raises ConfigError."""
        servers = [parse_url(url) for url in self._config.nats]
        random.shuffle(servers)
        credentials, tls = Credentials.of(self._config), Tls.of(self._config, servers)
        for left, server in enumerate(servers, 1 - len(servers)):
            try:
                self._client = await connect(server, credentials, tls, f"{SERVICE} ctl", self._objects, self._ends)
                return
            except NatsError as error:
                if left == 0:
                    raise ConfigError(self._unreachable(server, str(error))) from None

    async def close(self) -> None:
        if self._client is not None:
            await close(self._client)

    # -- what may be asked --

    async def nodes(self) -> list[Node]:
        """Those that are there and answer, by name."""
        found: dict[str, Node] = {}

        def take(message: Msg) -> bool:
            node = _node(message.data, self._config.prefix)
            if node is not None:
                found[node.node] = node
            return False

        await self._gather(f"$SRV.PING.{SERVICE}", b"", take, QUIET)
        return [found[name] for name in sorted(found)]

    async def stats(self, node: str = "") -> Gathered[Stats]:
        """What each node counts."""

        def read(name: str, fields: Fields) -> Stats:
            total = fields.get("total")
            general = {key: value for key, value in fields.items() if key not in ("v", "node", "total")}
            return Stats(name, total if isinstance(total, dict) else {}, general)

        return await self._ask("stats", node, read)

    async def drain(self, node: str = "", *, everywhere: bool = False) -> Gathered[Drained]:
        """Has a node send its clients away and end, or with `everywhere` all of them."""
        if bool(node) == everywhere:
            raise ValueError("give a node to drain, or everywhere=True")
        return await self._ask(
            "drain",
            node,
            lambda name, fields: Drained(name, _count(fields, "connections"), float(fields.get("drain_time", 0))),
        )

    # -- how --

    async def _ask(
        self, command: str, node: str, read: Callable[[str, Fields], T], **fields: object
    ) -> Gathered[T]:
        """Sends a command, and reads each node's answer."""
        if node and not NODE.fullmatch(node):
            raise ValueError(f"'{node}' is no name of a node: 1 to 16 of a-z and 0-9")
        known = {node} if node else {one.node for one in await self.nodes()}
        answers: dict[str, T] = {}
        refused: dict[str, Refused] = {}

        def take(message: Msg) -> bool:
            try:
                found = parse_answer(message.data)
                name = found["node"]
                if "error" in found:
                    refused[name] = Refused(name, str(found["error"]), str(found.get("text", "")))
                else:
                    answers[name] = read(name, found)
            except (WireError, TypeError, ValueError):
                return False  # not of a node, or of one that breaks its word: it is silent
            return known <= {*answers, *refused}

        await self._gather(subject(self._config.prefix, command, node), request(command, **fields), take)
        silent = sorted(known - {*answers, *refused})
        return Gathered(
            tuple(answers[name] for name in sorted(answers)),
            tuple(silent),
            tuple(refused[name] for name in sorted(refused)),
        )

    async def _gather(self, where: str, data: bytes, take: Callable[[Msg], bool], quiet: float = 0.0) -> None:
        """Publishes, and hands each answer on until `take` has all, nobody is there, or the time is over: that of
        `timeout`, and where `quiet` is given, so many seconds after the last answer."""
        client = self._connected()
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[Msg] = asyncio.Queue()

        async def hear(message: Msg) -> None:
            heard.put_nowait(message)
            self._stir.set()

        self._problem = ""
        try:
            inbox = client.new_inbox()
            listening = await client.subscribe(inbox, cb=hear)
            await client.publish(where, data, reply=inbox)
            end = loop.time() + self._timeout
            while True:
                while not heard.empty():
                    message = heard.get_nowait()
                    if _is_nobody(message) or take(message):
                        end = 0.0
                    elif quiet:
                        end = min(end, loop.time() + quiet)
                self._check(client)
                if not await self._stirred(end - loop.time()):
                    break
            await listening.unsubscribe()
        except nats.errors.Error as error:
            raise ControlError(f"NATS has ended the connection ({error}): ask again.") from None

    async def _stirred(self, seconds: float) -> bool:
        """Whether something came within so many seconds."""
        if seconds <= 0:
            return False
        self._stir.clear()
        try:
            await asyncio.wait_for(self._stir.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    def _connected(self) -> Client:
        if self._client is None:
            raise ControlError("Control is not connected: use it as a context, or await connect() first.")
        self._check(self._client)
        return self._client

    def _check(self, client: Client) -> None:
        if self._problem:
            raise ControlError(
                f"NATS does not allow it ({self._problem}): give this user the permissions of docs/control.md."
            )
        if not client.is_connected:
            raise ControlError("NATS has ended the connection: connect again.")

    def _objects(self, problem: str) -> None:
        self._problem = problem
        self._stir.set()

    def _ends(self) -> None:
        self._stir.set()

    def _unreachable(self, server: Server, reason: str) -> str:
        named = f"{self._config.named('nats')} {server.url}"
        if "authorization" in reason.lower():
            flags = ", ".join(SETTINGS[name].flag for name in ("nats-token", "nats-user", "nats-nkey", "nats-creds"))
            return f"{named} refuses the credentials ({reason}): give what it wants with one of {flags}."
        return f"{named} can't be reached ({reason}): give the URL of a NATS server that the nodes use."


def _config(settings: Mapping[str, object]) -> Config:
    names = {field: field.replace("_", "-") for field in settings}
    for field, name in names.items():
        if name not in CONTROL_SETTINGS or "-" in field:
            raise ConfigError(f"Control's {field} is no setting of it: {', '.join(CONTROL_SETTINGS)} are.")
    given = {names[field]: value for field, value in settings.items()}
    return make_config(given, {name: f"Control's {SETTINGS[name].field}" for name in SETTINGS})


def _is_nobody(message: Msg) -> bool:
    """NATS's word that nobody listens."""
    return not message.data and (message.headers or {}).get("Status") == "503"


def _count(fields: Fields, name: str) -> int:
    value = fields.get(name, 0)
    return value if isinstance(value, int) else 0


def _node(data: bytes, prefix: str) -> Node | None:
    """What a PING was answered with; None where that is no node of this cluster."""
    try:
        about = parse_ping(data)
    except WireError:
        return None
    if about.get("prefix") != prefix or not NODE.fullmatch(about.get("node", "")):
        return None
    control = about.get("control", "")
    return Node(
        about["node"],
        about.get("version", ""),
        int(control) if control.isascii() and control.isdigit() else 0,
        tuple(url for url in about.get("listen", "").split(",") if url),
    )
