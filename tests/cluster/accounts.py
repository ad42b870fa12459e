"""Keys, JWTs and credentials for NATS, made here: an operator, an account, and its users."""

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys


def make_key(prefix: int) -> tuple[nkeys.KeyPair, str]:
    """A key pair and its seed."""
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return nkeys.from_seed(bytearray(seed)), bytes(seed).decode()


def public(pair: nkeys.KeyPair) -> str:
    return str(pair.public_key.decode())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(issuer: nkeys.KeyPair, subject: str, kind: str, more: dict[str, Any]) -> str:
    """A JWT as NATS has them: signed by an nkey, its id a hash of its claims."""
    claims: dict[str, Any] = {"iat": int(time.time()), "iss": public(issuer), "sub": subject, "name": kind}
    claims["nats"] = {**more, "type": kind, "version": 2}
    digest = hashlib.new("sha256", json.dumps(claims).encode()).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    head = b64(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    body = f"{head}.{b64(json.dumps(claims).encode())}"
    return f"{body}.{b64(issuer.sign(body.encode()))}"


LIMITS = {"subs": -1, "data": -1, "payload": -1}
ACCOUNT_LIMITS = {**LIMITS, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "wildcards": True}


def make_operator(folder: Path) -> tuple[str, Path]:
    """(configuration of a server that trusts an operator with one account, credentials of a user of it)."""
    operator, _ = make_key(nkeys.PREFIX_BYTE_OPERATOR)
    account, _ = make_key(nkeys.PREFIX_BYTE_ACCOUNT)
    user, seed = make_key(nkeys.PREFIX_BYTE_USER)
    account_jwt = token(operator, public(account), "account", {"limits": ACCOUNT_LIMITS})
    config = (
        f"operator: {token(operator, public(operator), 'operator', {})}\n"
        f"resolver: MEMORY\nresolver_preload {{ {public(account)}: {account_jwt} }}\n"
    )
    creds = folder / "user.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token(account, public(user), 'user', dict(LIMITS))}\n"
        "------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    return config, creds
