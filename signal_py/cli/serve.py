"""What `serve` does: an Engine until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable

from signal_py.base.errors import ConfigError
from signal_py.base.hostport import host_port
from signal_py.base.log import event, is_text, logging_to
from signal_py.base.version import VERSION
from signal_py.config.settings import Config
from signal_py.engine import Engine

STOPPING = (signal.SIGINT, signal.SIGTERM)
# Nothing answers to these yet; who sends one, such as a tool that rotates logs, does not mean the end.
IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LAST_THREADS = 1.0  # seconds at the end that threads have to leave

logger = logging.getLogger(__name__)


def serve(config: Config) -> int:
    """Runs an engine until SIGINT (it stops) or SIGTERM (it drains first); the exit status. Raises ConfigError."""
    from signal_core.engine import malloc_steadily
    from signal_py.auth.jwt import hush_pyjwt

    if config.auth == "callback":
        raise ConfigError(
            f"{config.named('auth')} is callback, which only works in programs that embed the engine: use jwt or off."
        )
    hush_pyjwt()
    raise_descriptors()
    malloc_steadily()
    try:
        with logging_to(sys.stderr, config.log_format, config.log_level):
            return asyncio.run(_serve(config))
    finally:  # what is repeated now waits until the process is gone
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        await_threads()


def await_threads() -> None:
    """Until this thread is the only one, or for LAST_THREADS: one that was joined has yet to leave the kernel, and
    hears signals until then, also once Python has given up handling them."""
    end = time.monotonic() + LAST_THREADS
    with contextlib.suppress(OSError):  # no /proc
        while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < end:
            time.sleep(0.001)


def raise_descriptors() -> None:
    """Lets this process open as many descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # then it is what it is, and the core sheds
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Signals:
    """What the person, or the system, that started it wants: `stop` it, or `drain` it first.

    Without asyncio's handlers: those make way for the defaults before the process has ended, which a signal that is
    repeated at the end would then kill.
    """

    def __init__(self) -> None:
        self.any = asyncio.Event()
        self.stop = asyncio.Event()
        self._heard, self._told = socket.socketpair()
        for end in (self._heard, self._told):
            end.setblocking(False)
        signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
        kept = [number for number in IGNORED if signal.getsignal(number) is signal.SIG_IGN]  # nohup
        for number in {*STOPPING, *IGNORED}.difference(kept):
            signal.signal(number, lambda *_: None)
        asyncio.get_running_loop().add_reader(self._heard, self._hear)

    def close(self) -> None:
        """What comes from now on changes nothing."""
        signal.set_wakeup_fd(-1)
        asyncio.get_running_loop().remove_reader(self._heard)
        self._heard.close()
        self._told.close()

    def _hear(self) -> None:
        for number in self._heard.recv(4096):
            if number in IGNORED:
                event(logger, "info", f"{signal.Signals(number).name} ignored: nothing to reload")
                continue
            if number == signal.SIGINT or self.any.is_set():  # whoever repeats it has no more patience
                self.stop.set()
            self.any.set()


async def _serve(config: Config) -> int:
    with contextlib.closing(Signals()) as signals:
        engine = Engine(config=config)
        started = asyncio.ensure_future(engine.start())
        await _first(signals.any.wait(), started)
        if not signals.any.is_set():
            started.result()
            _say_ready(engine, config)
            await _first(signals.any.wait(), engine.ended())
            if not signals.stop.is_set():
                await _first(signals.stop.wait(), engine.drain())
        started.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await started
        await engine.stop()
        event(logger, "info", "stopped")
    return 0


async def _first(*waits: Awaitable[object]) -> None:
    """Returns when one of them is over; the others but tasks of their own are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task, wait in zip(tasks, waits, strict=True):
        if task is not wait:
            task.cancel()


def _say_ready(engine: Engine, config: Config) -> None:
    stats = engine.stats()
    fields: dict[str, object] = {"node": engine.node, "version": VERSION, "listening": stats["listening"]}
    if stats["advertise"]:
        fields["advertise"] = stats["advertise"]
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
