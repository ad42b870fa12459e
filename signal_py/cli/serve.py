"""The command `serve`: runs an engine until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from signal_py.base.errors import ConfigError, ReloadError
from signal_py.base.hostport import admin_url
from signal_py.base.log import event, is_text, log_as, logging_to
from signal_py.base.version import VERSION
from signal_py.config.settings import Config
from signal_py.engine import Engine
from signal_py.inherited import with_inherited
from signal_py.reloading import Source
from signal_py.service_manager import ServiceManager

STOPPING = (signal.SIGINT, signal.SIGTERM)
# These have no effect, but would end the process by default: a tool that rotates logs may send them.
IGNORED = (signal.SIGUSR1, signal.SIGUSR2)
MANAGED_DRAIN = 30.0  # seconds of a drain with drain-time auto, if the service manager can be asked to wait
SPARE = 5.0  # ... seconds that it is asked for besides, for the end
LAST_THREADS = 1.0  # maximum seconds to wait at the end for threads that Python has joined

logger = logging.getLogger(__name__)


def serve(config: Config, load: Callable[[], Config]) -> int:
    """Runs an engine until SIGINT (stops it) or SIGTERM (drains it first). Returns the exit status.

    load  returns the settings anew, for a reload; raises ConfigError

    Raises ConfigError.
    """
    from signal_core.engine import malloc_steadily
    from signal_py.auth.jwt import hush_pyjwt

    hush_pyjwt()
    raise_descriptors()
    malloc_steadily()
    try:
        with logging_to(sys.stderr, config.log_format, config.log_level):
            return asyncio.run(_serve(config, load))
    finally:  # a repeated signal must not kill the process in its last moments
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        await_threads()


def await_threads() -> None:
    """Waits until this thread is the only one, at most LAST_THREADS seconds.

    The kernel may deliver a signal to a thread that Python has joined until it is gone, even after Python has stopped
    handling signals.
    """
    end = time.monotonic() + LAST_THREADS
    with contextlib.suppress(OSError):  # no /proc
        while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < end:
            time.sleep(0.001)


def raise_descriptors() -> None:
    """Raises the soft limit of open descriptors to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # the core refuses clients when descriptors run out
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Signals:
    """Handles the signals of the process, on the running asyncio loop.

    asyncio's own handlers are removed before the process has ended, so that a repeated signal would then kill it.

    any     set by the first SIGINT or SIGTERM
    stop    set by SIGINT, or by the second of any of them: the engine is to stop without a drain
    reload  set by SIGHUP
    """

    def __init__(self) -> None:
        self.any = asyncio.Event()
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        kept = [number for number in (*IGNORED, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN]  # nohup
        for number in {*STOPPING, *IGNORED, signal.SIGHUP}.difference(kept):
            signal.signal(number, lambda *_: None)
        asyncio.get_running_loop().add_reader(self._reader, self._handle)

    def close(self) -> None:
        """Ignores signals from now on."""
        signal.set_wakeup_fd(-1)
        asyncio.get_running_loop().remove_reader(self._reader)
        self._reader.close()
        self._writer.close()

    def _handle(self) -> None:
        for number in self._reader.recv(4096):
            if number in IGNORED:
                event(logger, "info", f"{signal.Signals(number).name} ignored: SIGHUP reloads the settings")
                continue
            if number == signal.SIGHUP:
                self.reload.set()
                continue
            if number == signal.SIGINT or self.any.is_set():
                self.stop.set()
            self.any.set()


def _log_as(config: Config) -> None:
    """Applies the settings of the log, which the engine leaves to its program."""
    log_as(sys.stderr, config.log_format, config.log_level)


async def _reload_on_signal(signals: Signals, engine: Engine) -> None:
    """Reloads the settings at each SIGHUP, one after the other. What comes of it is in the log."""
    while True:
        await signals.reload.wait()
        signals.reload.clear()
        with contextlib.suppress(ConfigError, ReloadError):
            await engine.reload()


def _as_started(config: Config, managed: bool) -> Config:
    """Returns the settings with what systemd has passed to the process. `managed`: it can be asked to wait."""
    config = with_inherited(config)
    return replace(config, drain_time=MANAGED_DRAIN) if managed and config.drain_time == "auto" else config


async def _serve(config: Config, load: Callable[[], Config]) -> int:
    with contextlib.closing(Signals()) as signals:
        manager = ServiceManager()
        config = _as_started(config, manager.waits)
        engine = Engine(config=config)
        engine._use_source(Source(lambda: _as_started(load(), manager.waits), _log_as, manager.reloading))
        reloads = asyncio.ensure_future(_reload_on_signal(signals, engine))
        started = asyncio.ensure_future(engine.start())
        await _first(signals.any.wait(), started)
        if not signals.any.is_set():
            started.result()
            _say_ready(engine, config)
            manager.ready("listening")
            manager.watch(engine.stats)
            await _first(signals.any.wait(), engine._drain_begun.wait(), engine.ended())
            manager.stopping(engine._runtime.drain_time + engine._runtime.config.close_timeout + SPARE)
            if not signals.stop.is_set():
                await _first(signals.stop.wait(), engine.drain())
        reloads.cancel()
        started.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await started
        await engine.stop()
        manager.close()
        event(logger, "info", "stopped")
    return 0


async def _first(*waits: Awaitable[object]) -> None:
    """Returns when one of them has ended. Cancels the others, except those that are tasks already."""
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
        fields["admin"] = admin_url(*engine.admin_address, tls=bool(config.admin_tls_cert))
    event(logger, "info", "ready", **fields)
    if sys.stderr.isatty() and is_text(config.log_format, sys.stderr):
        _say_next(engine.url)


def _say_next(url: str) -> None:
    """Prints what to try next, for a user at a terminal."""
    where = "" if url == "ws://127.0.0.1:8080/" else f" --url {url}"
    command = "signal-engine" if shutil.which("signal-engine") else sys.argv[0]
    if command.endswith(".py"):
        command = f"{sys.executable} -m signal_py"
    print(
        f"\nTry, in a second terminal:  {command} sub{where} lobby\n"
        f"and in a third:             {command} pub{where} lobby hello\n"
        "Ctrl-C stops the engine.\n",
        file=sys.stderr,
        flush=True,
    )
