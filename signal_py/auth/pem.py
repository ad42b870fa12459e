"""Reads keys from PEM files, and secrets, and finds the algorithm of a key."""

from __future__ import annotations

import re
from typing import Any

from signal_py.base import files
from signal_py.base.errors import ConfigError

BEGIN = re.compile(rb"^(?:\xef\xbb\xbf)?-----BEGIN ([A-Z0-9 ]+)-----", re.MULTILINE)
PARAMETERS = re.compile(rb"-----BEGIN EC PARAMETERS-----.*?-----END EC PARAMETERS-----\s*", re.DOTALL)


def pem_of(data: bytes) -> tuple[str, bytes]:
    """Returns the label of the first PEM block, such as `PUBLIC KEY`, and the data from there on; "" if there is none.

    Skips text before it (RFC 7468 §2), and the curve parameters that `openssl ecparam -genkey` writes before a key,
    since the key contains them.
    """
    data = PARAMETERS.sub(b"", data)
    begin = BEGIN.search(data)
    return (begin[1].decode(), data[begin.start(1) - len(b"-----BEGIN ") :]) if begin else ("", b"")


def read_key(path: str, named: str) -> bytes:
    """Reads a file, and strips white space. Raises ConfigError. `named`: how the setting was given."""
    try:
        data = files.read(path).strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{named} {path} can't be read: {files.reason(error)}. Name a readable file.") from None
    if not data:
        raise ConfigError(f"{named} {path} is empty: name a file with a key or a secret.")
    return data


def check_secret(secret: bytes | str, named: str) -> None:
    """Raises ConfigError for a public key or certificate, since PyJWT would refuse every token with it."""
    import jwt

    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ConfigError(
            f"{named} is a key or certificate, not a secret: give a secret, or a file with a PEM key."
        ) from None


def load_pem(label: str, data: bytes, named: str, path: str) -> Any:
    """Loads the public or private key that `pem_of` found. Raises ConfigError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    if "CERTIFICATE" in label:
        raise ConfigError(
            f"{named} {path} is a certificate: "
            f"name a file with its public key (openssl x509 -in {path} -pubkey -noout)."
        )
    try:
        return load_pem_private_key(data, None) if "PRIVATE" in label else load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{named} {path} holds no usable key ({reason}): name a PEM file with a key, without a passphrase."
        ) from None


def is_private(key: object) -> bool:
    """Returns whether a key of cryptography can sign. Only private keys have `public_key`."""
    return hasattr(key, "public_key")


def algorithm_of(key: object, named: str) -> str:
    """Returns the algorithm of a key of cryptography. Raises ConfigError."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return "RS256"
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1":
        return "ES256"
    if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return "EdDSA"
    raise ConfigError(f"{named} holds a key of an unsupported type: use RSA, P-256 or Ed25519.")
