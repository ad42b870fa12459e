"""Tokens for tests, and a client with a token."""

import base64
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from peers import SUBPROTOCOL, BarePeer
from wire import Answer, Wire, request

SECRET = "a secret of at least thirty-two bytes"
HOUR = 3600.0
KEYS = {
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def token(
    sub: str | None = None, ttl: float | None = HOUR, key: Any = SECRET, algorithm: str = "HS256", **claims: Any
) -> str:
    """A signed token; the claim `kid` goes into its header."""
    headers = {"kid": claims.pop("kid")} if "kid" in claims else None
    if sub is not None:
        claims["sub"] = sub
    if ttl is not None:
        claims["exp"] = time.time() + ttl
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def protocol_of(text: str) -> str:
    """The subprotocol that carries a token."""
    return "token." + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def write_pem(key: Any, path: Path, private: bool = False) -> Path:
    """Writes a key as a PEM file."""
    if private:
        data = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    else:
        data = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    path.write_bytes(data)
    return path


class Guest(BarePeer):
    """A client with a token in the header Authorization, past HELLO."""

    def __init__(
        self, port: int, *rooms: str, token: str = "", extra: tuple[str, ...] = (), receive_buffer: int = 0
    ) -> None:
        self.extra = [f"Authorization: Bearer {token}", *extra] if token else list(extra)
        super().__init__(port, *rooms, receive_buffer=receive_buffer)

    def connect(self, port: int, rooms: tuple[str, ...], protocols: tuple[str, ...]) -> None:
        self.wire = Wire(port, self.receive_buffer)
        query = "&".join(f"room={room}" for room in rooms)
        answer = self.wire.upgrade(
            f"/?{query}" if query else "/", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}", *self.extra
        )
        self.protocol = answer.headers.get("sec-websocket-protocol")


def knock(port: int, path: str = "/", *extra: str) -> Answer:
    """The answer to a handshake with these header lines."""
    with Wire(port) as wire:
        wire.send(request(path, *extra))
        answer = wire.read_answer()
        if answer.status != 101:
            assert wire.read_end() == b"", "something follows the refusal"
        return answer


def bearer(text: str) -> str:
    """The header line that carries a token."""
    return f"Authorization: Bearer {text}"
