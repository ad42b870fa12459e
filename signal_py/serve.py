"""What `serve` does: an Engine until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import sys

from signal_py.address import host_port
from signal_py.config import Config
from signal_py.engine import Engine
from signal_py.errors import ConfigError
from signal_py.log import configure, event, is_text
from signal_py.version import VERSION

logger = logging.getLogger(__name__)


def serve(config: Config) -> int:
    """Runs an engine until SIGINT or SIGTERM; the exit status. Raises ConfigError."""
    from signal_core.engine import malloc_steadily

    if config.auth == "callback":
        raise ConfigError(
            f"{config.named('auth')} is callback, which is for programs that embed the engine: use jwt or off."
        )
    configure(config.log_format, config.log_level)
    raise_descriptors()
    malloc_steadily()
    return asyncio.run(_serve(config))


def raise_descriptors() -> None:
    """Lets this process open as many descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # then it is what it is, and the core sheds
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(config=config)
    stopped = asyncio.ensure_future(stop.wait())
    started = asyncio.ensure_future(engine.start())
    await asyncio.wait({stopped, started}, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        started.result()
        _say_ready(engine, config)
        await stopped
        event(logger, "info", "stopping")
    started.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await started
    await engine.stop()
    event(logger, "info", "stopped")
    return 0


def _say_ready(engine: Engine, config: Config) -> None:
    stats = engine.stats()
    fields: dict[str, object] = {"node": engine.node, "version": VERSION, "listening": stats["listening"]}
    if engine.nats_url:
        fields |= {"nats": engine.nats_url, "nats_state": stats["nats_state"]}
    if engine.admin_address:
        fields["admin"] = f"http://{host_port(*engine.admin_address)}/"
    event(logger, "info", "ready", **fields)
    if sys.stderr.isatty() and is_text(config.log_format, sys.stderr):
        _say_next(engine.url)


def _say_next(url: str) -> None:
    """What to try, for a person who watches."""
    where = "" if url == "ws://127.0.0.1:8080/" else f" --url {url}"
    print(
        f"\nTry, in a second terminal:  signal-engine sub{where} lobby\n"
        f"and in a third:             signal-engine pub{where} lobby hello\n"
        "Ctrl-C stops the engine.\n",
        file=sys.stderr,
        flush=True,
    )
