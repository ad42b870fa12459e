"""Reads files that settings name, within bounds.

A file is opened by its given path each time, since a replacement may swap a symlink anywhere on that path. Kubernetes
does so for ConfigMaps and Secrets.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time

READ_MAX = 1 << 20  # bytes of a key, a JWKS, credentials or the settings' file
CERTIFICATES_MAX = 16 << 20  # bytes of a file with certificates, which OpenSSL reads
PIPE_TIMEOUT = 5.0  # seconds for a pipe to end
CHUNK = 1 << 16


def from_here(path: str) -> str:
    """Makes a path absolute, in case the working directory changes. Keeps symlinks.

    Raises OSError for a relative path if the working directory no longer exists.
    """
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def read(path: str, most: int = READ_MAX) -> bytes:
    """Reads a file, or a pipe that ends within PIPE_TIMEOUT. Blocks on nothing else.

    Raises OSError, also if there are more than `most` bytes; ValueError for an impossible path.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return _read(file, path, most)
    finally:
        os.close(file)


def read_text(path: str) -> str:
    """As `read`. Raises ValueError for text that is not UTF-8."""
    try:
        return read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None


def _read(file: int, path: str, most: int) -> bytes:
    end = time.monotonic() + PIPE_TIMEOUT
    poll = select.poll()
    poll.register(file, select.POLLIN)
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            part = os.read(file, CHUNK)
        except BlockingIOError:  # a pipe whose writer has not finished
            left = end - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise OSError(errno.ETIMEDOUT, f"it did not end within {PIPE_TIMEOUT:g} s", path) from None
            continue
        if not part:
            if not parts and stat.S_ISFIFO(os.fstat(file).st_mode):
                raise OSError(errno.ENODATA, "it is a pipe that nobody writes to", path)
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > most:
            raise OSError(errno.EFBIG, f"it is longer than {most} bytes", path)


def is_regular(path: str) -> bool:
    """Returns whether a file can be read repeatedly. Raises OSError."""
    return stat.S_ISREG(os.stat(path).st_mode)


def check_certificates(path: str) -> None:
    """Checks a file that OpenSSL will open, since OpenSSL would block on a pipe. Raises OSError."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    if status.st_size > CERTIFICATES_MAX:
        raise OSError(errno.EFBIG, f"it is longer than {CERTIFICATES_MAX} bytes", path)
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def no_passphrase() -> str:
    """Answers OpenSSL's question for a key's passphrase, which it would otherwise ask at the terminal."""
    return ""


def reason(error: Exception) -> str:
    """Returns why a file can't be used, without its path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
