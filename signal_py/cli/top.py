"""The command `top`: a live view of one node, by its admin server, or of a cluster, by NATS."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import sys
import termios
import time
import tty
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from signal_py.base import aio
from signal_py.base.errors import ConfigError
from signal_py.base.hostport import redacted
from signal_py.cli.admin_http import connection_to, tls_trouble
from signal_py.cli.client_tls import SYSTEM, ClientTls
from signal_py.cli.clients import add_tls
from signal_py.cli.rates import Figures, figures, summed
from signal_py.config.settings import Config
from signal_py.config.types import NATS_WORDS

INTERVALS = (0.1, 3600.0)  # seconds between two readings
TIMEOUT = 2.0  # seconds for a node to answer
MAX_ANSWER = 4 << 20  # bytes of /stats: 250 loops have less than 1 MiB

DESCRIPTION = """\
Shows what a node, or each node of a cluster, is doing: connections, messages and bytes a second, drops and refusals by
cause, latencies, loops, NATS, memory. With --admin it reads the admin server of one node; otherwise it asks all nodes
through NATS, as ctl does. Latencies are those since the last reading. A node that does not answer is asked again; q
quits."""

Stats = Mapping[str, Any]
Read = Callable[[], Awaitable[tuple[dict[str, Stats], list[str]]]]  # returns statistics by node, and what is wrong
Show = Callable[[list[Figures], list[str]], None]


def add_arguments(top: argparse.ArgumentParser) -> None:
    """Adds the arguments of `top`, but for its settings."""
    top.add_argument(
        "--admin",
        metavar="URL",
        default="",
        help="admin server of one node: HOST:PORT, https://HOST:PORT/ or unix:/PATH",
    )
    add_tls(top, "https://")
    top.add_argument("--interval", metavar="SECONDS", type=float, default=1.0, help="time between readings (default 1)")
    top.add_argument("--json", action="store_true", help="print a JSON object for each reading, in place of the view")
    top.add_argument("--count", metavar="N", type=int, default=0, help="exit after N readings (default: go on)")


def run(options: argparse.Namespace, config: Config) -> int:
    """Runs `top`. Returns the exit status. Raises ConfigError.

    options  the arguments, as `add_arguments` defines them
    config   the settings of `ctl`
    """
    low, high = INTERVALS
    if not low <= options.interval <= high:
        raise ConfigError(f"--interval is {options.interval:g}: use {low:g} to {high:g} seconds.")
    if options.count < 0:
        raise ConfigError(f"--count is {options.count}: use 1 or more, or 0 to go on.")
    if not options.json and not sys.stdout.isatty():
        raise ConfigError("top draws on a terminal, and standard output is none: use --json.")
    if not options.json and os.environ.get("TERM", "") in ("dumb", "unknown"):  # rich draws nothing there
        raise ConfigError(f"top can't draw on a terminal with TERM={os.environ['TERM']}: set TERM, or use --json.")
    if not options.admin and set(config.nats) & set(NATS_WORDS):
        raise ConfigError(
            f"{config.named('nats')} names no NATS server: give --admin HOST:PORT for one node, "
            "or the URL of a NATS server that the nodes use."
        )
    if options.admin:
        return aio.run(_top(options, AdminReader(options.admin, ClientTls.of(options)).read))
    return aio.run(_cluster(options, config))


async def _cluster(options: argparse.Namespace, config: Config) -> int:
    """Shows the cluster that NATS reaches. Returns the exit status."""
    from signal_py.control import Control, ControlError

    connected = False

    async def read() -> tuple[dict[str, Stats], list[str]]:
        nonlocal connected
        try:
            if not connected:
                await control.connect()
                connected = True
            gathered = await control.stats()
        except (ControlError, ConfigError) as error:
            connected = False
            return {}, [f"{error} Trying again."]
        trouble = [f"{node} does not answer" for node in gathered.silent]
        trouble += [f"{refused.node}: {refused.text}" for refused in gathered.refused]
        if not gathered.nodes:
            trouble.append("no node answers: is one running with this NATS server and --prefix, and --control on?")
        return {one.node: {**one.general, "node": one.node, "total": one.total} for one in gathered.answers}, trouble

    control = Control(config=config, timeout=TIMEOUT)
    await control.connect()  # a wrong address is an error at once
    connected = True
    try:
        return await _top(options, read)
    finally:
        with contextlib.suppress(ControlError):
            await control.close()


class AdminReader:
    """Reads /stats of one node, over one connection as long as that lasts: a new one costs the node a thread."""

    def __init__(self, admin: str, tls: ClientTls = SYSTEM) -> None:
        """Raises ConfigError. `admin`, `tls`: as connection_to takes them."""
        self._connection = connection_to(admin, "--admin", TIMEOUT, tls)
        self._where = redacted(admin)

    async def read(self) -> tuple[dict[str, Stats], list[str]]:
        try:
            stats = await aio.in_thread(self._get)
            if "total" not in stats:
                return {}, [f"{self._where} has no figures yet: it is starting, or not an engine. Trying again."]
            return {str(stats["node"]): stats}, []
        except (OSError, http.client.HTTPException, ValueError, TypeError, LookupError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            why = tls_trouble(error, self._connection) or f"does not answer ({reason})."
            return {}, [f"{self._where} {why} Trying again."]

    def _get(self) -> Any:
        """Returns the statistics. A connection that the node has closed since is opened again."""
        kept = self._connection.sock is not None
        try:
            self._connection.request("GET", "/stats")
            return json.loads(self._connection.getresponse().read(MAX_ANSWER))
        except (OSError, http.client.HTTPException, ValueError):
            self._connection.close()
            if not kept:
                raise
        return self._get()


async def _top(options: argparse.Namespace, read: Read) -> int:
    """Reads and shows until q, Ctrl-C or `--count`. Returns the exit status."""
    before: dict[str, Stats] = {}
    quits = asyncio.Event()
    with _printer() if options.json else _screen(quits) as show:
        turns = 0
        while not quits.is_set():
            due = asyncio.get_running_loop().time() + options.interval
            now, trouble = await read()
            # The first reading only begins: rates since the start of a node would be taken for those of now.
            nodes = [figures(stats, before[name]) for name, stats in sorted(now.items()) if name in before]
            if nodes or trouble:
                show(nodes, trouble)
                turns += 1
            before.update(now)
            if options.count and turns >= options.count:
                break
            with contextlib.suppress(asyncio.TimeoutError):
                await aio.with_timeout(quits.wait(), max(due - asyncio.get_running_loop().time(), 0.0))
    return 0


@contextlib.contextmanager
def _printer() -> Iterator[Show]:
    """Prints a JSON object for each reading."""

    def show(nodes: list[Figures], trouble: list[str]) -> None:
        print(
            json.dumps({"time": round(time.time(), 3), "nodes": nodes, "total": summed(nodes), "trouble": trouble}),
            flush=True,
        )

    yield show


@contextlib.contextmanager
def _screen(quits: asyncio.Event) -> Iterator[Show]:
    """Draws on the terminal's other screen, and sets `quits` when q is pressed. Afterwards the terminal is as before.
    Raises ConfigError without rich."""
    try:
        from rich.live import Live

        from signal_py.cli.top_view import view
    except ImportError:
        raise ConfigError("top needs rich: pip install 'signal-engine-ws[top]', or use --json.") from None
    shown: list[Figures] = []

    def show(nodes: list[Figures], trouble: list[str]) -> None:
        if nodes:
            shown[:] = nodes
        live.update(view(shown, trouble), refresh=True)

    with _keys(quits), Live(screen=True, auto_refresh=False) as live:
        yield show


@contextlib.contextmanager
def _keys(quits: asyncio.Event) -> Iterator[None]:
    """Reads keys one by one, unless standard input is no terminal."""
    if not sys.stdin.isatty():
        yield
        return
    keyboard = sys.stdin.fileno()
    kept = termios.tcgetattr(keyboard)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        if any(key in b"qQ" for key in os.read(keyboard, 64)):
            quits.set()

    tty.setcbreak(keyboard)  # Ctrl-C still interrupts
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, kept)
