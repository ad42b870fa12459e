"""Keys, JWTs and credentials for NATS: an operator, an account, and its users."""

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


def token(issuer: nkeys.KeyPair, subject: str, kind: str, more: dict[str, Any], **claimed: Any) -> str:
    """A JWT for NATS: signed with an nkey; its id is a hash of its claims."""
    claims: dict[str, Any] = {"iat": int(time.time()), "iss": public(issuer), "sub": subject, "name": kind}
    claims.update(claimed)
    claims["nats"] = {**more, "type": kind, "version": 2}
    digest = hashlib.new("sha256", json.dumps(claims).encode()).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    head = b64(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    body = f"{head}.{b64(json.dumps(claims).encode())}"
    return f"{body}.{b64(issuer.sign(body.encode()))}"


LIMITS = {"subs": -1, "data": -1, "payload": -1}
ACCOUNT_LIMITS = {**LIMITS, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "wildcards": True}


class Operator:
    """An operator with one account, for a server that trusts it."""

    def __init__(self, **limits: int) -> None:
        self.operator, _ = make_key(nkeys.PREFIX_BYTE_OPERATOR)
        self.account, _ = make_key(nkeys.PREFIX_BYTE_ACCOUNT)
        self.user, self.seed = make_key(nkeys.PREFIX_BYTE_USER)
        self.account_limits(**limits)

    def account_limits(self, **limits: int) -> None:
        """Makes a new configuration with these limits of the account."""
        name = public(self.account)
        account_jwt = token(self.operator, name, "account", {"limits": {**ACCOUNT_LIMITS, **limits}})
        self.config = (
            f"operator: {token(self.operator, public(self.operator), 'operator', {})}\n"
            f"resolver: MEMORY\nresolver_preload {{ {name}: {account_jwt} }}\n"
        )

    def creds(self, file: Path, life: float = 0, **limits: int) -> Path:
        """Credentials of a user of the account, into the file; `life`: seconds until they expire, 0: never."""
        more: dict[str, Any] = {**LIMITS, **limits}
        expires = {"exp": int(time.time() + life)} if life else {}
        fresh = file.with_suffix(".fresh")
        fresh.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token(self.account, public(self.user), 'user', more, **expires)}\n"
            "------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.seed}\n------END USER NKEY SEED------\n"
        )
        fresh.replace(file)
        return file


def make_operator(folder: Path) -> tuple[str, Path]:
    """(configuration of a server that trusts an operator with one account, credentials of a user of it)."""
    operator = Operator()
    return operator.config, operator.creds(folder / "user.creds")
