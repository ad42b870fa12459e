"""Where the keys of tokens come from: a setting, a file, a JWKS in a file or behind a URL."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from signal_py.auth.jwks import RSA_MIN, SECRET_MIN, Jwks, Key, parse, weakness
from signal_py.auth.jwks_fetch import LookError, fetch, shown
from signal_py.auth.pem import algorithm_of, check_secret, is_private, load_pem, pem_of, read_key
from signal_py.base import files
from signal_py.base.errors import ConfigError
from signal_py.base.log import event
from signal_py.config.settings import Config

LOOK_PAUSE = 1.0  # minimum seconds from the beginning of one lookup to the next
RETRY_MAX = 30.0  # maximum seconds until the next lookup after a failure: LOOK_PAUSE, doubled each time
REMARKS_TOLD = 5  # remarks about keys of a JWKS in one log line

logger = logging.getLogger(__name__)


class KeyUnknownError(Exception):
    """A token is signed with an unknown key. `claim` is the part of the token that shows it."""

    def __init__(self, claim: str, text: str) -> None:
        super().__init__(text)
        self.claim = claim


class KeysMissingError(Exception):
    """No key could be loaded so far."""


class Trouble(NamedTuple):
    """Why the last lookup of keys failed."""

    reason: str  # one of jwks_fetch.REASONS
    text: str


class Keys(Protocol):
    """A source of keys. `find` and `look` may run on two threads at once."""

    source: str
    changing: bool  # the keys may change, so `look` has an effect
    refresh: float  # seconds between lookups
    trouble: Trouble | None  # of the last lookup; also set by a caller whose wait timed out

    @property
    def count(self) -> int:
        """The number of keys that are known now."""

    def find(self, name: str | None, algorithm: str) -> list[Key]:
        """Returns the keys for a token with this `kid`: one, or up to KEYS_TRIED to try.

        Raises KeyUnknownError, KeysMissingError.
        """

    def look(self) -> None:
        """Loads the keys; may block. If that fails, the known keys stay, and `trouble` says why."""

    def pause(self) -> float:
        """Returns the seconds until the next lookup is allowed."""


class FixedKey:
    """A key that does not change: a secret of a setting, or what a pipe contained."""

    changing = False
    refresh = 0.0
    count = 1

    def __init__(self, key: Key, source: str) -> None:
        self.key = key
        self.source = source
        self.trouble: Trouble | None = None

    def find(self, name: str | None, algorithm: str) -> list[Key]:
        """Returns the key, for any token."""
        return [self.key]

    def look(self) -> None:
        """Does nothing."""

    def pause(self) -> float:
        """Returns 0."""
        return 0.0


class _Changing:
    """A source that may change."""

    changing = True

    def __init__(self, source: str, refresh: float) -> None:
        self.source = source
        self.refresh = refresh
        self.trouble: Trouble | None = None
        self._looked = -LOOK_PAUSE

    def look(self) -> None:
        """Loads the keys, as Keys.look."""
        self._looked = time.monotonic()
        try:
            self.load()
        except LookError as error:
            self.trouble = Trouble(error.reason, str(error))
        except (OSError, ValueError) as error:  # a ConfigError is one
            self.trouble = Trouble("file", files.reason(error))
        else:
            self.trouble = None

    def load(self) -> None:
        """Loads the keys, or leaves the known ones. Raises LookError, OSError, ValueError."""
        raise NotImplementedError

    def pause(self) -> float:
        """Returns the seconds until the next lookup is allowed: LOOK_PAUSE after the last one began."""
        return max(0.0, self._looked + LOOK_PAUSE - time.monotonic())


class KeyFile(_Changing):
    """A file with one key or secret, read periodically."""

    count = 1

    def __init__(self, path: str, named: str, refresh: float) -> None:
        """Raises ConfigError."""
        super().__init__(path, refresh)
        self._named = named
        self.key = _key_of_file(path, named)
        _warn_of_weak(self.key, named)

    def find(self, name: str | None, algorithm: str) -> list[Key]:
        """Returns the key, for a token with its algorithm. Raises KeyUnknownError."""
        if algorithm != self.key.algorithm:
            raise KeyUnknownError("alg", "its algorithm does not fit the key")
        return [self.key]

    def load(self) -> None:
        """Reads the file again. Logs a change of the key."""
        key = _key_of_file(self.source, self._named)
        if key.algorithm != self.key.algorithm or key.key != self.key.key:
            _warn_of_weak(key, self._named)
            event(logger, "info", "the key for tokens has changed", source=self.source)
        self.key = key


class KeySet(_Changing):
    """A JWKS in a file or at a URL, loaded periodically."""

    def __init__(self, source: str, refresh: float) -> None:
        """`source`: a path, or a URL (http, https, file). Raises ValueError for another URL, or one with a user."""
        super().__init__(shown(source), refresh)
        self._jwks: Jwks | None = None
        self._logged: list[str] = []  # the remarks of the last line
        self._url = source
        self._path = source if "://" not in source else ""
        if self._path:
            return
        try:
            parts = urlsplit(source)
            _ = parts.port
        except ValueError:  # whose text may contain a password
            raise ValueError("it is not a URL") from None
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            self._path = unquote(parts.path)
        elif parts.scheme not in ("http", "https"):
            raise ValueError("its scheme is not http, https or file")
        elif "@" in parts.netloc:
            raise ValueError("it has a user name, which would not be sent: leave it out")
        elif not parts.hostname:
            raise ValueError("it names no host")

    @property
    def is_file(self) -> bool:
        """Whether the JWKS is in a file."""
        return bool(self._path)

    @property
    def count(self) -> int:
        """The number of keys that are known now."""
        return self._jwks.count if self._jwks is not None else 0

    def find(self, name: str | None, algorithm: str) -> list[Key]:
        """Returns the keys for a token, as Keys.find."""
        if self._jwks is None:
            raise KeysMissingError("there are no keys yet")
        found = self._jwks.find(name, algorithm)
        if not found:
            raise KeyUnknownError("kid", f"there is no key for {algorithm}" if name is None else "its key is not known")
        return found

    def load(self) -> None:
        """Reads or fetches the JWKS. Logs remarks about its keys, if they have changed."""
        jwks = parse(files.read(self._path) if self._path else fetch(self._url))
        if jwks.remarks and jwks.remarks != self._logged:
            reason = "; ".join(jwks.remarks[:REMARKS_TOLD])
            text = "some keys of the JWKS are skipped or weak"
            event(logger, "warning", text, source=self.source, keys=jwks.count, found=len(jwks.remarks), reason=reason)
        self._logged = jwks.remarks
        self._jwks = jwks


def keys_of(config: Config) -> Keys:
    """Returns the source of keys that the settings name. Raises ConfigError."""
    require_jwt(f"{config.named('auth')} jwt")
    if config.auth_key:
        named = config.named("auth-key")
        try:
            secret = config.auth_key.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            raise ConfigError(f"{named} can't be encoded: give a secret in UTF-8.") from None
        check_secret(secret, named)
        fixed = FixedKey(Key(secret, "HS256"), named)
        _warn_of_weak(fixed.key, named)
        return fixed
    if config.auth_key_file:
        return _keys_of_file(config.auth_key_file, config.named("auth-key-file"), config.auth_refresh)
    return _keys_of_set(config.auth_jwks, config.named("auth-jwks"), config.auth_refresh)


def require_jwt(what: str) -> None:
    """Raises ConfigError if PyJWT, which `what` needs, is not installed."""
    try:
        import jwt  # noqa: F401
    except ImportError:
        raise ConfigError(f"{what} needs PyJWT: pip install 'signal-engine-ws[jwt]'.") from None


def _keys_of_file(path: str, named: str, refresh: float) -> Keys:
    """Reads a file periodically, but a pipe or other special file only once."""
    try:
        again = files.is_regular(path)
    except (OSError, ValueError):
        again = True  # reading it will report the error
    if again:
        return KeyFile(path, named, refresh)
    fixed = FixedKey(_key_of_file(path, named), path)
    _warn_of_weak(fixed.key, named)
    return fixed


def _keys_of_set(source: str, named: str, refresh: float) -> Keys:
    """Loads a file at once. A URL may be out of reach for a while, so it is loaded later."""
    try:
        keys = KeySet(source, refresh)
        if keys.is_file:
            keys.look()
            if keys.trouble is not None:
                raise ValueError(keys.trouble.text)
    except ValueError as error:
        raise ConfigError(f"{named} {shown(source)} can't be used: {error}. Name a JWKS file or its URL.") from None
    return keys


def _key_of_file(path: str, named: str) -> Key:
    """Reads a public key (PEM), for the algorithm of its type, or else a secret for HS256. Raises ConfigError."""
    data = read_key(path, named)
    label, pem = pem_of(data)
    if not label:
        check_secret(data, named)
        return Key(data, "HS256")
    key = load_pem(label, pem, named, path)
    if is_private(key):
        raise ConfigError(f"{named} {path} is a private key: name the public key (openssl pkey -in {path} -pubout).")
    return Key(key, algorithm_of(key, f"{named} {path}"))


def _warn_of_weak(key: Key, named: str) -> None:
    if not weakness(key):
        return
    if key.algorithm == "HS256":
        text = f"the secret for tokens is short and can be guessed: use {SECRET_MIN} random bytes or more"
        event(logger, "warning", text, setting=named, bytes=len(key.key))
    else:
        text = f"the key for tokens is short and can be broken: use RSA of {RSA_MIN} bits or more"
        event(logger, "warning", text, setting=named, bits=key.key.key_size)
