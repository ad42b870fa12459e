"""Parses a JWKS (RFC 7517): keys that verify signatures, and remarks about those that are skipped. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from signal_py.auth.jwks_fetch import LookError
from signal_py.auth.pem import algorithm_of, is_private
from signal_py.base.errors import ConfigError
from signal_py.base.log import clipped
from signal_py.config.types import ALGORITHMS

KEYS_MAX = 1024  # keys that are read from one set
KEYS_TRIED = 8  # keys that are tried for one token, if its `kid` and algorithm fit several
SECRET_MIN = 32  # bytes
RSA_MIN = 2048  # bits


class Key(NamedTuple):
    """A key for PyJWT, and its only algorithm."""

    key: Any
    algorithm: str


@dataclass(frozen=True)
class Jwks:
    """The keys of a set. Immutable once parsed."""

    by_name: dict[str, list[Key]] = field(default_factory=dict)  # `kid`: at most KEYS_TRIED keys for each algorithm
    by_algorithm: dict[str, list[Key]] = field(default_factory=dict)  # the first KEYS_TRIED keys for each
    remarks: list[str] = field(default_factory=list)  # about keys that are skipped or weak
    count: int = 0  # number of usable keys

    def find(self, name: str | None, algorithm: str) -> list[Key]:
        """Returns the keys that may have signed a token with this `kid`, or without one.

        Several keys may have one name, for different algorithms (RFC 7517 §4.5).
        """
        if name is None:
            return self.by_algorithm.get(algorithm, [])
        named = self.by_name.get(name, [])
        return named if len(named) == 1 else [key for key in named if key.algorithm == algorithm]


def parse(data: bytes) -> Jwks:
    """Parses a JWKS. Raises LookError if it is none, has no key for signatures, or contains a private key."""
    keys = _members(data)
    usable: list[tuple[str | None, Key]] = []
    remarks: list[str] = []
    for each in keys[:KEYS_MAX]:
        jwk = _without_nulls(each)
        name = jwk.get("kid") if isinstance(jwk, dict) else None
        called = _called(name)
        found = _usable(jwk, called)
        if isinstance(found, Key):
            usable.append((name, found))
        remark = weakness(found) if isinstance(found, Key) else found
        if remark:
            remarks.append(f"{called}: {remark}")
    if len(keys) > KEYS_MAX:
        remarks.append(f"only the first {KEYS_MAX} keys are used")
    if not usable:
        why = f" ({remarks[0]})" if remarks else ""
        raise LookError("no-key", f"it has no key for verifying signatures{why}")
    return _indexed(usable, remarks)


def _members(data: bytes) -> list[object]:
    """Returns the list `keys`. Raises LookError if there is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        what = "HTML" if data.lstrip()[:1] == b"<" else "no JSON"
        raise LookError("no-jwks", f"it is {what}, not a JWKS") from None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise LookError("no-jwks", "it is not a JWKS: it has no list 'keys'")
    return keys


def _indexed(usable: list[tuple[str | None, Key]], remarks: list[str]) -> Jwks:
    by_name: dict[str, list[Key]] = {}
    by_algorithm: dict[str, list[Key]] = {}
    for name, key in sorted(usable, key=lambda item: item[0] is not None):  # a token without a kid may mean any of them
        room = _put(by_algorithm.setdefault(key.algorithm, []), key)
        if name is not None:
            room = _put(by_name.setdefault(name, []), key)
        if not room:
            remarks.append(f"{_called(name)}: more than {KEYS_TRIED} keys have this name")
    return Jwks(by_name, by_algorithm, remarks, len(usable))


def _without_nulls(jwk: object) -> object:
    """Removes members that are null, which some providers write for absent ones."""
    return {name: value for name, value in jwk.items() if value is not None} if isinstance(jwk, dict) else jwk


def _called(name: object) -> str:
    return f"key {clipped(name)}" if isinstance(name, str) else "a key without a kid"


def weakness(key: Key) -> str:
    """Returns why a key is weak; "" if it is not (RFC 7518 §3.2, §3.3)."""
    if key.algorithm == "HS256" and len(key.key) < SECRET_MIN:
        return f"a secret of {len(key.key)} bytes can be guessed: use {SECRET_MIN} random bytes or more"
    if key.algorithm == "RS256" and key.key.key_size < RSA_MIN:
        return f"RSA of {key.key.key_size} bits can be broken: use {RSA_MIN} bits or more"
    return ""


def _put(alike: list[Key], key: Key) -> bool:
    """Adds a key. Returns False if KEYS_TRIED keys of its algorithm are there already."""
    room = sum(other.algorithm == key.algorithm for other in alike) < KEYS_TRIED
    if room:
        alike.append(key)
    return room


def _usable(jwk: object, called: str) -> Key | str:
    """Returns the key, or why it can't be used; "" if it has another purpose. Raises LookError for a private key."""
    if not isinstance(jwk, dict):
        return "it is not an object"
    if "d" in jwk:
        raise LookError("no-jwks", f"{called} is a private key: list public keys only")
    operations = jwk.get("key_ops")
    if jwk.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return ""
    if not isinstance(jwk.get("kid", ""), str):
        return "its kid is not a string"
    algorithm = jwk.get("alg")
    if algorithm is not None and algorithm not in ALGORITHMS:
        return f"its alg is none of {', '.join(ALGORITHMS)}"
    return _loaded(jwk, algorithm, called)


def _loaded(jwk: dict[str, Any], algorithm: str | None, called: str) -> Key | str:
    """Loads a key. Returns and raises as `_usable`.

    PyJWT's error about a bad key is not repeated, since it may contain the key.
    """
    import jwt

    try:
        key = jwt.PyJWK(jwk).key
        meant = "HS256" if jwk.get("kty") == "oct" else algorithm_of(key, "it")
    except ConfigError:
        return "it is none of RSA, P-256 and Ed25519"
    except Exception:  # PyJWT and cryptography raise many kinds
        return "it is malformed or of an unknown type"
    if is_private(key):
        raise LookError("no-jwks", f"{called} is a private key: list public keys only")
    return Key(key, meant) if algorithm in (None, meant) else f"its alg does not fit a {meant} key"
