"""JSON Web Tokens, by PyJWT: the keys, what is asked of a token, and what it grants."""

from __future__ import annotations

import contextlib
import logging
import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from signal_py.errors import ConfigError
from signal_py.grants import Grant, grant_of
from signal_py.log import event
from signal_py.setting import ALGORITHMS
from signal_py.settings import Config

if TYPE_CHECKING:
    import jwt

FETCH_PAUSE = 1.0  # seconds at least between two looks for keys
FETCH_TIMEOUT = 5  # seconds for an answer of the server that has the keys
KEYS_TRIED = 4  # keys at most that one token is tried with, where its `kid` and algorithm name no single one
SECRET_MIN = 32  # bytes that HS256 asks for: who has a token can guess a shorter secret

logger = logging.getLogger(__name__)


class TokenError(Exception):
    """A token that is not good; the text says why, and holds nothing of the token."""


class KeyUnknownError(Exception):
    """A token is signed with a key that is not known, or not yet."""


class KeysMissingError(Exception):
    """No key could be fetched so far."""


Key = tuple[Any, str]
"""As PyJWT takes it, and the only algorithm that it is for."""


class Keys(Protocol):
    """Where a token's key is found."""

    source: str
    changing: bool  # there is something to fetch
    refresh: float  # seconds from one look to the next

    def find(self, header: dict[str, Any]) -> list[Key]:
        """The keys for a token's header: one, or up to KEYS_TRIED that it can't tell apart, of one algorithm.

        Raises KeyUnknownError, KeysMissingError.
        """

    def fetch(self) -> None:
        """Looks for keys; may block. What it raises is told, and leaves what is known as it is."""

    def pause(self) -> float:
        """Seconds to wait before the next look, where one is wanted at once."""


class FixedKey:
    """One key, given by a setting."""

    changing = False
    refresh = 0.0

    def __init__(self, key: Any, algorithm: str, source: str) -> None:
        self._key = key
        self.algorithm = algorithm
        self.source = source

    def find(self, header: dict[str, Any]) -> list[Key]:
        return [(self._key, self.algorithm)]

    def fetch(self) -> None:
        """There is nothing to fetch."""

    def pause(self) -> float:
        return 0.0


def shown(place: str) -> str:
    """A file, or a URL without what may be secret in it: who asks, and its query."""
    return re.sub(r"(?<=://)[^/]*@", "", place.partition("?")[0])


class KeySet:
    """A JWKS, in a file or behind a URL, looked at again and again. `find` and `fetch` may be on two threads."""

    changing = True

    def __init__(self, place: str, refresh: float) -> None:
        """`place`: a URL, or the path of a file. Raises ValueError for a URL that is none of the web's, or has a user:
        Python would send none, and take the password for a port, which its error then tells."""
        import jwt

        self.source = shown(place)
        self.refresh = refresh
        self._file: Path | None = None
        self._keys: dict[str | None, list[Key]] | None = None  # by `kid`, which several may have
        self._looked = -FETCH_PAUSE
        if "://" not in place:
            self._file = Path(place).resolve()
            return
        if self.source != place.partition("?")[0]:
            raise ValueError("it has a user, which is not sent: leave that out")
        try:
            self._client = jwt.PyJWKClient(place, lifespan=max(1, int(refresh)), timeout=FETCH_TIMEOUT)
        except jwt.PyJWKClientError:
            raise ValueError("its scheme is neither http nor https") from None

    def find(self, header: dict[str, Any]) -> list[Key]:
        keys = self._keys
        if keys is None:
            raise KeysMissingError("there are no keys yet")
        name = header.get("kid")
        fit = keys.get(name, []) if name is None or isinstance(name, str) else []
        if name is None and len(keys) == 1:
            fit = next(iter(keys.values()))
        if len(fit) > 1:  # without a name, or with the same for different kinds of keys (RFC 7517 §4.5)
            fit = [key for key in fit if key[1] == header.get("alg")]
        if not fit:
            raise KeyUnknownError("its key is not known")
        return fit

    def fetch(self) -> None:
        self._looked = time.monotonic()
        found = self._client.get_jwk_set(refresh=True) if self._file is None else self._read(self._file)
        keys: dict[str | None, list[Key]] = {}
        left_out = 0
        for key in found.keys:
            if is_private(key.key):
                name = key.key_id or "without a kid"
                raise ValueError(f"its key {name} is private, which signs tokens: list public keys")
            alike, algorithm = keys.setdefault(key.key_id, []), str(key.algorithm_name)
            if sum(other == algorithm for _, other in alike) < KEYS_TRIED:
                alike.append((key.key, algorithm))
            else:
                left_out += 1
        if left_out:
            text = "keys of a JWKS are left out: too many have the same kid, or none"
            event(logger, "warning", text, source=self.source, left_out=left_out, most=KEYS_TRIED)
        self._keys = keys

    def _read(self, file: Path) -> jwt.PyJWKSet:
        import jwt

        return jwt.PyJWKSet.from_json(file.read_text(encoding="utf-8"))

    def pause(self) -> float:
        return max(0.0, self._looked + FETCH_PAUSE - time.monotonic())


class Verifier:
    """Judges tokens by one set of rules. Not for two threads at a time."""

    def __init__(self, keys: Keys, algorithms: tuple[str, ...], audience: str, issuer: str, leeway: float) -> None:
        import jwt

        self.keys = keys
        self._algorithms = frozenset(algorithms)
        self._audience = audience or None
        self._issuer = issuer or None
        self._leeway = leeway
        self._jwt = jwt.PyJWT({"verify_aud": bool(audience), "verify_iss": bool(issuer)})
        self._wrong = jwt.InvalidTokenError
        self._forged = jwt.InvalidSignatureError
        self._header = jwt.get_unverified_header

    def grant(self, token: bytes) -> Grant:
        """What a token grants. Raises TokenError, GrantError, KeyUnknownError, KeysMissingError."""
        try:
            header = self._header(token) if self.keys.changing else {}
            claims = self._claims(token, self.keys.find(header))
        except self._wrong as wrong:
            raise TokenError(str(wrong)) from None
        if "exp" in claims:
            try:
                claims["exp"] = int(claims["exp"]) + self._leeway
            except OverflowError:
                raise TokenError("its end is beyond all time") from None
        return grant_of(claims)

    def _claims(self, token: bytes, keys: list[Key]) -> dict[str, Any]:
        """By the first key whose signature it has. Raises TokenError, and what PyJWT does."""
        *others, last = keys
        for key in others:
            with contextlib.suppress(self._forged):
                return self._decode(token, *key)
        return self._decode(token, *last)

    def _decode(self, token: bytes, key: Any, algorithm: str) -> dict[str, Any]:
        if algorithm not in self._algorithms:
            raise TokenError(f"{algorithm} is not among the algorithms that are allowed")
        claims: dict[str, Any] = self._jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway,
        )
        return claims


def verifier_of(config: Config) -> Verifier:
    """That of the settings. Raises ConfigError."""
    keys = keys_of(config)
    algorithms = config.auth_algorithms or ALGORITHMS
    if isinstance(keys, FixedKey) and keys.algorithm not in algorithms:
        raise ConfigError(
            f"{config.named('auth-algorithms')} has no {keys.algorithm}, which the key {keys.source} is for: add it."
        )
    return Verifier(keys, algorithms, config.auth_audience, config.auth_issuer, config.auth_leeway)


def keys_of(config: Config) -> Keys:
    """The key or keys of the settings, of which exactly one is given. Raises ConfigError."""
    require_jwt(f"{config.named('auth')} jwt")
    if config.auth_key:
        check_secret(config.auth_key, config.named("auth-key"))
        _warn_of_short(config.auth_key.encode(errors="surrogateescape"), config.named("auth-key"))
        return FixedKey(config.auth_key, "HS256", config.named("auth-key"))
    if config.auth_key_file:
        return _key_of_file(config.auth_key_file, config.named("auth-key-file"))
    try:
        keys = KeySet(config.auth_jwks, config.auth_refresh)
        if "://" not in config.auth_jwks:
            keys.fetch()
    except Exception as error:  # whatever PyJWT says of what is no JWKS
        place = f"{config.named('auth-jwks')} {shown(config.auth_jwks)}"
        reason = (error.strerror if isinstance(error, OSError) else None) or error  # an OSError's text has the path
        raise ConfigError(f"{place} can't be used: {reason}. Name a JWKS file or its URL.") from None
    return keys


def require_jwt(what: str) -> None:
    """For what needs it. Raises ConfigError where PyJWT is not installed."""
    try:
        import jwt  # noqa: F401
    except ImportError:
        raise ConfigError(f"{what} needs PyJWT: pip install 'signal-engine[jwt]'.") from None


def hush_pyjwt() -> None:
    """For our own commands: PyJWT's words about a short secret go past the log, and name no setting as ours do."""
    warnings.filterwarnings("ignore", message="The HMAC key is ")


def _warn_of_short(secret: bytes, named: str) -> None:
    if len(secret) < SECRET_MIN:
        text = f"the secret of tokens is short and can be guessed: use {SECRET_MIN} random bytes or more"
        event(logger, "warning", text, setting=named, bytes=len(secret))


def _key_of_file(path: str, named: str) -> FixedKey:
    """A public key (PEM) for the algorithm of its kind; what is no PEM is a secret for HS256."""
    data = read_key(path, named)
    if not data.startswith(b"-----BEGIN"):
        check_secret(data, named)
        _warn_of_short(data, named)
        return FixedKey(data, "HS256", path)
    key = load_pem(data, named, path)
    if is_private(key):
        raise ConfigError(
            f"{named} {path} is a private key, which signs tokens: name the public one "
            f"(openssl pkey -in {path} -pubout)."
        )
    return FixedKey(key, algorithm_of(key, f"{named} {path}"), path)


def read_key(path: str, named: str) -> bytes:
    """What a file holds. Raises ConfigError."""
    try:
        data = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{named} {path} can't be read: {error.strerror}. Name a file that can be.") from None
    if not data:
        raise ConfigError(f"{named} {path} is empty: name a file with a key.")
    return data


def check_secret(secret: bytes | str, named: str) -> None:
    """Raises ConfigError for a public key or a certificate, which are no secrets: PyJWT would refuse each token."""
    import jwt

    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ConfigError(
            f"{named} is a key or certificate, no secret: give a secret, or a file with a PEM key."
        ) from None


def load_pem(data: bytes, named: str, path: str) -> Any:
    """A public or private key. Raises ConfigError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    try:
        return load_pem_private_key(data, None) if b"PRIVATE" in data.split(b"\n", 1)[0] else load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{named} {path} holds no key that can be used: {reason}.") from None


def is_private(key: object) -> bool:
    """Of a key of cryptography's: whether it can sign. A public key has no public part of its own."""
    return hasattr(key, "public_key")


def algorithm_of(key: object, named: str) -> str:
    """The algorithm for a key of cryptography's. Raises ConfigError."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return "RS256"
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1":
        return "ES256"
    if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return "EdDSA"
    raise ConfigError(f"{named} holds a key of another kind: use RSA, P-256 or Ed25519.")


# -- for trying out --


def mint(claims: dict[str, Any], key: Any, algorithm: str, name: str | None = None) -> str:
    """A signed token; `name`: of the key, in a JWKS."""
    import jwt

    return jwt.encode(claims, key, algorithm=algorithm, headers=None if name is None else {"kid": name})


def inspect(token: str) -> dict[str, Any]:
    """Header and claims, of which nothing is verified. Raises ConfigError where it is no token."""
    import jwt

    try:
        found = jwt.decode_complete(token, options={"verify_signature": False})
    except UnicodeError:
        raise ConfigError("this is no JSON Web Token (it has bytes that are no text): give the whole of one.") from None
    except jwt.InvalidTokenError as wrong:
        raise ConfigError(f"this is no JSON Web Token ({wrong}): give the whole of one.") from None
    return {"header": found["header"], "claims": found["payload"]}
