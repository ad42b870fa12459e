"""The command `token`: makes tokens for trials, and shows the contents of one."""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

from signal_py.auth.grants import GrantError, grant_of, verdict_of
from signal_py.auth.jwt import hush_pyjwt, inspect, mint
from signal_py.auth.keys import require_jwt
from signal_py.auth.pem import algorithm_of, check_secret, load_pem, pem_of, read_key
from signal_py.base.errors import ConfigError
from signal_py.config.settings import SETTINGS

DEFAULT_TTL = 3600.0  # seconds
LONGEST_TTL = 1e10  # three centuries

DESCRIPTION = """\
Prints a token for trials, signed with the secret of an engine or with the private key that belongs to its public key.
Claims without a flag are left out: a token without --sub has no user, one without --rooms may use any room. "inspect"
shows the contents of a token instead."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.description = DESCRIPTION
    command.add_argument(
        "arguments", metavar="inspect TOKEN", nargs="*", help="show the contents of a token without verifying it"
    )
    command.add_argument("--sub", metavar="USER", help="user of the token")
    command.add_argument(
        "--rooms", metavar="PATTERN", action="append", help="rooms that it may join and publish to; may be repeated"
    )
    command.add_argument(
        "--rooms-sub", metavar="PATTERN", action="append", help="rooms that it may join; may be repeated"
    )
    command.add_argument(
        "--rooms-pub", metavar="PATTERN", action="append", help="rooms that it may publish to; may be repeated"
    )
    command.add_argument("--no-to", action="store_true", help="forbid sending to peers and users")
    command.add_argument("--max-rooms", metavar="N", type=int, help="number of rooms that it may be in")
    text = f"time until it expires; 0: never (default {DEFAULT_TTL:g})"
    command.add_argument("--ttl", metavar="SECONDS", type=float, default=DEFAULT_TTL, help=text)
    command.add_argument("--audience", metavar="NAME", help="audience ('aud')")
    command.add_argument("--issuer", metavar="NAME", help="issuer ('iss')")
    command.add_argument("--kid", metavar="NAME", help="name of the key in a JWKS")
    command.add_argument(
        "--key", metavar="SECRET", help=f"shared secret (HS256); default: the variable {SETTINGS['auth-key'].variable}"
    )
    command.add_argument("--key-file", metavar="FILE", help="file with a private key (PEM) or a shared secret")


def run(options: argparse.Namespace, environ: dict[str, str]) -> int:
    """Prints a token, or the contents of one. Returns the exit status. Raises ConfigError."""
    require_jwt("token")
    hush_pyjwt()
    if options.arguments:
        if options.arguments[0] != "inspect" or len(options.arguments) != 2:
            raise ConfigError("token takes flags, or 'inspect' and one token: see 'signal-engine token --help'.")
        print(json.dumps(inspect(options.arguments[1]), indent=2))
        return 0
    key, algorithm = _key(options, environ)
    print(mint(_claims(options), key, algorithm, options.kid))
    return 0


def _key(options: argparse.Namespace, environ: dict[str, str]) -> tuple[Any, str]:
    """Returns the key to sign with, and its algorithm. Raises ConfigError."""
    variable = SETTINGS["auth-key"].variable
    if options.key_file:
        data = read_key(options.key_file, "--key-file")
        label, pem = pem_of(data)
        if not label:
            check_secret(data, "--key-file")
            return data, "HS256"
        if "PRIVATE" not in label:
            raise ConfigError(f"--key-file {options.key_file} is a {label.lower()}: name the private key.")
        key = load_pem(label, pem, "--key-file", options.key_file)
        return key, algorithm_of(key, f"--key-file {options.key_file}")
    secret = options.key or environ.get(variable)
    if not secret:
        raise ConfigError(f"there is no key to sign the token with: give --key, {variable} or --key-file.")
    check_secret(secret, "--key" if options.key else variable)
    return secret, "HS256"


def _claims(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the claims of the flags. Raises ConfigError, also for claims that the engine would refuse."""
    if not 0 <= options.ttl <= LONGEST_TTL:
        raise ConfigError(f"--ttl is {options.ttl:g}: use 0 to {LONGEST_TTL:g} seconds.")
    now = int(time.time())
    claims: dict[str, Any] = {"iat": now}
    given = {"sub": options.sub, "aud": options.audience, "iss": options.issuer, "max_rooms": options.max_rooms}
    claims |= {name: value for name, value in given.items() if value is not None}
    if options.rooms_sub is not None or options.rooms_pub is not None:
        if options.rooms is not None:
            raise ConfigError("--rooms is given together with --rooms-sub or --rooms-pub: give one or the other.")
        claims["rooms"] = {"sub": options.rooms_sub or [], "pub": options.rooms_pub or []}
    elif options.rooms is not None:
        claims["rooms"] = options.rooms
    if options.no_to:
        claims["to"] = False
    if options.ttl:
        claims["exp"] = now + math.ceil(options.ttl)
    try:
        verdict_of(0, grant_of(claims), now)
    except GrantError as wrong:
        raise ConfigError(f"the engine would refuse this token ({wrong}): change the flags.") from None
    return claims
