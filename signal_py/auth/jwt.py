"""Verifies JSON Web Tokens with PyJWT, and returns what they grant."""

from __future__ import annotations

import base64
import json
import math
import time
import warnings
from typing import Any

from signal_py.auth.grants import Grant, grant_of
from signal_py.auth.jwks import Key
from signal_py.auth.keys import FixedKey, KeyFile, Keys, KeyUnknownError, keys_of
from signal_py.base.errors import ConfigError, Fault
from signal_py.base.log import clipped
from signal_py.config.settings import Config
from signal_py.config.types import ALGORITHMS

TIMES = ("exp", "nbf", "iat")


class TokenError(Exception):
    """A token that is refused. The text says why, and contains nothing of the token.

    `claim` is what is wrong: a claim, a parameter of the header, "signature", or "token" if it is not a JWT.
    """

    def __init__(self, claim: str, text: str) -> None:
        super().__init__(text)
        self.claim = claim


def header_of(token: bytes) -> dict[str, Any]:
    """Returns the header, unverified. Raises TokenError."""
    head = token.partition(b".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise TokenError("token", "it is not a JSON Web Token")
    return header


def described(token: bytes) -> dict[str, str]:
    """Returns the key's name and the algorithm of a token's header, safe to log."""
    try:
        header = header_of(token)
    except TokenError:
        return {}
    return {name: clipped(text) for name in ("kid", "alg") if isinstance(text := header.get(name), str)}


class Verifier:
    """Verifies tokens by one set of rules. Not thread-safe."""

    def __init__(self, keys: Keys, algorithms: tuple[str, ...], audience: str, issuer: str, leeway: float) -> None:
        import jwt

        self.keys = keys
        self._algorithms = frozenset(algorithms)
        self._audience = audience or None
        self._issuer = issuer or None
        self._leeway = leeway
        # Times are checked below: PyJWT accepts text as a number, and refuses an `iat` in the future.
        self._jwt = jwt.PyJWT(
            {
                "verify_aud": bool(audience),
                "verify_iss": bool(issuer),
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            }
        )
        self._jws = jwt.PyJWS()
        self._errors = jwt.exceptions

    def grant(self, token: bytes) -> Grant:
        """Returns what a token grants. Raises TokenError, GrantError, KeyUnknownError, KeysMissingError."""
        name, algorithm = self._named(header_of(token))
        keys = self.keys.find(name, algorithm)
        try:
            claims = self._claims(token, self._fitting(token, keys) if len(keys) > 1 else keys[0])
        except self._errors.InvalidSignatureError:
            # A named key is not looked up again, since the key of a name does not change.
            if self.keys.changing and (name is None or isinstance(self.keys, KeyFile)):
                raise KeyUnknownError("signature", "none of the known keys has signed it") from None
            raise TokenError("signature", "its key has not signed it") from None
        except self._errors.InvalidTokenError as wrong:
            raise self._token_error(wrong) from None
        if (end := self._end(claims)) is not None:
            claims["exp"] = end
        return grant_of(claims)

    def _named(self, header: dict[str, Any]) -> tuple[str | None, str]:
        """Returns the key's name and the algorithm. Raises TokenError for a header that no key can make valid."""
        if "crit" in header:
            raise TokenError("crit", "it requires an extension (RFC 7515 §4.1.11), and none is supported")
        if header.get("b64", True) is not True:
            raise TokenError("b64", "its payload is not base64url (RFC 7797)")
        name, algorithm = header.get("kid"), header.get("alg")
        if name is not None and not isinstance(name, str):
            raise TokenError("kid", "its kid is not a string")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise TokenError("alg", "its algorithm is not allowed")
        return name, algorithm

    def _fitting(self, token: bytes, keys: list[Key]) -> Key:
        """Returns the key that signed the token, else the last one. All have one algorithm. Raises PyJWT's errors."""
        import jwt

        signature = self._jws.decode_complete(token, options={"verify_signature": False})["signature"]
        text = token.rpartition(b".")[0]
        scheme = jwt.get_algorithm_by_name(keys[0].algorithm)
        return next((key for key in keys if scheme.verify(text, scheme.prepare_key(key.key), signature)), keys[-1])

    def _claims(self, token: bytes, key: Key) -> dict[str, Any]:
        """Returns the verified claims. Raises PyJWT's errors."""
        claims: dict[str, Any] = self._jwt.decode(
            token, key.key, algorithms=[key.algorithm], audience=self._audience, issuer=self._issuer
        )
        return claims

    def _token_error(self, wrong: Exception) -> TokenError:
        """Converts an error of PyJWT, whose text may contain parts of the token."""
        errors = self._errors
        if isinstance(wrong, errors.InvalidAlgorithmError):
            return TokenError("alg", "its algorithm does not fit its key")
        if isinstance(wrong, errors.MissingRequiredClaimError):
            return TokenError(wrong.claim, f"it has no {wrong.claim}")
        if isinstance(wrong, errors.InvalidAudienceError):
            return TokenError("aud", "it is for another audience")
        if isinstance(wrong, errors.InvalidIssuerError):
            return TokenError("iss", "it is from another issuer")
        if isinstance(wrong, errors.InvalidSubjectError):
            return TokenError("sub", "its sub is not a string")
        if isinstance(wrong, errors.InvalidJTIError):
            return TokenError("jti", "its jti is not a string")
        return TokenError("token", "it is not a JSON Web Token")

    def _end(self, claims: dict[str, Any]) -> float | None:
        """Returns when a token expires, with the leeway; None for never.

        Raises TokenError for a time that is not a number (RFC 7519 §2), or if the token is not valid now. `iat` is
        never a reason to refuse (§4.1.6).
        """
        for name in TIMES:
            if name in claims and not _is_number(claims[name]):
                raise TokenError(name, f"its {name} is not a number of seconds")
        now = time.time()
        if claims.get("nbf", now) > now + self._leeway:
            raise TokenError("nbf", "it is not valid yet")
        if "exp" not in claims:
            return None
        try:
            end: float = claims["exp"] + self._leeway
        except OverflowError:
            raise TokenError("exp", "its expiry time is too large") from None
        if end <= now:
            raise TokenError("exp", "it has expired")
        return end


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    )


def verifier_of(config: Config) -> Verifier:
    """Returns the verifier that the settings describe. Raises ConfigError."""
    keys = keys_of(config)
    algorithms = config.auth_algorithms or ALGORITHMS
    if isinstance(keys, FixedKey | KeyFile) and (wanted := keys.key.algorithm) not in algorithms:
        named = config.named("auth-algorithms")
        text = f"{named} has no {wanted}, which the key {keys.source} is for: add it."
        raise ConfigError(Fault(text, "auth-algorithms", named))
    return Verifier(keys, algorithms, config.auth_audience, config.auth_issuer, config.auth_leeway)


def hush_pyjwt() -> None:
    """Hides PyJWT's warning about short keys in our commands. Our own warning names the setting."""
    warnings.filterwarnings("ignore", message="The (HMAC|RSA) key is ")


# -- for the command `token` --


def mint(claims: dict[str, Any], key: Any, algorithm: str, name: str | None = None) -> str:
    """Returns a signed token. `name`: the key's name in a JWKS."""
    import jwt

    return jwt.encode(claims, key, algorithm=algorithm, headers=None if name is None else {"kid": name})


def inspect(token: str) -> dict[str, Any]:
    """Returns header and claims, unverified. Raises ConfigError if this is not a token."""
    import jwt

    try:
        found = jwt.decode_complete(token, options={"verify_signature": False})
    except UnicodeError:
        raise ConfigError("this is not a JSON Web Token (it is not text): give a complete token.") from None
    except jwt.InvalidTokenError as wrong:
        raise ConfigError(f"this is not a JSON Web Token ({wrong}): give a complete token.") from None
    return {"header": found["header"], "claims": found["payload"]}
