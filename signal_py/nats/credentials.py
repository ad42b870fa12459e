"""Builds CONNECT: the node's name, its options, and its credentials."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import nkeys

from signal_py.base.errors import ConfigError
from signal_py.base.files import read_text
from signal_py.config.nats_url import Server
from signal_py.config.settings import Config

BLOCK = r"-----BEGIN {0}-----\s*(\S+)\s*-+END {0}-+"


@dataclass(frozen=True)
class Credentials:
    """The credentials for NATS. Files are opened for each connection, so that they may be replaced."""

    token: str = ""
    user: str = ""
    password: str = ""
    seed_file: str = ""
    creds_file: str = ""

    @classmethod
    def of(cls, config: Config) -> Credentials:
        """Returns the credentials of the settings. Loads a file once to find errors. Raises ConfigError."""
        found = cls(config.nats_token, config.nats_user, config.nats_password, config.nats_nkey, config.nats_creds)
        for name, path in (("nats-nkey", found.seed_file), ("nats-creds", found.creds_file)):
            if path:
                _try_file(found, f"{config.named(name)} {path}", "seed" if name == "nats-nkey" else "credentials")
        return found

    def proof(self, nonce: str, server: Server) -> dict[str, str]:
        """Returns the fields of CONNECT that sign INFO's nonce, or name a user or token.

        Raises OSError or ValueError for a file that can't be used any more.
        """
        if self.creds_file:
            text = read_text(self.creds_file)
            return {"jwt": _block(text, "NATS USER JWT"), **_sign(_block(text, "USER NKEY SEED"), nonce)}
        if self.seed_file:
            return _sign(read_text(self.seed_file).strip(), nonce, with_key=True)
        if self.user or self.token:
            fields = {"user": self.user, "pass": self.password, "auth_token": self.token}
        else:
            fields = {"user": server.user, "pass": server.password, "auth_token": server.token}
        return {name: value for name, value in fields.items() if value}

    def are_those(self, fingerprint: str, server: Server | None) -> bool:
        """Returns whether they still have this fingerprint for a server. True if none were sent yet, or if a file can't
        be read now: the next connection reads it."""
        try:
            return not fingerprint or server is None or fingerprint_of(self.proof("", server)) == fingerprint
        except (OSError, ValueError):
            return True


def _try_file(credentials: Credentials, named: str, what: str) -> None:
    try:
        credentials.proof("", Server("", 0))
    except OSError as error:
        raise ConfigError(f"{named} can't be read: {error.strerror}. Name a readable file.") from None
    except ValueError:
        raise ConfigError(f"{named} holds no {what} for NATS: name the file that nsc or nk wrote.") from None


def _block(text: str, name: str) -> str:
    """Returns what is between the BEGIN and END lines of a name. Raises ValueError if there are none."""
    found = re.search(BLOCK.format(name), text)
    if found is None:
        raise ValueError(f"no {name}")
    return found[1]


def _sign(seed: str, nonce: str, with_key: bool = False) -> dict[str, str]:
    """Signs the nonce of INFO with the seed of an nkey. Returns no signature if the nonce is ""."""
    try:
        pair = nkeys.from_seed(bytearray(seed.encode("ascii")))
        signature = base64.b64encode(pair.sign(nonce.encode())).decode()
        key = pair.public_key.decode() if with_key else ""
        pair.wipe()
    except (nkeys.NkeysError, ValueError) as error:
        raise ValueError("not a seed") from error
    fields = {"nkey": key} if with_key else {}
    return {**fields, "sig": signature} if nonce else fields


def fingerprint_of(proof: Mapping[str, str]) -> str:
    """Returns a hash that identifies credentials, without the signature, which differs each time."""
    fields = json.dumps({name: value for name, value in proof.items() if name != "sig"}, sort_keys=True)
    return hashlib.sha256(fields.encode()).hexdigest()


def connect_line(proof: Mapping[str, str], node: str, version: str, tls: bool) -> bytes:
    """Returns the line CONNECT, with the fields of `Credentials.proof`."""
    options = {
        "echo": False,
        "headers": True,
        "lang": "python",
        "name": f"signal-engine {node}",
        "no_responders": True,
        "pedantic": False,
        "protocol": 1,
        "tls_required": tls,
        "verbose": False,
        "version": version,
        **proof,
    }
    return b"CONNECT " + json.dumps(options, sort_keys=True).encode() + b"\r\n"
