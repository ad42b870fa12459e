"""Keys in PEM files, and secrets: what they are, and for which algorithm."""

from __future__ import annotations

import re
from typing import Any

from signal_py.base import files
from signal_py.base.errors import ConfigError

BEGIN = re.compile(rb"^(?:\xef\xbb\xbf)?-----BEGIN ([A-Z0-9 ]+)-----", re.MULTILINE)
PARAMETERS = re.compile(rb"-----BEGIN EC PARAMETERS-----.*?-----END EC PARAMETERS-----\s*", re.DOTALL)


def pem_of(data: bytes) -> tuple[str, bytes]:
    """The label of the first PEM block, such as `PUBLIC KEY`, and what begins with it; "" where there is none.

    Text before it is for people (RFC 7468 §2), and the parameters of a curve, which `openssl ecparam -genkey` puts
    before its key, are in that key, too.
    """
    data = PARAMETERS.sub(b"", data)
    begin = BEGIN.search(data)
    return (begin[1].decode(), data[begin.start(1) - len(b"-----BEGIN ") :]) if begin else ("", b"")


def read_key(path: str, named: str) -> bytes:
    """What a file holds, without white space around it. Raises ConfigError."""
    try:
        data = files.read(path).strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{named} {path} can't be read: {files.reason(error)}. Name a readable file.") from None
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
            f"{named} is a key or certificate, not a secret: give a secret, or a file with a PEM key."
        ) from None


def load_pem(label: str, data: bytes, named: str, path: str) -> Any:
    """The public or private key that `pem_of` found. Raises ConfigError."""
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
        raise ConfigError(f"{named} {path} holds no usable key: {reason}.") from None


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
    raise ConfigError(f"{named} holds a key of an unsupported type: use RSA, P-256 or Ed25519.")
