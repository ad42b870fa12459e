"""Starts and stops the parts of an engine. Its methods block, so Engine calls them on other threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ipaddress
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from signal_py.access import Trial, refused_text
from signal_py.admin import Admin
from signal_py.admin_tls import FILES as ADMIN_TLS
from signal_py.auth.authenticators import Authenticator, Authorizer, CallbackAuthenticator, JwtAuthenticator
from signal_py.auth.grants import Verdict
from signal_py.auth.jwt import Verifier
from signal_py.auth.keys import Keys
from signal_py.base.errors import ConfigError, Faults, ReloadError
from signal_py.base.fds import count_descriptors
from signal_py.base.histograms import measured
from signal_py.base.hostport import bound_url
from signal_py.base.log import dropped, event
from signal_py.base.process import resident_memory
from signal_py.base.resources import limits_of_groups, resources
from signal_py.base.version import VERSION
from signal_py.config.changes import Reloaded
from signal_py.config.nats_url import Server, parse_url
from signal_py.config.settings import SETTINGS, Config
from signal_py.control.handlers import CommandHandlers
from signal_py.control.inspection import Inspection
from signal_py.control.server import ControlServer
from signal_py.control_thread import ControlThread, RefusedError
from signal_py.listeners import Held, Listeners
from signal_py.local_peer import LocalPeer
from signal_py.nats.credentials import Credentials
from signal_py.nats.server_process import EmbeddedNats
from signal_py.nats.tls import Tls
from signal_py.parts import Parts, parts_of
from signal_py.reloading import Plan, Source, plan_of

if TYPE_CHECKING:
    from signal_core.engine import Core

logger = logging.getLogger(__name__)

FIRST_TIMEOUT = 5.0  # seconds that a start waits for NATS
NODE_LENGTH = 8  # characters of a random name; the chance that two of 10,000 nodes share one is 0.002 %
NODE_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MEMORY_SHARE = 4  # the default of backlog-total and input-total is memory divided by this
INBOX_SHARE = 8  # by default, all mailboxes together may use memory divided by this,
INBOX_MESSAGES, INBOX_LEAST = 65536, 64  # ... each between these numbers of messages
INBOX_MESSAGE = 1024  # bytes that a mailbox has for each message (engine_loops.pxi)
DRAIN_TIME = 7.0  # seconds of a drain with drain-time auto
DRAIN_LOOK = 0.05  # seconds between checks whether a drain is over
LAST_WORDS = 0.1  # seconds for the last messages of clients to reach the link's loop

CORE_SIZES = (
    "prefix",
    "path",
    "max_message",
    "deflate_threshold",
    "deflate_level",
    "max_request_line",
    "max_head",
    "max_rooms",
    "max_refs",
    "max_connections",
    "max_connections_per_address",
    "max_connections_per_user",
    "accept_rate",
    "max_rate",
    "max_burst",
    "backlog_bytes",
    "backlog_messages",
    "send_buffer",
    "receive_buffer",
    "nats_pending",
    "auth",
    "auth_pending",
    "origins",
)
CORE_SWITCHES = ("accept_yield", "memory_trim", "proxy_protocol", "deflate", "echo")
CORE_TIMES = {
    "handshake_ms": "handshake_timeout",
    "ping_ms": "ping_interval",
    "pong_ms": "pong_timeout",
    "stall_ms": "stall_timeout",
    "message_ms": "message_timeout",
    "ttl_ms": "ttl",
    "auth_timeout_ms": "auth_timeout",
    "auth_grace_ms": "auth_grace",
    "close_ms": "close_timeout",
}


def _network(text: str) -> tuple[bytes, int]:
    """Returns the address, of 16 bytes, and the length of its prefix. IPv4 is mapped into IPv6."""
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv4Network):
        return bytes(10) + b"\xff\xff" + network.network_address.packed, 96 + network.prefixlen
    return network.network_address.packed, network.prefixlen


def inbox_messages(config: Config, memory: int, loops: int) -> int:
    """Returns the limit of each mailbox, if the process may use `memory` bytes."""
    share = memory // INBOX_SHARE // INBOX_MESSAGE // (loops + 1)
    return max(config.inbox_messages or min(INBOX_MESSAGES, share), INBOX_LEAST)


def core_settings(config: Config, node: str, cluster: bool, hooks: bool) -> dict[str, object]:
    """Returns the settings as the core takes them: times in milliseconds, every default filled in."""
    here = resources()
    loops = config.loops or min(here.processors, int(SETTINGS["loops"].high))
    settings: dict[str, object] = {name: getattr(config, name) for name in CORE_SIZES}
    settings |= {name: getattr(config, name) == "on" for name in CORE_SWITCHES}
    settings |= {name: round(getattr(config, seconds) * 1000) for name, seconds in CORE_TIMES.items()}
    return settings | {
        "node": node,
        "drain_url": config.drain_url,
        "version": VERSION,
        "loops": loops,
        "processors": min(loops, here.processors),
        "cluster": cluster,
        "backlog_total": config.backlog_total or here.memory // MEMORY_SHARE,
        "input_total": config.input_total or here.memory // MEMORY_SHARE,
        "inbox_messages": inbox_messages(config, here.memory, loops),
        "hooks": hooks,
        "proxies": [_network(text) for text in config.trusted_proxies],
    }


class Runtime:
    """One engine's parts, in the order of their start: admin, ports, NATS, core, control thread.

    Call each of prepare, run, drain (optional), stop and close at most once, in this order. After a failure, call
    only stop and close.
    """

    def __init__(
        self, config: Config, hooks: bool, on_drain: Callable[[], None], authorize: Authorizer | None = None
    ) -> None:
        """`on_drain` is called on a thread of the admin server when an operator asks for a drain."""
        self.config = config  # in force: a reload replaces it
        self.wanted = config  # as asked for last, with what needs a restart
        self.source = Source()  # of an operator's reload
        self.node = config.node or "".join(secrets.choice(NODE_LETTERS) for _ in range(NODE_LENGTH))
        self.state = "starting"
        self.core: Core | None = None
        self.inbox_messages = 0  # limit of the embedding program's mailbox; set by prepare
        self.control_thread: ControlThread | None = None
        self.embedded: EmbeddedNats | None = None
        self.local_peer: LocalPeer | None = None  # set by Engine, between prepare and run
        self._hooks = hooks
        self._on_drain: Callable[[], None] | None = on_drain
        self._hurried = threading.Event()
        self._reloading = threading.Lock()  # one reload at a time
        self._turning = threading.Lock()  # a drain and a stop may begin at once on two threads
        self._authorize = authorize
        self._keys: Keys | None = None  # of tokens
        self._trial = Trial(self.node)  # of access to NATS
        self.program: asyncio.AbstractEventLoop | None = None  # set by Engine, before prepare
        self._admin: Admin | None = None
        self._listeners = Listeners(config)
        self._looping = False
        self._cluster = False  # it uses NATS
        self._since = time.monotonic()

    @property
    def listening(self) -> list[tuple[str, int]]:
        """Host and port of each address that it listens on; a unix socket is its name, such as `unix:/run/s`, and 0."""
        return [(address.host, address.port) for address in self._listeners.addresses]

    @property
    def drain_time(self) -> float:
        """The seconds of a drain."""
        given = self.config.drain_time
        return DRAIN_TIME if isinstance(given, str) else given

    @property
    def urls(self) -> list[str]:
        """The URLs of the addresses that it listens on, as they were bound."""
        return [bound_url(host, port, self.config.path) for host, port in self.listening]

    @property
    def advertised(self) -> str:
        """The URL by which clients reach it; "" if the setting is not given."""
        given = self.config.advertise
        return given if not given or "://" in given else f"ws://{given}{self.config.path}"

    @property
    def admin_address(self) -> tuple[str, int] | None:
        """Host and port of the admin server; None without one."""
        return self._admin.addresses[0][1:3] if self._admin else None

    def prepare(self) -> None:
        """Starts everything but the loops. Raises ConfigError."""
        from signal_core.engine import COUNTERS

        config, faults = self.config, Faults()
        if limits := limits_of_groups().finite():
            event(logger, "info", "limited by control groups", **limits)
        parts = parts_of(config, faults)
        if config.admin and not faults.blame(*ADMIN_TLS):
            with faults.of("admin", config.named("admin")), Held.of(config, "admin") as held:
                asks = self.stats, self.unready, self._ask_drain, self._ask_reload
                self._admin = Admin(held, config.named("admin"), parts.admin_tls, *asks)
                self._admin.start()
        with faults.of("listen", config.named("listen")):
            self._listeners.hold(config.listen)
        faults.raise_all()
        servers = self._servers(parts)
        if config.reuse_port == "on" and (self.embedded or not servers):
            text = "workers that share a port have no common NATS server: their clients can't reach each other"
            event(logger, "warning", text, setting=config.named("nats"))
        self._make_core(servers, parts)
        if self._admin:
            self._admin.count(COUNTERS)

    def _make_core(self, servers: list[Server], parts: Parts) -> None:
        """Makes the core and its control thread. Raises ConfigError."""
        from signal_core.engine import Core

        config, verifier, credentials, tls = self.config, parts.verifier, parts.credentials, parts.tls
        self._keys = verifier.keys if verifier else None
        self._cluster = bool(servers)
        self._trial.skip(parts)
        settings = core_settings(config, self.node, self._cluster, self._hooks)
        self.inbox_messages = cast(int, settings["inbox_messages"])
        self.core = Core(settings)
        self.control_thread = ControlThread(
            self.core,
            servers,
            credentials,
            tls,
            self.node,
            VERSION,
            self._authenticator(verifier),
            config.nats_discovered == "on",
        )
        if servers and config.control == "on":
            server = self._control_server(self.core, self.control_thread.inspection, credentials, tls)
            self.control_thread.use_control_server(server)

    def run(self) -> None:
        """Starts the loops and the link. Returns when clients can connect. Raises ConfigError."""
        assert self.core is not None and self.control_thread is not None
        self.core.start([])
        self._looping = True
        self._listeners.open(self.core)
        self.control_thread.start()
        self._await_link(self.control_thread)
        self.state = "running"

    def hurry(self) -> None:
        """Ends the wait of a `run` or `drain` that is under way. May be called from any thread."""
        self._hurried.set()
        if self.control_thread is not None:
            self.control_thread.decide("connecting")

    def drain(self) -> None:
        """Refuses new clients and sends the others away, evenly over `drain_time`.

        Returns when all are gone, the time is over, or `hurry` is called. No effect once a stop has begun.
        """
        assert self.core is not None
        with self._turning:
            if self.state != "running":
                return
            self.state = "draining"
            event(logger, "info", "draining", seconds=self.drain_time)
            end = time.monotonic() + self.drain_time
            crowd = self.core.sockets
            self.core.drain(round(self.drain_time * 1000))
        while self.core.sockets and time.monotonic() < end and not self._hurried.wait(DRAIN_LOOK):
            pass
        if crowd and not self._hurried.is_set():
            self._hurried.wait(LAST_WORDS)

    def reload(self, load: Callable[[], Config] | None = None) -> Reloaded:
        """Puts the settings that `load` returns in force, without it those of `source`: all of them, or none.

        Blocks. May be called from any thread. Raises ConfigError for settings that can't be used, ReloadError.
        """
        source = self.source if load is None else replace(self.source, load=load)
        with self._reloading, source.around():
            try:
                self._check_reload()
                wanted = source.load() if source.load is not None else self.wanted
                mode = "embedded" if self.embedded else "servers" if self._cluster else "off"
                plan = plan_of(self.config, wanted, self.node, self.embedded, mode, self._keys)
                assert self.control_thread is not None
                self._trial.run(self.control_thread, plan.config, plan.parts)
                with self._turning:
                    self._check_reload()
                    self._put_in_force(plan)
            except (ConfigError, ReloadError) as error:
                event(logger, "error", "not reloaded, nothing has changed", reason=str(error))
                raise
            self.wanted = wanted
            source.apply(self.config)
            event(logger, "info", "reloaded", **plan.done.summary())
            return plan.done

    def _ask_reload(self) -> dict[str, Any]:
        """Reloads for an operator. Returns what changed. Raises ConfigError, ReloadError."""
        return {"node": self.node, **self.reload().fields()}

    def _check_reload(self) -> None:
        if self.state != "running":
            raise ReloadError(f"The engine is {self.state}: settings can be reloaded while it is running.")

    def _put_in_force(self, plan: Plan) -> None:
        """Hands settings to the core, then to the control thread. Raises ReloadError if the core does not take them."""
        from signal_core.engine import CoreError

        assert self.core is not None and self.control_thread is not None
        config, parts = plan.config, plan.parts
        settings = core_settings(config, self.node, self._cluster, self._hooks)
        self._listeners.change(self.core, config)
        try:
            if not self.core.reload(settings):
                event(logger, "warning", "a loop does not respond: it takes the new settings when it does")
        except (CoreError, MemoryError, ValueError) as error:
            self._listeners.change(self.core, self.config)
            raise ReloadError(f"The engine can't take the settings: {error}.") from None
        self.config = config
        if self._admin is not None:
            self._admin.tls = parts.admin_tls
        self._keys = parts.verifier.keys if parts.verifier else None
        self.inbox_messages = cast(int, settings["inbox_messages"])
        if self.local_peer is not None:
            self.local_peer.limit = self.inbox_messages
        self.control_thread.submit(self._tell_control_thread(self.control_thread, parts)).result()

    async def _tell_control_thread(self, thread: ControlThread, parts: Parts) -> None:
        if thread.authenticator is not None:
            thread.authenticator.reload(parts.verifier, self.config.auth_timeout)
        servers = [parse_url(self.embedded.url)] if self.embedded else parts.servers
        thread.reload(servers, (parts.credentials, parts.tls), self.config.nats_discovered == "on")

    def _ask_drain(self) -> dict[str, Any]:
        """Begins a drain for an operator. Returns what it will do. Called on threads of the admin server."""
        connections = self.stats().get("total", {}).get("connections", 0)
        if self._on_drain is not None:
            self._on_drain()
        return {"node": self.node, "connections": connections, "drain_time": self.drain_time}

    def stop(self) -> None:
        """Closes the listeners and every connection (1001), and waits for the loops to end."""
        with self._turning:
            if self._looping:
                event(logger, "info", "stopping")
            self.state = "stopping"
        if self.control_thread is not None:
            self.control_thread.leave()
        if self.core is not None and self._looping:
            self.core.stop()
            self.core.join()

    def close(self) -> None:
        """Ends everything else."""
        if self.control_thread is not None:
            self.control_thread.stop()
        self._listeners.close()
        if self.embedded is not None:
            self.embedded.close()
        self.state = "stopped"
        self._on_drain = None  # a reference to the engine
        if self._admin is not None:
            self._admin.stop()

    def stats(self) -> dict[str, Any]:
        """Returns the core's statistics and the state of the node. May be called from any thread."""
        counted: dict[str, Any] = dict(self.core.stats()) if self.core is not None and self._looping else {}
        return measured(counted) | {
            "node": self.node,
            "version": VERSION,
            "state": self.state,
            "uptime": round(time.monotonic() - self._since, 3),
            "listening": self.urls,
            "advertise": self.advertised,
            "memory": resident_memory(),
            "descriptors": count_descriptors(bool(counted.get("own_tables"))),
            "nats_state": self.control_thread.state if self.control_thread else "off",
            "nats_server": self.control_thread.where if self.control_thread else "",
            "service_dropped": self.local_peer.dropped if self.local_peer else 0,
            "auth_keys": self._keys.count if self._keys else 0,
            "auth_keys_trouble": self._keys.trouble.reason if self._keys and self._keys.trouble else "",
            "log_dropped": dropped(),
        }

    def unready(self) -> str:
        """Returns why the node is not ready; "" if it is. It is ready without NATS, since local delivery works."""
        if self.state != "running":
            return self.state
        if self._keys is not None and not self._keys.count:
            trouble = self._keys.trouble
            return f"no keys for tokens: {trouble.text if trouble else 'they are being loaded'}"
        return "NATS refuses this node" if self.control_thread and self.control_thread.state == "refused" else ""

    def _control_server(self, core: Core, inspection: Inspection, credentials: Credentials, tls: Tls) -> ControlServer:
        """Returns the server that answers operators on NATS."""
        handlers = CommandHandlers(core, inspection, self.stats, self._ask_drain, self._ask_reload)
        return ControlServer(
            self.node,
            VERSION,
            self.config.prefix,
            handlers.commands(),
            lambda: {"listen": ",".join(self.urls), "advertise": self.advertised, "nodes": str(core.nodes + 1)},
            credentials,
            tls,
        )

    def _authenticator(self, verifier: Verifier | None) -> Authenticator | None:
        """Returns the authenticator that the settings require; None: all clients are admitted."""
        if verifier is not None:
            return JwtAuthenticator(verifier, self._answer, self.config.auth_timeout)
        if self._authorize is not None and self.program is not None:
            return CallbackAuthenticator(self._authorize, self._answer, self.config.auth_timeout, self.program)
        return None

    def _answer(self, verdicts: list[Verdict]) -> None:
        """Passes verdicts to the loops, if they still run."""
        from signal_core.engine import CoreError

        if self.core is not None:
            with contextlib.suppress(CoreError):
                self.core.verdicts(verdicts)

    def _servers(self, parts: Parts) -> list[Server]:
        """Returns the NATS servers to connect to. Starts the embedded one. Raises ConfigError."""
        if not parts.program:
            return parts.servers
        self.embedded = EmbeddedNats(parts.program, self.config.max_message, self.config.named("nats"))
        self.embedded.start()
        return [parse_url(self.embedded.url)]

    def _await_link(self, control_thread: ControlThread) -> None:
        with contextlib.suppress(concurrent.futures.TimeoutError):
            try:
                control_thread.first.result(FIRST_TIMEOUT)
            except RefusedError as refused:
                raise ConfigError(refused_text(self.config, refused)) from None
