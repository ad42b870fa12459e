"""Fetches a JWKS over HTTP, with limits for time, size and redirects."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
import zlib
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

from signal_py.base.version import VERSION

STEP_TIMEOUT = 5.0  # seconds for each step: connect, send, read a piece
TIMEOUT = 10.0  # seconds for the whole fetch
REDIRECTS_MAX = 5
BODY_MAX = 1 << 20  # bytes, also when decompressed
CHUNK = 1 << 16
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"User-Agent": f"signal-engine/{VERSION}", "Accept": "application/jwk-set+json, application/json;q=0.9"}

REASONS = ("file", "connection", "tls", "timeout", "status", "redirect", "too-large", "no-jwks", "no-key", "system")
"""Why keys can't be loaded: the labels of the metric, and the reasons of LookError."""


class LookError(Exception):
    """Keys can't be loaded. The text contains nothing of a URL's query, of an answer's body, or of a key."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def shown(source: str) -> str:
    """Returns a path, or a URL without its user and query, which may be secret."""
    return re.sub(r"(?<=://)[^/]*@", "", re.split(r"[?#]", source, maxsplit=1)[0])


def fetch(url: str) -> bytes:
    """Returns the body of the answer, after redirects. Raises LookError.

    Blocks for at most TIMEOUT and two steps, not counting name lookups.
    """
    end = time.monotonic() + TIMEOUT
    for _ in range(REDIRECTS_MAX + 1):
        try:
            answer = _get(url, end)
            if isinstance(answer, bytes):
                return answer
        except LookError:
            raise
        except Exception as error:  # urllib, and what it calls, raise many kinds
            raise _look_error(error, end) from None
        url = _redirected(url, answer)
    raise LookError("redirect", f"it redirects more than {REDIRECTS_MAX} times, last to {shown(url)}")


def _get(url: str, end: float) -> bytes | str:
    """Returns the body, or the target of a redirect."""
    sockets: list[socket.socket] = []
    cut = threading.Timer(max(0.0, end - time.monotonic()), _cut, (sockets,))
    cut.daemon = True
    cut.start()
    try:
        with _opener(sockets).open(urllib.request.Request(url, headers=HEADERS), timeout=STEP_TIMEOUT) as answer:
            if answer.status != 200:
                raise LookError("status", f"it answers {answer.status}")
            return _decompressed(_body(answer, end), answer.headers.get("Content-Encoding", ""))
    except urllib.error.HTTPError as answer:
        with answer:
            location = answer.headers.get("Location")
            if answer.code in REDIRECTS and location:
                return str(location)
            raise LookError("status", f"it answers {answer.code}") from None
    finally:
        cut.cancel()


def _redirected(url: str, location: str) -> str:
    """Returns the URL that a redirect leads to. Raises LookError for one that must not be followed."""
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
    except ValueError:
        raise LookError("redirect", "it redirects to something that is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise LookError("redirect", f"it redirects to {shown(target)}, which is not a plain HTTP URL")
    if urlsplit(url).scheme == "https" and parts.scheme != "https":
        raise LookError(
            "redirect", f"it redirects from https to {shown(target)}, where anyone could substitute other keys"
        )
    return target


class _Unfollowed(urllib.request.HTTPRedirectHandler):
    """Does not follow redirects, since `fetch` does."""

    def http_error_302(self, *_: Any) -> None:
        """Leaves the answer to the next handler, which raises HTTPError."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment]


class _Noted:
    """A connection that adds its sockets to a list, so that `_cut` finds them: urllib detaches them before the body."""

    sockets: list[socket.socket]

    def __setattr__(self, name: str, value: object) -> None:
        if name == "sock" and isinstance(value, socket.socket):
            self.sockets.append(value)
        super().__setattr__(name, value)


class _PlainConnection(_Noted, http.client.HTTPConnection):
    """HTTP."""


class _SecureConnection(_Noted, http.client.HTTPSConnection):
    """HTTPS."""


def _opener(sockets: list[socket.socket]) -> urllib.request.OpenerDirector:
    """Returns an opener with the system's proxies and certificate authorities, which adds its sockets to the list."""

    def noted(kind: type[_PlainConnection | _SecureConnection], host: str, **more: Any) -> http.client.HTTPConnection:
        connection = kind(host, **more)
        connection.sockets = sockets
        return connection

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(partial(noted, _PlainConnection), req)

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(partial(noted, _SecureConnection), req)

    return urllib.request.build_opener(_Unfollowed, Plain, Secure)


def _cut(sockets: list[socket.socket]) -> None:
    """Ends reads that no timeout of a step ends, such as of a head that arrives byte by byte."""
    for each in sockets:
        with contextlib.suppress(OSError):  # already closed
            socket.socket.shutdown(each, socket.SHUT_RDWR)


def _body(answer: http.client.HTTPResponse, end: float) -> bytes:
    """Reads the body. Raises LookError if it is too large or late."""
    parts: list[bytes] = []
    size = 0
    while time.monotonic() < end:
        part = answer.read1(CHUNK)
        if not part and time.monotonic() < end:  # otherwise `_cut` ended it
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > BODY_MAX:
            raise LookError("too-large", f"its answer is longer than {BODY_MAX} bytes")
    raise LookError("timeout", f"its answer was not complete within {TIMEOUT:g} s")


def _decompressed(body: bytes, coding: str) -> bytes:
    """Decompresses a body, since some servers compress it although that was not requested."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):
        raise LookError("no-jwks", "its answer has a content coding that was not requested")
    gzip = zlib.decompressobj(wbits=31)
    text = gzip.decompress(body, BODY_MAX)
    if gzip.unconsumed_tail:
        raise LookError("too-large", f"its answer is longer than {BODY_MAX} bytes")
    return text


def _look_error(error: Exception, end: float) -> LookError:
    """Converts an error, whose text may contain secrets of the URL."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError) or time.monotonic() >= end:
        return LookError("timeout", "it does not answer in time")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return LookError("tls", f"its certificate is not valid: {cause.verify_message}")
    if isinstance(cause, ssl.SSLError):
        return LookError("tls", "TLS with it failed")
    if isinstance(cause, socket.gaierror):
        return LookError("connection", "its host name can't be resolved")
    if isinstance(cause, OSError):
        return LookError("connection", f"it can't be reached: {cause.strerror or type(cause).__name__}")
    if isinstance(cause, zlib.error):
        return LookError("no-jwks", "its answer can't be decompressed")
    if isinstance(cause, http.client.HTTPException):
        return LookError("connection", f"its answer is not HTTP: {type(cause).__name__}")
    return LookError("system", f"the request failed: {type(cause).__name__}")
