"""Writes lines to a descriptor that may be slow, full or gone. The thread that logs never waits for a write."""

from __future__ import annotations

import contextlib
import io
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

LINE_MOST = 65536  # characters of an incomplete line that are kept
PENDING = 1 << 20  # bytes that may wait to be written; further lines are dropped and counted
PIECE = 4096  # bytes of one write (PIPE_BUF): a pipe that poll() reports takes them without blocking
LOOK = 0.1  # seconds between checks for the deadline, while the descriptor takes nothing


def wait_for_room(descriptor: int, late: Callable[[], bool]) -> bool:
    """Waits until the descriptor is writable or reports an error. Returns False if `late` is true before."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while not late():
        if poll.poll(LOOK * 1000):
            return True
    return False


def write_piece(descriptor: int, data: memoryview) -> int:
    """Writes a piece. Returns the number of bytes written. Raises OSError."""
    try:
        return os.write(descriptor, data[:PIECE])
    except BlockingIOError:  # it takes less than a piece
        time.sleep(LOOK)
        return 0


def write_within(descriptor: int, data: bytes, seconds: float) -> None:
    """Writes as much as the descriptor takes within `seconds`."""
    end = time.monotonic() + seconds
    rest = memoryview(data)
    with contextlib.suppress(OSError):
        while rest and wait_for_room(descriptor, lambda: time.monotonic() >= end):
            rest = rest[write_piece(descriptor, rest) :]


class LineWriter:
    """Writes lines on a separate thread.

    Once a line is dropped, so are all further ones, until those that wait are written, and then a notice, the line that
    says how many are missing: it stands where the missing ones would be. The descriptor's mode is not changed, since
    other processes may share it: it may block, so poll() is called before each write.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], bytes], pending: int = PENDING) -> None:
        """Starts the thread, a daemon.

        notice   makes the line that says how many lines are missing
        pending  the maximum bytes that may wait
        """
        self._descriptor = descriptor
        self._notice = notice
        self._most = pending
        self._stirred = threading.Condition()  # reentrant: a destructor may log while a line is put
        self._lines: deque[bytes] = deque()
        self._size = 0  # bytes of those lines
        self._full = False  # lines are dropped until their number is written
        self._failing = False  # the last write failed
        self._torn = False  # the last line was written in part
        self._untold = 0
        self._end: float | None = None  # deadline on the monotonic clock, once it is closed
        self.dropped = 0  # lines, in all
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Takes a line with its line feed. May be called from any thread."""
        with self._stirred:
            if self._full or self._size + len(line) > self._most or self._end is not None:
                self._full = self._end is None
                self._drop(1)
                self._stirred.notify()
                return
            self._lines.append(line)
            self._size += len(line)
            self._stirred.notify()

    def close(self, seconds: float) -> None:
        """Blocks until all is written, at most `seconds`. The rest is dropped."""
        with self._stirred:
            self._end = time.monotonic() + seconds
            self._stirred.notify()
        self._thread.join(seconds + 2 * LOOK)

    def _drop(self, lines: int) -> None:
        with self._stirred:
            self.dropped += lines
            self._untold += lines

    def _run(self) -> None:
        while not self._late():
            with self._stirred:
                while not self._lines and not self._full and self._end is None:
                    self._stirred.wait()
                line = self._lines.popleft() if self._lines else None
                self._size -= len(line or b"")
                missing = self._untold if line is None or self._failing or not self._full else 0
            if missing or line is None:
                self._tell(missing)
            if line is not None and not self._write(line):
                self._drop(1)
            if line is None and self._end is not None and not self._full:
                return
        self._drop(len(self._lines))

    def _tell(self, missing: int) -> None:
        """Writes how many lines are missing. If that fails, it is tried again with the next line."""
        told = missing > 0 and self._write(self._notice(missing))
        with self._stirred:
            self._untold -= missing if told else 0
            more = told and self._untold > 0  # dropped meanwhile, so before lines that come now
            self._full = self._full and (bool(self._lines) or more)

    def _write(self, line: bytes) -> bool:
        """Returns whether the whole line was written."""
        rest = memoryview(b"\n" + line if self._torn else line)
        try:
            while rest and wait_for_room(self._descriptor, self._late):
                written = write_piece(self._descriptor, rest)
                self._torn = self._torn or written > 0
                rest = rest[written:]
        except OSError:  # such as a broken pipe or a full disk
            self._failing = True
            return False
        self._failing = self._torn = bool(rest)
        return not rest

    def _late(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end


class LineStream(io.TextIOBase):
    """A stream in place of sys.stderr, which passes whole lines to a LineWriter.

    A line that reaches LINE_MOST characters without an end is ended there.
    """

    def __init__(self, writer: LineWriter, descriptor: int) -> None:
        self._writer = writer
        self._descriptor = descriptor
        self._lock = threading.RLock()
        self._begun = ""

    # -- io.TextIOBase --

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Passes the lines on that are complete. Never waits for a write."""
        with self._lock:
            *lines, begun = (self._begun + text).split("\n")
            whole = len(begun) // LINE_MOST * LINE_MOST
            lines += [begun[at : at + LINE_MOST] for at in range(0, whole, LINE_MOST)]
            self._begun = begun[whole:]
        for line in lines:
            self._put(line)
        return len(text)

    def flush(self) -> None:
        """Passes an incomplete line on, as a line."""
        with self._lock:
            rest, self._begun = self._begun, ""
        if rest:
            self._put(rest)

    def _put(self, line: str) -> None:
        self._writer.put(line.encode("utf-8", "backslashreplace") + b"\n")
