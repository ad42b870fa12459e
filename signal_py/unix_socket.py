"""Unix sockets to listen on: `unix:/run/signal-engine/ws.sock`, and `unix:@name` without a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator

from signal_py.base.errors import ConfigError, Fault

BACKLOG = 4096  # as for TCP (the core's limit)
PROBE_TIME = 1.0  # seconds for the program behind a socket file to answer


class UnixSocket:
    """A unix socket that listens, and its file. The file is removed by `close`, unless it is another one by then."""

    def __init__(self, text: str, mode: int, named: str) -> None:
        """Binds and listens. Replaces the file of a process that has ended. Raises ConfigError.

        text   `unix:/PATH`, or `unix:@NAME` for a name in the network namespace
        mode   permissions of the file
        named  how the setting was given, for errors
        """
        self.name = text.removeprefix("unix:")
        self._shown = f"{named} {text}"
        self._file: tuple[int, int] | None = None  # device and inode
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._bind(mode)
            self.socket.listen(BACKLOG)
        except OSError as error:
            self.close()
            text = f"{self._shown} {_problem(error, os.path.dirname(self.name))}."
            raise ConfigError(Fault(text, passing=error.errno == errno.EADDRINUSE)) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the socket of this process, and removes its file."""
        self.socket.close()
        if self._file is None:
            return
        with contextlib.suppress(OSError), _alone(self.name):
            if _identity(self.name) == self._file:
                os.unlink(self.name)
        self._file = None

    def _bind(self, mode: int) -> None:
        if self.name.startswith("@"):
            self.socket.bind("\0" + self.name[1:])
            return
        with _alone(self.name):
            self._remove_stale()
            self.socket.bind(self.name)
            self._file = _identity(self.name)
            os.chmod(self.name, mode)  # nobody can connect before listen()

    def _remove_stale(self) -> None:
        """Removes the file of a socket that nobody listens on. Raises ConfigError if somebody does."""
        try:
            found = os.lstat(self.name)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise ConfigError(f"{self._shown} exists and is not a socket: remove it, or choose another path.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_TIME)
            try:
                probe.connect(self.name)
            except ConnectionRefusedError:
                os.unlink(self.name)
                return
            except OSError as error:  # a full backlog is in use, too
                if error.errno not in (errno.EAGAIN, errno.ETIMEDOUT):
                    raise
        text = f"{self._shown} is in use by another program: stop that program, or choose another path."
        raise ConfigError(Fault(text, passing=True))


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Locks the folder of a socket against other engines, so that none takes the file of one that starts for stale."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _problem(error: OSError, folder: str) -> str:
    """Returns what is wrong with a path, and the fix."""
    if error.errno == errno.ENOENT:
        return f"is in a directory that does not exist: create {folder}, or with systemd set RuntimeDirectory"
    if error.errno == errno.ENOTDIR:
        return "is below a file that is not a directory: choose another path"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"is not allowed for this user: let it write to {folder}, or choose another path"
    if error.errno == errno.EADDRINUSE:
        return "is in use by another program: stop that program, or choose another name"
    return f"can't be listened on ({os.strerror(error.errno or 0)}): choose another path"
